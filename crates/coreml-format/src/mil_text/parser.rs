//! Parser: tokens to a [`Program`] of functions, operations, arguments and blocks.

use indexmap::IndexMap;

use super::lexer::{Bad, Lexer, Token};
use super::{MAX_DEPTH, TextError};
use crate::program::{
    Argument, Binding, Block, Function, NamedType, Operation, Opset, Program, TensorData, Value, ValueData,
};

/// Parses a program.
///
/// # Errors
/// [`TextError`] with the line and column of the first syntax error.
pub fn parse(text: &str) -> Result<Program, TextError> {
    let mut parser = Parser::new(text)?;
    let program = parser.program()?;
    match parser.peek().clone() {
        Token::End => Ok(program),
        other => Err(parser.error("the end of the text", other)),
    }
}

/// A parser with one token of look-ahead.
pub(super) struct Parser<'t> {
    text: &'t str,
    lexer: Lexer<'t>,
    token: Token<'t>,
    /// Start offsets of the current and the previous token.
    at: usize,
    before: usize,
    depth: usize,
    /// Remaining elements that may be created by splats, so that a small text cannot expand without bound.
    pub(super) splats: usize,
}

type Result<T, E = TextError> = std::result::Result<T, E>;

impl<'t> Parser<'t> {
    pub(super) fn new(text: &'t str) -> Result<Self> {
        let splats = (1 << 20) + 8 * text.len();
        let mut parser = Self { text, lexer: Lexer::new(text), token: Token::End, at: 0, before: 0, depth: 0, splats };
        parser.advance()?;
        Ok(parser)
    }

    /// An error at an offset.
    pub(super) fn error_at(&self, at: usize, expected: impl Into<String>, found: impl std::fmt::Display) -> TextError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.bytes().filter(|&b| b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        TextError { line, column, expected: expected.into(), found: found.to_string() }
    }

    /// An error at the current token.
    pub(super) fn error(&self, expected: impl Into<String>, found: impl std::fmt::Display) -> TextError {
        self.error_at(self.at, expected, found)
    }

    /// An error at the previous token.
    pub(super) fn error_before(&self, expected: impl Into<String>, found: impl std::fmt::Display) -> TextError {
        self.error_at(self.before, expected, found)
    }

    /// Start offset of the current token.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The current token.
    pub(super) fn peek(&self) -> &Token<'t> {
        &self.token
    }

    /// Consumes the current token.
    pub(super) fn advance(&mut self) -> Result<Token<'t>> {
        let (at, next) = self.lexer.next().map_err(|Bad { at, expected, found }| self.error_at(at, expected, found))?;
        self.before = std::mem::replace(&mut self.at, at);
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// Peeks at the token after the current one.
    fn second(&self) -> Token<'t> {
        self.lexer.clone().next().map_or(Token::End, |(_, t)| t)
    }

    /// Consumes a punctuation mark if it is next.
    pub(super) fn take(&mut self, mark: char) -> Result<bool> {
        let there = self.token == Token::Punct(mark);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    pub(super) fn expect(&mut self, mark: char) -> Result<()> {
        if self.take(mark)? { Ok(()) } else { Err(self.error(format!("`{mark}`"), &self.token)) }
    }

    pub(super) fn ident(&mut self, what: &str) -> Result<&'t str> {
        match self.token {
            Token::Ident(name) => {
                self.advance()?;
                Ok(name)
            }
            _ => Err(self.error(what, &self.token)),
        }
    }

    fn keyword(&mut self, word: &str) -> Result<()> {
        if self.token != Token::Ident(word) {
            return Err(self.error(format!("`{word}`"), &self.token));
        }
        self.advance().map(drop)
    }

    /// Name of a value: an identifier, or a quoted string.
    fn name(&mut self) -> Result<String> {
        match self.token.clone() {
            Token::Ident(name) => {
                self.advance()?;
                Ok(name.to_owned())
            }
            Token::Text(name) => {
                self.advance()?;
                Ok(name.into_owned())
            }
            other => Err(self.error("the name of a value", other)),
        }
    }

    /// Comma-separated elements (a trailing comma is allowed) up to a closing mark, which is not consumed.
    pub(super) fn separated<T>(
        &mut self,
        close: char,
        mut element: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        while self.token != Token::Punct(close) {
            all.push(element(self)?);
            if !self.take(',')? && self.token != Token::Punct(close) {
                return Err(self.error(format!("`,` or `{close}`"), &self.token));
            }
        }
        Ok(all)
    }

    /// Parses one nesting level deeper.
    pub(super) fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == MAX_DEPTH {
            return Err(self.error(format!("at most {MAX_DEPTH} levels"), "another level"));
        }
        self.depth += 1;
        let value = inner(self);
        self.depth -= 1;
        value
    }

    fn program(&mut self) -> Result<Program> {
        self.keyword("program")?;
        self.expect('(')?;
        match self.advance()? {
            Token::Number(version) if version.split('.').next() == Some("1") => {}
            other => return Err(self.error_before("a program of version 1", other)),
        }
        self.expect(')')?;
        let attributes = self.attributes()?;
        self.expect('{')?;
        let mut functions = IndexMap::new();
        while self.token == Token::Ident("func") {
            self.advance()?;
            let at = self.at;
            let name = self.name()?;
            let function = self.function()?;
            if functions.insert(name.clone(), function).is_some() {
                return Err(self.error_at(at, "a function with a new name", format!("`{name}` again")));
            }
        }
        if functions.is_empty() {
            return Err(self.error("`func`", &self.token));
        }
        self.expect('}')?;
        self.take(';')?;
        Ok(Program { functions, attributes })
    }

    fn function(&mut self) -> Result<Function> {
        self.expect('<')?;
        let opset = self.ident("an opset")?;
        let opset = Opset::from_name(opset)
            .ok_or_else(|| self.error_before("an opset ios15, ios16, ios17, ios18 or ios26", format!("`{opset}`")))?;
        self.expect('>')?;
        let inputs = self.parameters()?;
        let attributes = self.attributes()?;
        let mut block = self.body()?;
        self.take(';')?;
        block.inputs = Vec::new();
        Ok(Function { opset, inputs, block, attributes })
    }

    /// `(type name, …)`
    fn parameters(&mut self) -> Result<Vec<NamedType>> {
        self.expect('(')?;
        let all = self.separated(')', Self::named_type)?;
        self.expect(')')?;
        Ok(all)
    }

    fn named_type(&mut self) -> Result<NamedType> {
        let ty = self.value_type()?;
        Ok(NamedType { ty, name: self.name()? })
    }

    /// `{ operations } -> (names)`
    fn body(&mut self) -> Result<Block> {
        self.expect('{')?;
        let mut operations = Vec::new();
        while !self.take('}')? {
            operations.push(self.operation()?);
        }
        let mut outputs = Vec::new();
        if self.token == Token::Arrow {
            self.advance()?;
            self.expect('(')?;
            outputs = self.separated(')', Self::name)?;
            self.expect(')')?;
        }
        Ok(Block { inputs: Vec::new(), operations, outputs })
    }

    fn operation(&mut self) -> Result<Operation> {
        let mut outputs = Vec::new();
        // An operation without results starts with its kind, which is a name too.
        if self.second() != Token::Punct('(') {
            loop {
                outputs.push(self.named_type()?);
                if !self.take(',')? {
                    break;
                }
            }
            self.expect('=')?;
        }
        let kind = self.name()?;
        self.expect('(')?;
        let mut inputs = IndexMap::new();
        for (name, argument) in self.separated(')', Self::argument)? {
            if inputs.insert(name.clone(), argument).is_some() {
                return Err(self.error_before(format!("each parameter of `{kind}` once"), format!("`{name}` again")));
            }
        }
        self.expect(')')?;
        let (mut blocks, mut attributes) = (Vec::new(), IndexMap::new());
        loop {
            match self.token {
                Token::Punct('[') => attributes.extend(self.attributes()?),
                Token::Punct('(' | '{') => blocks.push(self.nested(Self::block)?),
                Token::Ident(_) if matches!(self.second(), Token::Punct('(' | '{')) => {
                    blocks.push(self.nested(Self::block)?);
                }
                Token::Punct(',') if !blocks.is_empty() => drop(self.advance()?),
                _ => break,
            }
        }
        self.expect(';')?;
        let label = match attributes.shift_remove("name").map(|v: Value| v.data) {
            Some(ValueData::Tensor(TensorData::Strings(s))) => s.into_iter().next(),
            _ => None,
        };
        let name = label.or_else(|| outputs.first().map(|o| o.name.clone())).unwrap_or_default();
        Ok(Operation { kind, name, inputs, outputs, blocks, attributes })
    }

    /// `[label] [(parameters)] { … } [-> (…)]`, nested in control flow.
    fn block(&mut self) -> Result<Block> {
        if matches!(self.token, Token::Ident(_)) {
            self.advance()?;
        }
        let inputs = if self.token == Token::Punct('(') { self.parameters()? } else { Vec::new() };
        Ok(Block { inputs, ..self.body()? })
    }

    fn argument(&mut self) -> Result<(String, Argument)> {
        let name = self.name()?;
        self.expect('=')?;
        if self.token != Token::Punct('(') {
            return Ok((name, Argument::One(self.binding()?)));
        }
        self.advance()?;
        let mut bindings = self.separated(')', Self::binding)?;
        self.expect(')')?;
        let one = if bindings.len() == 1 { bindings.pop() } else { None };
        Ok((name, one.map_or(Argument::Many(bindings), Argument::One)))
    }

    /// A name or a value: only values continue with `<` or `(`.
    fn binding(&mut self) -> Result<Binding> {
        let value = matches!(self.token, Token::Ident(_)) && matches!(self.second(), Token::Punct('<' | '('));
        if value { self.value().map(Binding::Value) } else { self.name().map(Binding::Name) }
    }

    /// `[name = value, …]`, or nothing.
    fn attributes(&mut self) -> Result<IndexMap<String, Value>> {
        let mut all = IndexMap::new();
        if !self.take('[')? {
            return Ok(all);
        }
        for (name, value) in self.separated(']', |p| {
            let name = p.name()?;
            p.expect('=')?;
            Ok((name, p.value()?))
        })? {
            all.insert(name, value);
        }
        self.expect(']')?;
        Ok(all)
    }
}

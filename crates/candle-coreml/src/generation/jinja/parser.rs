//! Parses tokens into statements. Recursion depth is at most [`NESTING`] and expression height at most [`HEIGHT`], so
//! traversals of the result are bounded too.

use std::sync::Arc;

use super::ast::{Expr, Filter, For, Macro, Node, Statement, Target};
use super::budget::{HEIGHT, NESTING, limit};
use super::lexer::{Kind, Token};
use super::{Result, TemplateError, TemplateErrorKind, quoted};

mod expressions;

/// An expression and its height.
type Tall<T = Expr> = (T, u16);

pub(super) struct Parser<'s> {
    tokens: Vec<Token<'s>>,
    at: usize,
    nesting: usize,
    /// Number of enclosing loops, for `break`.
    loops: usize,
    /// Number of uses of `varargs` and `kwargs`.
    varargs: usize,
    kwargs: usize,
}

pub(super) fn parse(tokens: Vec<Token<'_>>) -> Result<Vec<Node>> {
    let mut parser = Parser { tokens, at: 0, nesting: 0, loops: 0, varargs: 0, kwargs: 0 };
    let line = |parser: &Parser<'_>, mut e: TemplateError| {
        e.line = parser.tokens.get(parser.at).or(parser.tokens.last()).map_or(1, |t| t.line);
        e
    };
    let body = parser.body(&[]).map_err(|e| line(&parser, e))?;
    Ok(body.0)
}

fn one_higher(height: u16) -> Result<u16> {
    if height >= HEIGHT { limit("levels of an expression", HEIGHT.into()) } else { Ok(height + 1) }
}

impl<'s> Parser<'s> {
    fn peek(&self) -> &Kind<'s> {
        self.tokens.get(self.at).map_or(&Kind::End, |t| &t.kind)
    }

    fn next(&mut self) -> Kind<'s> {
        let kind = self.tokens.get_mut(self.at).map_or(Kind::End, |t| std::mem::replace(&mut t.kind, Kind::End));
        self.at += 1;
        kind
    }

    fn line(&self) -> usize {
        self.tokens.get(self.at).map_or(0, |t| t.line)
    }

    fn fail<T>(&self, expected: &str) -> Result<T> {
        let found = match self.peek() {
            Kind::Text(_) => "text".to_owned(),
            Kind::EmitBegin => "`{{`".to_owned(),
            Kind::EmitEnd => "`}}`".to_owned(),
            Kind::TagBegin => "`{%`".to_owned(),
            Kind::TagEnd => "`%}`".to_owned(),
            Kind::Name(name) => format!("`{}`", quoted(name)),
            Kind::Str(_) => "a string".to_owned(),
            Kind::Int(_) | Kind::Float(_) => "a number".to_owned(),
            Kind::Sign(sign) => format!("`{sign}`"),
            Kind::End => "the end".to_owned(),
        };
        Err(TemplateErrorKind::Syntax(format!("expected {expected}, found {found}")).into())
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Kind::Sign(s) if *s == sign)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Kind::Name(n) if *n == name)
    }

    /// Consumes an operator or keyword, if it is next.
    fn takes(&mut self, what: &str) -> bool {
        let found = self.is_sign(what) || self.is_name(what);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, what: &str) -> Result<()> {
        if self.takes(what) { Ok(()) } else { self.fail(&format!("`{what}`")) }
    }

    fn name(&mut self) -> Result<Arc<str>> {
        let Kind::Name(name) = self.peek() else { return self.fail("a name") };
        let name = Arc::from(*name);
        self.at += 1;
        Ok(name)
    }

    fn end_tag(&mut self) -> Result<()> {
        if self.peek() != &Kind::TagEnd {
            return self.fail("`%}`");
        }
        self.at += 1;
        Ok(())
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.nesting >= NESTING {
            return limit("levels of nesting", NESTING as u64);
        }
        self.nesting += 1;
        let result = inner(self);
        self.nesting -= 1;
        result
    }

    /// Statements up to and including a tag with one of these names; without names, up to the end.
    fn body(&mut self, ends: &[&'static str]) -> Result<(Vec<Node>, &'static str)> {
        let mut nodes = Vec::new();
        loop {
            let line = self.line();
            match self.next() {
                Kind::Text(text) => nodes.push(Node { line, kind: Statement::Text(text.into()) }),
                Kind::EmitBegin => {
                    let (expr, _) = self.tuple(true, false)?;
                    if self.peek() != &Kind::EmitEnd {
                        return self.fail("`}}`");
                    }
                    self.at += 1;
                    nodes.push(Node { line, kind: Statement::Emit(expr) });
                }
                Kind::TagBegin => {
                    if let Some(end) = ends.iter().find(|e| self.is_name(e)) {
                        self.at += 1;
                        return Ok((nodes, end));
                    }
                    let name = self.name()?;
                    self.deeper(|p| p.statement(&name, line, &mut nodes))?;
                }
                Kind::End if ends.is_empty() => return Ok((nodes, "")),
                _ => {
                    self.at -= 1;
                    return self.fail(&ends.iter().map(|e| format!("`{e}`")).collect::<Vec<_>>().join(" or "));
                }
            }
        }
    }

    /// The body of a tag, up to and including its end tag.
    fn inside(&mut self, end: &'static str) -> Result<Vec<Node>> {
        self.end_tag()?;
        let (body, _) = self.body(&[end])?;
        self.end_tag()?;
        Ok(body)
    }

    fn statement(&mut self, name: &str, line: usize, nodes: &mut Vec<Node>) -> Result<()> {
        let kind = match name {
            "if" => self.branches()?,
            "for" => self.repetition()?,
            "set" => self.set()?,
            "macro" => {
                let name = self.name()?;
                Statement::Macro(Arc::new(self.definition(name, true, "endmacro")?))
            }
            "call" => {
                let parameters = self.is_sign("(");
                // Parameters precede the call, the body follows it.
                let head = if parameters { self.parameters()? } else { Vec::new() };
                let call = self.expression()?;
                if !matches!(call, Expr::Call(..)) {
                    return self.fail("a call");
                }
                let mut body = self.definition("caller".into(), false, "endcall")?;
                body.parameters = head;
                Statement::Call(call, Arc::new(body))
            }
            "filter" => {
                let first = self.filter()?.0;
                let filters = self.more_filters(vec![first])?;
                Statement::Filtered(filters, self.inside("endfilter")?)
            }
            "with" => {
                let mut values = Vec::new();
                while self.peek() != &Kind::TagEnd {
                    if !values.is_empty() {
                        self.expect(",")?;
                    }
                    let target = self.target()?;
                    self.expect("=")?;
                    values.push((target, self.expression()?));
                }
                Statement::With(values, self.inside("endwith")?)
            }
            // Marks the assistant's output, for training.
            "generation" => {
                nodes.extend(self.inside("endgeneration")?);
                return Ok(());
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(TemplateErrorKind::Syntax(format!("`{name}` outside of a loop")).into());
                }
                self.end_tag()?;
                if name == "break" { Statement::Break } else { Statement::Continue }
            }
            other => return super::unsupported("tag", other),
        };
        nodes.push(Node { line, kind });
        Ok(())
    }

    fn branches(&mut self) -> Result<Statement> {
        let mut branches = Vec::new();
        loop {
            let condition = self.expression()?;
            self.end_tag()?;
            let (body, end) = self.body(&["elif", "else", "endif"])?;
            branches.push((condition, body));
            let otherwise = match end {
                "elif" => continue,
                "else" => self.inside("endif")?,
                _ => {
                    self.end_tag()?;
                    Vec::new()
                }
            };
            return Ok(Statement::If(branches, otherwise));
        }
    }

    fn repetition(&mut self) -> Result<Statement> {
        let target = self.target()?;
        self.expect("in")?;
        let (over, _) = self.tuple(false, false)?;
        let condition = if self.takes("if") { Some(self.expression()?) } else { None };
        if self.is_name("recursive") {
            return super::unsupported("loop modifier", "recursive");
        }
        self.end_tag()?;
        self.loops += 1;
        let body = self.body(&["else", "endfor"]);
        self.loops -= 1;
        let (body, end) = body?;
        let otherwise = if end == "else" {
            self.inside("endfor")?
        } else {
            self.end_tag()?;
            Vec::new()
        };
        Ok(Statement::For(Box::new(For { target, over, condition, body, otherwise })))
    }

    fn set(&mut self) -> Result<Statement> {
        let target = self.target()?;
        if self.takes("=") {
            let (value, _) = self.tuple(true, false)?;
            self.end_tag()?;
            return Ok(Statement::Set(target, value));
        }
        let filters = self.more_filters(Vec::new())?;
        Ok(Statement::SetBlock(target, filters, self.inside("endset")?))
    }

    fn target(&mut self) -> Result<Target> {
        let first = self.single_target()?;
        if !self.is_sign(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.takes(",") {
            if self.is_name("in") || self.is_sign("=") {
                break;
            }
            all.push(self.single_target()?);
        }
        Ok(Target::Several(all))
    }

    fn single_target(&mut self) -> Result<Target> {
        if self.takes("(") {
            let inner = self.deeper(Self::target)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let name = self.name()?;
        if ["true", "false", "none", "True", "False", "None"].contains(&&*name) {
            return Err(TemplateErrorKind::Syntax(format!("`{name}` can't be set")).into());
        }
        if self.takes(".") { Ok(Target::Attribute(name, self.name()?)) } else { Ok(Target::Name(name)) }
    }

    fn parameters(&mut self) -> Result<Vec<(Arc<str>, Option<Expr>)>> {
        self.expect("(")?;
        let mut all: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        while !self.takes(")") {
            if !all.is_empty() {
                self.expect(",")?;
                if self.takes(")") {
                    break;
                }
            }
            let name = self.name()?;
            let default = if self.takes("=") { Some(self.expression()?) } else { None };
            if default.is_none() && all.last().is_some_and(|p| p.1.is_some()) {
                return self.fail("a default");
            }
            all.push((name, default));
        }
        Ok(all)
    }

    fn definition(&mut self, name: Arc<str>, parameters: bool, end: &'static str) -> Result<Macro> {
        let parameters = if parameters { self.parameters()? } else { Vec::new() };
        let before = (self.varargs, self.kwargs);
        // A macro body is outside the loop around the macro.
        let loops = std::mem::take(&mut self.loops);
        let body = self.inside(end)?;
        self.loops = loops;
        Ok(Macro { name, parameters, body, varargs: self.varargs > before.0, kwargs: self.kwargs > before.1 })
    }

    fn more_filters(&mut self, mut filters: Vec<Filter>) -> Result<Vec<Filter>> {
        while self.takes("|") {
            filters.push(self.filter()?.0);
        }
        Ok(filters)
    }
}

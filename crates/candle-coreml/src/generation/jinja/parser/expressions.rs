//! Expression parsing: operators by precedence, then postfixes.

use super::super::ast::{Argument, ArgumentKind, Binary, Comparison, Expr, Filter};
use super::super::lexer::Kind;
use super::super::value::Value;
use super::super::{Result, TemplateErrorKind};
use super::{Parser, Tall, one_higher};

impl Parser<'_> {
    pub(super) fn expression(&mut self) -> Result<Expr> {
        Ok(self.conditional()?.0)
    }

    /// Comma-separated values: a tuple, or a single value without commas.
    pub(super) fn tuple(&mut self, with_if: bool, parentheses: bool) -> Result<Tall> {
        let (mut items, mut height, mut commas) = (Vec::new(), 0, false);
        loop {
            let ends = matches!(self.peek(), Kind::TagEnd | Kind::EmitEnd) || self.is_sign(")");
            if ends && (commas || parentheses) {
                break;
            }
            let (item, tall) = if with_if { self.conditional()? } else { self.binary(0)? };
            items.push(item);
            height = tall.max(height);
            if !self.takes(",") {
                break;
            }
            commas = true;
        }
        match items.len() {
            1 if !commas => items.pop().map_or_else(|| self.fail("a value"), |item| Ok((item, height))),
            _ => Ok((Expr::Tuple(items), one_higher(height)?)),
        }
    }

    fn conditional(&mut self) -> Result<Tall> {
        self.deeper(|p| {
            let (mut value, mut height) = p.binary(0)?;
            while p.takes("if") {
                let (condition, tall) = p.binary(0)?;
                height = height.max(tall);
                let otherwise = if p.takes("else") {
                    let (otherwise, tall) = p.conditional()?;
                    height = height.max(tall);
                    Some(otherwise)
                } else {
                    None
                };
                height = one_higher(height)?;
                value = Expr::If(Box::new((condition, value, otherwise)));
            }
            Ok((value, height))
        })
    }

    /// The next comparison operator, and its number of tokens.
    fn comparison(&self) -> Option<(Comparison, usize)> {
        let found = match self.peek() {
            Kind::Sign("==") => Comparison::Equal,
            Kind::Sign("!=") => Comparison::NotEqual,
            Kind::Sign("<") => Comparison::Less,
            Kind::Sign("<=") => Comparison::LessEqual,
            Kind::Sign(">") => Comparison::Greater,
            Kind::Sign(">=") => Comparison::GreaterEqual,
            Kind::Name("in") => Comparison::In,
            Kind::Name("not") if matches!(self.tokens.get(self.at + 1)?.kind, Kind::Name("in")) => {
                return Some((Comparison::NotIn, 2));
            }
            _ => return None,
        };
        Some((found, 1))
    }

    /// Operators of precedence `least` or higher: 0 `or`, 1 `and`, 2 `not`, 3 comparisons, 4 `+ -`, 5 `~`, 6 `* / //
    /// %`, 7 `**`.
    fn binary(&mut self, least: u8) -> Result<Tall> {
        let (mut left, mut height) = if least <= 2 && self.takes("not") {
            let (inner, height) = self.deeper(|p| p.binary(2))?;
            (Expr::Not(Box::new(inner)), one_higher(height)?)
        } else {
            self.unary(true)?
        };
        loop {
            if least <= 3 && self.comparison().is_some() {
                let mut rest = Vec::new();
                while let Some((comparison, tokens)) = self.comparison() {
                    self.at += tokens;
                    let (right, tall) = self.binary(4)?;
                    height = height.max(tall);
                    rest.push((comparison, right));
                }
                (left, height) = (Expr::Compare(Box::new(left), rest), one_higher(height)?);
                continue;
            }
            if least <= 5 && self.is_sign("~") {
                let mut all = vec![left];
                while self.takes("~") {
                    let (next, tall) = self.binary(6)?;
                    height = height.max(tall);
                    all.push(next);
                }
                (left, height) = (Expr::Concat(all), one_higher(height)?);
                continue;
            }
            let (level, operator) = match self.peek() {
                Kind::Name("or") => (0, None),
                Kind::Name("and") => (1, None),
                Kind::Sign("+") => (4, Some(Binary::Add)),
                Kind::Sign("-") => (4, Some(Binary::Sub)),
                Kind::Sign("*") => (6, Some(Binary::Mul)),
                Kind::Sign("/") => (6, Some(Binary::Div)),
                Kind::Sign("//") => (6, Some(Binary::FloorDiv)),
                Kind::Sign("%") => (6, Some(Binary::Rem)),
                Kind::Sign("**") => (7, Some(Binary::Pow)),
                _ => return Ok((left, height)),
            };
            if level < least {
                return Ok((left, height));
            }
            self.at += 1;
            let (right, tall) = self.binary(level + 1)?;
            height = one_higher(height.max(tall))?;
            let both = Box::new((left, right));
            left = match operator {
                Some(operator) => Expr::Binary(operator, both),
                None if level == 0 => Expr::Or(both),
                None => Expr::And(both),
            };
        }
    }

    fn unary(&mut self, with_filters: bool) -> Result<Tall> {
        let tall = if self.takes("-") {
            let (inner, height) = self.deeper(|p| p.unary(false))?;
            (Expr::Negate(Box::new(inner)), one_higher(height)?)
        } else if self.takes("+") {
            let (inner, height) = self.deeper(|p| p.unary(false))?;
            (Expr::Plus(Box::new(inner)), one_higher(height)?)
        } else {
            self.primary()?
        };
        let tall = self.postfix(tall)?;
        if with_filters { self.filters_and_tests(tall) } else { Ok(tall) }
    }

    fn primary(&mut self) -> Result<Tall> {
        let constant = |value: Value| Ok((Expr::Constant(value), 1));
        match self.peek() {
            Kind::Name(name) => {
                let name = *name;
                match name {
                    "true" | "True" => {
                        self.at += 1;
                        constant(Value::Bool(true))
                    }
                    "false" | "False" => {
                        self.at += 1;
                        constant(Value::Bool(false))
                    }
                    "none" | "None" => {
                        self.at += 1;
                        constant(Value::None)
                    }
                    "and" | "or" | "not" | "in" | "is" | "if" | "else" | "elif" => self.fail("a value"),
                    _ => {
                        self.varargs += usize::from(name == "varargs");
                        self.kwargs += usize::from(name == "kwargs");
                        self.at += 1;
                        Ok((Expr::Name(name.into()), 1))
                    }
                }
            }
            Kind::Str(_) => {
                let mut text = String::new();
                while let Kind::Str(_) = self.peek() {
                    if let Kind::Str(part) = self.next() {
                        text.push_str(&part);
                    }
                }
                constant(text.as_str().into())
            }
            &Kind::Int(value) => {
                self.at += 1;
                constant(Value::Int(value))
            }
            &Kind::Float(value) => {
                self.at += 1;
                constant(Value::Float(value))
            }
            Kind::Sign("(") => {
                self.at += 1;
                let inner = self.deeper(|p| p.tuple(true, true))?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Sign("[") => {
                self.at += 1;
                self.deeper(|p| {
                    let (items, height) = p.separated("]", |p, _| p.conditional())?;
                    Ok((Expr::List(items), one_higher(height)?))
                })
            }
            Kind::Sign("{") => {
                self.at += 1;
                self.deeper(|p| {
                    let (entries, height) = p.separated("}", |p, _| {
                        let (key, tall) = p.conditional()?;
                        p.expect(":")?;
                        let (value, taller) = p.conditional()?;
                        Ok(((key, value), tall.max(taller)))
                    })?;
                    Ok((Expr::Map(entries), one_higher(height)?))
                })
            }
            _ => self.fail("a value"),
        }
    }

    fn postfix(&mut self, (mut value, mut height): Tall) -> Result<Tall> {
        loop {
            let tall = if self.takes(".") {
                if let &Kind::Int(index) = self.peek() {
                    self.at += 1;
                    value = Expr::Item(Box::new((value, Expr::Constant(Value::Int(index)))));
                } else {
                    value = Expr::Attribute(Box::new(value), self.name()?);
                }
                0
            } else if self.is_sign("[") {
                let (next, tall) = self.deeper(|p| p.subscript(value))?;
                value = next;
                tall
            } else if self.is_sign("(") {
                let (arguments, tall) = self.deeper(Self::arguments)?;
                value = Expr::Call(Box::new(value), arguments);
                tall
            } else {
                return Ok((value, height));
            };
            height = one_higher(height.max(tall))?;
        }
    }

    fn subscript(&mut self, value: Expr) -> Result<Tall> {
        self.expect("[")?;
        let (mut parts, mut height, mut colons) = ([None, None, None], 0, 0);
        loop {
            if self.takes("]") {
                break;
            }
            if self.is_sign(":") && colons < 2 {
                self.at += 1;
                colons += 1;
                continue;
            }
            if parts[colons].is_some() {
                return self.fail("`]`");
            }
            let (part, tall) = self.conditional()?;
            height = tall.max(height);
            parts[colons] = Some(Box::new(part));
        }
        match (colons, parts) {
            (0, [Some(index), ..]) => Ok((Expr::Item(Box::new((value, *index))), height)),
            (0, _) => Err(TemplateErrorKind::Syntax("expected an index, found `]`".to_owned()).into()),
            (_, parts) => Ok((Expr::Slice(Box::new(value), parts), height)),
        }
    }

    fn arguments(&mut self) -> Result<Tall<Vec<Argument>>> {
        self.expect("(")?;
        self.separated(")", |p, all: &[Argument]| {
            let named = matches!(p.peek(), Kind::Name(_))
                && matches!(p.tokens.get(p.at + 1).map(|t| &t.kind), Some(Kind::Sign("=")));
            let kind = if p.takes("**") {
                ArgumentKind::SpreadNamed
            } else if p.takes("*") {
                ArgumentKind::Spread
            } else if named {
                let name = p.name()?;
                p.at += 1;
                ArgumentKind::Named(name)
            } else {
                ArgumentKind::Positional
            };
            let has = |kind| all.iter().any(|a| a.kind == kind);
            let fits = match kind {
                ArgumentKind::Positional => all.iter().all(|a| a.kind == ArgumentKind::Positional),
                ArgumentKind::Spread => !has(ArgumentKind::Spread) && !has(ArgumentKind::SpreadNamed),
                ArgumentKind::Named(_) | ArgumentKind::SpreadNamed => !has(ArgumentKind::SpreadNamed),
            };
            if !fits {
                return p.fail("arguments by position before named ones");
            }
            let (value, tall) = p.conditional()?;
            Ok((Argument { kind, value }, tall))
        })
    }

    /// Comma-separated items up to `end`, optionally with a trailing comma. `item` gets the previous items.
    fn separated<T>(
        &mut self,
        end: &'static str,
        mut item: impl FnMut(&mut Self, &[T]) -> Result<Tall<T>>,
    ) -> Result<Tall<Vec<T>>> {
        let (mut all, mut height) = (Vec::new(), 0);
        while !self.takes(end) {
            if !all.is_empty() {
                self.expect(",")?;
                if self.takes(end) {
                    break;
                }
            }
            let (next, tall) = item(self, &all)?;
            height = height.max(tall);
            all.push(next);
        }
        Ok((all, height))
    }

    pub(super) fn filter(&mut self) -> Result<Tall<Filter>> {
        let name = self.name()?;
        let (arguments, height) = if self.is_sign("(") { self.deeper(Self::arguments)? } else { (Vec::new(), 0) };
        Ok((Filter { name, arguments }, height))
    }

    fn filters_and_tests(&mut self, (mut value, mut height): Tall) -> Result<Tall> {
        loop {
            let tall = if self.takes("|") {
                let (filter, tall) = self.filter()?;
                value = Expr::Filter(Box::new(value), filter);
                tall
            } else if self.takes("is") {
                let negated = self.takes("not");
                let (test, tall) = self.test()?;
                value = Expr::Test(Box::new(value), test, negated);
                tall
            } else if self.is_sign("(") {
                let (arguments, tall) = self.deeper(Self::arguments)?;
                value = Expr::Call(Box::new(value), arguments);
                tall
            } else {
                return Ok((value, height));
            };
            height = one_higher(height.max(tall))?;
        }
    }

    /// A test; a single argument needs no parentheses.
    fn test(&mut self) -> Result<Tall<Filter>> {
        let name = self.name()?;
        if self.is_sign("(") {
            let (arguments, height) = self.deeper(Self::arguments)?;
            return Ok((Filter { name, arguments }, height));
        }
        let follows = match self.peek() {
            Kind::Name(word) => !["else", "or", "and", "if", "is", "in", "not", "recursive"].contains(word),
            Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Sign("[" | "{") => true,
            _ => false,
        };
        if !follows {
            return Ok((Filter { name, arguments: Vec::new() }, 0));
        }
        let (value, height) = self.deeper(|p| {
            let primary = p.primary()?;
            p.postfix(primary)
        })?;
        Ok((Filter { name, arguments: vec![Argument { kind: ArgumentKind::Positional, value }] }, height))
    }
}

//! Statement execution.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;

use super::arguments::Arguments;
use super::ast::{For, Macro, Node, Statement, Target};
use super::budget::{Budget, CALL_DEPTH, limit};
use super::value::{Key, Value};
use super::{Result, TemplateErrorKind, quoted, wrong};

/// Control flow after a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// Position in a loop.
#[derive(Clone)]
pub(super) struct Loop {
    pub(super) items: Arc<super::value::List>,
    pub(super) index: usize,
    /// Last argument of `loop.changed`.
    pub(super) last: Option<Value>,
}

/// Variables of one block.
#[derive(Clone, Default)]
pub(super) struct Frame {
    pub(super) names: HashMap<Arc<str>, Value>,
    pub(super) repetition: Option<Loop>,
}

/// A macro, and the frames visible to it.
struct Defined {
    code: Arc<Macro>,
    /// Their number.
    frames: usize,
    /// Those of the body of a `call`, which runs inside another macro.
    scope: Option<Arc<Vec<Frame>>>,
}

pub(super) struct Interpreter {
    pub(super) budget: Budget,
    pub(super) frames: Vec<Frame>,
    pub(super) namespaces: Vec<IndexMap<Arc<str>, Value>>,
    macros: Vec<Defined>,
    out: String,
    depth: usize,
}

impl Interpreter {
    pub(super) fn new(budget: Budget, variables: Vec<(&str, Value)>) -> Self {
        let names = variables.into_iter().map(|(name, value)| (name.into(), value)).collect();
        Self {
            budget,
            frames: vec![Frame { names, repetition: None }],
            namespaces: Vec::new(),
            macros: Vec::new(),
            out: String::new(),
            depth: 0,
        }
    }

    pub(super) fn run(mut self, body: &[Node]) -> Result<String> {
        self.body(body)?;
        Ok(self.out)
    }

    /// Counts a step, and one level of depth while it runs.
    pub(super) fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.budget.steps(1)?;
        if self.depth >= CALL_DEPTH {
            return limit("levels of calls", CALL_DEPTH as u64);
        }
        self.depth += 1;
        let result = inner(self);
        self.depth -= 1;
        result
    }

    fn body(&mut self, body: &[Node]) -> Result<Flow> {
        for node in body {
            let flow = self.deeper(|i| i.statement(&node.kind)).map_err(|mut e| {
                if e.line == 0 {
                    e.line = node.line;
                }
                e
            })?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// Statements in their own scope.
    fn block(&mut self, frame: Frame, body: &[Node]) -> Result<Flow> {
        self.budget.take(size_of::<Frame>())?;
        self.frames.push(frame);
        let flow = self.body(body);
        self.frames.pop();
        flow
    }

    /// Output of a body.
    fn captured(&mut self, body: impl FnOnce(&mut Self) -> Result<Flow>) -> Result<(String, Flow)> {
        let before = std::mem::take(&mut self.out);
        let flow = body(self)?;
        Ok((std::mem::replace(&mut self.out, before), flow))
    }

    fn statement(&mut self, statement: &Statement) -> Result<Flow> {
        match statement {
            Statement::Text(text) => self.budget.write(&mut self.out, text)?,
            Statement::Emit(expr) => {
                let value = self.eval(expr)?;
                self.emit(&value)?;
            }
            Statement::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.eval(condition)?.is_true() {
                        return self.body(body);
                    }
                }
                return self.body(otherwise);
            }
            Statement::For(repetition) => return self.repeat(repetition),
            Statement::Set(target, value) => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            Statement::SetBlock(target, filters, body) => {
                let (text, flow) = self.captured(|i| i.block(Frame::default(), body))?;
                let value = self.filtered(text, filters)?;
                self.assign(target, value)?;
                return Ok(flow);
            }
            Statement::Filtered(filters, body) => {
                let (text, flow) = self.captured(|i| i.block(Frame::default(), body))?;
                let value = self.filtered(text, filters)?;
                self.emit(&value)?;
                return Ok(flow);
            }
            Statement::Macro(code) => {
                let value = self.define(code)?;
                self.bind(&code.name, value)?;
            }
            Statement::Call(call, code) => {
                let caller = self.define(code)?;
                self.budget.take(self.frames.iter().map(|f| size_of::<Frame>() + f.names.len() * 64).sum())?;
                let scope = Arc::new(self.frames.clone());
                if let Some(defined) = self.macros.last_mut() {
                    defined.scope = Some(scope);
                }
                let value = self.call_with(call, caller)?;
                self.emit(&value)?;
            }
            Statement::With(values, body) => {
                self.budget.take(size_of::<Frame>())?;
                // Values see the enclosing scope, but not each other.
                let values =
                    values.iter().map(|(target, value)| Ok((target, self.eval(value)?))).collect::<Result<Vec<_>>>()?;
                self.frames.push(Frame::default());
                for (target, value) in values {
                    self.assign(target, value)?;
                }
                let flow = self.body(body);
                self.frames.pop();
                return flow;
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn emit(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Str(text) => self.budget.write(&mut self.out, text),
            other => {
                let mut sink = self.budget.sink();
                other.show(&mut sink)?;
                let text = sink.finish();
                self.budget.write(&mut self.out, &text)
            }
        }
    }

    fn filtered(&mut self, text: String, filters: &[super::ast::Filter]) -> Result<Value> {
        let mut value = self.budget.text(&text)?;
        for filter in filters {
            let arguments = self.arguments(&filter.arguments)?;
            value = self.filter(&filter.name, value, arguments)?;
        }
        Ok(value)
    }

    fn define(&mut self, code: &Arc<Macro>) -> Result<Value> {
        self.budget.take(size_of::<Defined>())?;
        self.macros.push(Defined { code: code.clone(), frames: self.frames.len(), scope: None });
        Ok(Value::Macro(self.macros.len() - 1))
    }

    pub(super) fn bind(&mut self, name: &Arc<str>, value: Value) -> Result<()> {
        self.budget.take(size_of::<Value>() + 32)?;
        if let Some(frame) = self.frames.last_mut() {
            frame.names.insert(name.clone(), value);
        }
        Ok(())
    }

    fn assign(&mut self, target: &Target, value: Value) -> Result<()> {
        match target {
            Target::Name(name) => self.bind(name, value),
            Target::Attribute(name, attribute) => {
                let Value::Namespace(place) = self.lookup(name) else {
                    return wrong(format!("`{}` is not a namespace: its attributes can't be set", quoted(name)));
                };
                self.budget.take(size_of::<Value>() + 32)?;
                self.namespaces[place].insert(attribute.clone(), value);
                Ok(())
            }
            Target::Several(targets) => {
                let parts = self.items(&value)?;
                if parts.items.len() != targets.len() {
                    let (expected, found) = (targets.len(), parts.items.len());
                    return wrong(format!("expected {expected} values to unpack, found {found}"));
                }
                targets.iter().zip(&parts.items).try_for_each(|(t, v)| self.assign(t, v.clone()))
            }
        }
    }

    fn repeat(&mut self, repetition: &For) -> Result<Flow> {
        let over = self.eval(&repetition.over)?;
        let mut items = self.items(&over)?;
        if let Some(condition) = &repetition.condition {
            let mut kept = Vec::new();
            for item in &items.items {
                self.frames.push(Frame::default());
                self.assign(&repetition.target, item.clone())?;
                let keep = self.eval(condition)?.is_true();
                self.frames.pop();
                if keep {
                    self.budget.elements(1)?;
                    kept.push(item.clone());
                }
            }
            items = Arc::new(super::value::List { items: kept, depth: items.depth, tuple: false, lazy: false });
        }
        if items.items.is_empty() {
            return self.block(Frame::default(), &repetition.otherwise);
        }
        let mut last = None;
        for index in 0..items.items.len() {
            self.budget.steps(1)?;
            let state = Loop { items: items.clone(), index, last: last.take() };
            self.frames.push(Frame { names: HashMap::new(), repetition: Some(state) });
            self.assign(&repetition.target, items.items[index].clone())?;
            let flow = self.body(&repetition.body)?;
            last = self.frames.pop().and_then(|f| f.repetition).and_then(|r| r.last);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    /// Output of a macro.
    pub(super) fn expand(&mut self, place: usize, arguments: Arguments, caller: Option<Value>) -> Result<Value> {
        let Some(Defined { code, frames, scope }) = self.macros.get(place) else { return wrong("no such macro") };
        let (code, frames, scope) = (code.clone(), (*frames).min(self.frames.len()), scope.clone());
        let mut frame = Frame::default();
        if let Some(caller) = caller {
            frame.names.insert("caller".into(), caller);
        }
        let Arguments { positional, mut named } = arguments;
        let mut given = positional.into_iter();
        let mut defaults = Vec::new();
        for (name, default) in &code.parameters {
            let by_name = named.iter().position(|(n, _)| n == name);
            let value = match (given.next(), by_name) {
                (Some(_), Some(_)) => return wrong(format!("`{}` is given `{name}` twice", code.name)),
                (Some(value), None) => value,
                (None, Some(i)) => named.remove(i).1,
                (None, None) => match default {
                    Some(expr) => {
                        defaults.push((name, expr));
                        continue;
                    }
                    None => Value::Undefined(name.clone()),
                },
            };
            frame.names.insert(name.clone(), value);
        }
        self.budget.take(size_of::<Frame>() + frame.names.len() * 64)?;
        let rest: Vec<Value> = given.collect();
        if code.varargs {
            frame.names.insert("varargs".into(), self.budget.tuple(rest)?);
        } else if !rest.is_empty() {
            let (takes, found) = (code.parameters.len(), code.parameters.len() + rest.len());
            return wrong(format!("the macro `{}` takes at most {takes} arguments, found {found}", code.name));
        }
        if code.kwargs {
            let entries = named.into_iter().map(|(name, value)| (Key::Str(name), value)).collect();
            frame.names.insert("kwargs".into(), self.budget.map(entries)?);
        } else if let Some((name, _)) = named.first() {
            return wrong(format!("the macro `{}` has no parameter `{}`", code.name, quoted(name)));
        }
        // Macros see the scope of their definition, not of the call: for the body of a `call`, that of the tag.
        let (hidden, frames) = match scope {
            Some(scope) => {
                self.budget.take(scope.iter().map(|f| size_of::<Frame>() + f.names.len() * 64).sum())?;
                (std::mem::replace(&mut self.frames, scope.to_vec()), 0)
            }
            None => (self.frames.split_off(frames), frames),
        };
        self.frames.push(frame);
        for (name, default) in defaults {
            let value = self.eval(default)?;
            self.bind(name, value)?;
        }
        let (text, _) = self.captured(|i| i.body(&code.body))?;
        self.frames.truncate(frames);
        self.frames.extend(hidden);
        self.budget.text(&text)
    }

    pub(super) fn lookup(&self, name: &Arc<str>) -> Value {
        let found = self.frames.iter().rev().find_map(|f| f.names.get(name));
        found.cloned().unwrap_or_else(|| super::expression::global(name))
    }

    /// Elements of an iterable: characters of a string, keys of a dictionary.
    pub(super) fn items(&mut self, value: &Value) -> Result<Arc<super::value::List>> {
        let items = match value {
            Value::List(list) => return Ok(list.clone()),
            Value::Undefined(_) => Vec::new(),
            Value::Map(map) => {
                self.budget.elements(map.entries.len())?;
                map.entries.keys().map(Key::value).collect()
            }
            Value::Str(text) => {
                self.budget.take(text.len().saturating_mul(size_of::<Value>() + 32))?;
                text.chars().map(|c| Value::from(&*c.encode_utf8(&mut [0; 4]))).collect()
            }
            other => return Err(TemplateErrorKind::Value(format!("{} has no elements", other.kind())).into()),
        };
        Ok(Arc::new(super::value::List { items, depth: 1, tuple: false, lazy: false }))
    }
}

//! Expression evaluation.

use std::sync::Arc;

use indexmap::IndexMap;

use super::arguments::{Arguments, int};
use super::ast::{Argument, ArgumentKind, Expr};
use super::budget::{RANGE, limit};
use super::interpreter::Interpreter;
use super::value::{Function, Key, Map, Value};
use super::{Result, TemplateErrorKind, methods, quoted, unsupported, wrong};

/// Value of an unset name.
pub(super) fn global(name: &Arc<str>) -> Value {
    match &**name {
        "range" => Value::Function(Function::Range),
        "dict" => Value::Function(Function::Dict),
        "namespace" => Value::Function(Function::Namespace),
        "raise_exception" => Value::Function(Function::RaiseException),
        "strftime_now" => Value::Function(Function::StrftimeNow),
        _ => Value::Undefined(name.clone()),
    }
}

impl Interpreter {
    pub(super) fn eval(&mut self, expr: &Expr) -> Result<Value> {
        self.deeper(|i| match expr {
            Expr::Constant(value) => Ok(value.clone()),
            Expr::Name(name) => i.name(name),
            Expr::Not(inner) => Ok(Value::Bool(!i.eval(inner)?.is_true())),
            Expr::And(both) => {
                let left = i.eval(&both.0)?;
                if left.is_true() { i.eval(&both.1) } else { Ok(left) }
            }
            Expr::Or(both) => {
                let left = i.eval(&both.0)?;
                if left.is_true() { Ok(left) } else { i.eval(&both.1) }
            }
            Expr::If(parts) => {
                let (condition, value, otherwise) = &**parts;
                match (i.eval(condition)?.is_true(), otherwise) {
                    (true, _) => i.eval(value),
                    (false, Some(otherwise)) => i.eval(otherwise),
                    (false, None) => Ok(Value::Undefined("the other value of an `if` without `else`".into())),
                }
            }
            Expr::Attribute(value, name) => i.attribute_of(value, name),
            Expr::Call(callee, arguments) => i.call(callee, arguments),
            other => i.compound(other),
        })
    }

    /// Rarer expressions, in a separate stack frame.
    #[inline(never)]
    fn compound(&mut self, expr: &Expr) -> Result<Value> {
        match expr {
            Expr::List(items) => {
                let items = self.all(items)?;
                self.budget.list(items)
            }
            Expr::Tuple(items) => {
                let items = self.all(items)?;
                self.budget.tuple(items)
            }
            Expr::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    let key = Key::of(&self.eval(key)?)?;
                    map.insert(key, self.eval(value)?);
                }
                self.budget.map(map)
            }
            Expr::Negate(inner) => {
                let value = self.eval(inner)?;
                super::operators::negate(&value)
            }
            Expr::Plus(inner) => {
                let value = self.eval(inner)?;
                if value.as_float().is_some() { Ok(value) } else { wrong(format!("`+` before {}", value.kind())) }
            }
            Expr::Binary(operator, both) => {
                let (mut left, mut right) = (self.eval(&both.0)?, self.eval(&both.1)?);
                if *operator == super::ast::Binary::Add && is_markup(&both.0) != is_markup(&both.1) {
                    let plain = if is_markup(&both.0) { &mut right } else { &mut left };
                    if let Value::Str(text) = plain {
                        *plain = super::filters::escape(&text.clone(), &mut self.budget)?;
                    }
                }
                super::operators::binary(*operator, &left, &right, &mut self.budget)
            }
            Expr::Concat(parts) => {
                let parts = self.all(parts)?;
                let mut sink = self.budget.sink();
                parts.iter().try_for_each(|p| p.show(&mut sink))?;
                Ok(sink.value())
            }
            Expr::Compare(first, rest) => {
                let mut left = self.eval(first)?;
                for (comparison, right) in rest {
                    let right = self.eval(right)?;
                    if !super::operators::compare(*comparison, &left, &right, &mut self.budget)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Test(value, test, negated) => {
                let value = self.eval(value)?;
                let arguments = self.arguments(&test.arguments)?;
                Ok(Value::Bool(self.test(&test.name, &value, arguments)? != *negated))
            }
            Expr::Filter(value, filter) => {
                let value = self.eval(value)?;
                let arguments = self.arguments(&filter.arguments)?;
                self.filter(&filter.name, value, arguments)
            }
            Expr::Item(both) => {
                let (value, index) = (self.eval(&both.0)?, self.eval(&both.1)?);
                self.item(&value, &index)
            }
            Expr::Slice(value, parts) => {
                let value = self.eval(value)?;
                let mut bounds = [None; 3];
                for (bound, part) in bounds.iter_mut().zip(parts) {
                    let part = part.as_ref().map(|p| self.eval(p)).transpose()?;
                    *bound = match part {
                        None | Some(Value::None) => None,
                        given => Some(int(&given, "a bound of a slice", 0)?),
                    };
                }
                super::operators::slice(&value, bounds, &mut self.budget)
            }
            // `eval` handles the others.
            _ => wrong("an expression of no known form"),
        }
    }

    fn all(&mut self, items: &[Expr]) -> Result<Vec<Value>> {
        items.iter().map(|e| self.eval(e)).collect()
    }

    pub(super) fn arguments(&mut self, arguments: &[Argument]) -> Result<Arguments> {
        let mut all = Arguments::default();
        for argument in arguments {
            let value = self.eval(&argument.value)?;
            match &argument.kind {
                ArgumentKind::Named(name) => all.named.push((name.clone(), value)),
                ArgumentKind::Positional => all.positional.push(value),
                ArgumentKind::Spread => {
                    let items = self.items(&value)?;
                    self.budget.elements(items.items.len())?;
                    all.positional.extend(items.items.iter().cloned());
                }
                ArgumentKind::SpreadNamed => {
                    let Value::Map(map) = &value else {
                        return wrong(format!("`**` takes a dictionary, not {}", value.kind()));
                    };
                    self.budget.elements(map.entries.len().saturating_mul(2))?;
                    for (key, value) in &map.entries {
                        let Key::Str(name) = key else { return wrong("names of arguments are strings") };
                        if all.named.iter().any(|(n, _)| n == name) {
                            return wrong(format!("`{}` is given twice", quoted(name)));
                        }
                        all.named.push((name.clone(), value.clone()));
                    }
                }
            }
        }
        Ok(all)
    }

    fn name(&mut self, name: &Arc<str>) -> Result<Value> {
        let value = self.lookup(name);
        if !value.is_undefined() || &**name != "loop" || self.innermost().is_none() {
            return Ok(value);
        }
        // Snapshot of the loop as a value.
        const ATTRIBUTES: [&str; 9] =
            ["index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"];
        let mut map = Map::new();
        for attribute in ATTRIBUTES.into_iter().chain(["previtem", "nextitem"]) {
            let name = Arc::from(attribute);
            map.insert(Key::Str(Arc::clone(&name)), self.loop_attribute(&name));
        }
        self.budget.map(map)
    }

    fn innermost(&mut self) -> Option<&mut super::interpreter::Loop> {
        self.frames.iter_mut().rev().find_map(|f| f.repetition.as_mut())
    }

    fn is_loop(&mut self, expr: &Expr) -> bool {
        matches!(expr, Expr::Name(name) if &**name == "loop" && self.lookup(name).is_undefined())
            && self.innermost().is_some()
    }

    fn loop_attribute(&mut self, name: &Arc<str>) -> Value {
        let undefined = Value::Undefined(name.clone());
        let Some(state) = self.innermost() else { return undefined };
        let (index, length) = (state.index as i64, state.items.items.len() as i64);
        match &**name {
            "index" => Value::Int(index + 1),
            "index0" => Value::Int(index),
            "revindex" => Value::Int(length - index),
            "revindex0" => Value::Int(length - index - 1),
            "first" => Value::Bool(index == 0),
            "last" => Value::Bool(index + 1 == length),
            "length" => Value::Int(length),
            "depth" => Value::Int(1),
            "depth0" => Value::Int(0),
            "previtem" => state.index.checked_sub(1).map_or(undefined, |i| state.items.items[i].clone()),
            "nextitem" => state.items.items.get(state.index + 1).cloned().unwrap_or(undefined),
            _ => undefined,
        }
    }

    fn attribute_of(&mut self, value: &Expr, name: &Arc<str>) -> Result<Value> {
        if self.is_loop(value) {
            return Ok(self.loop_attribute(name));
        }
        let value = self.eval(value)?;
        self.attribute(&value, name)
    }

    /// `value.name`: undefined if missing.
    pub(super) fn attribute(&mut self, value: &Value, name: &Arc<str>) -> Result<Value> {
        let found = match value {
            Value::Undefined(what) => return undefined(what, name),
            Value::Map(map) => map.entries.get(&Key::Str(name.clone())).cloned(),
            Value::Namespace(place) => self.namespaces[*place].get(name).cloned(),
            _ => None,
        };
        Ok(found.unwrap_or_else(|| Value::Undefined(name.clone())))
    }

    /// `value[index]`: undefined if missing.
    pub(super) fn item(&mut self, value: &Value, index: &Value) -> Result<Value> {
        let missing = |name: &str| Ok(Value::Undefined(name.into()));
        match (value, index) {
            (Value::Undefined(what), _) => undefined(what, index.as_str().unwrap_or("…")),
            (Value::Map(map), key) => match Key::of(key) {
                Ok(key) => match map.entries.get(&key) {
                    Some(found) => Ok(found.clone()),
                    None => missing(key.value().as_str().unwrap_or("an entry")),
                },
                Err(_) => missing("an entry"),
            },
            (Value::Namespace(_), Value::Str(name)) => self.attribute(value, name),
            (Value::List(list), index) => match index.as_int().filter(|_| !list.lazy) {
                Some(i) => Ok(super::operators::place(i, list.items.len())
                    .map_or_else(|| Value::Undefined("an element".into()), |i| list.items[i].clone())),
                None => missing(index.as_str().unwrap_or("an element")),
            },
            (Value::Str(text), index) => {
                self.budget.read(text.len())?;
                let Some(i) = index.as_int() else { return missing(index.as_str().unwrap_or("a character")) };
                let place = super::operators::place(i, text.chars().count());
                match place.and_then(|i| text.chars().nth(i)) {
                    Some(c) => self.budget.text(c.encode_utf8(&mut [0; 4])),
                    None => missing("a character"),
                }
            }
            (_, index) => missing(index.as_str().unwrap_or("an element")),
        }
    }

    #[inline(never)]
    fn call(&mut self, callee: &Expr, arguments: &[Argument]) -> Result<Value> {
        if let Expr::Attribute(object, name) = callee {
            if self.is_loop(object) {
                let arguments = self.arguments(arguments)?;
                return self.loop_call(name, arguments);
            }
            let object = self.eval(object)?;
            let arguments = self.arguments(arguments)?;
            let own = match &object {
                Value::Undefined(what) => return undefined(what, name),
                Value::Namespace(_) => self.attribute(&object, name)?,
                Value::Map(_) if !methods::DICTIONARY.contains(&&**name) => self.attribute(&object, name)?,
                _ => return methods::call(&object, name, arguments, &mut self.budget),
            };
            return if own.is_undefined() { unsupported("method", name) } else { self.apply(own, arguments, None) };
        }
        let function = self.eval(callee)?;
        let arguments = self.arguments(arguments)?;
        self.apply(function, arguments, None)
    }

    /// Calls a macro with a body for `caller`.
    pub(super) fn call_with(&mut self, call: &Expr, caller: Value) -> Result<Value> {
        let Expr::Call(callee, arguments) = call else { return wrong("expected a call") };
        let function = self.eval(callee)?;
        let arguments = self.arguments(arguments)?;
        self.apply(function, arguments, Some(caller))
    }

    fn loop_call(&mut self, name: &Arc<str>, mut arguments: Arguments) -> Result<Value> {
        let Some(state) = self.innermost() else { return unsupported("function", "loop") };
        match &**name {
            "cycle" if !arguments.positional.is_empty() => {
                let at = state.index % arguments.positional.len();
                Ok(arguments.positional.swap_remove(at))
            }
            "changed" => {
                let last = state.last.take();
                let value = self.budget.tuple(arguments.positional)?;
                let changed = match last {
                    Some(last) => !last.equals(&value, &mut self.budget)?,
                    None => true,
                };
                if let Some(state) = self.innermost() {
                    state.last = Some(value);
                }
                Ok(Value::Bool(changed))
            }
            other => unsupported("function", &format!("loop.{other}")),
        }
    }

    fn apply(&mut self, function: Value, arguments: Arguments, caller: Option<Value>) -> Result<Value> {
        match function {
            Value::Macro(place) => self.expand(place, arguments, caller),
            Value::Function(Function::Range) => self.range(arguments),
            Value::Function(Function::Dict) => {
                let mut map = match arguments.positional.as_slice() {
                    [] => Map::new(),
                    [Value::Map(map)] => {
                        self.budget.elements(map.entries.len())?;
                        map.entries.clone()
                    }
                    _ => return wrong("`dict` takes a dictionary and named values"),
                };
                map.extend(arguments.named.into_iter().map(|(name, value)| (Key::Str(name), value)));
                self.budget.map(map)
            }
            Value::Function(Function::Namespace) => {
                let mut names: IndexMap<Arc<str>, Value> = IndexMap::new();
                for map in &arguments.positional {
                    let Value::Map(map) = map else { return wrong("`namespace` takes dictionaries and named values") };
                    for (key, value) in &map.entries {
                        let Key::Str(name) = key else { return wrong("names of a namespace are strings") };
                        self.budget.elements(2)?;
                        names.insert(name.clone(), value.clone());
                    }
                }
                names.extend(arguments.named);
                self.budget.take(64 + names.len() * 64)?;
                self.namespaces.push(names);
                Ok(Value::Namespace(self.namespaces.len() - 1))
            }
            Value::Function(Function::RaiseException) => {
                let [message] = arguments.bind("raise_exception", ["message"])?;
                let mut sink = self.budget.sink();
                message.unwrap_or(Value::None).show(&mut sink)?;
                Err(TemplateErrorKind::Raised(sink.finish()).into())
            }
            Value::Function(Function::StrftimeNow) => {
                let [format] = arguments.bind("strftime_now", ["format"])?;
                match format {
                    Some(Value::Str(format)) => {
                        self.budget.take(format.len())?;
                        let text = super::time::Time::now().format(&format)?;
                        self.budget.take(text.len())?;
                        Ok(text.as_str().into())
                    }
                    _ => wrong("`strftime_now` takes a format"),
                }
            }
            Value::Undefined(name) => unsupported("function", &name),
            other => wrong(format!("{} can't be called", other.kind())),
        }
    }

    fn range(&mut self, arguments: Arguments) -> Result<Value> {
        let count = arguments.positional.len();
        let bounds = arguments.bind("range", ["start", "stop", "step"])?;
        let of = |i: usize| int(&bounds[i], "a bound of `range`", 0);
        let (start, stop, step) = match count {
            1 => (0, of(0)?, 1),
            2 => (of(0)?, of(1)?, 1),
            3 => (of(0)?, of(1)?, of(2)?),
            _ => return wrong("`range` takes one to three integers"),
        };
        let Some(distance) = (if step > 0 { stop.checked_sub(start) } else { start.checked_sub(stop) }) else {
            return limit("elements of `range`", RANGE as u64);
        };
        let stride = step.unsigned_abs();
        if stride == 0 {
            return wrong("`range` with a step of 0");
        }
        let count = u64::try_from(distance).unwrap_or(0).div_ceil(stride);
        if count > RANGE as u64 {
            return limit("elements of `range`", RANGE as u64);
        }
        self.budget.elements(count as usize)?;
        self.budget.list((0..count as i64).map(|i| Value::Int(start.wrapping_add(i.wrapping_mul(step)))).collect())
    }
}

/// Returns true for text that its filters mark as HTML: texts added to it are escaped.
fn is_markup(expr: &Expr) -> bool {
    match expr {
        Expr::Filter(inner, filter) => match &*filter.name {
            "safe" | "e" | "escape" | "forceescape" => true,
            "trim" | "upper" | "lower" | "title" | "capitalize" | "string" => is_markup(inner),
            _ => false,
        },
        Expr::Binary(super::ast::Binary::Add, both) => is_markup(&both.0) || is_markup(&both.1),
        _ => false,
    }
}

fn undefined<T>(what: &str, name: &str) -> Result<T> {
    let message = format!("`{}` is undefined, and has no `{}`", quoted(what), quoted(name));
    Err(TemplateErrorKind::Undefined(message).into())
}

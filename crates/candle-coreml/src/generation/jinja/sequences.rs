//! Sequence filters.

use std::cmp::Ordering;

use super::arguments::{Arguments, count, switch, text};
use super::budget::Budget;
use super::interpreter::Interpreter;
use super::value::{Key, Value};
use super::{Result, methods, unsupported, wrong};

/// Stable sort by `order`. The order may be inconsistent, as template values may be: the standard sort would panic.
fn sorted<T>(mut all: Vec<T>, order: &mut impl FnMut(&T, &T) -> Result<Ordering>) -> Result<Vec<T>> {
    if all.len() < 2 {
        return Ok(all);
    }
    let right = sorted(all.split_off(all.len() / 2), order)?;
    let left = sorted(all, order)?;
    let mut out = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let from = if order(a, b)?.is_gt() { &mut right } else { &mut left };
        out.extend(from.next());
    }
    out.extend(left);
    out.extend(right);
    Ok(out)
}

/// Sort keys of values: lower-case strings if case is ignored.
fn folded(value: Value, case_sensitive: bool, budget: &mut Budget) -> Result<Value> {
    match &value {
        Value::Str(s) if !case_sensitive => {
            budget.take(s.len().saturating_mul(3))?;
            Ok(Value::Str(s.to_lowercase().into()))
        }
        _ => Ok(value),
    }
}

impl Interpreter {
    /// Resolves `a.b.0`; an integer is an index.
    fn path(&mut self, value: &Value, attribute: &Value) -> Result<Value> {
        let Value::Str(path) = attribute else { return self.item(value, attribute) };
        let mut value = value.clone();
        for part in path.split('.') {
            self.budget.steps(1)?;
            value = match part.parse::<i64>() {
                Ok(index) => self.item(&value, &Value::Int(index))?,
                Err(_) => self.item(&value, &part.into())?,
            };
        }
        Ok(value)
    }

    fn key(&mut self, value: &Value, attribute: &Option<Value>, case_sensitive: bool) -> Result<Value> {
        let value = match attribute {
            None | Some(Value::None) => value.clone(),
            Some(attribute) => self.path(value, attribute)?,
        };
        folded(value, case_sensitive, &mut self.budget)
    }

    fn sort(
        &mut self,
        items: &[Value],
        attribute: &Option<Value>,
        case_sensitive: bool,
        reverse: bool,
    ) -> Result<Vec<Value>> {
        self.budget.elements(items.len().saturating_mul(4))?;
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            keyed.push((self.key(item, attribute, case_sensitive)?, item.clone()));
        }
        let budget = &mut self.budget;
        let keyed = sorted(keyed, &mut |a: &(Value, Value), b: &(Value, Value)| {
            let order = a.0.order(&b.0, budget)?;
            Ok(if reverse { order.reverse() } else { order })
        })?;
        Ok(keyed.into_iter().map(|(_, item)| item).collect())
    }

    /// `select`, `reject`, `selectattr` and `rejectattr`.
    fn select(&mut self, name: &str, items: &[Value], mut arguments: Arguments) -> Result<Value> {
        let attribute = if name.ends_with("attr") {
            let Some(attribute) = arguments.shift() else { return wrong(format!("`{name}` needs an attribute")) };
            Some(attribute)
        } else {
            None
        };
        let test = arguments.shift();
        let test = if test.is_some() { Some(text(&test, "a test")?) } else { None };
        let mut kept = Vec::new();
        for item in items {
            let value = match &attribute {
                Some(attribute) => self.path(item, attribute)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(test) => {
                    self.budget.elements(arguments.positional.len())?;
                    let given = Arguments { positional: arguments.positional.clone(), named: arguments.named.clone() };
                    self.test(test, &value, given)?
                }
                None => value.is_true(),
            };
            if holds == name.starts_with("select") {
                self.budget.elements(1)?;
                kept.push(item.clone());
            }
        }
        self.budget.lazy(kept)
    }

    fn mapped(&mut self, items: &[Value], mut arguments: Arguments) -> Result<Value> {
        let mut out = Vec::new();
        if let Some(attribute) = arguments.take("attribute") {
            let default = arguments.take("default");
            let [] = arguments.bind("map", [])?;
            for item in items {
                self.budget.elements(1)?;
                let value = self.path(item, &attribute)?;
                out.push(if value.is_undefined() { default.clone().unwrap_or(value) } else { value });
            }
        } else {
            let filter = text(&arguments.shift(), "a filter")?;
            for item in items {
                self.budget.elements(1 + arguments.positional.len())?;
                let given = Arguments { positional: arguments.positional.clone(), named: arguments.named.clone() };
                let value = self.deeper(|i| i.filter(&filter, item.clone(), given))?;
                out.push(value);
            }
        }
        self.budget.lazy(out)
    }

    #[inline(never)]
    pub(super) fn sequence_filter(&mut self, name: &str, value: Value, arguments: Arguments) -> Result<Value> {
        const NAMES: [&str; 20] = [
            "first",
            "last",
            "list",
            "join",
            "reverse",
            "sort",
            "unique",
            "min",
            "max",
            "sum",
            "map",
            "select",
            "reject",
            "selectattr",
            "rejectattr",
            "batch",
            "slice",
            "dictsort",
            "keys",
            "values",
        ];
        if !NAMES.contains(&name) {
            return unsupported("filter", name);
        }
        if let (Value::Str(s), "reverse") = (&value, name) {
            let [] = arguments.bind(name, [])?;
            let mut sink = self.budget.sink();
            s.chars().rev().try_for_each(|c| sink.char(c))?;
            return Ok(sink.value());
        }
        if name == "dictsort" {
            return self.dictsort(&value, arguments);
        }
        if name == "last" && matches!(&value, Value::List(list) if list.lazy) {
            return wrong("an iterator has no last element: make it a list first (`|list`)");
        }
        // Nothing is selected from what is false.
        let none = ["map", "select", "reject", "selectattr", "rejectattr"].contains(&name) && !value.is_true();
        let list = if none { self.items(&"".into())? } else { self.items(&value)? };
        let items = &list.items;
        match name {
            "first" | "last" | "list" | "reverse" | "keys" | "values" => {
                let [] = arguments.bind(name, [])?;
                let end = if name == "first" { items.first() } else { items.last() };
                match name {
                    "first" | "last" => Ok(end.cloned().unwrap_or_else(|| Value::Undefined(name.into()))),
                    "list" => self.budget.list(items.clone()),
                    "reverse" => self.budget.lazy(items.iter().rev().cloned().collect()),
                    _ => methods::call(&value, name, Arguments::default(), &mut self.budget),
                }
            }
            "join" => {
                let [separator, attribute] = arguments.bind(name, ["d", "attribute"])?;
                let separator = separator.unwrap_or_else(|| "".into());
                let mut parts = Vec::new();
                for item in items {
                    self.budget.elements(1)?;
                    parts.push(self.key(item, &attribute, true)?);
                }
                let mut sink = self.budget.sink();
                for (i, part) in parts.iter().enumerate() {
                    if i > 0 {
                        separator.show(&mut sink)?;
                    }
                    part.show(&mut sink)?;
                }
                Ok(sink.value())
            }
            "sort" => {
                let [reverse, case, attribute] = arguments.bind(name, ["reverse", "case_sensitive", "attribute"])?;
                let all = self.sort(items, &attribute, switch(&case, false), switch(&reverse, false))?;
                self.budget.list(all)
            }
            "min" | "max" => {
                let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"])?;
                let mut best: Option<(Value, &Value)> = None;
                for item in items {
                    let key = self.key(item, &attribute, switch(&case, false))?;
                    let wins = match &best {
                        None => true,
                        Some((least, _)) if name == "min" => key.order(least, &mut self.budget)?.is_lt(),
                        Some((most, _)) => key.order(most, &mut self.budget)?.is_gt(),
                    };
                    if wins {
                        best = Some((key, item));
                    }
                }
                Ok(best.map_or_else(|| Value::Undefined(name.into()), |(_, item)| item.clone()))
            }
            "unique" => {
                let [case, attribute] = arguments.bind(name, ["case_sensitive", "attribute"])?;
                let (mut seen, mut kept) = (indexmap::IndexSet::new(), Vec::new());
                for item in items {
                    self.budget.elements(4)?;
                    if seen.insert(Key::of(&self.key(item, &attribute, switch(&case, false))?)?) {
                        kept.push(item.clone());
                    }
                }
                self.budget.lazy(kept)
            }
            "sum" => {
                let [attribute, start] = arguments.bind(name, ["attribute", "start"])?;
                let mut sum = start.unwrap_or(Value::Int(0));
                for item in items {
                    let value = self.key(item, &attribute, true)?;
                    sum = super::operators::binary(super::ast::Binary::Add, &sum, &value, &mut self.budget)?;
                }
                Ok(sum)
            }
            "map" => self.mapped(items, arguments),
            "select" | "reject" | "selectattr" | "rejectattr" => self.select(name, items, arguments),
            "batch" | "slice" => self.parts(name, items, arguments),
            _ => unsupported("filter", name),
        }
    }

    fn dictsort(&mut self, value: &Value, arguments: Arguments) -> Result<Value> {
        let [case, by, reverse] = arguments.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
        let by = if by.is_some() { text(&by, "`by`")? } else { "key".into() };
        let index = match &*by {
            "key" => 0,
            "value" => 1,
            _ => return wrong("`by` is `key` or `value`"),
        };
        let pairs = methods::items(value, &mut self.budget)?;
        let pairs = self.items(&pairs)?;
        let by = Some(Value::Int(index));
        let all = self.sort(&pairs.items, &by, switch(&case, false), switch(&reverse, false))?;
        self.budget.list(all)
    }

    /// `batch`: the length of each part; `slice`: the number of parts.
    fn parts(&mut self, name: &str, items: &[Value], arguments: Arguments) -> Result<Value> {
        let [size, fill] = arguments.bind(name, ["count", "fill_with"])?;
        let size = count(&size, "a count", 0)?;
        if size == 0 {
            return wrong(format!("`{name}` needs a count of at least 1"));
        }
        let fill = fill.filter(|f| !matches!(f, Value::None));
        let mut out = Vec::new();
        if name == "batch" {
            for part in items.chunks(size) {
                let missing = if fill.is_some() { size - part.len() } else { 0 };
                self.budget.elements(missing.saturating_add(1))?;
                let filling = fill.iter().flat_map(|f| std::iter::repeat_n(f, missing));
                out.push(self.budget.list(part.iter().chain(filling).cloned().collect())?);
            }
        } else {
            self.budget.elements(size.saturating_mul(4))?;
            let (each, more) = (items.len() / size, items.len() % size);
            let mut at = 0;
            for i in 0..size {
                let end = at + each + usize::from(i < more);
                let mut part = items[at..end].to_vec();
                if let Some(fill) = fill.as_ref().filter(|_| i >= more && more > 0) {
                    part.push(fill.clone());
                }
                out.push(self.budget.list(part)?);
                at = end;
            }
        }
        self.budget.lazy(out)
    }
}

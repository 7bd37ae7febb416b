//! Values of templates, formatted and compared as in Python.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use indexmap::IndexMap;

use super::budget::{Budget, Sink, VALUE_DEPTH, limit};
use super::{Result, wrong};

/// A value. Copies share their contents.
#[derive(Debug, Clone)]
pub(in crate::generation) enum Value {
    /// An undefined value, with its name.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    List(Arc<List>),
    Map(Arc<Dictionary>),
    /// Index of a namespace in the interpreter. Equal only to itself; values that contain it never look inside.
    Namespace(usize),
    /// Index of a macro in the interpreter.
    Macro(usize),
    /// A built-in function.
    Function(Function),
}

/// Built-in functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::generation) enum Function {
    Range,
    Dict,
    Namespace,
    RaiseException,
    /// Date and time now, formatted.
    StrftimeNow,
}

#[derive(Debug)]
pub(in crate::generation) struct List {
    pub(super) items: Vec<Value>,
    pub(super) depth: u8,
    pub(super) tuple: bool,
    /// True for what filters such as `map` give: an iterator in Jinja, with neither length nor elements by index.
    pub(super) lazy: bool,
}

#[derive(Debug)]
pub(in crate::generation) struct Dictionary {
    pub(super) entries: Map,
    pub(super) depth: u8,
}

/// The error for texts and JSON of iterators.
pub(super) const LAZY: &str = "an iterator has no text: make it a list first (`|list`)";

pub(super) type Map = IndexMap<Key, Value>;

/// Key of a dictionary. `true` and 1 are the same key, as in Python.
#[derive(Debug, Clone)]
pub(in crate::generation) enum Key {
    None,
    Int(i64),
    Bool(bool),
    Str(Arc<str>),
}

impl Key {
    fn number(&self) -> Option<i64> {
        match self {
            Self::Int(i) => Some(*i),
            Self::Bool(b) => Some(i64::from(*b)),
            Self::None | Self::Str(_) => None,
        }
    }

    fn text(&self) -> Option<&str> {
        if let Self::Str(s) = self { Some(s) } else { None }
    }

    pub(super) fn of(value: &Value) -> Result<Self> {
        match value {
            Value::None => Ok(Self::None),
            Value::Int(i) => Ok(Self::Int(*i)),
            Value::Bool(b) => Ok(Self::Bool(*b)),
            Value::Str(s) => Ok(Self::Str(s.clone())),
            other => {
                wrong(format!("a key of a dictionary is a string, an integer, a boolean or none, not {}", other.kind()))
            }
        }
    }

    pub(super) fn value(&self) -> Value {
        match self {
            Self::None => Value::None,
            Self::Int(i) => Value::Int(*i),
            Self::Bool(b) => Value::Bool(*b),
            Self::Str(s) => Value::Str(s.clone()),
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        (self.number(), self.text()) == (other.number(), other.text())
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.number(), self.text()).hash(state);
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Str(text.into())
    }
}

impl Value {
    /// A value of JSON. Its keys keep their order.
    ///
    /// # Errors
    /// Integers beyond 64 bits; more levels than values may have.
    pub(in crate::generation) fn of_json(value: &serde_json::Value) -> Result<Self> {
        Self::of_json_at(value, 0)
    }

    fn of_json_at(value: &serde_json::Value, level: u8) -> Result<Self> {
        use serde_json::Value as Json;
        if level > VALUE_DEPTH {
            return limit("levels of lists and dictionaries", VALUE_DEPTH.into());
        }
        let above = |depth: Option<u8>| depth.unwrap_or(0) + 1;
        Ok(match value {
            Json::Null => Self::None,
            Json::Bool(b) => Self::Bool(*b),
            Json::String(s) => s.as_str().into(),
            Json::Number(n) => match (n.as_i64(), n.is_u64(), n.as_f64()) {
                (Some(i), ..) => Self::Int(i),
                (None, false, Some(f)) => Self::Float(f),
                _ => return wrong(format!("the integer {n} leaves the range of 64 bits")),
            },
            Json::Array(all) => {
                let items = all.iter().map(|v| Self::of_json_at(v, level + 1)).collect::<Result<Vec<_>>>()?;
                let depth = above(items.iter().map(Self::depth).max());
                Self::List(Arc::new(List { items, depth, tuple: false, lazy: false }))
            }
            Json::Object(all) => {
                let entry =
                    |(k, v): (&String, &Json)| Ok((Key::Str(k.as_str().into()), Self::of_json_at(v, level + 1)?));
                let entries = all.iter().map(entry).collect::<Result<Map>>()?;
                let depth = above(entries.values().map(Self::depth).max());
                Self::Map(Arc::new(Dictionary { entries, depth }))
            }
        })
    }

    /// Name of the type, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "undefined",
            Self::None => "none",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Str(_) => "a string",
            Self::List(l) if l.lazy => "an iterator",
            Self::List(_) => "a list",
            Self::Map(_) => "a dictionary",
            Self::Namespace(_) => "a namespace",
            Self::Macro(_) => "a macro",
            Self::Function(_) => "a function",
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(b) => *b,
            Self::Int(i) => *i != 0,
            Self::Float(f) => *f != 0.0,
            Self::Str(s) => !s.is_empty(),
            Self::List(l) => l.lazy || !l.items.is_empty(),
            Self::Map(m) => !m.entries.is_empty(),
            Self::Namespace(_) | Self::Macro(_) | Self::Function(_) => true,
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        if let Self::Str(s) = self { Some(s) } else { None }
    }

    /// Integer value, booleans included.
    pub(super) fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(i) => Some(*i),
            Self::Bool(b) => Some(i64::from(*b)),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        if let Self::Float(f) = self { Some(*f) } else { self.as_int().map(|i| i as f64) }
    }

    pub(super) fn depth(&self) -> u8 {
        match self {
            Self::List(l) => l.depth,
            Self::Map(m) => m.depth,
            _ => 0,
        }
    }

    /// Python's `==`.
    pub(super) fn equals(&self, other: &Self, budget: &mut Budget) -> Result<bool> {
        budget.steps(1)?;
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Str(a), Self::Str(b)) => {
                budget.read(a.len().min(b.len()))?;
                a == b
            }
            (Self::List(a), Self::List(b)) => {
                if a.lazy || b.lazy {
                    return Ok(Arc::ptr_eq(a, b));
                }
                if a.items.len() != b.items.len() || a.tuple != b.tuple {
                    return Ok(false);
                }
                for (x, y) in a.items.iter().zip(&b.items) {
                    if !x.equals(y, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Map(a), Self::Map(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, x) in &a.entries {
                    match b.entries.get(key) {
                        Some(y) if x.equals(y, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Namespace(a), Self::Namespace(b)) | (Self::Macro(a), Self::Macro(b)) => a == b,
            (Self::Function(a), Self::Function(b)) => a == b,
            _ => match (self.as_int(), other.as_int()) {
                (Some(a), Some(b)) => a == b,
                _ => matches!((self.as_float(), other.as_float()), (Some(a), Some(b)) if a == b),
            },
        })
    }

    /// Python's ordering; an error for unordered values.
    pub(super) fn order(&self, other: &Self, budget: &mut Budget) -> Result<Ordering> {
        budget.steps(1)?;
        if let (Some(a), Some(b)) = (self.as_int(), other.as_int()) {
            return Ok(a.cmp(&b));
        }
        if let (Some(a), Some(b)) = (self.as_float(), other.as_float()) {
            return a.partial_cmp(&b).map_or_else(|| wrong("NaN has no order"), Ok);
        }
        match (self, other) {
            (Self::Str(a), Self::Str(b)) => {
                budget.read(a.len().min(b.len()))?;
                Ok(a.cmp(b))
            }
            (Self::List(a), Self::List(b)) => {
                for (x, y) in a.items.iter().zip(&b.items) {
                    if !x.equals(y, budget)? {
                        return x.order(y, budget);
                    }
                }
                Ok(a.items.len().cmp(&b.items.len()))
            }
            _ => wrong(format!("{} and {} have no order", self.kind(), other.kind())),
        }
    }

    /// Python's `str`.
    pub(super) fn show(&self, sink: &mut Sink<'_>) -> Result<()> {
        match self {
            Self::Undefined(_) => Ok(()),
            Self::Str(s) => sink.push(s),
            other => other.represent(sink),
        }
    }

    /// Python's `repr`.
    pub(super) fn represent(&self, sink: &mut Sink<'_>) -> Result<()> {
        sink.budget.steps(1)?;
        match self {
            Self::Undefined(_) => sink.push("Undefined"),
            Self::None => sink.push("None"),
            Self::Bool(b) => sink.push(if *b { "True" } else { "False" }),
            Self::Int(i) => sink.push(&i.to_string()),
            Self::Float(f) => sink.push(&float(*f)),
            Self::Str(s) => quote(s, sink),
            Self::List(l) if l.lazy => wrong(LAZY),
            Self::List(l) => {
                sink.push(if l.tuple { "(" } else { "[" })?;
                for (i, item) in l.items.iter().enumerate() {
                    if i > 0 {
                        sink.push(", ")?;
                    }
                    item.represent(sink)?;
                }
                sink.push(match (l.tuple, l.items.len()) {
                    (false, _) => "]",
                    (true, 1) => ",)",
                    (true, _) => ")",
                })
            }
            Self::Map(m) => {
                sink.push("{")?;
                for (i, (key, value)) in m.entries.iter().enumerate() {
                    if i > 0 {
                        sink.push(", ")?;
                    }
                    key.value().represent(sink)?;
                    sink.push(": ")?;
                    value.represent(sink)?;
                }
                sink.push("}")
            }
            Self::Namespace(_) => sink.push("<namespace>"),
            Self::Macro(_) => sink.push("<macro>"),
            Self::Function(_) => sink.push("<function>"),
        }
    }
}

/// Formats a float as Python does: the shortest digits that round-trip.
pub(super) fn float(value: f64) -> String {
    if !value.is_finite() {
        return if value.is_nan() {
            "nan"
        } else if value > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        e if (-4..16).contains(&e) => format!("{value:?}"),
        e => format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs()),
    }
}

/// Formats a string as Python does in a list.
fn quote(text: &str, sink: &mut Sink<'_>) -> Result<()> {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    sink.char(mark)?;
    for c in text.chars() {
        match c {
            '\n' => sink.push("\\n")?,
            '\r' => sink.push("\\r")?,
            '\t' => sink.push("\\t")?,
            '\\' => sink.push("\\\\")?,
            c if c == mark => {
                sink.push("\\")?;
                sink.char(c)?;
            }
            c if c.is_control() || matches!(c, '\u{a0}' | '\u{ad}') => {
                sink.push(&format!("\\x{:02x}", u32::from(c)))?
            }
            c => sink.char(c)?,
        }
    }
    sink.char(mark)
}

//! Filters of single values; those of sequences are in [`super::sequences`].

use super::arguments::{Arguments, count, int, switch, text};
use super::budget::Budget;
use super::format::Layout;
use super::interpreter::Interpreter;
use super::value::Value;
use super::{Result, methods, unsupported, wrong};

impl Interpreter {
    /// `value|name(arguments)`.
    pub(super) fn filter(&mut self, name: &str, value: Value, mut arguments: Arguments) -> Result<Value> {
        let budget = &mut self.budget;
        budget.steps(1)?;
        match name {
            "default" | "d" => {
                let [other, boolean] = arguments.bind(name, ["default_value", "boolean"])?;
                let missing = value.is_undefined() || (switch(&boolean, false) && !value.is_true());
                Ok(if missing { other.unwrap_or_else(|| "".into()) } else { value })
            }
            "tojson" => {
                let parameters = ["ensure_ascii", "indent", "separators", "sort_keys"];
                // Jinja's own `tojson` takes the indent first, transformers' takes `ensure_ascii`.
                if let [Value::Int(_)] = arguments.positional.as_slice() {
                    arguments.positional.insert(0, Value::Bool(false));
                }
                let [ascii, indent, separators, sorted] = arguments.bind(name, parameters)?;
                let indent = match &indent {
                    None | Some(Value::None) => None,
                    some => Some(count(some, "`indent`", 0)?),
                };
                let pair = match &separators {
                    None | Some(Value::None) => None,
                    Some(Value::List(list)) => match list.items.as_slice() {
                        [Value::Str(a), Value::Str(b)] => Some((a.clone(), b.clone())),
                        _ => return wrong("`separators` are two strings"),
                    },
                    Some(other) => return wrong(format!("`separators` are two strings, not {}", other.kind())),
                };
                let usual = if indent.is_some() { "," } else { ", " };
                let (item_separator, key_separator) = pair.as_ref().map_or((usual, ": "), |(a, b)| (a, b));
                let (ascii, sorted) = (switch(&ascii, false), switch(&sorted, false));
                let mut sink = budget.sink();
                Layout { indent, item_separator, key_separator, ascii, sorted }.write(&value, 0, &mut sink)?;
                Ok(sink.value())
            }
            "format" => {
                let Value::Str(format) = &value else { return wrong("`format` is about strings") };
                super::format::percent(format, &arguments.positional, budget)
            }
            "int" | "float" => number(name, &value, arguments),
            "abs" => match (&value, value.as_int()) {
                (_, Some(i)) => i
                    .checked_abs()
                    .map_or_else(|| wrong("an integer leaves the range of 64 bits"), |i| Ok(Value::Int(i))),
                (Value::Float(f), _) => Ok(Value::Float(f.abs())),
                _ => wrong(format!("`abs` of {}", value.kind())),
            },
            "round" => {
                let [precision, method] = arguments.bind(name, ["precision", "method"])?;
                let method = if method.is_some() { text(&method, "`method`")? } else { "common".into() };
                round(&value, int(&precision, "`precision`", 0)?, &method)
            }
            "bool" => Ok(Value::Bool(value.is_true())),
            "items" if value.is_undefined() => budget.lazy(Vec::new()),
            "items" => {
                let pairs = methods::items(&value, budget)?;
                let pairs = self.items(&pairs)?;
                self.budget.lazy(pairs.items.clone())
            }
            "attr" => {
                let [attribute] = arguments.bind(name, ["name"])?;
                let attribute = text(&attribute, "`name`")?;
                self.attribute(&value, &attribute)
            }
            "length" | "count" => match &value {
                Value::Str(s) => {
                    budget.read(s.len())?;
                    Ok(Value::Int(s.chars().count() as i64))
                }
                Value::List(list) if !list.lazy => Ok(Value::Int(list.items.len() as i64)),
                Value::Map(map) => Ok(Value::Int(map.entries.len() as i64)),
                Value::Undefined(_) => Ok(Value::Int(0)),
                other => wrong(format!("{} has no length", other.kind())),
            },
            "string" | "safe" | "trim" | "upper" | "lower" | "title" | "capitalize" | "replace" | "escape" | "e"
            | "forceescape" | "indent" | "center" | "wordcount" | "striptags" | "pprint" | "urlencode" | "truncate" => {
                self.text_filter(name, &value, arguments)
            }
            _ => self.sequence_filter(name, value, arguments),
        }
    }

    /// String filters; other values are converted to text first, as in Jinja.
    fn text_filter(&mut self, name: &str, value: &Value, arguments: Arguments) -> Result<Value> {
        let budget = &mut self.budget;
        let written = match value {
            Value::Str(s) => s.clone(),
            other => {
                let mut sink = budget.sink();
                if name == "pprint" {
                    other.represent(&mut sink)?
                } else {
                    other.show(&mut sink)?
                }
                sink.finish().into()
            }
        };
        let s: &str = &written;
        budget.read(s.len())?;
        match name {
            "string" | "safe" | "upper" | "lower" | "title" | "capitalize" | "wordcount" => {
                let [] = arguments.bind(name, [])?;
                match name {
                    "title" => words(s, budget),
                    "capitalize" => methods::capitalize(s, budget),
                    "wordcount" => Ok(Value::Int(
                        s.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).count() as i64,
                    )),
                    "upper" | "lower" => {
                        budget.take(s.len().saturating_mul(3))?;
                        Ok(Value::Str(if name == "upper" { s.to_uppercase() } else { s.to_lowercase() }.into()))
                    }
                    _ => Ok(Value::Str(written)),
                }
            }
            "trim" => {
                let [of] = arguments.bind(name, ["chars"])?;
                let of = match &of {
                    None | Some(Value::None) => None,
                    some => Some(text(some, "`chars`")?),
                };
                budget.read(s.len().saturating_mul(of.as_ref().map_or(1, |of| of.len().max(1))))?;
                budget.text(methods::strip(s, of.as_deref(), true, true))
            }
            "replace" => {
                let [old, new, most] = arguments.bind(name, ["old", "new", "count"])?;
                let (old, new) = (text(&old, "`old`")?, text(&new, "`new`")?);
                methods::replace(s, &old, &new, int(&most, "`count`", -1)?, budget)
            }
            "escape" | "e" | "forceescape" => escape(s, budget),
            "indent" => {
                let [width, first, blank] = arguments.bind(name, ["width", "first", "blank"])?;
                let (prefix, count): (std::sync::Arc<str>, usize) = match &width {
                    Some(Value::Str(s)) => (s.clone(), 1),
                    other => (" ".into(), count(other, "`width`", 4)?),
                };
                let mut sink = budget.sink();
                for (i, line) in s.split('\n').enumerate() {
                    sink.budget.steps(1)?;
                    sink.push(if i > 0 { "\n" } else { "" })?;
                    let is_wanted =
                        if i == 0 { switch(&first, false) } else { !line.is_empty() || switch(&blank, false) };
                    if is_wanted {
                        sink.repeat(&prefix, count)?;
                    }
                    sink.push(line)?;
                }
                Ok(sink.value())
            }
            "center" => {
                let [width] = arguments.bind(name, ["width"])?;
                methods::pad(s, count(&width, "`width`", 80)?, " ", '^', budget)
            }
            "urlencode" => {
                let [] = arguments.bind(name, [])?;
                let mut sink = budget.sink();
                for byte in s.bytes() {
                    match byte {
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => {
                            sink.char(char::from(byte))?;
                        }
                        other => sink.push(&format!("%{other:02X}"))?,
                    }
                }
                Ok(sink.value())
            }
            "pprint" => {
                let mut sink = budget.sink();
                value.represent(&mut sink)?;
                Ok(sink.value())
            }
            _ => unsupported("filter", name),
        }
    }
}

/// Jinja's `title`: words end at spaces, hyphens and opening brackets only.
fn words(text: &str, budget: &mut Budget) -> Result<Value> {
    methods::capitalize_words(text, budget, |c| !(c.is_whitespace() || "-({[<".contains(c)))
}

/// A text with HTML's characters escaped.
pub(super) fn escape(text: &str, budget: &mut Budget) -> Result<Value> {
    let mut sink = budget.sink();
    for c in text.chars() {
        match c {
            '&' => sink.push("&amp;")?,
            '<' => sink.push("&lt;")?,
            '>' => sink.push("&gt;")?,
            '"' => sink.push("&#34;")?,
            '\'' => sink.push("&#39;")?,
            c => sink.char(c)?,
        }
    }
    Ok(sink.value())
}

fn number(name: &str, value: &Value, arguments: Arguments) -> Result<Value> {
    let default;
    let mut base = 10;
    if name == "int" {
        let [given, radix] = arguments.bind(name, ["default", "base"])?;
        (default, base) = (given.unwrap_or(Value::Int(0)), int(&radix, "`base`", 10)?);
    } else {
        let [given] = arguments.bind(name, ["default"])?;
        default = given.unwrap_or(Value::Float(0.0));
    }
    let Some(base) = u32::try_from(base).ok().filter(|b| (2..=36).contains(b)) else {
        return wrong("`base` is from 2 to 36");
    };
    let whole = |f: f64| (f.is_finite() && f.abs() < 9.2e18).then(|| Value::Int(f as i64));
    let read = |s: &str| s.trim().replace('_', "").parse::<f64>().ok();
    let found = match (name, value) {
        ("int", Value::Float(f)) => whole(*f),
        ("int", Value::Str(s)) => {
            let text = s.trim();
            let digits = match base {
                16 => text.trim_start_matches("0x").trim_start_matches("0X"),
                8 => text.trim_start_matches("0o"),
                2 => text.trim_start_matches("0b"),
                _ => text,
            };
            let exact = i64::from_str_radix(digits, base).ok().map(Value::Int);
            exact.or_else(|| whole(read(text)?))
        }
        ("int", other) => other.as_int().map(Value::Int),
        (_, Value::Str(s)) => read(s).map(Value::Float),
        (_, other) => other.as_float().map(Value::Float),
    };
    Ok(found.unwrap_or(default))
}

fn round(value: &Value, precision: i64, method: &str) -> Result<Value> {
    let Some(number) = value.as_float() else { return wrong(format!("`round` of {}", value.kind())) };
    let Some(precision) = i32::try_from(precision).ok().filter(|p| (-300..=300).contains(p)) else {
        return wrong("`precision` is from -300 to 300");
    };
    let scale = 10f64.powi(precision);
    let rounded = match method {
        // Python rounds the decimal value, half to even.
        "common" if (0..=50).contains(&precision) => {
            let digits = precision as usize;
            format!("{number:.digits$}").parse().unwrap_or(number)
        }
        "common" => (number * scale).round_ties_even() / scale,
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        other => return unsupported("method of rounding", other),
    };
    match (value, method) {
        (Value::Int(_), "common") if precision >= 0 => Ok(value.clone()),
        (Value::Int(_), "common") => Ok(Value::Int(rounded as i64)),
        _ => Ok(Value::Float(rounded)),
    }
}

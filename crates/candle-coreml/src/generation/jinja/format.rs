//! Formatting of values: JSON like transformers' `tojson`; `%` and `str.format` as in Python.

use super::budget::{Budget, Sink};
use super::value::{Value, float};
use super::{Result, unsupported, wrong};

/// JSON layout.
pub(super) struct Layout<'t> {
    pub(super) indent: Option<usize>,
    pub(super) item_separator: &'t str,
    pub(super) key_separator: &'t str,
    pub(super) ascii: bool,
    pub(super) sorted: bool,
}

impl Layout<'_> {
    fn line(&self, level: usize, sink: &mut Sink<'_>) -> Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        sink.push("\n")?;
        sink.repeat(" ", indent.saturating_mul(level))
    }

    /// Python's `json.dumps`.
    pub(super) fn write(&self, value: &Value, level: usize, sink: &mut Sink<'_>) -> Result<()> {
        sink.budget.steps(1)?;
        match value {
            Value::None => sink.push("null"),
            Value::Bool(b) => sink.push(if *b { "true" } else { "false" }),
            Value::Int(i) => sink.push(&i.to_string()),
            Value::Float(f) if f.is_nan() => sink.push("NaN"),
            Value::Float(f) if f.is_infinite() => sink.push(if *f > 0.0 { "Infinity" } else { "-Infinity" }),
            Value::Float(f) => sink.push(&float(*f)),
            Value::Str(s) => self.string(s, sink),
            Value::List(list) if list.lazy => wrong(super::value::LAZY),
            Value::List(list) => {
                sink.push("[")?;
                for (i, item) in list.items.iter().enumerate() {
                    sink.push(if i > 0 { self.item_separator } else { "" })?;
                    self.line(level + 1, sink)?;
                    self.write(item, level + 1, sink)?;
                }
                if !list.items.is_empty() {
                    self.line(level, sink)?;
                }
                sink.push("]")
            }
            Value::Map(map) => {
                sink.push("{")?;
                let mut entries: Vec<(String, &Value)> = Vec::new();
                for (key, value) in &map.entries {
                    let key = match key.value() {
                        Value::Str(s) => s.to_string(),
                        other => {
                            let mut inner = sink.budget.sink();
                            self.write(&other, 0, &mut inner)?;
                            inner.finish()
                        }
                    };
                    sink.budget.take(key.len() + size_of::<(String, &Value)>())?;
                    entries.push((key, value));
                }
                if self.sorted {
                    entries.sort_by(|a, b| a.0.cmp(&b.0));
                }
                for (i, (key, value)) in entries.iter().enumerate() {
                    sink.push(if i > 0 { self.item_separator } else { "" })?;
                    self.line(level + 1, sink)?;
                    self.string(key, sink)?;
                    sink.push(self.key_separator)?;
                    self.write(value, level + 1, sink)?;
                }
                if !entries.is_empty() {
                    self.line(level, sink)?;
                }
                sink.push("}")
            }
            other => wrong(format!("{} is not JSON", other.kind())),
        }
    }

    fn string(&self, text: &str, sink: &mut Sink<'_>) -> Result<()> {
        sink.push("\"")?;
        for c in text.chars() {
            match c {
                '"' => sink.push("\\\"")?,
                '\\' => sink.push("\\\\")?,
                '\n' => sink.push("\\n")?,
                '\r' => sink.push("\\r")?,
                '\t' => sink.push("\\t")?,
                '\u{8}' => sink.push("\\b")?,
                '\u{c}' => sink.push("\\f")?,
                c if c < ' ' => sink.push(&format!("\\u{:04x}", u32::from(c)))?,
                c if self.ascii && !c.is_ascii() => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        sink.push(&format!("\\u{unit:04x}"))?;
                    }
                }
                c => sink.char(c)?,
            }
        }
        sink.push("\"")
    }
}

/// Format specification of one value, shared by `%` and `str.format`.
#[derive(Debug, Default)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    plus: bool,
    space: bool,
    zero: bool,
    comma: bool,
    width: usize,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Maximum number of digits after the point; floats have no more significant ones.
const PRECISION: usize = 350;

impl Spec {
    /// Digits and a sign, or a text truncated to the precision.
    fn body(&self, value: &Value, budget: &mut Budget) -> Result<(String, bool)> {
        let precision = self.precision.unwrap_or(6);
        let number = |text: String| {
            let sign = if text.starts_with('-') {
                ""
            } else if self.plus {
                "+"
            } else if self.space {
                " "
            } else {
                ""
            };
            Ok((format!("{sign}{text}"), true))
        };
        let as_int = || match value {
            Value::Float(f) if f.is_finite() && f.abs() < 9.2e18 => Ok(*f as i64),
            other => other.as_int().map_or_else(|| wrong(format!("an integer is needed, not {}", other.kind())), Ok),
        };
        let as_float =
            || value.as_float().map_or_else(|| wrong(format!("a number is needed, not {}", value.kind())), Ok);
        if matches!(self.kind, Some('f' | 'F' | 'e' | 'E' | 'g' | 'G' | '%')) && precision > PRECISION {
            return super::budget::limit("digits after the point", PRECISION as u64);
        }
        match self.kind {
            Some('d' | 'i' | 'u') => number(self.grouped(as_int()?.to_string())),
            Some('x') => number(format!("{}{:x}", if as_int()? < 0 { "-" } else { "" }, as_int()?.unsigned_abs())),
            Some('X') => number(format!("{}{:X}", if as_int()? < 0 { "-" } else { "" }, as_int()?.unsigned_abs())),
            Some('o') => number(format!("{}{:o}", if as_int()? < 0 { "-" } else { "" }, as_int()?.unsigned_abs())),
            Some('b') => number(format!("{}{:b}", if as_int()? < 0 { "-" } else { "" }, as_int()?.unsigned_abs())),
            Some('f' | 'F') => number(self.grouped(format!("{:.precision$}", as_float()?))),
            Some('%') => number(format!("{:.precision$}%", as_float()? * 100.0)),
            Some(e @ ('e' | 'E')) => {
                let text = format!("{:.precision$e}", as_float()?);
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let exponent: i32 = exponent.parse().unwrap_or(0);
                let sign = if exponent < 0 { '-' } else { '+' };
                number(format!("{digits}{e}{sign}{:02}", exponent.abs()))
            }
            Some('c') if value.as_int().is_some() => {
                let code = value.as_int().and_then(|i| u32::try_from(i).ok()).and_then(char::from_u32);
                code.map_or_else(|| wrong("no character has this number"), |c| Ok((c.to_string(), false)))
            }
            None if matches!(value, Value::Int(_)) => number(self.grouped(as_int()?.to_string())),
            None if matches!(value, Value::Float(_)) && self.precision.is_none() => number(float(as_float()?)),
            None | Some('s' | 'r' | 'c') => {
                let mut sink = budget.sink();
                if self.kind == Some('r') {
                    value.represent(&mut sink)?
                } else {
                    value.show(&mut sink)?
                }
                let mut text = sink.finish();
                if let Some((end, _)) = self.precision.and_then(|p| text.char_indices().nth(p)) {
                    text.truncate(end);
                }
                Ok((text, false))
            }
            Some(other) => unsupported("format", &other.to_string()),
        }
    }

    /// Inserts commas between thousands.
    fn grouped(&self, text: String) -> String {
        if !self.comma {
            return text;
        }
        let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |d| ("-", d));
        let (whole, fraction) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
        let mut grouped = String::new();
        for (i, digit) in whole.chars().enumerate() {
            if i > 0 && (whole.len() - i) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        format!("{sign}{grouped}{fraction}")
    }

    fn write(&self, value: &Value, sink: &mut Sink<'_>) -> Result<()> {
        let (body, is_number) = self.body(value, sink.budget)?;
        let padding = self.width.saturating_sub(body.chars().count());
        let zero = self.zero && self.align.is_none();
        let fill = self.fill.unwrap_or(if zero && is_number { '0' } else { ' ' });
        let fill = fill.encode_utf8(&mut [0; 4]).to_owned();
        let align = self.align.unwrap_or(match (zero && is_number, is_number) {
            (true, _) => '=',
            (false, true) => '>',
            (false, false) => '<',
        });
        let (before, after) = match align {
            '<' => (0, padding),
            '^' => (padding / 2, padding - padding / 2),
            _ => (padding, 0),
        };
        if align == '=' {
            let sign = usize::from(body.starts_with(['-', '+', ' ']));
            sink.push(&body[..sign])?;
            sink.repeat(&fill, padding)?;
            return sink.push(&body[sign..]);
        }
        sink.repeat(&fill, before)?;
        sink.push(&body)?;
        sink.repeat(&fill, after)
    }
}

/// Parses a number at the front.
fn digits(text: &mut &str) -> Result<Option<usize>> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    if number.is_empty() {
        return Ok(None);
    }
    number.parse().map(Some).or_else(|_| wrong("a width is too large"))
}

fn missing<T>() -> Result<T> {
    wrong("a format has more places than there are arguments")
}

/// `format % arguments`.
pub(super) fn percent(format: &str, arguments: &[Value], budget: &mut Budget) -> Result<Value> {
    budget.read(format.len())?;
    let mut sink = budget.sink();
    let (mut rest, mut next) = (format, 0);
    while let Some(at) = rest.find('%') {
        sink.push(&rest[..at])?;
        rest = &rest[at + 1..];
        let mut value = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let Some((name, after)) = inner.split_once(')') else { return wrong("`%(` is not closed") };
            let Some(Value::Map(map)) = arguments.first() else { return wrong("`%(name)` needs a dictionary") };
            value = Some(map.entries.get(&super::value::Key::Str(name.into())).cloned());
            rest = after;
        }
        let mut spec = Spec { align: Some('>'), ..Spec::default() };
        while let Some(flag) = rest.chars().next().filter(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.plus = true,
                ' ' => spec.space = true,
                '0' => spec.zero = true,
                _ => {}
            }
            rest = &rest[1..];
        }
        if spec.zero && spec.align == Some('>') {
            spec.align = None;
        }
        let mut take = || {
            let value = arguments.get(next).cloned();
            next += 1;
            value
        };
        if let Some(after) = rest.strip_prefix('*') {
            rest = after;
            let Some(width) = take().and_then(|v| v.as_int()) else { return missing() };
            spec.width = usize::try_from(width).unwrap_or(0);
        } else {
            spec.width = digits(&mut rest)?.unwrap_or(0);
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = Some(digits(&mut rest)?.unwrap_or(0));
        }
        let Some(kind) = rest.chars().next() else { return wrong("a format ends in `%`") };
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            sink.push("%")?;
            continue;
        }
        if !"sdiufFeExXoscr".contains(kind) {
            return unsupported("format", &kind.to_string());
        }
        // Text is not zero-padded.
        if spec.align.is_none() && matches!(kind, 's' | 'r' | 'c') {
            spec.align = Some('>');
        }
        spec.kind = Some(kind);
        let Some(value) = value.unwrap_or_else(take) else { return missing() };
        spec.write(&value, &mut sink)?;
    }
    sink.push(rest)?;
    Ok(sink.value())
}

/// `format.format(…)`.
pub(super) fn braces(
    format: &str,
    positional: &[Value],
    named: &[(std::sync::Arc<str>, Value)],
    budget: &mut Budget,
) -> Result<Value> {
    budget.read(format.len())?;
    let mut sink = budget.sink();
    let (mut rest, mut next) = (format, 0);
    while let Some(at) = rest.find(['{', '}']) {
        sink.push(&rest[..at])?;
        let mark = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(mark) {
            sink.push(mark)?;
            rest = after;
            continue;
        }
        let Some((field, after)) = rest.split_once('}').filter(|_| mark == "{") else {
            return wrong("a single brace in a format");
        };
        rest = after;
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (field, conversion) = field.split_once('!').unwrap_or((field, ""));
        let value = if field.is_empty() {
            next += 1;
            positional.get(next - 1)
        } else if let Ok(index) = field.parse::<usize>() {
            positional.get(index)
        } else {
            named.iter().find(|(n, _)| &**n == field).map(|(_, v)| v)
        };
        let Some(value) = value else { return missing() };
        let mut spec = parse(spec)?;
        match conversion {
            "" => {}
            "r" => spec.kind = Some('r'),
            "s" => spec.kind = Some('s'),
            other => return unsupported("conversion", other),
        }
        spec.write(value, &mut sink)?;
    }
    sink.push(rest)?;
    Ok(sink.value())
}

/// `[[fill]align][sign][0][width][,][.precision][type]`.
fn parse(text: &str) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut rest = text;
    let is_align = |c: char| "<>^=".contains(c);
    let mut chars = rest.chars();
    match (chars.next(), chars.next()) {
        (Some(fill), Some(align)) if is_align(align) => {
            (spec.fill, spec.align) = (Some(fill), Some(align));
            rest = &rest[fill.len_utf8() + 1..];
        }
        (Some(align), _) if is_align(align) => {
            spec.align = Some(align);
            rest = &rest[1..];
        }
        _ => {}
    }
    if let Some(after) = rest.strip_prefix(['+', '-', ' ']) {
        (spec.plus, spec.space) = (rest.starts_with('+'), rest.starts_with(' '));
        rest = after;
    }
    if let Some(after) = rest.strip_prefix('0') {
        spec.zero = true;
        rest = after;
    }
    spec.width = digits(&mut rest)?.unwrap_or(0);
    if let Some(after) = rest.strip_prefix(',') {
        spec.comma = true;
        rest = after;
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        spec.precision = Some(digits(&mut rest)?.unwrap_or(0));
    }
    let mut chars = rest.chars();
    spec.kind = chars.next();
    if chars.next().is_some() || spec.kind.is_some_and(|k| !"sdfFeExXob%".contains(k)) {
        return unsupported("format", text);
    }
    Ok(spec)
}

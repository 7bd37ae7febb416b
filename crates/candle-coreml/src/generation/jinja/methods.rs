//! Methods of strings, dictionaries and lists, as in Python. None mutates its object: template environments forbid it.

use std::sync::Arc;

use super::arguments::{Arguments, count, int, switch, text};
use super::budget::Budget;
use super::value::{Key, Value};
use super::{Result, unsupported, wrong};

/// Dictionary methods: they take precedence over entries of the same name in calls.
pub(super) const DICTIONARY: [&str; 5] = ["items", "keys", "values", "get", "copy"];

pub(super) fn call(object: &Value, name: &str, arguments: Arguments, budget: &mut Budget) -> Result<Value> {
    match object {
        Value::Str(s) => string(s, name, arguments, budget),
        Value::Map(_) => dictionary(object, name, arguments, budget),
        Value::List(list) => match name {
            "count" | "index" => {
                let [item] = arguments.bind(name, ["value"])?;
                let item = item.unwrap_or(Value::None);
                let mut found = 0;
                for (i, other) in list.items.iter().enumerate() {
                    if item.equals(other, budget)? {
                        if name == "index" {
                            return Ok(Value::Int(i as i64));
                        }
                        found += 1;
                    }
                }
                if name == "index" { wrong("`index`: the value is not in the list") } else { Ok(Value::Int(found)) }
            }
            "copy" => Ok(object.clone()),
            _ => unsupported("method of a list", name),
        },
        _ => unsupported("method", name),
    }
}

/// Key-value pairs of a dictionary.
pub(super) fn items(object: &Value, budget: &mut Budget) -> Result<Value> {
    let Value::Map(map) = object else { return wrong(format!("{} has no items", object.kind())) };
    let mut all = Vec::new();
    for (key, value) in &map.entries {
        all.push(budget.tuple(vec![key.value(), value.clone()])?);
    }
    budget.list(all)
}

fn dictionary(object: &Value, name: &str, arguments: Arguments, budget: &mut Budget) -> Result<Value> {
    let Value::Map(map) = object else { return unsupported("method", name) };
    if name == "get" {
        let [key, default] = arguments.bind(name, ["key", "default"])?;
        let key = Key::of(&key.unwrap_or(Value::None))?;
        return Ok(map.entries.get(&key).cloned().or(default).unwrap_or(Value::None));
    }
    let [] = arguments.bind(name, [])?;
    match name {
        "items" => items(object, budget),
        "keys" => budget.list(map.entries.keys().map(Key::value).collect()),
        "values" => budget.list(map.entries.values().cloned().collect()),
        "copy" => Ok(object.clone()),
        _ => unsupported("method of a dictionary", name),
    }
}

/// Python's `strip`: whitespace, or any of these characters.
pub(in crate::generation) fn strip<'t>(text: &'t str, of: Option<&str>, left: bool, right: bool) -> &'t str {
    let inside = |c: char| of.map_or(c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}'), |of| of.contains(c));
    let text = if left { text.trim_start_matches(inside) } else { text };
    if right { text.trim_end_matches(inside) } else { text }
}

/// Python's `title`: words are letters.
pub(super) fn title(text: &str, budget: &mut Budget) -> Result<Value> {
    capitalize_words(text, budget, char::is_alphabetic)
}

/// Capitalizes each word; `goes_on` tells characters after which a word goes on.
pub(super) fn capitalize_words(text: &str, budget: &mut Budget, goes_on: impl Fn(char) -> bool) -> Result<Value> {
    // Case mapping yields at most three characters.
    budget.take(text.len().saturating_mul(3))?;
    let (mut out, mut inside) = (String::new(), false);
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = goes_on(c);
    }
    Ok(Value::Str(out.into()))
}

pub(super) fn capitalize(text: &str, budget: &mut Budget) -> Result<Value> {
    budget.take(text.len().saturating_mul(3))?;
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    Ok(Value::Str((first + &chars.as_str().to_lowercase()).into()))
}

pub(super) fn replace(text: &str, old: &str, new: &str, count: i64, budget: &mut Budget) -> Result<Value> {
    budget.read(text.len())?;
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let mut sink = budget.sink();
    let mut end = 0;
    for (at, found) in text.match_indices(old).take(most) {
        sink.push(&text[end..at])?;
        sink.push(new)?;
        end = at + found.len();
    }
    sink.push(&text[end..])?;
    Ok(sink.value())
}

pub(super) fn pad(text: &str, width: usize, fill: &str, align: char, budget: &mut Budget) -> Result<Value> {
    budget.read(text.len())?;
    let padding = width.saturating_sub(text.chars().count());
    let before = match align {
        '<' => 0,
        '>' => padding,
        // Python puts the odd one left if the width is odd.
        _ => padding / 2 + (padding & width & 1),
    };
    let mut sink = budget.sink();
    sink.repeat(fill, before)?;
    sink.push(text)?;
    sink.repeat(fill, padding - before)?;
    Ok(sink.value())
}

fn strings<'t>(parts: impl Iterator<Item = &'t str>, budget: &mut Budget) -> Result<Value> {
    let mut all = Vec::new();
    for part in parts {
        budget.elements(1)?;
        all.push(budget.text(part)?);
    }
    budget.list(all)
}

/// Python's `split` and `rsplit`.
fn split(text: &str, separator: Option<&str>, most: i64, right: bool, budget: &mut Budget) -> Result<Value> {
    budget.read(text.len())?;
    let most = usize::try_from(most).ok();
    let mut parts: Vec<&str> = Vec::new();
    let mut rest = text;
    let is_full = |parts: &Vec<&str>| most.is_some_and(|most| parts.len() >= most);
    match separator {
        Some("") => return wrong("an empty separator"),
        Some(separator) => {
            while let Some((a, b)) = (!is_full(&parts))
                .then(|| if right { rest.rsplit_once(separator) } else { rest.split_once(separator) })
                .flatten()
            {
                budget.take(size_of::<&str>())?;
                parts.push(if right { b } else { a });
                rest = if right { a } else { b };
            }
            parts.push(rest);
        }
        None => {
            rest = strip(rest, None, !right, right);
            while !rest.is_empty() && !is_full(&parts) {
                budget.take(size_of::<&str>())?;
                let found = if right { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
                let Some(at) = found else { break };
                let space = rest[at..].chars().next().map_or(0, char::len_utf8);
                let (a, b) = (&rest[..at], &rest[at + space..]);
                parts.push(if right { b } else { a });
                rest = strip(if right { a } else { b }, None, !right, right);
            }
            // The remainder keeps whitespace at its other end only if the limit was reached.
            let rest = if is_full(&parts) { rest } else { rest.trim() };
            if !rest.is_empty() {
                parts.push(rest);
            }
        }
    }
    if right {
        parts.reverse();
    }
    strings(parts.into_iter(), budget)
}

/// Position of a substring, in characters.
fn find(text: &str, part: &str, right: bool, budget: &mut Budget) -> Result<Option<i64>> {
    budget.read(text.len())?;
    let at = if right { text.rfind(part) } else { text.find(part) };
    Ok(at.map(|at| text[..at].chars().count() as i64))
}

fn any_of(given: &Option<Value>, what: &str, holds: impl Fn(&str) -> bool) -> Result<bool> {
    match given {
        Some(Value::List(list)) => {
            for item in &list.items {
                if holds(&text(&Some(item.clone()), what)?) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        other => Ok(holds(&text(other, what)?)),
    }
}

fn lines(text: &str, keep: bool, budget: &mut Budget) -> Result<Value> {
    budget.read(text.len())?;
    let mut all = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end =
            rest.find(['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}']);
        let length = end.map_or(0, |e| {
            if rest[e..].starts_with("\r\n") { 2 } else { rest[e..].chars().next().map_or(0, char::len_utf8) }
        });
        let end = end.unwrap_or(rest.len());
        budget.elements(1)?;
        all.push(budget.text(&rest[..end + if keep { length } else { 0 }])?);
        rest = &rest[end + length..];
    }
    budget.list(all)
}

fn string(s: &Arc<str>, name: &str, arguments: Arguments, budget: &mut Budget) -> Result<Value> {
    match name {
        "format" => return super::format::braces(s, &arguments.positional, &arguments.named, budget),
        "strip" | "lstrip" | "rstrip" => {
            let [of] = arguments.bind(name, ["chars"])?;
            let of = match &of {
                None | Some(Value::None) => None,
                some => Some(text(some, "`chars`")?),
            };
            budget.read(s.len().saturating_mul(of.as_ref().map_or(1, |of| of.len().max(1))))?;
            return budget.text(strip(s, of.as_deref(), name != "rstrip", name != "lstrip"));
        }
        "split" | "rsplit" => {
            let [separator, most] = arguments.bind(name, ["sep", "maxsplit"])?;
            let separator = match &separator {
                None | Some(Value::None) => None,
                some => Some(text(some, "`sep`")?),
            };
            let most = int(&most, "`maxsplit`", -1)?;
            return split(s, separator.as_deref(), most, name == "rsplit", budget);
        }
        "splitlines" => {
            let [keep] = arguments.bind(name, ["keepends"])?;
            return lines(s, switch(&keep, false), budget);
        }
        "startswith" | "endswith" => {
            let [part] = arguments.bind(name, ["part"])?;
            let found = any_of(&part, "a beginning or end", |p| {
                if name == "startswith" { s.starts_with(p) } else { s.ends_with(p) }
            })?;
            return Ok(Value::Bool(found));
        }
        "removeprefix" | "removesuffix" => {
            let [part] = arguments.bind(name, ["part"])?;
            let part = text(&part, "a beginning or end")?;
            let rest = if name == "removeprefix" { s.strip_prefix(&*part) } else { s.strip_suffix(&*part) };
            return budget.text(rest.unwrap_or(s));
        }
        "replace" => {
            let [old, new, most] = arguments.bind(name, ["old", "new", "count"])?;
            let (old, new) = (text(&old, "`old`")?, text(&new, "`new`")?);
            return replace(s, &old, &new, int(&most, "`count`", -1)?, budget);
        }
        "find" | "rfind" | "index" | "rindex" => {
            let [part] = arguments.bind(name, ["sub"])?;
            let found = find(s, &text(&part, "`sub`")?, name.starts_with('r'), budget)?;
            return match found {
                Some(at) => Ok(Value::Int(at)),
                None if name.ends_with("find") => Ok(Value::Int(-1)),
                None => wrong(format!("`{name}`: the part is not in the string")),
            };
        }
        "count" => {
            let [part] = arguments.bind(name, ["sub"])?;
            budget.read(s.len())?;
            return Ok(Value::Int(s.matches(&*text(&part, "`sub`")?).count() as i64));
        }
        "join" => {
            let [all] = arguments.bind(name, ["iterable"])?;
            let Some(Value::List(list)) = &all else { return wrong("`join` takes a list of strings") };
            let mut sink = budget.sink();
            for (i, item) in list.items.iter().enumerate() {
                sink.budget.steps(1)?;
                let Value::Str(part) = item else { return wrong(format!("`join`: {} in the list", item.kind())) };
                sink.push(if i > 0 { s } else { "" })?;
                sink.push(part)?;
            }
            return Ok(sink.value());
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = arguments.bind(name, ["width", "fillchar"])?;
            let width = count(&width, "`width`", 0)?;
            let fill: Arc<str> = if fill.is_some() { text(&fill, "`fillchar`")? } else { " ".into() };
            if fill.chars().count() != 1 {
                return wrong("`fillchar` is one character");
            }
            if name == "zfill" {
                let sign = usize::from(s.starts_with(['+', '-']));
                let rest = pad(&s[sign..], width.saturating_sub(sign), "0", '>', budget)?;
                let mut sink = budget.sink();
                sink.push(&s[..sign])?;
                rest.show(&mut sink)?;
                return Ok(sink.value());
            }
            let align = match name {
                "ljust" => '<',
                "rjust" => '>',
                _ => '^',
            };
            return pad(s, width, &fill, align, budget);
        }
        "partition" | "rpartition" => {
            let [separator] = arguments.bind(name, ["sep"])?;
            let separator = text(&separator, "`sep`")?;
            if separator.is_empty() {
                return wrong("an empty separator");
            }
            budget.read(s.len())?;
            let found = if name == "partition" { s.split_once(&*separator) } else { s.rsplit_once(&*separator) };
            let parts = match (found, name) {
                (Some((a, b)), _) => [a, &*separator, b],
                (None, "partition") => [s, "", ""],
                (None, _) => ["", "", s],
            };
            let parts = parts.map(|p| budget.text(p)).into_iter().collect::<Result<Vec<_>>>()?;
            return budget.tuple(parts);
        }
        _ => {}
    }
    let [] = arguments.bind(name, [])?;
    budget.read(s.len())?;
    let every = |holds: fn(char) -> bool| Ok(Value::Bool(!s.is_empty() && s.chars().all(holds)));
    match name {
        "upper" | "lower" | "casefold" | "swapcase" => {
            budget.take(s.len().saturating_mul(3))?;
            Ok(Value::Str(match name {
                "upper" => s.to_uppercase().into(),
                "lower" | "casefold" => s.to_lowercase().into(),
                _ => {
                    let mut out = String::new();
                    s.chars().for_each(|c| {
                        if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
                    });
                    out.into()
                }
            }))
        }
        "title" => title(s, budget),
        "capitalize" => capitalize(s, budget),
        // Other numerals need Unicode's tables to tell digits.
        "isdigit" | "isdecimal" if s.chars().any(|c| c.is_numeric() && !c.is_ascii()) => {
            unsupported("method of a string with numerals beyond ASCII", name)
        }
        "isdigit" | "isdecimal" => every(|c| c.is_ascii_digit()),
        "isnumeric" => every(char::is_numeric),
        "isalpha" => every(char::is_alphabetic),
        "isalnum" => every(char::is_alphanumeric),
        "isspace" => every(char::is_whitespace),
        "isascii" => Ok(Value::Bool(s.is_ascii())),
        "isupper" => Ok(Value::Bool(s.chars().any(char::is_uppercase) && !s.chars().any(char::is_lowercase))),
        "islower" => Ok(Value::Bool(s.chars().any(char::is_lowercase) && !s.chars().any(char::is_uppercase))),
        _ => unsupported("method of a string", name),
    }
}

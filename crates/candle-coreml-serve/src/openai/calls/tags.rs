//! Arguments as values between tags, such as `<parameter=city>Lima</parameter>`; their types are those of the schema.

use candle_coreml::generation::{Grammar, Spacing, Tokenizer};
use serde_json::{Map, Value};

use super::pieces::{Eaten, eat, literal, regex_of};
use crate::error::ApiError;

/// Longest name of an argument in bytes.
const LONGEST_KEY: usize = 256;

/// How values between tags are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    /// Text before a key.
    lead: String,
    strings: Tag,
    others: Tag,
}

/// Texts between key and value, and behind the value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    equals: String,
    end: String,
}

impl Tag {
    fn first_word(&self) -> &str {
        self.equals.split_whitespace().next().unwrap_or_default()
    }
}

/// Arguments read from a text, and the rest of it.
#[derive(Debug, PartialEq)]
pub(super) enum Found<'t> {
    Arguments(Map<String, Value>, &'t str),
    More,
    No,
}

/// A call with two arguments, in pieces.
pub(super) struct Rendered {
    pub(super) open: String,
    /// Between name and first key, key and value, first value and second key; behind the second value.
    first: String,
    equals: String,
    next: String,
    close: String,
}

impl Rendered {
    pub(super) fn read(body: &str, name: &str, keys: [&str; 2], values: [&str; 2]) -> Option<Self> {
        let mut rest = body;
        let mut until = |mark: &str| {
            let (before, after) = rest.split_once(mark)?;
            rest = after;
            Some(before.to_owned())
        };
        let (open, first, equals) = (until(name)?, until(keys[0])?, until(values[0])?);
        let (next, again) = (until(keys[1])?, until(values[1])?);
        (again == equals).then(|| Self { open, first, equals, next, close: rest.to_owned() })
    }
}

/// The longest text that both end with.
fn common_end<'t>(a: &'t str, b: &str) -> &'t str {
    let same = a.chars().rev().zip(b.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
    &a[a.len() - same.sum::<usize>()..]
}

impl Tags {
    /// The tags of calls with two texts and with two numbers; the text between the name and arguments, and that behind
    /// these. `None` if values have no end of their own.
    pub(super) fn of(strings: &Rendered, others: &Rendered) -> Option<(Self, String, String)> {
        let part = |r: &Rendered| {
            let lead = common_end(&r.first, &r.next).to_owned();
            let middle = r.first.strip_suffix(&lead)?.to_owned();
            let end = r.next.strip_suffix(&lead)?.to_owned();
            let close = r.close.strip_prefix(&end)?.to_owned();
            let whole = end.trim().len() > 1 && !lead.trim().is_empty() && !r.equals.trim().is_empty();
            whole.then(|| (lead, middle, close, Tag { equals: r.equals.clone(), end }))
        };
        let (s, o) = (part(strings)?, part(others)?);
        // Values that are written alike end alike.
        let alike = (&s.0, &s.1, &s.2) == (&o.0, &o.1, &o.2) && (s.3.equals != o.3.equals || s.3 == o.3);
        (alike && strings.open == others.open).then_some((Self { lead: s.0, strings: s.3, others: o.3 }, s.1, s.2))
    }

    pub(super) fn end_of_text(&self) -> &str {
        &self.strings.end
    }

    pub(super) fn texts(&self) -> [&str; 5] {
        let (s, o) = (&self.strings, &self.others);
        [&self.lead, &s.equals, &s.end, &o.equals, &o.end]
    }

    /// Reads arguments up to one of `ends`. `over`: no text will follow, so an end may be cut.
    pub(super) fn read<'t>(&self, text: &'t str, schema: &Value, ends: [Option<&str>; 2], over: bool) -> Found<'t> {
        let mut arguments = Map::new();
        let mut rest = text;
        loop {
            let mut more = false;
            match eat(rest, &self.lead) {
                Eaten::Rest(inner, _) => match self.one(inner, schema) {
                    One::Argument(key, value, after) => {
                        arguments.insert(key, value);
                        rest = after;
                        continue;
                    }
                    One::More => more = true,
                    One::No => {}
                },
                Eaten::More => more = true,
                Eaten::No => {}
            }
            let mut cut = false;
            for end in ends.into_iter().flatten() {
                match eat(rest, end) {
                    Eaten::Rest(..) => return Found::Arguments(arguments, rest),
                    Eaten::More => cut = true,
                    Eaten::No => {}
                }
            }
            return match (more, cut) {
                (false, false) => Found::No,
                (more, true) if over && !arguments.is_empty() && (!more || rest.trim().is_empty()) => {
                    Found::Arguments(arguments, rest)
                }
                _ => Found::More,
            };
        }
    }

    fn one<'t>(&self, text: &'t str, schema: &Value) -> One<'t> {
        let mut tags = vec![(&self.strings, Some(true)), (&self.others, Some(false))];
        if self.strings == self.others {
            tags = vec![(&self.strings, None)];
        }
        // The first in the text; of two there the longer one: one may be the beginning of the other.
        let at = |tag: &Tag| text.find(tag.first_word()).unwrap_or(text.len());
        tags.sort_by_key(|(tag, _)| (at(tag), std::cmp::Reverse(tag.equals.len())));
        let mut more = false;
        for (tag, string) in tags {
            let first = tag.first_word();
            let Some((key, _)) = text.split_once(first) else {
                more |= text.len() <= LONGEST_KEY && !text.contains(['\n', '<']);
                more |= (1..first.len()).any(|n| first.is_char_boundary(n) && text.ends_with(&first[..n]));
                continue;
            };
            let key = key.trim();
            if key.is_empty() || key.len() > LONGEST_KEY || key.contains('\n') {
                return One::No;
            }
            let from = match eat(&text[text.find(first).unwrap_or(0)..], &tag.equals) {
                Eaten::Rest(rest, _) => rest,
                // Nothing else can be told before it is whole.
                Eaten::More => return One::More,
                Eaten::No => continue,
            };
            let Some((value, after)) = from.split_once(tag.end.trim()) else { return One::More };
            let space = |text: &str| text.len() - text.trim_end().len();
            let behind = &tag.equals[tag.equals.len() - space(&tag.equals)..];
            let before = &tag.end[..tag.end.len() - tag.end.trim_start().len()];
            let value = value.strip_prefix(behind).unwrap_or(value);
            let value = value.strip_suffix(before).unwrap_or(value);
            let value = match string {
                Some(true) => value.into(),
                Some(false) => json(value).unwrap_or_else(|| value.into()),
                None => typed(value, &schema["properties"][key], schema),
            };
            return One::Argument(key.to_owned(), value, after);
        }
        if more { One::More } else { One::No }
    }

    /// Rules of a grammar: arguments of a schema, in its order.
    pub(super) fn rules(&self, tokenizer: &Tokenizer, name: &str, schema: &Value) -> Result<String, ApiError> {
        let refuse = |what: &str| {
            let message = format!("the model writes arguments between tags, not in JSON: {what} can't be held");
            Err(ApiError::field("tools", message))
        };
        const KNOWN: [&str; 13] = [
            "type",
            "properties",
            "required",
            "additionalProperties",
            "title",
            "description",
            "$schema",
            "$defs",
            "definitions",
            "default",
            "examples",
            "strict",
            "$id",
        ];
        if let Some(other) = schema.as_object().and_then(|s| s.keys().find(|k| !KNOWN.contains(&k.as_str()))) {
            return refuse(&format!("`{other}`"));
        }
        let lead = literal(tokenizer, &self.lead)?;
        let properties = schema["properties"].as_object();
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if let Some(missing) = required.iter().find(|r| properties.is_none_or(|p| !p.contains_key(**r))) {
            return refuse(&format!("`{missing}`, which is required and has no schema,"));
        }
        let mut rules = String::new();
        let mut parts = Vec::new();
        for (i, (key, property)) in properties.into_iter().flatten().enumerate() {
            let kinds = Kinds::of(property, schema, 8);
            let tag = if kinds.string { &self.strings } else { &self.others };
            let start = literal(tokenizer, &format!("{}{key}{}", self.lead, tag.equals))?;
            let end = literal(tokenizer, &tag.end)?;
            let part = format!("{name}_{i}");
            if !kinds.string {
                let mut whole = property.clone();
                for defs in ["$defs", "definitions"] {
                    if let (Some(all), Some(to)) = (schema.get(defs), whole.as_object_mut()) {
                        to.entry(defs).or_insert_with(|| all.clone());
                    }
                }
                rules.push_str(&format!("{part}: {start} {part}_v {end}\n{part}_v: "));
                rules.push_str(&format!("{}\n", Grammar::json_rule(&whole, Spacing::Fixed)?));
            } else if let Some(all) = choices(property) {
                let all = all.into_iter().map(|text| literal(tokenizer, text)).collect::<Result<Vec<_>, _>>()?;
                rules.push_str(&format!("{part}: {start} ({}) {end}\n", all.join(" | ")));
            } else {
                if let Some(pattern) = property.get("pattern") {
                    return refuse(&format!("the pattern {pattern} of `{key}`"));
                }
                rules.push_str(&format!("{part}: {start} {part}_v\n"));
                rules.push_str(&self.text_rule(tokenizer, &format!("{part}_v"), property)?);
            }
            parts.push(format!("{part}{}", if required.contains(&key.as_str()) { "" } else { "?" }));
        }
        if properties.is_none_or(Map::is_empty) && schema["additionalProperties"] != false {
            let equals = literal(tokenizer, &self.strings.equals)?;
            rules.push_str(&format!("{name}_any: {lead} /[a-zA-Z0-9_.\\-]{{1,64}}/ {equals} {name}_v\n"));
            rules.push_str(&self.text_rule(tokenizer, &format!("{name}_v"), &Value::Null)?);
            parts.push(format!("{name}_any*"));
        }
        if parts.is_empty() {
            parts.push("\"\"".to_owned());
        }
        Ok(format!("{rules}{name}: {}\n", parts.join(" ")))
    }

    /// A text of the lengths of a schema, and its end, which it does not have inside.
    fn text_rule(&self, tokenizer: &Tokenizer, name: &str, schema: &Value) -> Result<String, ApiError> {
        let tag = &self.strings;
        let (least, most) = (schema["minLength"].as_u64().unwrap_or(0), schema["maxLength"].as_u64());
        let lengths = match most {
            None if least == 0 => "(?s:.*)".to_owned(),
            most => format!("(?s:.{{{least},{}}})", most.map(|n| n.to_string()).unwrap_or_default()),
        };
        let end = literal(tokenizer, &tag.end)?;
        let mark = regex_of(tag.end.trim());
        Ok(format!(
            "{name}: {}_T {end}\n{}_T: /{lengths}/ & ~/(?s:.*){mark}(?s:.*)/\n",
            name.to_uppercase(),
            name.to_uppercase()
        ))
    }
}

enum One<'t> {
    Argument(String, Value, &'t str),
    More,
    No,
}

/// The texts that a schema allows, if it lists them.
fn choices(schema: &Value) -> Option<Vec<&str>> {
    match (schema.get("enum"), schema.get("const")) {
        (_, Some(one)) => Some(vec![one.as_str()?]),
        (Some(all), _) => all.as_array()?.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// Types that a schema allows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Kinds {
    string: bool,
    boolean: bool,
    null: bool,
    integer: bool,
    number: bool,
    array: bool,
    object: bool,
}

impl Kinds {
    /// A schema without types allows texts: values between tags are texts unless it says more.
    fn of(schema: &Value, root: &Value, depth: usize) -> Self {
        let mut kinds = Self::default();
        kinds.add(schema, root, depth);
        kinds.string |= kinds == Self::default();
        kinds
    }

    fn add(&mut self, schema: &Value, root: &Value, depth: usize) {
        if depth == 0 {
            return;
        }
        let types = &schema["type"];
        for name in types.as_array().into_iter().flatten().chain([types]).filter_map(Value::as_str) {
            match name {
                "string" => self.string = true,
                "boolean" => self.boolean = true,
                "null" => self.null = true,
                "integer" => self.integer = true,
                "number" => self.number = true,
                "array" => self.array = true,
                "object" => self.object = true,
                _ => {}
            }
        }
        if types.is_null() {
            let values = schema["enum"].as_array().into_iter().flatten().chain(schema.get("const"));
            values.for_each(|value| self.add_value(value));
        }
        for all in ["anyOf", "oneOf", "allOf"] {
            schema[all].as_array().into_iter().flatten().for_each(|one| self.add(one, root, depth - 1));
        }
        if let Some(target) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')).and_then(|at| root.pointer(at))
        {
            self.add(target, root, depth - 1);
        }
    }

    fn add_value(&mut self, value: &Value) {
        match value {
            Value::String(_) => self.string = true,
            Value::Bool(_) => self.boolean = true,
            Value::Null => self.null = true,
            Value::Number(_) => self.number = true,
            Value::Array(_) => self.array = true,
            Value::Object(_) => self.object = true,
        }
    }

    fn allow(self, value: &Value) -> bool {
        match value {
            Value::String(_) => self.string,
            Value::Bool(_) => self.boolean,
            Value::Null => self.null,
            Value::Number(n) => self.number || self.integer && n.as_f64().is_some_and(|n| n.fract() == 0.0),
            Value::Array(_) => self.array,
            Value::Object(_) => self.object,
        }
    }
}

/// A value that is no text. Templates write truth values and nothing as Python does, too.
fn json(text: &str) -> Option<Value> {
    match text.trim() {
        "True" => Some(true.into()),
        "False" => Some(false.into()),
        "None" => Some(Value::Null),
        other => serde_json::from_str(other).ok(),
    }
}

/// A text as a value of its schema; what is none is a text.
fn typed(text: &str, schema: &Value, root: &Value) -> Value {
    let kinds = Kinds::of(schema, root, 8);
    let value = json(text).filter(|v| !v.is_string() && kinds.allow(v));
    value.unwrap_or_else(|| text.into())
}

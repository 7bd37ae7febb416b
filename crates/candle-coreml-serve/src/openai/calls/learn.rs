//! Renders conversations with calls and finds the form in what they differ in.

use candle_coreml::generation::{ChatTemplate, Conversation, Ending};
use serde_json::{Map, Value, json};

use super::pieces::{Eaten, ID, NUMBER, eat};
use super::tags::{Rendered, Tags};
use super::{Arguments, CallForm, Id, Shape};
use crate::error::ApiError;

/// Names and values that no template writes by itself.
const NAME: &str = "qx_name_1";
const OTHER: &str = "qx_name_2";
const KEY: &str = "qx_key_1";
const OTHER_KEY: &str = "qx_key_2";
const TEXTS: [&str; 2] = ["qx text 1", "qx text 2"];
const NUMBERS: [&str; 2] = ["710001", "710002"];
/// Nine letters and digits: some templates insist.
const CALL_ID: &str = "qxID00001";
const OTHER_ID: &str = "qxID00002";
const ANSWER: &str = "~qx answer~";

/// A template with what is told of tools.
struct Probe<'t> {
    template: &'t ChatTemplate,
    tools: &'t [Value],
    /// The conversation with a text for the call.
    plain: String,
    text_arguments: bool,
    counted: bool,
}

/// The form of a template.
pub(super) fn form(template: &ChatTemplate, tools: &[Value]) -> Result<CallForm, ApiError> {
    let unknown = |why: &str| ApiError::field("tools", format!("the model's chat template {why}"));
    let told = render(template, None, Some(tools))?;
    // Some are for conversations with tools only.
    if render(template, None, None).is_ok_and(|without| without == told) {
        return Err(unknown("has no place for tools"));
    }
    let plain = render(template, Some(json!({"role": "assistant", "content": ANSWER})), Some(tools))?;
    let mut probe = Probe { template, tools, plain, text_arguments: false, counted: false };
    let mut written = false;
    for (text_arguments, counted) in [(false, false), (true, false), (false, true)] {
        (probe.text_arguments, probe.counted) = (text_arguments, counted);
        let Some(body) = probe.body(&[(NAME, json!({KEY: 1}))]) else { continue };
        written |= body.contains(NAME) && body.contains(KEY);
        let shape = probe.object(&body).or_else(|| probe.named(&body)).or_else(|| probe.tagged());
        if let Some(form) = shape {
            return Ok(form);
        }
    }
    described(&told).ok_or_else(|| {
        unknown(if written {
            "does not write calls as JSON objects with a name and arguments, nor as a name with arguments in JSON or tags"
        } else {
            "writes no calls"
        })
    })
}

/// A form that the text about tools names, for templates that don't write the calls of earlier answers.
fn described(told: &str) -> Option<CallForm> {
    let object = |open: &str, close: &str, gap: &str| CallForm {
        open: open.to_owned(),
        close: close.to_owned(),
        gap: Some(gap.to_owned()),
        shape: Shape::Object {
            name: "name".to_owned(),
            arguments: "arguments".to_owned(),
            pieces: ["{\"name\": \"", "\", \"arguments\": ", "}"].map(str::to_owned),
        },
        text_arguments: false,
    };
    if told.contains("<tool_call>") && told.contains("</tool_call>") && told.contains("\"arguments\"") {
        return Some(object("<tool_call>\n", "\n</tool_call>", "\n</tool_call>\n<tool_call>\n"));
    }
    // "<|tool_call|> followed by a JSON list": Granite 3.
    told.contains("<|tool_call|>").then(|| object("<|tool_call|>[", "]", ", "))
}

fn render(
    template: &ChatTemplate,
    assistant: Option<Value>,
    tools: Option<&[Value]>,
) -> Result<String, candle_coreml::Error> {
    let user = json!({"role": "user", "content": "Q"});
    let talk = Conversation {
        messages: std::iter::once(user).chain(assistant).collect(),
        tools: tools.map(<[Value]>::to_vec),
        ending: Ending::Closed,
        ..Conversation::default()
    };
    template.render_conversation(&talk)
}

/// Whether a text ends within a tag.
fn within_tag(text: &str) -> Option<usize> {
    text.rfind('<').filter(|&at| text.rfind('>').is_none_or(|end| end < at))
}

impl Probe<'_> {
    /// What a conversation with calls has that one with a text lacks.
    fn body(&self, calls: &[(&str, Value)]) -> Option<String> {
        let ids = [CALL_ID, OTHER_ID];
        let all = calls.iter().zip(ids).enumerate().map(|(i, ((name, arguments), id))| {
            let id = if self.counted { format!("functions.{name}:{i}") } else { id.to_owned() };
            let arguments = match self.text_arguments {
                true => Value::from(arguments.to_string().replace("\":", "\": ")),
                false => arguments.clone(),
            };
            json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
        });
        let message = json!({"role": "assistant", "content": "", "tool_calls": all.collect::<Vec<_>>()});
        let text = render(self.template, Some(message), Some(self.tools)).ok()?;
        let plain = &self.plain;
        let differ = text.char_indices().zip(plain.chars()).find(|((_, a), b)| a != b);
        let mut start = differ.map_or(text.len().min(plain.len()), |((i, _), _)| i);
        // Marks that begin like another one's are whole.
        start = within_tag(&text[..start]).unwrap_or(start);
        let same = text.chars().rev().zip(plain.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
        let mut end = text.len() - same.sum::<usize>().min(text.len() - start);
        if within_tag(&text[start..end]).is_some() {
            end += text[end..].find('>').map_or(0, |n| n + 1);
        }
        Some(text[start..end].to_owned())
    }

    fn object(&self, body: &str) -> Option<CallForm> {
        let (from, to, value) = json_around(body, body.find(NAME)?)?;
        let list = value.is_array();
        let object = match &value {
            Value::Object(object) => object,
            Value::Array(all) => all.first().and_then(Value::as_object)?,
            _ => return None,
        };
        let (name, arguments) = fields(object)?;
        // The outermost value may be a list: the object is within.
        let brackets = usize::from(list);
        let inner = &body[from + brackets..to - brackets];
        let (a, b) = arguments_in(inner)?;
        let n = inner.find(NAME).filter(|&n| n < a)?;
        let gap = self.body(&[(NAME, json!({KEY: 1})), (OTHER, json!({KEY: 1}))]).and_then(|two| {
            let first = two.find(inner)? + inner.len();
            let second = inner.replace(NAME, OTHER).replace(CALL_ID, OTHER_ID);
            Some(two[first..first + two[first..].find(&second)?].to_owned())
        });
        Some(CallForm {
            open: body[..from + brackets].to_owned(),
            close: body[to - brackets..].to_owned(),
            gap,
            shape: Shape::Object {
                name,
                arguments,
                pieces: [&inner[..n], &inner[n + NAME.len()..a], &inner[b..]].map(with_ids),
            },
            text_arguments: self.text_arguments,
        })
    }

    fn named(&self, body: &str) -> Option<CallForm> {
        let name = body.find(NAME).filter(|&n| body.rfind(NAME) == Some(n))?;
        let behind = name + NAME.len();
        let (a, b) = arguments_in(&body[behind..]).map(|(a, b)| (behind + a, behind + b))?;
        // Braces around arguments that are given as a text are not those of JSON.
        if body[..a].ends_with('{') {
            return None;
        }
        let mut middle = with_ids(&body[behind..a]);
        let two = self.body(&[(NAME, json!({KEY: 1})), (OTHER, json!({KEY: 1}))]);
        let mut gap = None;
        if let Some(two) = two.filter(|t| t.starts_with(&body[..b]))
            && let Some(other) = two.find(OTHER)
            && let Some((from, _)) = arguments_in(&two[other..])
        {
            let again = with_ids(&two[other + OTHER.len()..other + from]);
            gap = (other >= b).then(|| with_ids(&two[b..other]));
            if again != middle {
                middle = counted(&middle);
                gap = gap.filter(|_| counted(&again) == middle);
            }
        }
        let open = with_ids(&body[..name]);
        let id = match (self.counted, [&open, &middle].iter().any(|p| p.contains(ID))) {
            (true, _) => Some(Id::Counted),
            (_, true) => Some(Id::Apart),
            _ => None,
        };
        Some(CallForm {
            open,
            close: with_ids(&body[b..]),
            gap,
            shape: Shape::Named { middle, arguments: Arguments::Json, id },
            text_arguments: self.text_arguments,
        })
    }

    fn tagged(&self) -> Option<CallForm> {
        let number = |n: &str| n.parse::<u32>().map(Value::from).unwrap_or_default();
        let texts = json!({KEY: TEXTS[0], OTHER_KEY: TEXTS[1]});
        let numbers = json!({KEY: number(NUMBERS[0]), OTHER_KEY: number(NUMBERS[1])});
        let read = |arguments: &Value, values: [&str; 2]| {
            let body = self.body(&[(NAME, arguments.clone())])?;
            Rendered::read(&body, NAME, [KEY, OTHER_KEY], values)
        };
        let (strings, others) = (read(&texts, TEXTS)?, read(&numbers, NUMBERS)?);
        let (tags, middle, close) = Tags::of(&strings, &others)?;
        // A call without arguments is what is left without them.
        let empty = self.body(&[(NAME, json!({}))])?;
        let rest = &empty[empty.find(NAME)? + NAME.len()..];
        let whole = format!("{middle}{close}");
        if whole.contains(NAME) || !matches!(eat(rest, &whole), Eaten::Rest(left, _) if left.trim().is_empty()) {
            return None;
        }
        let gap = self.body(&[(NAME, texts.clone()), (OTHER, texts)]).and_then(|two| {
            let from = two.find(TEXTS[1])? + TEXTS[1].len();
            let gap = two.get(from..two.find(OTHER)?)?;
            gap.strip_prefix(tags.end_of_text()).map(str::to_owned)
        });
        Some(CallForm {
            open: strings.open,
            close,
            gap,
            shape: Shape::Named { middle, arguments: Arguments::Tags(Box::new(tags)), id: None },
            text_arguments: self.text_arguments,
        })
    }
}

fn with_ids(text: &str) -> String {
    text.replace(CALL_ID, &ID.to_string()).replace(OTHER_ID, &ID.to_string())
}

/// A text with its numbers as numbers that count.
fn counted(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c.is_ascii_digit() {
            true if out.ends_with(NUMBER) => {}
            true => out.push(NUMBER),
            false => out.push(c),
        }
    }
    out
}

/// Fields of a call with the name and with the arguments.
fn fields(object: &Map<String, Value>) -> Option<(String, String)> {
    let at = |wanted: &dyn Fn(&Value) -> bool| object.iter().find(|(_, v)| wanted(v)).map(|(k, _)| k.clone());
    let arguments = json!({KEY: 1});
    Some((at(&|v| v == NAME)?, at(&|v| *v == arguments)?))
}

/// The outermost JSON value around `at`: its start, its end and itself.
fn json_around(text: &str, at: usize) -> Option<(usize, usize, Value)> {
    let starts = text[..at].char_indices().filter(|(_, c)| matches!(c, '{' | '[')).map(|(i, _)| i);
    for start in starts {
        let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
        if let Some(Ok(value)) = values.next() {
            let end = start + values.byte_offset();
            if end > at {
                return Some((start, end, value));
            }
        }
    }
    None
}

/// Bounds of the object `{"qx_key_1": 1}` in a text.
fn arguments_in(text: &str) -> Option<(usize, usize)> {
    let start = text[..text.find(KEY)?].rfind('{')?;
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let found = values.next()?.ok()?;
    (found == json!({KEY: 1})).then(|| (start, start + values.byte_offset()))
}

//! The form in which a model's chat template writes function calls, found by rendering some.
//!
//! Templates write calls as JSON objects with a name and arguments, between marks of their own (`<tool_call>`), in a list
//! behind one (`[TOOL_CALLS]`), or bare. A conversation with a call and one with a text differ in just that.

use candle_coreml::generation::{ChatTemplate, Conversation, Ending, Grammar, Spacing, Tokenizer};
use serde_json::{Map, Value, json};

use super::tools::Tool;
use crate::error::ApiError;

/// Names that no template writes by itself.
const NAME: &str = "qx_name_1";
const OTHER: &str = "qx_name_2";
const KEY: &str = "qx_key";
/// Nine letters and digits: some templates insist.
const ID: &str = "qxID00001";
const ANSWER: &str = "~qx answer~";

/// How calls are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CallForm {
    /// Text before the JSON of the first call; that behind it.
    pub(super) open: String,
    pub(super) close: String,
    /// Text between the JSON of two calls; `None` if there is only ever one.
    gap: Option<String>,
    /// Fields with the name and the arguments.
    name: String,
    arguments: String,
    /// The object around name and arguments, in pieces.
    object: [String; 3],
}

/// A text that stands for a call in the form: fields with the name and with the arguments.
fn fields(object: &Map<String, Value>, name: &str) -> Option<(String, String)> {
    let at = |wanted: &dyn Fn(&Value) -> bool| object.iter().find(|(_, v)| wanted(v)).map(|(k, _)| k.clone());
    let arguments = json!({KEY: 1});
    Some((at(&|v| v == name)?, at(&|v| *v == arguments)?))
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

/// Bounds of the object `{"qx_key": 1}` in a text.
fn arguments_in(text: &str) -> Option<(usize, usize)> {
    let key = text.find(KEY)?;
    let start = text[..key].rfind('{')?;
    Some((start, start + text[start..].find('}')? + 1))
}

impl CallForm {
    /// The form of a template.
    pub(super) fn of(template: &ChatTemplate, tools: &[Value]) -> Result<Self, ApiError> {
        let unknown = |why: &str| ApiError::field("tools", format!("the model's chat template {why}"));
        let user = json!({"role": "user", "content": "Q"});
        let call =
            |name: &str| json!({"id": ID, "type": "function", "function": {"name": name, "arguments": {KEY: 1}}});
        let render = |assistant: Option<Value>, tools: Option<&[Value]>| {
            let talk = Conversation {
                messages: std::iter::once(user.clone()).chain(assistant).collect(),
                tools: tools.map(<[Value]>::to_vec),
                ending: Ending::Closed,
                ..Conversation::default()
            };
            template.render_conversation(&talk)
        };
        let told = render(None, Some(tools))?;
        if told == render(None, None)? {
            return Err(unknown("has no place for tools"));
        }
        let plain = render(Some(json!({"role": "assistant", "content": ANSWER})), Some(tools))?;
        let calls = |names: &[&str]| {
            let all: Vec<Value> = names.iter().map(|n| call(n)).collect();
            render(Some(json!({"role": "assistant", "content": "", "tool_calls": all})), Some(tools))
        };
        let one = calls(&[NAME]).map_err(|_| unknown("writes no calls"))?;
        let start = one.char_indices().zip(plain.chars()).find(|((_, a), b)| a != b).map_or(one.len(), |((i, _), _)| i);
        let same = one.chars().rev().zip(plain.chars().rev()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
        let end = one.len() - same.sum::<usize>().min(one.len() - start);
        let body = &one[start..end];
        let no_json = || unknown("does not write calls as JSON objects with a name and arguments");
        let at = body.find(NAME).ok_or_else(no_json)?;
        let (from, to, value) = json_around(body, at).ok_or_else(no_json)?;
        let list = value.is_array();
        let object = match &value {
            Value::Object(object) => object,
            Value::Array(all) => all.first().and_then(Value::as_object).ok_or_else(no_json)?,
            _ => return Err(no_json()),
        };
        let (name, arguments) = fields(object, NAME).ok_or_else(no_json)?;
        // The outermost value may be a list: the object is within.
        let brackets = usize::from(list);
        let inner = &body[from + brackets..to - brackets];
        let (a, b) = arguments_in(inner).ok_or_else(no_json)?;
        let n = inner.find(NAME).filter(|&n| n < a).ok_or_else(no_json)?;
        let gap = calls(&[NAME, OTHER]).ok().and_then(|two| {
            let first = two.find(inner)? + inner.len();
            let second = inner.replace(NAME, OTHER);
            Some(two[first..first + two[first..].find(&second)?].to_owned())
        });
        Ok(Self {
            open: body[..from + brackets].to_owned(),
            close: body[to - brackets..].to_owned(),
            gap,
            name,
            arguments,
            object: [inner[..n].to_owned(), inner[n + NAME.len()..a].to_owned(), inner[b..].to_owned()],
        })
    }

    /// The mark before calls without space and brackets; empty for bare ones.
    pub(super) fn mark(&self) -> &str {
        self.open.trim_end_matches('[').trim()
    }

    /// The mark behind a call.
    pub(super) fn end_mark(&self) -> &str {
        self.close.trim_start_matches(']').trim()
    }

    /// Name and arguments of a call.
    pub(super) fn read(&self, value: &Value) -> Option<(String, String)> {
        let name = value.get(&self.name)?.as_str()?;
        let arguments = match value.get(&self.arguments)? {
            all @ Value::Object(_) => all.to_string(),
            Value::String(text) if serde_json::from_str::<Map<String, Value>>(text).is_ok() => text.clone(),
            _ => return None,
        };
        Some((name.to_owned(), arguments))
    }

    /// Special tokens that the form is written with: they have to be shown.
    pub(super) fn special(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let texts = [Some(&self.open), Some(&self.close), self.gap.as_ref()];
        let ids = texts.into_iter().flatten().filter_map(|t| tokenizer.encode(t).ok()).flatten();
        ids.filter(|&id| tokenizer.is_special(id)).collect()
    }

    /// Rules of a grammar: `calls`, one call of any of the tools, or several where the form and `several` allow it.
    pub(super) fn rules(&self, tokenizer: &Tokenizer, tools: &[&Tool], several: bool) -> Result<String, ApiError> {
        let [before, between, behind] = &self.object;
        let mut rules = String::new();
        let mut names = Vec::new();
        for (i, tool) in tools.iter().enumerate() {
            names.push(format!("call{i}"));
            let name = literal(tokenizer, &format!("{before}{}{between}", json_inside(&tool.name)))?;
            let behind = match behind.split_once(ID) {
                Some((a, b)) => format!("{} /[a-zA-Z0-9]{{9}}/ {}", literal(tokenizer, a)?, literal(tokenizer, b)?),
                None => literal(tokenizer, behind)?,
            };
            let schema = Grammar::json_rule(&tool.parameters, Spacing::Fixed)?;
            rules.push_str(&format!("call{i}: {name} arguments{i} {behind}\narguments{i}: {schema}\n"));
        }
        let more = match &self.gap {
            Some(gap) if several => format!(" ({} call)*", literal(tokenizer, gap)?),
            _ => String::new(),
        };
        let close = literal(tokenizer, &self.close)?;
        Ok(format!("{rules}call: {}\ncalls: call{more} {close}\n", names.join(" | ")))
    }
}

/// A text inside quotes in JSON.
fn json_inside(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A text in a grammar: its special tokens as tokens, the rest as bytes.
pub(super) fn literal(tokenizer: &Tokenizer, text: &str) -> Result<String, ApiError> {
    let mut parts = Vec::new();
    let mut rest = text;
    for id in tokenizer.encode(text)?.into_iter().filter(|&id| tokenizer.is_special(id)) {
        let name = String::from_utf8(tokenizer.token_bytes(id).unwrap_or_default()).unwrap_or_default();
        // The post-processor's own tokens are not in the text.
        if let Some((before, after)) = rest.split_once(&name).filter(|_| !name.is_empty()) {
            parts.extend((!before.is_empty()).then(|| Value::from(before).to_string()));
            parts.push(format!("<[{id}]>"));
            rest = after;
        }
    }
    parts.extend((!rest.is_empty()).then(|| Value::from(rest).to_string()));
    Ok(parts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_coreml::generation::TemplateLimits;

    const HERMES: &str = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}{% for m in messages %}\
        <|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls %}{% if not loop.first %}{{ '\n' }}{% endif %}\
        <tool_call>\n{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}\n</tool_call>\
        {% endfor %}<|im_end|>\n{% endfor %}";
    const LIST: &str = "{% if tools %}[T]{{ tools | tojson }}[/T]{% endif %}{% for m in messages %}{% if m.tool_calls %}\
        [TOOL_CALLS] [{% for c in m.tool_calls %}{\"name\": \"{{ c.function.name }}\", \"arguments\": \
        {{ c.function.arguments | tojson }}, \"id\": \"{{ c.id }}\"}{% if not loop.last %}, {% endif %}{% endfor %}]{% else %}\
        {{ m.content }}{% endif %}</s>{% endfor %}";
    const BARE: &str = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<h>{{ m.role }}</h>\n\n\
        {% if m.tool_calls %}{% if m.tool_calls | length != 1 %}{{ raise_exception('single') }}{% endif %}\
        {\"name\": \"{{ m.tool_calls[0].function.name }}\", \"parameters\": {{ m.tool_calls[0].function.arguments | tojson }}}\
        {% else %}{{ m.content }}{% endif %}<|eot_id|>{% endfor %}";

    fn form(template: &str) -> Result<CallForm, ApiError> {
        let path = std::path::Path::new("template");
        let template = ChatTemplate::parse(path, template, "", "", TemplateLimits::default()).expect("a template");
        CallForm::of(&template, &[json!({"type": "function", "function": {"name": "f", "parameters": {}}})])
    }

    #[test]
    fn forms_are_found_in_templates() {
        let hermes = form(HERMES).expect("a form");
        assert_eq!((hermes.open.as_str(), hermes.close.as_str()), ("<tool_call>\n", "\n</tool_call>"));
        assert_eq!(hermes.gap.as_deref(), Some("\n</tool_call>\n<tool_call>\n"));
        assert_eq!(hermes.object, ["{\"name\": \"", "\", \"arguments\": ", "}"].map(str::to_owned));
        assert_eq!((hermes.mark(), hermes.end_mark()), ("<tool_call>", "</tool_call>"));
        let list = form(LIST).expect("a form");
        assert_eq!((list.open.as_str(), list.close.as_str(), list.gap.as_deref()), ("[TOOL_CALLS] [", "]", Some(", ")));
        assert_eq!((list.mark(), list.end_mark()), ("[TOOL_CALLS]", ""));
        assert!(list.object[2].contains(ID));
        let bare = form(BARE).expect("a form");
        assert_eq!((bare.mark(), bare.gap.as_deref(), bare.arguments.as_str()), ("", None, "parameters"));
        let read = bare.read(&json!({"name": "f", "parameters": {"a": [1]}}));
        assert_eq!(read, Some(("f".to_owned(), "{\"a\":[1]}".to_owned())));
        assert_eq!(bare.read(&json!({"name": "f", "parameters": "no"})), None);
    }

    #[test]
    fn templates_without_calls_are_refused_with_the_reason() {
        for (template, part) in [
            ("{% for m in messages %}{{ m.content }}{% endfor %}", "no place for tools"),
            ("{% if tools %}{{ raise_exception('none here') }}{% endif %}", "none here"),
            ("{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}", "as JSON"),
            (
                "{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}<function={{ c.function.name }}>\
                 {{ c.function.arguments }}</function>{% endfor %}{% endfor %}",
                "as JSON",
            ),
        ] {
            let error = form(template).expect_err(part);
            assert!(error.status.as_u16() == 400 && error.message.contains(part), "{error:?}");
        }
    }
}

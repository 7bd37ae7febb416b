//! Tools of a request: their definitions, which of them may be called, and the grammar of that.

use candle_coreml::generation::{Grammar, Spacing, Tokenizer};
use serde_json::{Value, json};

use super::calls::{CallForm, literal, regex_of};
use crate::error::ApiError;

/// Most tools of a request, as in OpenAI's interface.
const MOST: usize = 128;

/// A function that may be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tool {
    pub(super) name: String,
    /// JSON schema of the arguments.
    pub(super) parameters: Value,
    strict: bool,
}

/// What has to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ToolChoice {
    Auto,
    Required,
    Named(String),
}

/// The tools of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tools {
    pub(super) all: Vec<Tool>,
    /// As the template sees them.
    pub(super) given: Vec<Value>,
    choice: ToolChoice,
    several: bool,
}

fn one(index: usize, given: &Value) -> Result<Tool, ApiError> {
    let param = |field: &str| format!("tools[{index}]{field}");
    if given["type"] != "function" {
        return Err(ApiError::field(param(".type"), format!("only `function` is supported, found {}", given["type"])));
    }
    let function = &given["function"];
    let Some(name) = function["name"].as_str().filter(|n| !n.is_empty() && n.len() <= 256) else {
        return Err(ApiError::field(param(".function.name"), "expected a string of 1 to 256 bytes"));
    };
    let parameters = match &function["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        schema @ Value::Object(_) => schema.clone(),
        _ => return Err(ApiError::field(param(".function.parameters"), "expected a JSON schema, an object")),
    };
    let strict = match &function["strict"] {
        Value::Null => false,
        Value::Bool(strict) => *strict,
        _ => return Err(ApiError::field(param(".function.strict"), "expected true or false")),
    };
    Ok(Tool { name: name.to_owned(), parameters, strict })
}

#[cfg(test)]
impl Tool {
    /// A function of any arguments.
    pub(super) fn any(name: &str) -> Self {
        Self::with(name, json!({"type": "object"}))
    }

    /// A function with a schema.
    pub(super) fn with(name: &str, parameters: Value) -> Self {
        Self { name: name.to_owned(), parameters, strict: false }
    }
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`; `None` if nothing may be called.
    pub(super) fn read(
        tools: Option<Vec<Value>>,
        choice: Option<&Value>,
        several: Option<bool>,
    ) -> Result<Option<Self>, ApiError> {
        let given = tools.unwrap_or_default();
        if given.len() > MOST {
            return Err(ApiError::field("tools", format!("{} tools; at most {MOST}", given.len())));
        }
        let all = given.iter().enumerate().map(|(i, t)| one(i, t)).collect::<Result<Vec<_>, _>>()?;
        if let Some((i, twice)) = all.iter().enumerate().find(|(i, t)| all[..*i].iter().any(|o| o.name == t.name)) {
            return Err(ApiError::field(
                format!("tools[{i}].function.name"),
                format!("`{}` is there twice", twice.name),
            ));
        }
        let wrong = || {
            let message =
                "expected `none`, `auto`, `required` or {\"type\": \"function\", \"function\": {\"name\": …}}";
            ApiError::field("tool_choice", message)
        };
        let choice = match choice {
            None | Some(Value::Null) => ToolChoice::Auto,
            Some(Value::String(text)) => match text.as_str() {
                "none" => return Ok(None),
                "auto" => ToolChoice::Auto,
                "required" => ToolChoice::Required,
                _ => return Err(wrong()),
            },
            Some(named) if named["type"] == "function" => {
                ToolChoice::Named(named["function"]["name"].as_str().ok_or_else(wrong)?.to_owned())
            }
            Some(_) => return Err(wrong()),
        };
        match &choice {
            ToolChoice::Auto => {}
            _ if all.is_empty() => return Err(ApiError::field("tool_choice", "there are no tools")),
            ToolChoice::Named(name) if !all.iter().any(|t| t.name == *name) => {
                return Err(ApiError::field("tool_choice", format!("`{name}` is not among the tools")));
            }
            _ => {}
        }
        Ok((!all.is_empty()).then(|| Self { all, given, choice, several: several.unwrap_or(true) }))
    }

    /// Whether the answer has to be a call.
    pub(super) fn are_required(&self) -> bool {
        self.choice != ToolChoice::Auto
    }

    /// The grammar that holds an answer to what was asked, as rules with `answer` at their top; `None` if none is needed:
    /// a model may call or not, and no function is strict.
    pub(super) fn rules(&self, form: &CallForm, tokenizer: &Tokenizer) -> Result<Option<String>, ApiError> {
        let (tools, several): (Vec<&Tool>, bool) = match &self.choice {
            ToolChoice::Named(name) => (self.all.iter().filter(|t| t.name == *name).collect(), false),
            _ => (self.all.iter().collect(), self.several),
        };
        let open = literal(tokenizer, form.open())?;
        if self.are_required() {
            return Ok(Some(format!("answer: {open} calls\n{}", form.rules(tokenizer, &tools, several)?)));
        }
        if !tools.iter().any(|t| t.strict) {
            return Ok(None);
        }
        // Functions that are not strict may be called with any object.
        let loose = json!({"type": "object"});
        let held: Vec<Tool> = tools
            .iter()
            .map(|t| Tool { parameters: if t.strict { t.parameters.clone() } else { loose.clone() }, ..(*t).clone() })
            .collect();
        let rules = form.rules(tokenizer, &held.iter().collect::<Vec<_>>(), several)?;
        let mark = form.mark();
        if mark.is_empty() && !form.bare_calls_are_told() {
            let message = "the model's calls have no mark that tells them from texts: `strict` needs a `tool_choice`";
            return Err(ApiError::field("tools", message));
        }
        if mark.is_empty() {
            // Bare calls: a text begins with something else.
            return Ok(Some(format!("answer: {open} calls | TEXT\nTEXT: /[^{{\\[](?s:.*)/\n{rules}")));
        }
        let (mark, rest) = (literal(tokenizer, mark)?, literal(tokenizer, form.behind_mark())?);
        if mark.starts_with("<[") {
            return Ok(Some(format!("answer: TEXT | TEXT? {mark} {rest} calls\nTEXT: /(?s:.+)/\n{rules}")));
        }
        let pattern = regex_of(form.mark());
        Ok(Some(format!(
            "answer: TEXT | lead {rest} calls\nTEXT: /(?s:.*)/ & ~/(?s:.*){pattern}(?s:.*)/\nlead[suffix={mark}]: /(?s:.*)/\n{rules}"
        )))
    }
}

/// The grammar of `response_format`; `None` for plain text. For some the rules are empty but for `answer`.
pub(super) fn response_rules(format: Option<&Value>) -> Result<Option<String>, ApiError> {
    let Some(format) = format.filter(|f| !f.is_null()) else { return Ok(None) };
    let schema = |value: &Value, param: &str| {
        Grammar::json_rule(value, Spacing::Flexible)
            .map_err(|e| ApiError::field(param, e))
            .map(|rule| Some(format!("answer: {rule}\n")))
    };
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_object") => schema(&json!({"type": "object"}), "response_format"),
        Some("json_schema") => schema(&format["json_schema"]["schema"], "response_format.json_schema.schema"),
        _ => {
            let message = "expected `text`, `json_object` or `json_schema`";
            Err(ApiError::field("response_format.type", format!("{message}, found {}", format["type"])))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name}})
    }

    #[test]
    fn tools_and_choices_are_read_or_refused_by_name() {
        let read = |tools: Value, choice: Value| {
            Tools::read(serde_json::from_value(tools).expect("a list"), Some(&choice), None)
        };
        assert_eq!(read(json!([]), json!("auto")), Ok(None));
        assert_eq!(read(json!([tool("f")]), json!("none")), Ok(None));
        let named = read(json!([tool("f"), tool("g")]), json!({"type": "function", "function": {"name": "g"}}));
        assert_eq!(named.expect("fine").map(|t| t.choice), Some(ToolChoice::Named("g".to_owned())));
        for (tools, choice, param) in [
            (json!([]), json!("required"), "tool_choice"),
            (json!([tool("f")]), json!("any"), "tool_choice"),
            (json!([tool("f")]), json!({"type": "function", "function": {"name": "h"}}), "tool_choice"),
            (json!([tool("f"), tool("f")]), json!("auto"), "tools[1].function.name"),
            (json!([{"type": "custom"}]), json!("auto"), "tools[0].type"),
            (json!([tool("")]), json!("auto"), "tools[0].function.name"),
            (
                json!([{"type": "function", "function": {"name": "f", "parameters": 3}}]),
                json!("auto"),
                "tools[0].function.parameters",
            ),
            (Value::Array((0..=MOST).map(|i| tool(&i.to_string())).collect()), json!("auto"), "tools"),
        ] {
            let error = read(tools, choice).expect_err(param);
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some(param)), "{}", error.message);
        }
    }

    #[test]
    fn response_formats_become_rules() {
        assert_eq!(response_rules(Some(&json!({"type": "text"}))), Ok(None));
        assert!(response_rules(Some(&json!({"type": "json_object"}))).expect("fine").is_some());
        for (format, param) in [
            (json!({"type": "xml"}), "response_format.type"),
            (json!({}), "response_format.type"),
            (json!({"type": "json_schema", "json_schema": {"name": "x"}}), "response_format.json_schema.schema"),
        ] {
            assert_eq!(response_rules(Some(&format)).expect_err(param).param.as_deref(), Some(param));
        }
    }
}

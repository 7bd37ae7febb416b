//! `POST /v1/chat/completions`.

use std::sync::Arc;

use candle_coreml::generation::{Conversation, Ending};
use candle_coreml::nonblocking::{AsyncGenerator, Prompt};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::calls::{CallForm, literal};
use super::inputs::content;
use super::logprobs::Form;
use super::options::Common;
use super::reply::ReplyKind;
use super::request::{Plan, TextRequest};
use super::split::Splitter;
use super::tools::{Tools, response_rules};
use crate::error::ApiError;

/// Most likely tokens that are told, as in OpenAI's interface.
const TOP: u64 = 20;

#[derive(Debug, Deserialize)]
pub(crate) struct Request {
    pub(super) messages: Vec<Given>,
    pub(super) tools: Option<Vec<Value>>,
    pub(super) tool_choice: Option<Value>,
    pub(super) parallel_tool_calls: Option<bool>,
    pub(super) logprobs: Option<bool>,
    pub(super) top_logprobs: Option<u64>,
    #[serde(flatten)]
    pub(super) common: Common,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Given {
    role: String,
    #[serde(default)]
    content: Value,
    name: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<Value>>,
    tool_call_id: Option<String>,
}

/// A call of an earlier answer, its arguments as templates expect them: an object.
fn call(given: &Value, param: &str) -> Result<Value, ApiError> {
    let wrong =
        |field: &str, expected: &str| Err(ApiError::field(format!("{param}{field}"), format!("expected {expected}")));
    let Some(name) = given["function"]["name"].as_str() else { return wrong(".function.name", "a string") };
    let arguments: Map<String, Value> = match &given["function"]["arguments"] {
        Value::String(text) if text.trim().is_empty() => Map::new(),
        Value::String(text) => match serde_json::from_str(text) {
            Ok(arguments) => arguments,
            Err(_) => return wrong(".function.arguments", "a JSON object as a string"),
        },
        _ => return wrong(".function.arguments", "a JSON object as a string"),
    };
    let function = json!({"name": name, "arguments": arguments});
    Ok(json!({"id": given["id"], "type": "function", "function": function}))
}

/// A message as templates expect it.
fn message(index: usize, given: Given) -> Result<Value, ApiError> {
    let param = |field: &str| format!("messages[{index}].{field}");
    // OpenAI renamed `system` to `developer`; models know the old name.
    let role = match given.role.as_str() {
        "system" | "developer" => "system",
        role @ ("user" | "assistant" | "tool") => role,
        other => {
            let message = format!("`{other}` is not supported; there are system, developer, user, assistant, tool");
            return Err(ApiError::field(param("role"), message));
        }
    };
    let mut fields = Map::from_iter([
        ("role".to_owned(), role.into()),
        ("content".to_owned(), content(given.content, &param("content"), role == "assistant")?.into()),
    ]);
    let mut put = |name: &str, value: Option<Value>| value.map(|v| fields.insert(name.to_owned(), v));
    put("name", given.name.map(Into::into));
    if role == "assistant" {
        put("reasoning_content", given.reasoning_content.filter(|t| !t.is_empty()).map(Into::into));
        let calls = given.tool_calls.unwrap_or_default();
        let calls = calls.iter().enumerate().map(|(i, c)| call(c, &param(&format!("tool_calls[{i}]"))));
        let calls = calls.collect::<Result<Vec<_>, _>>()?;
        put("tool_calls", (!calls.is_empty()).then_some(Value::Array(calls)));
    }
    if role == "tool" {
        let Some(id) = given.tool_call_id else {
            return Err(ApiError::field(param("tool_call_id"), "expected a string"));
        };
        put("tool_call_id", Some(id.into()));
    }
    Ok(Value::Object(fields))
}

/// Whether the prompt ends within a thought.
fn thinks(model: &AsyncGenerator, variables: &Map<String, Value>) -> Result<bool, ApiError> {
    let Some(template) = model.tokenizer().chat_template() else { return Ok(false) };
    let messages = vec![json!({"role": "user", "content": "Q"})];
    let talk = Conversation { messages, variables: variables.clone(), ..Conversation::default() };
    // What a template refuses here it may take in another conversation.
    Ok(template.render_conversation(&talk).is_ok_and(|text| text.trim_end().ends_with("<think>")))
}

impl TextRequest for Request {
    const KIND: ReplyKind = ReplyKind::Chat;

    fn common(&self) -> &Common {
        &self.common
    }

    fn plan(self, model: &AsyncGenerator) -> Result<Plan, ApiError> {
        let tokenizer = model.tokenizer();
        let mut options = self.common.options(model.info().context, false, model.vocab(), model.recommended())?;
        let top = match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (false, Some(n)) if n > 0 => return Err(ApiError::field("top_logprobs", "needs `logprobs`: true")),
            (_, Some(n)) if n > TOP => return Err(ApiError::field("top_logprobs", format!("expected 0 to {TOP}"))),
            (asked, n) => asked.then_some(n.unwrap_or(0) as usize),
        };
        options.probabilities = top;
        let variables = self.common.variables();
        let tools = Tools::read(self.tools, self.tool_choice.as_ref(), self.parallel_tool_calls)?;
        let messages = self.messages.into_iter().enumerate().map(|(i, m)| message(i, m));
        let mut messages = messages.collect::<Result<Vec<_>, _>>()?;
        let form = match &tools {
            None => None,
            Some(tools) => {
                let template = tokenizer.chat_template().ok_or(candle_coreml::Error::NoChatTemplate)?;
                Some(Arc::new(CallForm::of(template, &tools.given)?))
            }
        };
        let rules = match (&tools, &form) {
            (Some(tools), Some(form)) => tools.rules(form, tokenizer)?,
            _ => None,
        };
        let response = response_rules(self.common.response_format.as_ref())?;
        let rules = match (response, rules, &tools) {
            // The answer is a call, whatever the form of a text.
            (_, Some(rules), Some(tools)) if tools.are_required() => Some(rules),
            (Some(_), _, Some(_)) => {
                let message = "with tools that may be called or not, only `text` is supported";
                return Err(ApiError::field("response_format", message));
            }
            (Some(response), _, None) => Some(response),
            (None, rules, _) => rules,
        };
        let thinking = thinks(model, &variables)?;
        let thought = literal(tokenizer, "</think>")?;
        let grammar = rules.map(|rules| {
            let start = match (thinking, thought.starts_with("<[")) {
                (false, _) => "start: answer".to_owned(),
                (true, true) => {
                    format!("start: THOUGHT? {thought} SPACE? answer\nTHOUGHT: /(?s:.+)/\nSPACE: /\\s{{1,8}}/")
                }
                (true, false) => {
                    format!("start: thought SPACE? answer\nthought[suffix={thought}]: /(?s:.*)/\nSPACE: /\\s{{1,8}}/")
                }
            };
            format!("{start}\n{rules}")
        });
        let marks = ["<think>", "</think>"].into_iter().filter_map(|t| tokenizer.encode(t).ok()).flatten();
        options.shown = marks.filter(|&id| tokenizer.is_special(id)).collect();
        let calls = form.map(|form| {
            options.shown.extend(form.special(tokenizer));
            form.prepare(&mut messages);
            (form, tools.iter().flat_map(|t| t.all.clone()).collect::<Arc<[_]>>())
        });
        let talk = Conversation {
            messages,
            tools: tools.map(|t| t.given),
            ending: Ending::Prompt,
            variables,
            ..Conversation::default()
        };
        Ok(Plan {
            prompts: vec![Prompt::Conversation(Box::new(talk))],
            echo: Vec::new(),
            grammar,
            splitter: Splitter::chat(thinking, calls),
            form: top.map(|_| Form::Chat),
            needs: self.common.needs_probabilities(),
            options,
        })
    }
}

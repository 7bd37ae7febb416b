//! Texts and token ids in the forms that requests allow.

use serde_json::Value;

use crate::error::ApiError;

/// A text, or its token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

/// Maximum number of texts per request, as in OpenAI's API.
const MOST: usize = 2048;

/// A string, an array of strings, an array of token ids, or an array of such arrays.
pub(super) fn inputs(value: Value, param: &'static str) -> Result<Vec<Input>, ApiError> {
    let wrong = || ApiError::field(param, "expected a string, strings, token ids or arrays of token ids");
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let tokens = |all: &[Value]| all.iter().map(id).collect::<Option<Vec<_>>>().ok_or_else(wrong);
    let one = |value: Value| match value {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Array(ids) => tokens(&ids).map(Input::Tokens),
        _ => Err(wrong()),
    };
    let found = match value {
        Value::Array(all) if all.first().is_some_and(Value::is_number) => vec![Input::Tokens(tokens(&all)?)],
        Value::Array(all) if all.len() > MOST => {
            return Err(ApiError::field(param, format!("{} texts; at most {MOST}", all.len())));
        }
        Value::Array(all) => all.into_iter().map(one).collect::<Result<_, _>>()?,
        single => vec![one(single)?],
    };
    if found.is_empty() { Err(ApiError::field(param, "expected at least one text")) } else { Ok(found) }
}

/// Text of a message: a string, or parts of type `text`. An assistant's may be null.
pub(super) fn content(value: Value, param: &str, optional: bool) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null if optional => Ok(String::new()),
        Value::Array(parts) => {
            let text = |(i, part): (usize, &Value)| match (part["type"].as_str(), part["text"].as_str()) {
                (Some("text"), Some(text)) => Ok(text.to_owned()),
                (Some("text"), None) => Err(ApiError::field(format!("{param}[{i}].text"), "expected a string")),
                (Some(other), _) => {
                    Err(ApiError::field(format!("{param}[{i}].type"), format!("`{other}` is not supported, only text")))
                }
                (None, _) => Err(ApiError::field(format!("{param}[{i}].type"), "expected `text`")),
            };
            parts.iter().enumerate().map(text).collect()
        }
        _ => Err(ApiError::field(param, "expected a string or an array of parts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_come_in_four_forms() {
        let text = |s: &str| Input::Text(s.to_owned());
        for (value, expected) in [
            (json!("a"), vec![text("a")]),
            (json!(["a", ""]), vec![text("a"), text("")]),
            (json!([1, 2]), vec![Input::Tokens(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])]),
        ] {
            assert_eq!(inputs(value.clone(), "input"), Ok(expected), "{value}");
        }
        let many = Value::Array(vec![json!("x"); MOST + 1]);
        for wrong in
            [json!([]), json!(1), json!(null), json!([1, "a"]), json!([-1]), json!([1.5]), json!([["a"]]), many]
        {
            let error = inputs(wrong.clone(), "input").expect_err("refused");
            assert_eq!((error.status.as_u16(), error.param.as_deref()), (400, Some("input")), "{wrong}");
        }
    }

    #[test]
    fn messages_are_texts_or_parts_of_text() {
        let read = |value: Value| content(value, "messages[0].content", false);
        assert_eq!(read(json!("a")), Ok("a".to_owned()));
        assert_eq!(read(json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])), Ok("ab".to_owned()));
        assert_eq!(content(Value::Null, "x", true), Ok(String::new()));
        for (wrong, param) in [
            (json!(null), "messages[0].content"),
            (json!([{"type": "image_url", "image_url": {}}]), "messages[0].content[0].type"),
            (json!([{"type": "text"}]), "messages[0].content[0].text"),
            (json!(["a"]), "messages[0].content[0].type"),
        ] {
            assert_eq!(read(wrong.clone()).expect_err("refused").param.as_deref(), Some(param), "{wrong}");
        }
    }
}

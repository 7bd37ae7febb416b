//! What OpenAI's clients ask beyond plain answers: log-probabilities, several answers, forms, tools, thoughts, origins.

use std::sync::LazyLock;

use candle_coreml_serve::Models;
use serde_json::{Value, json};

mod common;

use common::{Running, agent, folder, question, run, serve, settings, with};

const CHAT: &str = "/v1/chat/completions";
const TEXT: &str = "/v1/completions";
const RESPONSES: &str = "/v1/responses";

/// A template with tools in Qwen's form, and one that begins a thought where it is told to.
const TEMPLATE: &str = "{%- if tools %}{{- '<|im_start|>system\\n' + (tools | map(attribute='function.name') | join(',')) + \
    '<|im_end|>\\n' }}{%- endif %}{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content }}{%- for c in \
    m.tool_calls %}{{- '<tool_call>\\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' + (c.function.arguments | \
    tojson) + '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- \
    '<|im_start|>assistant\\n' }}{%- if enable_thinking %}{{- '<think>\\n' }}{%- endif %}{%- endif %}";

/// The shipped model with that template.
fn with_tools() -> Running {
    static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| with_template(TEMPLATE));
    caller(FOLDER.path())
}

/// The shipped model with another template.
fn with_template(template: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    link(&folder("tiny-qwen3"), copy.path());
    let file = copy.path().join("tokenizer_config.json");
    let text = std::fs::read_to_string(folder("tiny-qwen3").join("tokenizer_config.json")).expect("the settings");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["chat_template"] = template.into();
    std::fs::remove_file(&file).expect("a copy");
    std::fs::write(&file, config.to_string()).expect("written");
    copy
}

fn caller(folder: &std::path::Path) -> Running {
    let settings = settings();
    let models = Models::load(&[("caller".to_owned(), folder.to_owned())], &settings).expect("the model");
    run(models, settings)
}

/// Copies a folder.
fn link(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry").path()) {
        let place = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            std::fs::create_dir(&place).expect("a folder");
            link(&entry, &place);
        } else {
            std::fs::copy(&entry, &place).expect("a copy");
        }
    }
}

fn chunks(server: &Running, path: &str, body: &Value) -> Vec<Value> {
    let events = server.events(path, &with(body.clone(), json!({"stream": true})));
    events.iter().filter(|e| *e != "[DONE]").map(|e| serde_json::from_str(e).expect("JSON")).collect()
}

#[test]
fn log_probabilities_come_with_tokens_in_both_forms() {
    let server = serve(settings());
    let asked = with(question("What is the capital of Peru?"), json!({"logprobs": true, "top_logprobs": 20}));
    let whole = server.ok(CHAT, &asked);
    let entries = whole["choices"][0]["logprobs"]["content"].as_array().expect("entries").clone();
    assert_eq!(entries.iter().map(|e| e["token"].as_str().expect("a text")).collect::<String>(), "Lima");
    for entry in &entries {
        assert_eq!(entry["bytes"].as_array().map(Vec::len), entry["token"].as_str().map(str::len));
        let top = entry["top_logprobs"].as_array().expect("tokens");
        let sum: f64 = top.iter().map(|t| t["logprob"].as_f64().expect("a number").exp()).sum();
        // The rest of the vocabulary has what is missing to one.
        assert!(top.len() == 20 && sum > 0.9 && sum < 1.0 + 1e-5, "{entry}");
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&entry["token"], &entry["logprob"]), "greedy");
    }
    let streamed: Vec<Value> = chunks(&server, CHAT, &asked)
        .iter()
        .flat_map(|c| c["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(streamed, entries);
    let bare = server.ok(CHAT, &with(asked.clone(), json!({"top_logprobs": null})));
    assert_eq!(bare["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));

    // Echoed prompts have them too; the first token follows none.
    let body = json!({"prompt": "Hello! H", "echo": true, "logprobs": 2, "max_tokens": 2, "temperature": 0});
    let whole = server.ok(TEXT, &body);
    let (text, found) = (&whole["choices"][0]["text"], &whole["choices"][0]["logprobs"]);
    let tokens: Vec<&str> = found["tokens"].as_array().expect("tokens").iter().filter_map(Value::as_str).collect();
    assert_eq!((tokens.concat().as_str(), tokens.len()), (text.as_str().expect("a text"), 10));
    assert_eq!((&found["token_logprobs"][0], &found["top_logprobs"][0]), (&Value::Null, &Value::Null));
    assert_eq!(found["text_offset"], json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]));
    assert!(found["top_logprobs"][9].as_object().is_some_and(|t| t.len() == 2), "{found}");
    let none = server.ok(TEXT, &with(body.clone(), json!({"max_tokens": 0})));
    assert_eq!((&none["choices"][0]["text"], &none["usage"]["completion_tokens"]), (&json!("Hello! H"), &json!(0)));
    // The same to the last digits, though the whole prompt is cached now.
    for (a, b) in found["token_logprobs"].as_array().expect("a list")[1..8]
        .iter()
        .zip(&none["choices"][0]["logprobs"]["token_logprobs"].as_array().expect("a list")[1..])
    {
        let distance = a.as_f64().expect("a number") - b.as_f64().expect("a number");
        assert!(distance.abs() < 1e-3, "{a} {b}");
    }
}

/// Cases of `tools/server_reference.py`: log-probabilities of transformers, greedy answers under penalties, biases and forms.
/// The packages hold fp16 weights and logits: 0.03, a third of the least distance of the two best logits of any step.
#[test]
fn answers_and_their_log_probabilities_are_those_of_transformers() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("reference.json")).expect("cases");
    let mut servers = std::collections::HashMap::new();
    let close = |found: &Value, wanted: &Value, case: &Value| {
        let (found, wanted) = (found.as_f64().expect("a number"), wanted.as_f64().expect("a number"));
        assert!((found - wanted).abs() < 0.03, "{found} for {wanted}: {case}");
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_else(|| panic!("{value}"));
    for case in &cases {
        let name = case["model"].as_str().expect("a name");
        let server = servers.entry(name).or_insert_with(|| {
            let layouts = folder("../conformance/language_layouts");
            let models = Models::load(&[(name.to_owned(), layouts.join(name))], &settings()).expect("the model");
            run(models, settings())
        });
        let path = if case["kind"] == "chat" { CHAT } else { TEXT };
        let whole = server.ok(path, &case["body"]);
        let (choice, wanted) = (&whole["choices"][0], list(&case["tokens"]));
        match case["kind"].as_str() {
            Some("chat") => {
                let entries = list(&choice["logprobs"]["content"]);
                assert_eq!(entries.len(), wanted.len(), "{case}");
                for (entry, wanted) in entries.iter().zip(&wanted) {
                    assert_eq!((&entry["token"], &entry["bytes"]), (&wanted["token"], &wanted["bytes"]), "{case}");
                    close(&entry["logprob"], &wanted["logprob"], case);
                    let top = list(&entry["top_logprobs"]);
                    assert_eq!(top.len(), 20);
                    top.iter().zip(list(&wanted["top"])).for_each(|(t, w)| close(&t["logprob"], &w, case));
                }
            }
            Some("echo") => {
                let found = &choice["logprobs"];
                let tokens: Vec<Value> = wanted.iter().map(|w| w["token"].clone()).collect();
                assert_eq!(list(&found["tokens"]), [vec![case["first"].clone()], tokens].concat(), "{case}");
                for (i, wanted) in wanted.iter().enumerate() {
                    close(&found["token_logprobs"][i + 1], &wanted["logprob"], case);
                    let mut top: Vec<&Value> =
                        found["top_logprobs"][i + 1].as_object().expect("tokens").values().collect();
                    top.sort_by(|a, b| b.as_f64().partial_cmp(&a.as_f64()).expect("numbers"));
                    assert_eq!(top.len(), 5, "{found}");
                    top.iter().zip(list(&wanted["top"])).for_each(|(t, w)| close(t, &w, case));
                }
            }
            _ => {
                assert_eq!(list(&choice["logprobs"]["tokens"]), wanted, "{case}");
                assert_eq!(choice["finish_reason"], case["finish"], "{case}");
            }
        }
    }
    assert_eq!((cases.len(), servers.len()), (26, 2));
}

#[test]
fn several_answers_and_prompts_have_their_own_indices() {
    let server = serve(common::Settings { slots: 2, queue: 0, ..settings() });
    let body = json!({"prompt": ["2 + 2 =", "3 + 4 ="], "n": 2, "temperature": 0, "max_tokens": 4});
    let whole = server.ok(TEXT, &body);
    let choices = whole["choices"].as_array().expect("answers");
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().expect("a number")).collect::<Vec<_>>(), [0, 1, 2, 3]);
    let one = |prompt: &str| server.ok(TEXT, &with(body.clone(), json!({"prompt": prompt, "n": 1})));
    let (first, second) = (one("2 + 2 ="), one("3 + 4 ="));
    for (index, alone) in [(0, &first), (1, &first), (2, &second), (3, &second)] {
        assert_eq!(choices[index]["text"], alone["choices"][0]["text"], "{index}");
    }
    let sum = |field: &str| {
        first["usage"][field].as_u64().expect("a number") + second["usage"][field].as_u64().expect("a number")
    };
    assert_eq!(whole["usage"]["prompt_tokens"], sum("prompt_tokens"));
    assert_eq!(whole["usage"]["completion_tokens"], 2 * sum("completion_tokens"));
    let mut texts = vec![String::new(); 4];
    let mut ends = 0;
    for chunk in chunks(&server, TEXT, &body) {
        let choice = &chunk["choices"][0];
        texts[choice["index"].as_u64().expect("a number") as usize].push_str(choice["text"].as_str().expect("a text"));
        ends += usize::from(choice["finish_reason"].is_string());
    }
    assert_eq!(ends, 4);
    assert!(texts.iter().zip(choices).all(|(t, c)| c["text"] == **t), "{texts:?}");
    let different =
        server.ok(CHAT, &with(question("Tell"), json!({"n": 6, "temperature": 2, "seed": 1, "max_tokens": 12})));
    let texts: std::collections::HashSet<String> =
        (0..6).map(|i| different["choices"][i]["message"]["content"].to_string()).collect();
    assert!(texts.len() > 1, "every answer has a seed of its own");
}

#[test]
fn penalties_and_biases_change_answers() {
    let server = serve(settings());
    let ask = |fields: Value| {
        let body = with(question("What is the capital of Peru?"), fields);
        server.ok(CHAT, &body)["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
    };
    // Tokens are bytes; `L` is banned, `Q` is as good as certain.
    let letter = |l: char| (l as u32 - '!' as u32).to_string();
    assert!(!ask(json!({"logit_bias": {letter('L'): -100}, "max_tokens": 8})).contains('L'));
    assert_eq!(ask(json!({"logit_bias": {letter('Q'): 100}, "max_tokens": 4})), "QQQQ");
    let twice =
        ask(json!({"logit_bias": {letter('Q'): 30}, "frequency_penalty": 2, "presence_penalty": 2, "max_tokens": 40}));
    assert!(twice.starts_with("QQ") && twice.chars().filter(|c| *c == 'Q').count() < 40, "{twice}");
}

#[test]
fn answers_are_held_to_json_and_schemas() {
    let server = serve(settings());
    let schema = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 8}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"], "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
    let check = |text: &str| {
        let found: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(found["city"].as_str().is_some_and(|c| c.chars().count() <= 8) && found["sure"].is_boolean(), "{text}");
    };
    for temperature in [0.0, 0.7, 1.5] {
        let asked = with(
            question("Capital of Peru?"),
            json!({"response_format": format, "temperature": temperature, "seed": 3}),
        );
        let whole = server.ok(CHAT, &asked);
        if whole["choices"][0]["finish_reason"] == "stop" {
            check(whole["choices"][0]["message"]["content"].as_str().expect("a text"));
        }
        let events = server.events(CHAT, &with(asked, json!({"stream": true})));
        let (text, reason) = common::joined(&events);
        if reason.as_deref() == Some("stop") {
            check(&text);
        }
    }
    let object =
        server.ok(TEXT, &json!({"prompt": "2 + 2 =", "response_format": {"type": "json_object"}, "temperature": 0}));
    assert!(object["choices"][0]["text"].as_str().is_some_and(|t| t.trim_start().starts_with('{')), "{object}");
    let responses = server.ok(
        RESPONSES,
        &json!({"input": "Capital of Peru?", "temperature": 0,
        "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}),
    );
    if responses["status"] == "completed" {
        check(responses["output"][0]["content"][0]["text"].as_str().expect("a text"));
    }
    let refused =
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": true}}});
    let (status, error) = server.post(CHAT, &with(question("1"), json!({"response_format": refused})));
    assert!(status == 400 && error["error"]["message"].as_str().is_some_and(|m| m.contains("uniqueItems")), "{error}");
}

fn weather() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": {
            "type": "object", "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"], "additionalProperties": false}}},
        {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}}},
    ])
}

#[test]
fn required_calls_are_made_in_the_template_s_form_and_read_back() {
    let server = with_tools();
    let named = json!({"type": "function", "function": {"name": "weather"}});
    let body = json!({"messages": [{"role": "user", "content": "Rain?"}], "tools": weather(), "tool_choice": named,
        "temperature": 0, "max_tokens": 200});
    let check = |call: &Value| {
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("weather")));
        assert!(call["id"].as_str().is_some_and(|id| id.starts_with("call_")));
        let arguments: Value =
            serde_json::from_str(call["function"]["arguments"].as_str().expect("a text")).expect("JSON");
        assert!(
            arguments["city"].is_string() && arguments["days"].as_i64().is_some_and(|d| (1..=9).contains(&d)),
            "{arguments}"
        );
        call["id"].clone()
    };
    let whole = server.ok(CHAT, &body);
    let choice = &whole["choices"][0];
    assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
    assert_eq!(choice["message"]["tool_calls"].as_array().map(Vec::len), Some(1));
    let id = check(&choice["message"]["tool_calls"][0]);

    let streamed = chunks(&server, CHAT, &body);
    let calls: Vec<&Value> =
        streamed.iter().map(|c| &c["choices"][0]["delta"]["tool_calls"]).filter(|c| c.is_array()).collect();
    assert_eq!((calls.len(), &calls[0][0]["index"]), (1, &json!(0)));
    check(&calls[0][0]);
    assert_eq!(streamed.last().map(|c| &c["choices"][0]["finish_reason"]), Some(&json!("tool_calls")));

    // The call and its result go back as they came.
    let mut talk = body["messages"].as_array().expect("messages").clone();
    talk.push(choice["message"].clone());
    talk.push(json!({"role": "tool", "tool_call_id": id, "content": "dry"}));
    let next = server.ok(CHAT, &json!({"messages": talk, "tools": weather(), "temperature": 0, "max_tokens": 8}));
    assert!(next["choices"][0]["message"]["content"].is_string());

    let required = with(body.clone(), json!({"tool_choice": "required", "parallel_tool_calls": false}));
    for seed in 0..4 {
        let whole = server.ok(CHAT, &with(required.clone(), json!({"seed": seed})));
        let name = &whole["choices"][0]["message"]["tool_calls"][0]["function"]["name"];
        assert!(["weather", "stop"].contains(&name.as_str().expect("a name")), "{whole}");
    }
    // Thoughts that the prompt begins come first; the model of this test never ends one by itself.
    let thinking = with(
        body.clone(),
        json!({"chat_template_kwargs": {"enable_thinking": true}, "max_tokens": 20, "temperature": 0}),
    );
    let message = &server.ok(CHAT, &thinking)["choices"][0]["message"];
    assert!(message["reasoning_content"].is_string() && message["content"] == "", "{message}");
    // A strict function holds calls to its schema where the model makes one.
    let mut strict = weather();
    strict[0]["function"]["strict"] = json!(true);
    let auto = json!({"messages": body["messages"], "tools": strict, "temperature": 0, "max_tokens": 20});
    assert!(server.ok(CHAT, &auto)["choices"][0]["message"]["content"].is_string());

    for (fields, part) in [
        (json!({"tool_choice": {"type": "function", "function": {"name": "no"}}}), "no"),
        (json!({"response_format": {"type": "json_object"}, "tool_choice": "auto"}), "response_format"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "tool_call_id"),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}]}),
            "arguments",
        ),
    ] {
        let (status, error) = server.post(CHAT, &with(body.clone(), fields));
        assert!(status == 400 && error["error"]["message"].as_str().is_some_and(|m| m.contains(part)), "{error}");
    }
    let (status, error) = serve(settings()).post(CHAT, &with(question("1"), json!({"tools": weather()})));
    assert!(status == 400 && error.to_string().contains("this model calls no tools"), "{error}");
}

#[test]
fn calls_between_tags_are_held_to_the_types_of_the_schema() {
    // As Qwen3-Coder's template writes them.
    let template = TEMPLATE.replace(
        "'<tool_call>\\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' + (c.function.arguments | tojson) + '}\\n</tool_call>' }}",
        "'<tool_call>\\n<function=' + c.function.name + '>\\n' }}{%- for k, v in c.function.arguments | items %}\
         {{- '<parameter=' + k + '>\\n' + (v | string) + '\\n</parameter>\\n' }}{%- endfor %}{{- '</function>\\n</tool_call>' }}",
    );
    assert!(template.contains("<parameter="), "{template}");
    let folder = with_template(&template);
    let server = caller(folder.path());
    let mut tools = weather();
    tools[0]["function"]["parameters"]["properties"]["unit"] = json!({"enum": ["C", "F"]});
    tools[0]["function"]["parameters"]["required"] = json!(["city", "days", "unit"]);
    let body = json!({"messages": [{"role": "user", "content": "Rain?"}], "tools": tools, "max_tokens": 200,
        "tool_choice": {"type": "function", "function": {"name": "weather"}}});
    for seed in 0..4 {
        let whole = server.ok(CHAT, &with(body.clone(), json!({"seed": seed, "temperature": 1})));
        let choice = &whole["choices"][0];
        assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &Value::Null));
        let text = choice["message"]["tool_calls"][0]["function"]["arguments"].as_str().expect("a text");
        let arguments: Value = serde_json::from_str(text).expect("JSON");
        assert!(arguments["city"].as_str().is_some_and(|c| c.chars().count() <= 5), "{text}");
        assert!(arguments["days"].as_i64().is_some_and(|d| (1..=9).contains(&d)), "{text}");
        assert!(["C", "F"].contains(&arguments["unit"].as_str().unwrap_or_default()), "{text}");
        // And back, with its result.
        let mut talk = body["messages"].as_array().expect("messages").clone();
        talk.push(choice["message"].clone());
        talk.push(json!({"role": "tool", "tool_call_id": choice["message"]["tool_calls"][0]["id"], "content": "dry"}));
        let next = server.ok(CHAT, &json!({"messages": talk, "tools": tools, "temperature": 0, "max_tokens": 8}));
        assert!(next["choices"][0]["message"]["content"].is_string());
    }
    let required = with(body.clone(), json!({"tool_choice": "required", "temperature": 0, "stream": true}));
    let events = chunks(&server, CHAT, &required);
    let calls: Vec<&Value> =
        events.iter().map(|c| &c["choices"][0]["delta"]["tool_calls"]).filter(|c| c.is_array()).collect();
    assert!(!calls.is_empty() && calls.iter().all(|c| c[0]["function"]["name"].is_string()), "{events:?}");
    // A strict function holds calls to its schema where the model makes one; the other takes any arguments.
    tools[0]["function"]["strict"] = json!(true);
    let auto = json!({"messages": body["messages"], "tools": tools, "temperature": 0, "max_tokens": 20});
    assert!(server.ok(CHAT, &auto)["choices"][0]["message"]["content"].is_string());
    tools[0]["function"]["parameters"]["properties"]["city"]["pattern"] = json!("^L");
    let (status, error) = server.post(CHAT, &with(body, json!({"tools": tools})));
    assert!(status == 400 && error.to_string().contains("the pattern"), "{error}");
}

#[test]
fn responses_are_the_answers_of_chats() {
    let server = serve(settings());
    let body = json!({"input": "What is the capital of Peru?", "temperature": 0, "instructions": null});
    let whole = server.ok(RESPONSES, &body);
    assert_eq!(
        (&whole["object"], &whole["status"], &whole["store"]),
        (&json!("response"), &json!("completed"), &json!(false))
    );
    assert_eq!(
        whole["output"][0]["content"][0],
        json!({"type": "output_text", "text": "Lima", "annotations": [], "logprobs": []})
    );
    assert_eq!(whole["usage"]["output_tokens"], 4);
    let events = chunks(&server, RESPONSES, &body);
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().expect("a type")).collect();
    let head =
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"];
    let tail =
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.completed"];
    assert!(kinds.starts_with(&head) && kinds.ends_with(&tail), "{kinds:?}");
    let text: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
    assert_eq!(text, "Lima");
    assert!(events.iter().enumerate().all(|(i, e)| e["sequence_number"] == i), "numbers count");
    assert_eq!(events.last().map(|e| &e["response"]["output"]), Some(&json!([events[events.len() - 2]["item"]])));
    let short = server.ok(RESPONSES, &with(body.clone(), json!({"max_output_tokens": 2})));
    assert_eq!(
        (&short["status"], &short["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
    let (status, error) = server.post(RESPONSES, &with(body, json!({"previous_response_id": "resp_1"})));
    assert_eq!((status, error["error"]["param"].as_str()), (400, Some("previous_response_id")));

    let server = with_tools();
    let tool = json!({"type": "function", "name": "stop", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}});
    let body = json!({"input": [{"role": "user", "content": "Stop!"}], "tools": [tool], "temperature": 0,
        "tool_choice": {"type": "function", "name": "stop"}});
    let call = &server.ok(RESPONSES, &body)["output"][0];
    assert_eq!(
        (&call["type"], &call["name"], &call["arguments"]),
        (&json!("function_call"), &json!("stop"), &json!("{}"))
    );
    let kinds: Vec<Value> = chunks(&server, RESPONSES, &body).iter().map(|e| e["type"].clone()).collect();
    assert!(kinds.contains(&json!("response.function_call_arguments.done")), "{kinds:?}");
}

#[test]
fn pages_of_allowed_origins_may_ask_and_names_may_have_a_tag() {
    let key = "s3cret";
    let server = serve(common::Settings {
        allow_origins: vec!["https://chat.example".to_owned()],
        api_key: Some(key.into()),
        ..settings()
    });
    let preflight = |origin: &str| {
        let request = ureq::http::Request::builder()
            .method("OPTIONS")
            .uri(server.url(CHAT))
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,x-stainless-os")
            .body(())
            .expect("a request");
        agent().run(request).expect("an answer")
    };
    let allowed = preflight("https://chat.example");
    assert_eq!(allowed.status().as_u16(), 204);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://chat.example");
    assert_eq!(allowed.headers()["access-control-allow-headers"], "authorization,x-stainless-os");
    let other = preflight("https://evil.example");
    assert!(other.status().as_u16() == 401 && other.headers().get("access-control-allow-origin").is_none());
    // A refusal can be read by the page, too.
    for (authorization, status) in [("Bearer wrong", 401), ("Bearer s3cret", 200)] {
        let request = agent().get(server.url("/v1/models/tiny-qwen3:latest")).header("Origin", "https://chat.example");
        let answer = request.header("Authorization", authorization).call().expect("an answer");
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://chat.example");
    }
}

#[test]
fn a_model_of_best_tokens_only_refuses_what_needs_probabilities() {
    let folder = folder("../conformance/language_layouts/qwen3-monolithic-argmax");
    let settings = settings();
    let models = Models::load(&[("best".to_owned(), folder)], &settings).expect("the model");
    let server = run(models, settings);
    let body = json!({"prompt": [1, 2, 3], "max_tokens": 2});
    server.ok(TEXT, &body);
    for (fields, param) in [
        (json!({"logprobs": 1}), "logprobs"),
        (json!({"response_format": {"type": "json_object"}}), "response_format"),
        (json!({"logit_bias": {"1": 2}}), "logit_bias"),
        (json!({"presence_penalty": 1}), "presence_penalty"),
        (json!({"temperature": 1}), "temperature"),
    ] {
        let (status, error) = server.post(TEXT, &with(body.clone(), fields));
        assert_eq!((status, error["error"]["param"].as_str()), (400, Some(param)), "{error}");
    }
}

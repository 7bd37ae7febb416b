//! Conversations rendered with templates, against what transformers renders: `tools/chat_templates.py`.

use std::path::Path;

use super::*;
use crate::generation::{ChatTemplate, TemplateLimits};

/// A conversation of the file.
fn conversation(given: &Value) -> Conversation {
    let list = |name: &str| given.get(name).map(|v| v.as_array().expect("a list").clone());
    Conversation {
        messages: list("messages").expect("messages"),
        tools: list("tools"),
        documents: list("documents"),
        ending: match given.get("end").and_then(Value::as_str) {
            None => Ending::Prompt,
            Some("none") => Ending::Closed,
            Some("continue") => Ending::Continued,
            Some(other) => panic!("an ending `{other}`"),
        },
        variables: given.get("variables").map(|v| v.as_object().expect("names").clone()).unwrap_or_default(),
        template: None,
    }
}

/// Renders every case of a file; returns what differs, and the number of cases that transformers renders.
fn differences(file: &Value) -> (Vec<String>, usize) {
    let (mut wrong, mut rendered) = (Vec::new(), 0);
    for (name, template) in file["templates"].as_object().expect("templates") {
        let source = template["source"].as_str().expect("a source");
        let parsed = ChatTemplate::parse(Path::new(name), source, "", "", TemplateLimits::default());
        for (case, expected) in template["cases"].as_object().expect("cases") {
            let mut given = conversation(&file["conversations"][case]);
            let tokens = file["tokens"].as_object().expect("tokens").clone();
            given.variables = tokens.into_iter().chain(std::mem::take(&mut given.variables)).collect();
            let found = match &parsed {
                Ok(template) => template.render_conversation(&given).map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            let text = expected["text"].as_str();
            rendered += usize::from(text.is_some());
            match (&found, text) {
                (Ok(found), Some(text)) if found == text => {}
                (Err(_), None) => {}
                (Ok(found), Some(text)) => {
                    let same = found.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
                    let part = |s: &str| {
                        String::from_utf8_lossy(
                            &s.as_bytes()[same.saturating_sub(60)..][..140.min(s.len() - same.saturating_sub(60))],
                        )
                        .into_owned()
                    };
                    wrong.push(format!(
                        "{name}: {case}: at {same}\n  found    {:?}\n  expected {:?}",
                        part(found),
                        part(text)
                    ));
                }
                (Ok(found), None) => {
                    wrong.push(format!("{name}: {case}: rendered {} bytes; {}", found.len(), expected["error"]))
                }
                (Err(e), Some(_)) => wrong.push(format!("{name}: {case}: {e}")),
            }
        }
    }
    (wrong, rendered)
}

/// Templates of our own with the constructs of published ones: tools, calls, results, documents, thoughts.
#[test]
fn conversations_are_rendered_as_transformers_renders_them() {
    let file = serde_json::from_str(include_str!("cases.json")).expect("JSON");
    let (wrong, rendered) = differences(&file);
    assert!(wrong.is_empty(), "{} differ, of {rendered} that render:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rendered > 140, "{rendered}");
}

fn parse(source: &str) -> ChatTemplate {
    ChatTemplate::parse(Path::new("t"), source, "<s>", "</s>", TemplateLimits::default()).expect("a template")
}

#[test]
fn what_is_no_conversation_is_refused() {
    let template = parse("{{ messages[0].content }}");
    let user = serde_json::json!({"role": "user", "content": "Hi"});
    let given = |change: &dyn Fn(&mut Conversation)| {
        let mut conversation = Conversation { messages: vec![user.clone()], ..Conversation::default() };
        change(&mut conversation);
        template.render_conversation(&conversation).map_err(|e| e.to_string())
    };
    assert_eq!(given(&|_| {}).as_deref(), Ok("Hi"));
    for (change, part) in [
        (&(|c: &mut Conversation| c.messages.clear()) as &dyn Fn(&mut Conversation), "no messages"),
        (&|c| c.messages.push("Hi".into()), "message 1 of the conversation is not an object"),
        (&|c| c.tools = Some(vec![1.into()]), "tool 0 of the conversation is not an object"),
        (&|c| c.documents = Some(vec![Value::Null]), "document 0 of the conversation is not an object"),
        (&|c| drop(c.variables.insert("tools".to_owned(), Value::Null)), "`tools` is a field"),
        (&|c| c.template = Some("rag".to_owned()), "chat template `rag` is not in t; available: default"),
        (&|c| drop(c.variables.insert("n".to_owned(), u64::MAX.into())), "64 bits"),
    ] {
        let message = given(change).expect_err(part);
        assert!(message.contains(part), "{message}");
    }
    let mut deep = Value::Null;
    for _ in 0..100 {
        deep = vec![deep].into();
    }
    assert!(given(&|c| drop(c.variables.insert("n".to_owned(), deep.clone()))).expect_err("deep").contains("levels"));
}

#[test]
fn a_message_is_continued_or_not_at_all() {
    let ending = |source: &str, last: Value| {
        let conversation = Conversation { messages: vec![last], ending: Ending::Continued, ..Conversation::default() };
        parse(source).render_conversation(&conversation).map_err(|e| e.to_string())
    };
    let text = |content: &str| serde_json::json!({"role": "assistant", "content": content});
    let plain = "{{ messages[0].content }}{{ eos_token }}";
    assert_eq!(ending(plain, text("Well, ")).as_deref(), Ok("Well, "));
    assert_eq!(ending("{{ messages[0].content | trim }}</s>", text("Well, ")).as_deref(), Ok("Well,"));
    for (source, last, part) in [
        ("{{ messages[0].text }}", text("a"), "does not read `content`"),
        ("{{ messages[0].content[:2] }}", text("Well"), "changes or drops"),
        ("{{ messages[0].content | upper }}", text("Well"), "changes or drops"),
        (plain, serde_json::json!({"role": "assistant"}), "no text to continue"),
        (plain, serde_json::json!({"content": [{"type": "image"}]}), "no text to continue"),
        (plain, serde_json::json!({"content": null}), "no text to continue"),
    ] {
        let message = ending(source, last).expect_err(part);
        assert!(message.contains(part), "{message}");
    }
}

/// Files of a model's folder, and the templates found.
fn folder(files: &[(&str, &str)]) -> crate::error::Result<Option<ChatTemplate>> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("written");
    }
    let settings = crate::files::json_if_there(&folder.path().join("tokenizer_config.json")).expect("JSON");
    ChatTemplate::load(folder.path(), &settings.unwrap_or_default(), TemplateLimits::default())
}

/// As transformers chooses: files before settings, `tool_use` for tools.
#[test]
fn templates_are_found_and_chosen_by_name() {
    let render = |files: &[(&str, &str)], tools: bool, name: Option<&str>| {
        let messages = vec![serde_json::json!({"role": "user", "content": "Hi"})];
        let tools = tools.then(Vec::new);
        let template = name.map(str::to_owned);
        let conversation = Conversation { messages, tools, template, ..Conversation::default() };
        let found = folder(files).map_err(|e| e.to_string())?.ok_or("none")?;
        found.render_conversation(&conversation).map_err(|e| e.to_string())
    };
    let config = "tokenizer_config.json";
    let list = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"},
        {"name": "rag", "template": "r"}, {"name": "broken", "template": "{{"}]}"#;
    assert_eq!(render(&[(config, list)], false, None).as_deref(), Ok("d"));
    assert_eq!(render(&[(config, list)], true, None).as_deref(), Ok("t"));
    assert_eq!(render(&[(config, list)], true, Some("rag")).as_deref(), Ok("r"));
    assert!(render(&[(config, list)], true, Some("broken")).expect_err("broken").contains("chat template: line 1"));
    let one =
        r#"{"chat_template": "c{{ pad_token }}{{ unk_token }}", "pad_token": {"content": "<p>"}, "unk_token": null}"#;
    assert_eq!(render(&[(config, one)], true, None).as_deref(), Ok("c<p>"));
    let file = ("chat_template.jinja", "f");
    assert_eq!(render(&[(config, list), file], true, None).as_deref(), Ok("f"));
    let more = [(config, list), file, ("chat_templates/tool_use.jinja", "ft"), ("chat_templates/x.txt", "no")];
    assert_eq!(render(&more, true, None).as_deref(), Ok("ft"));
    assert_eq!(render(&more, false, None).as_deref(), Ok("f"));
    assert_eq!(render(&[("chat_template.json", r#"{"chat_template": "p"}"#)], false, None).as_deref(), Ok("p"));
    assert_eq!(render(&[(config, "{}")], false, None), Err("none".to_owned()));
    let unnamed = r#"{"chat_template": [{"name": "a", "template": "1"}, {"name": "b", "template": "2"}]}"#;
    let message = render(&[(config, unnamed)], false, None).expect_err("no default");
    assert!(message.contains("`default` is not in") && message.contains("a, b"), "{message}");
    assert_eq!(render(&[(config, unnamed)], false, Some("b")).as_deref(), Ok("2"));
    let only = r#"{"chat_template": {"chat": "1"}}"#;
    assert_eq!(render(&[(config, only)], true, None).as_deref(), Ok("1"));
    assert!(folder(&[(config, r#"{"chat_template": "{{"}"#)]).is_err());
}

/// Cases of a file made from other templates, if there is one.
#[test]
fn conversations_of_a_file_are_rendered_as_transformers_renders_them() {
    let Some(path) = std::env::var_os("CANDLE_COREML_CONVERSATIONS") else { return };
    let file = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("JSON");
    let (wrong, rendered) = differences(&file);
    assert!(wrong.is_empty(), "{} differ, of {rendered} that render:\n{}", wrong.len(), wrong.join("\n"));
}

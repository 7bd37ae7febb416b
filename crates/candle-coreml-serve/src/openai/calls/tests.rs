//! Forms of published templates, written down by hand from how they write calls, and read back.

use candle_coreml::generation::TemplateLimits;
use serde_json::json;

use super::*;
use crate::openai::split::{Part, Splitter};

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

fn parsed(template: &str) -> ChatTemplate {
    let path = std::path::Path::new("template");
    ChatTemplate::parse(path, template, "", "", TemplateLimits::default()).expect("a template")
}

fn form(template: &str) -> Result<CallForm, ApiError> {
    CallForm::of(&parsed(template), &[json!({"type": "function", "function": {"name": "f", "parameters": {}}})])
}

/// The form of a template that writes the calls of a message like this.
fn of_calls(calls: &str) -> CallForm {
    let text = format!(
        "{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n\
         {{{{ m.content }}}}{calls}<|im_end|>\n{{% endfor %}}"
    );
    form(&text).expect("a form")
}

fn object(form: &CallForm) -> ([&str; 3], &str) {
    let Shape::Object { pieces, arguments, .. } = &form.shape else { panic!("{form:?}") };
    ([&pieces[0], &pieces[1], &pieces[2]], arguments)
}

/// Calls as published templates write them.
const CODER: &str = "{% for c in m.tool_calls %}{{ '\n<tool_call>\n<function=' + c.function.name + '>\n' }}\
    {% for k, v in c.function.arguments | items %}{{ '<parameter=' + k + '>\n' }}\
    {{ v if v is string else v | tojson }}{{ '\n</parameter>\n' }}{% endfor %}{{ '</function>\n</tool_call>' }}{% endfor %}";
const GLM: &str = "{% for c in m.tool_calls %}{{ '\n<tool_call>' + c.function.name + '\n' }}\
    {% for k, v in c.function.arguments.items() %}<arg_key>{{ k }}</arg_key>{{ '\n' }}<arg_value>\
    {{ v if v is string else v | tojson }}</arg_value>{{ '\n' }}{% endfor %}</tool_call>{% endfor %}";
const INVOKE: &str = "{% if m.tool_calls %}{{ '\n<minimax:tool_call>\n' }}{% for c in m.tool_calls %}\
    {{ '<invoke name=\"' + c.function.name + '\">\n' }}{% for k, v in c.function.arguments.items() %}\
    {{ '<parameter name=\"' + k + '\">' }}{{ v if v is string else v | tojson }}{{ '</parameter>\n' }}{% endfor %}\
    {{ '</invoke>\n' }}{% endfor %}</minimax:tool_call>{% endif %}";
const CDATA: &str = "{% for c in m.tool_calls %}<function name=\"{{ c.function.name }}\">\
    {% for k, v in c.function.arguments.items() %}<param name=\"{{ k }}\">{% if v is string %}<![CDATA[{{ v }}]]>{% else %}\
    {{ v | tojson }}{% endif %}</param>{% endfor %}</function>{% endfor %}";
const ARGS: &str = "{% for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[CALL_ID]{{ c.id }}[ARGS]\
    {{ c.function.arguments | tojson }}{% endfor %}";
const SECTIONS: &str = "{% if m.tool_calls %}<｜tool▁calls▁begin｜>{% for c in m.tool_calls %}\
    <｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ c.function.name + '\n```json\n' + c.function.arguments + '\n```' }}\
    <｜tool▁call▁end｜>{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}<｜tool▁calls▁end｜>{% endif %}";
const COUNTED: &str = "{% if m.tool_calls %}<|tool_calls_section_begin|>{% for c in m.tool_calls %}<|tool_call_begin|>{{ c.id }}\
    <|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>{% endfor %}<|tool_calls_section_end|>{% endif %}";
const FUNCTION: &str = "{% for c in m.tool_calls %}<function={{ c.function.name }}>{{ c.function.arguments | tojson }}</function>\
    {% endfor %}";
const LISTED: &str = "{% if m.tool_calls %}<|tools_prefix|>[{% for c in m.tool_calls %}{\"{{ c.function.name }}\": \
    {{ c.function.arguments | tojson }}}{% if not loop.last %}, {% endif %}{% endfor %}]<|tools_suffix|>{% endif %}";

fn tools() -> std::sync::Arc<[Tool]> {
    let weather = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "hot": {"type": "boolean"},
        "more": {"$ref": "#/$defs/more"}, "any": {"type": ["number", "null"]}, "free": {}},
        "$defs": {"more": {"anyOf": [{"type": "array"}, {"type": "object"}]}}});
    [Tool::with("weather", weather), Tool::any("weather_now")].into()
}

/// What a text is, in one piece and letter by letter: texts and calls with their arguments and identifiers.
fn read(form: &CallForm, text: &str) -> Vec<Value> {
    let of = |pieces: &[String]| {
        let mut splitter = Splitter::chat(false, Some((std::sync::Arc::new(form.clone()), tools())));
        let mut parts: Vec<Part> = pieces.iter().flat_map(|p| splitter.push(p)).collect();
        parts.extend(splitter.end());
        let mut all: Vec<Value> = Vec::new();
        for part in parts {
            match (part, all.last_mut()) {
                (Part::Content(text), Some(Value::String(last))) => last.push_str(&text),
                (Part::Content(text), _) => all.push(text.into()),
                (Part::Call(call), _) => {
                    let arguments: Value = serde_json::from_str(&call.arguments).expect("JSON");
                    all.push(json!([call.name, arguments, call.id]));
                }
                (Part::Reasoning(text), _) => panic!("{text}"),
            }
        }
        all
    };
    let whole = of(&[text.to_owned()]);
    assert_eq!(of(&text.chars().map(String::from).collect::<Vec<_>>()), whole, "{text:?}");
    whole
}

#[test]
fn forms_are_found_in_templates() {
    let hermes = form(HERMES).expect("a form");
    assert_eq!((hermes.open.as_str(), hermes.close.as_str()), ("<tool_call>\n", "\n</tool_call>"));
    assert_eq!(hermes.gap.as_deref(), Some("\n</tool_call>\n<tool_call>\n"));
    assert_eq!(object(&hermes).0, ["{\"name\": \"", "\", \"arguments\": ", "}"]);
    assert_eq!((hermes.mark(), hermes.end_mark()), ("<tool_call>", "</tool_call>"));
    let list = form(LIST).expect("a form");
    assert_eq!((list.open.as_str(), list.close.as_str(), list.gap.as_deref()), ("[TOOL_CALLS] [", "]", Some(", ")));
    assert_eq!((list.mark(), list.end_mark()), ("[TOOL_CALLS]", ""));
    assert!(object(&list).0[2].contains(pieces::ID));
    let bare = form(BARE).expect("a form");
    assert_eq!((bare.mark(), bare.gap.as_deref(), object(&bare).1), ("", None, "parameters"));
    let read = |value: Value| read_object(&value, ["name", "parameters"], &[Tool::any("f")]);
    let call = Call { id: None, name: "f".to_owned(), arguments: "{\"a\":[1]}".to_owned() };
    assert_eq!(read(json!({"name": "f", "parameters": {"a": [1]}})), Some(call));
    assert_eq!(read(json!({"name": "f", "parameters": "no"})), None);
}

#[test]
fn calls_of_published_templates_are_read_with_types_of_the_schema() {
    let lima = json!(["weather", {"city": "Li\nma", "days": 2}, null]);
    let none = json!(["weather_now", {}, null]);
    for (name, calls, one, empty) in [
        (
            "Qwen3-Coder",
            CODER,
            "<tool_call>\n<function=weather>\n<parameter=city>\nLi\nma\n</parameter>\n<parameter=days>\n2\n</parameter>\n\
             </function>\n</tool_call>",
            "<tool_call>\n<function=weather_now>\n</function>\n</tool_call>",
        ),
        (
            "GLM-4.5",
            GLM,
            "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Li\nma</arg_value>\n<arg_key>days</arg_key>\n\
             <arg_value>2</arg_value>\n</tool_call>",
            "<tool_call>weather_now\n</tool_call>",
        ),
        (
            "MiniMax-M2",
            INVOKE,
            "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">Li\nma</parameter>\n\
             <parameter name=\"days\">2</parameter>\n</invoke>\n</minimax:tool_call>",
            "<minimax:tool_call>\n<invoke name=\"weather_now\">\n</invoke>\n</minimax:tool_call>",
        ),
        (
            "MiniCPM5",
            CDATA,
            "<function name=\"weather\"><param name=\"city\"><![CDATA[Li\nma]]></param><param name=\"days\">2</param></function>",
            "<function name=\"weather_now\"></function>",
        ),
        (
            "DeepSeek-V3",
            SECTIONS,
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"Li\\nma\", \"days\": 2}\n\
             ```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather_now\n```json\n{}\n```<｜tool▁call▁end｜>\
             <｜tool▁calls▁end｜>",
        ),
        (
            "Functionary 3.1",
            FUNCTION,
            "<function=weather>{\"city\": \"Li\\nma\", \"days\": 2}</function>",
            "<function=weather_now>{}</function>",
        ),
        (
            "Apertus",
            LISTED,
            "<|tools_prefix|>[{\"weather\": {\"city\": \"Li\\nma\", \"days\": 2}}]<|tools_suffix|>",
            "<|tools_prefix|>[{\"weather_now\": {}}]<|tools_suffix|>",
        ),
    ] {
        let form = of_calls(calls);
        assert_eq!(read(&form, one), std::slice::from_ref(&lima), "{name}");
        assert_eq!(read(&form, empty), std::slice::from_ref(&none), "{name}");
        assert_eq!(
            read(&form, &format!("Well.\n\n{one} Done.")),
            [json!("Well."), lima.clone(), json!("Done.")],
            "{name}"
        );
        assert_eq!(read(&form, &format!("{one}\n{one}\n")), [lima.clone(), lima.clone()], "{name}");
        // Cut, of an unknown function, with no call behind the mark: texts, as they came.
        let unknown = one.replace("weather", "wether");
        let mark = format!("A {} b", form.mark());
        for text in [&one[..one.find("ma").expect("a value")], &unknown, &mark] {
            assert_eq!(read(&form, text), [json!(text)], "{name}");
        }
        let after = format!("{mark} {one}");
        assert_eq!(read(&form, &after), [json!(mark), lima.clone()], "{name}");
    }
}

#[test]
fn several_calls_follow_each_other_as_templates_write_them() {
    let call = |city: &str, id: Option<&str>| json!(["weather", {"city": city}, id]);
    let deep = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"a\"}\n```\
        <｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"city\": \"b\"}\n```<｜tool▁call▁end｜>\
        <｜tool▁calls▁end｜>";
    let form = of_calls(SECTIONS);
    assert!(form.text_arguments && form.gap.is_some());
    assert_eq!(read(&form, deep), [call("a", None), call("b", None)]);
    let mut messages =
        [json!({"tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]}), json!({"role": "user"})];
    form.prepare(&mut messages);
    assert_eq!(messages[0]["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
    assert_eq!(messages[1], json!({"role": "user"}));

    let xml = "<minimax:tool_call>\n<invoke name=\"weather\">\n<parameter name=\"city\">a</parameter>\n</invoke>\n\
        <invoke name=\"weather\">\n<parameter name=\"city\">b</parameter>\n</invoke>\n</minimax:tool_call>";
    assert_eq!(read(&of_calls(INVOKE), xml), [call("a", None), call("b", None)]);

    // Identifiers of the model go out, and come back with the results.
    let mistral = "[TOOL_CALLS]weather[CALL_ID]abcDEF123[ARGS]{\"city\": \"a\"}[TOOL_CALLS]weather[CALL_ID]abcDEF124[ARGS]{\"city\": \"b\"}";
    assert_eq!(read(&of_calls(ARGS), mistral), [call("a", Some("abcDEF123")), call("b", Some("abcDEF124"))]);
    let kimi = "<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{\"city\": \"a\"}\
        <|tool_call_end|><|tool_call_begin|>functions.weather:1<|tool_call_argument_begin|>{\"city\": \"b\"}<|tool_call_end|>\
        <|tool_calls_section_end|>";
    let both = [call("a", Some("functions.weather:0")), call("b", Some("functions.weather:1"))];
    assert_eq!(read(&of_calls(COUNTED), kimi), both);
}

#[test]
fn values_between_tags_have_the_types_of_their_schemas() {
    let form = of_calls(CODER);
    for (key, text, value) in [
        ("city", "12", json!("12")),
        ("city", "  a <b>\n\n", json!("  a <b>\n\n")),
        ("days", "12", json!(12)),
        ("days", "twelve", json!("twelve")),
        ("days", "1.5", json!("1.5")),
        ("hot", "True", json!(true)),
        ("hot", "false", json!(false)),
        ("more", "[1, {\"a\": null}]", json!([1, {"a": null}])),
        ("more", "{\"a\": [}", json!("{\"a\": [}")),
        ("any", "None", json!(null)),
        ("any", "1e2", json!(100.0)),
        ("free", "3", json!("3")),
        ("unknown", "true", json!("true")),
    ] {
        let text = format!(
            "<tool_call>\n<function=weather>\n<parameter={key}>\n{text}\n</parameter>\n</function>\n</tool_call>"
        );
        assert_eq!(read(&form, &text), [json!(["weather", {key: value}, null])], "{text}");
    }
    // White space is the model's affair, the end may be cut by the end of the answer.
    let tight = "<tool_call><function=weather><parameter=city>a</parameter><parameter=days>2</parameter></function></tool_call>";
    assert_eq!(read(&form, tight), [json!(["weather", {"city": "a", "days": 2}, null])]);
    let cut = "<tool_call>\n<function=weather>\n<parameter=city>\na\n</parameter>\n</function>";
    assert_eq!(read(&form, cut), [json!(["weather", {"city": "a"}, null])]);
    let wrong = "<tool_call>\n<function=weather>\n<parameter=city>\na\n</parameter>\n<other>";
    assert_eq!(read(&form, wrong), [json!(wrong)]);
}

#[test]
fn templates_without_calls_are_refused_with_the_reason() {
    for (template, part) in [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "no place for tools"),
        ("{% if tools %}{{ raise_exception('none here') }}{% endif %}", "none here"),
        ("{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}", "writes no calls"),
        // Values that nothing ends, and those that are written by their types.
        (
            "{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}[{{ c.function.name }}({% for k, v in \
             c.function.arguments.items() %}{{ k }}={{ v }}{% if not loop.last %}, {% endif %}{% endfor %})]{% endfor %}{% endfor %}",
            "in JSON or tags",
        ),
    ] {
        let error = form(template).expect_err(part);
        assert!(error.status.as_u16() == 400 && error.message.contains(part), "{error:?}");
    }
    // The prompt says how calls are written, though the template writes none.
    let told = "{% if tools %}Answer with <|tool_call|> followed by a JSON list: {{ tools | tojson }}{% endif %}\
        {% for m in messages %}{{ m.content }}{% endfor %}";
    let granite = form(told).expect("a form");
    let text = "<|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"days\": 1}}]";
    assert_eq!(read(&granite, text), [json!(["weather", {"days": 1}, null])]);
}

//! Templates with the expected output; attacks with the limits that stop them.

use super::*;

fn messages(all: &serde_json::Value) -> Value {
    Value::of_json(all).expect("plain JSON")
}

fn render_with(source: &str, messages: Value, limits: &TemplateLimits) -> Result<String> {
    let variables = vec![
        ("messages", messages),
        ("add_generation_prompt", Value::Bool(true)),
        ("bos_token", "<s>".into()),
        ("eos_token", "</s>".into()),
    ];
    Template::parse(source, limits)?.render(variables, limits)
}

/// Renders within a tenth of the default limits, to reach them sooner.
fn render(source: &str) -> Result<String> {
    let usual = TemplateLimits::default();
    let limits =
        TemplateLimits { output: usual.output / 10, memory: usual.memory / 10, steps: usual.steps / 10, ..usual };
    render_with(source, messages(&serde_json::json!([{"role": "user", "content": "hi"}])), &limits)
}

/// The expected output comes from Jinja itself: `tools/template_cases.py`.
#[test]
fn templates_render_as_jinja_renders_them() {
    let file: serde_json::Value = serde_json::from_str(include_str!("cases.json")).expect("JSON");
    let mut wrong = Vec::new();
    let cases = file["cases"].as_array().expect("cases");
    assert!(cases.len() > 90, "{} cases", cases.len());
    for case in cases {
        let template = case["template"].as_str().expect("a template");
        let found = render_with(template, messages(&file["messages"]), &TemplateLimits::default());
        match (&found, case["text"].as_str()) {
            (Ok(found), Some(expected)) if found == expected => {}
            (Err(_), None) => {}
            (found, expected) => {
                wrong.push(format!("{template}\n  found    {found:?}\n  expected {expected:?} {}", case["error"]))
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[track_caller]
fn refused(source: &str, kind: &str, part: &str) {
    let shown = quoted(source);
    match render(source) {
        Ok(text) => panic!("{shown}: rendered {} bytes", text.len()),
        Err(e) => assert!(e.kind.name() == kind && e.to_string().contains(part), "{shown}: {e}"),
    }
}

/// One token per nesting level: a few kilobytes make tens of thousands of levels.
#[test]
fn depth_is_bounded_before_anything_recurses_over_it() {
    let many = |text: &str| text.repeat(60_000);
    let between = |open: &str, inner: &str, close: &str| format!("{{{{ {}{inner}{} }}}}", many(open), many(close));
    for (source, part) in [
        (format!("{{{{ {}1 }}}}", many("-")), "levels of nesting"),
        (format!("{{{{ {}1 }}}}", many("+")), "levels of nesting"),
        (format!("{{{{ {}1 }}}}", many("not ")), "levels of nesting"),
        (between("(", "1", ")"), "levels of nesting"),
        (between("[", "1", "]"), "levels of nesting"),
        (between("{1:", "1", "}"), "levels of nesting"),
        (between("a[", "1", "]"), "levels of nesting"),
        (between("a(", "1", ")"), "levels of nesting"),
        (between("a|e(", "1", ")"), "levels of nesting"),
        (between("a is eq(", "1", ")"), "levels of nesting"),
        (between("a is eq [", "1", "]"), "levels of nesting"),
        (format!("{{{{ a{} }}}}", many(" if 1 else 1")), "levels of nesting"),
        (many("{% if 1 %}"), "levels of nesting"),
        (many("{% for a in b %}"), "levels of nesting"),
        (many("{% set a %}"), "levels of nesting"),
        (many("{% macro a() %}"), "levels of nesting"),
        (many("{% call a() %}"), "levels of nesting"),
        (many("{% filter e %}"), "levels of nesting"),
        (many("{% with %}"), "levels of nesting"),
        (many("{% generation %}"), "levels of nesting"),
        (format!("{{% set {}a{} = 1 %}}", many("("), many(")")), "levels of nesting"),
        (format!("{{% for {}a{} in b %}}", many("("), many(")")), "levels of nesting"),
        (format!("{{{{ 1{} }}}}", many("+1")), "levels of an expression"),
        (format!("{{{{ 1{} }}}}", many("**1")), "levels of an expression"),
        (format!("{{{{ 1{} }}}}", many(" and 1")), "levels of an expression"),
        (format!("{{{{ 1{} }}}}", many(" or 1")), "levels of an expression"),
        (format!("{{{{ a{} }}}}", many(".b")), "levels of an expression"),
        (format!("{{{{ a{} }}}}", many("|e")), "levels of an expression"),
        (format!("{{{{ a{} }}}}", many("[1]")), "levels of an expression"),
        (format!("{{{{ a{} }}}}", many("()")), "levels of an expression"),
        (format!("{{{{ a{} }}}}", many(" if 1")), "levels of an expression"),
        (format!("{{{{ a{} }}}}", many(" is defined")), "levels of an expression"),
    ] {
        refused(&source, "limit", part);
    }
    // Long, but not deep.
    let render = |source: String| render(&source).expect("it renders").len();
    assert_eq!(render(format!("{{{{ 1{} }}}}", "~1".repeat(50_000))), 50_001);
    assert_eq!(render(format!("{{{{ 1{} }}}}", "<=1".repeat(50_000))), 4);
    assert_eq!(render(format!("{{% if 0 %}}{}{{% else %}}x{{% endif %}}", "{% elif 0 %}".repeat(50_000))), 1);
    assert_eq!(render(format!("{{{{ [{}]|length }}}}", "1,".repeat(50_000))), 5);
    assert_eq!(render("{{ 1 }}".repeat(50_000)), 50_000);
}

#[test]
fn values_hold_neither_themselves_nor_more_than_64_levels() {
    let namespace = "{% set n = namespace() %}{% set n.x = n %}{% set n.l = [n] %}";
    for (expression, text) in
        [("n", "<namespace>"), ("n.l", "[<namespace>]"), ("n == n.l", "False"), ("n.x == n", "True")]
    {
        assert_eq!(render(&format!("{namespace}{{{{ {expression} }}}}")).expect(expression), text);
    }
    for expression in
        ["n|tojson", "n.l|tojson", "n < n", "n|length", "[n]|sort", "[n]|unique", "n|list", "{n: 1}", "n|items"]
    {
        let source = format!("{namespace}{{{{ {expression} if not [n, n]|sort is defined else ({expression}) }}}}");
        refused(&source, "value", "");
    }
    let deep = |step: &str, count: usize| {
        format!(
            "{{% set n = namespace(x=1) %}}{{% for i in range({count}) %}}{{% set n.x = {step} %}}{{% endfor %}}{{{{ n.x }}}}"
        )
    };
    for step in
        ["[n.x]", "(n.x,)", "{'a': n.x}", "dict(a=n.x)", "[n.x]|list", "[n.x]|batch(1)|list", "{'a': n.x}.items()"]
    {
        refused(&deep(step, 100_000), "limit", "levels of lists and dictionaries");
    }
    // A few nested lists make 2^60 elements when formatted or compared.
    refused(&deep("[n.x, n.x]", 60), "limit", "");
    let both = "{% set n = namespace(x=1, y=1) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}";
    refused(&format!("{both}{{{{ n.x == n.y }}}}"), "limit", "steps");
    refused(&format!("{both}{{{{ n.x < n.y }}}}"), "limit", "steps");
    refused(&format!("{both}{{{{ n.x|tojson }}}}"), "limit", "");
}

#[test]
fn calls_end() {
    for source in [
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro m(x=m()) %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{% call m() %}{% endcall %}{% endcall %}{% macro r() %}{% call r() %}{% endcall %}{% endmacro %}{{ r() }}",
        "{% set n = namespace() %}{% macro m() %}{{ n.m() }}{% endmacro %}{% set n.m = m %}{{ n.m() }}",
    ] {
        refused(source, "limit", "levels of calls");
    }
}

#[test]
fn memory_and_output_are_counted_before_they_are_taken() {
    let doubled = |step: &str| {
        format!(
            "{{% set n = namespace(x='aaaa', l=[1]) %}}{{% for i in range(60) %}}{{% set n.x = {step} %}}{{% endfor %}}"
        )
    };
    for source in [
        "{{ '%9999999999d'|format(1) }}".to_owned(),
        "{{ '%*d' % (9999999999, 1) }}".to_owned(),
        "{{ '%9999999999s' % 'a' }}".to_owned(),
        "{{ [1]|batch(9999999999, 0)|list }}".to_owned(),
        "{{ [1]|slice(9999999999)|list }}".to_owned(),
        "{{ '{:>9999999999}'.format(1) }}".to_owned(),
        "{{ '{:*^9999999999}'.format('a') }}".to_owned(),
        "{{ {'a': 1}|tojson(indent=9999999999) }}".to_owned(),
        "{{ 'a'|center(9999999999) }}".to_owned(),
        "{{ 'a'.ljust(9999999999) }}".to_owned(),
        "{{ 'a'.rjust(9999999999) }}".to_owned(),
        "{{ 'a'.zfill(9999999999) }}".to_owned(),
        "{{ 'a\nb'|indent(9999999999) }}".to_owned(),
        "{{ 'a' * 9999999999 }}".to_owned(),
        "{{ [1] * 9999999999 }}".to_owned(),
        "{{ (1,) * 9999999999 }}".to_owned(),
        doubled("n.x ~ n.x"),
        doubled("n.x + n.x"),
        doubled("n.x * 2"),
        doubled("n.x|replace('a', 'aa')"),
        doubled("n.x.replace('', 'a')"),
        doubled("n.x|join(n.x)"),
        doubled("n.x.join([n.x, n.x])"),
        doubled("[n.x, n.x]|join"),
        doubled("'%s%s' % (n.x, n.x)"),
        doubled("'%s%s'|format(n.x, n.x)"),
        doubled("'{0}{0}'.format(n.x)"),
        doubled("n.x|e ~ n.x"),
        doubled("[n.x, n.x]|string"),
        doubled("[n.x, n.x]|tojson"),
        doubled("[n.x, n.x]|sum(start='')"),
        doubled("n.x.upper() ~ n.x.title()"),
        doubled("n.x|indent(n.x)  ~ n.x"),
        "{% set n = namespace(l=[1]) %}{% for i in range(60) %}{% set n.l = n.l + n.l %}{% endfor %}".to_owned(),
        "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}{% endfor %}".to_owned(),
        "{% macro m(x) %}{{ x }}{{ x }}{% endmacro %}{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = m(n.x) %}{% endfor %}".to_owned(),
        "{% for i in range(100000) %}{% for j in range(100000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}{% endfor %}".to_owned(),
        "{% set x = range(100000)|list %}{% for i in x %}{% set y = x + x %}{% endfor %}".to_owned(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{% set y = namespace(a=1) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for i in range(100000) %}{% for j in range(100000) %}{% macro m() %}{% endmacro %}{% endfor %}{% endfor %}".to_owned(),
    ] {
        refused(&source, "limit", "");
    }
    refused("{{ '%.9999999999f' % 1 }}", "limit", "digits after the point");
    refused("{{ '{:.999999f}'.format(1) }}", "limit", "digits after the point");
    refused("{{ '%99999999999999999999999d' % 1 }}", "value", "too large");
    refused("{{ range(100001) }}", "limit", "range");
    refused("{{ range(-9223372036854775807, 9223372036854775807) }}", "limit", "range");
    refused(&"a".repeat((1 << 20) + 1), "limit", "bytes of source");
}

#[test]
fn time_is_counted() {
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% if 'b' in s %}{% endif %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% set t = 'a' * 1000000 %}{% for i in range(100000) %}{% if s == t %}{% endif %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% if s|length %}{% endif %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set c = s[0] %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set c = s.count('b') %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for i in range(100000) %}{% set c = s is upper %}{% endfor %}",
        "{% set l = range(100000)|list %}{% for i in l %}{% if -1 in l %}{% endif %}{% endfor %}",
        "{% set l = [[], []] * 100000 %}{% for i in range(100000) %}{% set m = l|select|list %}{% endfor %}",
        "{% set l = [] * 9000000000 %}{% for i in range(9) %}{% set m = [] * 9000000000000 %}{% endfor %}",
    ] {
        refused(source, "limit", "");
    }
}

/// Unordered values, integers at the limits of their range, empty values.
#[test]
fn odd_values_are_errors() {
    for (source, kind) in [
        ("{{ [1, 'a', none, [], 2]|sort }}", "value"),
        ("{{ [('nan'|float), 1, 2]|sort }}", "value"),
        ("{{ 9223372036854775807 + 1 }}", "value"),
        ("{{ (-9223372036854775807 - 1) // -1 }}", "value"),
        ("{{ -(-9223372036854775807 - 1) }}", "value"),
        ("{{ (-9223372036854775807 - 1)|abs }}", "value"),
        ("{{ 9223372036854775807 * 2 }}", "value"),
        ("{{ 2 ** 9999999999 }}", "value"),
        ("{{ 9223372036854775808 }}", "syntax"),
        ("{{ 1 % 0 }}", "value"),
        ("{{ 1 is divisibleby 0 }}", "value"),
        ("{{ [1][::0] }}", "value"),
        ("{{ [1]|batch(0) }}", "value"),
        ("{{ 'a'.split('') }}", "value"),
        ("{{ '%d' % 'a' }}", "value"),
        ("{{ '%' % 1 }}", "value"),
        ("{{ '{' .format() }}", "value"),
        ("{{ '{0}'.format() }}", "value"),
        ("{{ 'a'|int(base=99) }}", "value"),
        ("{{ range(1, 2, 0) }}", "value"),
        ("{{ {[]: 1} }}", "value"),
        ("{% for a, b in [1] %}{% endfor %}", "value"),
        ("{% for a, b in [[1]] %}{% endfor %}", "value"),
        ("{{ '\\ud800' }}", "syntax"),
        ("{{ '\\", "syntax"),
        ("{% raw %}", "syntax"),
        ("{#", "syntax"),
        ("{{", "syntax"),
        ("{% include 'a' %}", "unsupported"),
        ("{% extends 'a' %}", "unsupported"),
        ("{% block a %}{% endblock %}", "unsupported"),
        ("{% import 'a' as b %}", "unsupported"),
        ("{% for a in b recursive %}{% endfor %}", "unsupported"),
        ("{{ dict(**1) }}", "value"),
        ("{{ dict(a=1, **{'a': 2}) }}", "value"),
        ("{{ range(*1) }}", "value"),
        ("{{ range(**{}, 1) }}", "syntax"),
        ("{{ range(*[1], *[2]) }}", "syntax"),
        ("{{ strftime_now('%Q') }}", "unsupported"),
        ("{{ strftime_now(1) }}", "value"),
    ] {
        refused(source, kind, "");
    }
    assert_eq!(render("{{ (-9223372036854775807 - 1) % -1 }}{{ [1, 2][9223372036854775807:] }}{{ 'ab'[-9223372036854775807:] }}{{ [1, 2][::9223372036854775807] }}").expect("they have values"), "0[]ab[1]");
}

#[test]
fn errors_name_their_line() {
    for (source, line) in [
        ("a\n{{ 1 + 'a' }}", 2),
        ("{{ 1\n\n+ }}", 3),
        ("\n\n{% if x %}\n", 3),
        ("{% for i in [1] %}\n\n{{ i.x.y }}\n{% endfor %}", 3),
    ] {
        assert_eq!(render(source).expect_err(source).line, line, "{source:?}");
    }
    let refusal = render("{{ raise_exception('only \\'user\\' may speak') }}").expect_err("raised");
    assert_eq!(refusal.kind, TemplateErrorKind::Raised("only 'user' may speak".to_owned()));
}

/// At the limits, a template fits a 1 MiB stack, half of the usual size.
#[test]
fn templates_at_the_limits_run_on_a_small_stack() {
    let nested = format!("{}x{}", "{% if 1 %}".repeat(62), "{% endif %}".repeat(62));
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(31), ")".repeat(31));
    let lists = format!("{{{{ {}1{} }}}}", "[".repeat(31), "]".repeat(31));
    let chain = format!("{{{{ 1{} }}}}", "+1".repeat(98));
    let filters = format!("{{{{ 1{} }}}}", "|e".repeat(98));
    let calls = "{% macro m(x) %}{{ m([x|upper, 1][0] + 'a') }}{% endmacro %}{{ m('a') }}".to_owned();
    let mapped = "{% macro m(x) %}{% for i in [1] %}{% if x %}{% set y %}{{ [m(x)]|map('upper')|list }}{% endset %}{% endif %}{% endfor %}{% endmacro %}{{ m(1) }}".to_owned();
    let values = "{% set n = namespace(x=1) %}{% for i in range(63) %}{% set n.x = {'a': n.x} %}{% endfor %}{{ n.x }}{{ n.x|tojson }}{{ n.x == n.x }}".to_owned();
    let small = std::thread::Builder::new().stack_size(1 << 20);
    let run = move || {
        for source in [nested, parentheses, lists, chain, filters, values] {
            render(&source).unwrap_or_else(|e| panic!("{}: {e}", quoted(&source)));
        }
        refused(&calls, "limit", "levels of calls");
        refused(&mapped, "limit", "levels of calls");
    };
    small.spawn(run).expect("a thread").join().expect("it neither panics nor overflows");
}

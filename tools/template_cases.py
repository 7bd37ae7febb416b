"""Render small templates with Jinja as configured by transformers, as references for the chat template interpreter.

    python -m tools.template_cases > crates/candle-coreml/src/generation/jinja/cases.json
"""

import json
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

MESSAGES = [
    {"role": "system", "content": "Be brief.\n"},
    {"role": "user", "content": " What's <b>2</b> & \"3\"? "},
    {"role": "assistant", "content": "<think>\nSum.\n</think>\n\nFünf 5"},
    {"role": "user", "content": "Danke"},
]

CASES = r"""
{{ 1 + 2 * 3 ** 2 - 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }}
{{ 1.0 }} {{ 1e16 }} {{ 1e15 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.5e300 }} {{ 100000 * 1.0 }} {{ 1_000 }} {{ 0x1F }} {{ 1 / 3 }}
{{ -2 ** 2 }} {{ -3|abs }} {{ +3 }} {{ not true }} {{ not 1 == 2 }} {{ - - 3 }}
{{ true }} {{ none }} {{ false }} {{ True }} {{ None }} {{ [1, 'a', none, true, 1.5] }} {{ {'a': 1, "b": [2]} }} {{ (1, 2) }} {{ (1,) }} {{ () }} {{ 1, 2 }}
{{ "it's" }} {{ ["it's", 'say "x"', 'both \' "', "tab\t\n\\", "ü\x07\xa0"] }}
{{ 'a' ~ 1 ~ none ~ [2] }} {{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ 3 * 'ab' }} {{ 'ab' * -1 }} {{ [1] + [2] }} {{ [1, 2] * 2 }} {{ (1,) + (2,) }}
{{ 'a' 'b' "c" }} {{ "\x41\u00fc\101\q\
z" }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 'a' == 1 }} {{ {'a': 1} == {'a': 1.0} }} {{ (1,) == [1] }}
{{ 'a' in 'cat' }} {{ 'x' not in 'cat' }} {{ 2 in [1, 2] }} {{ 'a' in {'a': 1} }} {{ 3 not in [1] }} {{ 'x' in nothing }}
{{ 0 or 'x' }} {{ 'x' and 0 }} {{ '' or none or [] }} {{ 1 and 2 or 3 }} {{ not 0 and 1 }}
{{ 'a' if 1 else 'b' }} {{ 'a' if 0 else 'b' if 0 else 'c' }} [{{ 'a' if 0 }}] {{ (1 if 0 else 2) + 3 }}
{{ nothing }}|{{ nothing is defined }}|{{ nothing|default('d') }}|{{ ''|default('d') }}|{{ ''|default('d', true) }}|{{ none|d('x') }}|{{ nothing == nothing2 }}
{{ messages[0].role }} {{ messages[0]['role'] }} {{ messages[-1].content }} {{ messages[9] }}| {{ messages[0].nope }}| {{ messages[0]['nope'] is undefined }}
{{ messages[1:]|length }} {{ messages[:2]|length }} {{ messages[::-1][0].content }} {{ messages[-2:]|map(attribute='role')|join(',') }}
{{ 'Fünf'[1] }} {{ 'Fünf'[1:3] }} {{ 'Fünf'[::-1] }} {{ 'Fünf'[-1] }} {{ 'abc'[5:] }}| {{ 'abcdef'[::2] }} {{ 'abc'[9] }}| {{ [1, 2, 3][-2:] }} {{ [1, 2, 3][5:1:-2] }} {{ (1, 2, 3)[1:] }}
{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('a', 'b') }}{{ loop.depth }} {% endfor %}
{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}>{{ loop.nextitem.role if loop.nextitem else '-' }} {{ loop.changed(m.role) }} {% endfor %}
{% for i in range(3) %}{% set outer = loop %}{% for j in range(2) %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}{% for i in nothing %}x{% else %}none{% endfor %}{% for i in [1] %}y{% else %}n{% endfor %}
{% for i in range(10) if i % 2 %}{{ i }}/{{ loop.length }}{% if i > 6 %}{% break %}{% endif %}{% if i == 3 %}{% continue %}{% endif %}; {% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }},{% endfor %}{% for k in {'a': 1} %}{{ k }}{% endfor %}{% for (a, b), c in [((1, 2), 3)] %}{{ a + b + c }}{% endfor %}
{% for c in 'Fü' %}[{{ c }}]{% endfor %}
{% set x = 1 %}{% for i in range(3) %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1, y=[]) %}{% for i in range(3) %}{% set ns.x = ns.x + 1 %}{% set ns.y = ns.y + [i] %}{% endfor %}{{ ns.x }} {{ ns.y }} {{ ns.nope is defined }} {{ ns.nope }}|
{% set n = namespace() %}{% set n.x = n %}{{ n.x.x.x == n }}{{ n.x is defined }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}{% set (d, e) = [3, 4] %}{{ d }}{{ e }}
{% set x %}  in {{ 1 + 1 }} {% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]
{% if false %}a{% elif 0 %}b{% elif 'x' %}c{% else %}d{% endif %}{% if not messages %}x{% endif %}{% if a is defined and a %}{% else %}e{% endif %}
{% macro m(a, b=2, c='x') %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, c=3) }}{{ m(b=5, a=4) }}{{ m() }}{{ m(1, b=[2]) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}{{ m() }}
{{ range(*[1, 4])|list }} {{ dict(**{'a': 1, 'b': 2}) }} {% macro m(a, b, c=3) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(*[1], b=2) }}{{ m(1, *[2, 4]) }}{{ m(**{'a': 5, 'b': 6}) }}{{ m(b=1, *'x') }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, *(2, 3), x=4, **{'y': 5}) }}{{ dict({'a': 1}, **{'b': 2}) }}{% set f = [m, range] %}{{ f[1](2)|list }}{{ f[0](*'ab') }}
{% macro fact(n) %}{{ 1 if n < 2 else n * fact(n - 1)|int }}{% endmacro %}{{ fact(10) }}
{% macro wrap(t) %}<{{ t }}>{{ caller() }}</{{ t }}>{% endmacro %}{% call wrap('b') %}in{% endcall %}
{% macro each(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) each([1, 2]) %}[{{ i }}]{% endcall %}
{% set g = 'global' %}{% macro m() %}{{ g }}{{ loop is defined }}{% endmacro %}{% for i in [1] %}{{ m() }}{% endfor %}
{% filter upper %}abc {{ 1 }} ü{% endfilter %}{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}
{% raw %}{{ no }} {% if %}{% endraw %}|{% raw -%}  a  {%- endraw %}|{# comment {{ 1 }} #}|
a  {{- 1 -}}  b  {%- if true -%}  c  {%- endif -%}  d {#- x -#} e
  {% if true %}
  line
  {% endif %}
  {%+ if true %}
x {% if true +%}
y{% endif %}
{{ 'x' }}
{# c #}
end

{% if true %}  {% endif %}|	{# tab #}
{{ "a\nb" }}
{{ 'x' is string }}{{ 1 is number }}{{ 1 is integer }}{{ 1.0 is float }}{{ true is boolean }}{{ true is integer }}{{ true is number }}{{ {} is mapping }}{{ [] is sequence }}{{ 'a' is sequence }}{{ {} is sequence }}{{ [] is iterable }}{{ 1 is iterable }}{{ none is none }}{{ 1 is none }}
{{ 3 is odd }}{{ 3 is even }}{{ -3 is odd }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 'a' is eq 'a' }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 2 is ge(2) }}{{ 1 is in [1] }}{{ true is true }}{{ 1 is true }}{{ 0 is false }}{{ 1 is sameas 1 }}{{ true is sameas 1 }}
{{ 'abc' is lower }}{{ 'ABC1' is upper }}{{ '1' is upper }}{{ range is callable }}{{ 'a' is callable }}{{ 'x' is not none }}{{ nothing is not defined }}{{ not nothing is defined }}
{{ '  a b '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ 'aBc'|upper }}|{{ 'aBc'|lower }}|{{ "they're bill's friends"|capitalize }}|{{ 'straße'|upper }}
{{ 'aXbX'|replace('X', '--') }} {{ 'aXbX'|replace('X', '', 1) }} {{ 'aXbX'.replace('X', 'y') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'ab'.replace('', '-') }}
{{ [3, 1, 2]|sort }} {{ ['b', 'A', 'c']|sort }} {{ ['b', 'A']|sort(case_sensitive=true) }} {{ [1, 3, 2]|sort(reverse=true) }} {{ messages|sort(attribute='content')|map(attribute='role')|list }}
{{ [1, 2, 3]|first }} {{ [1, 2, 3]|last }} {{ 'abc'|first }} {{ []|first }}| {{ [1, 2]|sum }} {{ [1, 2]|min }} {{ ['b', 'A']|max }} {{ []|max }}| {{ messages|sum(attribute='role|length') if false }}|
{{ [1, 2]|join }} {{ [1, none, 'a']|join(', ') }} {{ messages|join('|', attribute='role') }} {{ ','.join(['a', 'b']) }} {{ 'abc'|join('-') }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 'x')|list }} {{ [1, 2, 3, 4, 5]|slice(2)|list }} {{ [1, 2, 3, 4, 5]|slice(3, 'x')|list }}
{{ [1, 2, 1, 'A', 'a']|unique|list }} {{ [1, 2]|reverse|list }} {{ 'abc'|reverse }} {{ 'abc'|list }} {{ {'a': 1}|list }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|rejectattr('role', 'eq', 'user')|map(attribute='role')|list }} {{ [1, 2, 3]|select('odd')|list }} {{ [0, 1]|reject|list }} {{ messages|selectattr('x')|list }} {{ [1, 2]|select('in', [2])|list }}
{{ ['a', 'b']|map('upper')|join }} {{ messages|map(attribute='nope', default='-')|join }} {{ [[1, 2]]|map('join', '+')|list }} {{ [[3, 4]]|map(attribute=1)|list }}
{{ {'b': 1, 'A': 2}|dictsort }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }} {{ {'b': 1, 'A': 2}|dictsort(true, reverse=true) }} {{ {'b': 1}|items|list }}
{% if messages|selectattr('role', 'eq', 'x') %}an iterator{% endif %}{% if messages|selectattr('role', 'eq', 'x')|list %}none{% endif %} {{ ([1]|select) is sequence }} {{ ([1]|select) is iterable }} {{ ([1, 2]|select)[0] is defined }} {{ ([1]|select) == [1] }} {{ 2 in ([1, 2]|select) }} {{ ([1, 2]|reverse)|reverse|list }}
{{ none|selectattr('x')|list }}{{ none|map('upper')|list }}{{ false|select|list }}{{ 0|rejectattr('x')|list }} {{ [3, 1]|map('string')|sort|join('-') }} {{ messages|map(attribute='role')|unique|first }} {% for a, b in {'x': 1}|items %}{{ a }}{{ b }}{{ loop.length }}{% endfor %}
{{ 'a<'|safe + 'b<' + '&' }} {{ 'x&' + ('<'|e) }} {{ ('<'|safe) ~ '<' }} {{ '<b> '|safe|trim + '<' }} {{ ('<'|safe + '<')|length }} {{ ('<'|safe + '<') + ('>'|safe) }} {{ messages[1].content + '!'|safe + '"' }}
{% macro w() %}({{ caller() }}){% endmacro %}{% for i in [1, 2] %}{% set j = i * 2 %}{% call w() %}{{ i }}{{ j }}{% endcall %}{% endfor %}{% macro a() %}A{{ caller() }}{% endmacro %}{% macro b(x) %}{% call a() %}{{ x }}{% endcall %}{{ caller() }}{{ x }}{% endmacro %}{% set z = 9 %}{% for k in 'uv' %}{% call b(k ~ 5) %}{{ z }}{{ k }}{% endcall %}{% endfor %}
{{ 'hello_world x-y(z) it\'s a/b'|title }} {{ 'hello_world x-y(z) it\'s a/b'.title() }} {% macro c(n) %}{% for i in range(n) %}<{{ caller(i) }}>{% endfor %}{% endmacro %}{% for k in [2] %}{% call(i) c(k) %}{{ i }}{{ k }}{{ loop.index }}{% endcall %}{% endfor %}
{{ ([1]|select)|length }}
{{ [1]|map('string')|tojson }}
{{ ([1]|select) + [2] }}
{{ ([1]|select)|last }}
{{ '42'|int + 1 }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ '3.7'|int }} {{ 3.9|int }} {{ '0x1A'|int(base=16) }} {{ '1.5'|float }} {{ 'x'|float }} {{ 1|string + '1' }} {{ -3|abs }} {{ 2.5|round }} {{ 2.567|round(2) }} {{ 2.1|round(0, 'ceil') }} {{ 2.9|round(method='floor') }} {{ 7|round }} {{ 12345|round(-2) }}
{{ 'a<b>&"\''|e }} {{ 'a<b>'|safe }} {{ 'a\nb\n\nc'|indent }}| {{ 'a\nb'|indent(2, true) }}| {{ 'a\n\nb'|indent(1, blank=true) }}| {{ 'a\nb'|indent('>') }}
{{ 'ab'|center(7) }}|{{ 'abc'|center(6) }}|{{ 'ab'.center(7) }}|{{ 'a b c'|wordcount }}|{{ 'hello world x'|title }}|{{ 'a b/ü'|urlencode }}
{{ '%s is %d %05.1f|%-5s|%5s|%x|%%' % ('a', 3, 2.25, 'l', 'r', 255) }} {{ '%s' % 'x' }} {{ '%s, %s'|format('a', 1) }} {{ '%5d|%-5d|%05d|%+d|% d' % (1, 2, 3, 4, 5) }} {{ '%.2f %e %r' % (1.005, 12345.678, 'x') }} {{ '%(a)s' % {'a': 1} }}
{{ '{} {}'.format(1, 'a') }} {{ '{1}{0}{x}'.format(1, 2, x=3) }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}|{:05d}|{:.2f}|{:,}|{:x}'.format(1, 2, 3, 'mid', 42, 2.5, 1234567, 255) }} {{ '{{}}'.format() }} {{ '{!r}'.format('x') }}
{{ messages|tojson }} {{ {'a': [1, 2.5, none, true], 'b': {}, 'c': []}|tojson }} {{ 'ü"\\\n<>&\''|tojson }} {{ {1: 2, none: 3, true: 4}|tojson }}
{{ {'b': [1, {'c': 2}], 'a': {}, 'd': []}|tojson(indent=2) }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }} {{ {'a': [1, 2]}|tojson(separators=(',', ':')) }} {{ 'ü😀'|tojson(ensure_ascii=true) }} {{ 1e100|tojson }}
{{ messages[2].content.split('</think>')[-1].lstrip('\n') }} {{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c'.rsplit(' ', 1) }} {{ ' a b  c '.split(none, 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ ''.split() }} {{ ''.split(',') }}
{{ ' x '.strip() }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'xxaxx'.rstrip('x') }}|{{ 'abc'.startswith('ab') }}{{ 'abc'.endswith(('x', 'c')) }}|{{ 'Abc'.upper() }}{{ 'Abc'.lower() }}{{ 'aBc'.swapcase() }}|{{ 'hello world'.title() }}|{{ 'hELLO'.capitalize() }}
{{ 'abcb'.find('b') }}{{ 'abcb'.rfind('b') }}{{ 'abc'.find('x') }}{{ 'füb'.find('b') }}|{{ 'abcb'.count('b') }}|{{ 'abcb'.index('c') }}|{{ 'a-b-c'.partition('-') }}{{ 'a-b-c'.rpartition('-') }}{{ 'a'.partition('-') }}|{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}
{{ '12'.isdigit() }}{{ 'a1'.isalnum() }}{{ 'ab'.isalpha() }}{{ ''.isalpha() }}{{ ' '.isspace() }}{{ 'AB'.isupper() }}{{ 'a1'.islower() }}|{{ 'a\nb\r\nc\n'.splitlines() }}{{ 'a\nb'.splitlines(true) }}|{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ 'a'.ljust(3) }}|{{ 'a'.rjust(3, '.') }}
{{ {'a': 1}.get('a') }}{{ {'a': 1}.get('b') }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.keys()|list }}{{ {'a': 1}.values()|list }}{{ {'a': 1, 'b': 2}.items()|list }}{{ [1, 2, 1].count(1) }}{{ [1, 2].index(2) }}
{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ range(5)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ range(0)|list }} {{ namespace(a=1).a }}
{% set l = ['a', 'b'] %}{{ l[0] ~ l[1] }}{{ l|length }}{{ l.0 }}{{ {'a': {'b': 'c'}}.a.b }}{{ {'x y': 1}['x y'] }}{{ {1: 'one'}[1] }}
{{ messages|length if messages else 0 }}{{ (messages|length) > 2 }}{{ messages|length > 2 and true }}{{ 'a'|upper ~ 'b' }}{{ ('a' ~ 'b')|upper }}{{ 1 + 2|string|length }}
{%- for message in messages %}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 1) %}{{- 'odd' }}{%- endif %}{{- '<|im_start|>' + message.role + '\n' + message.content | trim + '<|im_end|>\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
{% generation %}x{{ 1 }}{% endgeneration %}{% set x = {'a': 1,} %}{{ x.a }}{{ [1, 2,]|length }}
{{ raise_exception('Roles must alternate: ' ~ messages[0].role) }}
{{ nothing.attribute }}
{{ nothing['x'] }}
{{ 1 / 0 }}
{{ 1 + 'a' }}
{{ 'a' < 1 }}
{{ nothing() }}
{{ messages|nofilter }}
{{ 1 is notest }}
{{ 'a'.nomethod() }}
{{ [1].append(2) }}
{% if true %}
{{ 1
{{ (1 }}
{% endif %}
{% set 1 = 2 %}
{% for i in range(3) %}{{ i }
{{ 'abc }}
{{ range(1000000)|list }}
{% break %}
{{ 1 2 }}
{{ a b }}
{{ 1 if }}
{{ {'a' 1} }}
{{ [1, 2 }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=2) }}
{{ "a" ~ }}
{{ |upper }}
{{ {}['a'].b }}
{{ messages[0].content.nope.deeper }}
{% set x.y = 1 %}
{% set x = 1 %}{% set x.y = 1 %}
{{ none + 1 }}
{{ [1] + (2,) }}
{{ none|tojson }}{{ nothing|tojson }}
{{ 'x'|join('-', 'y', 'z', 'w') }}
"""


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.ScopedEvalContextModifier([], body, lineno=line) if False else body


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def templates():
    """One template per line; indented lines and string continuations are joined to the previous one."""
    lines = CASES.strip("\n").split("\n")
    at = lines.index('{{ "a\\nb" }}')
    first = lines.index("  {% if true %}")
    case = "\n".join(lines[first:at])
    escaped = next(i for i, line in enumerate(lines) if line.endswith("\\q\\"))
    joined = lines[escaped] + "\n" + lines[escaped + 1]
    return lines[:escaped] + [joined] + lines[escaped + 2 : first] + [case] + lines[at:]


def main():
    env = environment()
    cases = []
    for template in templates():
        case = {"template": template}
        try:
            case["text"] = env.from_string(template).render(
                messages=MESSAGES, add_generation_prompt=True, bos_token="<s>", eos_token="</s>"
            )
        except Exception as e:  # noqa: BLE001 - templates that Jinja rejects must be rejected
            case["error"] = f"{type(e).__name__}: {e}"
        cases.append(case)
    json.dump({"messages": MESSAGES, "cases": cases}, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    main()

"""Render conversations with chat templates as transformers does, as references for `ChatTemplate`.

    python -m tools.chat_templates > crates/candle-coreml/src/generation/conversation/cases.json
    python -m tools.chat_templates FOLDER > cases.json

Without a folder: the templates of our own in `tools/chat_templates`. With one: every `*.jinja` in it;
`CANDLE_COREML_CONVERSATIONS=cases.json cargo test -p candle-coreml --lib conversations` compares.

Needs transformers 5.24 or later (`_normalize_chat_messages`).
"""

import json
import sys
from pathlib import Path

from transformers.utils import chat_template_utils as hf

TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city, e.g. \"Zürich\" & <b>others</b>.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city"},
                "unit": {"type": "string", "enum": ["°C", "°F"], "default": "°C"},
                "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 14.5},
                "parts": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
            },
            "required": ["city"],
        },
        "return": {"type": "string", "description": "A sentence"},
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}},
}
DOCUMENTS = [
    {"title": "Rhine", "text": "The Rhine is\n1,230 km long."},
    {"title": "L'Aare", "text": "Die Aare fließt in den \"Rhein\"."},
]
LONG = "  Was ist <b>2 + 2</b> & \"warum\"? 😀\n\nIt's a\ttest.  "


def call(name, arguments, number=0):
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "You are brief.\n"}
ARGUMENTS = {"city": "Zürich", "days": 3, "exact": True, "at": None, "parts": [{"x": 1.5}], "note": "it's \"fine\""}
FIRST = [user("Weather in Zürich?"), assistant("", tool_calls=[call("get_weather", ARGUMENTS)])]
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00000", "content": "{\"sky\": \"blue\", \"t\": 21.5}"}

# Name, messages, and what else is given.
CONVERSATIONS = [
    ("user", [user("Hi")], {}),
    ("system", [SYSTEM, user(LONG)], {}),
    ("turns", [SYSTEM, user("Hi"), assistant("Hello!\n"), user(LONG), assistant("  4. "), user("Thanks")], {}),
    ("no prompt", [user("Hi"), assistant("Hello!")], {"end": "none"}),
    ("continued", [SYSTEM, user("Hi"), assistant("Hello, I am ")], {"end": "continue"}),
    ("continued trimmed", [user("Hi"), assistant("Once upon\na time\n")], {"end": "continue"}),
    ("assistant last", [user("Hi"), assistant("Hello")], {}),
    ("two users", [user("Hi"), user("there")], {}),
    ("thinking on", [user("Hi")], {"variables": {"enable_thinking": True, "thinking": True}}),
    ("thinking off", [SYSTEM, user("Hi")], {"variables": {"enable_thinking": False, "thinking": False}}),
    ("effort", [user("Hi")], {"variables": {"reasoning_effort": "high", "date_string": "1 May 2026"}}),
    ("inline thought", [user("2+2?"), assistant("<think>\nSum.\n</think>\n\n4"), user("3+3?")], {}),
    ("thought", [user("2+2?"), assistant("4", reasoning_content="Sum.\nEasy."), user("3+3?")], {}),
    ("thought, older name", [user("2+2?"), assistant("4", thinking="Sum."), user("3+3?"), assistant("6", reasoning="x")],
     {"end": "none"}),
    ("tools", [user("Weather in Zürich?")], {"tools": [WEATHER, CLOCK]}),
    ("tools, system", [SYSTEM, user("Weather?")], {"tools": [WEATHER]}),
    ("no tools", [user("Hi")], {"tools": []}),
    ("call", FIRST, {"tools": [WEATHER], "end": "none"}),
    ("result", [SYSTEM, *FIRST, RESULT], {"tools": [WEATHER, CLOCK]}),
    ("answer", [*FIRST, RESULT, assistant("Blue."), user("Thanks")], {"tools": [WEATHER]}),
    ("text of arguments", [user("Weather?"), assistant("", tool_calls=[call("get_weather", json.dumps(ARGUMENTS))]), RESULT],
     {"tools": [WEATHER]}),
    ("two calls", [SYSTEM, user("Both?"),
                   assistant("Let me see.", tool_calls=[call("get_weather", {"city": "Bern"}), call("now", {}, 1)]),
                   {"role": "tool", "name": "get_weather", "tool_call_id": "call00000", "content": "grey"},
                   {"role": "tool", "name": "now", "tool_call_id": "call00001", "content": "12:00"}], {"tools": [WEATHER, CLOCK]}),
    ("thought and call", [user("Weather?"),
                          assistant(None, reasoning_content="I need\na tool.", tool_calls=[call("get_weather", {"city": "Bern"})]),
                          RESULT, assistant("Blue.", reasoning_content="Done."), user("And?")], {"tools": [WEATHER]}),
    ("call without text", [user("Now?"), {"role": "assistant", "tool_calls": [call("now", {})]},
                           {"role": "tool", "content": "12:00"}], {"tools": [CLOCK]}),
    ("bare call", [user("Now?"), assistant("", tool_calls=[{"name": "now", "arguments": {"zone": "UTC"}}]),
                   {"role": "tool", "name": "now", "content": "12:00"}], {"tools": [CLOCK]}),
    ("documents", [user("How long is the Rhine?")], {"documents": DOCUMENTS}),
    ("documents, system", [SYSTEM, user("How long is it?")], {"documents": DOCUMENTS, "tools": [CLOCK]}),
    ("parts", [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
               {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is "}, {"type": "text", "text": "it?"}]},
               assistant([{"type": "text", "text": "A cat."}]), {"role": "user", "content": [{"type": "text", "text": "Sure?"}]}], {}),
    ("continued parts", [user("Hi"), assistant([{"type": "text", "text": "Well, "}])], {"end": "continue"}),
    ("continued thought", [user("Hi"), assistant("", reasoning_content="Let me ")], {"end": "continue"}),
    ("developer", [{"role": "developer", "content": "Be brief."}, user("Hi")], {"tools": [CLOCK]}),
    ("other roles", [user("Hi"), {"role": "ipython", "content": {"output": [1, 2.5]}}, {"role": "function", "name": "f", "content": "x"}],
     {}),
]

def render(template, messages, tools=None, documents=None, end="prompt", variables=None):
    chat = hf._normalize_chat_messages(messages)
    rendered, _ = hf.render_jinja_template(
        conversations=[chat], tools=tools, documents=documents, chat_template=template,
        continue_final_message=end == "continue", add_generation_prompt=end == "prompt", **{**TOKENS, **(variables or {})})
    return rendered[0]


def main():
    # Templates of our own, which use the constructs that published templates use.
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "chat_templates"
    templates = {p.name: p.read_text() for p in sorted(folder.glob("*.jinja"))}
    out = {"tokens": TOKENS, "conversations": {}, "templates": {}}
    for name, messages, more in CONVERSATIONS:
        out["conversations"][name] = {"messages": messages, **more}
    for name, source in templates.items():
        cases = {}
        for conversation, messages, more in CONVERSATIONS:
            try:
                cases[conversation] = {"text": render(source, json.loads(json.dumps(messages)), **more)}
            except Exception as e:  # noqa: BLE001 - what transformers refuses must be refused
                cases[conversation] = {"error": f"{type(e).__name__}: {e}"[:200]}
        out["templates"][name] = {"source": source, "cases": cases}
    json.dump(out, sys.stdout, ensure_ascii=False, indent=1)
    print()


if __name__ == "__main__":
    main()

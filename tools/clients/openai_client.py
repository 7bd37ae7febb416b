"""Call a running `candle-coreml serve` with OpenAI's Python client and check the responses.

    pip install openai
    tools/clients/run.sh, or with a server of its models:
    python tools/clients/openai_client.py --url http://127.0.0.1:8080/v1
"""

import argparse
import json
import math

import openai


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="none")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key=args.key, max_retries=0)

    models = [m.id for m in client.models.list()]
    print("models:", models)
    assert client.models.retrieve(models[0]).id == models[0]

    messages = [{"role": "user", "content": "What is the capital of Peru?"}]
    chat = {"model": "tiny-qwen3", "messages": messages, "temperature": 0}
    whole = client.chat.completions.create(**chat)
    print("chat:", whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage)
    assert whole.choices[0].message.content == "Lima"

    pieces, usage = [], None
    for chunk in client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}):
        pieces += [c.delta.content or "" for c in chunk.choices]
        usage = chunk.usage or usage
    print("streamed:", pieces, usage)
    assert "".join(pieces) == "Lima" and usage.prompt_tokens_details.cached_tokens > 0

    with client.chat.completions.stream(**chat) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Lima"

    text = client.completions.create(model="tiny-qwen3", prompt="2 + 2 =", temperature=0, stop=["\n"])
    print("text:", repr(text.choices[0].text))
    seeded = [
        client.completions.create(model="tiny-qwen3", prompt="Once", temperature=1.5, seed=7).choices[0].text
        for _ in range(2)
    ]
    print("seeded:", seeded)
    assert seeded[0] == seeded[1] != ""

    texts = ["Will it snow in Helsinki tonight?", "Give me the forecast for Lima.", "Play jazz in the kitchen."]
    vectors = [e.embedding for e in client.embeddings.create(model="tiny-intent", input=texts).data]
    dot = lambda a, b: sum(x * y for x, y in zip(a, b))
    print("cosines:", [round(dot(vectors[0], v), 3) for v in vectors])
    assert all(math.isclose(dot(v, v), 1.0, rel_tol=1e-5) for v in vectors)
    assert dot(vectors[0], vectors[1]) > dot(vectors[0], vectors[2])

    for error, call in [
        (openai.NotFoundError, lambda: client.chat.completions.create(**{**chat, "model": "gpt-5"})),
        (openai.BadRequestError, lambda: client.chat.completions.create(**chat, n=0)),
        (openai.BadRequestError, lambda: client.embeddings.create(model="tiny-qwen3", input="x")),
    ]:
        try:
            call()
        except error as found:
            print(f"{error.__name__}:", found.body["message"])
        else:
            raise AssertionError(f"no {error.__name__}")
    choices(client, chat)
    forms(client)
    tools(client)
    responses(client)
    print("Python client: all as expected")


def choices(client: openai.OpenAI, chat: dict) -> None:
    """Log-probabilities, several answers, penalties, biases."""
    found = client.chat.completions.create(**chat, logprobs=True, top_logprobs=5).choices[0].logprobs.content
    assert "".join(t.token for t in found) == "Lima" and all(len(t.top_logprobs) == 5 for t in found)
    assert all(t.logprob == t.top_logprobs[0].logprob for t in found), "the most likely tokens"
    several = client.chat.completions.create(**{**chat, "temperature": 2, "seed": 1}, n=4, max_tokens=8)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    texts = client.completions.create(model="tiny-qwen3", prompt=["1 + 1 =", "2 + 5 ="], temperature=0, max_tokens=4)
    assert len(texts.choices) == 2
    echoed = client.completions.create(
        model="tiny-qwen3", prompt="2 + 2 =", echo=True, logprobs=1, max_tokens=0, temperature=0
    ).choices[0]
    assert echoed.text == "2 + 2 =" and echoed.logprobs.token_logprobs[0] is None
    assert all(p <= 0 for p in echoed.logprobs.token_logprobs[1:])
    biased = client.chat.completions.create(**chat, logit_bias={str(ord("Q") - 33): 100}, max_tokens=3)
    assert biased.choices[0].message.content == "QQQ"
    client.chat.completions.create(**chat, frequency_penalty=1.0, presence_penalty=-1.0, max_tokens=3)


def forms(client: openai.OpenAI) -> None:
    """JSON of a schema, through pydantic."""
    from pydantic import BaseModel, Field

    class City(BaseModel):
        name: str = Field(max_length=6)
        large: bool

    messages = [{"role": "user", "content": "Capital of Peru?"}]
    parsed = client.chat.completions.parse(
        model="tiny-qwen3", messages=messages, response_format=City, temperature=0, max_tokens=120
    )
    city = parsed.choices[0].message.parsed
    print("parsed:", city)
    assert isinstance(city, City)
    text = client.chat.completions.create(
        model="tiny-qwen3", messages=messages, temperature=0, max_tokens=100, response_format={"type": "json_object"}
    ).choices[0]
    if text.finish_reason == "stop":
        json.loads(text.message.content)


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 5}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def tools(client: openai.OpenAI) -> None:
    """A call that is required, whole and streamed, and its result."""
    function = {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}
    ask = dict(
        model="caller", messages=[{"role": "user", "content": "Rain?"}], tools=[function], temperature=0,
        tool_choice={"type": "function", "function": {"name": "weather"}},
    )
    message = client.chat.completions.create(**ask).choices[0].message
    (call,) = message.tool_calls
    print("call:", call.function)
    assert call.function.name == "weather" and 1 <= json.loads(call.function.arguments)["days"] <= 9
    with client.chat.completions.stream(**ask) as stream:
        final = stream.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == call.function.arguments
    assert final.finish_reason == "tool_calls"
    messages = [*ask["messages"], message, {"role": "tool", "tool_call_id": call.id, "content": "dry"}]
    client.chat.completions.create(model="caller", messages=messages, tools=[function], temperature=0, max_tokens=8)


def responses(client: openai.OpenAI) -> None:
    """The newer interface."""
    whole = client.responses.create(model="tiny-qwen3", input="What is the capital of Peru?", temperature=0)
    assert whole.output_text == "Lima" and whole.status == "completed", whole
    with client.responses.stream(model="tiny-qwen3", input="What is the capital of Peru?", temperature=0) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == "Lima"
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
    tool = {"type": "function", "name": "weather", "parameters": WEATHER, "strict": True}
    called = client.responses.create(model="caller", input="Rain?", tools=[tool], tool_choice="required", temperature=0,
                                     parallel_tool_calls=False)
    assert called.output[0].type == "function_call" and json.loads(called.output[0].arguments)["city"] is not None


if __name__ == "__main__":
    main()

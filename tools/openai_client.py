"""Call a running `candle-coreml serve` with OpenAI's Python client and check the responses.

    pip install openai
    candle-coreml serve --model models/tiny-qwen3 --model models/tiny-intent &
    python tools/openai_client.py --url http://127.0.0.1:8080/v1
"""

import argparse
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
        (openai.BadRequestError, lambda: client.chat.completions.create(**chat, n=2)),
        (openai.BadRequestError, lambda: client.embeddings.create(model="tiny-qwen3", input="x")),
    ]:
        try:
            call()
        except error as found:
            print(f"{error.__name__}:", found.body["message"])
        else:
            raise AssertionError(f"no {error.__name__}")
    print("all as expected")


if __name__ == "__main__":
    main()

"""Call a running `candle-coreml serve` through LangChain and check the responses. See `run.sh`."""

import argparse
from typing import Annotated

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field


class City(BaseModel):
    """A city."""

    name: str = Field(max_length=6)
    large: bool


# An untrained model would write digits without end.
Small = Annotated[int, Field(ge=0, le=99)]


@tool
def add(a: Small, b: Small) -> int:
    """Add two numbers."""
    return a + b


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="none")
    args = parser.parse_args()
    options = dict(base_url=args.url, api_key=args.key, temperature=0, max_retries=0)
    model = ChatOpenAI(model="tiny-qwen3", **options)
    question = "What is the capital of Peru?"
    answer = model.invoke(question)
    assert answer.content == "Lima" and answer.usage_metadata["output_tokens"] == 4, answer
    assert "".join(piece.content for piece in model.stream(question)) == "Lima"
    assert model.batch([question, question])[1].content == "Lima"
    told = model.bind(logprobs=True).invoke(question).response_metadata["logprobs"]["content"]
    assert "".join(t["token"] for t in told) == "Lima"
    for method in ["json_schema", "function_calling"]:
        asked = ChatOpenAI(model="caller", max_tokens=150, **options).with_structured_output(City, method=method, strict=True)
        found = asked.invoke("Capital of Peru?")
        print(f"{method}: {found!r}")
        assert isinstance(found, City)
    caller = ChatOpenAI(model="caller", max_tokens=100, **options)
    called = caller.bind_tools([add], tool_choice="required", parallel_tool_calls=False, strict=True).invoke("2 + 3 =")
    print("called:", called.tool_calls)
    assert called.tool_calls[0]["name"] == "add" and set(called.tool_calls[0]["args"]) == {"a", "b"}
    newer = ChatOpenAI(model="tiny-qwen3", use_responses_api=True, **options).invoke(question)
    assert newer.text == "Lima" or newer.text() == "Lima", newer
    print("LangChain: all as expected")


if __name__ == "__main__":
    main()

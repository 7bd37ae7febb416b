"""Ask a running `candle-coreml serve` as Open WebUI does; nothing has to be installed. See `run.sh`.

Open WebUI lists `/models`, then posts chats with `stream`, fields of its own, and `stream_options`
(backend/open_webui/routers/openai.py); pages of its origin ask the server themselves in direct connections.
"""

import argparse
import json
import urllib.request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    args = parser.parse_args()
    headers = {"Authorization": "Bearer none", "Content-Type": "application/json", "Origin": "https://chat.example"}

    def ask(path: str, body: dict | None = None, method: str | None = None, more: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(args.url + path, data, {**headers, **(more or {})}, method=method)
        return urllib.request.urlopen(request)

    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = ask("/chat/completions", method="OPTIONS", more=preflight)
    assert allowed.status == 204 and allowed.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    names = [m["id"] for m in json.load(ask("/models"))["data"]]
    assert "tiny-qwen3" in names, names
    body = {
        "model": "tiny-qwen3:latest", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0,
        "messages": [{"role": "user", "content": "What is the capital of Peru?"}],
        "chat_id": "local", "session_id": "x", "features": {"web_search": False}, "metadata": {}, "params": {},
    }
    answer = ask("/chat/completions", body)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://chat.example"
    events = [line[6:].strip() for line in answer.read().decode().splitlines() if line.startswith("data: ")]
    chunks = [json.loads(event) for event in events[:-1]]
    text = "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])
    assert events[-1] == "[DONE]" and text == "Lima" and chunks[-1]["usage"]["completion_tokens"] == 4, events
    print("Open WebUI's requests: all as expected")


if __name__ == "__main__":
    main()

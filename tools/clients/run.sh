#!/usr/bin/env bash
# Runs a server and the official clients of OpenAI's interface against it, those that are installed:
#   pip install openai langchain-openai pydantic      npm install --no-package-lock --prefix tools/clients
# PYTHON and COMMAND name another Python and another candle-coreml.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3}
command=${COMMAND:-cargo run --release --quiet --}
folder=$(mktemp -d)
server=
trap 'kill "$server" 2>/dev/null || true; rm -rf "$folder"' EXIT

# The demo model, with a template that knows tools: its calls are right by their grammar, not by its wits.
cp -r models/tiny-qwen3 "$folder/caller"
cp tools/clients/chat_template.jinja "$folder/caller/"
$command serve --port 0 --model models/tiny-qwen3 --model models/tiny-intent --model "caller=$folder/caller" \
  --allow-origin https://chat.example > "$folder/out" &
server=$!
for _ in $(seq 600); do
  grep -q listening "$folder/out" && break
  kill -0 "$server" || exit 1
  sleep 0.5
done
url=$(sed -n 's/^listening on //p' "$folder/out")/v1

skipped() { echo "!! NOT TESTED: $1 IS NOT INSTALLED"; }
if "$python" -c "import openai" 2> /dev/null; then
  "$python" tools/clients/openai_client.py --url "$url"
else
  skipped "OPENAI'S PYTHON CLIENT"
fi
if "$python" -c "import langchain_openai" 2> /dev/null; then
  "$python" tools/clients/langchain_client.py --url "$url"
else
  skipped LANGCHAIN
fi
if [ -d tools/clients/node_modules/openai ]; then
  node tools/clients/openai_client.mjs "$url"
else
  skipped "OPENAI'S NODE CLIENT"
fi
"$python" tools/clients/open_webui.py --url "$url"

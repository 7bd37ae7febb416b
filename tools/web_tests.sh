#!/usr/bin/env bash
# Builds the web page and tests it in Chromium. Where Chromium, Node.js, its package playwright-core or the compiler's target
# are missing it says so and succeeds; REQUIRE_WEB=1 makes that a failure.
#   CHROMIUM     the browser (chromium)
#   SCREENSHOTS  folder for pictures of the page
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

skip() {
    echo "#################################################################" >&2
    echo "## THE WEB PAGE WAS NOT TESTED: $1" >&2
    echo "#################################################################" >&2
    [ -z "${REQUIRE_WEB:-}" ] || exit 1
    exit 0
}

CHROMIUM=$(command -v "${CHROMIUM:-chromium}") || skip "there is no ${CHROMIUM:-chromium}"
export CHROMIUM
command -v node >/dev/null || skip "there is no node"
[ -d tools/web_tests/node_modules/playwright-core ] || skip "playwright-core is missing (npm install --prefix tools/web_tests)"
[ -d "$(rustc --print target-libdir --target wasm32-unknown-unknown)" ] ||
    skip "the target is missing (rustup target add wasm32-unknown-unknown)"

# From here on a failure is a failure.
cargo xtask web "$target/web"
cargo build --quiet --release -p candle-coreml-cli
node tools/web_tests/test.mjs "$target/web" "$target/release/candle-coreml" ${SCREENSHOTS:+"$SCREENSHOTS"}

#!/usr/bin/env bash
# Runs the tests of the kernels as WebAssembly with registers of 128 bits, each variant against its scalar definition. Where the
# compiler's target or Node.js is missing it says so and succeeds; REQUIRE_WEB=1 makes that a failure.
set -euo pipefail
cd "$(dirname "$0")/.."

skip() {
    echo "#################################################################" >&2
    echo "## THE KERNELS OF WEBASSEMBLY WERE NOT TESTED: $1" >&2
    echo "#################################################################" >&2
    [ -z "${REQUIRE_WEB:-}" ] || exit 1
    exit 0
}

[ -d "$(rustc --print target-libdir --target wasm32-wasip1)" ] || skip "the target is missing (rustup target add wasm32-wasip1)"
command -v node >/dev/null || skip "there is no node"
node -e 'process.exit(Number(process.versions.node.split(".")[0]) < 20 ? 1 : 0)' || skip "Node.js $(node --version) is older than 20"

# From here on a failure is a failure.
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-C target-feature=+simd128"
export CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings $PWD/tools/web_tests/wasi.mjs"
cargo test --release -p coreml-kernels --lib --target wasm32-wasip1 -- "$@"

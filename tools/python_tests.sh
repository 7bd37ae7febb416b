#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment and runs crates/candle-coreml-python/tests there. Where Python, its
# packages or the network are missing it says so and succeeds; REQUIRE_PYTHON=1 makes that a failure.
#   PYTHON            the interpreter (python3)
#   WHEEL_PROFILE     Cargo profile of the wheel (release)
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
target=${CARGO_TARGET_DIR:-target}
profile=${WHEEL_PROFILE:-release}

skip() {
    echo "#################################################################" >&2
    echo "## THE PYTHON PACKAGE WAS NOT TESTED: $1" >&2
    echo "#################################################################" >&2
    [ -z "${REQUIRE_PYTHON:-}" ] || exit 1
    exit 0
}

command -v "$python" >/dev/null || skip "there is no $python"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || skip "$("$python" --version) is older than 3.9"
"$python" -c 'import venv, ensurepip' 2>/dev/null || skip "$python has no module venv"
command -v timeout >/dev/null || timeout() { shift; "$@"; }

tools="$target/python/tools"
fresh="$target/python/fresh"
bin=bin
[ -d "$tools/Scripts" ] && bin=Scripts
if ! "$tools/$bin/python" -c 'import maturin' 2>/dev/null; then
    rm -rf "$tools"
    "$python" -m venv "$tools" || skip "an environment can't be made"
    [ -d "$tools/Scripts" ] && bin=Scripts
    timeout 180 "$tools/$bin/python" -m pip install --quiet --disable-pip-version-check 'maturin>=1.9,<2' ||
        skip "maturin can't be installed; is there a network?"
fi
rm -rf "$fresh" "$target/python/wheels"
"$python" -m venv "$fresh"
timeout 180 "$fresh/$bin/python" -m pip install --quiet --disable-pip-version-check numpy pillow pytest mypy ||
    skip "numpy, pillow, pytest and mypy can't be installed; is there a network?"

# From here on a failure is a failure.
"$tools/$bin/python" -m maturin build --quiet --profile "$profile" --out "$target/python/wheels" \
    --manifest-path crates/candle-coreml-python/Cargo.toml
wheel=$(ls "$target"/python/wheels/*.whl)
bytes=$(wc -c <"$wheel")
echo "== $wheel: $bytes bytes"
[ "$bytes" -lt 15000000 ] || { echo "the wheel has 15 MB or more"; exit 1; }
"$fresh/$bin/python" -m pip install --quiet --disable-pip-version-check "$wheel"
"$fresh/$bin/python" -m pytest -q -p no:cacheprovider crates/candle-coreml-python/tests
"$fresh/$bin/python" -m mypy --strict crates/candle-coreml-python/python/candle_coreml/{__init__.py,errors.py,_native.pyi}

#!/bin/bash
# Runs the steps of docs/on-a-mac.md and collects what they print in one file. No step stops the others.
set -u
cd "$(dirname "$0")/.."
report="$PWD/on-a-mac.txt"
command=target/release/candle-coreml
question="What is the capital of Peru?"
# step NAME COMMAND...: runs, with a limit of 20 minutes.
step() {
  local name="$1" code
  shift
  printf '\n== %s\n$ %s\n' "$name" "$*" | tee -a "$report"
  "$@" </dev/null >"$report.step" 2>&1 &
  local job=$! waited=0
  while kill -0 "$job" 2>/dev/null && [ "$waited" -lt 1200 ]; do
    sleep 1
    waited=$((waited + 1))
  done
  if kill -0 "$job" 2>/dev/null; then
    kill -9 "$job"
    echo "!! NO END WITHIN 20 MINUTES" >>"$report.step"
  fi
  wait "$job"
  code=$?
  # The last part says how it went; builds print much before.
  tail -n 200 "$report.step" >>"$report"
  printf -- '-- exit code %s after %s s\n' "$code" "$waited" | tee -a "$report"
  rm -f "$report.step"
}

[ "$(uname -s)" = Darwin ] || { echo "this is for Macs; found $(uname -s)" >&2; exit 2; }
: >"$report"
step "0. the source" git log -1 --format=%h
step "1. the machine" sh -c 'sw_vers; sysctl -n machdep.cpu.brand_string hw.memsize'
step "2. and 3. the framework itself" cargo test -p coreml-framework -- --nocapture
step "4. files as others keep them" cargo test --release -p candle-coreml --test on_a_mac -- --nocapture
step "5. both engines agree" env CANDLE_COREML_REQUIRE_NATIVE=1 \
  cargo test --release -p candle-coreml --test conformance --test images --test engine_choice -- --nocapture
step "6. a clean standard output" cargo test --release -p candle-coreml-cli --test native
step "building the command" cargo build --release
for n in "7. the command chooses Core ML" "8. it stays chosen"; do
  step "$n" env RUST_LOG=candle_coreml=info,coreml_framework=info "$command" generate --engine auto --prompt "$question"
done
step "9. the Neural Engine" "$command" bench --model models/tiny-qwen3 --engine native --json
step "10. the risky units" env RUST_LOG=candle_coreml=info,coreml_framework=info \
  "$command" generate --engine auto --compute-units all --prompt "$question"
step "11. what is remembered" "$command" doctor
echo "send back: $report"

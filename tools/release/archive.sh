#!/usr/bin/env bash
# Makes the archive of a release from a built command, with completions, manual pages, licences and a checksum.
#   tools/release/archive.sh VERSION TARGET [FOLDER-OF-THE-BINARY]
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${1:?version} target=${2:?target}
built=${3:-target/$target/dist}
name=candle-coreml-$version-$target
command=$(cd "$built" && pwd)/candle-coreml
[ -f "$command.exe" ] && command=$command.exe

# A binary that can't answer is not released: alone, away from this folder, without a network.
answer=$(cd / && HF_HUB_OFFLINE=1 "$command" generate "What is 37 + 45?")
case $answer in *82*) ;; *) echo "the command answers: $answer" >&2; exit 1 ;; esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/$name/completions" "$work/$name/man"
cp "$command" README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$work/$name/"
for shell in bash zsh fish powershell; do
  "$command" completions "$shell" >"$work/$name/completions/candle-coreml.$shell"
done
"$command" man --out "$work/$name/man"
case $target in
  *windows*) archive=$name.zip; (cd "$work" && 7z a -bd -tzip "$archive" "$name" >/dev/null) ;;
  *) archive=$name.tar.gz; tar -C "$work" -czf "$work/$archive" "$name" ;;
esac
mv "$work/$archive" .
if command -v sha256sum >/dev/null; then sha256sum "$archive"; else shasum -a 256 "$archive"; fi >"$archive.sha256"
cat "$archive.sha256"

#!/usr/bin/env bash
# Lint, format, types, then the tests: tests/run.sh [pytest arguments]. Every step runs; any failure fails the whole.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$root"
scripts/setup_env.sh requirements-test.txt

readonly PRISM_VERSION=v2.77.0
bin=$root/.venv/bin
failed=()

check() {
  printf '\n== %s\n' "$*"
  "$bin/$1" "${@:2}" || failed+=("$*")
}

# Prism is Beam's portable runner, one Go program. In .venv it is built once (80 s).
build_prism() {
  local folder=$root/.venv/prism-$PRISM_VERSION
  export KEYJOIN_PRISM=$folder/prism
  [ -x "$KEYJOIN_PRISM" ] && return
  printf '\n== build Prism %s\n' "$PRISM_VERSION"
  # Built beside its place and moved there, so that a build cut short leaves nothing that looks whole.
  GOBIN=$folder.new go install "github.com/apache/beam/sdks/v2/go/cmd/prism@$PRISM_VERSION" &&
    rm -rf "$folder" && mv "$folder.new" "$folder" && return
  unset KEYJOIN_PRISM
  return 1
}

check ruff check --output-format concise .
check ruff format --check .
check mypy

if ! command -v go >/dev/null; then
  printf '\n!! NO GO ON PATH: THE TESTS ON PRISM ARE LEFT OUT. Install Go to run them.\n'
  if [ "${CI:-}" = true ]; then failed+=("build Prism (no go on PATH)"); fi
elif ! build_prism; then
  printf '\n!! PRISM COULD NOT BE BUILT: THE TESTS ON IT ARE LEFT OUT.\n'
  failed+=("build Prism")
fi

# Said before the tests, because their totals are the last line.
if [ ${#failed[@]} -gt 0 ]; then
  printf '\n!! FAILED:\n'
  printf '   %s\n' "${failed[@]}"
fi
printf '\n== pytest\n'
"$bin/pytest" "$@" || exit
[ ${#failed[@]} -eq 0 ]

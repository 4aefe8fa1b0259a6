#!/usr/bin/env bash
# Lint, format, types, then the tests: tests/run.sh [pytest arguments]. Every step runs; any failure fails the whole.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd -- "$root"
scripts/setup_env.sh requirements-test.txt

readonly BEAM_VERSION=v2.77.0
bin=$root/.venv/bin
failed=()

check() {
  printf '\n== %s\n' "$*"
  "$bin/$1" "${@:2}" || failed+=("$*")
}

# build NAME VARIABLE PACKAGE: a program of Beam's in Go, built once. Prism is its portable runner, in one program (80 s);
# boot starts the workers in Dataflow's containers.
build() {
  local folder=$root/.venv/$1-$BEAM_VERSION
  local program=$folder/${3##*/}
  if [ ! -x "$program" ]; then
    printf '\n== build %s %s\n' "$1" "$BEAM_VERSION"
    # Built beside its place and moved there, so that a build cut short leaves nothing that looks whole.
    GOBIN=$folder.new go install "github.com/apache/beam/sdks/v2/$3@$BEAM_VERSION" || return
    rm -rf "$folder" && mv "$folder.new" "$folder" || return
  fi
  export "$2=$program"
}

check ruff check --output-format concise .
check ruff format --check .
check mypy

left_out='THE TESTS ON PRISM AND THE REHEARSAL OF DATAFLOW ARE LEFT OUT'
if ! command -v go >/dev/null; then
  printf '\n!! NO GO ON PATH: %s. Install Go to run them.\n' "$left_out"
  if [ "${CI:-}" = true ]; then failed+=("build Prism and boot (no go on PATH)"); fi
elif ! { build prism KEYJOIN_PRISM go/cmd/prism && build boot KEYJOIN_BOOT python/container; }; then
  printf '\n!! PRISM AND BOOT COULD NOT BE BUILT: %s.\n' "$left_out"
  failed+=("build Prism and boot")
fi

# Said before the tests, because their totals are the last line.
if [ ${#failed[@]} -gt 0 ]; then
  printf '\n!! FAILED:\n'
  printf '   %s\n' "${failed[@]}"
fi
printf '\n== pytest\n'
# Two processes, each with whole files, whose fixtures are then made once. A process has TensorFlow and takes 2 GB.
"$bin/pytest" --numprocesses=2 --dist=loadfile "$@" || exit
[ ${#failed[@]} -eq 0 ]

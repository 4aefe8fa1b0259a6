#!/usr/bin/env bash
# Makes .venv ready: setup_env.sh requirements.txt | requirements-test.txt
# Says and does nothing when it is ready, so that it can stand before every command.
set -euo pipefail

readonly UV_VERSION=0.13.9
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd -- "$root"
readonly root requirements=${1:?which requirements file?} stamp=.venv/setup-stamp

die() {
  printf 'keyjoin: %s\n' "$*" >&2
  exit 1
}

# Names a step and runs its command. A terminal shows the command's own progress; elsewhere a line follows every ten
# seconds, so that a log shows that the set-up goes on.
step() {
  local text=$1 begun=$SECONDS ticker='' status=0
  shift
  printf 'keyjoin: %s\n' "$text" >&2
  if [ ! -t 2 ]; then
    # Apart from standard error it has nothing open that another process may wait for, and it ends with this script.
    (while sleep 10 2>/dev/null && kill -0 "$$" 2>/dev/null; do
      printf 'keyjoin: %s, %s s\n' "$text" "$((SECONDS - begun))" >&2
    done) </dev/null >/dev/null 9<&- &
    ticker=$!
  fi
  "$@" || status=$?
  if [ -n "$ticker" ]; then
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
  fi
  return "$status"
}

# All that the environment depends on. requirements-test.txt holds all of requirements.txt, so that a set-up for the
# tests serves a run too; the folder counts because the commands in .venv/bin know it by its full path.
inputs() {
  printf '%s\n' "$root"
  cksum setup.py requirements.txt "$requirements"
}

is_ready() {
  [ -x .venv/bin/python ] && [ -x .venv/bin/keyjoin ] && [ -f "$stamp" ] &&
    [ "$(inputs | grep -cvxFf "$stamp")" = 0 ]
}

is_suitable() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
  local python
  for python in python3 python3.13 python3.12 python3.11 python3.10; do
    if is_suitable "$python"; then
      command -v "$python"
      return
    fi
  done
  die "no Python 3.10 to 3.13 found: install one (Debian: apt-get install python3 python3-venv) and call again"
}

is_usable() {
  is_suitable .venv/bin/python || return
  [ -n "$uv" ] || .venv/bin/python -m pip --version >/dev/null 2>&1 || return
  # Not one cut short, nor one made in another folder; one without a stamp was made by hand and is kept.
  [ ! -f "$stamp" ] || [ "$(head -n 1 "$stamp")" = "$root" ]
}

make_venv() {
  local python
  python=$(find_python)
  printf 'keyjoin: setting up .venv with %s (once, about 2.6 GB)\n' "$("$python" --version)" >&2
  rm -rf .venv
  mkdir .venv
  # Until the end of the set-up, so that one that was cut short begins anew: half a package looks like a whole one.
  echo unfinished >"$stamp"
  if [ -n "$uv" ]; then
    step "making .venv" "$uv" venv --quiet --allow-existing --python "$python" .venv || die "uv could not make .venv: see above"
  else
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
      die "$python cannot make environments: install its venv module (Debian: apt-get install python3-venv) or uv, and call again"
    step "making .venv" "$python" -m venv .venv || die "$python could not make .venv: see above"
  fi
}

set_up() {
  case "$(uname -sm)" in
    "Linux x86_64" | "Darwin arm64") ;;
    *) die "tfx-bsl and Beam have packages for Linux on x86_64 and macOS on arm64, not for $(uname -sm): use one of these" ;;
  esac

  uv=
  # Called, not only looked up: a version manager's stand-in may be there without the program.
  if uv --version >/dev/null 2>&1; then uv=uv; fi

  is_usable || make_venv
  echo unfinished >"$stamp"

  if [ -z "$uv" ]; then
    step "installing uv" .venv/bin/python -m pip install --quiet --disable-pip-version-check "uv==$UV_VERSION" ||
      die "uv could not be installed: check that the package index can be reached (network, proxy), and call again"
    uv=.venv/bin/uv
  fi

  local quiet=--quiet
  if [ -t 2 ]; then quiet=; fi
  step "installing packages" "$uv" pip install ${quiet:+"$quiet"} --compile-bytecode --python .venv/bin/python --require-hashes --no-deps -r "$requirements" ||
    die "$requirements could not be installed: check that the package index can be reached (network, proxy), and call again"
  step "installing keyjoin" "$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable . ||
    die "keyjoin itself could not be installed: see above"

  inputs >"$stamp.new"
  mv "$stamp.new" "$stamp"
}

is_ready && exit
# Two first calls at once: the second waits, and finds it ready. macOS has no flock: there they must not overlap.
exec 9<setup.py
if command -v flock >/dev/null; then flock -n 9 || step "waiting for another set-up" flock 9 || true; fi
is_ready || set_up

#!/usr/bin/env bash
# Runs keyjoin on this machine; the first call sets everything up, from Python 3.10 to 3.13 alone.
#   ./run_local.sh                                        the embedded example: Boston house prices, to out/boston
#   ./run_local.sh --input … --model … --output …         your own data (keyjoin run)
#   ./run_local.sh inspect --model …                      any other command of keyjoin
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
"$root/scripts/setup_env.sh" requirements.txt

# keyjoin prints commands with this name, so that they can be pasted.
case $0 in
  */*) export KEYJOIN_PROGRAM=$0 ;;
  *) export KEYJOIN_PROGRAM=./$0 ;; # bash run_local.sh
esac
if [ $# -eq 0 ]; then
  output=out/boston
  if [ "$(pwd -P)" != "$(cd -- "$root" && pwd -P)" ]; then
    export KEYJOIN_PROGRAM=$root/run_local.sh
    output=$root/$output
  fi
  cd -- "$root"
  set -- run --input 'examples/boston/data/*.jsonl' --model examples/boston/model --output "$output" --overwrite
elif [[ $1 == -* ]]; then
  set -- run "$@"
fi
exec "$root/.venv/bin/keyjoin" "$@"

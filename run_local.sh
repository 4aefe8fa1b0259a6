#!/usr/bin/env bash
# Runs keyjoin on this machine; the first call sets everything up, from Python 3.10 to 3.13 alone.
#   ./run_local.sh                                        the embedded example: Boston house prices, to out/boston
#   ./run_local.sh --input … --model … --output …         your own data (keyjoin run)
#   ./run_local.sh inspect --model …                      any other command of keyjoin
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
"$root/scripts/setup_env.sh" requirements.txt

if [ $# -eq 0 ]; then
  cd -- "$root"
  set -- run --input 'examples/boston/data/*.jsonl' --model examples/boston/model --output out/boston --overwrite
elif [[ $1 == -* ]]; then
  set -- run "$@"
fi
exec "$root/.venv/bin/keyjoin" "$@"

#!/usr/bin/env bash
# Runs keyjoin on Dataflow, see docs/dataflow.md; the first call sets this machine up, as run_local.sh does.
#   PROJECT=… REGION=… BUCKET=… ./run_dataflow.sh --input gs://… --model gs://… --output gs://… [Beam options]
#   ./run_dataflow.sh check …                             the checks alone
# What is given comes last, so that it overrides what is said here.
set -euo pipefail

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

missing=()
for name in PROJECT REGION BUCKET; do
  [ -n "${!name:-}" ] || missing+=("$name")
done
if [ ${#missing[@]} -gt 0 ]; then
  printf 'keyjoin: error: not set in the environment: %s; export each, see docs/dataflow.md\n' "${missing[*]}" >&2
  exit 2
fi

command=run
if [ "${1:-}" = check ]; then
  command=check
  shift
fi
"$root/scripts/setup_env.sh" requirements.txt
export KEYJOIN_PROGRAM=$root/run_local.sh # keyjoin prints commands with this name, so that they can be pasted
place=gs://${BUCKET#gs://}
place=${place%/}/keyjoin
exec "$root/.venv/bin/keyjoin" "$command" --runner=DataflowRunner --project="$PROJECT" --region="$REGION" \
  --staging_location="$place/staging" --temp_location="$place/temp" "$@"

#!/usr/bin/env bash
# The main job on real handwritten digits: .beton files, then training in two processes, then a test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bin=.venv/bin # not on the PATH of whoever reads what to type next

data=data/digits
if ! [ -e "$data/val.beton.json" ]; then
    $bin/anynet data build digits --out "$data" --overwrite # over what an interrupted build has left
fi

# Two ranks need two GPUs; with one GPU one process does it, without any two CPU processes do.
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)
if [ "$gpus" -eq 1 ]; then
    set -- $bin/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no
else
    set -- $bin/accelerate launch --config_file launch/two_processes.yaml
fi
exec "$@" -m anynet_dist train configs/digits/demo.yaml --run.overwrite true

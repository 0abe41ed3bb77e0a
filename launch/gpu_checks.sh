#!/usr/bin/env bash
# Checks of docs/gpu-checks.md on the GPUs of this machine, one after the other.
#   launch/gpu_checks.sh [--images FOLDER] [--cifar FOLDER] [--only CHECK ...] [--list]
# Writes results/gpu/DEVICE.json, after each check anew, and prints a table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-.venv/bin/python}" -m tests.gpu.checks "$@"

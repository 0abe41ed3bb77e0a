#!/usr/bin/env bash
# All checks of docs/gpu-checks.md that the GPUs of this machine allow; about 20 minutes on one H100.
#   launch/gpu_checks.sh [--images FOLDER] [--cifar FOLDER] [--only CHECK ...] [--list]
# Writes results/gpu/DEVICE.json, after each check anew, and prints a table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-.venv/bin/python}" -m tests.gpu.checks "$@"

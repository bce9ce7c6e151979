#!/usr/bin/env bash
# Measures kdqat on a machine with one NVIDIA GPU and no network, in at most 8 minutes: docs/gpu.md.
#   benchmarks/on_gpu.sh --bundle FOLDER --out FOLDER
exec "${PYTHON:-python3}" "$(dirname "$0")/on_gpu.py" "$@"

#!/bin/sh
# The day a GPU is there: the tests of the kernels, and then everything that is to be measured, within MINUTES.
#     benchmarks/gpu.sh [RESULTS]        with another interpreter: PYTHON=.venv/bin/python benchmarks/gpu.sh
set -e
cd "$(dirname "$0")/.."
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
export SWINV2_TRITON=1
PYTHON="${PYTHON:-python3}"
"$PYTHON" -m pytest -q -m gpu -W default tests/test_triton_gpu.py
"$PYTHON" benchmarks/gpu.py --minutes "${MINUTES:-9}" --output "${1:-benchmarks/results/gpu.json}"

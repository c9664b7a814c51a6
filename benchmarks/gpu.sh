#!/bin/sh
# The day a GPU is there: the tests of the kernels, and then everything that is to be measured, within MINUTES.
#     benchmarks/gpu.sh [RESULTS]
set -e
cd "$(dirname "$0")/.."
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
export SWINV2_TRITON=1
python3 -m pytest -q -m gpu -W default tests/test_triton_gpu.py
python3 benchmarks/gpu.py --minutes "${MINUTES:-9}" --output "${1:-benchmarks/results/gpu.json}"

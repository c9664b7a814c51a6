# make demo | test | check | test-slow | gpu | clean
# Every target prepares .venv by itself, and only when pyproject.toml changed.

PYTHON ?= python3
BIN    := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test check test-slow gpu bench docs clean

demo: .venv/.train          ## train, evaluate and predict on an embedded data set, in about two minutes
	examples/demo.sh

# Native runtimes in one process share names and threads, and some crash beside others: each has a process of its own.
NATIVE := $(patsubst %,tests/test_%.py,executorch xnnpack litert openvino onnx onnx_session ncnn mnn coreml paddle pt2 \
            torchscript tensorrt quantize quantize_parts benchmark benchmark_compare every_format)

test: .venv/.test           ## everything that a CPU can show
	$(BIN)/python -m pytest -m "not slow and not gpu" $(addprefix --ignore=,$(NATIVE))
	for file in $(NATIVE); do $(BIN)/python -m pytest -q -m "not slow and not gpu" $$file || exit 1; done

check: .venv/.dev           ## before every commit: lint, types, layers, fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -x tests/test_layers.py tests/test_config.py tests/test_counts.py tests/test_ops.py

test-slow: .venv/.test      ## full-size models, compilers, long blocks of the documents
	$(BIN)/python -m pytest -m "slow and not gpu"

gpu: .venv/.test            ## what needs a CUDA device
	$(BIN)/python -m pytest -m gpu

bench: .venv/.test          ## ours against timm, transformers and torchvision, in interleaved runs
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/training.py

docs: .venv/.test           ## write the generated tables of README and docs again
	$(BIN)/python docs/generate.py

clean:                      ## everything that was made here, the environment too
	rm -rf .venv build dist runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of dependencies (the extras of pyproject.toml). doctor refuses a torch and a torchvision that
# were not made for each other.
.venv/.%: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	$(BIN)/python -m swinv2 doctor --quiet
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: needs Python 3.11 or newer as $(PYTHON); name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "make: $(PYTHON) cannot make environments; on Debian: apt-get install python3-venv"; exit 1; }

# make demo | test | test-engine | check | test-slow | gpu | engine | cross-arm | cross-windows | cross-web
#      sanitize | peers | browser | bench | bench-gpu | docs | clean
# Every target prepares .venv by itself, and only when pyproject.toml or the sources of the engine changed.

PYTHON ?= python3
BIN    := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONDONTWRITEBYTECODE  # hundreds of processes are started

# The engine as the tests want it, with all decoders of the system; that inside the package has none.
ENGINE := $(CURDIR)/build/engine
test test-engine test-slow: export SWINV2_BUILD := $(ENGINE)
test test-engine test-slow: export SWINV2_ENGINE := $(ENGINE)/libswinv2.$(if $(filter Darwin,$(shell uname)),dylib,so)

.PHONY: demo test test-engine check test-slow gpu engine cross-arm cross-windows cross-web sanitize libraries peers browser bench bench-gpu docs clean

demo: .venv/.train          ## train, evaluate and predict on an embedded data set, in about two minutes
	examples/demo.sh

# Native runtimes in one process share names and threads, and some crash beside others: a process each, the longest first.
# Triton is imported for its interpreter or for a device, once a process.
NATIVE := every_format executorch pt2 triton_attention export_triton quantize+quantize_parts benchmark+benchmark_compare \
          triton_model+triton_norm+triton_diagonals+triton_products+triton_rounding+triton_mlp onnx+onnx_session coreml openvino \
          torchscript litert ncnn triton_package triton_compile xnnpack paddle tensorrt mnn engine_exports
files   = $(patsubst %,tests/test_%.py,$(subst +, ,$(1)))

# $(call run_tests,MARKERS): two processes at a time. A group without such tests (exit code 5) is no failure. pytest's
# plugins, which take seconds to load, are for the first line.
define run_tests
	$(BIN)/python -m pytest -m $(1) -n 2 --dist loadfile --no-loadscope-reorder $(addprefix --ignore=,$(call files,$(NATIVE)))
	printf '%s\n' $(foreach group,$(NATIVE),"$(call files,$(group))") | PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
	  xargs -P 2 -I {} sh -c '$(BIN)/python -m pytest -q -m $(1) {} || test $$? -eq 5'
endef

test: engine peers browser   ## everything that a CPU can show
	$(BIN)/ctest --test-dir $(ENGINE) --output-on-failure
	$(call run_tests,"not slow and not gpu")

test-engine: engine         ## what concerns the engine alone, the slow tests too
	$(BIN)/ctest --test-dir $(ENGINE) --output-on-failure
	$(BIN)/python -m pytest tests/test_engine*.py

check: .venv/.dev           ## before every commit: lint, types, layers, fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -x tests/test_layers.py tests/test_config.py tests/test_counts.py tests/test_ops.py

test-slow: engine           ## full-size models, compilers, long blocks of the documents
	$(call run_tests,"slow and not gpu")

gpu: .venv/.test            ## what needs a CUDA device
	$(BIN)/python -m pytest -m gpu

engine: .venv/.test         ## build cpp/ into build/engine: library, swinv2-cli, tests
	$(BIN)/cmake -S cpp -B $(ENGINE) -G Ninja -DSWINV2_TESTS=ON --log-level=WARNING
	$(BIN)/cmake --build $(ENGINE)

# For other systems: built here, run in an emulator, without .venv. One program that runs by itself, without decoders.
CROSS = cmake -S cpp -B build/$(1) -DCMAKE_TOOLCHAIN_FILE=cmake/$(2).cmake --no-warn-unused-cli -G Ninja --log-level=WARNING \
          -DSWINV2_TESTS=ON -DBUILD_SHARED_LIBS=OFF -DSWINV2_DECODERS=OFF && \
        cmake --build build/$(1) && ctest --test-dir build/$(1) --output-on-failure

cross-arm:                  ## the same for 64-bit ARM into build/aarch64, its tests in QEMU
	@cpp/needs.sh "cmake ninja aarch64-linux-gnu-g++ qemu-aarch64-static" \
	  cmake ninja-build g++-aarch64-linux-gnu qemu-user-static
	$(call CROSS,aarch64,aarch64)
	qemu-aarch64-static -cpu cortex-a76 -L /usr/aarch64-linux-gnu build/aarch64/test_kernels  # has dot products only
	qemu-aarch64-static -cpu cortex-a53 -L /usr/aarch64-linux-gnu build/aarch64/test_kernels  # has none of it

cross-windows: export WINEPREFIX := $(CURDIR)/build/wine
cross-windows: export WINEDEBUG := -all
cross-windows: export WINEDLLOVERRIDES := mscoree,mshtml=
cross-windows: export LC_ALL := C.UTF-8
cross-windows:              ## the same for Windows into build/windows, its tests in Wine
	@cpp/needs.sh "cmake ninja x86_64-w64-mingw32-g++-posix wine" \
	  cmake ninja-build g++-mingw-w64-x86-64-posix wine wine64
	@mkdir -p build/wine
	$(call CROSS,windows,mingw)

# Debian's Emscripten, of 2022, looks for its parser of JavaScript in Debian's Node.js only, and has no notion of fetch()
# in Node.js.
cross-web: export NODE_PATH := /usr/share/nodejs
cross-web: export NODE_OPTIONS := --no-experimental-fetch
cross-web:                  ## the same for browsers into build/wasm, its tests in Node.js; build/wasm/web is a page to offer
	@cpp/needs.sh "cmake ninja em++ node" cmake ninja-build emscripten nodejs
	$(call CROSS,wasm,wasm)

comma := ,
SANITIZED = cmake -S cpp -B build/sanitize-$(1) -G Ninja --log-level=WARNING -DCMAKE_BUILD_TYPE=RelWithDebInfo \
              -DSWINV2_TESTS=ON -DSWINV2_SANITIZE=$(2) && \
            cmake --build build/sanitize-$(1) && ctest --test-dir build/sanitize-$(1) --output-on-failure

sanitize:                   ## the tests of cpp/ under the sanitizers of addresses, undefined behaviour and threads
	@cpp/needs.sh "cmake ninja" cmake ninja-build
	$(call SANITIZED,address,address$(comma)undefined)
	$(call SANITIZED,thread,thread) -R "kernels|threads|model"

browser:                    ## Chromium, for the tests of the pages that a server has; without it they say why they do not run
	-@cpp/needs.sh chromium chromium

# tests/peers.py says what they are. They are unpacked and not installed: what they want does not fit beside ours.
PEERS := nvidia-pytriton>=0.7 kserve>=0.20
peers: build/peers/.there   ## Triton itself and the models of KServe's resources, for the tests that ask them

build/peers/.there: Makefile | .venv/bin/python
	@mkdir -p build/peers && touch $@
	@for package in $(patsubst %,"%",$(PEERS)); do echo "make: fetching $$package"; \
	  $(BIN)/python -m pip install --quiet --no-deps --no-compile --upgrade --target build/peers "$$package" || \
	  { rm -f $@; echo "make: it is not to be had here; tests that ask it are skipped" >&2; }; done

bench: .venv/.test          ## ours against timm, transformers and torchvision, in interleaved runs
	$(BIN)/python benchmarks/inference.py
	$(BIN)/python benchmarks/training.py

bench-gpu: .venv/.test      ## the same on a CUDA device, and the kernels alone
	PYTHON=$(BIN)/python benchmarks/gpu.sh

docs: .venv/.test           ## write the generated tables of README and docs again
	$(BIN)/python docs/generate.py

clean:                      ## everything that was made here, the environment too
	rm -rf .venv build dist runs/demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of dependencies (the extras of pyproject.toml). The installation compiles the engine that lies in
# the package. doctor refuses a torch and a torchvision that were not made for each other, and imports what there is,
# which is what pip need not compile.
.venv/.%: pyproject.toml $(shell find cpp/CMakeLists.txt cpp/cmake cpp/include cpp/src -type f) | .venv/bin/python
	$(BIN)/python -m pip install --quiet --no-compile --editable ".[$*]"
	$(BIN)/python -m swinv2 doctor --quiet
	@touch $@

.venv/.test .venv/.dev: | libraries

libraries:
	@cpp/libraries.sh

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: needs Python 3.11 or newer as $(PYTHON); name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "make: $(PYTHON) cannot make environments; on Debian: apt-get install python3-venv"; exit 1; }

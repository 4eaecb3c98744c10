# make demo | test | test-all | check | docs | bench | models | fuzz | selftest: each target first installs its requirements into .venv.
PYTHON ?= python3
CLANG ?= clang++
BIN = .venv/bin
EXTENSION = CMakeLists.txt $(shell find cpp -type f)
CMAKE = $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -S .

.PHONY: demo test test-all check docs format bench models fuzz selftest cross-check emulate clean

# An editable installation installs an import hook, which takes precedence over PYTHONPATH. Replace it
# by a path entry, which does not.
PLAIN_PATH = cd .venv/lib/python*/site-packages && rm -f _editable_skbc_dirprune.* && \
	echo $(CURDIR)/src > dirprune.pth

.venv/demo: pyproject.toml $(EXTENSION)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	$(PLAIN_PATH)
	touch $@

.venv/dev: pyproject.toml $(EXTENSION)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	$(PLAIN_PATH)
	touch .venv/demo $@

demo: .venv/demo
	$(BIN)/dirprune demo --out runs/demo --overwrite

# Two files at a time, one thread each: more threads than cores slow each other down.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: .venv/dev
	$(PYTEST)

# Also the tests marked slow or gpu.
test-all: .venv/dev
	$(PYTEST) -m ""

check: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@if command -v actionlint; then actionlint; else echo "actionlint is not installed: skipped"; fi

docs: .venv/dev
	$(BIN)/pip install --quiet --editable ".[docs]"
	$(PLAIN_PATH)
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

format: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/dev
	$(BIN)/python benchmarks/step.py

models: .venv/dev
	$(BIN)/pip install --quiet segmentation_models_pytorch
	$(BIN)/python benchmarks/models.py

# With AddressSanitizer and UBSan: run valid graphs of every operator, then fuzz from them with
# libFuzzer for a minute; on Debian: apt install clang
fuzz: .venv/dev
	$(CMAKE) -B build/fuzz -DDIRPRUNE_FUZZ=ON -DCMAKE_CXX_COMPILER=$(CLANG)
	$(BIN)/cmake --build build/fuzz
	PYTHONPATH=tests $(BIN)/python cpp/fuzz/seeds.py build/fuzz/seeds
	build/fuzz/fuzz -runs=0 build/fuzz/seeds
	build/fuzz/fuzz -max_total_time=60 build/fuzz/seeds

# Test the kernels of all instruction sets of this CPU, and the thread pool, without Python.
selftest: .venv/dev
	$(CMAKE) -B build/selftest -DDIRPRUNE_SELFTEST=ON
	$(BIN)/cmake --build build/selftest
	build/selftest/selftest

# The self-test for aarch64; on Debian: apt install g++-aarch64-linux-gnu qemu-user
cross-check: .venv/dev
	$(CMAKE) -B build/aarch64 -DDIRPRUNE_SELFTEST=ON -DCMAKE_SYSTEM_NAME=Linux \
	    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	$(BIN)/cmake --build build/aarch64
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64/selftest without-fork

# The self-test with an emulated AVX-512; needs Debian and takes 20 minutes.
emulate: .venv/dev
	$(CMAKE) -B build/emulated -DDIRPRUNE_SELFTEST=ON -DCMAKE_EXE_LINKER_FLAGS=-static
	$(BIN)/cmake --build build/emulated
	cpp/selftest/emulated.sh build/emulated/selftest

clean:
	rm -rf .venv runs build src/dirprune/*.so

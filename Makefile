# make demo | test | test-all | check | docs | bench | models | fuzz | selftest : each installs what it needs into .venv first.
PYTHON ?= python3
BIN = .venv/bin
EXTENSION = CMakeLists.txt $(shell find cpp -type f)
CMAKE = $(BIN)/cmake -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -S .

.PHONY: demo test test-all check docs format bench models fuzz selftest cross-check emulate clean

# The import hook of an editable installation would come before PYTHONPATH: a path entry does not.
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

# Two files at a time, each on one thread: more threads than cores wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: .venv/dev
	$(PYTEST)

# What is marked slow or gpu as well.
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

# The parser of the engine's files under AddressSanitizer and UBSan, for a minute, by libFuzzer;
# on Debian: apt install clang
fuzz: .venv/dev
	$(CMAKE) -B build/fuzz -DDIRPRUNE_FUZZ=ON -DCMAKE_CXX_COMPILER=clang++
	$(BIN)/cmake --build build/fuzz
	$(BIN)/python cpp/fuzz/seeds.py build/fuzz/seeds
	build/fuzz/fuzz -max_total_time=60 build/fuzz/seeds

# The kernels of all instruction sets that this CPU has, and the pool, without Python.
selftest: .venv/dev
	$(CMAKE) -B build/selftest -DDIRPRUNE_SELFTEST=ON
	$(BIN)/cmake --build build/selftest
	build/selftest/selftest

# The same for aarch64; on Debian: apt install g++-aarch64-linux-gnu qemu-user
cross-check: .venv/dev
	$(CMAKE) -B build/aarch64 -DDIRPRUNE_SELFTEST=ON -DCMAKE_SYSTEM_NAME=Linux \
	    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++
	$(BIN)/cmake --build build/aarch64
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64/selftest without-fork

# The same with AVX-512 where the processor has none; needs Debian and 20 minutes.
emulate: .venv/dev
	$(CMAKE) -B build/emulated -DDIRPRUNE_SELFTEST=ON -DCMAKE_EXE_LINKER_FLAGS=-static
	$(BIN)/cmake --build build/emulated
	cpp/selftest/emulated.sh build/emulated/selftest

clean:
	rm -rf .venv runs build src/dirprune/*.so

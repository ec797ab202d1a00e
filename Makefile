# `make demo` and `make test` start from nothing: they make .venv, install everything, and run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A test that no signal wakes, deep in a library, is told by its stack after 1000 s and ends its process, and no more.
PYTEST := $(BIN)/pytest -n logical --dist loadfile --no-loadscope-reorder \
	-o faulthandler_timeout=1000 -o faulthandler_exit_on_timeout=true
ROOMS := spaces targets pruning results search

.PHONY: setup demo test test-faults test-all retest lint docs dist bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("needs Python 3.11 or newer: PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e ".[ray,postgres,dashboard,openvino,examples,notebook,parquet,docs,dev]"
	mkdir -p $(VENV)/rooms/prunetune
	for room in $(ROOMS); do ln -sfn ../../../$$room $(VENV)/rooms/prunetune/$$room; done
	touch $(STAMP)

demo: setup
	$(BIN)/python examples/barcodes/generate.py --out data/barcodes
	$(BIN)/prunetune run examples/barcodes/study.yaml --workers 2

test: setup
	$(PYTEST) -m "core or not (slow or faults)"

# Further studies, kills, outages, clusters, browsers, every family of detectors: slow, and seldom what a change breaks.
test-faults: setup
	$(PYTEST) -m "(slow or faults) and not core"

test-all: setup
	$(PYTEST)

# What failed last beside other tests, once more and alone.
retest: setup
	$(BIN)/pytest --last-failed --last-failed-no-failures none

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/site. A link that leads nowhere ends it. `docs/generate.py` fills in what pages have of the code.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What is uploaded, in dist/: a source archive, and the wheel that is built of it.
dist: setup
	rm -rf build/lib build/bdist.* dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

bench: setup
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# make demo   the main job on real text, from nothing: five to ten minutes once installed
# make test   every test that can run here, but for the sweeps over all model classes
# make test-all  those sweeps too: about ten minutes more
# make check  format, lint, docstrings, types, layers, generated docs
# make bench  ratios against baselines measured in the same run
# make docs   regenerate what is generated in README.md and docs/

PYTHON ?= $(shell for v in python3.11 python3.12 python3.13 python3; do $$v -c '' 2>/dev/null && echo $$v && break; done)
BIN := .venv/bin
PAGES := README.md docs/architecture.md docs/attribution.md docs/attribution-classes.md \
	docs/concepts.md docs/contributing.md docs/error-rates.md docs/glossary.md docs/questions.md \
	tests/README.md docs/model-types.md docs/settings.md docs/claims.md $(wildcard docs/commands/*.md)
COG := $(BIN)/cog -I docs

.PHONY: demo test test-all check bench docs
.DELETE_ON_ERROR:

demo: .venv/runtime
	$(BIN)/dynamics study configs/demo.yaml -o runs/demo

test: .venv/dev
	$(BIN)/pytest -n 2 --dist worksteal $(ARGS)

test-all: .venv/dev
	$(BIN)/pytest -n 2 --dist worksteal -m '' $(ARGS)

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(COG) --check --diff $(PAGES)

bench: .venv/dev
	@for program in benchmarks/*.py; do echo "== $$program"; $(BIN)/python $$program || exit 1; done

docs: .venv/dev
	$(COG) -r $(PAGES)

.venv/runtime: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/runtime
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

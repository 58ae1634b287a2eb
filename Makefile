PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two workers; their tests are started in the order of the files, so that most share their files' fixtures.
PYTEST := $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo test test-all lint docs clean

# Each of these installs again only when what is to be installed has changed.
$(VENV)/.installed: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[test,hosts-test]'
	touch $(VENV)/.demo $(VENV)/.docs $@

$(VENV)/.demo: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[plot]'
	touch $@

$(VENV)/.docs: setup.cfg pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

demo: $(VENV)/.demo
	$(BIN)/python -m msinet_train.demo --output runs/demo $(ARGS)

test: $(VENV)/.installed
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: $(VENV)/.installed
	$(PYTEST) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -q docs build/docs
	@echo 'build/docs/index.html'

clean:
	rm -rf $(VENV) build dist *.egg-info

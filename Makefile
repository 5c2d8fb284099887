# make demo   set up, and run the flights job on real data
# make test   set up, and run what CI runs: format, lint, types, tests, doctests
# Python 3.10 or newer is needed; PYTHON=python3.12 make test chooses one.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo docs test lint types unit race random test-all soak regression prove chaos screenshots bench test-pythons clean

demo: $(VENV)/.demo
	$(BIN)/sage-flow run jobs/flights.py

test: lint types unit

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

# Two processes of pytest at the same time: what uses a cluster of Ray, and the rest.
unit: $(VENV)/.test
	$(BIN)/python tests/side_by_side.py -p no:randomly --durations=10

# What a race could break, twenty times in a row.
race: $(VENV)/.test
	for turn in $$(seq 20); do echo "turn $$turn of 20"; $(BIN)/python -m pytest -q -m race || exit 1; done

# The whole suite three times, each in another random order.
random: $(VENV)/.test
	for turn in 1 2 3; do $(BIN)/python tests/side_by_side.py -p randomly || exit 1; done

# Everything, in every mode, on Ray too: hours.
test-all: $(VENV)/.test
	$(BIN)/python -m pytest -q --everywhere

soak: $(VENV)/.test
	$(BIN)/python -m pytest -q -m soak

# The fault of the system before this one: 10,000 schedules and 210,000 calls, about fifteen minutes on two cores.
# What fails is told with the command that runs it again.
regression: $(VENV)/.test
	$(BIN)/python tests/regression

# Any process may die at any moment: SEEDS random jobs, schedules and faults in the simulation, about eight a second.
prove: $(VENV)/.test
	$(BIN)/python tests/prove --seeds $(or $(SEEDS),1000)

# Real queries on a Ray of two and three nodes, whose processes are killed every few seconds, for so many MINUTES.
chaos: $(VENV)/.test
	$(BIN)/python tests/chaos --minutes $(or $(MINUTES),60)

# The pictures of docs/images/, with the Chromium of this machine.
screenshots: $(VENV)/.test
	PYTHONPATH=tests:tests/dashboard $(BIN)/python tests/dashboard/screenshots.py

# The documentation as a site, in site/; a link that leads nowhere is an error. `mkdocs serve` shows it while you write.
docs: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

# The tests on every interpreter that is there.
test-pythons:
	tests/run_pythons.sh

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.test: $(VENV)/bin/python setup.cfg pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) .venv-* build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

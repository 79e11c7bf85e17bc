# Everything a person or a CI runs. Needs Python 3.11 or newer with its venv module, make and git.
# The virtual environment is made once, and again when a requirements file has changed.

VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes
RUN := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
IMAGE ?= openai-proxy
PYTEST ?= $(PY) -m pytest
# A file's tests stay together, in the order of the files; tests/conftest.py says how many at once.
ARGS ?= --numprocesses auto --dist loadfile --no-loadscope-reorder

# The first of these that is new enough and can make virtual environments.
CANDIDATES := $(PYTHON) python3.14 python3.13 python3.12 python3.11 python3
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# What is compiled once is there for the next start: of a server, and of each process of the tests.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run demo test quick check shape lint type coverage smoke bench build lock clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

install: $(RUN) ## make .venv and install requirements.txt

run: $(RUN) ## serve on http://127.0.0.1:8080 and print a curl to paste
	@test -f .env || $(PY) manage.py setup --part-of-run
	@$(PY) manage.py db migrate
	@exec $(PY) manage.py serve --welcome

demo: $(RUN) ## the whole thing with a stand-in upstream: no key, no network
	@$(PY) manage.py demo

test: $(DEV) ## the whole suite at once; ARGS='-k name' picks, one test after the other
	$(PYTEST) $(ARGS)

quick: lint ## lint and the unit tests that are not slow: under a minute
	@$(PY) -m pytest --quiet -m "not slow" $(ARGS:auto=logical) tests/unit

check: lint type ## what CI runs: lint, types, architecture, tests with coverage, demo
	$(PY) -m pytest -q tests/unit/test_architecture.py
	@$(MAKE) --no-print-directory coverage
	@$(MAKE) --no-print-directory demo

shape: ## modules over 600 or under 50 lines: each wants a reason
	@find proxy -name '*.py' ! -name '__init__.py' -exec wc -l {} + | \
	    awk '$$2 != "total" && ($$1 > 600 || $$1 < 50)' | sort -rn

lint: $(DEV) ## ruff: rules and format; codespell
	$(PY) -m ruff check --quiet .
	$(PY) -m ruff format --check --quiet .
	$(PY) -m codespell_lib

type: $(DEV) ## mypy --strict
	$(PY) -m mypy

coverage: $(DEV) ## the suite, measured: 90 % of proxy/ or it fails
	@$(PY) -m coverage erase
	@# Compiles the tests: once and not measured, instead of in every process at the same time.
	@$(PY) -m pytest --quiet --collect-only >/dev/null || true
	@$(MAKE) --no-print-directory test PYTEST="$(PY) -m coverage run -m pytest"
	@$(PY) -m coverage combine --quiet
	$(PY) -m coverage report --fail-under=90

smoke: $(DEV) ## the tour against the real OpenAI, when OPENAI_API_KEY is set
	@$(PY) -m tests.support.smoke

bench: $(DEV) ## the race against other proxies (wrk, nginx); ARGS='--quick' for a trial
	@$(PY) -m bench $(ARGS)

build: ## the container image
	docker build --tag $(IMAGE) .

lock: ## requirements*.txt again from the .in files (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv" >&2; exit 1; }
	for name in requirements requirements-dev; do \
	    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	        --no-emit-index-url --output-file $$name.txt $$name.in || exit 1; \
	done

clean: ## remove .venv and what the tools leave; never .env or data/
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage .coverage.* htmlcov \
	    tests/e2e/typescript/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(PY):
	@for python in $(CANDIDATES); do \
	    $$python -c '$(NEW_ENOUGH)' 2>/dev/null || continue; \
	    found=$$python; \
	    $$python -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    echo "Making $(VENV) with $$($$python --version)."; \
	    exec $$python -m venv --clear $(VENV); \
	done; \
	if [ -n "$$found" ]; then \
	    echo "$$found has no venv module. On Debian: apt-get install python3-venv" >&2; \
	else \
	    echo "Python 3.11 or newer is needed, with its venv module." >&2; \
	fi; exit 1

$(RUN): requirements.txt | $(PY)
	@echo "Installing $<."
	@$(PIP_INSTALL) -r $<
	@touch $@

$(DEV): requirements-dev.txt | $(PY)
	@echo "Installing $<."
	@$(PIP_INSTALL) -r $<
	@touch $(RUN) $@

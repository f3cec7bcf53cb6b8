# Two commands matter: `make site` and `make test`. Each sets itself up in .venv with pip.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/installed
PEERS := .cache/peers
export NO_MKDOCS_2_WARNING := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help site test serve verify update lock peers clean distclean setup

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-17s %s\n", $$1, $$2}'

site: setup ## run every program, check every claim, build site/
	@$(PY) -m genref._site build

test: setup ## lint, types, tests, claims and programs under other seeds, the site in a browser
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(PY) -m codespell_lib
	@$(PY) -m genref._site build --no-cache
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest --claim-seed 1 --junitxml .cache/junit.xml
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report --include 'genref/_site/*' --fail-under 95
	@$(PY) -m coverage report --omit 'genref/_site/*' --fail-under 100

serve: setup ## show the pages while you write them
	@$(PY) -m mkdocs serve --dirty

verify: setup ## check the claims and print the table (ONLY=pattern chooses some)
	@$(PY) -m genref verify $(ONLY)

update: setup ## rewrite expected output from what the programs print
	@$(PY) -m genref._site update

lock: setup ## refresh constraints.txt, but for torch
	@rm -rf .cache/lock && $(PYTHON) -m venv .cache/lock && grep '^torch==' constraints.txt > .cache/lock/torch.txt
	@.cache/lock/bin/python -m pip install --quiet --constraint .cache/lock/torch.txt '.[site,test]' hatchling
	@.cache/lock/bin/python -m pip freeze --exclude genref | sed 's/+[a-z0-9]*$$//' > constraints.txt
	@rm -rf .cache/lock && git --no-pager diff --stat constraints.txt

peers: ## measure other libraries of flows beside ours, write docs/flows/peers.json
	@want="$$(cat tests/flows/peers.txt constraints.txt | cksum) $(CURDIR) $(PYTHON)"; \
	[ "$$(cat $(PEERS)/installed 2>/dev/null)" = "$$want" ] || { \
	rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS) && \
	$(PEERS)/bin/python -m pip install --quiet --constraint constraints.txt --requirement tests/flows/peers.txt && \
	echo "$$want" > $(PEERS)/installed; }
	@PYTHONPATH=. $(PEERS)/bin/python -W ignore tests/flows/peers.py docs/flows/peers.json 41
	@echo "make update shows the record on the page"

clean: ## remove what builds made, but for the store of results
	@rm -rf site dist build .coverage* .pytest_cache .mypy_cache .ruff_cache .cache/site .cache/junit.xml
	@find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove .venv and the store too
	@rm -rf $(VENV) .cache

# Done again when pyproject.toml or constraints.txt change, in another folder, after a setup cut short, or for another PYTHON.
setup:
	@want="$$(cat pyproject.toml constraints.txt | cksum) $(CURDIR) $(PYTHON)"; \
	if [ "$$(cat $(STAMP) 2>/dev/null)" = "$$want" ] && $(PY) -c '' 2>/dev/null; then exit 0; fi; \
	$(PYTHON) -c '' 2>/dev/null || { echo "no $(PYTHON) here: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "genref needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no ensurepip: install python3-venv, or name another: make PYTHON=/path/to/python3" >&2; exit 1; }; \
	echo "setting up $(VENV): a few minutes the first time"; \
	rm -f $(STAMP); $(PY) -c 'import pip' 2>/dev/null || rm -rf $(VENV); \
	$(PYTHON) -m venv $(VENV) && \
	$(PY) -m pip install --quiet --constraint constraints.txt --editable '.[site,test]' && \
	echo "$$want" > $(STAMP)

.DEFAULT:
	@echo "no target '$@': make help lists them" >&2; exit 2

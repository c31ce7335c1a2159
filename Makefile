# What a person types. Everything runs in .venv, made from requirements.lock; nothing has to be installed by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SPARK := $(VENV)/.installed-spark
WORKERS := 2
export UV_COMPILE_BYTECODE := 1
ifdef ENGINE
export LAKEHOUSE_ENGINE := $(ENGINE)
endif
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install run spark cluster down check format test crash bench lock docs browser clean

help: ## Say what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

install: $(STAMP) ## Make the virtual environment from the lock file

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or later is needed; name one with PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements.lock | cut -d' ' -f1)"
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet --require-hashes requirements.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

$(SPARK): $(STAMP) requirements-spark.lock
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --require-hashes -r requirements-spark.lock
	@touch $(SPARK)

run: $(if $(filter spark,$(ENGINE)),spark,$(STAMP)) ## The main job, up to daily statistics; a smaller one: make run DEMO="--days 3 --users 60"
	$(BIN)/lakehouse up
	$(BIN)/lakehouse demo load $(DEMO)
	$(BIN)/lakehouse run
	$(BIN)/lakehouse verify
	@address=$$($(BIN)/lakehouse ui) && echo "Dagster UI: $$address"

spark: $(SPARK) ## Get ready for Spark as the engine (LAKEHOUSE_ENGINE=spark, or make run ENGINE=spark): package and jars
	@$(BIN)/lakehouse spark jars

cluster: spark ## A Spark cluster of a master and two workers, until Ctrl-C
	$(BIN)/python -m tests.cluster

down: $(STAMP) ## Stop everything; the data stays (lakehouse down --wipe removes it)
	$(BIN)/lakehouse down

check: $(SPARK) ## Format, lint, types, import contracts, documentation in step
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(STAMP) ## Put the code in form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: spark browser ## All tests, on real servers
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 30

browser:
	@command -v chromium >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
	  echo "chromium is not installed: the browser test needs it (apt-get install chromium)"

crash: $(SPARK) ## Kill everything, many times, and count what is lost: make crash KILLS=1000 SEED=1
	$(BIN)/python -m tests.crash --kills $(or $(KILLS),100) $(if $(SEED),--seed $(SEED)) $(if $(PART),--part $(PART))

bench: $(STAMP) ## Run the benchmarks, or one of them: make bench NAME=path
	$(BIN)/python -m benchmarks $(NAME)

docs: $(STAMP) ## Write the generated pages of the documentation anew
	$(BIN)/python docs/generate.py

lock: $(STAMP) ## Resolve the dependencies of pyproject.toml anew
	$(BIN)/uv lock --quiet --upgrade
	$(BIN)/uv export --quiet --frozen --no-emit-project --no-header --extra embedded --all-groups -o requirements.lock
	$(BIN)/uv export --quiet --frozen --no-emit-project --no-header --extra spark --no-dev -o requirements-spark.lock

clean: down ## Remove the virtual environment and all that was generated
	rm -rf $(VENV) .lakehouse dbt_project/target dbt_project/logs .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Two commands on a machine with Python 3.11+, make and git:
#   make run    set everything up and run the main job on an embedded Postgres
#   make test   set everything up, lint, type-check, and run every test
# Works from any folder: make -C PATH run

ROOT  := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV  := $(ROOT)/.venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
JS    := $(ROOT)/tests/integration/server/js

.DEFAULT_GOAL := help
.PHONY: help run setup tools js test lint format unit docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(ROOT)/Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

run: setup ## set up, then fill and verify the music knowledge base
	@$(BIN)/backline demo

test: setup tools js lint ## set up, lint, type-check and run every test
	@cd $(ROOT) && $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(PYTEST_ARGS)

setup: $(READY) ## make .venv with everything that the project needs

$(READY): $(ROOT)/pyproject.toml $(ROOT)/constraints.txt $(ROOT)/scripts/setup.sh
	@sh $(ROOT)/scripts/setup.sh $(ROOT) $(VENV)
	@touch $@

tools: setup ## fetch what only the tests need: PostgREST, Supabase CLI, Deno, PgBouncer
	@sh $(ROOT)/scripts/tools.sh $(ROOT) $(VENV)

js: $(JS)/node_modules/.package-lock.json ## fetch OpenAI's JavaScript client, which a test uses

$(JS)/node_modules/.package-lock.json: $(JS)/package-lock.json
	@if command -v npm >/dev/null; then \
		cd $(JS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2; \
	else echo "WITHOUT npm: OpenAI's JavaScript client is not tested. Install Node 20 with npm." >&2; fi

lint: setup ## ruff, mypy --strict, the import contracts
	@cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## format the code
	@cd $(ROOT) && $(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: setup ## regenerate the reference pages and supabase/ from the program
	@cd $(ROOT) && $(BIN)/python scripts/reference.py && $(BIN)/python scripts/supabase_project.py

clean: ## remove what the other targets made in this folder
	@rm -rf $(VENV) $(ROOT)/.tools $(ROOT)/dist $(ROOT)/.mypy_cache $(ROOT)/.ruff_cache $(ROOT)/.pytest_cache

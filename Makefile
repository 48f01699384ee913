# Two commands on a machine with Python 3.11+, make and git:
#   make run    set everything up and run the demo on an embedded Postgres
#   make test   set everything up, lint, type-check, and run every test
# From any folder: make -C PATH run

ROOT  := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
VENV  := $(ROOT)/.venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready
JS    := $(ROOT)/tests/integration/server/js
WEB   := $(ROOT)/web
PAGE  := $(ROOT)/src/backline/server/static/index.html
# Sources of the page, without node_modules.
WEB_SOURCES := $(shell find $(WEB) -name node_modules -prune -o -type f -print 2>/dev/null) $(ROOT)/src/backline/data/actions.json

# Suites that hold for every place of the vectors.
OVER_TARGETS := $(addprefix tests/,$(addsuffix .py,$(addprefix integration/test_,backfill cache concurrent_edits \
	database_faults kill known_traps leases live_edits lost_lease provider_faults server_crashes))) \
	tests/property tests/transports

.DEFAULT_GOAL := help
.PHONY: help run serve setup tools js browser web web-dev web-test screenshots test nightly simulate lint format unit docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(ROOT)/Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

run: setup ## set up, then fill and verify the music knowledge base
	@$(BIN)/backline demo

serve: setup ## build the studio if Node.js is installed, and serve it
	@$(MAKE) --no-print-directory -C $(ROOT) web OPTIONAL=optional
	@$(BIN)/backline serve

test: setup tools js browser lint ## set up, lint, type-check and run every test
	@$(MAKE) --no-print-directory -C $(ROOT) web-test OPTIONAL=optional
	@cd $(ROOT) && $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(PYTEST_ARGS)

nightly: setup tools js browser ## slow tests, faults over side tables and passages, 2,000 histories
	@cd $(ROOT) && $(BIN)/python -m pytest -m nightly -n auto --maxprocesses 8 $(PYTEST_ARGS)
	@cd $(ROOT) && BACKLINE_TESTED_SIDE_TABLE=notes_vectors \
		$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(OVER_TARGETS) $(PYTEST_ARGS)
	@cd $(ROOT) && BACKLINE_TESTED_PASSAGES=100 BACKLINE_TESTED_SIDE_TABLE=notes_vectors \
		$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(OVER_TARGETS) $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory -C $(ROOT) simulate SEEDS=2000

simulate: setup ## run SEEDS histories of the protocol from seed FIRST; SHRINK=--shrink shortens failures
	@cd $(ROOT) && $(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0) $(SHRINK)

setup: $(READY) ## create .venv with everything that the project needs

$(READY): $(ROOT)/pyproject.toml $(ROOT)/constraints.txt $(ROOT)/scripts/setup.sh
	@sh $(ROOT)/scripts/setup.sh $(ROOT) $(VENV)
	@touch $@

tools: setup ## fetch tools of the tests: PostgREST, Supabase CLI, Deno, PgBouncer
	@sh $(ROOT)/scripts/tools.sh $(ROOT) $(VENV)

js: $(JS)/node_modules/.package-lock.json ## fetch OpenAI's JavaScript client for a test

$(JS)/node_modules/.package-lock.json: $(JS)/package-lock.json
	@if command -v npm >/dev/null; then \
		cd $(JS) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2; \
	else echo "WITHOUT npm: OpenAI's JavaScript client is not tested. Install Node 20 with npm." >&2; fi

web: $(PAGE) ## build the studio into the package; needs Node.js 20.19 or newer

$(PAGE): $(WEB_SOURCES) $(ROOT)/scripts/web.sh
	@sh $(ROOT)/scripts/web.sh build $(ROOT) $(OPTIONAL)

web-dev: ## serve the studio from its sources, against a backline serve on port 8000
	@sh $(ROOT)/scripts/web.sh install $(ROOT) && cd $(WEB) && npm run dev

web-test: setup web ## type-check, lint and test the studio's code
	@if command -v npm >/dev/null && [ -f $(PAGE) ]; then cd $(WEB) && npm run --silent check && npm run --silent test; fi

browser: ## find or fetch Chromium for the tests of the page
	@sh $(ROOT)/scripts/web.sh browser $(ROOT) optional

screenshots: setup browser web ## photograph every view in both themes and widths into screenshots/
	@cd $(ROOT) && $(BIN)/python -m tests.e2e.screenshots

lint: setup ## ruff, mypy --strict, the import contracts
	@cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

format: setup ## format the code
	@cd $(ROOT) && $(BIN)/ruff format . && $(BIN)/ruff check --fix .

docs: setup ## regenerate the reference pages, the migrations and supabase/
	@cd $(ROOT) && $(BIN)/python scripts/migrations.py && $(BIN)/python scripts/outcomes.py && $(BIN)/python scripts/models.py && $(BIN)/python scripts/reference.py

clean: ## remove the files of the other targets
	@rm -rf $(VENV) $(ROOT)/.tools $(ROOT)/dist $(ROOT)/.mypy_cache $(ROOT)/.ruff_cache $(ROOT)/.pytest_cache \
		$(WEB)/node_modules $(JS)/node_modules $(dir $(PAGE)) $(ROOT)/screenshots

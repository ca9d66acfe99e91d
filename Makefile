# Works with GNU make 3.81 and newer. `make` alone lists the targets.

VENV   := .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/pytest
# Where the machine has a list of certificates, it is the one that knows a company's own.
CERTS  := $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/ssl/cert.pem /etc/pki/tls/cert.pem)
UV     := $(BIN)/uv $(if $(CERTS),--system-certs)
INTO   := --python $(BIN)/python
CODE   := $(wildcard src tests examples benchmarks)
LOCK   := $(UV) --quiet pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
          --no-header --no-emit-index-url --no-emit-find-links $(LOCK_ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo check format test faults bench lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## make .venv and install everything, pinned by hash

demo: $(VENV)/.demo ## a search over 5 model types on real data, then what a team lead asks of it
	$(BIN)/python examples/lunch/lunch.py

check: $(VENV)/.dev ## format, lint, types, layers, size limits, docs that are complete
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/lint-imports
	$(PYTEST) -q tests/architecture

format: $(VENV)/.dev ## put the code into the one format
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

test: check ## check, then every test but the long fault suite
	scripts/tools
	$(PYTEST) -n 2 --dist worksteal -m "not faults_long" --ignore=tests/architecture

faults: $(VENV)/.dev ## the long fault suite: kill -9, full disks, servers that go away
	scripts/tools
	$(PYTEST) -m faults_long

bench: $(VENV)/.dev ## ratios against the real peers, written to docs/benchmarks.md
	$(BIN)/python -m benchmarks

lock: $(VENV)/.setup ## pin what pyproject.toml asks for; LOCK_ARGS=--upgrade takes the newest
	$(LOCK) --extra postgres --extra s3 --group dev -o requirements/dev.txt
	$(LOCK) --group demo -c requirements/dev.txt -o requirements/demo.txt
	$(LOCK) --extra postgres --extra s3 -c requirements/dev.txt -o requirements/base.txt
	$(UV) --quiet pip compile --group setup -c requirements/dev.txt --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-emit-index-url --no-emit-find-links $(LOCK_ARGS) -o requirements/setup.txt

clean: ## remove .venv and what the tools cache
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

# Each stamp says: what these files ask for is installed.

$(VENV)/.setup: requirements/setup.txt scripts/venv
	scripts/venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.setup requirements/demo.txt pyproject.toml
	$(UV) pip install $(INTO) --require-hashes -r requirements/demo.txt
	$(UV) pip install $(INTO) --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.demo requirements/dev.txt
	$(UV) pip install $(INTO) --require-hashes -r requirements/dev.txt
	@touch $@

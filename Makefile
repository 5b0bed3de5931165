# `make run` shows Cellyard at work, `make test` tests it; both set up whatever is missing, also on a fresh Debian.
# Variables: NOTEBOOK=path for run, PYTEST_ARGS=... for test, VENV=path and PYTHON=path for the virtual environment,
# PYTHONS="3.13" for image: images with other interpreters too.

SHELL := /bin/bash
export VENV ?= .venv
NOTEBOOK ?= examples/hello.ipynb
PYTEST_ARGS ?=
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help run test check bench setup venv semantic serve proto sync cli-docs screenshots docs seccomp image runsc redis postgres haproxy chromium systemd nodes soak clean

help: ## what there is
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

run: image ## set up, then execute a notebook in a sandbox (NOTEBOOK=path)
	@NOTEBOOK="$(NOTEBOOK)" scripts/run.sh

test: PYTHONS ?= 3.13
test: image redis postgres haproxy chromium systemd ## set up, then all tests but soak and bench (PYTEST_ARGS=...)
	@$(VENV)/bin/python -m pytest -m "not soak and not bench" \
	  -n 4 --dist loadfile --no-loadscope-reorder tests $(PYTEST_ARGS)

check: venv ## format, lint, types, import rules, protobuf, generated code, locks
	@scripts/check.sh

docs: venv ## the site, into site/
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet && echo "site/index.html"

bench: image ## the benchmarks; tables, and JSON in bench-results/
	@$(VENV)/bin/python -m pytest -m bench -q -s --timeout 0 tests/bench $(PYTEST_ARGS)

nodes: image redis postgres haproxy chromium systemd ## of the long tests: three machines, one after the other fails (4 min, alone on this one)
	@$(VENV)/bin/python -m pytest -m soak --timeout 0 tests/cluster/test_nodes_fail.py $(PYTEST_ARGS)

soak: image ## the long tests
	@$(VENV)/bin/python -m pytest -m soak --timeout 0 tests $(PYTEST_ARGS)

setup: venv ## virtual environment and container engine
	@scripts/engine.sh

venv:
	@scripts/venv.sh

seccomp: venv ## generate the seccomp profile from its table
	@$(VENV)/bin/python scripts/seccomp.py

semantic: venv ## torch and a model, for the tests of search by meaning
	@scripts/semantic.sh

image: setup ## the images that sandboxes start from (PYTHONS=3.13 adds one)
	@scripts/image.sh $(foreach version,$(PYTHONS),--python $(version))

runsc: setup ## register gVisor with the engine, for templates that name it
	@scripts/runsc.sh

systemd: # what checks the service unit; for a test only
	@scripts/systemd.sh

redis: # the server that tests of storages start; for them only
	@scripts/redis.sh

postgres: # the server that tests of the shared store start; for them only
	@scripts/postgres.sh

haproxy: # the balancer that tests put in front of controllers; for them only
	@scripts/haproxy.sh

chromium: # the browser that tests drive; for them only
	@scripts/chromium.sh

serve: image ## a controller in the foreground
	@$(VENV)/bin/cellyard serve

proto: venv ## generate the protobuf modules
	@scripts/proto.sh

sync: venv ## generate the sync SDK from the async one
	@$(VENV)/bin/python scripts/sync.py

cli-docs: venv ## docs/cli.md, from what the commands say themselves
	@$(VENV)/bin/python scripts/cli_docs.py

screenshots: image chromium # pictures of the console for the documentation
	@$(VENV)/bin/python scripts/screenshots.py

clean: ## remove what was made here; images, engine and data stay
	@rm -rf $(VENV) $(VENV)-semantic .cache bench-results dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@rm -f *.executed.ipynb
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

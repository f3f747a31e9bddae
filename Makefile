# Everything a person or a machine runs here. A bare machine needs Python 3.11 or newer with venv, and make.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first that runs and is new enough: a name on the path may be a shim of a version manager that leads nowhere.
PYTHON ?= $(shell for name in python3.12 python3.13 python3.11 python3 python; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$name && break; done)
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
# Tests start hundreds of processes, and files are compiled once for all of them.
unexport PYTHONDONTWRITEBYTECODE
# Whatever fails beside other tests has a second try alone, and is named.
PYTEST := $(PY) -m tools.second_try $(PY) -m pytest -q
WHEEL_DIR := build/wheel-test
# What a wheel can break: a file that it forgot, a command that it does not make, a path that leads back to the sources.
# Its files are those of the sources, byte for byte, says tools.wheel: so they decide alike, which is tested there.
ON_WHEEL := $(addprefix tests/conformance/,test_*_surface.py test_engine_adapters.py test_emulated_machine.py) \
	$(addprefix tests/unit/,dashboard screens test_every_module.py test_bus_api.py test_cli_*.py test_schemas_*.py \
	test_top.py test_logs.py test_uvicorn.py test_words_and_ways.py)
JS_CLIENTS := tests/acceptance/javascript
JS_GENERATORS := tests/acceptance/generators
ACCEPTANCE ?= tests/acceptance
# Unit tests work, the others mostly wait for real processes and clocks: more of them than cores run side by side.
# A file stays on one worker.
UNIT_WORKERS ?= -n 2 --dist loadfile
SIDE_BY_SIDE ?= -n 4 --dist loadfile
# These wait longest: half of their time at four.
IN_ONE_PROGRAM ?= -n 6 --dist loadfile

# LOCKED=yes takes what is shipped from requirements.lock, in its versions and with its hashes, as the image does.
$(INSTALLED): pyproject.toml $(if $(LOCKED),requirements.lock)
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(PY) || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(if $(LOCKED),$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock,true)
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dashboard,engine,otel,top]' --group dev --group acceptance
	@touch $@

# The JavaScript clients that tests put before the gateway, and the generators that read the wire contract; without npm
# those tests skip.
JS_INSTALLED := $(JS_CLIENTS)/node_modules/.installed $(JS_GENERATORS)/node_modules/.installed

$(JS_INSTALLED): %/node_modules/.installed: %/package-lock.json
	@if command -v npm >/dev/null; then echo "installing into $*"; \
		npm ci --silent --no-audit --no-fund --prefix $*; else echo "npm is missing: nothing in $*"; \
		mkdir -p $(@D); fi
	@touch $@

.PHONY: help
help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: install
install: $(INSTALLED) $(JS_INSTALLED) ## Makes .venv with everything in it.

# Only what the demo needs: the development environment is four times as large.
DEMO := $(VENV)/.demo

$(DEMO): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=/path/to/python"; exit 1; }
	@test -x $(PY) || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing what the demo needs into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[engine]'
	@touch $@

.PHONY: demo
demo: $(if $(wildcard $(INSTALLED)),$(INSTALLED),$(DEMO)) ## Runs a whole fleet on this machine, kills a node while it works, and shows what happened.
	@$(VENV)/bin/sollol demo

.PHONY: up
up: $(INSTALLED) ## Starts the system with an embedded NATS server; stop it with Ctrl-C.
	@$(VENV)/bin/sollol up

.PHONY: check
check: $(INSTALLED) ## Style, types, layers, circles of files and lengths.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m tools.house

.PHONY: unit
unit: $(INSTALLED) ## Fast tests without a network.
	$(PYTEST) $(UNIT_WORKERS) tests/unit

.PHONY: integration
integration: $(INSTALLED) ## Tests against a real nats-server and real engines.
	$(PYTEST) $(IN_ONE_PROGRAM) tests/integration tests/conformance

.PHONY: acceptance
acceptance: install ## Real processes, started as a user would and killed while they work.
	$(PYTEST) $(SIDE_BY_SIDE) -m "not chaos" $(ACCEPTANCE)

.PHONY: chaos
chaos: $(INSTALLED) ## Jobs, streams and calls while processes are killed and stopped and links cut, a minute; SOLLOL_CHAOS_S.
	$(PY) -m pytest -q -n 3 -m chaos tests/acceptance

.PHONY: test
test: check unit integration acceptance chaos ## All checks and tests, the fastest first.

# What the wheel depends on is taken from .venv: a path in a .pth file brings no editable sources along.
.PHONY: wheel-test
wheel-test: $(INSTALLED) ## What a wheel can break, tested on the built one, away from the sources.
	rm -rf $(WHEEL_DIR)
	mkdir -p $(WHEEL_DIR)
	$(PY) -m build --wheel --outdir $(WHEEL_DIR)/dist . > $(WHEEL_DIR)/build.log || { cat $(WHEEL_DIR)/build.log; exit 1; }
	$(PY) -m tools.wheel $(WHEEL_DIR)/dist/*.whl
	$(PYTHON) -m venv $(WHEEL_DIR)/venv
	echo "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" > \
		"$$($(WHEEL_DIR)/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
	$(WHEEL_DIR)/venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps $(WHEEL_DIR)/dist/*.whl
	mkdir -p $(WHEEL_DIR)/away
	cp -Rp tests pyproject.toml $(WHEEL_DIR)/away/
	cd $(WHEEL_DIR)/away && SOLLOL_TEST_PROFILE=glance ../venv/bin/python -P -m pytest -q $(SIDE_BY_SIDE) $(ON_WHEEL)

# What .venv has was tested; so an upgrade is: rm -rf .venv; make test lock.
.PHONY: lock
lock: $(INSTALLED) ## Renews requirements.lock: what the image holds, in the versions that .venv has, with hashes.
	mkdir -p build/lock
	$(PY) -m pip list --format=freeze --exclude-editable --disable-pip-version-check > build/lock/versions.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade --target build/lock/uv uv
	$(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		> build/lock/building.in
	build/lock/uv/bin/uv pip compile pyproject.toml build/lock/building.in --extra dashboard --extra otel --extra top \
		--universal --python-version 3.11 --constraint build/lock/versions.txt --generate-hashes --no-annotate \
		--no-header --no-emit-index-url --no-emit-find-links --quiet --output-file build/lock/requirements.lock
	cp build/lock/requirements.lock requirements.lock

.PHONY: bench
bench: $(INSTALLED) ## Every benchmark with few samples, to see that they work.
	$(PY) -m bench.overhead --quick
	$(PY) -m bench.routing --quick
	$(PY) -m bench.gateway --quick
	$(PY) -m bench.jobs --quick
	$(PY) -m bench.observing --quick
	$(PY) -m bench.recovery --quick
	$(PY) -m bench.faults --quick
	$(PY) -m bench.soak --quick
	$(PY) -m bench.frames --quick
	$(PY) -m bench.idle --quick

.PHONY: bench-overhead
bench-overhead: $(INSTALLED) ## Measures what the bus adds to a request, against a direct call.
	$(PY) -m bench.overhead --out bench/results/overhead.json

.PHONY: bench-profile
bench-profile: $(INSTALLED) ## Shows where the processor time of a request goes, by actor, with a picture.
	$(PY) -m pip install --quiet --disable-pip-version-check --group bench
	$(PY) -m bench.profile --out bench/results/profile.json
	$(PY) -m bench.profile.plots bench/results/profile.json

.PHONY: bench-recovery
bench-recovery: $(INSTALLED) ## Measures how soon the system starts, takes a node in, and serves again after a kill.
	$(PY) -m bench.recovery --out bench/results/recovery.json

.PHONY: bench-faults
bench-faults: $(INSTALLED) ## Measures what callers notice of faults: on three servers, on two sites, of clocks; half an hour.
	$(PY) -m bench.faults --out bench/results/faults.json

.PHONY: bench-frames
bench-frames: $(INSTALLED) ## Sends 10,000 broken messages on every subject; ends with 1 when an actor goes deaf or a queue chokes.
	$(PY) -m bench.frames --out bench/results/frames.json

.PHONY: bench-soak
bench-soak: $(INSTALLED) ## Measures what grows in half an hour of work: every process and every store, with a picture.
	$(PY) -m bench.soak --minutes 30 --out bench/results/soak.json

.PHONY: bench-rolling
bench-rolling: $(INSTALLED) ## Restarts everybody and each of three servers under fifty streams, three times.
	$(PY) -m bench.rolling --out bench/results/rolling.json

.PHONY: bench-restarts
bench-restarts: $(INSTALLED) ## Restarts every actor under load in ten orders, and counts what callers notice.
	$(PY) -m bench.restarts --out bench/results/restarts.json

.PHONY: bench-jobs
bench-jobs: $(INSTALLED) ## Measures durable jobs: storing, completing, a backlog of 100,000 and a restart with it.
	$(PY) -m bench.jobs --out bench/results/jobs.json

.PHONY: bench-dashboard
bench-dashboard: $(INSTALLED) ## Measures the dashboard with a made-up fleet of 200 nodes, in Chromium.
	$(PY) -m bench.dashboard --out bench/results/dashboard.json

.PHONY: bench-routing
bench-routing: $(INSTALLED) ## Compares routing policies in virtual time: every table and its picture, about half an hour.
	$(PY) -m pip install --quiet --disable-pip-version-check --group bench
	$(PY) -m bench.routing --seeds 1,2,3 --processes 2 --out bench/results/routing.json
	$(PY) -m bench.routing --scenarios complex --fleets F2 --seeds 1,2,3 --processes 2 --out bench/results/routing-gpus.json
	$(PY) -m bench.routing --scenarios prio --policies plan,plan+undo,oracle --loads 0.95 --seeds 1,2,3 --processes 2 --out bench/results/routing-undo.json
	$(PY) -m bench.routing --scenarios complex,models --policies plan,plan+undo --seeds 1,2,3 --processes 1 --out bench/results/routing-moves.json
	$(PY) -m bench.routing --scenarios faults --seeds 1,2,3 --processes 2 --out bench/results/routing-faults.json
	$(PY) -m bench.routing --scenarios closed --seeds 1,2,3 --out bench/results/routing-closed.json
	$(PY) -m bench.routing --scenarios steps --seeds 1,2,3 --out bench/results/routing-steps.json
	$(PY) -m bench.routing --scenarios batch,cold_lengths --seeds 1,2,3 --processes 2 --out bench/results/routing-batches.json
	$(PY) -m bench.routing.plots bench/results/routing.json

.PHONY: bench-live
bench-live: $(INSTALLED) ## Plays the routing benchmark's arrivals on the real system with emulated engines.
	$(PY) -m bench.live
	$(PY) -m bench.live.batch --out bench/results/live-batch.json

LITELLM := build/litellm

$(LITELLM)/.installed:
	$(PYTHON) -m venv $(LITELLM)
	$(LITELLM)/bin/python -m pip install --quiet --disable-pip-version-check 'litellm[proxy]' sglang-router
	@touch $@

.PHONY: bench-validation
bench-validation: $(INSTALLED) ## Validates the real system against a real nginx, by scenario and number of machines; half an hour, best at rest.
	$(PY) -m pip install --quiet --disable-pip-version-check --group bench
	$(PY) -m bench.validation --only uniform,mixed,priority,faults,burst --out bench/results/validation.json
	$(PY) -m bench.validation --only curves --out bench/results/validation-curves.json
	$(PY) -m bench.validation.plots bench/results/validation.json bench/results/validation-curves.json

.PHONY: bench-gateway
bench-gateway: $(INSTALLED) $(LITELLM)/.installed ## Measures what the HTTP gateway adds, against a direct call, LiteLLM's proxy, sglang-router and, where installed, nginx and haproxy.
	$(PY) -m bench.gateway --litellm $(LITELLM)/bin/litellm --sglang-router $(LITELLM)/bin/sglang-router --out bench/results/gateway.json

.PHONY: schemas
schemas: $(INSTALLED) ## Renews schemas/json, schemas/asyncapi.yaml and the generated tables in the documents.
	$(PY) -m sollol_contract
	$(PY) -m tools.documents

.PHONY: clean
clean: ## Removes everything that was built; keeps .venv.
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

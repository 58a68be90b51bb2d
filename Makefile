# treedraft: `make help` says what there is. Logic of more than two lines is in scripts/.

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
CODE := services tests scripts deploy
# Arguments for pytest, for the demo and for the bench: make test ARGS="-k tree"
ARGS ?=
# How long `make chaos` lasts, and which schedule it follows.
SECONDS ?= 600
SEED ?= 1

.DEFAULT_GOAL := help

##@ Use

.PHONY: demo
demo: setup ## Serve a real model with three processes; show speed with and without speculation
	@$(BIN)/treedraft demo $(ARGS)

.PHONY: up
up: setup ## Run coordinator, target and draft until Ctrl-C
	@$(BIN)/treedraft up $(ARGS)

.PHONY: bench
bench: setup ## Measure against plain decoding and transformers; write bench.json
	@$(BIN)/treedraft bench --json bench.json $(ARGS)

.PHONY: bench-peers
bench-peers: setup ## Measure other engines beside treedraft; they are built into .venv-peers (minutes)
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/pip install --quiet '.[peers]'
	@$(BIN)/treedraft bench peers --json bench-peers.json $(ARGS)

.PHONY: weights
weights: setup ## Fetch the default model into the cache folder (98 MB)
	@$(BIN)/treedraft fetch default

##@ Test

.PHONY: test
test: setup ## Run the test suite (no weights needed)
	$(PYTEST) -m "not real_model and not statistical and not browser and not kube and not hosts" $(ARGS)

.PHONY: chaos
chaos: setup ## Kill, freeze, cut and restart everything under load: make chaos SECONDS=600 SEED=1
	$(BIN)/python -m tests.chaos.run --seconds $(SECONDS) --seed $(SEED) $(ARGS)

.PHONY: test-statistical
test-statistical: setup ## Compare 200,000 draws a case with the law they should follow (minutes)
	$(PYTEST) -m statistical -n auto --maxprocesses 4 $(ARGS)

.PHONY: test-real
test-real: setup weights ## Compare the default model's texts with transformers' and with each other (minutes)
	$(PYTEST) -m real_model --timeout 1800 $(ARGS)

.PHONY: test-browser
test-browser: setup ## Drive the console in a headless Chromium (Debian's `chromium`, or CHROMIUM)
	$(PYTEST) -m browser tests/browser $(ARGS)

.PHONY: simulate
SEEDS ?= 500
JOBS ?= 1
simulate: setup ## Run clusters on virtual time through faults, SEEDS of them (about 4 a second and core)
	$(BIN)/python -m tests.simulation.run --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

.PHONY: fuzz
INPUTS ?= 100000
CALLS ?= 4000
REQUESTS ?= 4000
GUIDED ?= 20000
fuzz: setup ## Feed hostile INPUTS to every reader (about 5,000 a second), CALLS and REQUESTS to every endpoint
	$(BIN)/python -m tests.fuzz.run --inputs $(INPUTS) --calls $(CALLS) --requests $(REQUESTS) --guided $(GUIDED) $(ARGS)

.PHONY: soak
MINUTES ?= 30
soak: setup ## Run toy processes under light mixed traffic for MINUTES; does memory stay flat?
	$(BIN)/python -m tests.soak.run --minutes $(MINUTES) $(ARGS)

.PHONY: test-all
test-all: test test-browser test-statistical test-real ## Run everything

.PHONY: golden
golden: weights ## Write anew what transformers' generate says (slow; only for new weights)
	$(BIN)/python scripts/make_golden.py "$$($(BIN)/treedraft fetch default)" tests/golden/greedy.json

.PHONY: hosts
hosts: setup ## Run each service on a host of its own, over slow, lossy and cut links (network namespaces)
	$(PYTEST) -m hosts -s tests/hosts $(ARGS)

.PHONY: test-kube
test-kube: setup ## Hold chart and autoscaler against a real API server, if `make kube-binaries` was run
	$(PYTEST) -m kube tests/kube $(ARGS)

.PHONY: kube-binaries
kube-binaries: setup ## Build a real API server from Debian's sources into the cache (ten minutes, once; root)
	$(BIN)/python -m scripts.kube_binaries

##@ Check

.PHONY: kind
kind: ## Install the chart in a kind cluster (wants docker, kind, kubectl, helm; not run by our checks)
	scripts/kind.sh

.PHONY: pin-bases
pin-bases: setup ## Pin images of others by the digests that docker says they have now
	$(BIN)/python -m scripts.pin_bases

.PHONY: check
check: lint types imports proto-check chart-check test-fast ## Do all that is fast: format, lint, types, imports, protos, chart, unit tests

.PHONY: lint
lint: setup ## Check format and lint
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)

.PHONY: types
types: setup ## Check types (mypy --strict)
	$(BIN)/mypy

.PHONY: imports
imports: setup ## Check who imports whom
	$(BIN)/lint-imports --no-logo

.PHONY: proto-check
proto-check: setup ## Check that protos are well-formed, and that generated code and pages match
	$(BIN)/buf lint protos && $(BIN)/buf format --diff --exit-code protos
	$(BIN)/python scripts/generate_protos.py --check
	$(BIN)/python scripts/generate_docs.py --check

.PHONY: chart-check
chart-check: setup ## Check that what is generated of the chart is up to date
	$(BIN)/python -m scripts.chart --check

.PHONY: chart
chart: setup ## Check the Helm chart with a real Helm, and its generated files
	$(BIN)/python -m scripts.chart --check
	$(PYTEST) -q tests/chart $(ARGS)

.PHONY: test-fast
test-fast: setup ## Run unit and property tests
	$(PYTEST) -m "not real_model and not statistical" -q tests/unit tests/properties tests/simulation $(ARGS)

##@ Develop

.PHONY: setup
setup: ## Create .venv and install everything; quick when nothing changed
	@$(PYTHON) scripts/setup.py

.PHONY: fmt
fmt: setup ## Format, and mend what lint can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

.PHONY: proto
proto: setup ## Generate code from protos/, and the page about them
	$(BIN)/buf format --write protos
	$(BIN)/python scripts/generate_protos.py
	$(BIN)/python scripts/generate_docs.py

.PHONY: docs
docs: setup ## Write the pages and dashboards that are made from code
	$(BIN)/python scripts/generate_docs.py

.PHONY: chart-files
chart-files: setup ## Write anew what of the chart is generated: values, schema, README, golden manifests
	$(BIN)/python -m scripts.chart

.PHONY: clean
clean: ## Remove what tools left behind, but not .venv
	rm -rf build dist services/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find services tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

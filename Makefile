# `make` alone says what there is. Every target makes what it needs; nothing is installed outside this folder.

PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

ENVIRONMENT := .venv/.made
STUB_TOOLS := .venv-stubs/.made
TORCH := .venv-torch/.made
ONNX := .venv-onnx/.made
BENCH := .venv-bench/.made
AUDIT := .venv-audit/.made
IMAGE := .venv-image/.made
FUZZ := .venv-fuzz/.made
# How long `make fuzz` takes, about; all targets together.
SECONDS ?= 60
BIN := .venv/bin
PIP_INSTALL := python -m pip install -qq --disable-pip-version-check
PACKAGES := proto client server
OURS := -e proto -e 'client[cli]' -e server
SOURCES := proto server client tests deploy $(wildcard examples benchmarks docs)
TYPED := proto/cellserve proto/generate_stubs.py server/cellserve_server client/cellserve_client tests deploy \
	$(wildcard examples benchmarks docs)

.PHONY: help demo serve fleet test test-slow test-all fuzz bench bench-quick lint format proto sbom audit soak clean

help:  ## Says what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "make %-12s %s\n", $$1, $$2}'

demo: $(ENVIRONMENT)  ## Streams the speaker-id test recordings through a server, and runs the seed programs
	@$(BIN)/cellserve demo

serve: $(ENVIRONMENT)  ## Serves the models in models/ on 127.0.0.1:50051
	@$(BIN)/cellserve serve --models models

fleet: $(ENVIRONMENT)  ## Redis, two replicas and nginx on this machine, without containers, until Ctrl-C (FLEET=--help)
	@exec $(BIN)/python -m deploy.fleet $(FLEET)

test: $(ENVIRONMENT)  ## The fast tests, in under 90 seconds
	@$(BIN)/python -m pytest tests -n 2 --dist loadfile -m "not slow and not torch and not onnxruntime"

test-slow: $(ENVIRONMENT) $(STUB_TOOLS) $(TORCH) $(ONNX) $(FUZZ)  ## The others: fresh installs, version ranges, stubs anew, beside the frameworks
	@$(BIN)/python -m pytest tests -m "slow and not torch and not onnxruntime"
	@KERAS_BACKEND=torch .venv-torch/bin/python -m pytest tests -m torch
	@.venv-onnx/bin/python -m pytest tests -m onnxruntime
	@.venv-fuzz/bin/python -m tests.fuzz --seconds 40

test-all: test test-slow  ## All tests

fuzz: $(FUZZ)  ## Garbage of all kinds at a server, for SECONDS (60) or so; the last line is JSON
	@.venv-fuzz/bin/python -m tests.fuzz --seconds $(SECONDS) --seed $(or $(SEED),1)

bench: $(BENCH)  ## The benchmarks, in under ten minutes: a table, JSON and a picture in benchmarks/results
	@.venv-bench/bin/python -m benchmarks

bench-quick: $(BENCH)  ## The same in a minute, to see that they run; the numbers mean little
	@.venv-bench/bin/python -m benchmarks --quick

lint: $(ENVIRONMENT)  ## ruff, and mypy --strict
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy $(TYPED)

format: $(ENVIRONMENT)  ## Formats the code as `make lint` wants it
	@$(BIN)/ruff check --fix $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

proto: $(STUB_TOOLS)  ## Generates the stubs in proto/cellserve/v1 from the .proto files
	@.venv-stubs/bin/python proto/generate_stubs.py

sbom: $(AUDIT) $(IMAGE)  ## A bill of materials of what the image has, CycloneDX: dist/cellserve.cdx.json
	@mkdir -p dist
	@.venv-audit/bin/cyclonedx-py environment --pyproject server/pyproject.toml --output-reproducible \
		--output-file dist/cellserve.cdx.json .venv-image/bin/python
	@echo "$$(grep -c '"purl"' dist/cellserve.cdx.json) components in dist/cellserve.cdx.json"

audit: $(AUDIT)  ## Asks whether vulnerabilities are known of the packages in constraints.txt
	@.venv-audit/bin/python -m deploy.audit constraints.txt

soak: $(ENVIRONMENT)  ## A quarter of an hour in which everything comes and goes (SOAK="--minutes 60 --store memory")
	@$(BIN)/python -m tests.soak $(SOAK)

clean:  ## Removes the environments and everything else that was made here
	rm -rf .venv .venv-* .fleet .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist {proto,server,client}/{build,*.egg-info}
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first of $(PYTHON), python3.11, ... that is new enough makes an environment.
define make_environment
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3.14; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "Making the environment $(@D) with $$("$$python" --version) ..."; \
			"$$python" -m venv $(@D); exit; \
		fi; \
	done; \
	echo "CellServe needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." \
		"Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1
endef

$(ENVIRONMENT): constraints.txt requirements-dev.txt $(PACKAGES:%=%/pyproject.toml)
	$(make_environment)
	@echo "Installing CellServe and its tools into .venv (once; a minute or so) ..."
	@$(BIN)/$(PIP_INSTALL) -c constraints.txt -r requirements-dev.txt $(OURS)
	@touch $@

# Each framework has an environment of its own, so that none can bring a version of something that changes the others.
$(TORCH): $(ENVIRONMENT) requirements-torch.txt examples/speaker_id/requirements.txt
	$(make_environment)
	@echo "Installing PyTorch and Keras into $(@D), for the tests that need them (once; some minutes) ..."
	@$(@D)/bin/$(PIP_INSTALL) -c constraints.txt -r requirements-dev.txt -r requirements-torch.txt $(OURS)
	@touch $@

$(ONNX): $(ENVIRONMENT) requirements-onnx.txt
	$(make_environment)
	@echo "Installing onnxruntime into $(@D), for the tests that need it (once; a minute or so) ..."
	@$(@D)/bin/$(PIP_INSTALL) -c constraints.txt -r requirements-dev.txt -r requirements-onnx.txt $(OURS)
	@touch $@

$(BENCH): $(ENVIRONMENT) requirements-bench.txt requirements-onnx.txt
	$(make_environment)
	@echo "Installing what the benchmarks compare with, and what they draw with, into $(@D) (once; a minute or so) ..."
	@$(@D)/bin/$(PIP_INSTALL) -c constraints.txt -r requirements-bench.txt $(OURS)
	@touch $@

$(AUDIT): requirements-audit.txt
	$(make_environment)
	@echo "Installing what looks at the dependencies into $(@D) (once) ..."
	@$(@D)/bin/$(PIP_INSTALL) -r requirements-audit.txt
	@touch $@

# As deploy/Dockerfile installs them.
$(IMAGE): constraints.txt $(PACKAGES:%=%/pyproject.toml)
	$(make_environment)
	@echo "Installing what the image has into $(@D) (once) ..."
	@$(@D)/bin/$(PIP_INSTALL) -c constraints.txt ./proto './server[auth,redis,tracing]' './client[cli]'
	@$(@D)/bin/python -m pip uninstall -qq -y pip setuptools
	@rm -rf {proto,server,client}/build
	@touch $@

$(FUZZ): $(ENVIRONMENT) requirements-fuzz.txt
	$(make_environment)
	@echo "Installing the fuzzer into $(@D) (once; a minute or so) ..."
	@$(@D)/bin/$(PIP_INSTALL) -c constraints.txt -r requirements-dev.txt -r requirements-fuzz.txt $(OURS)
	@touch $@

$(STUB_TOOLS): proto/requirements-stubs.txt
	$(make_environment)
	@echo "Installing the stub generator into .venv-stubs (once) ..."
	@.venv-stubs/bin/$(PIP_INSTALL) -r proto/requirements-stubs.txt
	@touch $@

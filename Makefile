# make demo and make test are all that a newcomer needs; each sets up the environment first.
PYTHON ?= python3
ENV ?= .venv
EXTRA ?= cpu
LOCKS := deploy/requirements
BIN := $(ENV)/bin
READY := $(ENV)/.ready-$(EXTRA)
export PYTHONSAFEPATH := 1
# The tests of a file stay together: they share what they train. More processes than 4 want much memory.
TOGETHER := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test check quick faults soak bench study skill up lock clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo    synthetic scenes -> ingest -> train -> forecast -> verify, 2 to 4 minutes"
	@echo "make test    every test"
	@echo "make check   lint, types, layers, dependencies; a minute"
	@echo "make quick   every test but the slow ones"
	@echo "make faults  kills, full disks, power cuts, hostile files, flipped bits; an hour; table in build/faults.json"
	@echo "make soak    6 hours of scenes with faults, outages, kills and a drift, replayed; up to 100 minutes; table in build/soak.json"
	@echo "make bench   ingest, appends, reads and layers against their peers; 80 minutes; figures in build/bench"
	@echo "make study   each network on the same data and budget, 3 seeds; 40 minutes (CONFIG=product.toml: on its cube)"
	@echo "make skill   trains on four real sequences and forecasts their test parts; 40 minutes; products in build/skill"
	@echo "make up      the whole service on made-up scenes that come while you watch, until Ctrl-C (CONFIG=product.toml: yours)"
	@echo "make lock    resolve the requirements again"

# pip fetches uv alone, uv the rest: 1 minute instead of 7.
$(READY): pyproject.toml $(LOCKS)/$(EXTRA).txt $(LOCKS)/uv.txt
	@$(PYTHON) -c "import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f'cubecast needs Python 3.11 to 3.13, found {sys.version.split()[0]}: make PYTHON=python3.11 ...')"
	@echo "Setting up $(ENV) (about 1 GB to download, a few minutes; once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(ENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCKS)/uv.txt
	@VIRTUAL_ENV=$(ENV) $(BIN)/uv pip sync --quiet --require-hashes $(LOCKS)/$(EXTRA).txt
	@VIRTUAL_ENV=$(ENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q flows pipeline models
	@touch $@

demo: $(READY)
	@$(BIN)/cubecast demo

test: $(READY)
	@$(BIN)/pytest $(TOGETHER)

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports
	@$(BIN)/deptry .

quick: $(READY)
	@$(BIN)/pytest $(TOGETHER) -m "not slow and not server"

faults: $(READY)
	@CUBECAST_FAULTS=full $(BIN)/pytest --timeout=7200 tests/faults

soak: $(READY)
	@$(BIN)/python -m tests.soak.full

bench: $(READY)
	@for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

study: $(READY)
	@$(BIN)/python -m tests.benchmarks.study_networks --variants $(if $(CONFIG),--config $(CONFIG))

# Example configuration : name of its sequence.
SKILL := hrv_1km:hrv_1km_20200401 fmi_1km:fmi_1km_20160928 knmi_1km:knmi_1km_20100826 typhoon:typhoon200717_relative
skill: $(READY)
	@for pair in $(SKILL); do \
		folder="build/skill/$${pair#*:}"; rm -rf "$$folder"; \
		$(BIN)/cubecast study hindcast --config "deploy/examples/$${pair%%:*}.toml" --inits 5 --workspace "$$folder" || exit 1; \
	done

up: $(READY)
	@$(BIN)/cubecast up $(if $(CONFIG),--config $(CONFIG),--feed)

# Resolved for Python 3.11 to 3.13 on Linux and macOS; hashes, and no line that names a registry.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--extra build --no-header --custom-compile-command "make lock"
lock: $(READY)
	$(subst --extra build,,$(LOCK)) $(LOCKS)/uv.in -o $(LOCKS)/uv.txt
	$(LOCK) pyproject.toml --extra cpu --extra dev -o $(LOCKS)/cpu.txt
	$(LOCK) pyproject.toml --constraint $(LOCKS)/cpu.txt -o $(LOCKS)/base.txt
	$(LOCK) pyproject.toml --constraint $(LOCKS)/cpu.txt --extra gpu --extra dev -o $(LOCKS)/gpu.txt
	$(LOCK) pyproject.toml --constraint $(LOCKS)/cpu.txt --extra cpu --extra dev --extra study -o $(LOCKS)/study.txt

clean:
	rm -rf $(ENV) build .pytest_cache .ruff_cache .hypothesis

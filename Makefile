# Everything runs in .venv, made on first use; `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := worker,modelscope,flower,gateway,fetch,heic,pdf,video,filter,otel,embedded,parquet,zstd,dev
PYTHON ?= python3 python3.13 python3.12 python3.11
# what is checked, as far as it exists
CODE := $(patsubst %/,%,$(sort $(dir $(wildcard vqa/*.py producer/*.py workers/*.py training/*.py bench/*.py examples/*.py deploy/*.py))))

.PHONY: help install dashboard demo test equality test-quant lint check eval bench chaos soak fuzz docs version clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/' | expand -t 16

install: $(STAMP) ## a virtual environment with everything; does nothing when it is up to date

$(BIN)/python:
	@found=; for python in $(PYTHON); do \
	    if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 was found (tried: $(PYTHON))."; \
	    echo "Install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make install PYTHON=/path/to/python3.12"; exit 1; \
	fi >&2; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	    version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "$$found cannot make virtual environments. Debian, Ubuntu: apt-get install python$$version-venv"; exit 1; \
	fi >&2; \
	echo "Making $(VENV) with $$("$$found" --version)"; \
	rm -rf $(VENV); "$$found" -m venv $(VENV)

# pip's own log goes to a file; the larger downloads are shown as they begin
$(STAMP): $(BIN)/python pyproject.toml constraints.txt constraints-dev.txt
	@echo "Installing; the first time this downloads PyTorch, which takes minutes"
	@: >$(VENV)/install.log; PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	    --constraint constraints-dev.txt --editable '.[$(EXTRAS)]' >>$(VENV)/install.log 2>&1 & pip=$$!; \
	trap 'kill $$pip 2>/dev/null' INT TERM; \
	tail --quiet --lines=+1 --follow --pid=$$pip --sleep-interval=0.5 $(VENV)/install.log 2>/dev/null \
	    | sed -u -nE 's/^ *Downloading ([^-]+-[^-]+)-.*\(([0-9.]+ ?[MG]B)\)/  downloading \1, \2/p; s/^Installing collected.*/  unpacking/p' || true; \
	if ! wait $$pip; then \
	    tail -n 15 $(VENV)/install.log; echo "Installing failed; the whole log is $(VENV)/install.log"; exit 1; \
	fi >&2
	@touch $@; echo "Installed; the command is $(BIN)/vqa"

demo: $(STAMP) ## Redis, one worker with the small model, Flower and questions; DEMO_EXIT=1 ends by itself
	@$(BIN)/vqa demo $(if $(DEMO_EXIT),--exit)

dashboard: $(STAMP) ## Grafana's dashboard again, from deploy/grafana/rows.py
	@$(BIN)/python -m deploy.grafana

test: $(STAMP) ## the tests; TESTS='tests/producer -k embedded' runs some
	@# many processes on few cores: threads of torch would wait for each other
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 4 --dist loadfile $(TESTS)

equality: $(STAMP) ## 20,000 prompts that share prefixes, each compared with `generate`, token for token
	@OMP_NUM_THREADS=1 EQUALITY_PROMPTS=20000 $(BIN)/python -m pytest --timeout 3600 tests/workers/engine/continuous/test_shared_prefixes.py

test-quant: $(STAMP) ## the tests of VQA_QUANT, for which this installs what `vqa-queue[quant]` brings
	@$(BIN)/python -m pip install --quiet --constraint constraints-dev.txt --editable '.[quant]'
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/workers/engine/model/test_quantize.py

lint: $(STAMP) ## formatting, lint, import rules, the compose files: also what pre-commit runs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml deploy/compose.worker.yml

check: lint ## the same, and types
	@$(BIN)/mypy --strict $(CODE)

eval: $(STAMP) ## how often the small model is right on questions that it has not seen
	@$(BIN)/python -m bench.evaluate $(ARGS)

bench: $(STAMP) ## answers a second, and how long they take
	@$(BIN)/python -m bench $(ARGS)

chaos: $(STAMP) ## jobs under kills, hangs and partitions, up to an hour; CHAOS=short takes three minutes, ARGS='--seed 7'
	@$(BIN)/python -W error -m tests.chaos $(if $(filter short,$(CHAOS)),--short) $(ARGS)

soak: $(STAMP) ## hours of a modest load, to see that nothing grows; SOAK_HOURS=4, ARGS='--folder DIR' keeps the samples there
	@OMP_NUM_THREADS=1 $(BIN)/python -W error -m tests.soak --hours $(or $(SOAK_HOURS),4) $(ARGS)

fuzz: $(STAMP) ## the gateway's API and bad images; ARGS='--seed 7' repeats a run, ARGS='--images 5000' makes so many images and leaves out the API
	@$(if $(findstring --images,$(ARGS)),,$(BIN)/python -W error -m tests.producer.gateway.openapi $(ARGS))
	@$(BIN)/python -m tests.corpus $(ARGS)

docs: $(STAMP) ## the documents as a site in build/docs/site; fails on links that lead nowhere
	@$(BIN)/python -m pip install --quiet --constraint constraints-dev.txt --editable '.[docs]'
	@$(BIN)/python docs/site/stage.py build/docs
	@cd build/docs && $(abspath $(BIN))/zensical build --strict --clean

version: ## the version that the tags say, for images: VERSION=$$(make version) docker compose build
	@$(MAKE) --silent install >&2
	@$(BIN)/python -m hatchling version

clean: ## remove what was made here, the virtual environment included
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

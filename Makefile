# Everything runs through .venv; nothing needs the shell to be inside it. `make` lists the targets.
#
# On Linux, PyPI's torch brings CUDA (gigabytes); for the CPU build give its index, which pip then
# prefers:
#   PIP_EXTRA_INDEX_URL=<PyTorch's CPU index> make setup

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
MODEL ?= smollm2_135m
PIP := $(PY) -m pip install --quiet --no-compile
LARGE := ^(torch|triton|scipy|pyarrow|matplotlib)==
# Nothing after `setup` and `data` may need the network, and tests prove it.
OFFLINE := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help setup data benchmark-data demo test suite test-slow test-browser test-lm-eval lint types check picture heads tables figures notebooks \
  report leaderboard methods findings inspect sanity bench bench-peer ray clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## environment in .venv: pinned versions, editable install

.venv/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@# The pinned versions need no resolving: half of the bytes beside the other half. What another
	@# platform lacks of them or wants besides, the last line finds out.
	@sed '/^# Extras/,$$d' constraints.txt | grep -E '$(LARGE)' > .venv/large.txt
	@sed '/^# Extras/,$$d' constraints.txt | grep -vE '$(LARGE)' > .venv/small.txt
	@echo "$(PIP) --no-deps -r constraints.txt"
	@{ $(PIP) --no-deps -r .venv/large.txt & $(PIP) --no-deps -r .venv/small.txt; wait; } 2> .venv/pip.log
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

data: setup ## fetch the embedded model, haystack, prompts and words into .cache (once, 102 MB)
	$(PY) -m headkv models
	$(PY) -m headkv data prompts

benchmark-data: data ## fetch and verify all benchmarks' files that the hub has (tens of GB)
	$(PY) -m headkv data

demo: setup data ## every method on the needle benchmark with the embedded model; table and figures
	$(PY) run_needle.py experiment=demo
	$(PY) -m headkv report figures tables

test: setup ## lint, types, import layers, and the whole test suite, offline
	@$(MAKE) --no-print-directory -j2 lint types suite

suite: data ## the test suite alone
	$(OFFLINE) OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

test-slow: setup data ## runs that are killed and continued, and spread over launchers
	$(OFFLINE) $(PY) -m pytest -m slow

test-browser: setup ## the HTML report in a headless Chromium: the system's, or playwright's own
	$(PY) -m pip install --quiet -c constraints.txt -e '.[browser]'
	$(PY) -m pytest tests/browser/report_in_chromium.py

test-lm-eval: setup data ## lm-evaluation-harness's tasks on a compressed cache, against its own model
	$(PY) -m pip install --quiet -c constraints.txt -e '.[lm-eval]'
	$(OFFLINE) $(PY) -m pytest tests/lm_eval/tasks_on_a_compressed_cache.py

lint: setup ## ruff: rules and formatting
	$(PY) -m ruff check
	$(PY) -m ruff format --check

types: setup ## mypy
	$(PY) -m mypy

check: types ## mypy and the import layers
	$(PY) -m pytest -q tests/test_layers.py

picture: setup ## the picture of the floors, from the imports
	$(PY) docs/draw_floors.py

heads: setup data ## head scores of all kinds, and their report: make heads MODEL=smollm2_135m
	for kind in retrieval retrieval_reasoning semantic duo kvzip_head; do \
	  $(PY) run_heads.py model=$(MODEL) kind=$$kind || exit; \
	done
	$(PY) -m headkv scores report $(MODEL)

tables: setup ## tables from what lies in results/
	$(PY) -m headkv tables

figures: setup ## figures from what lies in results/
	$(PY) -m headkv figures

notebooks: setup data ## execute the notebooks; copies with outputs go to results/notebooks
	$(OFFLINE) $(PY) notebooks/run.py

report: setup ## one HTML page of what lies in results/, with figures, examples and kept tokens
	$(PY) -m headkv html

leaderboard: setup ## methods by benchmarks by cache share: page, Markdown, README's table; NOTE="..." goes into them
	$(PY) -m headkv leaderboard $(if $(NOTE),--note "$(NOTE)")
	$(PY) docs/readme_table.py

findings: setup ## docs/findings.md and its figure, every number, from results/findings
	$(PY) -m bench.findings

methods: setup ## docs/methods.md: methods by KV size, question seen or not, from RUN= or results/
	$(PY) -m headkv methods $(RUN) --out docs/methods.md

inspect: setup data ## which tokens each head kept: make inspect RUN=results/needle/smollm2_135m
	$(PY) -m headkv inspect $(or $(RUN),results/needle/smollm2_135m)

sanity: setup ## how FullKV was asked, and proof that every long prompt was compressed
	$(PY) -m headkv sanity

bench: setup data ## bytes and seconds side by side: this package, DynamicCache, kvpress if there
	$(PY) -m bench.efficiency
	$(PY) -m bench.grid
	$(PY) -m bench.decoding
	$(PY) -m bench.demo
	$(PY) -m bench.steps
	$(PY) -m bench.prefill
	$(PY) -m bench.bfloat16
	$(PY) -m bench.documents
	$(PY) -m bench.loading
	$(PY) -m bench.tables
	$(PY) -m bench.compression_cost

bench-peer: ## environment of its own for kvpress, which needs older transformers
	$(PYTHON) -m venv .cache/kvpress-venv
	.cache/kvpress-venv/bin/python -m pip install --quiet torch==2.13.0 kvpress==0.5.5

ray: ## environment of its own for Ray, whose Hydra launcher needs older packages
	$(PYTHON) -m venv .cache/ray-venv
	grep -vE '^(joblib|cloudpickle|python-dateutil)==' constraints.txt > .cache/ray-constraints.txt
	.cache/ray-venv/bin/python -m pip install -q -c .cache/ray-constraints.txt torch==2.13.0
	.cache/ray-venv/bin/python -m pip install -q -c .cache/ray-constraints.txt -e '.[dev,slurm,ray]'

clean: ## remove tool caches and build leftovers; keeps .venv, .cache and results
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks build dist src/*.egg-info
	find src tests -name __pycache__ -type d -exec rm -rf {} +

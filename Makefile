# Two commands do everything on a fresh machine: `make run` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9
STUDY ?= quick
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run test lint format ui setup lock schema report publish times tune parity bench docs pictures clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

run: setup  ## set up, then run a whole study (STUDY=quick, the default one)
	snakemake --cores all --config study=$(STUDY)

# A worker that crashes ends the run: pytest-xdist's loadgroup, given another worker, may wait for its last tests forever.
test: setup  ## run all tests, on two cores
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadgroup --max-worker-restart 0

lint: setup  ## check style, types, layers and the workflow
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	snakefmt --check Snakefile workflow
	snakemake --lint

format: setup  ## bring all files into style
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

ui: setup  ## open the MLflow UI on http://127.0.0.1:5000
	MLFLOW_DISABLE_TELEMETRY=true mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///results/mlflow.db

times: setup  ## print where the time of a study went (STUDY=quick)
	empg times --results results/$(STUDY)

report: setup  ## write Snakemake's own report of a study (STUDY=quick)
	snakemake --report results/$(STUDY)/snakemake.html --config study=$(STUDY)

publish: setup  ## write a study's results into docs/results (STUDY=quick)
	empg publish --results results/$(STUDY) --out docs/results/$(STUDY)

schema: setup  ## regenerate the JSON schemas of the configuration from its models
	empg schema --out workflow/schemas

tune: setup  ## search learning rates on the tune panel, every method with the same budget (STUDY=quick)
	OMP_NUM_THREADS=1 python benchmarks/tune.py --study $(STUDY)

parity: setup  ## compare our ALFWorld engine with the public one, string by string
	python benchmarks/parity/run.py

setup: $(STAMP)  ## create .venv from the lock file

# torch first and apart: any build of the pinned version serves (a CUDA build can be put in .venv beforehand).
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --no-deps --no-build-isolation -e .
	touch $(STAMP)

bench: setup  ## measure speed and memory side by side with public peers
	for script in benchmarks/{alfworld_engine,sampler,deepsearch_index}.py; do OMP_NUM_THREADS=1 python $$script || exit 1; done
	OMP_NUM_THREADS=1 python benchmarks/webshop_engine.py $${WEBSHOP_DATA:-$${EMPG_TEST_DATA:-../shared/data}/webshop}

# The variable silences an advertisement that Material for MkDocs prints with each build.
docs: setup  ## build the documentation site into site/ (open site/index.html)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

pictures: setup  ## draw docs/pictures: the pipeline, and a study's report in Chromium (STUDY=quick)
	python tools/pictures.py --report results/$(STUDY)/report/report.html

# torch is locked by its version alone, and what only it needs comes with it.
lock:  ## resolve requirements.lock anew
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-package torch --override <(echo "torch==2.13.0 ; sys_platform == 'never'") --quiet -o requirements.lock

clean:  ## remove results, data and caches (not the environment)
	rm -rf results data .dvc/cache .dvc/tmp .snakemake

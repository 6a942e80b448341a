# What can be done here: `make help`. Needs Python 3.11 to 3.13, make and git; the rest it gets itself.

PYTHON ?= python3
SYSTEM_UV := $(shell command -v uv 2>/dev/null)
UV := $(or $(SYSTEM_UV),.uv/bin/uv)
BIN := .venv/bin
READY := .venv/.ready
TESTS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo plan test test-slow test-gpu test-slurm test-ray chaos check ui analysis doctor bench bench-meters wheel clean selftest server test-server

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.uv/bin/uv:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(v < (3, 11) and "greenlab needs Python 3.11 to 3.13, $(PYTHON) is %d.%d: make setup PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv

$(READY): pyproject.toml uv.lock | $(if $(SYSTEM_UV),,.uv/bin/uv)
	$(UV) sync --frozen --quiet --compile-bytecode --python-preference system
	@touch $@

setup: $(READY)  ## the environment, in .venv (a few GB: torch with CUDA)

demo: setup  ## a real small grid: 4 models x 2 batch sizes x 2 phases, under 6 minutes
	$(BIN)/python -m greenlab experiment=demo

plan: setup  ## what the demo would take here: time, joules, with an interval
	$(BIN)/python -m greenlab experiment=demo plan=true

test: setup  ## the tests that need no GPU, counters, network or root
	$(BIN)/python -m pytest $(TESTS)

test-slow: setup  ## the tests that take longer
	$(BIN)/python -m pytest -n 0 -m slow $(TESTS)

test-gpu: setup  ## the tests that need a real NVIDIA GPU
	$(BIN)/python -m pytest -n 0 -m gpu $(TESTS)

test-server: setup  ## the tests that run the server of a group, over a PostgreSQL of their own
	$(BIN)/python -m pytest -n 0 -m server $(TESTS)

test-slurm: setup  ## the tests on a real Slurm of one node, which they set up (as root: apt-get); 20 minutes
	$(UV) sync --frozen --quiet --inexact --python-preference system --extra slurm
	$(BIN)/python -m pytest -n 0 -m slurm $(or $(TESTS),tests/cluster)

test-ray: setup  ## the tests on a real Ray cluster of two nodes, which they set up; 15 minutes
	$(UV) sync --frozen --quiet --inexact --python-preference system --extra ray
	$(BIN)/python -m pytest -n 0 -m ray $(or $(TESTS),tests/cluster)

chaos: setup  ## kill a sweep twenty times at random and resume it, 10 minutes
	$(BIN)/python -m pytest -n 0 -s -m chaos

check: setup  ## ruff, mypy and the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(TESTS)

ui: setup  ## browse the results of ./mlflow.db
	@$(BIN)/python -m greenlab.ui

server: setup  ## MLflow for a group: DATABASE=postgresql+psycopg://user@host/name ARTEFACTS= HOST= PORT= AUTH=1
	@$(if $(DATABASE),,echo "make server needs DATABASE=postgresql+psycopg://user@host:5432/name; how to make one, and ARTEFACTS= HOST= PORT= WORKERS= ALLOWED_HOSTS= AUTH=1: docs/server.md" >&2; exit 2;) \
	$(BIN)/python -m greenlab.server --database "$(DATABASE)" $(if $(ARTEFACTS),--artefacts "$(ARTEFACTS)") \
	  $(if $(HOST),--host "$(HOST)") $(if $(PORT),--port "$(PORT)") $(if $(WORKERS),--workers "$(WORKERS)") \
	  $(if $(ALLOWED_HOSTS),--allowed-hosts "$(ALLOWED_HOSTS)") $(if $(filter-out 0,$(AUTH)),--auth)

analysis: export WHERE := $(value WHERE)
analysis: setup  ## figures and the paper's claims of the newest sweep; SWEEP= AGAINST= WHERE= ANALYSIS= LOG=1
	@$(BIN)/python -m multirun_analysis export $(if $(TRACKING_URI),--tracking-uri "$(TRACKING_URI)") \
	  $(if $(EXPERIMENT),--experiment "$(EXPERIMENT)") $(if $(SWEEP),--sweep "$(SWEEP)") \
	  $(if $(AGAINST),--against "$(AGAINST)") $(if $(ANALYSIS),--only "$(ANALYSIS)") \
	  $(if $(WHERE),--where "$$WHERE") $(if $(filter-out 0,$(LOG)),--log)

doctor: setup  ## what can be measured on this machine
	@$(BIN)/python -m greenlab.doctor || test $$? -eq 3

bench: setup  ## greenlab's own speed: loops, overhead, start-up, sampler, grids; 17 minutes on two cores
	$(BIN)/python -m benchmarks

bench-meters: setup  ## greenlab beside Zeus, CodeCarbon and pyJoules over known joules, 5 minutes
	$(UV) sync --frozen --quiet --python-preference system --group bench
	$(BIN)/python -m benchmarks.meters

selftest: setup  ## prove the joules on simulated counters, in a minute
	@$(BIN)/python -m greenlab.selftest

wheel: setup  ## a wheel, in dist/
	$(UV) build --wheel --quiet

clean:  ## remove what setup and runs made, results excepted
	rm -rf .venv .uv dist .mypy_cache .pytest_cache .ruff_cache

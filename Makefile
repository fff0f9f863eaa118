# Everything bootstraps itself: Python >= 3.11 and make are all that a machine needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: $(shell sed -nE 's/^([a-z-]+):.*[#][#] .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "prefixgate needs Python 3.11 or newer; say which one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# Stamps: a second call installs nothing unless pyproject.toml changed.
$(VENV)/runtime.stamp: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/runtime.stamp

demo: $(VENV)/runtime.stamp  ## simulated fleet, four policies, one table; then gateway and dashboard stay up (ONESHOT=1: exit)
	@$(BIN)/prefixgate demo $(if $(ONESHOT),--oneshot) $(if $(JSON),--json-file '$(JSON)')

experiment: $(VENV)/runtime.stamp  ## A/B experiments on simulated engines whose difference is known: what do their reports say? (ARGS='--requests 200')
	@$(BIN)/prefixgate demo --experiment $(ARGS)

matrix: $(VENV)/runtime.stamp  ## every routing policy on every simulated workload (TRACE=FILE: that trace first; ARGS='--json …')
	@$(BIN)/prefixgate simulate --matrix $(if $(TRACE),--trace '$(TRACE)') $(ARGS)

ladder: $(VENV)/runtime.stamp  ## prefill ladder of simulated engines beside the published table (W4A8_TP4=URL adds that row, ARGS='--plot FILE.png')
	@$(BIN)/prefixgate bench ladder --simulated --target 'W4A8 vllm TP4=$(W4A8_TP4)' $(ARGS)

sweep: $(VENV)/runtime.stamp  ## chunk sizes of a simulated SGLang replica: TTFT against room for KV (ARGS='--chunks 8192,16384')
	@$(BIN)/prefixgate bench sweep --simulated $(ARGS)

lint: $(VENV)/dev.stamp  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# A redis-server for the tests: the machine's, or from Debian's packages without root.
.redis/installed: tests/redis/install
	tests/redis/install .redis
	@touch $@

test: lint .redis/installed  ## lint, then the test suite, on all cores
	$(BIN)/python -m pytest --numprocesses=auto -m 'not real_vllm and not slow and not deploy and not browser' $(PYTEST_ARGS)

coverage: $(VENV)/dev.stamp .redis/installed  ## the same suite with coverage, which takes half as long again; fails below 90 %
	$(BIN)/coverage erase
	$(BIN)/python -m pytest --numprocesses=auto --cov --cov-report=term -m 'not real_vllm and not slow and not deploy and not browser' $(PYTEST_ARGS)

test-slow: $(VENV)/dev.stamp .redis/installed  ## what `test` leaves out: benchmarks, and whole programs that run for long
	THOROUGH=1 $(BIN)/python -m pytest --numprocesses=auto -m 'slow or law' $(PYTEST_ARGS)

$(VENV)/browser.stamp: pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable '.[dev,browser]'
	@touch $@ $(VENV)/dev.stamp $(VENV)/runtime.stamp

test-browser: $(VENV)/browser.stamp  ## the dashboard in Chromium over a simulated fleet (SCREENSHOTS=folder, else build/screenshots)
	tests/browser/install
	$(BIN)/python -m pytest -m browser -s tests/browser $(PYTEST_ARGS)

VLLM_ENV ?= .venv-vllm
test-vllm: $(VENV)/dev.stamp  ## two real vLLM CPU servers behind the gateway (first run installs about 3.5 GB into .venv-vllm)
	tests/vllm/install $(VLLM_ENV)
	VLLM_ENV=$(abspath $(VLLM_ENV)) $(BIN)/python -m pytest -m real_vllm -s tests/vllm

bench-experiment-cost: $(VENV)/runtime.stamp  ## hit rate and TTFT with no experiment, by prefix family, by request, in virtual time (TRACE=FILE)
	@$(BIN)/prefixgate simulate $(if $(TRACE),--trace '$(TRACE)',--workload chat) --load 0.3 --policy ttft,ttft@prefix-family,ttft@session,ttft@request $(ARGS)

test-deploy: $(VENV)/dev.stamp  ## chart, compose file, alert rules and unit, read by the programs they are for (first run: about 60 MB into .deploy)
	tests/deploy/install .deploy
	$(BIN)/python -m pytest -m deploy $(PYTEST_ARGS) tests/deploy

monitoring: $(VENV)/runtime.stamp  ## make Grafana dashboard, alert rules and runbook anew from the metrics
	@$(BIN)/prefixgate monitoring grafana --out deploy/grafana/prefixgate.json
	@$(BIN)/prefixgate monitoring alerts --out deploy/prometheus/alerts.yaml
	@$(BIN)/prefixgate monitoring runbook --out deploy/docs/runbook.md
	@cp deploy/grafana/prefixgate.json deploy/prometheus/alerts.yaml deploy/helm/prefixgate/files/

bench-index: $(VENV)/dev.stamp  ## memory and time of the prefix index: a million blocks over 8 replicas
	@$(BIN)/python tests/bench/bench_index.py $(BENCH_ARGS)

bench-route: $(VENV)/dev.stamp  ## CPU of one routing decision: 16,000 tokens over 16 replicas
	@$(BIN)/python tests/bench/bench_route.py $(BENCH_ARGS)

bench: $(VENV)/dev.stamp  ## what the gateway costs on the wire: CPU per request and chunk, added time, memory (BENCH_ARGS='--scale 0.1')
	@$(BIN)/python tests/bench/bench_gateway.py $(BENCH_ARGS)

bench-sharing: $(VENV)/dev.stamp  ## what a request costs the other processes that hear of it
	@$(BIN)/python tests/bench/bench_sharing.py $(BENCH_ARGS)

bench-workers: $(VENV)/dev.stamp  ## one worker and two: throughput, CPU, hit rate (BENCH_ARGS='--scale 0.3')
	@$(BIN)/python tests/bench/bench_workers.py $(BENCH_ARGS)

bench-streams: $(VENV)/dev.stamp  ## 5,000 streams that mostly wait: memory of each, CPU per chunk (BENCH_ARGS='--streams 1000 --where')
	@$(BIN)/python tests/bench/bench_streams.py $(BENCH_ARGS)

bench-soak: $(VENV)/dev.stamp  ## five minutes of every kind of traffic: does memory stay flat? (BENCH_ARGS='--minutes 60')
	@$(BIN)/python tests/bench/bench_soak.py $(BENCH_ARGS)

bench-overload: $(VENV)/dev.stamp  ## ten times what the engines can serve, for a minute: goodput, waits, shares (BENCH_ARGS='--seconds 15')
	@$(BIN)/python tests/bench/bench_overload.py $(BENCH_ARGS)

bench-experiments: $(VENV)/dev.stamp  ## do the statistics of experiments keep what they say? 1,000 simulated seeds (BENCH_ARGS='--seeds 200')
	@$(BIN)/python tests/bench/bench_experiments.py $(BENCH_ARGS)

bench-checkpoint: $(VENV)/dev.stamp  ## a checkpoint of 2 GB made W4A8, laid out, verified and reversed: time and peak memory (BENCH_ARGS='--gb 8')
	@$(BIN)/python tests/bench/bench_checkpoint.py $(BENCH_ARGS)

PEERS := sglang-router vllm-router smg
bench-peers: $(VENV)/dev.stamp $(PEERS:%=.venv-peers/%/installed)  ## the same, beside other routers (first run installs them into .venv-peers)
	@$(BIN)/python tests/bench/bench_gateway.py $(BENCH_ARGS)

.venv-peers/%/installed:
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/python -m pip --disable-pip-version-check install --quiet $*
	@touch $@

chaos: $(VENV)/dev.stamp .redis/installed  ## engines crash, hang and lie, the gateway is replaced: does every request get its answer? (CHAOS_ARGS='--seed 7 --seconds 60 --rate 30')
	@PYTHONPATH=tests/support $(BIN)/python tests/chaos/chaos.py $(CHAOS_ARGS)

chunk-change: $(VENV)/dev.stamp  ## a pool's chunk is changed under load on simulated engines, then two bad ones are taken back (BENCH_ARGS='--speed 3 --json')
	@$(BIN)/python tests/bench/chunk_change.py $(BENCH_ARGS)

live-vs-simulated: $(VENV)/dev.stamp  ## the demo's fleet live and in virtual time: do they decide alike? (BENCH_ARGS='--load 0.35 --explain')
	@$(BIN)/python tests/bench/live_vs_simulated.py $(BENCH_ARGS)

clean:  ## remove what the targets above made
	rm -rf $(VENV) .redis .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

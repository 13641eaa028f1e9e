# Thin: every recipe is a command that can be typed without make. The first run installs (scripts/bootstrap.py).
.PHONY: help install demo demo-kill crash-test crash-controls test check clean bench metrics

help:            ## what there is
	@sed -n 's/^\([a-z-]*:\).*## /\1 /p' Makefile

install:         ## .venv from uv.lock; instant when nothing changed
	@$(or $(PYTHON),python3) scripts/bootstrap.py

demo:            ## everything on this machine, no Docker: a live board. DEMO_SECONDS=30 for a bounded run
	@$(or $(PYTHON),python3) scripts/bootstrap.py demo
	@exec .venv/bin/python -m demo

demo-kill:       ## the demo in which a key, or DEMO_KILL_SECONDS, kills any process. DEMO_SECONDS=60 ends it with a count
	@$(or $(PYTHON),python3) scripts/bootstrap.py demo
	@exec .venv/bin/python -m demo --kill

crash-test: install  ## kill the whole pipeline from a seed and count its events: KILLS=100 SEED=1
	@exec .venv/bin/python -m tests.crashes.harness $(ARGS)

crash-controls: install  ## the same count with one protection switched off: it must fail
	@exec .venv/bin/python -m tests.crashes.controls $(ARGS)

test: install    ## all tests. ARGS="tests/unit -x" for some
	@exec .venv/bin/python -m pytest -n 3 --dist worksteal $(ARGS)

check: install   ## format, lint, types, layout
	@exec scripts/check

bench: install   ## every benchmark, 25 minutes; one: make bench-drain ARGS="--help" (tests/performance/bench_*.py)
	@exec .venv/bin/python -m tests.performance.everything

bench-%: install
	@exec .venv/bin/python -m tests.performance.bench_$* $(if $(RATE),--rate $(RATE)) $(ARGS)

metrics: install  ## METRICS.md from the results of the benchmarks and crash trials
	@exec .venv/bin/python -m tests.performance.report

clean:           ## what can be made again: .venv, caches, the demo's data
	rm -rf .venv .uv .demo .coverage .coverage.* .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

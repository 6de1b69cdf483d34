# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make demo    the main job on a real PostgreSQL 16, with a verifying receiver
#   make test    every gate and every test but the drills

PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup demo test drills soak bench bench-quick format lock wheel clean

help:
	@echo "make demo    show the main job: events in, signed webhooks out, verified"
	@echo "make test    run every gate: format, lint, types, imports, and all tests but the drills"
	@echo "make drills  run the drills: tests that take seconds, because of whole processes, faults or much data"
	@echo "make soak    run every test with 200 times the generated cases, and the fault suite at full length"
	@echo "make bench   measure everything on this machine, about forty minutes and 20 GB of disk; figures in bench.json"
	@echo "make bench-quick  the main rows alone, in under four minutes"
	@echo "make format  format the code"
	@echo "make lock    pin the newest versions again (needs uv)"
	@echo "make wheel   build the wheel into dist/"
	@echo "make clean   remove what the above made"

setup:
	@$(PYTHON) .ci/setup

demo: setup
	@.venv/bin/duro demo

test: setup
	@.ci/gates

drills: setup
	@.ci/tests -m drill

soak: setup
	@FAULTS=full HYPOTHESIS_PROFILE=long .ci/tests

bench: setup
	@.venv/bin/duro bench

bench-quick: setup
	@.venv/bin/duro bench --quick

format: setup
	@.venv/bin/ruff check --fix --quiet . ; .venv/bin/ruff format .

lock:
	uv pip compile --upgrade --universal --generate-hashes --no-emit-index-url --no-header --quiet -o requirements.lock pyproject.toml
	uv pip compile --upgrade --universal --generate-hashes --no-emit-index-url --no-header --quiet --extra dev -o requirements-dev.lock pyproject.toml

wheel: setup
	@.venv/bin/python -m build --wheel --no-isolation --outdir dist .

clean:
	rm -rf .venv .venv.lock dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis

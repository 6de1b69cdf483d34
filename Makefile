# Two commands do everything on a fresh machine with Python 3.11+ and make:
#   make demo    the main job on a real PostgreSQL 16, with a verifying receiver
#   make test    every gate and every test

PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup demo test soak bench bench-quick format lock wheel clean

help:
	@echo "make demo    show the main job: events in, signed webhooks out, verified"
	@echo "make test    run every gate: format, lint, types, imports, tests"
	@echo "make soak    run every test with fifty times the generated cases, and the fault suite at full length"
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

soak: setup
	@FAULTS=full HYPOTHESIS_PROFILE=long .venv/bin/python -m pytest -n 2

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

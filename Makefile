# Every target sets up what it needs: a virtual environment in .venv, made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the newest torch that has a CPU-only file where it is mirrored; a wider range would fetch gigabytes of CUDA
TORCH ?= torch==2.13.0
WORKERS ?= 2
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: help demo test test-slow wheel bench sizes mutants clean

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed ## the main job on the bundled model: rewrite, prove, ablate, save, export
	$(BIN)/tautomer demo

test: $(VENV)/.installed-dev ## all checks: ruff, pyright, import floors, tests, the wheel
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow"
	$(MAKE) --no-print-directory wheel

wheel: $(VENV)/.installed-dev ## builds the wheel, and runs the demonstration from it in a clean environment
	rm -rf build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel . >/dev/null
	$(PYTHON) -m venv build/wheel/clean
	build/wheel/clean/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" build/wheel/*.whl
	cd / && "$(CURDIR)/build/wheel/clean/bin/tautomer" demo

test-slow: $(VENV)/.installed-dev ## the suites that take minutes
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

bench: $(VENV)/.installed-dev ## seconds and ratios, one thread
	$(BIN)/python -m benchmarks.gpt2
	$(BIN)/python -m benchmarks.splits

sizes: $(VENV)/.installed-dev ## proofs at real widths, without weights; a proof against a plain forward
	$(BIN)/python -m benchmarks.llama 8b
	$(BIN)/python -m benchmarks.certificate

mutants: $(VENV)/.installed-dev ## mutants and correct rewrites, the verifier's own measure: docs/mutants.md; an hour or two of CPU time, can be interrupted
	$(BIN)/python -m benchmarks.mutants --resume --workers $(WORKERS)

clean: ## removes the virtual environment and build products
	rm -rf $(VENV) build dist *.egg-info

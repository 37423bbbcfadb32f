# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EDGE := $(VENV)/edge
ARM := $(VENV)/arm
TESTS_OF_EDGE := tests/export/exporters/test_executorch_from_torch.py \
	tests/export/exporters/test_litert_from_torch.py \
	tests/package/bundles/test_executorch.py tests/package/bundles/test_litert.py \
	tests/runtimes/test_litert_micro.py

# Two test workers share the machine: one thread each, so that they do not fight for the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Which hints the tests have seen: one that none has seen, and is not listed, is told at the end.
HINTS_SEEN := $(CURDIR)/$(VENV)/.hints_seen.jsonl
# And a part with two: what threads do to a kernel, one thread never shows.
TWO_THREADS := OMP_NUM_THREADS=2 MKL_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 OMP_WAIT_POLICY=passive
TESTS_OF_THREADS := tests/training/test_fit.py tests/training/test_safe_arithmetic.py \
	tests/training/test_loop.py tests/distill/test_run.py tests/distill/test_resume.py \
	tests/compress/compressors/test_int8_qat.py tests/compress/test_chains.py tests/pipeline/test_kill.py
HAS_GPU = $(PYTHON) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-edge test-arm test-resolver digests hints fuzz test-tensorrt-api
.PHONY: check bench test-gpu bench-gpu docs

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

setup: $(STAMP)  ## make .venv with all that the other targets need (PYTHON=python3.12 picks another Python)

# torch goes first: asked for by name it takes a CPU build where pip is pointed to one
# (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu). pytorchcv goes without its
# dependencies: torchvision, of which it needs one file, must be built for the very same torch.
# So does aeon, of which the data files are needed: it would bring a compiler (numba).
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "kdeploy needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)"; \
		echo "hint: make setup PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps pytorchcv aeon
	@touch $@

demo: $(STAMP)  ## from a teacher to a verified bundle in minutes; writes runs/demo/
	$(BIN)/kdeploy run models/digits/recipe.yaml --out runs/demo

# A worker that died is not replaced: xdist would wait for ever for what it had been given.
test: $(STAMP)  ## all tests but the slow ones; those that need a GPU skip without one
	@rm -f $(HINTS_SEEN)
	$(ONE_THREAD) KDEPLOY_HINTS=$(HINTS_SEEN) $(BIN)/pytest -m 'not slow' -n 2 --dist loadfile --max-worker-restart 0
	$(TWO_THREADS) $(BIN)/pytest -m 'not slow' $(TESTS_OF_THREADS)
	-@$(BIN)/python -m tests.hints $(HINTS_SEEN)

test-slow: $(STAMP)  ## tests of more than half a minute each: what the pages say to run, kills, hosts
	$(ONE_THREAD) $(BIN)/pytest -m slow -n 2 --dist worksteal --max-worker-restart 0
	$(TWO_THREADS) $(BIN)/pytest -m slow $(TESTS_OF_THREADS)

hints: $(STAMP)  ## what the last `make test` saw of every error: message and hint, for reading
	@$(BIN)/python -m tests.hints $(HINTS_SEEN) --table

fuzz: $(STAMP)  ## thousands of mutated bundles, ONNX files, artefacts, recipes, runs (MUTANTS=3000 SEED=...)
	$(ONE_THREAD) $(BIN)/python -m tests.fuzz $(if $(MUTANTS),--mutants $(MUTANTS)) $(if $(SEED),--seed $(SEED))

# In an environment of its own, which sees what the other one has: LiteRT's converter weighs 770 MB
# and wants older versions of some of it. anyio's plugin, one of them, does not know this pytest.
test-edge: $(STAMP)  ## ExecuTorch and LiteRT: installs both in .venv/edge, runs their tests
	$(PYTHON) -m venv $(EDGE)
	$(EDGE)/bin/python -c 'import pathlib, sys, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), \
		"beside.pth").write_text(f"import site; site.addsitedir({sys.argv[1]!r})\n")' \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	$(EDGE)/bin/pip install --quiet --constraint constraints-edge.txt executorch litert-torch tflite-micro
	$(ONE_THREAD) $(EDGE)/bin/python -m pytest -p no:anyio $(TESTS_OF_EDGE)
	$(ONE_THREAD) $(EDGE)/bin/python -m pytest -p no:anyio tests/contracts -k 'executorch or litert'

# Where .venv/edge is (make test-edge), bundles of LiteRT are made too. A reason to skip is printed.
test-arm: $(STAMP)  ## bundles on an emulated 64-bit ARM: answers and memory; fetches Debian 13's qemu
	@if $(BIN)/python -m tests.arm.emulated $(ARM); then KDEPLOY_ARM=$(CURDIR)/$(ARM) $(ONE_THREAD) \
		$$(ls $(EDGE)/bin/python 2>/dev/null || echo $(BIN)/python) -m pytest -p no:anyio tests/arm; \
	else test $$? = 3; fi

test-resolver: $(STAMP)  ## what pip would install for the extras of edge runtimes; asks the package index
	KDEPLOY_INDEX=1 $(BIN)/python -m pytest -q tests/test_resolver.py

digests: $(STAMP)  ## write the digests of the wheels that bundles pin anew; asks the package index
	$(BIN)/python docs/write_wheel_digests.py

test-tensorrt-api: $(STAMP)  ## the names of TensorRT's real bindings are those that tests use; needs PyPI and cc
	$(BIN)/python tests/runtimes/tensorrt_names/write.py --check

check: $(STAMP)  ## style, types, layers, spelling; the catalogue is fresh
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	@$(BIN)/kdeploy list --markdown | diff -u docs/catalogue.md - \
		|| { echo "docs/catalogue.md is stale; hint: make docs"; exit 1; }
	@$(BIN)/python docs/write_tree.py --check

docs: $(STAMP)  ## write docs/catalogue.md and docs/tree.md anew
	$(BIN)/kdeploy list --markdown > docs/catalogue.md.partial
	mv docs/catalogue.md.partial docs/catalogue.md
	$(BIN)/python docs/write_tree.py

bench: $(STAMP)  ## measure what benchmarks/README.md claims, again on this machine
	@for suite in benchmarks/suites/*.py; do echo "$$suite"; PYTHONPATH=. $(BIN)/python $$suite || exit 1; done

# The GPU targets use $(PYTHON) as it is: a device's own torch, from the source tree.
test-gpu:  ## tests that need a GPU, with the torch of $(PYTHON)
	@if $(HAS_GPU); then PYTHONPATH=. $(PYTHON) -m pytest -m 'gpu or tensorrt' \
		$$(grep -rlE 'pytest\.mark\.(gpu|tensorrt)' tests); \
	else echo "skipped: $(PYTHON) has no torch that sees a CUDA device"; fi

bench-gpu:  ## benchmarks that need a GPU, with the torch of $(PYTHON)
	@if $(HAS_GPU); then \
		for suite in benchmarks/suites/gpu_*.py; do echo "$$suite"; PYTHONPATH=. $(PYTHON) $$suite || exit 1; done; \
	else echo "skipped: $(PYTHON) has no torch that sees a CUDA device"; fi

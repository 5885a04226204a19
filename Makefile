# `make demo` and `make test` set up what they need. PYTHON=... uses an environment that is there already.
VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
ifeq ($(PYTHON),$(VENV)/bin/python)
SETUP := $(VENV)/.installed
extra = $(PYTHON) -m pip install --quiet --disable-pip-version-check --editable '.[$(1)]'
else
SETUP := installed-editable
extra = @echo "$(PYTHON) stays as it is: what it lacks of the extra '$(1)' is named in pyproject.toml"
endif

CUDA := kernels/*.cu kernels/*.cuh tests/emulation/*.h bench/*.cu
# the program of the package clang-format, wherever PYTHON is
CLANG_FORMAT = "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/clang-format"

.PHONY: help demo test test-oldest test-gpu memcheck-gpu bench bench-gpu rehearse-gpu docs check format clean installed-editable

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml
	@echo "installing into $(VENV), once: about 7 GB, some minutes"
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# What is installed there stays as it is, a wheel too: -P keeps this folder out of the search.
installed-editable:
	@$(PYTHON) -P -c 'import lim_gpu, lim_gpu.kernels; print("lim_gpu as installed:", lim_gpu.__path__[0])' 2>/dev/null \
	|| { echo "no lim_gpu in $(PYTHON): installing this checkout, editable"; \
	$(PYTHON) -m pip install --quiet --no-deps --no-build-isolation --editable .; }

demo: $(SETUP) ## procedural CT volumes ingested, reduced with every method, and a report; under a minute once it is set up
	$(PYTHON) -m lim_gpu.cli demo -o demo

test: $(SETUP) ## all tests that need no GPU
	$(PYTHON) -m pytest -q -n 2 --dist worksteal -m "not gpu"

test-oldest: ## the same with the oldest version of each library that pyproject.toml admits
	python3 -m venv build/oldest
	build/oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/oldest/bin/uv pip install --quiet --python build/oldest --resolution lowest-direct --editable '.[test]'
	build/oldest/bin/python -m pytest -q -n 2 --dist worksteal -m "not gpu"

test-gpu: $(SETUP) ## every kernel on the GPU against scikit-image, imagehash and the CPU path; one process a file
	$(PYTHON) tests/file_by_file.py

memcheck-gpu: $(SETUP) ## the kernels on the GPU under compute-sanitizer (of the CUDA toolkit)
	compute-sanitizer --error-exitcode 1 $(PYTHON) -m pytest -q -m gpu tests/similarity/cuda

bench: $(SETUP) ## each method against its peers, into bench/RESULTS.md; resumes
	$(call extra,bench)
	$(PYTHON) -m pytest -q -r fE bench

bench-gpu: $(SETUP) ## ceilings, kernels, peers, data sets on a GPU; at most 9 minutes, resumes
	$(PYTHON) -m pytest -q -r fE -m gpu --seconds 540 bench

rehearse-gpu: $(SETUP) ## bench/first_run.sh without a GPU, on a bare copy of the checkout in build/rehearsal
	PYTHON=$(PYTHON) bench/rehearse.sh

docs: $(SETUP) ## the documentation as a site that reads without a network, into build/docs
	$(call extra,docs)
	$(PYTHON) -m mkdocs build --strict

check: $(SETUP) ## ruff, mypy and clang-format at the pinned versions
	$(call extra,check)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(CLANG_FORMAT) --dry-run -Werror $(CUDA)

format: $(SETUP) ## rewrite the sources as `make check` wants them
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(CLANG_FORMAT) -i $(CUDA)

clean: ## remove the environment, caches and the demo
	rm -rf $(VENV) build demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

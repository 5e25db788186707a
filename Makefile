# Every target sets itself up: the environment is built once and again when the pins change.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WHEELS := wheelhouse
DEMO := demo-output
CANDIDATES := python3.11 python3.12 python3.13 python3 python
# The first Python that is new enough and can make environments; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	$$p -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1 && { echo $$p; break; }; done)
# Two workers on two cores: more threads in each would only get in each other's way.
# Whole files to each, so that what a file's tests share is made once, the long ones first.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test unit lint bench bench-gpu soak wheelhouse clean

help:
	@echo "make demo        phantom archives, training and a report in three domains ($(DEMO)/)"
	@echo "make test        all tests; unit part alone: make unit; long fault tests: make soak"
	@echo "make lint        style, types, import rules, spelling, forbidden packages"
	@echo "make bench       every benchmarks/bench_*.py; make bench-gpu: those for a GPU, with its tests"
	@echo "make wheelhouse  wheels and hashes for an install without a network"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "medvlp needs Python 3.11 or newer with venv" \
		"(Debian, Ubuntu: apt install python3-venv); then: make PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11; run make PYTHON=/path/to/python3.11"; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (minutes, the first time)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/medvlp demo --out $(DEMO)

unit: $(STAMP)
	$(PYTEST) tests/unit medvlp volumetric video

test: $(STAMP)
	$(PYTEST) tests medvlp volumetric video

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	@! $(BIN)/python -m pip list --format=freeze | grep -i '^torchvision' || { \
		echo "torchvision is installed: transformers breaks beside it; find what pulls it"; exit 1; }

bench: $(STAMP)
	@for file in benchmarks/bench_*.py; do \
		[ -e "$$file" ] || { echo "no benchmarks yet"; break; }; \
		echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

bench-gpu: $(STAMP)
	$(BIN)/pytest -m gpu tests
	$(BIN)/python benchmarks/bench_contrastive.py --device cuda --sizes 4096,8192,16384,32768
	$(BIN)/python benchmarks/bench_soft_dtw.py --device cuda --sizes 128x64x16,32x1024x1024

# pytest exits with 5 when it selects no test.
soak: $(STAMP)
	$(BIN)/pytest -m soak tests || [ $$? -eq 5 ]

wheelhouse: $(STAMP)
	rm -rf $(WHEELS)
	$(BIN)/python -m pip wheel --quiet -c constraints.txt -w $(WHEELS) '.[cluster]'
	@cd $(WHEELS) && for file in *.whl; do \
		IFS=- read -r name version rest <<< "$$file"; \
		echo "$$name==$$version --hash=sha256:$$(sha256sum "$$file" | cut -d' ' -f1)"; \
	done > requirements.txt
	@echo "copy $(WHEELS)/ and configs/ to the other machine; there, with the same Python version:"
	@echo "  python3 -m venv .venv && .venv/bin/pip install --no-index --find-links $(WHEELS)" \
		"--require-hashes -r $(WHEELS)/requirements.txt"

clean:
	rm -rf $(VENV) $(WHEELS) $(DEMO) build dist .*_cache

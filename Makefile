# Thin aliases. Each works from a fresh clone: the environment .venv is made when it is missing.

PYTHON ?= python3
PROFILE ?= $(if $(DATA),real,quick)
CORES ?= all
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help report test lab clean

help:  ## show this help
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 9

report: .venv/.installed  ## run all notebooks, build reports/PROFILE/index.html [DATA=/path/to/data] [PROFILE=quick|real|full] [CORES=n]
	@status=0; \
	$(BIN)/snakemake --cores $(CORES) --keep-going --quiet rules progress host reason \
	    --config profile=$(PROFILE) $(if $(DATA),data="$(DATA)") || status=1; \
	$(BIN)/fmlib report reports/$(PROFILE) || status=1; \
	exit $$status

test: .venv/.installed  ## check style and spelling, and run every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find notebooks -name '*.ipynb' -not -path '*/.*' -exec $(BIN)/nbstripout --verify {} +
	$(BIN)/codespell *.md Makefile Snakefile data_manifests docs experiments fmlib notebooks profiles reports/published tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lab: .venv/.installed  ## open the first notebook in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

clean:  ## remove caches and what interrupted runs left; results stay, and are made anew by the next report
	rm -rf .snakemake .pytest_cache .ruff_cache reports/*/.*.running reports/*/*/.done
	find fmlib tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $@

# A thin front door to the Snakefile. `make` alone lists the targets.
# With an environment of your own (environment.yml), `snakemake --cores 4` does the work directly.

VENV   ?= .venv
PYTHON ?= python3
CORES  ?= 4

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)

# pytest with a process per core; a file, and so its fixtures and a notebook, stays in one of them.
SIDE_BY_SIDE := --numprocesses auto --dist loadfile --no-loadscope-reorder

# A double click in JupyterLab opens notebooks/*.py as notebooks.
VIEWER  := $(VENV)/share/jupyter/lab/settings/overrides.json
OPEN_PY := '{"@jupyterlab/docmanager-extension:plugin":{"defaultViewers":{"python":"Jupytext Notebook"}}}'

# Commands of the rules (vitdm, python, jupytext, papermill) come from the environment above.
export PATH := $(abspath $(BIN)):$(PATH)
export PYTHONNOUSERSITE := 1
# One thread per process: several processes side by side are faster (docs/design.md).
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export NUMBA_NUM_THREADS := 1
export VECLIB_MAXIMUM_THREADS := 1

.NOTPARALLEL:
.PHONY: help unlocked results extended smoke test check lock clean distclean

help:
	@echo 'make results    the article from scratch: data, runs, figures, PDF   (at most 60 min, 2 cores)'
	@echo 'make test       lint, unit tests, tiny workflow, notebooks, paper    (at most 15 min)'
	@echo 'make extended   larger grids (config/extended.yaml), into paper/extended    (hours)'
	@echo 'make smoke      the whole workflow on tiny data                      (at most 8 min)'
	@echo 'make check      compare results/paper with the committed reference   (seconds)'
	@echo 'make lock       refresh requirements.lock from pyproject.toml        (under 1 min)'
	@echo 'make clean      delete results/ and caches                           (seconds)'
	@echo 'make distclean  clean, and delete $(VENV)                          (seconds)'
	@echo 'Each target first creates $(VENV) from requirements.lock if needed   (2 to 5 min, once).'
	@echo 'Options: CORES=$(CORES)  PYTHON=$(PYTHON) (3.11 or newer)  VENV=$(VENV)'

$(INSTALLED): requirements.lock pyproject.toml
	@version=`$(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null`; \
	case "$$version" in 3.1[1-9]|3.[2-9][0-9]) ;; \
	*) echo "vitdm needs Python 3.11 or newer; '$(PYTHON)' is $${version:-not found}." >&2; \
	   echo "Name another one, for example: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1;; \
	esac
	$(PYTHON) -m venv "$(VENV)"
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	mkdir -p "$(dir $(VIEWER))" && echo $(OPEN_PY) > "$(VIEWER)"
	@touch "$@"

# Snakemake's lock stays behind after a power cut; while another run is alive, nothing is removed.
unlocked: $(INSTALLED)
	@$(BIN)/python -m studies.running

results: unlocked
	$(SNAKEMAKE)
	$(SNAKEMAKE) --report results/paper/report.html

extended: unlocked
	$(SNAKEMAKE) --configfile config/paper.yaml config/extended.yaml --forcerun extended -- extended

smoke: unlocked
	$(SNAKEMAKE) --configfile config/smoke.yaml

test: unlocked
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile rules/*.smk
	$(BIN)/snakemake --lint
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests
	rm -rf results/smoke
	$(SNAKEMAKE) --configfile config/smoke.yaml
	$(SNAKEMAKE) --configfile config/smoke.yaml --dry-run | grep 'Nothing to be done'
	$(SNAKEMAKE) --configfile config/smoke.yaml --report results/smoke/report.html
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --nbval-lax --nbval-current-env results/smoke/notebooks/*.ipynb

check: $(INSTALLED)
	$(BIN)/python -m studies check --results results/paper --reference paper/reference.json

# Keeps every version that still fits; `make lock UPGRADE=--upgrade` takes the newest ones. The rows
# that only torch's CUDA build needs are left out: the choice of build is the user's.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	  --extra paper --extra cluster --extra dev --no-header --annotation-style line --no-emit-index-url $(UPGRADE) \
	  pyproject.toml --output-file requirements.lock
	{ echo '# Every version, for pip and conda, Linux and macOS, Python 3.11 or newer.'; \
	  echo '# Made from pyproject.toml by `make lock`; not edited by hand.'; \
	  grep -vE '^(#|nvidia-|cuda-|triton)' requirements.lock \
	  | sed "s/ ; sys_platform == 'darwin' or sys_platform == 'linux'//"; } > requirements.lock.tmp
	mv requirements.lock.tmp requirements.lock
	@touch "$(INSTALLED)"

clean:
	rm -rf results .snakemake .pytest_cache .ruff_cache build
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf "$(VENV)" vitdm.egg-info

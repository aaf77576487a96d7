# A thin front door to the Snakefile. `make` alone lists the targets.
# With an environment of your own (environment.yml), `snakemake --cores 4` does the work directly.

VENV   ?= .venv
PYTHON ?= python3
CORES  ?= 4
CONFIG ?= config/paper.yaml
# what the site shows of a run: executed notebooks, and the page of its test lenses
NOTEBOOKS ?= $(wildcard results/paper/notebooks)
EXPLORER  ?= $(wildcard results/paper/explorer.html)

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)

# pytest with a process per core; a file, and so its fixtures and a notebook, stays in one of them.
SIDE_BY_SIDE := --numprocesses auto --dist loadfile --no-loadscope-reorder
# The library first: it leaves compiled code for the others. The short tests last: no core waits long.
TESTS := tests/library tests/workflow tests/studies

# What `make lowest` runs: each room of the library once
LOWEST := $(addprefix tests/library/test_,simulate.py dataset.py readers.py observation.py preprocess.py \
  features.py lensfit.py lenses.py free_form_fit.py perturbers.py model.py train.py classifier.py \
  tuning_search.py evaluate.py selection.py predict.py config.py)

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
.PHONY: help unlocked results extended smoke test check article archive docs benchmarks lowest lock clean \
  distclean

help:
	@echo 'make results    the article from scratch: data, runs, figures, PDF   (at most 60 min, 2 cores)'
	@echo 'make test       lint, unit tests, tiny workflow, notebooks, paper    (at most 30 min)'
	@echo 'make extended   larger grids (config/extended.yaml), into paper/extended    (hours)'
	@echo 'make smoke      the whole workflow on tiny data                      (at most 10 min)'
	@echo 'make check      compare results/paper with the committed reference   (seconds)'
	@echo 'make article    paper, figures and tables anew from results that are there (minutes)'
	@echo 'make archive    results/paper/vitdm.zip, to deposit: code, results, metadata (minutes)'
	@echo 'make docs       the documentation site, into build/site              (1 min)'
	@echo 'make benchmarks images a second of each step, beside other codes     (2 min of an idle core)'
	@echo 'make lowest     tests of the library with the oldest versions allowed (minutes)'
	@echo 'make lock       refresh requirements.lock from pyproject.toml        (under 1 min)'
	@echo 'make clean      delete results/ and caches                           (seconds)'
	@echo 'make distclean  clean, and delete $(VENV)                          (seconds)'
	@echo 'Each target first creates $(VENV) from requirements.lock if needed   (2 to 5 min, once).'
	@echo 'Options of article and archive: CONFIG=$(CONFIG);  of docs: NOTEBOOKS=FOLDER EXPLORER=FILE'
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
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(TESTS)
	rm -rf results/smoke
	$(SNAKEMAKE) --configfile config/smoke.yaml
	$(SNAKEMAKE) --configfile config/smoke.yaml --dry-run | grep 'Nothing to be done'
	$(SNAKEMAKE) --configfile config/smoke.yaml --report results/smoke/report.html
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) --nbval-lax --nbval-current-env results/smoke/notebooks/*.ipynb

check: $(INSTALLED)
	$(BIN)/python -m studies check --results results/paper --reference paper/reference.json

# Only these rules: what they read is taken as it lies there, from this run or an unpacked archive.
article: unlocked
	$(SNAKEMAKE) --configfile $(CONFIG) --forceall --allowed-rules all settings \
	  $(foreach n,1 2 3 4 5 6,notebook_0$(n)) paper explorer

archive: $(INSTALLED)
	$(BIN)/python -m studies archive --config $(CONFIG) \
	  --out results/`sed -n 's/^name: *//p' $(CONFIG)`/vitdm.zip

docs: $(INSTALLED)
	NOTEBOOKS="$(NOTEBOOKS)" EXPLORER="$(EXPLORER)" PYTHONPATH=. NO_MKDOCS_2_WARNING=1 \
	  $(BIN)/mkdocs build --quiet
	@echo "build/site/index.html; to search in it: $(PYTHON) -m http.server --directory build/site"

# vit-pytorch asks for torchvision, which the module that is compared needs not: it comes without its
# dependencies, into a folder of its own. Where that fails, the table does without it.
build/vit:
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --target "$@" \
	  vit-pytorch==1.26.14 einops==0.8.2 || echo 'vit-pytorch could not be installed.'

benchmarks: $(INSTALLED) build/vit
	$(BIN)/python benchmarks/throughput.py --vit-pytorch build/vit

# An environment of its own with the lowest versions of what pyproject.toml names (uv chooses them),
# and in it the tests of the library. torch has one version in its range.
lowest:
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --disable-pip-version-check --quiet uv
	build/lowest/bin/uv pip compile --quiet --resolution lowest-direct --extra paper --extra dev --no-header \
	  --no-annotate pyproject.toml | grep -vE '^(nvidia-|cuda-|triton)' > build/lowest/versions.txt
	build/lowest/bin/python -m pip install --disable-pip-version-check --quiet \
	  -r build/lowest/versions.txt
	PYTHONPATH=. build/lowest/bin/python -m pytest $(LOWEST)

# Keeps every version that still fits; `make lock UPGRADE=--upgrade` takes the newest ones. The rows
# that only torch's CUDA build needs are left out: the choice of build is the user's.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	  --extra paper --extra docs --extra cluster --extra dev --no-header --annotation-style line --no-emit-index-url $(UPGRADE) \
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

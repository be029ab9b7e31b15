# One environment in .venv; every target uses it. `make` alone lists what there is.

PYTHON ?= $(shell command -v python3.11 || echo python3)
BIN := .venv/bin
SMOKE := .ldct/smoke
PORT ?= 5000

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help setup repro smoke test check ui lock docker clean

help: ## List what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.installed ## Make .venv with the locked requirements (PYTHON=python3.12 chooses another interpreter)

.venv/.installed: requirements.lock pyproject.toml
	@test -x $(BIN)/python || { \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	    { echo "make: Python 3.11, 3.12 or 3.13 is needed: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }; \
	  $(PYTHON) -m venv .venv; }
	@echo "Installing requirements.lock into .venv (minutes the first time)"
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup ## Run the whole road of the active preset: data, four models, scores, DICOM, report
	dvc repro

smoke: setup ## Run the same road on tiny data in a scratch copy (.ldct/smoke)
	rm -rf $(SMOKE) && mkdir -p $(SMOKE)
	git ls-files -z --cached --others --exclude-standard \
	  | tar --create --null --files-from - --ignore-failed-read | tar --extract --directory $(SMOKE)
	cd $(SMOKE) && git init --quiet && sed -i 's/^preset:.*/preset: smoke/' configs/preset.yaml && dvc repro

test: setup ## Run the whole test suite, slow tests included, file by file on up to 4 cores
	OMP_NUM_THREADS=1 pytest -m "" --numprocesses auto --maxprocesses 4 --max-worker-restart 0 --dist loadfile

check: setup ## Check format, lint, types, import contracts and the Dockerfile
	ruff format --check .
	ruff check .
	mypy
	lint-imports
	hadolint docker/Dockerfile

ui: setup ## Show runs, curves, pictures and models in MLflow on http://127.0.0.1:5000 (PORT=… for another)
	@test -f .ldct/mlflow.db || { echo "make: nothing is tracked yet: run make repro first" >&2; exit 1; }
	mlflow ui --host 127.0.0.1 --port $(PORT) --backend-store-uri sqlite:///$(CURDIR)/.ldct/mlflow.db

lock: ## Resolve the newest allowed requirements into requirements.lock
	rm -rf .ldct/lock-env && $(PYTHON) -m venv .ldct/lock-env
	.ldct/lock-env/bin/python -m pip install --quiet ".[dev]"
	{ grep '^#' requirements.lock; .ldct/lock-env/bin/python -m pip freeze --exclude ldct-pipeline | sed 's/+cpu$$//'; } > .ldct/lock
	mv .ldct/lock requirements.lock && rm -rf .ldct/lock-env

docker: ## Build the CPU image, ldct-pipeline:cpu
	docker build --file docker/Dockerfile --tag ldct-pipeline:cpu .

clean: ## Remove caches and scratch copies; data, models, results and .venv stay
	rm -rf dist $(SMOKE) .ldct/lock-env .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

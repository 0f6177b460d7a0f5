# `make demo` and `make test` set up what they need. STUDY names a file in config/.
STUDY ?= demo
PIPELINE := $(if $(filter demo,$(STUDY)),dvc.yaml,pipelines/$(STUDY)/dvc.yaml)
SNAKEMAKE = snakemake --config study=$(STUDY)
UV = uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links

export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo demo-seeds sweep study report browser test promises lint env mend record restore figures figures-check lock soak rerun test-slurm

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: study ## run the demo study: data, trainings, records, figures and tables

study: env ## run one study: make study STUDY=voc-pilot
	$(SNAKEMAKE)
	@echo "Figures and tables are in paper_figures/$(STUDY), the records behind them in results/$(STUDY)."

demo-seeds: ## the demo's experiments on three seeds, with intervals and verdicts
	$(MAKE) study STUDY=demo-seeds

sweep: ## the generated data with one property changed at a time, and each method's gain
	$(MAKE) study STUDY=imbalance-sweep

report: env ## a study as one page from its records: make report STUDY=demo
	python -m imbdet report config/$(STUDY).yaml

browser: ## install the browser in which the report is tested
	tests/report/install_browser.sh

test: env ## run the tests
	python -m pytest -n 2 --dist loadfile $(OPTIONS)

promises: env ## write down what the tests with a promise show, and its page
	python -m pytest -n 2 --dist loadfile -m "promise and not soak" --promises=results/promises.json
	python docs/build.py

test-slurm: env ## a small study through a Slurm of one node, which this starts: needs root on Debian or Ubuntu
	tests/slurm/one_node.sh python -m pytest tests/slurm

soak: env ## kill the training of every method twenty times, and the pipeline, and compare: takes many minutes
	python -m pytest -n 2 --dist loadfile -m soak

rerun: env ## repeat a training from its record alone: make rerun RECORD=results/demo/focal-g2/seed-1/training.json
	python -m imbdet rerun $(RECORD)

lint: env ## check style, types and workflow
	ruff check
	ruff format --check
	mypy
	snakemake --lint
	snakefmt --check --line-length 120 Snakefile workflow

env: .venv/.complete ## set up the environment in .venv

.venv/.complete: workflow/environment.sh requirements.lock requirements-uv.lock pyproject.toml
	workflow/environment.sh
	@touch $@

mend: env ## after kill -9 of dvc: put right the files that it was writing
	python -m imbdet.mend config/$(STUDY).yaml

record: env ## write down a finished run for DVC and Git
	@$(SNAKEMAKE) --dry-run 2>&1 | tee /dev/stderr | grep "Nothing to be done" > /dev/null \
		|| { echo "error: the run is not finished: make study STUDY=$(STUDY)" >&2; exit 1; }
	python -m imbdet.pipeline config/$(STUDY).yaml
	dvc commit --force --quiet $(PIPELINE)

restore: env ## after a clone and dvc pull: make images and features again and have Snakemake accept the files
	python -m imbdet data config/$(STUDY).yaml
	python -m imbdet features config/$(STUDY).yaml
	@dvc status --quiet $(PIPELINE) || { dvc status $(PIPELINE); \
		echo "error: these files differ from the recorded run: dvc pull $(PIPELINE), or dvc repro $(PIPELINE)" >&2; exit 1; }
	$(SNAKEMAKE) --touch --forceall --quiet all -- all

figures: env ## draw again what changed, from the records in Git: needs neither data nor weights
	dvc repro --single-item --glob '$(PIPELINE):figure-*'

figures-check: env ## redraw every committed figure and compare
	python -m pytest tests/figures/test_committed.py tests/pipeline/test_recorded.py

lock: env ## choose the locked versions again
	$(UV) pyproject.toml --all-extras -o requirements.lock
	echo uv | $(UV) - -o requirements-uv.lock

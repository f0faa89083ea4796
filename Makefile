# Shortcuts to the project's commands. `make demo` and `make test` set up all that they need.
PYTHON ?= python3
VENV := .venv
EXPORT_VENV := .venv-export
BENCH_VENV := .venv-bench
SEARCH_VENV := .venv-search
ENGINES_VENV := .venv-engines
RUN := $(VENV)/bin/python
TEST_REPOSITORY := build/test/model_repository
SMALL_REPOSITORY := build/test/small_repository
# Test files run side by side, in the order given; the tests of one file share its server. More of them than
# cores, as they mostly wait: for servers that start and stop. So the integration tests come first.
PYTEST := -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations 10

export CLIP_EXPORT := $(CURDIR)/$(EXPORT_VENV)/bin/clip-export
export CLIP_SERVE := $(CURDIR)/$(VENV)/bin/clip-serve
export CLIP_TEST_REPOSITORY := $(CURDIR)/$(TEST_REPOSITORY)
export CLIP_SMALL_REPOSITORY := $(CURDIR)/$(SMALL_REPOSITORY)

# Tests start hundreds of processes, which would compile the project's modules again each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help coverage compare-origin setup setup-export setup-bench setup-search setup-engines test-databases test-engines demo test test-fast test-slow lint docs format configs fuzz soak bench bench-preprocess bench-server bench-client clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready ## The environment of server, client and tests (no torch)
setup-export: $(EXPORT_VENV)/.ready ## The environment of the export (torch, open_clip)

$(VENV)/.ready: tools/environment.py tools/old_numpy.py tools/requirements-serve.txt tools/requirements-docs.txt constraints.txt $(wildcard */pyproject.toml)
	$(PYTHON) tools/environment.py $(VENV) serve

$(EXPORT_VENV)/.ready: tools/environment.py tools/requirements-export.txt constraints.txt $(wildcard */pyproject.toml) | $(VENV)/.ready
	$(PYTHON) tools/environment.py $(EXPORT_VENV) export

setup-bench: $(BENCH_VENV)/.ready ## The environment of the services we compare with (torch)

$(BENCH_VENV)/.ready: tools/environment.py tools/requirements-bench.txt constraints.txt $(wildcard benchmarks/*/requirements.txt) | $(VENV)/.ready
	$(PYTHON) tools/environment.py $(BENCH_VENV) bench

setup-search: $(SEARCH_VENV)/.ready ## The environment of the databases that clip-search loads (680 MB)

$(SEARCH_VENV)/.ready: tools/environment.py tools/requirements-search.txt constraints.txt $(wildcard */pyproject.toml) | $(VENV)/.ready
	$(PYTHON) tools/environment.py $(SEARCH_VENV) search

setup-engines: $(ENGINES_VENV)/.ready ## The environment of the engines of clip-batch: Ray, Beam (650 MB)

$(ENGINES_VENV)/.ready: tools/environment.py tools/requirements-engines.txt $(wildcard */pyproject.toml) | $(VENV)/.ready
	$(PYTHON) tools/environment.py $(ENGINES_VENV) engines

demo: setup setup-export ## Bucket to embeddings on a real server, with a page to look at (PHOTOS=dir for yours)
	$(RUN) -m tools.demo $(if $(PHOTOS),--photos "$(PHOTOS)")

test: lint $(TEST_REPOSITORY)/.ready $(SMALL_REPOSITORY)/.ready ## Lint, unit, integration and golden tests
	$(RUN) $(PYTEST) tests/integration tests/unit
	$(EXPORT_VENV)/bin/python $(PYTEST) -n 2 tests/golden

test-fast: setup ## The unit tests alone
	$(RUN) -m pytest -n 2 tests/unit

coverage: setup ## The unit tests, with the lines and branches they leave out
	$(RUN) -m pytest -q -n 2 --cov --cov-report=term --cov-report=html:build/coverage tests/unit

test-slow: $(TEST_REPOSITORY)/.ready $(SMALL_REPOSITORY)/.ready test-databases test-engines ## Sweeps, the demo, benchmarks, databases, engines, each distribution alone
	$(RUN) $(PYTEST) -m slow tests/slow tests/integration tests/unit
	$(EXPORT_VENV)/bin/python $(PYTEST) -n 2 -m slow tests/golden

test-databases: $(SEARCH_VENV)/.ready ## clip-search with LanceDB, PostgreSQL and Qdrant
	$(SEARCH_VENV)/bin/python -m pytest -q tests/databases

test-engines: $(ENGINES_VENV)/.ready $(SMALL_REPOSITORY)/.ready ## clip-batch with Ray and Beam
	$(ENGINES_VENV)/bin/python -m pytest -q --durations 5 tests/engines

# The exports are made again when what writes or checks them changes.
EXPORT_SOURCES := $(VENV)/.ready $(EXPORT_VENV)/.ready $(wildcard export/src/clip_export/*.py \
    serving/src/clip_serving/repository/spec.py serving/src/clip_serving/encoder/proof.py \
    serving/src/clip_serving/text/*.py)

$(TEST_REPOSITORY)/.ready: $(EXPORT_SOURCES)
	rm -rf $(@D)
	$(CLIP_EXPORT) --model ViT-B-32 --pretrained none --seed 0 --repository $(@D)
	touch $@

$(SMALL_REPOSITORY)/.ready: $(EXPORT_SOURCES) $(wildcard testing/export_small.py testing/towers/*)
	rm -rf $(@D)
	$(EXPORT_VENV)/bin/python -m testing.export_small --model ViT-tiny-32 --pretrained none --seed 0 --repository $(@D)
	touch $@

lint: setup docs ## ruff, mypy --strict and the documentation's build
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

docs: setup ## Build the documentation site into build/site, strictly
	$(RUN) -m tools.reference build/docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

format: setup ## Format the code with ruff
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

configs: setup ## Render the committed model_repository again from its spec
	$(RUN) -m tools.render_default

fuzz: setup ## 20,000 mutated photos through decoding (FILES=n for another count)
	$(RUN) -m tests.fuzz --files $(or $(FILES),20000)

soak: $(TEST_REPOSITORY)/.ready ## Good and bad photos for MINUTES (10); charts memory and threads
	$(RUN) -m benchmarks.soak --repository $(TEST_REPOSITORY) --minutes $(or $(MINUTES),10)

bench: $(TEST_REPOSITORY)/.ready setup-bench ## Compare with the origin's service and LitServe (PHOTOS=dir, MINUTES=n)
	$(RUN) -m benchmarks.run --repository $(TEST_REPOSITORY) $(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(MINUTES),--minutes $(MINUTES))

compare-origin: $(TEST_REPOSITORY)/.ready setup-bench ## The origin's table of stages: theirs as published, theirs and ours measured here (PHOTOS=dir)
	$(RUN) -m benchmarks.origin.compare --repository $(TEST_REPOSITORY) $(if $(PHOTOS),--photos "$(PHOTOS)")

bench-preprocess: $(TEST_REPOSITORY)/.ready ## Compare decode and preprocess with open_clip and the floor (PHOTOS=dir)
	$(EXPORT_VENV)/bin/python -m benchmarks.preprocess --model $(TEST_REPOSITORY)/clip_image_encoder/1/model.onnx \
	    $(if $(PHOTOS),--photos "$(PHOTOS)")

bench-server: $(TEST_REPOSITORY)/.ready ## The overhead of the server over its own functions (PHOTOS=dir)
	$(RUN) -m benchmarks.server_cost --repository $(TEST_REPOSITORY) $(if $(PHOTOS),--photos "$(PHOTOS)")

bench-client: $(TEST_REPOSITORY)/.ready ## The cost of the client, from bucket to Parquet (PHOTOS=dir)
	$(RUN) -m benchmarks.client_cost --repository $(TEST_REPOSITORY) $(if $(PHOTOS),--photos "$(PHOTOS)")

clean: ## Remove what was built, environments included
	rm -rf build $(VENV) $(EXPORT_VENV) $(BENCH_VENV) $(SEARCH_VENV) $(ENGINES_VENV)

# make serve   sets up a fresh machine and serves
# make test    sets up and tests
.DEFAULT_GOAL := help
.PHONY: help serve test check format proto lock bench chaos load soak fuzz metrics-test docker-test lowest frameworks audit cache-test page-test scaling clean
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := $(PIP) install --require-hashes --requirement
SOURCES := pyproject.toml README.md LICENSE \
	$(shell find proto service client -not -name '*.pyc' -not -name __pycache__)
PROTOC := $(VENV)/protoc/bin/python -m grpc_tools.protoc -Imetalm_proto/v1=proto/metalm/v1 \
	--python_out=proto --pyi_out=proto --grpc_python_out=proto metalm_proto/v1/metalm.proto
RESOLVE := $(VENV)/uv/bin/uv pip compile --quiet --generate-hashes --no-header \
	--no-emit-index-url --universal --python-version 3.11 --upgrade

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

serve: $(VENV)/installed ## set up, then serve HTTP on 8000 and gRPC on 50051
	exec $(BIN)/metalm serve

test: $(VENV)/dev ## set up, then run the tests against the built wheel
	$(BIN)/metalm warm
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

check: $(VENV)/dev $(VENV)/proto ## lint, types, generated code, container files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/buf lint proto
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null) \
		&& $(BIN)/buf breaking proto --against ".git#tag=$$tag,subdir=proto" \
		|| test -z "$$tag"
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/shellcheck .ci/run tests/docker/*.sh tests/prometheus/*.sh tests/cache/*.sh tests/page/*.sh
	$(BIN)/kubernetes-validate --strict --quiet -k 1.30 \
		docker/kubernetes/base/[!k]*.yaml docker/kubernetes/monitor/network.yaml
	$(PROTOC)
	@test -z "$$(git status --porcelain -- proto/metalm_proto/v1)" \
		|| { git status --short -- proto/metalm_proto/v1; echo "the generated code is not what is committed"; exit 1; }

format: $(VENV)/dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/proto ## generate the stubs from the .proto
	$(PROTOC)

lock: | $(BIN)/python ## resolve the dependencies anew
	test -x $(VENV)/uv/bin/uv \
		|| { $(PYTHON) -m venv $(VENV)/uv && $(VENV)/uv/bin/python -m pip install --quiet uv; }
	$(RESOLVE) --extra service pyproject.toml -o requirements.lock
	$(RESOLVE) --group build -o docker/build-requirements.lock
	$(RESOLVE) --group dev -c requirements.lock -c docker/build-requirements.lock \
		-o tests/requirements.lock
	printf "torch==2.13.0; sys_platform == 'never'\n" > $(VENV)/without-torch
	$(RESOLVE) --group frameworks --override $(VENV)/without-torch -c requirements.lock \
		-c tests/requirements.lock --no-emit-package torch -o tests/requirements-frameworks.lock
	$(RESOLVE) --group page -c tests/requirements.lock -o tests/requirements-page.lock
	$(RESOLVE) --group proto -o proto/requirements.lock
	$(RESOLVE) --resolution lowest-direct --extra service --extra otel --extra eval --extra gym --extra arrow --group lowest pyproject.toml \
		-o tests/requirements-lowest.lock

bench: $(VENV)/installed ## measure generator and doors
	$(BIN)/metalm bench

lowest: $(VENV)/lowest ## run the doors' tests with the lowest supported versions
	$(VENV)/lowest-versions/bin/metalm warm
	$(VENV)/lowest-versions/bin/python -m pytest -n auto --dist worksteal \
		tests/congruence tests/service tests/client tests/proto tests/core/test_vectors.py

chaos: $(VENV)/dev ## torment replicas under 100 000 batches and compare with the twin
	$(BIN)/metalm warm
	$(BIN)/python -m tests.chaos $(CHAOS_ARGS)

load: $(VENV)/dev ## more load than one server can bear: figures, each with its bound
	$(BIN)/metalm warm
	$(BIN)/python -m tests.load $(LOAD_ARGS)

soak: $(VENV)/dev ## load one server for 30 minutes, bad clients among the good ones
	$(BIN)/metalm warm
	$(BIN)/python -m tests.soak $(SOAK_ARGS)

fuzz: $(VENV)/dev ## throw requests, messages, bytes and frames at both doors
	$(BIN)/metalm warm
	$(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

frameworks: $(VENV)/frameworks ## run the tests with torch, torchdata, grain, datasets and jax
	$(VENV)/frameworks-versions/bin/metalm warm
	$(VENV)/frameworks-versions/bin/python -m pytest tests/frameworks $(PYTEST_ARGS)

metrics-test: $(VENV)/dev ## check Prometheus' rules, and let a real one scrape a real service
	PYTHON=$(abspath $(BIN))/python tests/prometheus/run.sh

audit: | $(BIN)/python ## compare the locked dependencies with the known vulnerabilities
	test -x $(VENV)/audit/bin/pip-audit \
		|| { $(PYTHON) -m venv $(VENV)/audit && $(VENV)/audit/bin/python -m pip install --quiet pip-audit; }
	$(VENV)/audit/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
		--requirement requirements.lock --requirement docker/build-requirements.lock

docker-test: $(VENV)/dev ## build the image and test it on a Docker engine
	PYTHON=$(abspath $(BIN))/python tests/docker/run.sh

cache-test: $(VENV)/dev ## put nginx in front of a service and test and measure its cache
	$(BIN)/metalm warm
	PYTHON=$(abspath $(BIN))/python tests/cache/run.sh

page-test: $(VENV)/page ## test the explorer in Chromium; PAGE_ARGS=--measure measures it
	$(BIN)/metalm warm
	PYTHON=$(abspath $(BIN))/python PYTHONPATH=$(abspath $(VENV))/page tests/page/run.sh $(PAGE_ARGS)

scaling: $(VENV)/dev ## measure one replica and two, and what a replica costs
	$(BIN)/metalm warm
	$(BIN)/python -m tests.benchmarks.scaling

clean: ## remove what make made
	rm -rf $(VENV) dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/locked: requirements.lock docker/build-requirements.lock | $(BIN)/python
	$(LOCKED) requirements.lock
	$(LOCKED) docker/build-requirements.lock
	@touch $@

# The wheel, not the tree: what is tested is what is shipped.
$(VENV)/installed: $(VENV)/locked $(SOURCES)
	rm -rf dist
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	$(PIP) install --no-deps --force-reinstall dist/*.whl
	@touch $@

$(VENV)/dev: $(VENV)/installed tests/requirements.lock
	$(LOCKED) tests/requirements.lock
	@touch $@

$(VENV)/lowest: tests/requirements-lowest.lock $(VENV)/installed
	$(PYTHON) -m venv $(VENV)/lowest-versions
	$(VENV)/lowest-versions/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --requirement tests/requirements-lowest.lock
	$(VENV)/lowest-versions/bin/python -m pip --disable-pip-version-check --quiet install \
		--no-deps --force-reinstall dist/*.whl
	@touch $@

# torch alone comes without hashes: which of its builds is right, its users choose.
$(VENV)/frameworks: tests/requirements-frameworks.lock $(VENV)/installed
	$(PYTHON) -m venv $(VENV)/frameworks-versions
	$(VENV)/frameworks-versions/bin/python -m pip --disable-pip-version-check --quiet install torch==2.13.0
	$(VENV)/frameworks-versions/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --no-deps --requirement tests/requirements-frameworks.lock
	$(VENV)/frameworks-versions/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --requirement requirements.lock
	$(VENV)/frameworks-versions/bin/python -m pip --disable-pip-version-check --quiet install \
		--no-deps --force-reinstall dist/*.whl
	@touch $@

# Beside the environment and not in it: the default run of the tests has no browser.
$(VENV)/page: tests/requirements-page.lock $(VENV)/dev
	rm -rf $@
	$(LOCKED) $< --no-deps --target $@

$(VENV)/proto: proto/requirements.lock | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/protoc
	$(VENV)/protoc/bin/python -m pip --disable-pip-version-check --quiet install \
		--require-hashes --requirement proto/requirements.lock
	@touch $@

# Two commands matter: `make demo` and `make test`. Both install what they need first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test optional unit fuzz soak lint format proto chart dashboards docs docs-serve reference lock system image kube-apiserver clean

help:
	@echo "make demo    the mesh's story on this machine, checked step by step"
	@echo "make test    lint, types, layers and all tests"
	@echo "make optional  as root: Debian packages without which some tests are skipped"
	@echo "make fuzz    every parser against random input, a minute each (FUZZ_SECONDS=60)"
	@echo "make soak    ten minutes of traffic while everything changes (SOAK_SECONDS=600)"
	@echo "make kube-apiserver  a real API server, built once, for the tests that are skipped without it"
	@echo "make format  let ruff lay out the code"
	@echo "make proto   regenerate ambient/api/pb from its .proto files"
	@echo "make image   the container image, by podman, buildah or docker"
	@echo "make chart   make the Helm chart from manifests/"
	@echo "make dashboards  make Grafana's JSON from manifests/observability/dashboards"
	@echo "make docs    the documentation as a site in build/docs; make docs-serve shows it while you write"
	@echo "make reference  make the pages of commands, settings, metrics and ports from the code"
	@echo "make lock    choose newer dependencies"
	@echo "make clean   remove the virtual environment and caches"

demo: system $(VENV)/.runtime
	$(BIN)/ambientctl demo $(DEMO_ARGS)

test: lint unit

# Each worker gets its own network, mount and process namespaces from tests/sandbox, with or without
# root, and takes the next file when it is done with one: what is slow comes first, tests/unit last.
# What Python has compiled is kept, whatever the environment says: programs start by the hundred.
TEST_WORKERS ?= $(shell tests/sandbox sh -c 'test -n "$$NO_SANDBOX" && echo 1 || nproc' 2>/dev/null)
unit: export PYTHONDONTWRITEBYTECODE =
unit: system $(VENV)/.dev
	$(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder \
	  --tx '$(TEST_WORKERS)*popen//python=tests/sandbox $(BIN)/python' $(TEST_ARGS)

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(filter-out mutation test_targets __init__ __main__,$(basename $(notdir $(wildcard tests/fuzz/*.py))))
fuzz: $(VENV)/.dev
	@for target in $(FUZZ_TARGETS); do \
	  $(BIN)/python -m tests.fuzz $$target $(FUZZ_SECONDS) $$(date +%s) || exit 1; done

SOAK_SECONDS ?= 600
soak: system $(VENV)/.dev
	SOAK_SECONDS=$(SOAK_SECONDS) tests/sandbox $(BIN)/python -m pytest -s tests/netns/test_soak.py

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# A real kube-apiserver for the tests marked `kube`: built once, in 5 to 10 minutes on
# two slow cores (too long for every run of CI), and kept outside the repository, where the tests
# find it. etcd comes from Debian.
KUBE_VERSION := 1.34.4
KUBE_APISERVER := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/ambient-mesh/kube-apiserver-$(KUBE_VERSION)
KUBE_STAMP := k8s.io/component-base/version

kube-apiserver: $(KUBE_APISERVER)
	@command -v etcd >/dev/null && exit 0; \
	if [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends etcd-server; \
	else \
	  echo "error: etcd is missing" >&2; \
	  echo "hint: sudo apt-get install --no-install-recommends etcd-server" >&2; exit 1; \
	fi

$(KUBE_APISERVER):
	@command -v go >/dev/null || { echo "error: go is missing" >&2; \
	  echo "hint: install Go 1.24 or later; the tests that need an API server are skipped without it" >&2; exit 1; }
	mkdir -p $(@D)
	cd tests/kube/apiserver && go build -trimpath -o $@.new -ldflags "-s -w -X $(KUBE_STAMP).gitMajor=1 \
	  -X $(KUBE_STAMP).gitMinor=$(word 2,$(subst ., ,$(KUBE_VERSION))) -X $(KUBE_STAMP).gitVersion=v$(KUBE_VERSION)" .
	mv $@.new $@

# Missing Debian packages: root gets them, anybody else is told the command. kubectl may also come
# from elsewhere (another repository, the cloud vendor), so it is looked for by its name.
system:
	@missing=$$(for p in $$(cat debian-packages.txt); do \
	  [ $$p = kubernetes-client ] && command -v kubectl >/dev/null && continue; \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done | tr '\n' ' '); \
	[ -z "$$missing" ] && exit 0; \
	if [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends $$missing; \
	else \
	  echo "error: these Debian packages are missing: $$missing" >&2; \
	  echo "hint: sudo apt-get install --no-install-recommends $$missing" >&2; exit 1; \
	fi

# What some tests need and `make test` can do without: it names each that is missing.
optional:
	@missing=$$(for p in $$(cat optional-packages.txt); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done | tr '\n' ' '); \
	[ -z "$$missing" ] || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends $$missing; }

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock pyproject.toml | system $(BIN)/python
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(PIP) --require-hashes -r requirements-dev.lock
	touch $@

# The one image of all programs. BASE is Debian 12 by a name that the builder finds; EXTRA may be
# "python3-bpfcc libbpfcc" (eBPF); IMAGE_ARGS go to the builder.
IMAGE = ambient-mesh:$(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILDER = $(firstword $(foreach one,podman buildah docker,$(shell command -v $(one))))
BASE = docker.io/library/debian:bookworm-slim
image:
	@[ -n "$(BUILDER)" ] || { echo "error: podman, buildah and docker are missing" >&2; \
	  echo "hint: sudo apt-get install --no-install-recommends buildah" >&2; exit 1; }
	$(BUILDER) build -f Containerfile --build-arg BASE="$(BASE)" --build-arg EXTRA="$(EXTRA)" $(IMAGE_ARGS) -t $(IMAGE) .

proto: $(VENV)/.dev
	$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --python_out=. --mypy_out=quiet:. ambient/api/pb/*.proto
	$(BIN)/python -m grpc_tools.protoc -I. --grpc_python_out=. ambient/api/pb/citadel.proto

chart: $(VENV)/.runtime
	$(BIN)/python -m ambientctl.manifests.chart

dashboards: $(VENV)/.dev
	$(BIN)/python -m manifests.observability.dashboards

# The switch keeps a notice about the generator's next version out of the output.
docs docs-serve: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --quiet
	@echo build/docs/index.html

docs-serve: $(VENV)/.dev
	$(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

reference: $(VENV)/.dev
	$(BIN)/python -m docs.reference

lock: $(VENV)/.dev
	$(PIP) uv
	echo setuptools | $(BIN)/uv pip compile --upgrade --universal --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 pyproject.toml - -o requirements.lock
	echo setuptools | $(BIN)/uv pip compile --upgrade --universal --generate-hashes --no-header --no-annotate \
	  --python-version 3.11 --extra dev -c requirements.lock pyproject.toml - -o requirements-dev.lock

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Elara: `make` lists what there is to make.
#
# PYTHON   the Python 3.11 to build with (default: the first python3.11, else python3, on the path)
# IMAGES   which images `make images` builds and checks (default: all), for example: make images IMAGES="base pytorch"
# TORCH    with conformance: a stock build of PyTorch from pip, for example TORCH=2.14.1
# TESTS    with test: the files or folders to run (default: all); JOBS, how many processes run them (default: 2)
# UP       further options of `elara up`, for example: make up UP="--port 8001 --emulate 1"

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UP ?=
IMAGES ?=
FUZZ ?=
SANITIZE ?=
FILES ?=
JOBS ?= 2
VENV := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help up build images build-test test lint tidy bench demo conformance gpu-check fuzz sanitize clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

up: build ## build what is needed, start everything, print the address (Ctrl-C stops it)
	@exec $(VENV)/elara up $(UP)

build: ## make the environment, the C++ core, the JupyterLab extension and the proxy
	@"$(PYTHON)" setup/install.py

build-test:
	@"$(PYTHON)" setup/install.py --test

test: build-test ## check the style and run every test, in a real browser too
	@$(MAKE) --no-print-directory lint
	@exec $(VENV)/python -m pytest -n $(JOBS) --dist loadscope --no-loadscope-reorder --durations 25 $(TESTS)

lint: build-test ## ruff, mypy (strict), tsc and eslint, clang-format
	@$(VENV)/python setup/lint.py

bench: build-test ## measure attach, detach, workspace starts and a training step, native and remote in one run
	@$(VENV)/python -m benchmarks
	@exec $(VENV)/python -m benchmarks.containers

demo: build ## do the whole journey without a browser on a throw-away instance
	@exec $(VENV)/elara demo

images: build ## build the container images and check them from inside (needs Docker)
	@$(VENV)/elara images build $(IMAGES)
	@$(VENV)/elara images check $(IMAGES)

ifdef TORCH
STOCK := .venv-torch-$(TORCH)/bin/python
conformance:
	@"$(PYTHON)" setup/stock_torch.py "$(TORCH)"
	@$(STOCK) -m tests.remoting.conformance --output build/conformance-$(TORCH)
	@exec $(STOCK) -m pytest -q --confcutdir tests/remoting tests/remoting/stock
else
conformance: build-test ## run PyTorch's own operator tests, and training programs, on a remote device (TORCH=2.14.1: with that stock build)
	@$(VENV)/python -m tests.remoting.conformance
	@exec $(VENV)/python -m tests.remoting.trajectories
endif

gpu-check: ## on a GPU node: build the core for its PyTorch and run the remoting tests on the GPU (PYTHON=python3)
	@exec "$(PYTHON)" -m tests.remoting.gpu

fuzz: build-test ## fuzz what reads the wire for ten minutes (clang); FUZZ="--minutes 60" for longer
	@exec $(VENV)/python -m tests.remoting.fuzz $(FUZZ)

sanitize: build-test ## the remoting suites on a core built with sanitizers (clang); SANITIZE="--only threads" for the threads
	@exec $(VENV)/python -m tests.remoting.sanitize $(SANITIZE)

tidy: build-test ## clang-tidy over the C++ core (half an hour); FILES="remoting/csrc/net/stream.cpp" for a few
	@exec $(VENV)/python setup/tidy.py $(FILES)

clean: ## remove what was built (not elara-data, not the cache in ~/.cache/elara)
	rm -rf .venv .venv-torch-* build remoting/build remoting/elara_remoting/_core/torch_* deploy/proxy/node_modules
	rm -rf extensions/jupyterlab-elara/node_modules extensions/jupyterlab-elara/lib
	rm -rf extensions/jupyterlab-elara/jupyterlab_elara/labextension extensions/jupyterlab-elara/tsconfig.tsbuildinfo
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

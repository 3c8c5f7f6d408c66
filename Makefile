# make setup | demo | test | test-slow | test-all | soak | lint | clean | distclean
# Needs Python 3.10 to 3.13 with venv, a C and C++ compiler and a package index for pip; no ROS from apt, no GPU.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
OUT ?= out/demo
VIDEO ?=
ARGS ?=
PYTEST_ARGS ?=

# A sourced ROS installation, or another environment with ROS wheels, would mix its packages with those of this one.
ifneq ($(AMENT_PREFIX_PATH)$(_ROS_WHEELS_BOOTSTRAP_COMPLETE),)
unexport LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
endif
unexport PYTHONPATH CMAKE_PREFIX_PATH
export AMENT_PREFIX_PATH := $(abspath $(VENV))
export FASTRTPS_DEFAULT_PROFILES_FILE ?= $(abspath config/fastdds_large.xml)
export VENV

.PHONY: setup demo test test-slow test-all soak lint clean distclean

setup: $(STAMPS)/project
	@:

$(STAMPS)/packages: $(wildcard requirements/*.txt)
	@tools/setup.sh packages
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/interfaces: $(STAMPS)/packages $(shell find robust_pvos_interfaces -type f) tools/drop_missing_includes.cmake
	@tools/setup.sh interfaces
	@touch $@

# The environment refers to the source tree: only changed metadata and entry points need another installation.
$(STAMPS)/project: $(STAMPS)/interfaces setup.py setup.cfg
	@tools/setup.sh project
	@touch $@

# VIDEO: a video file or a folder of pictures (default: the rendered street).  OUT: where the results go.
demo: setup
	@ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST $(BIN)/python -m robust_pvos_ros.demo.run \
	  --out '$(OUT)' $(if $(VIDEO),--video '$(VIDEO)') $(ARGS)

test: setup
	@$(BIN)/python -m pytest -m 'not slow' $(PYTEST_ARGS)

$(STAMPS)/engines: $(STAMPS)/packages requirements/engines.txt
	@tools/setup.sh engines
	@touch $@

$(STAMPS)/browser: $(STAMPS)/packages requirements/browser.txt
	@tools/setup.sh browser
	@touch $@

test-slow: setup $(STAMPS)/engines $(STAMPS)/browser
	@$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

test-all: setup $(STAMPS)/engines $(STAMPS)/browser
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# SOAK_SECONDS: how long the load lasts; the faults take a minute more.  OUT gets what was seen.
soak: export SOAK_SECONDS ?= 600
soak: export SOAK_REPORT ?= $(abspath $(OUT))/soak.json
soak: setup
	@mkdir -p '$(OUT)' && rm -f "$$SOAK_REPORT"
	@$(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

lint: setup
	@failed=0; $(BIN)/ruff check . || failed=1; $(BIN)/mypy || failed=1; exit $$failed

clean:
	rm -rf build install log .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

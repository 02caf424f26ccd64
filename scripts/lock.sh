#!/usr/bin/env bash
# Resolves pyproject.toml into requirements.lock and requirements-train.lock, without addresses or paths of this machine.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || scripts/venv.sh requirements.lock .venv/.installed
.venv/bin/python -m pip install --quiet pip-tools==7.6.2

compile() {
    .venv/bin/python -m piptools compile --quiet --strip-extras --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
        --annotation-style=line --extra test --extra tools "$@" pyproject.toml
}

# With the hashes of every file: what is installed on a node is what was locked.
compile --generate-hashes --output-file requirements.lock
compile --output-file requirements-train.lock --extra train --extra openvino --constraint requirements.lock
# A local version label (a CPU build of torch) belongs to the machine that resolved, not to the lock.
sed -i -E 's/==([^ +]+)\+[^ ]+/==\1/; s/, -c requirements.lock//; s/-c requirements.lock, //' requirements-train.lock

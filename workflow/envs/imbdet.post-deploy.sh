#!/usr/bin/env bash
# Snakemake runs this in the new environment, in the project's root.
set -euo pipefail
python -m pip install --require-hashes -r requirements.lock
python -m pip install --no-deps --no-build-isolation -e .

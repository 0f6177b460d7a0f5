"""Modules of the pipeline's tests are used here as well."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))

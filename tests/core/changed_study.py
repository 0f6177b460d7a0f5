"""The tiny study with some of its values changed, read from a file."""

from pathlib import Path

import pytest
import yaml
from studies import with_two_stages

from imbdet.study_file import load_study

REFUSED_WELL = pytest.mark.promise(
    "A study's file that is wrong is refused, with file, key, value and what is allowed", "bad input"
)
TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"


def load_text(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_study(path)


def load_changed(tmp_path, change):
    """The tiny study, with a second detector, after ``change(raw)``."""
    raw = with_two_stages(yaml.safe_load(TINY.read_text()))
    change(raw)
    return load_text(tmp_path, yaml.safe_dump(raw, sort_keys=False))


def set_at(path, value):
    def change(raw):
        *parents, last = path
        for key in parents:
            raw = raw[key]
        raw[last] = value

    return change


def without(path):
    def change(raw):
        *parents, last = path
        for key in parents:
            raw = raw[key]
        del raw[last]

    return change

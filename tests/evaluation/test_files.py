"""Atomic writes: whole or absent, and equal bytes for equal content."""

import json
import os
import zipfile

import numpy as np
import pytest
from promises import refused

from imbdet.files import write_bytes, write_json, write_npz, write_text


def test_missing_folders_are_made_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "ä\r\nb\n")
    assert path.read_bytes() == "ä\r\nb\n".encode()
    assert os.listdir(path.parent) == ["note.txt"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, failing):
    path = tmp_path / "record.json"
    write_text(path, "old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, failing, fail)
    with refused(r"record\.json could not be written: disk full; it needs 3 bytes"):
        write_bytes(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_json_does_not_depend_on_the_order_of_keys_and_keeps_every_digit(tmp_path):
    write_json(tmp_path / "a.json", {"x": 0.1 + 0.2, "y": None})
    write_json(tmp_path / "b.json", {"y": None, "x": 0.1 + 0.2})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text())["x"] == 0.1 + 0.2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_it_cannot_say(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": value})
    assert not os.listdir(tmp_path)


def test_equal_arrays_give_equal_bytes_at_any_time(tmp_path):
    array = np.random.default_rng(0).normal(size=(100, 4))
    write_npz(tmp_path / "a.npz", box=array)
    write_npz(tmp_path / "b.npz", box=np.asfortranarray(array))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}, "no clock in the bytes"
    with np.load(tmp_path / "a.npz") as loaded:
        np.testing.assert_array_equal(loaded["box"], array)

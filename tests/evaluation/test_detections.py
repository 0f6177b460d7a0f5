"""Detections: round trip, equal bytes, and damaged files named."""

import numpy as np
import pytest

from imbdet.errors import UserError
from imbdet.evaluation.detections import Detections
from imbdet.files import write_npz


def arrays(count=3):
    rng = np.random.default_rng(count)
    return {
        "image_id": rng.integers(0, 2**40, count),
        "category_id": rng.integers(1, 91, count),
        "bbox": rng.uniform(0, 100, (count, 4)).astype(np.float32),
        "score": rng.random(count).astype(np.float32),
    }


def assert_same(a, b):
    for name in arrays():
        assert getattr(a, name).dtype == getattr(b, name).dtype
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.fixture
def annotations(tmp_path):
    """Any file will do: what counts is whether it is the same."""
    path = tmp_path / "instances_val.json"
    path.write_text("{}")
    return path


@pytest.mark.parametrize("count", [0, 1, 50])
def test_what_is_saved_is_loaded_and_gives_the_same_bytes(tmp_path, annotations, count):
    detections = Detections(**arrays(count))
    detections.save(tmp_path / "a.npz", annotations)
    loaded = Detections.load(tmp_path / "a.npz", annotations)
    assert_same(loaded, detections)
    loaded.save(tmp_path / "b.npz", annotations)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_concatenation_keeps_order_and_nothing_gives_nothing():
    whole = Detections(**arrays(9))
    parts = [whole.select(np.arange(0, 4)), whole.select(np.arange(4, 4)), whole.select(np.arange(4, 9))]
    assert_same(Detections.concatenate(parts), whole)
    nothing = Detections.concatenate([])
    assert len(nothing) == 0
    assert_same(Detections.concatenate([nothing, whole]), whole)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("bbox", np.zeros((3, 5), np.float32), r"bbox must be \[3, 4\] float32"),
        ("score", np.zeros(2, np.float32), r"score must be \[3\] float32"),
        ("score", np.zeros(3), "got .* float64"),
        ("score", np.array([0, np.nan, 0], np.float32), "score of detection 1 is nan"),
        ("bbox", np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, np.inf, 1]], np.float32), "bbox of detection 2"),
        ("bbox", np.array([[0, 0, 1, 1], [0, 0, -1, 1], [0, 0, 1, 1]], np.float32), "detection 1 .* negative"),
    ],
)
def test_wrong_arrays_are_refused_in_memory_and_on_disk(tmp_path, annotations, name, wrong, message):
    with pytest.raises(ValueError, match=message):
        Detections(**arrays() | {name: wrong})
    write_npz(tmp_path / "d.npz", **arrays() | {name: wrong}, annotations=np.zeros(32, np.uint8))
    with pytest.raises(UserError, match=rf"d\.npz .*{message}.*`detect`"):
        Detections.load(tmp_path / "d.npz", annotations)


def test_a_missing_file_names_the_command(tmp_path, annotations):
    with pytest.raises(UserError, match=r"no detections at .*gone\.npz.*`detect`"):
        Detections.load(tmp_path / "gone.npz", annotations)


def test_a_missing_array_is_named(tmp_path, annotations):
    write_npz(tmp_path / "d.npz", **{k: v for k, v in arrays().items() if k != "score"})
    with pytest.raises(UserError, match=r"score.*expected the arrays image_id, category_id, bbox, score, annotations"):
        Detections.load(tmp_path / "d.npz", annotations)


def test_damaged_files_are_refused(tmp_path, annotations):
    path = tmp_path / "d.npz"
    Detections(**arrays(200)).save(path, annotations)
    whole = path.read_bytes()
    flipped = whole[:400] + bytes(b ^ 255 for b in whole[400:420]) + whole[420:]
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2], flipped):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"d\.npz is not a whole file"):
            Detections.load(path, annotations)


def test_detections_of_other_annotations_are_refused(tmp_path, annotations):
    path = tmp_path / "d.npz"
    Detections(**arrays()).save(path, annotations)
    annotations.write_text("{ }")
    with pytest.raises(UserError, match=r"d\.npz holds detections of other data than .*instances_val\.json.*`detect`"):
        Detections.load(path, annotations)

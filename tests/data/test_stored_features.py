"""Stored features are those of the frozen backbone, and no others are ever read."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imbdet.config import Study
from imbdet.data import stored_features
from imbdet.data.loader import EvaluationBatches, Split, TrainingBatches
from imbdet.data.prepare import prepare
from imbdet.detectors import store_features
from imbdet.detectors.backbones import build_backbone
from imbdet.errors import UserError
from imbdet.evaluation.detect import load_trained
from imbdet.layout import Layout
from imbdet.settings import Backbone
from imbdet.training.run import run as train

CE = "ce"
NAME = "retinanet"
Stored = Callable[..., tuple[Study, Layout]]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of a small network, as if it had been trained."""
    torch.manual_seed(11)
    body = build_backbone(Backbone(name="tiny", weights="none", frozen="none"), (2, 5), "none", 8).body
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    path = tmp_path / "weights.pth"
    torch.save(body.state_dict(), path)
    return path


@pytest.fixture
def prepared(make_study: Callable[..., Study], weights: Path) -> Stored:
    """Make a study with a frozen backbone whose data are prepared."""

    def make(stored: str = "fp32", **changes: Any) -> tuple[Study, Layout]:
        backbone = {"name": "tiny", "weights": str(weights), "frozen": "all", "stored": stored}
        detector = {"backbone": backbone} | changes.pop("detector", {})
        study = make_study(detectors={NAME: detector}, **changes)
        prepare(study, Layout.of(study))
        return study, Layout.of(study)

    return make


@pytest.fixture
def stored(prepared: Stored) -> Stored:
    """The same with stored features."""

    def make(*args: Any, **changes: Any) -> tuple[Study, Layout]:
        study, layout = prepared(*args, **changes)
        store_features.run(study, layout, NAME)
        return study, layout

    return make


def folder_of(study: Study, layout: Layout) -> Path:
    return layout.features(study.detectors[NAME].features)


def arrays(folder: Path) -> dict[str, Any]:
    return {path.name: np.load(path) for path in sorted(folder.glob("*.npy"))}


def trained(study: Study, layout: Layout) -> dict[str, torch.Tensor]:
    train(study, layout, CE)
    weights: dict[str, torch.Tensor] = torch.load(layout.weights(CE), weights_only=True)
    return weights


@pytest.mark.promise("trains on features stored of a frozen backbone as through the backbone", "law")
def test_training_on_stored_features_is_training_through_the_frozen_backbone(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, layout = stored()
    on_features = trained(study, layout)
    monkeypatch.setattr(Split, "with_features", Split)
    through_backbone = trained(study, layout)
    assert all(torch.equal(value, through_backbone[name]) for name, value in on_features.items())


def test_a_detector_reads_stored_features_as_it_reads_pixels(stored: Stored) -> None:
    """Up to rounding, which the layout of the pixels in memory changes."""
    study, layout = stored()
    train(study, layout, CE)
    model, _ = load_trained(study, layout, CE)
    pixels = Split(study.detectors[NAME], layout, "val")
    for index, batch in enumerate(EvaluationBatches(study, layout, CE, "val")):
        images = range(2 * index, 2 * index + len(batch))
        with torch.no_grad():
            found, expected = model.predict(batch), model.predict(pixels.batch(images, [False] * len(images), None))
        assert batch.images.is_meta
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_every_image_has_its_own_features_and_those_of_its_mirror_image(stored: Stored) -> None:
    study, layout = stored()
    model, _ = detector(study, layout)
    for name, orientations in (("train", 2), ("val", 1)):
        split = Split(study.detectors[NAME], layout, name)
        read = stored_features.StoredFeatures(study.detectors[NAME], layout, name)
        for index in range(len(split)):
            for mirrored in range(orientations):
                batch = split.batch([index], [bool(mirrored)], None)
                with torch.no_grad():
                    expected = model.backbone_levels(batch)
                for level, other in zip(read.read(np.array([index]), [bool(mirrored)]), expected, strict=True):
                    torch.testing.assert_close(level, other)


def detector(study: Study, layout: Layout) -> Any:
    from imbdet.training.build import initial_model

    return initial_model(study, layout, CE).eval().to(memory_format=torch.channels_last), None


def test_half_precision_rounds_once_and_halves_the_size(stored: Stored) -> None:
    study, layout = stored("fp32")
    single = arrays(folder_of(study, layout))
    study, layout = stored("fp16")
    half = arrays(folder_of(study, layout))
    assert single.keys() == half.keys() == {f"{s}-c{k}.npy" for s in ("train", "val") for k in (3, 4, 5)}
    for name, values in half.items():
        assert values.dtype == np.float16
        assert np.array_equal(values, single[name].astype(np.float16))
    record = json.loads(layout.features_record(NAME).read_text())
    assert record["bytes"] == sum(values.nbytes for values in half.values())


def test_workers_change_nothing(stored: Stored) -> None:
    study, layout = stored()
    alone = [batch.features for batch in TrainingBatches(study, layout, CE).iterate()]
    study = study.model_copy(update={"train": study.train.model_copy(update={"workers": 2})})
    helped = [batch.features for batch in TrainingBatches(study, layout, CE).iterate()]
    for one, other in zip(alone, helped, strict=True):
        assert one is not None
        assert other is not None
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


class Killed(Exception):
    pass


def killed_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the computation end at its ``batches``-th batch; the list counts those that are computed."""
    original, seen = Split.batch, list[int]()

    def batch(self: Split, *args: Any) -> Any:
        seen.append(len(seen))
        if len(seen) > batches:
            raise Killed
        return original(self, *args)

    monkeypatch.setattr(Split, "batch", batch)
    return seen


@pytest.mark.promise("goes on with features where a killed run stopped", "kill")
def test_a_killed_run_goes_on_where_it_was(prepared: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_features, "BATCH", 2)
    monkeypatch.setattr(store_features, "EVERY", 1)
    study, layout = prepared()
    folder = folder_of(study, layout)
    with monkeypatch.context() as patched:
        killed_after(5, patched)  # 10 training images in pairs, each twice
        with pytest.raises(Killed):
            store_features.run(study, layout, NAME)
    assert stored_features.read_manifest(folder) is None
    with pytest.raises(UserError, match="has no stored features; run `python -m imbdet features`"):
        TrainingBatches(study, layout, CE)
    with monkeypatch.context() as patched:
        seen = killed_after(100, patched)
        store_features.run(study, layout, NAME)
    assert len(seen) == 6 + 3  # of 10 batches of training images 4 were done, and 3 of images to validate on
    resumed = arrays(folder)
    for path in folder.iterdir():
        path.unlink()
    store_features.run(study, layout, NAME)
    assert all(np.array_equal(values, resumed[name]) for name, values in arrays(folder).items())


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip_a_bit, cut, Path.unlink])
@pytest.mark.promise("never reads damaged features", "fault")
def test_damaged_features_are_noticed_and_made_again(stored: Stored, damage: Callable[[Path], None]) -> None:
    study, layout = stored()
    folder = folder_of(study, layout)
    before = arrays(folder)
    damage(folder / "train-c4.npy")
    with pytest.raises(UserError, match=r"train-c4.npy in .* are not what was written there; run"):
        TrainingBatches(study, layout, CE)
    store_features.run(study, layout, NAME)
    assert all(np.array_equal(values, before[name]) for name, values in arrays(folder).items())


def test_features_of_other_images_are_never_read(stored: Stored, data: dict[str, Any]) -> None:
    study, layout = stored()
    before = arrays(folder_of(study, layout))
    other, layout = _of_other_images(study, layout)
    with pytest.raises(UserError, match=r"holds features of other settings or images \(other images\)"):
        TrainingBatches(other, layout, CE)
    store_features.run(other, layout, NAME)
    assert not np.array_equal(arrays(folder_of(other, layout))["val-c3.npy"], before["val-c3.npy"])
    TrainingBatches(other, layout, CE)


def _of_other_images(study: Study, layout: Layout) -> tuple[Study, Layout]:
    other = study.model_copy(update={"data": study.data.model_copy(update={"seed": 9})})
    prepare(other, layout)
    return other, layout


def test_features_of_other_weights_are_never_read(stored: Stored, weights: Path) -> None:
    study, layout = stored()
    content = torch.load(weights, weights_only=True)
    content["layer2.0.0.weight"][0, 0, 0, 0] += 1
    torch.save(content, weights)
    with pytest.raises(UserError, match="holds features of a backbone with other weights"):
        train(study, layout, CE)
    store_features.run(study, layout, NAME)
    train(study, layout, CE)


def test_what_is_there_is_not_computed_again(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    study, layout = stored()
    seen = killed_after(0, monkeypatch)
    layout.features_record(NAME).unlink()
    store_features.run(study, layout, NAME)
    assert not seen
    assert layout.features_record(NAME).is_file()


@pytest.mark.parametrize("change", [{"short_side": 32}, {"levels": [4, 5], "anchors": {"sizes": [[16], [32]]}}])
def test_detectors_share_features_where_they_read_the_same(prepared: Stored, change: dict[str, Any]) -> None:
    study, _ = prepared()
    changed, _ = prepared(detector=change)
    wider, _ = prepared(detector={"fpn_channels": 16, "crowd": "drop"})
    key = study.detectors[NAME].features
    assert wider.detectors[NAME].features == key
    assert changed.detectors[NAME].features != key


def test_a_full_disk_is_found_before_anything_is_computed(prepared: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    study, layout = prepared()
    seen = killed_after(0, monkeypatch)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = r"has no room for the features: they need 0.00 GB and .* GB are free \(.*[Nn]o space left.*\). Make room"
    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        with pytest.raises(UserError, match=message):
            store_features.run(study, layout, NAME)
    usage = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patched:
        patched.setattr("shutil.disk_usage", lambda path: usage)
        with pytest.raises(UserError, match=message):
            store_features.run(study, layout, NAME)
    assert not seen
    assert not list(folder_of(study, layout).glob("*.npy"))


def test_two_processes_do_not_write_the_same(stored: Stored) -> None:
    study, layout = stored()
    with (
        store_features._locked(folder_of(study, layout)),
        pytest.raises(UserError, match="another process is computing features"),
    ):
        store_features.run(study, layout, NAME)


def test_a_backbone_that_is_trained_has_nothing_to_store(make_study: Callable[..., Study]) -> None:
    study = make_study()
    prepare(study, Layout.of(study))
    with pytest.raises(UserError, match=r"backbone.frozen is none: features that training changes cannot be stored"):
        store_features.run(study, Layout.of(study), NAME)
    with pytest.raises(UserError, match="no detector 'retina'; did you mean 'retinanet'"):
        store_features.run(study, Layout.of(study), "retina")


def test_features_fill_the_canvas_of_the_largest_image(prepared: Stored) -> None:
    study, layout = prepared()
    assert Split(study.detectors[NAME], layout, "train").canvas == (64, 64)

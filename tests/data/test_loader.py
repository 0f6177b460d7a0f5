"""Batches: functions of the seed and the step alone, whatever process reads them; boxes that stay on their pixels."""

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from promises import refused
from studies import merged, with_two_stages

from imbdet.config import Study
from imbdet.data.batch import Batch
from imbdet.data.loader import EvaluationBatches, Sample, Split, TrainingBatches, collate
from imbdet.data.prepare import prepare
from imbdet.data.transforms import decode, fitted_size, flip, resize
from imbdet.errors import UserError
from imbdet.layout import Layout

MakeStudy = Callable[..., Study]
EXPERIMENT = "ce"


@pytest.fixture
def ready(make_study: MakeStudy) -> Callable[..., tuple[Study, Layout]]:
    """Make a study whose data are prepared: ``ready(source, **changes)``."""

    def make(*args: Any, **changes: Any) -> tuple[Study, Layout]:
        study = make_study(*args, **changes)
        prepare(study, Layout.of(study))
        return study, Layout.of(study)

    return make


Ready = Callable[..., tuple[Study, Layout]]


def same(a: Batch, b: Batch) -> bool:
    tensors = (f.name for f in fields(Batch) if f.name not in ("seed", "features"))
    return a.seed == b.seed and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)


def training(ready: Ready, *args: Any, start: int = 0, **changes: Any) -> list[Batch]:
    return list(TrainingBatches(*ready(*args, **changes), EXPERIMENT).iterate(start))


def test_a_batch_is_a_function_of_seed_and_step(ready: Ready) -> None:
    batches = training(ready)
    assert len(batches) == 8
    assert all(len(batch) == 4 for batch in batches)
    again = training(ready, start=3)
    assert all(same(a, b) for a, b in zip(batches[3:], again, strict=True))
    other = training(ready, seed=2)
    assert not all(torch.equal(a.image_ids, b.image_ids) for a, b in zip(batches, other, strict=True))


def test_workers_change_nothing(ready: Ready) -> None:
    alone, helped = training(ready), training(ready, train={"workers": 2})
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    study, layout = ready(train={"workers": 2})
    assert same(next(iter(EvaluationBatches(study, layout, EXPERIMENT, "val"))), next(iter(validation(ready))))


def validation(ready: Ready, *args: Any, **changes: Any) -> EvaluationBatches:
    return EvaluationBatches(*ready(*args, **changes), EXPERIMENT, "val")


@pytest.mark.parametrize("workers", [0, 2])
def test_no_global_generator_is_drawn_from(ready: Ready, workers: int) -> None:
    study, layout = ready(train={"workers": workers})
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    first = list(TrainingBatches(study, layout, EXPERIMENT).iterate(5))
    list(EvaluationBatches(study, layout, EXPERIMENT, "val"))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), str(np.random.get_state())) == before[1:]  # noqa: NPY002
    torch.manual_seed(99)
    assert all(same(a, b) for a, b in zip(first, TrainingBatches(study, layout, EXPERIMENT).iterate(5), strict=True))


def test_every_step_and_process_draws_from_a_seed_of_its_own(ready: Ready) -> None:
    batches = training(ready)
    seeds = {
        *(batch.seed for batch in batches),
        *(batch.seed for batch in training(ready, seed=2)),
        *(batch.seed for batch in validation(ready)),
        *(batch.seed for batch in TrainingBatches(*ready(), EXPERIMENT, 1, 2).iterate()),
    }
    assert len(seeds) == 3 * 8 + 3
    assert all(0 <= seed < 2**63 for seed in seeds if seed is not None)
    assert [batch.seed for batch in validation(ready)] == [batch.seed for batch in validation(ready)]
    first, again, other = (batch.generator(torch.device("cpu")) for batch in (batches[0], batches[0], batches[1]))
    drawn = [torch.rand(5, generator=generator) for generator in (first, again, other)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_a_batch_keeps_its_seed_wherever_it_goes() -> None:
    batch = collate([no_boxes()], 8, seed=7)
    assert batch.to("meta").seed == 7
    assert batch.to("meta").images.device.type == "meta"
    assert collate([no_boxes()], 8).generator(torch.device("cpu")) is None


def test_every_epoch_holds_every_image_once_in_an_order_of_its_own(ready: Ready) -> None:
    study, layout = ready()
    batches = TrainingBatches(study, layout, EXPERIMENT)
    stream = np.concatenate([batches.batch_ids(step) for step in range(20)])  # 80 images: 8 epochs of 10
    epochs = stream.reshape(8, 10)
    assert (np.sort(epochs, axis=1) == np.arange(1, 11)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_batch_ids_announce_the_batches(ready: Ready) -> None:
    batches = TrainingBatches(*ready(), EXPERIMENT)
    for step, batch in enumerate(batches.iterate(2), start=2):
        assert batch.image_ids.tolist() == batches.batch_ids(step).tolist()


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_processes_of_a_run_share_its_batches(ready: Ready, world_size: int) -> None:
    study, layout = ready()
    whole = list(TrainingBatches(study, layout, EXPERIMENT).iterate())
    shares = [
        list(TrainingBatches(study, layout, EXPERIMENT, rank, world_size).iterate()) for rank in range(world_size)
    ]
    for step, batch in enumerate(whole):
        for rank in range(world_size):
            share = shares[rank][step]
            assert torch.equal(share.images, batch.images[rank::world_size])
            assert torch.equal(share.image_ids, batch.image_ids[rank::world_size])
            mine = (batch.gt_images % world_size) == rank
            assert torch.equal(share.gt_boxes, batch.gt_boxes[mine])
            assert torch.equal(share.gt_images, batch.gt_images[mine] // world_size)


def test_a_batch_that_cannot_be_shared_evenly_is_refused(ready: Ready) -> None:
    with pytest.raises(UserError, match=r"train.batch_size is 4: no multiple of the 3 processes"):
        TrainingBatches(*ready(), EXPERIMENT, 0, 3)


def test_flips_happen_at_their_rate_and_do_not_depend_on_the_batch(ready: Ready) -> None:
    study, layout = ready(train={"steps": 100})
    pairs = {}
    for size in (4, 2):
        batches = TrainingBatches(
            study.model_copy(update={"train": study.train.model_copy(update={"batch_size": size})}), layout, EXPERIMENT
        )
        draws = [batches._draw(step) for step in range(400 // size)]
        pairs[size] = [(int(i), m) for draw in draws for i, m in zip(draw.images, draw.mirrored, strict=True)]
    assert pairs[4] == pairs[2]
    assert abs(np.mean([mirrored for _, mirrored in pairs[4]]) - 0.5) < 4 * 0.5 / 20
    assert len({m for i, m in pairs[4] if i == 0}) == 2  # an image is flipped in some epochs only


@pytest.mark.parametrize(("rate", "mirrored"), [(0.0, False), (1.0, True)])
def test_never_and_always_flipping(ready: Ready, rate: float, mirrored: bool) -> None:
    study, layout = ready(train={"flip": rate})
    for batch in TrainingBatches(study, layout, EXPERIMENT).iterate():
        for image, image_id in zip(batch.images, batch.image_ids.tolist(), strict=True):
            pixels = decode(layout.images("train") / f"{image_id:06d}.bmp")
            assert torch.equal(image[:, :48, :48], pixels.flip(2) if mirrored else pixels)


def test_evaluation_reads_every_image_once_as_it_is_and_in_order(ready: Ready) -> None:
    batches = validation(ready, train={"flip": 1.0})
    seen = list(batches)
    assert len(batches) == len(seen) == 3
    assert torch.cat([batch.image_ids for batch in seen]).tolist() == [1, 2, 3, 4, 5]
    images = torch.cat([batch.images for batch in seen])
    for image, image_id in zip(images, range(1, 6), strict=True):
        assert torch.equal(image[:, :48, :48], decode(Path(f"data/val/{image_id:06d}.bmp")))
    assert torch.equal(torch.cat([batch.images for batch in batches]), images)


def test_batches_hold_what_the_annotations_say(ready: Ready) -> None:
    batches = validation(ready)
    objects = batches.split.annotations.objects
    first = 0
    for batch in batches:
        for i in range(len(batch)):
            rows = objects.rows(first + i)
            assert torch.equal(batch.gt_boxes[batch.gt_images == i], torch.from_numpy(objects.boxes[rows]))
            assert torch.equal(batch.gt_labels[batch.gt_images == i], torch.from_numpy(objects.labels[rows]))
        first += len(batch)
    assert batches.categories.names == ("disc", "triangle", "square", "cross")
    counts = np.diff(objects.starts)
    assert counts.min() == 0  # an image without a box is kept
    assert first == len(counts)


def coco_format(folder: Path) -> dict[str, str]:
    return {"source": "coco_format", "folder": "data", "path": str(folder)}


@pytest.mark.parametrize("crowd", ["ignore", "drop"])
def test_crowd_regions_are_ignored_or_dropped(ready: Ready, coco_folder: Path, crowd: str) -> None:
    detector = {"short_side": 80, "long_side": 120, "crowd": crowd}
    changes = {"detectors": {"retinanet": detector}, "train": {"flip": 1.0}}
    batch = next(TrainingBatches(*ready(coco_format(coco_folder), **changes), EXPERIMENT).iterate())
    where = (batch.image_ids == 11).nonzero()[0].item()
    assert batch.scales[where].tolist() == [2, 2]
    assert batch.gt_boxes[batch.gt_images == where].tolist() == [[97, 4, 117, 44], [19.5, 20, 80, 38]]
    assert batch.gt_labels[batch.gt_images == where].tolist() == [1, 1]
    regions = [[20, 0, 60, 40]] if crowd == "ignore" else []
    assert batch.ignore_boxes[batch.ignore_images == where].tolist() == regions


def test_each_experiment_reads_the_images_as_its_detector_asks(make_study: MakeStudy, coco_folder: Path) -> None:
    settings = {
        "retinanet": {"short_side": 80, "long_side": 120, "crowd": "ignore"},
        "faster_rcnn": {"short_side": 40, "long_side": 100, "crowd": "drop"},
    }
    raw = with_two_stages(make_study(coco_format(coco_folder), evaluate={"batch_size": 3}).model_dump())
    study = Study.model_validate(merged(raw, {"detectors": settings}))
    layout = Layout.of(study)
    prepare(study, layout)
    (one,), (two,) = (EvaluationBatches(study, layout, name, "train") for name in ("ce", "two-stage"))
    assert one.sizes.tolist() == [[120, 72], [80, 80], [80, 120]]
    assert two.sizes.tolist() == [[67, 40], [40, 40], [40, 60]]
    assert one.images.shape[2:] == (128, 128)
    assert two.images.shape[2:] == (96, 64)
    assert one.ignore_images.tolist() == [2]
    assert two.ignore_images.tolist() == []
    train = [TrainingBatches(study, layout, name) for name in ("ce", "two-stage")]
    assert train[0].batch_ids(3).tolist() == train[1].batch_ids(3).tolist()
    assert [next(batches.iterate()).images.shape[3] for batches in train] == [128, 64]


@pytest.mark.parametrize("crowd", ["ignore", "drop"])
def test_an_outline_is_a_sample_without_pixels(ready: Ready, coco_folder: Path, crowd: Any) -> None:
    study, layout = ready(coco_format(coco_folder), detectors={"retinanet": {"crowd": crowd}})
    split = Split(study.detector(EXPERIMENT), layout, "train")
    samples = [split.sample(i, mirrored=False) for i in range(len(split))]
    shutil.rmtree(layout.images("train"))  # not looked at
    outlines = [split.outline(i) for i in range(len(split))]
    for sample, outline in zip(samples, outlines, strict=True):
        assert (outline.image.shape, outline.image.dtype) == (sample.image.shape, torch.uint8)
        assert outline.image.is_meta
        assert outline.image_id == sample.image_id
        for name in ("scale", "boxes", "labels", "ignore"):
            assert torch.equal(getattr(outline, name), getattr(sample, name)), name
    assert any(len(outline.ignore) for outline in outlines) == (crowd == "ignore")
    batch, without = collate(samples, split.stride), collate(outlines, split.stride)
    assert without.images.is_meta
    assert without.images.shape == batch.images.shape
    assert same(replace(without, images=batch.images), batch)


def test_the_truth_of_a_batch_is_its_boxes_without_the_images(ready: Ready, coco_folder: Path) -> None:
    study, layout = ready(coco_format(coco_folder), evaluate={"batch_size": 3})
    (batch,) = EvaluationBatches(study, layout, EXPERIMENT, "train")
    truth = batch.truth
    assert (truth.boxes, truth.labels, truth.images) == (batch.gt_boxes, batch.gt_labels, batch.gt_images)
    assert (truth.ignore_boxes, truth.ignore_images) == (batch.ignore_boxes, batch.ignore_images)
    assert truth.num_images == 3
    assert len(truth.ignore_boxes) == 1


def test_images_of_several_sizes_are_padded_to_the_stride(ready: Ready, coco_folder: Path) -> None:
    study, layout = ready(coco_format(coco_folder), evaluate={"batch_size": 3})
    (batch,) = EvaluationBatches(study, layout, EXPERIMENT, "train")
    assert batch.image_ids.tolist() == [5, 8, 11]
    assert batch.sizes.tolist() == [[64, 38], [48, 48], [43, 64]]
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.dtype == torch.uint8
    for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True):
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()
        assert image[:, :height, :width].any()
    assert batch.gt_boxes[0].tolist() == pytest.approx([0, 0, 38, 64])  # image 5's box is all of it
    assert torch.allclose(batch.scales, torch.tensor([[38 / 30, 64 / 50], [2.4, 2.4], [64 / 60, 43 / 40]]))


@pytest.mark.promise("An image that is damaged or lost after the validation is named when it is loaded", "fault")
def test_a_damaged_image_is_named(ready: Ready, record_property: Callable[[str, int], None]) -> None:
    record_property("count", 3)
    study, layout = ready(train={"workers": 2})
    path = layout.images("train") / "000002.bmp"
    path.write_bytes(path.read_bytes()[:500])
    for workers in (0, 2):
        changed = study.model_copy(update={"train": study.train.model_copy(update={"workers": workers})})
        with refused(r"^image data/train/000002.bmp cannot be read .*imbdet data` with .*what to restore$"):
            list(TrainingBatches(changed, layout, EXPERIMENT).iterate())
    path.unlink()
    with refused(r"^image data/train/000002.bmp is missing; run"):
        list(TrainingBatches(study, layout, EXPERIMENT).iterate())


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 1000), st.integers(0, 1000))
def test_the_short_side_fits_unless_the_long_side_would_not(height: int, width: int, short: int, more: int) -> None:
    new = fitted_size(height, width, short, short + more)
    assert min(new) <= short
    assert max(new) <= short + more
    assert min(new) == short or max(new) == short + more
    scale = max(new) / max(height, width)
    assert abs(min(new) - max(1, scale * min(height, width))) <= 1  # the sides keep their ratio, up to rounding


@given(st.integers(10, 40), st.integers(10, 40), st.data())
def test_boxes_stay_on_their_pixels(height: int, width: int, data: st.DataObject) -> None:
    """A bright rectangle is where its box is, after resizing to three times its size and mirroring."""
    x, y = data.draw(st.integers(0, width - 4)), data.draw(st.integers(0, height - 4))
    right, bottom = data.draw(st.integers(x + 3, width)), data.draw(st.integers(y + 3, height))
    image = torch.zeros((3, height, width), dtype=torch.uint8)
    image[:, y:bottom, x:right] = 255
    larger = resize(image, 3 * height, 3 * width)
    mirrored, boxes = flip(larger, 3.0 * torch.tensor([[x, y, right, bottom]], dtype=torch.float32))
    bright = (mirrored[0] > 127).nonzero()
    extent = torch.cat([bright.amin(dim=0).flip(0), bright.amax(dim=0).flip(0) + 1])
    assert torch.equal(extent.float(), boxes[0])
    again, back = flip(mirrored, boxes)
    assert torch.equal(again, larger)
    assert back.tolist() == [[3 * x, 3 * y, 3 * right, 3 * bottom]]


def test_resizing_smaller_averages_what_it_covers() -> None:
    """Without anti-aliasing every second line would be lost, and the grey with it."""
    lines = torch.zeros((3, 63, 63), dtype=torch.uint8)
    lines[:, ::2] = 254
    assert (resize(lines, 21, 21).float() - 127).abs().max() <= 32


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tif" if mode in ("CMYK", "YCbCr") else "image.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    pixels = decode(path)
    assert pixels.shape == (3, 4, 6)
    assert pixels.dtype == torch.uint8
    assert (pixels >= 254).all()


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16)
    Image.fromarray(257 * levels.reshape(16, 16)).save(tmp_path / "deep.png")
    assert decode(tmp_path / "deep.png").flatten(1).tolist() == [levels.tolist()] * 3


def no_boxes() -> Sample:
    nothing = torch.zeros((0, 4))
    return Sample(torch.ones((3, 5, 7), dtype=torch.uint8), torch.ones(2), 4, nothing, torch.zeros(0).long(), nothing)


def test_an_empty_batch_of_boxes_keeps_its_shapes() -> None:
    batch = collate([no_boxes(), no_boxes()], 8)
    assert batch.images.shape == (2, 3, 8, 8)
    assert batch.images.sum() == 2 * 3 * 5 * 7
    assert (batch.gt_boxes.shape, batch.gt_labels.shape, batch.gt_images.shape) == ((0, 4), (0,), (0,))
    assert (batch.gt_boxes.dtype, batch.gt_labels.dtype, batch.gt_images.dtype) == (
        torch.float32,
        torch.int64,
        torch.int64,
    )


NAN, INF = float("nan"), float("inf")


def test_a_sample_has_a_label_for_each_box() -> None:
    """Joined with those of other images, its boxes would get their labels, or theirs its."""
    two = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 5.0, 5.0]])
    for labels in (torch.tensor([0]), torch.tensor([0, 1, 1]), torch.tensor([[0], [1]])):
        with pytest.raises(ValueError, match=f"image 4: 2 boxes and {len(labels)} labels"):
            replace(no_boxes(), boxes=two, labels=labels)
    with pytest.raises(ValueError, match="image 4: 0 boxes and 1 labels"):
        replace(no_boxes(), labels=torch.tensor([0]))


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_sample_has_finite_boxes(value: float) -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, value, 5.0, 5.0]])
    with pytest.raises(ValueError, match=r"image 4, box 1: \[1\.0, .*(nan|inf).*, expected finite"):
        replace(no_boxes(), boxes=boxes, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"image 4, region to ignore 1: .*(nan|inf).*, expected finite"):
        replace(no_boxes(), ignore=boxes)


@pytest.mark.parametrize("corners", [[4.0, 0.0, 0.0, 4.0], [0.0, 4.0, 4.0, 0.0], [9.0, 9.0, 4.0, 4.0]])
def test_a_sample_has_boxes_of_no_negative_size(corners: list[float]) -> None:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], corners])
    with pytest.raises(ValueError, match=rf"image 4, box 1: {re.escape(str(corners))}, expected .* x1 <= x2"):
        replace(no_boxes(), boxes=boxes, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=rf"image 4, region to ignore 1: {re.escape(str(corners))}, expected"):
        replace(no_boxes(), ignore=boxes)

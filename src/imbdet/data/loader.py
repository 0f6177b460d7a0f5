"""Batches addressable by step: every order and flip is a function of the seed, the epoch and the image.

A resume therefore needs the step alone, the number of workers changes nothing, and no batch draws from PyTorch's
global generator (``DataLoader`` does, unless given its own).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imbdet.config import Study
from imbdet.data.batch import Batch
from imbdet.data.coco import Categories
from imbdet.data.facts import read_prepared
from imbdet.data.stored_features import StoredFeatures
from imbdet.data.table import Ints
from imbdet.data.transforms import decode, fitted_size, flip, resize
from imbdet.errors import UserError
from imbdet.geometry import first_wrong_box
from imbdet.layout import Layout
from imbdet.seeding import generator, number
from imbdet.settings import PADDING, Detector
from imbdet.signals import obey_parent_alone, signals_held_back


@dataclass(frozen=True)
class Sample:
    """One resized image.

    image: [3, h, w] uint8, on the device "meta" where only its size is asked for. scale: [2] fp32, resized over
    original size, (x, y). boxes: [n, 4] fp32 xyxy and ignore: [r, 4] fp32 xyxy, pixels of the resized image.
    labels: [n] int64.

    Raises ValueError, naming the image, for boxes and labels that differ in number and for boxes that are not finite:
    matching, on the device, does not look again.
    """

    image: Tensor
    scale: Tensor
    image_id: int
    boxes: Tensor
    labels: Tensor
    ignore: Tensor

    def __post_init__(self) -> None:
        if self.labels.shape != self.boxes.shape[:1]:
            counts = f"{len(self.boxes)} boxes and {self.labels.numel()} labels"
            raise ValueError(f"image {self.image_id}: {counts}, expected a label for each box")
        for kind, boxes in {"box": self.boxes, "region to ignore": self.ignore}.items():
            wrong = first_wrong_box(boxes)
            if wrong:
                row, problem = wrong
                raise ValueError(f"image {self.image_id}, {kind} {row}: {problem}")


def collate(
    samples: list[Sample], stride: int, seed: int | None = None, canvas: tuple[int, int] | None = None
) -> Batch:
    """Put images into one tensor, padded with zeros to a multiple of ``stride``, and their boxes into flat arrays.

    ``seed``: of the draws that samplers and methods make on this batch. ``canvas``: height and width to pad to instead.
    """
    sizes = torch.tensor([sample.image.shape[1:] for sample in samples])
    height, width = canvas or ((sizes.amax(dim=0) + stride - 1) // stride * stride).tolist()
    images = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8, device=samples[0].image.device)
    if not images.is_meta:
        for padded, sample in zip(images, samples, strict=True):
            padded[:, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
    position = torch.arange(len(samples))
    return Batch(
        images=images,
        sizes=sizes,
        scales=torch.stack([sample.scale for sample in samples]),
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        gt_boxes=torch.cat([sample.boxes for sample in samples]),
        gt_labels=torch.cat([sample.labels for sample in samples]),
        gt_images=position.repeat_interleave(torch.tensor([len(sample.boxes) for sample in samples])),
        ignore_boxes=torch.cat([sample.ignore for sample in samples]),
        ignore_images=position.repeat_interleave(torch.tensor([len(sample.ignore) for sample in samples])),
        seed=seed,
    )


class Split:
    """The prepared images of one split, resized as a detector asks.

    With ``crowd: drop`` no region to ignore is handed on. Images of a detector that stores features are padded to one
    size, that of the largest: what a backbone gives near an image's border depends on its padding.

    Raises :class:`UserError` for an image that is missing, corrupt or of another size by now;
    :mod:`imbdet.data.validate` has checked all of them when the data were prepared.
    """

    def __init__(self, detector: Detector, layout: Layout, name: str) -> None:
        self.detector, self.annotations = detector, read_prepared(layout, name)
        self.folder = layout.images(name)
        self.sides = (detector.short_side, detector.long_side)
        self.keep_crowds = detector.crowd == "ignore"
        self.stride = PADDING
        self.canvas = self._largest() if detector.stores_features else None
        self.features: StoredFeatures | None = None

    @classmethod
    def with_features(cls, detector: Detector, layout: Layout, name: str) -> Self:
        """The same, but instead of pixels with the features that are stored of a frozen backbone."""
        split = cls(detector, layout, name)
        if detector.stores_features:
            split.features = StoredFeatures(detector, layout, name)
        return split

    def _largest(self) -> tuple[int, int]:
        """Height and width into which every image fits, multiples of the stride."""
        sizes = np.unique(self.annotations.sizes, axis=0).tolist()
        fitted = np.array([fitted_size(height, width, *self.sides) for height, width in sizes])
        height, width = (-(-fitted.max(axis=0) // self.stride) * self.stride).tolist()
        return height, width

    def __len__(self) -> int:
        return len(self.annotations.image_ids)

    def batch(self, images: Sequence[int] | Ints, mirrored: Sequence[bool], seed: int | None) -> Batch:
        """Load the images at these positions (ascending image id), each mirrored left to right or not, as a batch."""
        samples = [self.sample(int(index), flips) for index, flips in zip(images, mirrored, strict=True)]
        batch = collate(samples, self.stride, seed, self.canvas)
        return replace(batch, features=self.features.read(np.asarray(images), mirrored)) if self.features else batch

    def sample(self, index: int, mirrored: bool) -> Sample:
        """Load the image at one position; of one whose features are stored no more than its outline."""
        outline = self.outline(index)
        image = outline.image if self.features else resize(self._pixels(index), *outline.image.shape[1:])
        if not mirrored:
            return replace(outline, image=image)
        image, boxes = flip(image, torch.cat([outline.boxes, outline.ignore]))
        count = len(outline.boxes)
        return replace(outline, image=image, boxes=boxes[:count], ignore=boxes[count:])

    def _pixels(self, index: int) -> Tensor:
        """Decode an image, [3, H, W] uint8 of the size that its annotations have."""
        path, size = self.folder / self.annotations.file_names[index], self.annotations.sizes[index].tolist()
        pixels = decode(path)
        if list(pixels.shape[1:]) != size:
            raise UserError(
                f"image {path} has {pixels.shape[1]} x {pixels.shape[2]} pixels (height x width), but its annotations "
                f"say {size[0]} x {size[1]}: it has changed since the data were prepared; run `python -m imbdet data` "
                "with the study's config"
            )
        return pixels

    def outline(self, index: int) -> Sample:
        """Everything about an image but its pixels."""
        split = self.annotations
        height, width = split.sizes[index].tolist()
        new_height, new_width = fitted_size(height, width, *self.sides)
        scale = torch.tensor([new_width / width, new_height / height])
        objects, crowds = split.objects.rows(index), split.crowds.rows(index)
        ignored = split.crowds.boxes[crowds] if self.keep_crowds else split.crowds.boxes[:0]
        return Sample(
            image=torch.empty((3, new_height, new_width), dtype=torch.uint8, device="meta"),
            scale=scale,
            image_id=int(split.image_ids[index]),
            boxes=torch.from_numpy(split.objects.boxes[objects]) * scale.repeat(2),
            labels=torch.from_numpy(split.objects.labels[objects]),
            ignore=torch.from_numpy(ignored) * scale.repeat(2),
        )


@dataclass(frozen=True)
class Draw:
    """What a step trains or evaluates on: positions of images, whether each is mirrored, the batch's seed."""

    images: Ints
    mirrored: list[bool]
    seed: int


class _Steps(Dataset[Batch | UserError]):
    """The batch of each step."""

    def __init__(self, split: Split, draw: Callable[[int], Draw]) -> None:
        self.split, self.draw = split, draw

    def __getitem__(self, step: int) -> Batch | UserError:
        drawn = self.draw(step)
        # An error is handed over as a value: raised in a worker, it would reach the user inside a traceback.
        try:
            return self.split.batch(drawn.images, drawn.mirrored, drawn.seed)
        except UserError as error:
            return error


def _batches(steps: _Steps, which: Iterable[int], workers: int) -> Iterator[Batch]:
    """Yield the batches of the steps ``which``, in that order, read by ``workers`` processes (0: by this one)."""
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=which,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=obey_parent_alone,
    )
    with signals_held_back():
        batches = iter(loader)
    for batch in batches:
        if isinstance(batch, UserError):
            raise batch
        yield batch


class TrainingBatches:
    """The training split as an endless, shuffled stream cut into batches, as the experiment's detector reads it.

    Each epoch holds every image once, in an order drawn from (seed, epoch); a batch may span two epochs. Of each batch
    a process gets every ``world_size``-th image, so that all of them together train on what one process would.
    Raises :class:`UserError` where the batch cannot be shared out evenly.
    """

    def __init__(self, study: Study, layout: Layout, experiment: str, rank: int = 0, world_size: int = 1) -> None:
        settings = study.training(experiment)
        if settings.batch_size % world_size:
            raise UserError(f"train.batch_size is {settings.batch_size}: no multiple of the {world_size} processes")
        self.seed, self.settings, self.rank, self.world_size = study.seed, settings, rank, world_size
        self.split = Split.with_features(study.detector(experiment), layout, "train")

    @property
    def categories(self) -> Categories:
        return self.split.annotations.categories

    def batch_ids(self, step: int) -> Ints:
        """Image ids of this process's share of the batch of ``step`` (from 0), [batch_size / world_size] int64."""
        return self.split.annotations.image_ids[self._draw(step).images]

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batch of each step from ``start_step`` to the study's last one."""
        which = range(start_step, self.settings.steps)
        return _batches(_Steps(self.split, self._draw), which, self.settings.workers)

    def _draw(self, step: int) -> Draw:
        size, count, seed = self.settings.batch_size, len(self.split), self.seed
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size)[self.rank :: self.world_size], count)
        images = np.array([_order(seed, int(e), count)[p] for e, p in zip(epochs, places, strict=True)])
        ids = self.split.annotations.image_ids[images]
        mirrored = [
            bool(generator(seed, "flip", int(e), int(i)).random() < self.settings.flip)
            for e, i in zip(epochs, ids, strict=True)
        ]
        return Draw(images, mirrored, number(seed, "draws", step, self.rank))


@lru_cache(maxsize=2)  # a batch spans two epochs at most, unless the data set is smaller than a batch
def _order(seed: int, epoch: int, count: int) -> Ints:
    """Positions of all images in the order of an epoch."""
    return generator(seed, "order", epoch).permutation(count)


class EvaluationBatches:
    """All images of a split once, by ascending image id, as the experiment's detector reads them."""

    def __init__(self, study: Study, layout: Layout, experiment: str, split: str) -> None:
        self.study = study
        self.split = Split.with_features(study.detector(experiment), layout, split)

    @property
    def categories(self) -> Categories:
        return self.split.annotations.categories

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.study.evaluate.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return _batches(_Steps(self.split, self._draw), range(len(self)), self.study.train.workers)

    def _draw(self, step: int) -> Draw:
        size = self.study.evaluate.batch_size
        images = np.arange(step * size, min((step + 1) * size, len(self.split)))
        return Draw(images, [False] * len(images), number(self.study.seed, "evaluation draws", step))

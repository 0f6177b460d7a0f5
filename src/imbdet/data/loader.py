"""Batches addressable by step: every order and flip is a function of the seed, the epoch and the image.

A resume therefore needs the step alone, the number of workers changes nothing, and no batch draws from PyTorch's
global generator (``DataLoader`` does, unless given its own).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imbdet.config import Study
from imbdet.data.batch import Batch
from imbdet.data.coco import Annotations, Categories, Ints, read_annotations
from imbdet.data.transforms import decode, fitted_size, flip, resize
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.seeding import generator


@dataclass(frozen=True)
class Sample:
    """One resized image.

    image: [3, h, w] uint8. scale: [2] fp32, resized over original size, (x, y). boxes: [n, 4] fp32 xyxy and ignore:
    [r, 4] fp32 xyxy, pixels of the resized image. labels: [n] int64.
    """

    image: Tensor
    scale: Tensor
    image_id: int
    boxes: Tensor
    labels: Tensor
    ignore: Tensor


def collate(samples: list[Sample], stride: int) -> Batch:
    """Put images into one tensor, padded with zeros to a multiple of ``stride``, and their boxes into flat arrays."""
    sizes = torch.tensor([sample.image.shape[1:] for sample in samples])
    height, width = ((sizes.amax(dim=0) + stride - 1) // stride * stride).tolist()
    images = torch.zeros((len(samples), 3, height, width), dtype=torch.uint8)
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
    )


class Split:
    """The prepared images of one split, resized as the study's detector asks.

    With ``crowd: drop`` no region to ignore is handed on. Raises :class:`UserError` for an image that is missing or
    corrupt; that its size is what the annotation says was checked when the data were prepared.
    """

    def __init__(self, study: Study, layout: Layout, name: str) -> None:
        self.annotations: Annotations = read_annotations(layout.annotations(name))
        self.folder = layout.images(name)
        self.sides = (study.detector.short_side, study.detector.long_side)
        self.keep_crowds = study.detector.assigner.crowd == "ignore"

    def __len__(self) -> int:
        return len(self.annotations.image_ids)

    def sample(self, index: int, mirrored: bool) -> Sample:
        """Load the image at position ``index`` (ascending image id), mirrored left to right or not."""
        split = self.annotations
        pixels = decode(self.folder / split.file_names[index])
        height, width = pixels.shape[1:]
        new_height, new_width = fitted_size(height, width, *self.sides)
        image = resize(pixels, new_height, new_width)
        scale = torch.tensor([new_width / width, new_height / height])
        objects, crowds = split.objects.rows(index), split.crowds.rows(index)
        count = objects.stop - objects.start
        ignored = split.crowds.boxes[crowds] if self.keep_crowds else split.crowds.boxes[:0]
        boxes = torch.from_numpy(np.concatenate([split.objects.boxes[objects], ignored])) * scale.repeat(2)
        if mirrored:
            image, boxes = flip(image, boxes)
        labels = torch.from_numpy(split.objects.labels[objects])
        return Sample(image, scale, int(split.image_ids[index]), boxes[:count], labels, boxes[count:])


class _Steps(Dataset[Batch | UserError]):
    """The batch of each step; ``draw(step)`` gives positions of images and whether each is mirrored."""

    def __init__(self, split: Split, draw: Callable[[int], tuple[Ints, list[bool]]], stride: int) -> None:
        self.split, self.draw, self.stride = split, draw, stride

    def __getitem__(self, step: int) -> Batch | UserError:
        # An error is handed over as a value: raised in a worker, it would reach the user inside a traceback.
        try:
            samples = [self.split.sample(int(i), mirrored) for i, mirrored in zip(*self.draw(step), strict=True)]
        except UserError as error:
            return error
        return collate(samples, self.stride)


def _batches(steps: _Steps, which: Iterable[int], workers: int) -> Iterator[Batch]:
    """Yield the batches of the steps ``which``, in that order, read by ``workers`` processes (0: by this one)."""
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=which,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch


class TrainingBatches:
    """The training split as an endless, shuffled stream cut into batches; ``stride`` is the detector's coarsest.

    Each epoch holds every image once, in an order drawn from (seed, epoch); a batch may span two epochs. Of each batch
    a process gets every ``world_size``-th image, so that all of them together train on what one process would.
    Raises :class:`UserError` where the batch cannot be shared out evenly.
    """

    def __init__(self, study: Study, layout: Layout, stride: int, rank: int = 0, world_size: int = 1) -> None:
        if study.train.batch_size % world_size:
            raise UserError(f"train.batch_size is {study.train.batch_size}: no multiple of the {world_size} processes")
        self.study, self.stride, self.rank, self.world_size = study, stride, rank, world_size
        self.split = Split(study, layout, "train")

    @property
    def categories(self) -> Categories:
        return self.split.annotations.categories

    def batch_ids(self, step: int) -> Ints:
        """Image ids of this process's share of the batch of ``step`` (from 0), [batch_size / world_size] int64."""
        return self.split.annotations.image_ids[self._draw(step)[0]]

    def iterate(self, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batch of each step from ``start_step`` to the study's last one."""
        which = range(start_step, self.study.train.steps)
        return _batches(_Steps(self.split, self._draw, self.stride), which, self.study.train.workers)

    def _draw(self, step: int) -> tuple[Ints, list[bool]]:
        """Positions of the images of a step, and whether each is mirrored."""
        size, count = self.study.train.batch_size, len(self.split)
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size)[self.rank :: self.world_size], count)
        images = np.array([_order(self.study.seed, int(e), count)[p] for e, p in zip(epochs, places, strict=True)])
        ids = self.split.annotations.image_ids[images]
        mirrored = [
            bool(generator(self.study.seed, "flip", int(e), int(i)).random() < self.study.train.flip)
            for e, i in zip(epochs, ids, strict=True)
        ]
        return images, mirrored


@lru_cache(maxsize=2)  # a batch spans two epochs at most, unless the data set is smaller than a batch
def _order(seed: int, epoch: int, count: int) -> Ints:
    """Positions of all images in the order of an epoch."""
    return generator(seed, "order", epoch).permutation(count)


class EvaluationBatches:
    """All images of a split once, by ascending image id; ``stride`` is the detector's coarsest."""

    def __init__(self, study: Study, layout: Layout, split: str, stride: int) -> None:
        self.study, self.stride = study, stride
        self.split = Split(study, layout, split)

    @property
    def categories(self) -> Categories:
        return self.split.annotations.categories

    def __len__(self) -> int:
        return math.ceil(len(self.split) / self.study.evaluate.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return _batches(_Steps(self.split, self._draw, self.stride), range(len(self)), self.study.train.workers)

    def _draw(self, step: int) -> tuple[Ints, list[bool]]:
        size = self.study.evaluate.batch_size
        images = np.arange(step * size, min((step + 1) * size, len(self.split)))
        return images, [False] * len(images)

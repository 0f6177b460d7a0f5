"""``Samples``: every matched candidate of a batch, in the one form that detectors fill and methods read."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from imbdet.geometry import paired_iou
from imbdet.tensor_shapes import check_shapes

if TYPE_CHECKING:  # detectors build on methods, which build on this module
    from imbdet.assigners import Matches, Truth
    from imbdet.geometry import BoxCoder

Stage = Literal["dense", "rpn", "roi"]
ROWS_OF_ONE = ("label", "gt_id", "image_id", "level", "prior_iou", "weight", "multiplicity")  # fields of shape [N]
ROW_FIELDS = ("priors", *ROWS_OF_ONE)


@dataclass(frozen=True)
class Kept:
    """The candidates that a sampler chose: a fixed number M of rows, so that nothing has to wait for the device.

    index: [M] int64 rows. valid: [M] bool, false where there was nothing left to choose; the row is ignored then.
    weight: [M] fp32, what the rows' losses are multiplied by.
    """

    index: Tensor
    valid: Tensor
    weight: Tensor

    def __post_init__(self) -> None:
        check_shapes({"index": "M", "valid": "M", "weight": "M"}, vars(self))


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """N anchors or proposals of a whole batch, matched with the ground truth, before a head has seen them.

    N never depends on the ground truth. Nothing is selected by a boolean index, which would wait for the device:
    methods mask with ``where``, and never multiply by 0, because 0 * NaN is NaN.

    priors: [N, 4] fp32 xyxy pixels, also under autocast.
    label: [N] int64; 0..K-1 foreground, K background, -1 ignored.
    gt_id: [N] int64, row of ``gt_boxes``; -1 where none.
    image_id: [N] int64, position in the batch.
    level: [N] int64, 0 for the finest feature level; 0 for proposals.
    prior_iou: [N] fp32, IoU of prior and its ground truth, 0 where the image has none.
    weight: [N] fp32, multiplies the row's losses; 1 unless a sampler says otherwise.
    multiplicity: [N] fp32, how many boxes picked this candidate, where an assigner lets several; 1 otherwise.
    gt_boxes: [G, 4] fp32 xyxy pixels, all images of the batch.
    box_coder: encodes boxes relative to priors.
    num_classes, num_images: K and the number of images B.
    stage: which head these candidates are for. "rpn" has one class, object.

    Raises ValueError for fields whose shapes do not fit one another.
    """

    priors: Tensor
    label: Tensor
    gt_id: Tensor
    image_id: Tensor
    level: Tensor
    prior_iou: Tensor
    weight: Tensor
    multiplicity: Tensor
    gt_boxes: Tensor
    box_coder: "BoxCoder"
    num_classes: int
    num_images: int
    stage: Stage
    forms: ClassVar[dict[str, str]] = {"priors": "N 4", **dict.fromkeys(ROWS_OF_ONE, "N"), "gt_boxes": "G 4"}

    def __post_init__(self) -> None:
        check_shapes(self.forms, vars(self))

    @cached_property
    def foreground(self) -> Tensor:
        """[N] bool."""
        return (self.label >= 0) & (self.label < self.num_classes)

    @cached_property
    def own_gt_boxes(self) -> Tensor:
        """[N, 4] each foreground row's ground truth, xyxy pixels; the prior itself elsewhere."""
        if not len(self.gt_boxes):
            return self.priors
        return torch.where(self.foreground[:, None], self.gt_boxes[self.gt_id.clamp(min=0)], self.priors)

    @cached_property
    def delta_targets(self) -> Tensor:
        """[N, 4] fp32 offsets of each foreground row's ground truth; 0 elsewhere."""
        targets = self.box_coder.encode(self.own_gt_boxes, self.priors)
        return torch.where(self.foreground[:, None], targets, 0.0)  # NaN for a prior without area, which is none

    def select(self, kept: Kept) -> "Candidates":
        """The M rows that a sampler kept; those that are not valid are ignored."""
        rows = {name: getattr(self, name)[kept.index] for name in ROW_FIELDS}
        rows["label"] = torch.where(kept.valid, rows["label"], -1)
        rows["weight"] = kept.weight
        rest = {f.name: getattr(self, f.name) for f in fields(Candidates) if f.name not in ROW_FIELDS}
        return Candidates(**rows, **rest)

    def predicted(self, logits: Tensor, deltas: Tensor, generator: torch.Generator | None = None) -> "Samples":
        """The same candidates with what a head says of them: [N, C] logits, [N, 1 or K, 4] offsets."""
        known = {f.name: getattr(self, f.name) for f in fields(Candidates)}
        return Samples(logits=logits, deltas=deltas, generator=generator, **known)


def _with_gradient(compute: "Callable[[Samples], Tensor]") -> "cached_property[Tensor]":
    """A cached property that keeps its gradient, also where whoever asks first does so without."""
    return cached_property(torch.enable_grad()(compute))


@dataclass(frozen=True, kw_only=True)
class Samples(Candidates):
    """Candidates with their predictions: all that a method reads.

    logits: [N, C] class logits; C is what the method's :class:`imbdet.heads.HeadSpec` asked for.
    deltas: [N, 1, 4] encoded box offsets, or [N, K, 4], a row for each class.
    generator: for methods that draw at random; a function of the run's seed, the step and the process.
    """

    logits: Tensor
    deltas: Tensor
    generator: torch.Generator | None = None
    forms: ClassVar[dict[str, str]] = Candidates.forms | {"logits": "N C", "deltas": "N R 4"}

    def __post_init__(self) -> None:
        super().__post_init__()
        _, rows, _ = self.deltas.shape
        if rows not in (1, self.num_classes):
            raise ValueError(
                f"deltas of shape {list(self.deltas.shape)} have {rows} rows a candidate; expected 1, or one for "
                f"each of the {self.num_classes} classes"
            )

    @_with_gradient
    def foreground_deltas(self) -> Tensor:
        """[N, 4] predicted offsets of the row's class in fp32 (fp64 kept); 0 without gradient where not foreground."""
        if self.deltas.shape[1] == 1:
            own = self.deltas[:, 0]
        else:
            index = self.label.clamp(0, self.num_classes - 1)[:, None, None].expand(-1, 1, 4)
            own = self.deltas.gather(1, index)[:, 0]
        own = own if own.dtype == torch.float64 else own.float()
        return torch.where(self.foreground[:, None], own, 0.0)

    @_with_gradient
    def target_logits(self) -> Tensor:
        """[N] logits of each foreground row's class in fp32 (fp64 kept); 0 without gradient elsewhere."""
        own = self.logits.gather(1, self.label.clamp(0, self.num_classes - 1)[:, None])[:, 0]
        own = own if own.dtype == torch.float64 else own.float()
        return torch.where(self.foreground, own, 0.0)

    @_with_gradient
    def predicted_boxes(self) -> Tensor:
        """[N, 4] xyxy pixels of the foreground rows' predicted boxes, with gradient; the prior elsewhere."""
        return self.box_coder.decode(self.foreground_deltas, self.priors)

    @cached_property
    def predicted_iou(self) -> Tensor:
        """[N] IoU of predicted box and ground truth without gradient; 0 where not foreground."""
        return torch.where(self.foreground, paired_iou(self.predicted_boxes.detach(), self.own_gt_boxes), 0.0)


def dense_candidates(
    anchors: Tensor,
    levels: Tensor,
    matches: "Matches",
    gt_boxes: Tensor,
    gt_labels: Tensor,
    box_coder: "BoxCoder",
    num_classes: int,
    stage: Stage,
) -> Candidates:
    """Every anchor of every image as a candidate, images one after the other.

    Args:
        anchors, levels: [A, 4] fp32 xyxy pixels and [A] int64, the same for every image.
        matches: of the B x A anchors with the ground truth.
        gt_boxes, gt_labels: [G, 4] fp32 xyxy pixels and [G] int64, 0..K-1.
        box_coder: what the head's offsets mean.
        num_classes: K.
        stage: "dense" or "rpn".
    """
    images = len(matches.status)
    label = labels_of(matches, gt_labels, num_classes)
    return Candidates(
        priors=anchors.expand(images, -1, -1).reshape(-1, 4),
        label=label.flatten(),
        gt_id=matches.gt_id.flatten(),
        image_id=torch.arange(images, device=label.device)[:, None].expand_as(label).flatten(),
        level=levels.expand(images, -1).flatten(),
        prior_iou=matches.iou.flatten(),
        weight=torch.ones_like(matches.iou).flatten(),
        multiplicity=matches.multiplicity.flatten(),
        gt_boxes=gt_boxes,
        box_coder=box_coder,
        num_classes=num_classes,
        num_images=images,
        stage=stage,
    )


def proposal_candidates(
    proposals: Tensor, images: Tensor, matches: "Matches", truth: "Truth", box_coder: "BoxCoder", num_classes: int
) -> Candidates:
    """Proposals as candidates of the RoI head.

    Args:
        proposals, images: [P, 4] fp32 xyxy pixels and [P] int64, position of each one's image in the batch.
        matches: of the 1 x P proposals with the ground truth.
        truth: the ground truth of the batch.
        box_coder: what the head's offsets mean.
        num_classes: K.
    """
    return Candidates(
        priors=proposals,
        label=labels_of(matches, truth.labels, num_classes)[0],
        gt_id=matches.gt_id[0],
        image_id=images,
        level=torch.zeros_like(images),
        prior_iou=matches.iou[0],
        weight=torch.ones_like(matches.iou[0]),
        multiplicity=matches.multiplicity[0],
        gt_boxes=truth.boxes,
        box_coder=box_coder,
        num_classes=num_classes,
        num_images=truth.num_images,
        stage="roi",
    )


def labels_of(matches: "Matches", gt_labels: Tensor, num_classes: int) -> Tensor:
    """Labels of matched candidates, int64 in the shape of ``matches.status``: 0..K-1, background K, ignored -1."""
    # One more label for anchors without any ground truth, which gt_id -1 picks.
    labels = torch.cat([gt_labels, gt_labels.new_full((1,), num_classes)])
    label = torch.where(matches.status == 1, labels[matches.gt_id], num_classes)
    return torch.where(matches.status == -1, -1, label)

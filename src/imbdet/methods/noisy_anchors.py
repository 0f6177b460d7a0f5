"""Learning from noisy anchors: soft labels and weights from how clean a positive anchor looks to the detector itself.

Paper: H. Li, Z. Wu, C. Zhu, C. Xiong, R. Socher, L. S. Davis, Learning from Noisy Anchors for One-stage Object
Detection, CVPR 2020.
Equations: positives are the N anchors that overlap each box most. loc is the IoU of an anchor's predicted box with its
ground truth, cls the probability of its class, f(u) = 1 / (1 - u). In variant "paper" the soft label is the
cleanliness c = a loc + (1 - a) cls and the weight r is a f(loc) + (1 - a) f(cls) over its mean. In variant "code" the
cleanliness is s = a loc / mean(loc) + (1 - a) cls / mean(cls), the soft label is s moved linearly onto [mean(loc), 1],
and r = a f(loc) / mean(f(loc)) + (1 - a) f(cls) / mean(f(cls)). Negatives have label 0 and weight 1. Classification is
-alpha t (1 - p)^gamma log p - (1 - alpha) (1 - t) p^gamma log(1 - p) with t the soft label. The weights of each of the
two losses are scaled by one number, so that its value is what it would be without weights.
Official code: henrylee2570/NoisyAnchor (detectron2), commit 3960d03.
Deviations: from both, an anchor that overlaps nothing is never positive, so a small box may have fewer than N (the code
fills up with such anchors); background anchors in regions to ignore are ignored; 0/0 and 1/0 are guarded by EPS, so a
single positive, like equally clean ones, gets the label mean(loc) (NaN in the code). From the paper, r has no exponent
(it is 1 in the paper's experiments); means over the anchors of an image, with an anchor that two boxes picked counted
twice, and the kept value of the losses are as in the code. From the code, of equal overlaps the last anchor wins, where
the code's sort leaves it open; the kept value and the normaliser are those of all processes together.
Stages: dense.
Recipe: N = 30, a = .75, focal alpha .5 (not .25), gamma 2, prior .01, smooth L1 with beta .1, normaliser "ema"; 8
images a step, lr .005, 180k steps.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from imbdet.assigners import FOREGROUND, Matches, MaxIoUAssigner, Truth
from imbdet.geometry import pairwise_iou
from imbdet.heads import HeadSpec
from imbdet.losses import ClassificationLoss, sigmoid_focal_loss
from imbdet.losses import Focal as FocalLoss
from imbdet.methods._base import Alpha, Beta, Gamma, Method, Prior, two_terms
from imbdet.normalizers import NormalizerName
from imbdet.samples import Samples, Stage
from imbdet.weighting import keep_total

EPS = 1e-6  # means and ranges are at least this, IoUs and scores at most 1 minus this


@dataclass(frozen=True)
class TopNAssigner:
    """Foreground are, for every box, the ``number`` anchors that overlap it most, with an IoU above 0.

    Of equal IoUs the last anchors win. Each foreground anchor gets the box that it overlaps most itself, the first of
    equal ones, also where another has picked it; ``multiplicity`` counts the boxes that picked it. All others are
    background, but for those with more than half of their area in a region to ignore. Nothing waits for the device.
    """

    number: int

    def __call__(self, anchors: Tensor, truth: Truth) -> Matches:
        """Match [A, 4] xyxy anchors, the same for every image: [B, A]."""
        best = MaxIoUAssigner(math.inf, math.inf, low_quality="off")(anchors, truth)  # nothing reaches the threshold
        picked = largest(pairwise_iou(truth.boxes, anchors), self.number)
        times = torch.zeros_like(best.iou).index_add(0, truth.images, picked.to(best.iou.dtype))
        status = torch.where(times > 0, FOREGROUND, best.status)
        return replace(best, status=status, multiplicity=times.clamp(min=1))


def largest(overlaps: Tensor, number: int) -> Tensor:
    """[G, A] IoUs to [G, A] bool: the ``number`` largest of each row, if above 0; of equal ones the last."""
    number = min(number, overlaps.shape[1])
    lowest = overlaps.topk(number, dim=1).values[:, -1:]
    above, level = overlaps > lowest, overlaps == lowest
    seen = level.cumsum(1, dtype=torch.int32)
    too_many = above.sum(1, keepdim=True) + seen[:, -1:] - number
    return (above | (level & (seen > too_many))) & (overlaps > 0)


@dataclass(frozen=True)
class Quality:
    """What the detector makes of each row, [N] each and without gradient.

    localization, score: IoU of predicted box and ground truth, probability of its class; 0 where not foreground.
    cleanliness: c or s; 0 where not foreground.
    soft_label: target of the row's class; 0 where not foreground.
    reweight: r, before the value of the loss is restored; 1 where not foreground.
    """

    localization: Tensor
    score: Tensor
    cleanliness: Tensor
    soft_label: Tensor
    reweight: Tensor


class NoisyAnchors(Method):
    """Focal loss with soft labels; it and the box loss weighted by cleanliness. Labels and weights have no gradient."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense"})

    def __init__(
        self,
        variant: Literal["paper", "code"],
        top_n: Annotated[int, Field(gt=0)],
        localization_share: Annotated[float, Field(ge=0, le=1)],
        alpha: Alpha,
        gamma: Gamma,
        prior_prob: Prior,
        normalizer: NormalizerName,
        box_beta: Beta,
    ) -> None:
        super().__init__(HeadSpec("sigmoid", prior_prob), normalizer, box_beta)
        self.loss = ClassificationLoss("sigmoid", FocalLoss(gamma), alpha)
        self.variant, self.top_n, self.share = variant, top_n, localization_share
        self.alpha, self.gamma = alpha, gamma

    def assigner(self) -> TopNAssigner:
        return TopNAssigner(self.top_n)

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        _, (class_rows, box_rows), (class_weight, box_weight) = self._parts(samples)
        return two_terms(samples, class_weight * class_rows, box_weight * box_rows, self.normalizer(samples))

    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        quality, _, (class_weight, box_weight) = self._parts(samples)
        return {**vars(quality), "class_weight": class_weight, "box_weight": box_weight}

    def _parts(self, samples: Samples) -> tuple[Quality, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Quality, losses and final weights of the rows; [N] for classification and [N] for boxes."""
        box_rows = self.box_rows(samples)
        quality = self.quality(samples)
        class_rows = self.class_rows(samples, quality.soft_label)
        class_weight = keep_total(quality.reweight, samples.weight * class_rows, samples.label >= 0)
        box_weight = keep_total(quality.reweight, samples.weight * box_rows, samples.foreground)
        return quality, (class_rows, box_rows), (class_weight, box_weight)

    def quality(self, samples: Samples) -> Quality:
        """Cleanliness of every foreground row, and the soft label and the weight that follow from it."""
        foreground, image = samples.foreground, samples.image_id
        loc, cls = samples.predicted_iou, torch.where(foreground, samples.target_logits.detach().sigmoid(), 0.0)
        times = torch.where(foreground, samples.multiplicity, 0.0)

        def total(values: Tensor) -> Tensor:
            """[N] to [B], over the rows of each image."""
            return values.new_zeros(samples.num_images).index_add(0, image, values)

        def mean(values: Tensor) -> Tensor:
            """Over the picked anchors of each row's image."""
            return (total(times * values) / total(times).clamp(min=1)).clamp(min=EPS)[image]

        def mixed(of_loc: Tensor, of_cls: Tensor) -> Tensor:
            return self.share * of_loc + (1 - self.share) * of_cls

        f_loc, f_cls = (1 / (1 - values.clamp(max=1 - EPS)) for values in (loc, cls))
        if self.variant == "paper":
            clean, weight = mixed(loc, cls), mixed(f_loc, f_cls)
            soft, weight = clean, weight / mean(weight)
        else:
            clean = mixed(loc / mean(loc), cls / mean(cls))
            weight = mixed(f_loc / mean(f_loc), f_cls / mean(f_cls))
            unknown = clean.new_full((samples.num_images,), math.inf)
            low = unknown.scatter_reduce(0, image, torch.where(foreground, clean, math.inf), "amin")
            high = (-unknown).scatter_reduce(0, image, torch.where(foreground, clean, -math.inf), "amax")
            place = (clean - low[image]) / (high - low).clamp(min=EPS)[image]
            soft = mean(loc) + (1 - mean(loc)) * place
        clean, soft = torch.where(foreground, clean, 0.0), torch.where(foreground, soft, 0.0)
        return Quality(loc, cls, clean, soft, torch.where(foreground, weight, 1.0))

    def class_rows(self, samples: Samples, soft_label: Tensor) -> Tensor:
        """[N] focal losses summed over classes, the target's with its soft label; 0 where ignored."""
        rows = self.loss(samples.logits, samples.label, self.compiled)
        # Elementwise on [N], so that nothing of the logits' size is kept: what softening changes in one column.
        x = samples.target_logits
        soft = sigmoid_focal_loss(x, soft_label, self.alpha, self.gamma)
        hard = sigmoid_focal_loss(x, torch.ones_like(x), self.alpha, self.gamma)
        return rows + torch.where(samples.foreground, soft - hard, 0.0)

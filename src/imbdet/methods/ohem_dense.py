"""OHEM on the anchors of a one-stage detector, the baseline that focal loss was compared with.

Paper: T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, Focal Loss for Dense Object Detection, ICCV 2017, section
5.1; after A. Shrivastava, A. Gupta, R. Girshick, CVPR 2016 (see imbdet.methods.ohem).
Equations: none. Each anchor is scored by its loss, NMS is applied, the hardest make the mini-batch; "OHEM 1:3" then
takes three negatives for each positive, as SSD.
Official code: none.
Deviations: the paper leaves open what follows, so these are choices. Selection is per image; its score is the anchor's
cross entropy summed over the classes; NMS compares the anchors themselves, whatever their class; ignored anchors take
no part; 1:3 takes the hardest positives left by NMS, at most a quarter of ``per_image``, and three times as many
negatives, none where no positive is left; the box loss is that of the selected positives; the normaliser counts
selected anchors only ("sampled" makes their mean).
Stages: dense.
Recipe: table 1d, ResNet-101: per_image 128 to 512, nms_iou .5 or .7; best 128 with .5 (32.8 AP against 36.0 of focal
loss), with 1:3 31.1. Prior .01, smooth L1 with beta .11 as for focal loss.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from imbdet.heads import HeadSpec
from imbdet.losses import ClassificationLoss, CrossEntropy
from imbdet.methods._base import Beta, Method, Prior, two_terms
from imbdet.methods.ohem import NmsIoU, PerImage, hardest_first, left_in_groups
from imbdet.normalizers import NormalizerName
from imbdet.samplers import ranks_in_groups
from imbdet.samples import Samples, Stage

FIRST_TRIED = 4  # anchors that NMS starts with, for each that is wanted: most of them overlap a harder one


class OHEMDense(Method):
    """Binary cross entropies and smooth L1 loss of the selected anchors, which get no gradient from being selected.

    per_image: anchors selected in an image, at most.
    nms_iou: an anchor that overlaps one of higher loss by more than this is left out; None for no NMS.
    one_to_three: three negatives for each positive; otherwise the hardest, of whatever kind.

    Raises ValueError for a ``per_image`` that has no room for one positive and three negatives.
    """

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense"})

    def __init__(
        self,
        per_image: PerImage,
        nms_iou: NmsIoU,
        one_to_three: bool,
        prior_prob: Prior,
        normalizer: NormalizerName,
        box_beta: Beta,
    ) -> None:
        super().__init__(HeadSpec("sigmoid", prior_prob), normalizer, box_beta)
        if one_to_three and per_image < 4:
            raise ValueError(
                f"one_to_three takes a positive and three negatives: per_image is at least 4, got {per_image}"
            )
        self.loss = ClassificationLoss("sigmoid", CrossEntropy(), alpha=None)
        self.per_image = per_image
        self.nms_iou = nms_iou
        self.one_to_three = one_to_three

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        rows = self.loss(samples.logits, samples.label, self.compiled)
        selected = self.select(samples, rows)
        hard = replace(samples, label=torch.where(selected, samples.label, -1))
        return two_terms(hard, torch.where(selected, rows, 0.0), self.box_rows(hard), self.normalizer(hard))

    @torch.no_grad()
    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        """``selected``: 1 for the anchors of the mini-batch, 0 for the others."""
        rows = self.loss(samples.logits, samples.label, self.compiled)
        return {"selected": self.select(samples, rows).to(samples.weight)}

    def select(self, samples: Samples, losses: Tensor) -> Tensor:
        """[N] bool, the mini-batch, from [N] losses."""
        key = hardest_first(losses)
        left = samples.label >= 0 if self.nms_iou is None else self.left_by_nms(samples, key, self.nms_iou)
        if not self.one_to_three:
            rank, _ = ranks_in_groups(key, samples.image_id, left, samples.num_images)
            return left & (rank < self.per_image)
        positive, negative = left & samples.foreground, left & ~samples.foreground
        rank, count = ranks_in_groups(key, samples.image_id, positive, samples.num_images)
        negative_rank, _ = ranks_in_groups(key, samples.image_id, negative, samples.num_images)
        positives = count.clamp(max=self.per_image // 4)[samples.image_id]
        return (positive & (rank < positives)) | (negative & (negative_rank < 3 * positives))

    def left_by_nms(self, samples: Samples, key: Tensor, iou: float) -> Tensor:
        """[N] bool, the hardest anchors that NMS leaves, as many as the mini-batch can want; from [N] fp64 keys.

        NMS takes anchors by descending loss, and whether one is left depends on harder ones alone: of the k hardest, it
        leaves the same as of all. So it runs on the k hardest of each image, and on twice as many where too few are
        left. For each k it waits for the device three times, whatever the number of images, unless there are very many
        (see :func:`imbdet.geometry.nms_in_groups`). With 1:3, an easy positive that overlaps nothing harder makes k
        grow until it is among the hardest: seconds for a large image on a CPU.
        """
        image, images, usable = samples.image_id, samples.num_images, samples.label >= 0
        rank, count = ranks_in_groups(key, image, usable, images)
        left, unfinished = torch.zeros_like(usable), torch.ones_like(count, dtype=torch.bool)
        k = FIRST_TRIED * self.per_image
        while True:
            hardest = usable & (rank < k)
            # Positives are wanted to the last: those beyond take part, too. If none of them is left, then each overlaps
            # one of the k hardest that is, and is left out of all as well.
            tried = hardest | samples.foreground if self.one_to_three else hardest
            found = left_in_groups(samples.priors, key, image, tried & unfinished[image], iou)
            left = left | (found & hardest)
            undecided = _count(found & ~hardest, samples)
            unfinished = unfinished & (count > k) & ~self._enough(left, undecided, samples)
            if not unfinished.any():
                return left
            k *= 2

    def _enough(self, left: Tensor, undecided: Tensor, samples: Samples) -> Tensor:
        """[B] bool, images that have all they can want: [N] anchors left, [B] numbers of positives not yet decided."""
        if not self.one_to_three:
            return _count(left, samples) >= self.per_image
        most = self.per_image // 4
        positives, negatives = _count(left & samples.foreground, samples), _count(left & ~samples.foreground, samples)
        return ((positives >= most) | (undecided == 0)) & (negatives >= 3 * positives.clamp(max=most))


def _count(rows: Tensor, samples: Samples) -> Tensor:
    """[N] bool to [B] int64, true rows of each image."""
    count = torch.zeros(samples.num_images, dtype=torch.int64, device=rows.device)
    return count.index_add(0, samples.image_id, rows.long())

"""Hard negative mining of SSD: all positives, and three times as many negatives, those of highest loss.

Paper: W. Liu, D. Anguelov, D. Erhan, C. Szegedy, S. Reed, C.-Y. Fu, A. C. Berg, SSD: Single Shot MultiBox Detector,
ECCV 2016, section 2.2.
Equations: L = (L_conf + L_loc) / N (1) with N positives, 0 where N = 0; L_conf (3) is softmax cross entropy of the
positives and the mined negatives.
Official code: weiliu89/caffe, branch ssd (multibox_loss_layer.cpp, bbox_util.cpp): negatives are mined in each image by
its own positives, N is that of the batch.
Deviations: later versions of the code rank negatives by cross entropy, as here; earlier ones (d9f9dfe) by their highest
foreground score. Which anchors are positive, negative or ignored is for the study's assigner; the code matches each box
with its best anchor and with those from an IoU of .5, and mines all others below .5.
Stages: dense.
Recipe: negatives_per_positive 3, normaliser "batch", smooth L1 with beta 1; the code's offsets are divided by variances
.1, .1, .2, .2, which weighs them 10, 10, 5, 5.
"""

from dataclasses import replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from imbdet.heads import HeadSpec
from imbdet.losses import softmax_cross_entropy
from imbdet.methods._base import Beta, Method, two_terms
from imbdet.methods.ohem import hardest_first
from imbdet.normalizers import NormalizerName
from imbdet.samplers import ranks_in_groups
from imbdet.samples import Samples, Stage

Ratio = Annotated[float, Field(gt=0)]


class SSDHardNegatives(Method):
    """Softmax cross entropy of positives and hard negatives, which get no gradient from being selected.

    negatives_per_positive: the ratio in each image, rounded down to whole negatives; an image without positives has
        none. The normaliser, too, sees what is selected only.
    """

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense"})

    def __init__(self, negatives_per_positive: Ratio, normalizer: NormalizerName, box_beta: Beta) -> None:
        super().__init__(HeadSpec("softmax", prior_prob=None), normalizer, box_beta)
        self.ratio = negatives_per_positive

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        rows = softmax_cross_entropy(samples.logits, samples.label)
        selected = self.select(samples, rows)
        hard = replace(samples, label=torch.where(selected, samples.label, -1))
        return two_terms(hard, torch.where(selected, rows, 0.0), self.box_rows(hard), self.normalizer(hard))

    @torch.no_grad()
    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        """``selected``: 1 for positives and hard negatives, 0 for the others."""
        rows = softmax_cross_entropy(samples.logits, samples.label)
        return {"selected": self.select(samples, rows).to(samples.weight)}

    def select(self, samples: Samples, losses: Tensor) -> Tensor:
        """[N] bool, positives and hard negatives, from [N] losses."""
        negative = samples.label == samples.num_classes
        rank, _ = ranks_in_groups(hardest_first(losses), samples.image_id, negative, samples.num_images)
        positives = torch.zeros(samples.num_images, device=rank.device)
        positives = positives.index_add(0, samples.image_id, samples.foreground.float())
        wanted = (self.ratio * positives).floor()[samples.image_id]
        return samples.foreground | (negative & (rank < wanted))

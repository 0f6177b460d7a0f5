"""Focal loss on every candidate.

Paper: T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, Focal Loss for Dense Object Detection, ICCV 2017.
Equations: FL = -alpha_t (1 - p_t)^gamma log p_t (5).
Official code: Detectron (Caffe2).
Deviations: none; the normaliser is an option, because published codes use different ones.
Stages: dense. For rpn and roi, which the paper does not try, the same sum over the sampled candidates, sigmoid
columns in place of softmax.
Recipe: alpha .25, gamma 2, prior .01; box loss smooth L1 with beta .11 in the code.
"""

from typing import ClassVar

from torch import Tensor

from imbdet.heads import HeadSpec
from imbdet.losses import ClassificationLoss
from imbdet.losses import Focal as FocalLoss
from imbdet.methods._base import Alpha, Beta, Gamma, Method, Prior, two_terms
from imbdet.normalizers import NormalizerName
from imbdet.samples import Samples, Stage


class Focal(Method):
    """Sum of the focal losses of all candidates and classes; nothing is detached."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense", "rpn", "roi"})

    def __init__(
        self, alpha: Alpha, gamma: Gamma, prior_prob: Prior, normalizer: NormalizerName, box_beta: Beta
    ) -> None:
        super().__init__(HeadSpec("sigmoid", prior_prob), normalizer, box_beta)
        self.loss = ClassificationLoss("sigmoid", FocalLoss(gamma), alpha)

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        rows = self.loss(samples.logits, samples.label, self.compiled)
        return two_terms(samples, rows, self.box_rows(samples), self.normalizer(samples))

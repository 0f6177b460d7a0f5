"""Focal loss on every candidate.

Paper: T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, Focal Loss for Dense Object Detection, ICCV 2017.
Equations: FL = -alpha_t (1 - p_t)^gamma log p_t (5).
Official code: Detectron (Caffe2).
Deviations: none; the normaliser is an option, because published codes use different ones.
Stages: dense.
Recipe: alpha .25, gamma 2, prior .01; box loss smooth L1 with beta .11 in the code.
"""

from typing import ClassVar

from torch import Tensor

from imbdet.heads import HeadSpec
from imbdet.losses import Focal as FocalLoss
from imbdet.methods._base import Alpha, Beta, Gamma, Method, Probability, dense_losses
from imbdet.normalizers import NORMALIZERS, NormalizerName
from imbdet.samples import Samples, Stage


class Focal(Method):
    """Sum of the focal losses of all candidates and classes; nothing is detached."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense"})

    def __init__(
        self, alpha: Alpha, gamma: Gamma, prior_prob: Probability, normalizer: NormalizerName, box_beta: Beta
    ) -> None:
        super().__init__()
        self.head = HeadSpec(prior_prob)
        self.loss = FocalLoss(gamma)
        self.alpha = alpha
        self.box_beta = box_beta
        self.normalizer = NORMALIZERS[normalizer]()

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        divisor = self.normalizer(samples)
        return dense_losses(samples, self.loss, self.alpha, divisor, self.box_beta, self.compiled)

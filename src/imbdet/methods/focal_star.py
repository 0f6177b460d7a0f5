"""FL*, the focal loss's sibling with a shifted and steeper sigmoid.

Paper: T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, Focal Loss for Dense Object Detection, ICCV 2017.
Equations: p*_t = sigmoid(gamma x_t + beta) (8); FL* = -log(p*_t) / gamma (9), times alpha_t in the experiments.
Official code: none; fvcore's sigmoid_focal_loss_star is the same with beta = 0.
Deviations: none.
Stages: dense.
Recipe: alpha .25; (gamma, beta) = (2, 1) or (4, 0), table 3.
"""

from typing import ClassVar

from torch import Tensor

from imbdet.heads import HeadSpec
from imbdet.losses import ClassificationLoss
from imbdet.losses import FocalStar as FocalStarLoss
from imbdet.methods._base import Alpha, Beta, Method, Prior, Steepness, two_terms
from imbdet.normalizers import NormalizerName
from imbdet.samples import Samples, Stage


class FocalStar(Method):
    """Sum of the FL* losses of all candidates and classes; nothing is detached."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense"})

    def __init__(
        self,
        alpha: Alpha,
        gamma: Steepness,
        beta: float,
        prior_prob: Prior,
        normalizer: NormalizerName,
        box_beta: Beta,
    ) -> None:
        super().__init__(HeadSpec("sigmoid", prior_prob), normalizer, box_beta)
        self.loss = ClassificationLoss("sigmoid", FocalStarLoss(gamma, beta), alpha)

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        rows = self.loss(samples.logits, samples.label, self.compiled)
        return two_terms(samples, rows, self.box_rows(samples), self.normalizer(samples))

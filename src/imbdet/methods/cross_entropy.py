"""Cross entropy and alpha-balanced cross entropy on every candidate.

Paper: T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, Focal Loss for Dense Object Detection, ICCV 2017.
Equations: CE = -log p_t (1); -alpha_t log p_t (3).
Official code: Detectron (Caffe2).
Deviations: none. The paper's plain "CE" row of table 1a is alpha = .5, half of the unweighted loss (alpha None).
Stages: dense.
Recipe: table 3 uses alpha = .75, prior .01; box loss smooth L1 with beta .11 in the code.
"""

from typing import ClassVar

from torch import Tensor

from imbdet.heads import HeadSpec
from imbdet.losses import CrossEntropy as CrossEntropyLoss
from imbdet.methods._base import Alpha, Beta, Method, Probability, dense_losses
from imbdet.normalizers import NORMALIZERS, NormalizerName
from imbdet.samples import Samples, Stage


class CrossEntropy(Method):
    """Sum of the binary cross entropies of all candidates and classes, alpha-balanced unless alpha is None."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense"})

    def __init__(self, alpha: Alpha, prior_prob: Probability, normalizer: NormalizerName, box_beta: Beta) -> None:
        super().__init__()
        self.head = HeadSpec(prior_prob)
        self.alpha = alpha
        self.box_beta = box_beta
        self.normalizer = NORMALIZERS[normalizer]()

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        divisor = self.normalizer(samples)
        return dense_losses(samples, CrossEntropyLoss(), self.alpha, divisor, self.box_beta, self.compiled)

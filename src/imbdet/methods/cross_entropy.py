"""Cross entropy and alpha-balanced cross entropy on every candidate.

Paper: T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollar, Focal Loss for Dense Object Detection, ICCV 2017.
Equations: CE = -log p_t (1); -alpha_t log p_t (3).
Official code: Detectron (Caffe2).
Deviations: none. The paper's plain "CE" row of table 1a is alpha = .5, half of the unweighted loss (alpha None).
Stages: dense; rpn and roi as Ren et al., Faster R-CNN, NIPS 2015, equation 1 (there with the normaliser "sampled").
Recipe: table 3 uses alpha = .75, prior .01; box loss smooth L1 with beta .11 in the code. Two-stage: softmax for roi,
sigmoid for rpn, no prior.
"""

from typing import ClassVar

from torch import Tensor

from imbdet.heads import Activation, HeadSpec
from imbdet.losses import ClassificationLoss
from imbdet.losses import CrossEntropy as CrossEntropyLoss
from imbdet.methods._base import Alpha, Beta, Method, Prior, two_terms
from imbdet.normalizers import NormalizerName
from imbdet.samples import Samples, Stage


class CrossEntropy(Method):
    """Sum of the cross entropies of all candidates: binary ones of all classes, alpha-balanced, or that of softmax."""

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense", "rpn", "roi"})

    def __init__(
        self, activation: Activation, alpha: Alpha, prior_prob: Prior, normalizer: NormalizerName, box_beta: Beta
    ) -> None:
        super().__init__(HeadSpec(activation, prior_prob), normalizer, box_beta)
        self.loss = ClassificationLoss(activation, CrossEntropyLoss(), alpha)

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        rows = self.loss(samples.logits, samples.label, self.compiled)
        return two_terms(samples, rows, self.box_rows(samples), self.normalizer(samples))

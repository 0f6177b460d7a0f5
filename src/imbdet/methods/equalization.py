"""Equalization Loss: foreground of one class no longer pushes the classes of the tail down.

Paper: J. Tan, C. Wang, B. Li, Q. Li, W. Ouyang, C. Yin, J. Yan, Equalization Loss for Long-Tailed Object Recognition,
CVPR 2020.
Equations: L = -sum_j w_j log p^_j (6) with p^_j = p_j for the target, 1 - p_j otherwise (4);
w_j = 1 - E(r) T_lambda(f_j) (1 - y_j) (7), E(r) = 1 for foreground, T_lambda(f) = 1 for f < lambda;
TR = sum_j T_lambda(f_j) N_j / sum_j N_j (8).
Official code: tztztztztz/eql.detectron2 at 29224ac; the same in tztztztztz/eqlv2 at 907fad9.
Deviations: none from the code. The paper also keeps w_j = 1 for classes that LVIS lists as present or absent in the
image, which its code does not, nor this. The tail may be named by the largest tail ratio in place of lambda.
Stages: roi.
Recipe: LVIS v0.5: lambda 1.76e-3 (all rare and common classes, tail ratio 9.08 %; good from 2 to 10 %), prior .001,
score threshold 0 (code 1e-4), 300 detections an image, normaliser "sampled". f_j is counted on the training images.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from imbdet.heads import HeadSpec
from imbdet.losses import CrossEntropy, sum_over_classes
from imbdet.methods._base import Beta, Method, Prior, two_terms
from imbdet.methods._tail import Share, left_out, tail_classes
from imbdet.normalizers import NormalizerName
from imbdet.samples import Samples, Stage


class Equalization(Method):
    """Sum of binary cross entropies, without those of the tail's classes in foreground rows of other classes.

    ``frequency`` and how the tail follows from it: see :func:`imbdet.methods._tail.tail_classes`. The tail is saved in
    checkpoints. Background rows keep every class: without them the tail would be found everywhere.
    """

    stages: ClassVar[frozenset[Stage]] = frozenset({"roi"})

    def __init__(
        self,
        frequency: Sequence[float],
        threshold: Share | None,
        tail_ratio: Share | None,
        prior_prob: Prior,
        score_threshold: Share | None,
        normalizer: NormalizerName,
        box_beta: Beta,
    ) -> None:
        super().__init__(HeadSpec("sigmoid", prior_prob, score_threshold=score_threshold), normalizer, box_beta)
        self.register_buffer("tail", tail_classes(frequency, threshold, tail_ratio))
        self.tail: Tensor

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        logits = samples.logits.masked_fill(left_out(self.tail, samples), -torch.inf)
        rows = sum_over_classes(CrossEntropy(), logits, samples.label, None, self.compiled)
        return two_terms(samples, rows, self.box_rows(samples), self.normalizer(samples))

    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        """``suppressed``: number of classes that are left out of each row."""
        return {"suppressed": left_out(self.tail, samples).sum(1).float()}

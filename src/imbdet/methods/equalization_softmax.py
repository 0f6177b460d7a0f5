"""Softmax Equalization Loss: foreground of one class no longer pushes the classes of the tail down, most of the time.

Paper: J. Tan, C. Wang, B. Li, Q. Li, W. Ouyang, C. Yin, J. Yan, Equalization Loss for Long-Tailed Object Recognition,
CVPR 2020.
Equations: L = -sum_j y_j log p~_j (9); p~_j = exp(z_j) / sum_k w~_k exp(z_k) (10);
w~_k = 1 - beta T_lambda(f_k) (1 - y_k) (11), beta = 1 with probability gamma, else 0.
Official code: none.
Deviations: the paper has this form for image classification only, and does not say how often beta is drawn; here for
each row and class, from the samples' generator. Detection adds a background column, which is never of the tail, and
background rows, which keep every class as by E(r) of equation 7: the paper leaves E(r) out because classification has
no background. With beta alone, a background row would cost nothing where every class is of the tail and gamma is 1.
Stages: roi.
Recipe: gamma .95 with lambda 3e-3 (CIFAR-100-LT), gamma .9 with lambda 4.3e-4 (ImageNet-LT); none for detection.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from imbdet.heads import HeadSpec
from imbdet.losses import softmax_cross_entropy
from imbdet.methods._base import Beta, Method, two_terms
from imbdet.methods._tail import Share, left_out, tail_classes
from imbdet.normalizers import NormalizerName
from imbdet.samples import Samples, Stage


class EqualizationSoftmax(Method):
    """Softmax cross entropy whose sum over the classes leaves out, at random, the tail's in foreground rows of others.

    ``frequency`` and how the tail follows from it: see :func:`imbdet.methods._tail.tail_classes`. The tail is saved in
    checkpoints. ``gamma`` is the probability that a class is left out of a row; each process draws for its own rows.
    """

    stages: ClassVar[frozenset[Stage]] = frozenset({"roi"})

    def __init__(
        self,
        frequency: Sequence[float],
        threshold: Share | None,
        tail_ratio: Share | None,
        gamma: Share,
        normalizer: NormalizerName,
        box_beta: Beta,
    ) -> None:
        super().__init__(HeadSpec("softmax", None), normalizer, box_beta)
        self.gamma = gamma
        self.register_buffer("tail", tail_classes(frequency, threshold, tail_ratio))
        self.tail: Tensor

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        classes = left_out(self.tail, samples) & self.draw_beta(samples)
        logits = samples.logits.masked_fill(F.pad(classes, (0, 1)), -torch.inf)  # the background's column stays
        rows = softmax_cross_entropy(logits, samples.label)
        return two_terms(samples, rows, self.box_rows(samples), self.normalizer(samples))

    def draw_beta(self, samples: Samples) -> Tensor:
        """[N, K] bool, each true with probability gamma."""
        shape = len(samples.label), samples.num_classes
        return torch.rand(shape, generator=samples.generator, device=samples.label.device) < self.gamma

    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        """``suppressed``: expected number of classes that are left out of each row; nothing is drawn."""
        return {"suppressed": self.gamma * left_out(self.tail, samples).sum(1).float()}

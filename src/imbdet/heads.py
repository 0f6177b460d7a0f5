"""What a method asks of the classification head."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadSpec:
    """K sigmoid columns without a background column.

    prior_prob: probability that every class starts with (Lin et al. 2017, sections 3.3 and 4.1).
    weight_std: standard deviation of the last layer's initial weights.
    """

    prior_prob: float
    weight_std: float = 0.01

    @property
    def bias(self) -> float:
        """Initial bias of the last layer, the logit of ``prior_prob``."""
        return -math.log((1 - self.prior_prob) / self.prior_prob)

    def scores(self, logits: Tensor) -> Tensor:
        """[..., K] logits to [..., K] class probabilities in fp32."""
        return torch.sigmoid(logits.float())

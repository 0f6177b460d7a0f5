"""What a method asks of the classification head."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from imbdet.domains import NOT_NEGATIVE, PRIOR_PROB, SCORE_THRESHOLD, check_word

Activation = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class HeadSpec:
    """K sigmoid columns, none for the background, or K + 1 softmax columns, the background's last.

    prior_prob: probability that every class starts with (Lin et al. 2017, sections 3.3 and 4.1); None for a bias of 0,
        the only choice with softmax.
    weight_std: standard deviation of the last layer's initial weights.
    score_threshold: lowest score of a detection; None leaves it to the study.

    Raises ValueError for a prior with softmax, and for values outside their domain.
    """

    activation: Activation
    prior_prob: float | None
    weight_std: float = 0.01
    score_threshold: float | None = None

    def __post_init__(self) -> None:
        check_word("activation", self.activation, get_args(Activation))
        PRIOR_PROB.check("prior_prob", self.prior_prob)
        NOT_NEGATIVE.check("weight_std", self.weight_std)
        SCORE_THRESHOLD.check("score_threshold", self.score_threshold)
        if self.activation == "softmax" and self.prior_prob is not None:
            raise ValueError(f"prior_prob is for sigmoid heads, softmax starts with a bias of 0: got {self.prior_prob}")

    @property
    def bias(self) -> float:
        """Initial bias of the last layer, the logit of ``prior_prob``."""
        return 0.0 if self.prior_prob is None else -math.log((1 - self.prior_prob) / self.prior_prob)

    def columns(self, num_classes: int) -> int:
        """Number of logits of a candidate, C, for K classes."""
        return num_classes + (self.activation == "softmax")

    def scores(self, logits: Tensor) -> Tensor:
        """[..., C] logits to [..., K] class probabilities in fp32 (fp64 kept)."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return torch.sigmoid(logits) if self.activation == "sigmoid" else logits.softmax(-1)[..., :-1]

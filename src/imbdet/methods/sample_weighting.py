"""Unified sample weighting network: a small network learns what each candidate's two losses weigh.

Paper: Q. Cai, Y. Pan, Y. Wang, J. Liu, T. Yao, T. Mei, Learning a Unified Sample Weighting Network for Object
Detection, CVPR 2020.
Equations: (s_cls, s_reg) = network(IoU, score of the own class, class loss, box loss by coordinate), clamped; weights
exp(-s); L = sum_i exp(-s_cls_i) CE_i / N + sum_P exp(-s_reg_i) R_i / N + lambda mean(s_cls) + lambda mean_P(s_reg).
With s = log sigma^2 and lambda 1/2 that is the likelihood of a Gaussian for the box, and approximately that of a
softmax of temperature sigma^2 for the class (Kendall et al., CVPR 2018).
Official code: caiqi/sample-weighting-network @ f5feb0f (retina_head_v2.py, two_stage_swn_faster.py).
Deviations: from the paper: s is log sigma^2, as in the code. Averaging s_cls before the exponential (section 3.4, and
the code) is an option, because it leaves one or two class weights a batch. From the code: in its RetinaNet IoU and
score are not detached, so that the detector can lower the loss through the network, and ignored anchors enter the mean
of s_cls, with inputs of 0; variant "code" does both, "paper" neither. In the two-stage code neither happens, so for roi
the variants agree. What ignored rows hold never matters; the code multiplies it by 0, which NaN survives. Means are
over all processes, not over each alone, and 0 where there is nothing to average, where the code has NaN. A box that is
not finite enters as one without overlap and without loss; the two-stage code sets its offsets to 0. ``samples.weight``
multiplies a row's part of the regularisers too, or the network would learn its inverse. The code's boxes are a pixel
larger. Of more than 1,024 anchors 1,024 or an eighth may be foreground: were there more, the rest would be weighed by
their class loss alone, as background is.
Stages: dense, roi.
Recipe: Adam with lr .001 and weight decay .0001 (in the loss) for the network, clamp 2, all lambda .5. RetinaNet: focal
loss alpha .25 gamma 2, smooth L1 beta .11, one group (background_regularizer null), normaliser "batch". Faster R-CNN:
softmax, smooth L1 beta 1, foreground and background apart, normaliser "sampled". The official baseline is the same with
clamp 1e-9 and all lambda 0.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from imbdet.distributed import processes, total
from imbdet.geometry import paired_iou
from imbdet.heads import Activation, HeadSpec
from imbdet.losses import ClassificationLoss, Focal, smooth_l1
from imbdet.methods._base import Alpha, Beta, Gamma, Method, Prior, two_terms
from imbdet.normalizers import NormalizerName
from imbdet.samples import Samples, Stage

WIDTH = 64
INITIAL_STD = 1e-4
# Room for foreground on the dense stage: this many anchors, or one in so many. Of RetinaNet's it is one in 1,000.
LEAST_ROOM = 1024
ONE_IN = 8
BLOCK_ROWS = 1 << 14  # 4 MB a hidden layer: memory of this size is used again, of more it comes as new pages each time

Positive = Annotated[float, Field(gt=0)]
Strength = Annotated[float, Field(ge=0)]


class SampleWeighting(Method):
    """Weights exp(-s) of both losses, and the regularisers that keep the network from weighing everything down.

    class_regularizer, background_regularizer: lambda of the means of s_cls over the foreground and the background; null
        for the second puts all candidates in one group under the first.
    averaging: "group" replaces s_cls by the mean of its group, "sample" leaves each candidate its own.
    """

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense", "roi"})

    def __init__(
        self,
        variant: Literal["paper", "code"],
        averaging: Literal["group", "sample"],
        activation: Activation,
        alpha: Alpha,
        gamma: Gamma,
        prior_prob: Prior,
        normalizer: NormalizerName,
        box_beta: Beta,
        clamp: Positive,
        class_regularizer: Strength,
        background_regularizer: Strength | None,
        box_regularizer: Strength,
        learning_rate: Positive,
        weight_decay: Strength,
    ) -> None:
        super().__init__(HeadSpec(activation, prior_prob), normalizer, box_beta)
        self.variant, self.averaging, self.clamp = variant, averaging, clamp
        self.loss = ClassificationLoss(activation, Focal(gamma), alpha)
        self.network = WeightingNetwork()
        self.optimizer = {"lr": learning_rate, "weight_decay": weight_decay}
        self.by_label = background_regularizer is not None
        strengths = (class_regularizer, background_regularizer, box_regularizer)
        self.strengths = [strength for strength in strengths if strength is not None]  # one a group

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        class_rows, box_rows = self._losses(samples)
        groups, sizes = self._groups(samples)
        s_class, s_box = self._log_variances(samples, class_rows, box_rows, groups, sizes)
        weighted = torch.exp(-s_class) * class_rows, torch.exp(-s_box) * box_rows.sum(1)
        losses = two_terms(samples, *weighted, self.normalizer(samples))
        s = torch.stack([s_class] * (len(groups) - 1) + [s_box])
        means = torch.where(groups, samples.weight * s, 0.0).sum(1) / sizes * processes()
        terms = [strength * mean for strength, mean in zip(self.strengths, means.unbind(), strict=True)]
        losses["regularizer"] = torch.stack(terms).sum()
        return losses

    def param_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters()), **self.optimizer}]

    @torch.no_grad()
    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        """Both weights, 0 where there is nothing to weigh, and two of the inputs; all processes call it together."""
        class_rows, box_rows = self._losses(samples)
        s_class, s_box = self._log_variances(samples, class_rows, box_rows, *self._groups(samples))
        return {
            "class_weight": torch.where(samples.label >= 0, torch.exp(-s_class), 0.0),
            "box_weight": torch.where(samples.foreground, torch.exp(-s_box), 0.0),
            "class_loss": class_rows,
            "iou": _finite(samples.predicted_iou),
        }

    def _losses(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """[N] class losses and [N, 4] box losses by coordinate."""
        class_rows = self.loss(samples.logits, samples.label, self.compiled)
        return class_rows, smooth_l1(samples.foreground_deltas, samples.delta_targets, self.box_beta)

    def _log_variances(
        self, samples: Samples, class_rows: Tensor, box_rows: Tensor, groups: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[N] s_cls and s_reg, clamped and, if wanted, averaged; from [N] class losses and [N, 4] box losses."""
        sigmoid = self.head.activation == "sigmoid"
        score = torch.sigmoid(samples.target_logits) if sigmoid else torch.exp(-class_rows)
        if self._leaks(samples):
            iou = paired_iou(samples.predicted_boxes, samples.own_gt_boxes)
        else:
            iou, score = samples.predicted_iou, score.detach()
        known = torch.cat([torch.stack([iou, score], 1), box_rows.detach()], 1)
        known = torch.where(samples.foreground[:, None], _finite(known), 0.0)
        n = len(known)
        slots = n if samples.stage == "roi" else min(n, max(LEAST_ROOM, n // ONE_IN))
        s = self.network(class_rows.detach(), known, samples.foreground, slots)
        s = s.to(class_rows.dtype).clamp(-self.clamp, self.clamp)
        s_class, s_box = s.unbind(1)
        if self.averaging == "group":
            of_class = groups[:-1]
            means = total(torch.where(of_class, s_class, 0.0).sum(1)) / sizes[:-1]
            s_class = torch.where(of_class, means[:, None], 0.0).sum(0)
        return s_class, s_box

    def _groups(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """[G, N] who is averaged and regularised together, the last for boxes, and [G] sizes over all processes."""
        if self.by_label:
            class_groups = [samples.foreground, samples.label == samples.num_classes]
        else:
            class_groups = [torch.ones_like(samples.foreground) if self._leaks(samples) else samples.label >= 0]
        groups = torch.stack([*class_groups, samples.foreground])
        return groups, total(groups.sum(1).float()).clamp(min=1)

    def _leaks(self, samples: Samples) -> bool:
        """Whether to do as the official RetinaNet does: gradient through the inputs, ignored anchors in the mean."""
        return self.variant == "code" and samples.stage == "dense"


class WeightingNetwork(nn.Module):
    """Four embeddings and a predictor, initially as good as 0: s = 0, all weights 1."""

    def __init__(self) -> None:
        super().__init__()
        self.iou, self.score, self.class_loss, self.box_loss = (_embedding(inputs) for inputs in (1, 1, 1, 4))
        self.joined = nn.Linear(4 * WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 2)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=INITIAL_STD)
                nn.init.zeros_(layer.bias)

    def forward(self, class_loss: Tensor, known: Tensor, foreground: Tensor, slots: int) -> Tensor:
        """[N, 2] s_cls and s_reg of each row, not clamped, in the network's own dtype.

        Nearly all rows are background and know only their class loss: for them the other three embeddings are of
        zeros, and so the same. All four are computed for a fixed number of rows that holds the foreground. Were there
        ever more foreground rows than ``slots``, the others would count as background here.

        Args:
            class_loss: [N].
            known: [N, 6] IoU, score and the four box losses; zeros where not foreground.
            foreground: [N] bool.
            slots: how many rows may be foreground.
        """
        class_loss, known = class_loss.to(self.last.weight.dtype), known.to(self.last.weight.dtype)
        with torch.autocast(class_loss.device.type, enabled=False):  # which would round s to half precision
            if slots == len(known):
                return self._by_block(class_loss, known)
            rows = foreground.byte().topk(slots, sorted=False).indices
            of_rows = self._by_block(class_loss[rows], known[rows])
            return self._by_block(class_loss, torch.zeros_like(known[:1])).index_copy(0, rows, of_rows)

    def _by_block(self, class_loss: Tensor, known: Tensor) -> Tensor:
        """:meth:`predict`, on a CPU block by block: there it costs less to compute hidden layers again in backward than
        to keep those of all rows.
        """
        if class_loss.is_cuda or len(class_loss) <= BLOCK_ROWS:
            return self.predict(class_loss, known)
        same = len(known) == 1
        parts = class_loss.split(BLOCK_ROWS)
        of_parts = [known] * len(parts) if same else known.split(BLOCK_ROWS)
        return torch.cat([_recomputed(self.predict, *both) for both in zip(parts, of_parts, strict=True)])

    def predict(self, class_loss: Tensor, known: Tensor) -> Tensor:
        """The predictor on the joined embeddings: [N] class losses and [N, 6], or [1, 6] for all, to [N, 2]."""
        of_iou, of_score, of_class, of_box = self.joined.weight.split(WIDTH, 1)
        iou, score, box = known.split([1, 1, 4], 1)
        others = self.iou(iou) @ of_iou.T + self.score(score) @ of_score.T + self.box_loss(box) @ of_box.T
        hidden = self.class_loss(class_loss[:, None]) @ of_class.T + (others + self.joined.bias)
        result: Tensor = self.last(hidden.relu_())
        return result


def _embedding(inputs: int) -> nn.Sequential:
    first, second = nn.Linear(inputs, WIDTH), nn.Linear(WIDTH, WIDTH)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)``, whose intermediate results are not kept but computed again in backward."""
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0.0)

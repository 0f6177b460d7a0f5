"""PISA: prime samples, the best of each object and of each cluster of false alarms, weigh more than hard ones.

Paper: Y. Cao, K. Chen, C. C. Loy, D. Lin, Prime Sample Attention in Object Detection, CVPR 2020, arXiv 1904.04821.
Equations: ISR: u = (n_max - r) / n_max, w = (beta + (1 - beta) u)^gamma, w scaled so that sum(w CE) = sum(CE); of the
positives (ISR-P) r is their IoU-HLR, of the negatives (ISR-N) their score-HLR, HLR being the hierarchical local rank.
CARL: v = (b + (1 - b) p)^k, c = v n+ / sum(v), sum(c smoothL1) / M.
Official code: open-mmlab/mmdetection, read in fcjian/TOOD 1bda27c (mmdet 2.14): pisa_loss.py, score_hlr_sampler.py,
pisa_roi_head.py, pisa_retinanet_head.py.
Deviations: from the paper none known; where its text leaves a choice, this is the authors' code. From the code: ranks
are sorted by local rank and then by IoU or score, not by their sum, which rounds near-equal ones together; equal ones
go to the earlier row, which the code leaves open. Objects are told apart over the whole batch; the code mixes them up
from the third image on. A sampler's weight multiplies all three terms; the code puts that of positives, always 1, into
u. NMS-match compares IoUs in fp64 with the fp32 below the threshold. CARL takes no probability below 1e-9. The sums
that ISR-P keeps and that CARL divides by are those of all processes; ranks, n_max and sampling are those of each
process, as in the code, so that ISR-P depends on how images are spread over processes.
Stages: dense (ISR-P and CARL) and roi (these and, with ``sampled``, score-HLR sampling with ISR-N).
Recipe: positive_power 2, positive_bias 0, carl_power 1, carl_bias .2. Dense: sigmoid focal loss, alpha .25, gamma 2,
prior .01, normalizer batch (M = n+), box_beta .11, gradients clipped at norm 35. RoI: softmax, normalizer sampled (M =
number of RoIs), box_beta 1, 2,000 proposals, sampled 512, foreground_share .25, negative_power .5, negative_bias 0,
score_floor .05, cluster_iou .5.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import box_iou

from imbdet.distributed import total
from imbdet.geometry import nms_in_groups
from imbdet.heads import Activation, HeadSpec
from imbdet.losses import ClassificationLoss, Focal, softmax_cross_entropy
from imbdet.methods._base import Alpha, Beta, Gamma, Method, Prior, two_terms
from imbdet.normalizers import NormalizerName
from imbdet.samplers import Sampler, fill_slots, ranks_in_groups, within_quotas
from imbdet.samples import Candidates, Kept, Samples, Stage
from imbdet.weighting import keep_total

Power = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(gt=0)]
# Of CARL, whose scores could otherwise all be 0 where carl_bias is, and have no derivative there with a power below 1.
LEAST_PROBABILITY = 1e-9
LEADERS = 128  # that are compared with the boxes they may lead at a time: all at once would take gigabytes


class PISA(Method):
    """Classification weighed by rank among the positives (ISR-P), and a box loss weighed by score (CARL) as third term.

    activation, alpha, gamma, prior_prob: sigmoid focal loss, or softmax cross entropy (alpha null, gamma 0).
    positive_power, positive_bias: gamma and beta of ISR-P. Bias 1 is the plain loss.
    carl_power, carl_bias: k and b of CARL. Bias 1 counts the box loss twice.
    sampled, foreground_share, negative_power, negative_bias, score_floor, cluster_iou: see :class:`ScoreHLRSampler`;
        all null leaves the sampling to the study.

    Raises ValueError for some of the sampler's parameters without the others, or with sigmoid.
    """

    stages: ClassVar[frozenset[Stage]] = frozenset({"dense", "roi"})

    def __init__(
        self,
        activation: Activation,
        alpha: Alpha,
        gamma: Gamma,
        prior_prob: Prior,
        normalizer: NormalizerName,
        box_beta: Beta,
        positive_power: Power,
        positive_bias: Share,
        carl_power: Power,
        carl_bias: Share,
        sampled: Count | None,
        foreground_share: Share | None,
        negative_power: Power | None,
        negative_bias: Share | None,
        score_floor: Share | None,
        cluster_iou: Share | None,
    ) -> None:
        super().__init__(HeadSpec(activation, prior_prob), normalizer, box_beta)
        self.loss = ClassificationLoss(activation, Focal(gamma), alpha)
        self.positive_power, self.positive_bias = positive_power, positive_bias
        self.carl_power, self.carl_bias = carl_power, carl_bias
        self.score_hlr = _score_hlr(
            activation, sampled, foreground_share, negative_power, negative_bias, score_floor, cluster_iou
        )

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        class_rows = self.loss(samples.logits, samples.label, self.compiled)
        box_rows = self.box_rows(samples)
        divisor = self.normalizer(samples)
        weighed = self.positive_weights(samples, class_rows) * class_rows
        carl = self.carl_weights(samples) * box_rows
        return {
            **two_terms(samples, weighed, box_rows, divisor),
            "carl": (samples.weight * carl / divisor).sum(),
        }

    def sampler(self) -> Sampler | None:
        return self.score_hlr

    @torch.no_grad()
    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        """``rank``: int64 IoU-HLR of the positives, 0 the best of its class, -1 elsewhere. ``class_weight``: what
        multiplies the classification loss, the sampler's weight included. ``iou``: of predicted box and ground truth.
        """
        rows = self.loss(samples.logits, samples.label)
        return {
            "rank": iou_ranks(samples)[0],
            "class_weight": samples.weight * self.positive_weights(samples, rows),
            "iou": samples.predicted_iou,
        }

    def positive_weights(self, samples: Samples, class_rows: Tensor) -> Tensor:
        """ISR-P: [N] weights of the classification losses [N], without gradient; 1 where not foreground."""
        weight = importance(*iou_ranks(samples), self.positive_bias, self.positive_power).to(class_rows.dtype)
        return keep_total(weight, samples.weight * class_rows, samples.foreground)

    def carl_weights(self, samples: Samples) -> Tensor:
        """CARL's c: [N], of mean 1 over the positives of all processes, with gradient; 0 where not foreground."""
        if self.head.activation == "sigmoid":
            probability = torch.sigmoid(samples.target_logits)
        else:
            probability = torch.exp(-softmax_cross_entropy(samples.logits, samples.label))
        score = self.carl_bias + (1 - self.carl_bias) * probability.clamp(min=LEAST_PROBABILITY)
        score = torch.where(samples.foreground, score**self.carl_power, 0.0)
        sums = total(torch.stack([score.sum(), samples.foreground.sum().to(score.dtype)]))
        return score / sums[0].clamp(min=torch.finfo(score.dtype).tiny) * sums[1]


def importance(rank: Tensor, number: Tensor, bias: float, power: float) -> Tensor:
    """ISR: ranks 0..number-1, int64, to weights in fp64: linear from 1 to 1 / number, then shifted and raised."""
    share = (number - rank).double() / number
    weight: Tensor = (bias + (1 - bias) * share) ** power
    return weight


def iou_ranks(samples: Samples) -> tuple[Tensor, Tensor]:
    """IoU-HLR: [N] int64 ranks of the positives among their class, -1 elsewhere; the largest class's size, at least 1.

    The best predicted box of each object comes first, then the second best of each, and so on.
    """
    foreground = samples.foreground
    label = torch.where(foreground, samples.label, -1)
    ranks = hierarchical_ranks(samples.predicted_iou, torch.where(foreground, samples.gt_id, -1), label)
    counts = torch.zeros(samples.num_classes, dtype=torch.int64, device=label.device)
    counts = counts.index_add(0, label.clamp(min=0), foreground.long())
    return torch.where(foreground, ranks, -1), counts.max().clamp(min=1)


def hierarchical_ranks(value: Tensor, subgroup: Tensor, group: Tensor) -> Tensor:
    """Rank of each row in its group, 0 first: by local rank, that by value in its subgroup, then by value.

    Args:
        value: [N], the highest is the best. Of equal ones the earlier row comes first.
        subgroup, group: [N] int64 ids, of which a subgroup lies within one group.

    Returns:
        [N] int64.
    """
    best_first = value.argsort(descending=True, stable=True)
    local = _places(subgroup, best_first)
    return _places(group, best_first[local[best_first].argsort(stable=True)])


def _places(group: Tensor, order: Tensor) -> Tensor:
    """Place of each row in its group, 0 first, where [N] ``order`` lists all rows."""
    order = order[group[order].argsort(stable=True)]
    ordered = group[order]
    place = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
    return torch.empty_like(order).scatter_(0, order, place)


@dataclass(frozen=True)
class ScoreHLRSampler:
    """Positives at random as :class:`imbdet.samplers.RandomSampler`; negatives by score-HLR, with the weights of ISR-N.

    Negatives with a foreground score above ``score_floor`` are clustered by their predicted boxes (NMS-match). The best
    of each cluster come first, then the second best, and so on; what is missing in number is drawn from the others.
    Weights fall with the rank and keep each image's sum of cross entropies; those drawn have the lowest. The head is
    softmax. The host waits for the device twice a batch: for the rows above the floor, and in the NMS.

    sampled: number of candidates of each image. foreground_share: at most this share of them is foreground.
    negative_power, negative_bias: gamma and beta of ISR-N.
    score_floor: lowest score that is ranked, exclusive. cluster_iou: IoU at which boxes share a cluster, inclusive.
    """

    sampled: int
    foreground_share: float
    negative_power: float
    negative_bias: float
    score_floor: float
    cluster_iou: float

    def __call__(self, candidates: Candidates, score: Callable[[], Samples], generator: torch.Generator | None) -> Kept:
        images, image = candidates.num_images, candidates.image_id
        foreground, background = candidates.foreground, candidates.label == candidates.num_classes
        keys = torch.rand(len(image), generator=generator, device=image.device, dtype=torch.float64)
        fg_rank, fg_count = ranks_in_groups(keys, image, foreground, images)
        samples = score()
        hlr, ranked = self.score_ranks(samples)
        rest_rank, rest_count = ranks_in_groups(keys, image, background & (hlr < 0), images)
        bg_rank = torch.where(hlr < 0, ranked[image] + rest_rank, hlr)
        ranks, counts = torch.where(foreground, fg_rank, bg_rank), (fg_count, ranked + rest_count)
        keep, slot = within_quotas(candidates, ranks, *counts, self.sampled, self.foreground_share)
        kept, keep_bg = fill_slots(keep, slot, images * self.sampled), keep & background
        bg_kept = torch.zeros_like(ranked).index_add(0, image, keep_bg.long())
        # Those drawn weigh as the last ranked one, and all the same where there is none.
        last = (ranked - 1).clamp(min=0)[image]
        number = torch.maximum(bg_kept, ranked)[image]
        weight = importance(torch.minimum(bg_rank, last), number, self.negative_bias, self.negative_power)
        weight = keep_image_totals(weight, samples, keep_bg)
        return replace(kept, weight=torch.where(kept.valid, weight[kept.index], 1.0))

    def score_ranks(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """Score-HLR: [N] int64 rank of each negative above the floor in its image, -1 elsewhere; [B] their counts."""
        score, best_class = HeadSpec("softmax", None).scores(samples.logits).max(1)
        above = (samples.label == samples.num_classes) & (score > self.score_floor)
        # The box of the best class, as if this were the row's label.
        boxes = replace(samples, label=torch.where(above, best_class, -1)).predicted_boxes
        rows = above.nonzero()[:, 0]
        leader = nms_match(boxes[rows], score[rows], samples.image_id[rows], self.cluster_iou)
        cluster = torch.full_like(samples.label, -1).index_copy(0, rows, rows[leader])
        ranks = hierarchical_ranks(score, cluster, torch.where(above, samples.image_id, -1))
        counts = torch.zeros(samples.num_images, dtype=torch.int64, device=score.device)
        return torch.where(above, ranks, -1), counts.index_add(0, samples.image_id, above.long())


def nms_match(boxes: Tensor, score: Tensor, image: Tensor, least_iou: float) -> Tensor:
    """Greedy NMS in each image, where every box that is kept leads those that it suppresses.

    Args:
        boxes: [V, 4] xyxy pixels.
        score: [V]; of equal ones the earlier row comes first.
        image: [V] int64.
        least_iou: IoU from which a box suppresses another.

    Returns:
        [V] int64, each row's leader, itself where it was kept.
    """
    order = score.argsort(descending=True, stable=True)
    if not len(order):
        return order
    boxes, image = boxes.double()[order], image[order]
    # torchvision suppresses above a threshold, which its kernel takes as fp32.
    below = float(np.nextafter(np.float32(least_iou), np.float32(-1)))
    kept = nms_in_groups(boxes, -torch.arange(len(order), device=order.device), image, below)
    leader = order.clone()
    suppressed = torch.ones_like(order).index_fill_(0, kept, 0).topk(len(order) - len(kept)).indices
    for part in reversed(kept.split(LEADERS)):  # so that the first leader has the last word
        overlap = box_iou(boxes[part], boxes[suppressed]) > below
        leads, first = (overlap & (image[part, None] == image[suppressed])).max(0)
        leader[suppressed] = torch.where(leads, order[part[first]], leader[suppressed])
    return torch.empty_like(order).scatter_(0, order, leader)


def keep_image_totals(weight: Tensor, samples: Samples, rows: Tensor) -> Tensor:
    """[N] weights scaled so that each image's cross entropies over ``rows`` [N] sum to what they did; 1 elsewhere."""
    loss = torch.where(rows, softmax_cross_entropy(samples.logits, samples.label), 0.0)
    weight = torch.where(rows, weight.to(loss.dtype), 1.0)
    sums = loss.new_zeros(2, samples.num_images)
    before, after = sums.index_add(1, samples.image_id, torch.stack([loss, weight * loss]))
    scale = torch.where(after > 0, before / after, 1.0)
    return torch.where(rows, weight * scale[samples.image_id], 1.0)


def _score_hlr(activation: Activation, *parameters: Any) -> ScoreHLRSampler | None:
    """The sampler with its parameters, or none where they all are null."""
    if all(value is None for value in parameters):
        return None
    names = [field.name for field in fields(ScoreHLRSampler)]
    if None in parameters:
        raise ValueError(f"{', '.join(names)} belong together, all with a value or all null: got {parameters}")
    if activation == "sigmoid":
        raise ValueError(f"score-HLR sampling is for softmax heads, set {', '.join(names)} to null for sigmoid")
    return ScoreHLRSampler(*parameters)

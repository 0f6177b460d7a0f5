"""Online hard example mining (OHEM): a head trains on the proposals that it gets most wrong.

Paper: A. Shrivastava, A. Gupta, R. Girshick, Training Region-based Object Detectors with Online Hard Example Mining,
CVPR 2016.
Equations: none; the algorithm of section 4.1. The loss of every proposal without gradient, NMS with the loss as score,
then the ordinary loss on the B proposals of highest loss, with no quota of foreground.
Official code: abhi2610/ohem 1f07dd0 (lib/roi_data_layer/minibatch.py, layer.py).
Deviations: variant "paper" does as the text, which names no label: NMS among all proposals of an image, then B / N of
each of the N images. Variant "code": NMS among those of an image with the same label, then the B hardest of all images
of a process (the code's recipe has one). B is ``per_image`` times N. Unlike the code: IoU without its pixel (+1), and
no bound on the cross entropy (there 36). mmdetection's OHEMSampler is another algorithm: no NMS, 25 % foreground,
classification loss.
Stages: roi.
Recipe: per_image 64 (the paper's B 128 of 2 images; twice 64 of 1 in the code), nms_iou .7, softmax, normaliser
"sampled", smooth L1 with beta 1 on offsets weighted 10, 10, 5, 5; foreground from an IoU of .5, background all below,
without Fast R-CNN's lower bound of .1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from imbdet.geometry import nms_in_groups
from imbdet.heads import Activation, HeadSpec
from imbdet.losses import ClassificationLoss, CrossEntropy
from imbdet.methods._base import Beta, Method, Prior, two_terms
from imbdet.normalizers import NormalizerName
from imbdet.samplers import fill_slots, ranks_in_groups
from imbdet.samples import Candidates, Kept, Samples, Stage

PerImage = Annotated[int, Field(ge=1)]
NmsIoU = Annotated[float, Field(ge=0, le=1)] | None
Variant = Literal["paper", "code"]
FIRST_TRIED = 4  # candidates that NMS starts with, for each that is wanted: many overlap a harder one


class OHEM(Method):
    """Cross entropy and smooth L1 loss of the proposals that :class:`HardExamples` chooses by their sum.

    variant: where paper and code differ; see above.
    per_image: B, the proposals of a mini-batch, over its number of images.
    nms_iou: a proposal that overlaps one of higher loss by more than this is left out; None for no NMS.
    """

    stages: ClassVar[frozenset[Stage]] = frozenset({"roi"})

    def __init__(
        self,
        variant: Variant,
        per_image: PerImage,
        nms_iou: NmsIoU,
        activation: Activation,
        prior_prob: Prior,
        normalizer: NormalizerName,
        box_beta: Beta,
    ) -> None:
        super().__init__(HeadSpec(activation, prior_prob), normalizer, box_beta)
        self.loss = ClassificationLoss(activation, CrossEntropy(), alpha=None)
        self.hard_examples = HardExamples(self.losses, variant, per_image, nms_iou)

    def sampler(self) -> "HardExamples":
        return self.hard_examples

    def losses(self, samples: Samples) -> Tensor:
        """[N] losses of class and box, by which proposals are chosen."""
        return self.loss(samples.logits, samples.label, self.compiled) + self.box_rows(samples)

    def forward(self, samples: Samples) -> dict[str, Tensor]:
        class_rows = self.loss(samples.logits, samples.label, self.compiled)
        return two_terms(samples, class_rows, self.box_rows(samples), self.normalizer(samples))

    @torch.no_grad()
    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        """``selected``: 1 for the rows that the sampler would choose from these, 0 for the others."""
        kept = self.hard_examples(samples, lambda: samples, None)
        return {"selected": torch.zeros_like(samples.weight).index_add(0, kept.index, kept.valid.to(samples.weight))}


@dataclass(frozen=True)
class HardExamples:
    """The candidates of highest loss after NMS by loss: ``per_image`` of each image, or as many of a batch in all.

    Where fewer are left after NMS, slots stay empty. Ignored candidates are never chosen and suppress nothing. With
    several processes, each chooses among its own images.

    losses: [N] losses of candidates that a head has seen.
    """

    losses: Callable[[Samples], Tensor]
    variant: Variant
    per_image: int
    nms_iou: float | None

    def __call__(self, candidates: Candidates, score: Callable[[], Samples], generator: torch.Generator | None) -> Kept:
        key = hardest_first(self.losses(score()))
        image, images = candidates.image_id, candidates.num_images
        pool, pools = (image, images) if self.variant == "paper" else (torch.zeros_like(image), 1)
        number = self.per_image * images // pools
        left, rank = self.left_by_nms(candidates, key, pool, pools, number)
        return fill_slots(left & (rank < number), pool * number + rank, pools * number)

    def left_by_nms(
        self, candidates: Candidates, key: Tensor, pool: Tensor, pools: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """[N] bool and [N] ranks in their pool: hardest candidates that NMS leaves, ``number`` or more if there are.

        NMS takes candidates by descending loss, and whether one is left depends on harder ones alone: of the k hardest,
        it leaves the same as of all. So it runs on the k hardest of each pool, and on twice as many where too few are
        left. For each k it waits for the device three times, whatever the number of images.
        """
        usable, image = candidates.label >= 0, candidates.image_id
        rank, count = ranks_in_groups(key, pool, usable, pools)
        if self.nms_iou is None:
            return usable, rank
        group = image if self.variant == "paper" else image * (candidates.num_classes + 1) + candidates.label
        k = FIRST_TRIED * number
        while True:
            left = left_in_groups(candidates.priors, key, group, usable & (rank < k), self.nms_iou)
            left_rank, found = ranks_in_groups(key, pool, left, pools)
            if ((found >= number) | (count <= k)).all():
                return left, left_rank
            k *= 2


def hardest_first(losses: Tensor) -> Tensor:
    """[N] losses to [N] different fp64 keys in [0, 1), lowest for the highest loss; of equal losses the first row's."""
    order = losses.argsort(descending=True, stable=True)
    places = torch.arange(len(order), dtype=torch.float64, device=order.device) / len(order)
    return torch.empty_like(places).scatter_(0, order, places)


def left_in_groups(boxes: Tensor, key: Tensor, group: Tensor, member: Tensor, iou: float) -> Tensor:
    """Greedy NMS within each group; see :func:`imbdet.geometry.nms_in_groups`. It waits for the device twice.

    Args:
        boxes: [N, 4] xyxy pixels.
        key: [N] fp64, in whose ascending order boxes are taken.
        group: [N] int64, at least 0.
        member: [N] bool, rows that take part.
        iou: a box that overlaps one taken before by more than this is left out.

    Returns:
        [N] bool, the members that are left.
    """
    rows = member.nonzero()[:, 0]
    left = nms_in_groups(boxes[rows], -key[rows], group[rows], iou)
    return torch.zeros_like(member).index_fill(0, rows[left], True)

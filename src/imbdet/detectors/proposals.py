"""From RPN's outputs to proposals, and from proposals to the features of each. No gradient reaches the boxes."""

import torch
from torch import Tensor
from torchvision.ops import roi_align

from imbdet.geometry import BoxCoder, clip, nms_in_groups
from imbdet.settings import Proposals

SMALLEST = 1e-3  # pixels; torchvision drops proposals with a shorter side
P4 = 4  # the level that boxes of the canonical size are pooled from


@torch.no_grad()
def propose(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    counts: list[int],
    sizes: Tensor,
    coder: BoxCoder,
    limits: Proposals,
    nms_iou: float,
) -> list[Tensor]:
    """The proposals of each image, best first (Ren et al. 2015, section 3.1; Lin et al. 2017, FPN, section 4.1).

    Ranked by logits: torchvision's probabilities round to 1 from a logit of 17 on, in bf16 from 6 on.

    Args:
        logits, deltas: [B, A] of object or not, and [B, A, 4].
        anchors, counts: [A, 4] fp32 xyxy pixels; how many of them each level has.
        sizes: [B, 2] height and width of each image inside the padded one.
        coder: what ``deltas`` mean.
        limits: of each level's candidates and of the proposals kept.
        nms_iou: of suppression within each level.

    Returns:
        For each image [P, 4] fp32 xyxy pixels, P at most ``limits.kept``. Waits for the device, for all images
        at once (see :func:`imbdet.geometry.nms_in_groups`).
    """
    best, levels, first = [], [], 0
    for level, part in enumerate(logits.split(counts, dim=1)):
        best.append(first + part.topk(min(limits.candidates_per_level, part.shape[1]), dim=1).indices)
        levels.append(torch.full_like(best[-1][0], level))
        first += part.shape[1]
    index, level_of = torch.cat(best, dim=1), torch.cat(levels)
    boxes = coder.decode(deltas.gather(1, index[..., None].expand(-1, -1, 4)), anchors[index])
    boxes = clip(boxes, sizes[:, None])
    # Boxes without area come after all others, where they suppress nothing and each level keeps its number of rows.
    whole = ((boxes[..., 2:] - boxes[..., :2]) >= SMALLEST).all(-1)
    scores = torch.where(whole, logits.gather(1, index).float(), -torch.inf).flatten()
    images = torch.arange(len(boxes), device=boxes.device)
    group = images[:, None] * len(counts) + level_of
    boxes = boxes.flatten(0, 1)
    rows = nms_in_groups(boxes, scores, group.flatten(), nms_iou)
    rows = rows[whole.flatten()[rows]]
    image_of = rows // len(level_of)
    of_image = (image_of == images[:, None]).sum(1).tolist()
    by_image = rows[image_of.argsort(stable=True)].split(of_image)
    return [boxes[part[: limits.kept]] for part in by_image]


def pool(
    features: list[Tensor],
    strides: tuple[int, ...],
    boxes: Tensor,
    images: Tensor,
    pool_size: int,
    sampling_ratio: int,
    canonical_size: float,
) -> Tensor:
    """Features inside each box, from the level that fits its size (Lin et al. 2017, FPN, equation 1).

    Args:
        features, strides: [B, channels, h, w] of each level, finest first, and its stride, a power of 2.
        boxes, images: [P, 4] fp32 xyxy pixels and [P] int64 position in the batch.
        pool_size, sampling_ratio: of RoIAlign, as torchvision has it; detectron2 shifts it by half a pixel.
        canonical_size: side of the boxes that are pooled from P4, pixels.

    Returns:
        [P, channels, pool_size, pool_size]. Waits for the device once, for the number of boxes of each level.
    """
    side = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    lowest = strides[0].bit_length() - 1
    fitting = (P4 + torch.log2(side / canonical_size) + 1e-6).floor().long()
    level = fitting.clamp(lowest, lowest + len(features) - 1) - lowest
    order = level.argsort(stable=True)
    counts = torch.zeros(len(features), dtype=torch.int64, device=boxes.device)
    counts = counts.index_add(0, level, torch.ones_like(level))
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)[order]
    pooled = [
        roi_align(feature, part, pool_size, 1 / stride, sampling_ratio)
        for feature, part, stride in zip(features, rois.split(counts.tolist()), strides, strict=True)
    ]
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return torch.cat(pooled)[back]

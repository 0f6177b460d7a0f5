"""Matched candidates as a detector in training has them: boxes drawn at random, anchors or proposals, predictions."""

from dataclasses import fields, replace

import torch
from torch import Tensor

from imbdet.assigners import BACKGROUND, FOREGROUND, IGNORED, MaxIoUAssigner, Truth
from imbdet.detectors.anchors import Anchors
from imbdet.geometry import BoxCoder
from imbdet.heads import Activation
from imbdet.samplers import RandomSampler
from imbdet.samples import Candidates, Samples, dense_candidates, proposal_candidates

HEIGHT, WIDTH = 640, 512  # pixels
BOXES = 8  # an image; COCO has 7
CLASSES = 80
SIZES = [[s, s * 2 ** (1 / 3), s * 2 ** (2 / 3)] for s in (32, 64, 128, 256, 512)]
RETINANET = Anchors(SIZES, [0.5, 1.0, 2.0], (8, 16, 32, 64, 128))
MAX_IOU = MaxIoUAssigner(0.5, 0.4, "argmax")
FAST_RCNN = MaxIoUAssigner(0.5, 0.5, "off")
FOREGROUND_SHARE = 0.25


def draw_truth(images: int, random: torch.Generator) -> Truth:
    """``BOXES`` boxes in each image, of sides from 24 to 320 pixels, evenly distributed in their logarithm."""
    boxes = _draw_boxes(images * BOXES, random)
    labels = torch.randint(CLASSES, (len(boxes),), generator=random)
    none = torch.zeros(0, dtype=torch.int64)
    return Truth(boxes, labels, torch.arange(images).repeat_interleave(BOXES), torch.zeros(0, 4), none, images)


def draw_anchors(number: int) -> tuple[Tensor, Tensor]:
    """[A, 4] anchors and [A] levels: ``number`` of RetinaNet's, evenly thinned out, so that every level stays."""
    anchors, levels = RETINANET(HEIGHT, WIDTH)
    rows = torch.arange(number) * len(anchors) // number
    return anchors[rows], levels[rows]


def dense_samples(images: int, anchors: int, foreground: int, activation: Activation) -> Samples:
    """Every anchor of a batch; foreground are the ``foreground`` of each image that overlap their box most."""
    random = torch.Generator().manual_seed(0)
    truth = draw_truth(images, random)
    boxes, levels = draw_anchors(anchors)
    matches = MAX_IOU(boxes, truth)
    status = torch.where(matches.iou < MAX_IOU.background_iou, BACKGROUND, IGNORED)
    status = status.scatter(1, matches.iou.topk(foreground).indices, FOREGROUND)
    matches = replace(matches, status=status)
    candidates = dense_candidates(boxes, levels, matches, truth.boxes, truth.labels, BoxCoder(), CLASSES, "dense")
    return predict(candidates, truth, activation, 1, random)


def proposal_samples(images: int, proposals: int, activation: Activation) -> Samples:
    """Proposals of a batch, two in five around the boxes, the others anywhere, with predictions for all of them."""
    random = torch.Generator().manual_seed(0)
    truth = draw_truth(images, random)
    near = 2 * proposals // 5
    around = truth.boxes.view(images, BOXES, 4)[:, torch.arange(near) % BOXES]
    size = (around[..., 2:] - around[..., :2]) / 2
    centre = around[..., :2] + size + 0.5 * size * torch.randn(size.shape, generator=random)
    size = size * torch.exp(0.3 * torch.randn(size.shape, generator=random))
    anywhere = _draw_boxes(images * (proposals - near), random).view(images, -1, 4)
    boxes = torch.cat([torch.cat([centre - size, centre + size], 2), anywhere], 1).flatten(0, 1)
    image = torch.arange(images).repeat_interleave(proposals)
    matches = FAST_RCNN.match_proposals(boxes, image, truth)
    candidates = proposal_candidates(boxes, image, matches, truth, BoxCoder((10.0, 10.0, 5.0, 5.0)), CLASSES)
    return predict(candidates, truth, activation, CLASSES, random)


def roi_samples(images: int, proposals: int, sampled: int, activation: Activation) -> Samples:
    """The RoI head's sample of the proposals, ``sampled`` of each image."""
    every = proposal_samples(images, proposals, activation)
    kept = RandomSampler(sampled, FOREGROUND_SHARE)(every, lambda: every, torch.Generator().manual_seed(0))
    return every.select(kept).predicted(every.logits[kept.index], every.deltas[kept.index], every.generator)


def predict(
    candidates: Candidates, truth: Truth, activation: Activation, columns: int, random: torch.Generator
) -> Samples:
    """Predictions of a detector in training: noise, and more for the class of a box the more the prior overlaps it.

    Probabilities of a sigmoid head are near .02, near .4 for the foreground's own class; a softmax head gives .7 to the
    background where it is right. Offsets miss their target by a tenth of the prior's size.
    """
    logits = torch.randn(len(candidates.label), CLASSES, generator=random)
    own = truth.labels[candidates.gt_id][:, None]
    if activation == "sigmoid":
        logits = logits.scatter_add(1, own, 6 * candidates.prior_iou[:, None]) - 4
    else:
        logits = logits.scatter_add(1, own, 10 * candidates.prior_iou[:, None])
        logits = torch.cat([logits, torch.full((len(logits), 1), 6.0)], 1)
    noise = 0.1 * torch.randn(len(logits), columns, 4, generator=random)
    deltas = candidates.delta_targets[:, None] + noise * torch.tensor(candidates.box_coder.weights)
    return candidates.predicted(logits, deltas, torch.Generator().manual_seed(0))


def to(samples: Samples, device: torch.device) -> Samples:
    """The same samples on a device, their predictions leaves that collect a gradient."""
    tensors = {f.name: getattr(samples, f.name) for f in fields(samples)}
    moved = {name: x.to(device) for name, x in tensors.items() if isinstance(x, Tensor)}
    inputs = {name: moved[name].detach().clone().requires_grad_() for name in ("logits", "deltas")}
    return replace(samples, **{**moved, **inputs}, generator=torch.Generator(device).manual_seed(0))


def _draw_boxes(number: int, random: torch.Generator) -> Tensor:
    """[N, 4] xyxy boxes within the image."""
    low, high = torch.tensor(24.0).log(), torch.tensor(320.0).log()
    size = torch.exp(low + (high - low) * torch.rand(number, 2, generator=random))
    corner = torch.rand(number, 2, generator=random) * (torch.tensor([WIDTH, HEIGHT]) - size)
    return torch.cat([corner, corner + size], 1)

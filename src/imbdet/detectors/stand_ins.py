"""What :func:`imbdet.attach` puts in the place of torchvision's functions, each with the same arguments and results."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image

from imbdet.assigners import MaxIoUAssigner, Truth
from imbdet.detectors.base import suppress
from imbdet.detectors.faster_rcnn import SMALLEST
from imbdet.detectors.targets import Targets, check_form, join_targets, positions
from imbdet.geometry import BoxCoder
from imbdet.samplers import RandomSampler
from imbdet.samples import Candidates, Kept, Samples, Stage, dense_candidates, proposal_candidates

ATTACH_LAST = "Build the model anew, replace its parts, and attach last"


def check_training(
    changed: Mapping[str, nn.Module], model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Check a call of a model in training: the modules that ``attach`` put in or changed, and the form of the targets.

    Raises ValueError where such a module was lost, or where torchvision would fail at the targets without a message.
    """
    if not model.training:
        return
    _refuse_replaced(changed, model)
    given = dict(zip(("images", "targets"), args, strict=False)) | kwargs
    check_form(given.get("targets"), len(given["images"]))


def _refuse_replaced(changed: Mapping[str, nn.Module], model: nn.Module) -> None:
    """Raise ValueError for a module that is no longer where its name says; one inside a wrapper is not lost."""
    for name, module in changed.items():
        part = getattr(model, name.split(".")[0], None)
        if part is None or all(module is not other for other in part.modules()):
            raise ValueError(f"model.{name} was replaced after imbdet.attach, which had set it up. {ATTACH_LAST}")


def remember_levels(head: Any, inputs: tuple[list[Tensor]], outputs: dict[str, Tensor]) -> None:
    """torchvision hands the anchors of all levels to the loss as one tensor; keep the number of each level."""
    (features,) = inputs
    cells = [feature[0, 0].numel() for feature in features]
    per_cell = outputs["cls_logits"].shape[1] // sum(cells)
    head.level_counts = [per_cell * count for count in cells]


def dense_losses(
    model: Any, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor]
) -> dict[str, Tensor]:
    """Stands in for :meth:`torchvision.models.detection.RetinaNet.compute_loss`."""
    logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
    classes = logits.shape[-1] - (model.method.head.activation == "softmax")
    truth = join_targets(targets, len(anchors), classes, first=0)
    coder = _box_coder(model.head.regression_head.box_coder)
    candidates = _match_anchors(model, _shared(anchors), model.head.level_counts, truth, coder, classes, "dense")
    losses: dict[str, Tensor] = model.method(candidates.predicted(logits.flatten(0, 1), deltas.flatten(0, 1)[:, None]))
    return losses


def softmax_detections(model: Any, head_outputs: dict[str, list[Tensor]], anchors: Any, image_shapes: Any) -> Any:
    """torchvision's own detections, which take the sigmoid of what they are given, of softmax probabilities."""
    of_level = [torch.logit(model.method.head.scores(logits)) for logits in head_outputs["cls_logits"]]
    outputs = {**head_outputs, "cls_logits": of_level}
    return type(model).postprocess_detections(model, outputs, anchors, image_shapes)


def rpn_forward(
    rpn: Any, images: Any, features: dict[str, Tensor], targets: Targets | None = None
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Stands in for :meth:`torchvision.models.detection.rpn.RegionProposalNetwork.forward`."""
    if not rpn.training or targets is None:
        result: tuple[list[Tensor], dict[str, Tensor]] = type(rpn).forward(rpn, images, features, targets)
        return result
    levels = list(features.values())
    of_level = rpn.head(levels)
    anchors = rpn.anchor_generator(images, levels)
    priors, truth = _shared(anchors), join_targets(targets, len(anchors), 1, first=None)
    counts = [logits[0].numel() for logits in of_level[0]]
    logits, deltas = concat_box_prediction_layers(*of_level)
    boxes = rpn.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
    proposals, _ = rpn.filter_proposals(boxes, logits, images.image_sizes, counts)

    candidates = _match_anchors(rpn, priors, counts, truth, _box_coder(rpn.box_coder), 1, "rpn")
    deltas = deltas[:, None]
    kept = _sample(rpn, candidates, lambda: candidates.predicted(logits.detach(), deltas.detach()))
    losses = rpn.method(candidates.select(kept).predicted(logits[kept.index], deltas[kept.index]))
    return proposals, {f"rpn_{name}": loss for name, loss in losses.items()}


def roi_forward(
    heads: Any,
    features: dict[str, Tensor],
    proposals: list[Tensor],
    image_shapes: list[tuple[int, int]],
    targets: Targets | None = None,
) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """Stands in for :meth:`torchvision.models.detection.roi_heads.RoIHeads.forward`."""
    if not heads.training or targets is None:
        result: tuple[list[dict[str, Tensor]], dict[str, Tensor]]
        result = type(heads).forward(heads, features, proposals, image_shapes, targets)
        return result
    softmax = heads.method.head.activation == "softmax"
    classes = _num_classes(heads)
    proposals = [_single(boxes, "proposals") for boxes in proposals]
    truth = join_targets(targets, len(image_shapes), classes, first=1)

    def predict(rows: Candidates) -> Samples:
        """Rows in the order of their images."""
        counts = rows.image_id.bincount(minlength=rows.num_images).tolist()
        pooled = heads.box_roi_pool(features, list(rows.priors.split(counts)), image_shapes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        _check_columns(heads, logits, deltas)
        # torchvision's first column is the background's, and its first four offsets are for nothing.
        return rows.predicted(logits.roll(-1, 1) if softmax else logits, deltas.unflatten(1, (-1, 4))[:, 1:])

    if not any(map(len, proposals)) and not len(truth.boxes):
        # RPN sends every box out of its image and there is no ground truth: take the images.
        proposals = [boxes.new_tensor([[0, 0, w, h]]) for boxes, (h, w) in zip(proposals, image_shapes, strict=True)]
    candidates = _match_proposals(heads, proposals, truth, classes)
    kept = _sample(heads, candidates, lambda: predict(candidates))
    rows = kept.valid.nonzero()[:, 0]  # slots that stayed empty are not worth pooling, here where the host waits anyway
    rows = rows[candidates.image_id[kept.index[rows]].argsort(stable=True)]
    losses = heads.method(predict(candidates.select(Kept(kept.index[rows], kept.valid[rows], kept.weight[rows]))))
    return [], {f"roi_{name}": loss for name, loss in losses.items()}


def sigmoid_detections(
    heads: Any, logits: Tensor, deltas: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Stands in for torchvision's postprocess_detections, which takes the softmax of all columns: boxes, scores, labels
    of each image, every class of every proposal by itself.
    """
    _check_columns(heads, logits, deltas)
    counts = [len(boxes) for boxes in proposals]
    scores: Tensor = heads.method.head.scores(logits)
    labels = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(scores)
    decoded = heads.box_coder.decode(deltas, proposals).reshape(len(scores), scores.shape[1] + 1, 4)[:, 1:]
    limits = heads.score_thresh, heads.nms_thresh, heads.detections_per_img
    found = []
    for boxes, label, score, shape in zip(
        decoded.split(counts), labels.split(counts), scores.split(counts), image_shapes, strict=True
    ):
        inside = clip_boxes_to_image(boxes, shape)
        whole = ((inside[..., 2:] - inside[..., :2]) >= SMALLEST).all(-1)
        found.append(suppress(inside[whole], label[whole], score[whole], *limits))
    return [image.boxes for image in found], [image.scores for image in found], [image.labels for image in found]


def _num_classes(heads: Any) -> int:
    """K, by the columns of the present predictor: one for softmax may have been replaced since ``attach``."""
    layer = getattr(heads.box_predictor, "cls_score", None)
    if layer is None:
        kind = type(heads.box_predictor).__name__
        raise ValueError(f"model.roi_heads.box_predictor is a {kind} without cls_score. {ATTACH_LAST}")
    softmax: bool = heads.method.head.activation == "softmax"
    return int(layer.out_features) - softmax


def _check_columns(heads: Any, logits: Tensor, deltas: Tensor) -> None:
    """Raise ValueError for a predictor whose columns do not fit the method, as one made after ``attach`` has them."""
    columns, offsets = logits.shape[1], deltas.shape[1]
    activation = heads.method.head.activation
    needed = "K" if activation == "sigmoid" else "K + 1"
    if offsets != 4 * (columns + (activation == "sigmoid")):
        raise ValueError(
            f"model.roi_heads.box_predictor gives {columns} columns and {offsets} offsets; "
            f"{type(heads.method).__name__} needs {needed} columns ({activation}) and 4 (K + 1) offsets for K classes. "
            f"If the predictor was replaced after imbdet.attach: {ATTACH_LAST.lower()}"
        )


def _sample(part: Any, candidates: Candidates, score: Callable[[], Samples]) -> Kept:
    """The candidates that the paper's own sampler keeps, or else a random sample with the model's own numbers."""
    numbers = part.fg_bg_sampler
    sampler = part.method.sampler() or RandomSampler(numbers.batch_size_per_image, numbers.positive_fraction)
    with torch.no_grad():
        kept: Kept = sampler(candidates, score, None)
    return kept


def _match_anchors(
    part: Any, priors: Tensor, counts: list[int], truth: Truth, coder: BoxCoder, classes: int, stage: Stage
) -> Candidates:
    """All anchors of all images, matched by the paper's own rule or the model's. ``counts``: anchors of each level."""
    sizes = torch.tensor(counts, device=priors.device)
    levels = torch.arange(len(counts), device=priors.device).repeat_interleave(sizes, output_size=len(priors))
    matches = (part.method.assigner() or _max_iou(part.proposal_matcher))(priors, truth)
    return dense_candidates(priors, levels, matches, truth.boxes, truth.labels, coder, classes, stage)


def _match_proposals(heads: Any, proposals: list[Tensor], truth: Truth, classes: int) -> Candidates:
    """Each image's proposals and, after them, its ground truth, as torchvision has them."""
    found = positions([len(own) for own in proposals], truth.images.device)
    images = torch.cat([found, truth.images])
    order = images.argsort(stable=True)
    boxes, images = torch.cat([*proposals, truth.boxes])[order], images[order]
    matches = _max_iou(heads.proposal_matcher).match_proposals(boxes, images, truth)
    return proposal_candidates(boxes, images, matches, truth, _box_coder(heads.box_coder), classes)


def _shared(anchors: list[Tensor]) -> Tensor:
    """The anchors of each image: images are padded to one size, so that all have the same."""
    return _single(anchors[0], "anchors")


def _single(boxes: Tensor, what: str) -> Tensor:
    """Refuse boxes in another precision; torchvision's have that of the features."""
    if boxes.dtype != torch.float32:
        raise ValueError(
            f"{what} of {boxes.dtype}, expected float32: call model.float() and give images of float32; under autocast "
            "do as imbdet.attach says"
        )
    return boxes


def _max_iou(rule: Any) -> MaxIoUAssigner:
    """The rule of a torchvision Matcher."""
    low_quality = "argmax" if rule.allow_low_quality_matches else "off"
    return MaxIoUAssigner(rule.high_threshold, rule.low_threshold, low_quality)  # type: ignore[arg-type]


def _box_coder(coder: Any) -> BoxCoder:
    """The same as torchvision's."""
    return BoxCoder(tuple(coder.weights), math.exp(coder.bbox_xform_clip))

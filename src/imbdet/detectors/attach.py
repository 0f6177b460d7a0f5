"""Any method of this library in torchvision's own RetinaNet: ``attach(model, method)``."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from imbdet.assigners import MaxIoUAssigner
from imbdet.detectors.boxes import BoxCoder
from imbdet.methods import Method
from imbdet.samples import dense_samples


def attach(model: nn.Module, method: Method) -> None:
    """Make a method the training loss of a :class:`torchvision.models.detection.RetinaNet`.

    ``model(images, targets)`` in training mode then returns the method's losses by name; inference, the network and
    its weights stay as they are, the bias of the classification layer included. The method becomes the submodule
    ``model.method``, which is moved, saved and distributed with the model. Anchors are matched at the model's own
    thresholds. Training raises ValueError where torchvision made the anchors in half precision, as it does under
    autocast, which moves most of them; autocast only the backbone, or use :mod:`imbdet.detectors.retinanet`.

    Raises:
        ValueError: the method is not defined for a dense one-stage head.
    """
    if "dense" not in method.stages:
        raise ValueError(f"{type(method).__name__} is defined for {', '.join(sorted(method.stages))}, not for dense")
    net: Any = model  # torchvision's class has no types
    net.method = method
    net.head.register_forward_hook(_remember_levels)
    net.compute_loss = MethodType(_compute_loss, net)


def _remember_levels(head: Any, inputs: tuple[list[Tensor]], outputs: Any) -> None:
    """torchvision hands the anchors of all levels to the loss as one tensor; keep the number of each level."""
    (features,) = inputs
    head.level_counts = [feature[0, 0].numel() * head.classification_head.num_anchors for feature in features]


def _compute_loss(
    model: Any, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
) -> dict[str, Tensor]:
    """Stands in for :meth:`torchvision.models.detection.RetinaNet.compute_loss`."""
    priors = anchors[0]  # the images are padded to one size, so that all have the same anchors
    if priors.dtype != torch.float32:
        raise ValueError(f"anchors of {priors.dtype}, expected float32; see imbdet.attach about autocast")
    boxes = torch.cat([target["boxes"] for target in targets]).float()
    labels = torch.cat([target["labels"] for target in targets])
    device = boxes.device
    counts = torch.tensor([len(target["boxes"]) for target in targets], device=device)
    images = torch.arange(len(targets), device=device).repeat_interleave(counts, output_size=len(boxes))
    level_counts = torch.tensor(model.head.level_counts, device=device)
    levels = torch.arange(len(level_counts), device=device).repeat_interleave(level_counts, output_size=len(priors))
    rule = model.proposal_matcher
    low_quality = "argmax" if rule.allow_low_quality_matches else "off"
    assigner = MaxIoUAssigner(rule.high_threshold, rule.low_threshold, low_quality)  # type: ignore[arg-type]
    matches = assigner(priors, boxes, images, boxes[:0], images[:0], len(targets))
    logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
    coder = BoxCoder(tuple(model.head.regression_head.box_coder.weights))
    samples = dense_samples(
        logits, deltas, priors, levels, matches, boxes, labels, coder, model.head.classification_head.num_classes
    )
    losses: dict[str, Tensor] = model.method(samples)
    return losses

"""Methods of this library in torchvision's own RetinaNet and Faster R-CNN: ``attach``."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.detection import FasterRCNN, RetinaNet

from imbdet.detectors.base import initialise
from imbdet.detectors.stand_ins import (
    check_training,
    dense_losses,
    remember_levels,
    roi_forward,
    rpn_forward,
    sigmoid_detections,
    softmax_detections,
)
from imbdet.heads import HeadSpec
from imbdet.methods import Method
from imbdet.samples import Stage


def attach(
    model: nn.Module, method: Method | None = None, *, rpn: Method | None = None, roi: Method | None = None
) -> None:
    """Make methods the training losses of torchvision's own model.

    ``attach(model, method)`` is for its RetinaNet, ``attach(model, rpn=..., roi=...)`` for its Faster R-CNN, of which a
    stage without a method stays as it is.

    ``model(images, targets)`` in training mode then returns the methods' losses by name, those of a Faster R-CNN as
    ``rpn_...`` and ``roi_...``. Methods become submodules of what they train (``model.method``, ``model.rpn.method``,
    ``model.roi_heads.method``), which are moved, saved and distributed with the model; parameters that a method learns
    are among ``model.parameters()``. The model's own numbers hold (thresholds of matching, size and share of the
    sample), unless the method's paper brings its own assigner, sampler or score threshold.

    The network, its weights and inference stay as they are, the bias of the classification layer included, unless the
    method asks for other columns: softmax in a RetinaNet, sigmoid in RoI heads. Then the last layer of classification
    is a new one, and inference reads its scores; so attach after loading weights and replacing heads, and
    before making the optimizer.

    Labels are torchvision's: 0 to K-1 of a RetinaNet with K columns, 1 to K of a Faster R-CNN with K + 1. Training
    raises ValueError for others, for another number of labels than of boxes, for boxes whose area in fp32 is not finite
    and above 0, for targets of another form, and where the method or attached parts were replaced since. It refuses
    other precisions than fp32: under autocast torchvision makes anchors in half precision, which moves most of them;
    autocast only the backbone, and hand on its features in fp32.

    Raises:
        ValueError: another kind of model or a wrapper around one, no method or one for a stage that the model lacks,
            something that is no method, a method that is not defined for its stage, softmax for RPN, a stage that has a
            method already, RoI heads with masks or keypoints, or a last layer that cannot be replaced though it has to
            be.
    """
    chosen: dict[Stage, Method | None] = {"dense": method, "rpn": rpn, "roi": roi}
    methods = {stage: given for stage, given in chosen.items() if given is not None}
    parts = _parts(model, methods)
    for stage, part in parts.items():
        _check(part, stage, methods[stage])
    for stage, part in parts.items():
        part.method = methods[stage]
        threshold = methods[stage].head.score_threshold
        if threshold is not None and stage != "rpn":  # RPN's is of proposals
            part.score_thresh = threshold
        changed = _ATTACH[stage](part)
        model.register_forward_pre_hook(partial(check_training, changed), with_kwargs=True)


def _parts(model: Any, methods: Mapping[Stage, Method]) -> dict[Stage, Any]:
    """What the methods train: the RetinaNet itself, RPN, the RoI heads."""
    if isinstance(model, RetinaNet):
        parts: dict[Stage, Any] = {"dense": model}
        call = "attach(model, method)"
    elif isinstance(model, FasterRCNN):
        parts = {"rpn": model.rpn, "roi": model.roi_heads}
        call = "attach(model, rpn=..., roi=...), or one of both"
    else:
        inside = any(isinstance(module, RetinaNet | FasterRCNN) for module in model.modules())
        hint = "; attach to the model inside it first, and wrap the model afterwards" if inside else ""
        kind = type(model).__name__
        raise ValueError(f"a {kind} is not supported, only torchvision's RetinaNet and FasterRCNN{hint}")
    if not methods or not methods.keys() <= parts.keys():
        got = ", ".join(methods) or "none"
        raise ValueError(f"methods of a {type(model).__name__} are given by {call}; got a method for: {got}")
    for stage, method in methods.items():
        if not isinstance(method, Method):
            form = 'imbdet.build_method({"name": ..., parameter: value, ...})'
            raise ValueError(f"the method for {stage} is {method!r}, expected a Method; {form} builds one")
    if len({id(method) for method in methods.values()}) < len(methods):
        raise ValueError("one method for rpn and roi would mix their states: build one for each")
    return {stage: parts[stage] for stage in methods}


def _check(part: Any, stage: Stage, method: Method) -> None:
    """Raise ValueError for a method that cannot be attached; nothing has been changed yet."""
    name, activation = type(method).__name__, method.head.activation
    method.check_stage(stage)
    if hasattr(part, "method"):
        raise ValueError(f"the stage {stage} has a method already ({type(part.method).__name__}): build the model anew")
    if stage == "roi" and (part.has_mask() or part.has_keypoint()):
        raise ValueError("RoI heads with masks or keypoints are not supported, only rpn=... is")
    if stage == "dense" and activation == "softmax":
        _check_layer(part.head.classification_head, "cls_logits", nn.Conv2d, name)
    if stage == "roi":  # its columns tell the number of classes
        _check_layer(part.box_predictor, "cls_score", nn.Linear, name)


def _check_layer(head: nn.Module, layer: str, kind: type[nn.Module], method: str) -> None:
    if not isinstance(getattr(head, layer, None), kind):
        raise ValueError(
            f"{method} needs a head whose last layer of classification is {layer}, a {kind.__name__}, as torchvision's "
            f"own heads have it; a {type(head).__name__} has not"
        )


def _attach_dense(model: Any) -> dict[str, nn.Module]:
    spec: HeadSpec = model.method.head
    changed = {"method": model.method, "head": model.head}
    model.head.register_forward_hook(remember_levels)
    model.compute_loss = partial(dense_losses, model)
    if spec.activation == "softmax":
        head = model.head.classification_head
        old = head.cls_logits
        head.num_classes += 1  # of columns
        channels, shape = head.num_anchors * head.num_classes, (old.kernel_size, old.stride, old.padding)
        head.cls_logits = nn.Conv2d(old.in_channels, channels, *shape).to(old.weight)
        initialise(head.cls_logits, spec)
        model.postprocess_detections = partial(softmax_detections, model)
        changed["head.classification_head.cls_logits"] = head.cls_logits
    return changed


def _attach_rpn(rpn: Any) -> dict[str, nn.Module]:
    rpn.forward = partial(rpn_forward, rpn)
    return {"rpn": rpn, "rpn.method": rpn.method}


def _attach_roi(heads: Any) -> dict[str, nn.Module]:
    spec: HeadSpec = heads.method.head
    heads.forward = partial(roi_forward, heads)
    if spec.activation == "sigmoid":
        old = heads.box_predictor.cls_score
        layer = nn.Linear(old.in_features, old.out_features - 1).to(old.weight)
        heads.box_predictor.cls_score = layer
        initialise(layer, spec)
        heads.postprocess_detections = partial(sigmoid_detections, heads)
    return {"roi_heads": heads, "roi_heads.method": heads.method}


# What was put in or changed, by name; a part that is replaced later takes the method away.
_ATTACH: dict[Stage, Callable[[Any], dict[str, nn.Module]]]
_ATTACH = {"dense": _attach_dense, "rpn": _attach_rpn, "roi": _attach_roi}

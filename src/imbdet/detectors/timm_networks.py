"""Backbones of timm: their levels, the statistics of their images, their weights."""

import logging
from collections.abc import Sequence
from typing import Any

import timm
from timm.layers.norm_act import freeze_batch_norm_2d
from torch import nn

from imbdet.detectors.weights import Body, download_explained, load, packaged, read_file
from imbdet.errors import UserError, nearest
from imbdet.settings import Backbone

# It would warn of the classifier's weights, for which a backbone has no use.
logging.getLogger("timm.models._builder").setLevel(logging.ERROR)


def build(settings: Backbone, levels: Sequence[int], known: Sequence[str]) -> Body:
    """Build a network of timm without its classifier.

    Args:
        settings: name, weights and what is frozen.
        levels: those to return, finest first; level n has the stride 2**n.
        known: other names of backbones, for the hint where this one does not exist.

    Raises:
        UserError: timm has no such network, it lacks a level, or its weights cannot be had or do not fit.
    """
    if not timm.is_model(settings.name):
        hint = nearest(settings.name, [*known, *timm.list_models()])
        raise UserError(f"detector.backbone.name {settings.name!r} does not exist; {hint}")
    reductions, modules = _levels(settings.name)
    lacking = [level for level in levels if 2**level not in reductions]
    if lacking:
        raise UserError(
            f"detector.backbone.name {settings.name!r} has levels of the strides {', '.join(map(str, reductions))}, "
            f"but the detector's levels ask for {', '.join(str(2**level) for level in levels)}; choose another "
            "backbone or other levels"
        )
    # A network may have several levels of one stride; the last has seen the most.
    place = {stride: index for index, stride in enumerate(reductions)}
    network = _create(settings, [place[2**level] for level in levels])
    channels, config = network.feature_info.channels(), network.pretrained_cfg
    if settings.weights != "none":
        network = freeze_batch_norm_2d(network)  # type: ignore[no-untyped-call]
    stem = _up_to(network, modules[place[4]]) if settings.frozen == "stem" and 4 in place else []
    if settings.frozen == "stem" and not stem:
        raise UserError(
            f"detector.backbone.frozen is stem, but {settings.name!r} has no level C2, of stride 4, up to which it "
            "would be frozen; set it to none or all"
        )
    return Body(network, channels, stem, config["mean"], config["std"])


def _levels(name: str) -> tuple[list[int], list[str]]:
    """The strides of a network's levels, and the names of the modules that end them."""
    try:
        info: Any = timm.create_model(name, features_only=True).feature_info
    except (RuntimeError, TypeError) as error:
        raise UserError(f"detector.backbone.name {name!r}: timm cannot give its levels ({error})") from None
    return info.reduction(), info.module_name()


def _create(settings: Backbone, indices: list[int]) -> Any:
    if settings.weights == "none":
        return timm.create_model(settings.name, features_only=True, out_indices=indices)
    if settings.weights == "imagenet":
        with download_explained(settings.name):
            return timm.create_model(settings.name, pretrained=True, features_only=True, out_indices=indices)
    source = {"state_dict": whole_network(settings).state_dict()}
    return timm.create_model(
        settings.name, pretrained=True, pretrained_cfg_overlay=source, features_only=True, out_indices=indices
    )


def whole_network(settings: Backbone) -> Any:
    """Build a network of timm with its classifier, and with weights from a file or an installed package."""
    whole: Any = timm.create_model(settings.name)
    classifier = tuple(f"{name}." for name in _names(whole.pretrained_cfg["classifier"]))
    weights = read_file(settings.file or packaged(settings.weights))
    if not settings.file:  # the package has timm's tensors in timm's order, under other names
        weights = dict(zip(whole.state_dict(), weights.values(), strict=True))
    load(whole, weights, settings.weights, classifier)
    return whole


def _names(classifier: str | Sequence[str]) -> Sequence[str]:
    return (classifier,) if isinstance(classifier, str) else classifier


def _up_to(network: nn.Module, last: str) -> list[nn.Module]:
    """List the parts of a network up to the module ``last``; timm has them in the order in which they run."""
    parts: list[nn.Module] = []
    for name, part in network.named_children():
        if last.startswith(f"{name}."):
            inner = list(part.named_children())
            count = [f"{name}.{inside}" for inside, _ in inner].index(last) + 1
            return [*parts, *(module for _, module in inner[:count])]
        parts.append(part)
        if name in (last, last.replace(".", "_")):
            return parts
    return parts

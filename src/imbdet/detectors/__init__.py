"""Detectors: networks from torchvision's parts, and this project's path from features to ``Samples``."""

import torch

from imbdet.config import Study
from imbdet.data.facts import Facts
from imbdet.data.stored_features import check_weights
from imbdet.detectors.backbones import weights_sha256
from imbdet.detectors.base import Detector
from imbdet.detectors.faster_rcnn import build_faster_rcnn
from imbdet.detectors.retinanet import build_retinanet
from imbdet.errors import UserError
from imbdet.layout import Layout
from imbdet.methods import Method, build_method
from imbdet.samples import Stage
from imbdet.settings import Network

__all__ = ["Detector", "build_detector", "check_experiments", "check_stored_features"]


def build_detector(study: Study, experiment: str, facts: Facts) -> Detector:
    """Build the untrained detector of an experiment, its methods inside.

    Raises :class:`UserError` for a method or backbone that does not exist, a wrong parameter, or a method at a stage
    where its paper does not define it.
    """
    methods = _methods(study, experiment, facts)
    chosen = study.detector(experiment)
    if chosen.name == "retinanet":
        return build_retinanet(chosen, facts.num_classes, methods["dense"])
    return build_faster_rcnn(chosen, facts.num_classes, methods)


def check_stored_features(model: Detector, settings: Network, layout: Layout) -> None:
    """Raise :class:`UserError` where stored features are not those of a detector's frozen backbone."""
    if settings.stores_features:
        check_weights(settings, layout, weights_sha256(model.backbone.body))


def check_experiments(study: Study) -> None:
    """Build every experiment's methods once, so that a wrong parameter is found before the first training."""
    for name in study.experiments:
        try:
            _methods(study, name, Facts(1, (1.0,)))
        except UserError as error:
            raise UserError(f"study {study.name}, {error}") from None


def _methods(study: Study, experiment: str, facts: Facts) -> dict[Stage, Method]:
    methods = {}
    for stage, spec in study.experiment(experiment).methods.items():
        try:
            # Whatever a method draws for itself, the network draws the same initial weights after it.
            with torch.random.fork_rng(devices=[]):
                methods[stage] = build_method(spec, facts.frequency)
            methods[stage].check_stage(stage)
        except UserError as error:
            raise UserError(f"experiment {experiment}: {error}") from None
        except ValueError as error:
            raise UserError(f"experiment {experiment}: method {spec['name']}: {error}") from None
    return methods

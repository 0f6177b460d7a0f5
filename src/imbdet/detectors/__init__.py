"""Detectors: networks from torchvision's parts, and this project's path from features to ``Samples``."""

from imbdet.config import Study
from imbdet.detectors.retinanet import RetinaNet, build_retinanet
from imbdet.errors import UserError
from imbdet.methods import build_method

__all__ = ["RetinaNet", "build_detector", "check_experiments"]


def build_detector(study: Study, experiment: str, num_classes: int) -> RetinaNet:
    """Build the untrained detector of an experiment, its method inside.

    Raises :class:`UserError` for a method or backbone that does not exist, a wrong parameter, or a method whose paper
    does not define it for this detector.
    """
    method = build_method(study.experiment(experiment).method)
    if "dense" not in method.stages:
        raise UserError(
            f"experiment {experiment}: method {study.experiment(experiment).method['name']} is defined for the stages "
            f"{', '.join(sorted(method.stages))}; {study.detector.name} has the stage dense"
        )
    return build_retinanet(study.detector, num_classes, method)


def check_experiments(study: Study) -> None:
    """Build every experiment's method once, so that a wrong parameter is found before the first training."""
    for name in study.experiments:
        try:
            build_method(study.experiment(name).method)
        except UserError as error:
            raise UserError(f"study {study.name}, experiment {name}: {error}") from None

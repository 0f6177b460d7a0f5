"""imbdet: methods against imbalance in object detection, replicated and compared under one protocol.

The names below are the library's public interface. They are imported when first used, so that tools which only read
configurations and records start without PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imbdet.assigners import MaxIoUAssigner
    from imbdet.detectors.attach import attach
    from imbdet.losses import sigmoid_cross_entropy, sigmoid_focal_loss, sigmoid_focal_star_loss
    from imbdet.methods import Method, build_method
    from imbdet.samples import Samples

_HOME = {
    "MaxIoUAssigner": "imbdet.assigners",
    "Method": "imbdet.methods",
    "Samples": "imbdet.samples",
    "attach": "imbdet.detectors.attach",
    "build_method": "imbdet.methods",
    "sigmoid_cross_entropy": "imbdet.losses",
    "sigmoid_focal_loss": "imbdet.losses",
    "sigmoid_focal_star_loss": "imbdet.losses",
}
__all__ = [
    "MaxIoUAssigner",
    "Method",
    "Samples",
    "attach",
    "build_method",
    "sigmoid_cross_entropy",
    "sigmoid_focal_loss",
    "sigmoid_focal_star_loss",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'imbdet' has no attribute {name!r}")

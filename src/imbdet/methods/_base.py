"""What a method is, and how a study's ``method: {...}`` becomes one."""

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import ModuleType
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails
from torch import Tensor, nn

from imbdet.config import method_names
from imbdet.errors import UserError, nearest
from imbdet.heads import HeadSpec
from imbdet.losses import MarginLoss, smooth_l1, sum_over_classes
from imbdet.samples import Samples, Stage

# Parameter types that methods share. No defaults: a study states what its paper chose.
Alpha = Annotated[float, Field(ge=0, le=1)] | None
Gamma = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Beta = Annotated[float, Field(ge=0)]


class Method(nn.Module, ABC):
    """Turns the matched candidates of a batch into named scalar losses.

    ``stages`` says where the method's paper defines it. ``head`` is what it asks of the classification head.
    """

    stages: ClassVar[frozenset[Stage]]
    head: HeadSpec
    compiled: bool = False  # fused kernels; see imbdet.losses.sum_over_classes

    @abstractmethod
    def forward(self, samples: Samples) -> dict[str, Tensor]:
        """Return scalar losses by name; their sum is what training minimises."""


def dense_losses(
    samples: Samples, loss: MarginLoss, alpha: float | None, divisor: Tensor, box_beta: float, compiled: bool
) -> dict[str, Tensor]:
    """The RetinaNet paper's two terms: ``loss`` over all candidates and classes, smooth L1 over the foreground."""
    rows = sum_over_classes(loss, samples.logits, samples.label, alpha, compiled)
    box_rows = smooth_l1(samples.foreground_deltas, samples.delta_targets, box_beta).sum(1)
    return {
        "classification": (samples.weight * rows / divisor).sum(),
        "box_regression": (samples.weight * box_rows / divisor).sum(),
    }


def build_method(spec: Mapping[str, Any]) -> Method:
    """Build a method from ``{"name": ..., parameter: value, ...}``.

    Raises:
        UserError: an unknown name or parameter, a missing one, or a value of the wrong type or out of range.
    """
    parameters = dict(spec)
    name = parameters.pop("name", None)
    if name not in method_names():
        raise UserError(f"method name {name!r} does not exist; {nearest(str(name), method_names())}")
    module = importlib.import_module(f"imbdet.methods.{name}")
    (cls,) = _methods_in(module)
    method: Method = cls(**_checked(cls, name, parameters))
    return method


def _methods_in(module: ModuleType) -> list[type[Method]]:
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass)]
    return [cls for cls in classes if issubclass(cls, Method) and cls.__module__ == module.__name__]


def _checked(cls: type[Method], name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(cls).parameters
    fields: dict[str, Any] = {
        key: (p.annotation, ... if p.default is inspect.Parameter.empty else p.default) for key, p in signature.items()
    }
    for key in parameters.keys() - fields.keys():
        raise UserError(f"method {name}: unknown parameter {key!r}; {nearest(key, fields)}")
    model = create_model(name, __config__=ConfigDict(strict=True, allow_inf_nan=False), **fields)
    try:
        model.model_validate(parameters)
    except ValidationError as error:
        raise UserError(f"method {name}: " + "; ".join(map(_explain, error.errors()))) from None
    return parameters


def _explain(error: ErrorDetails) -> str:
    key = error["loc"][0]
    if error["type"] == "missing":
        return f"parameter {key!r} is missing"
    return f"{key}: {error['msg']}, got {error['input']!r}"

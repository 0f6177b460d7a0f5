"""What a method is, and how a study's ``method: {...}`` becomes one."""

import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from functools import cache, wraps
from types import ModuleType
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from torch import Tensor, nn

from imbdet.assigners import Assigner
from imbdet.config import method_names
from imbdet.domains import ALPHA, BOX_BETA, GAMMA, PRIOR_PROB, STEEPNESS, check_word
from imbdet.errors import UserError, nearest
from imbdet.heads import HeadSpec
from imbdet.losses import smooth_l1
from imbdet.normalizers import NORMALIZERS, NormalizerName
from imbdet.samplers import Sampler
from imbdet.samples import Samples, Stage

# Parameter types that methods share. No defaults: a study states what its paper chose.
Alpha = Annotated[float, ALPHA.field()] | None
Gamma = Annotated[float, GAMMA.field()]
Steepness = Annotated[float, STEEPNESS.field()]
Prior = Annotated[float, PRIOR_PROB.field()] | None
Beta = Annotated[float, BOX_BETA.field()]
STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, extra="ignore")


class Method(nn.Module, ABC):
    """Turns the matched candidates of a batch into named scalar losses.

    ``stages`` says where the method's paper defines it. ``head`` is what it asks of the classification head,
    ``normalizer`` what its sums are divided by, ``box_beta`` the smooth L1 loss's beta.

    Every constructor checks its parameters against their annotations and raises ValueError for one that is missing, of
    another type or out of range.
    """

    stages: ClassVar[frozenset[Stage]]
    compiled: bool = False  # fused kernels; see imbdet.losses.sum_over_classes

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _checked(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, head: HeadSpec, normalizer: NormalizerName, box_beta: float) -> None:
        super().__init__()
        check_word("normalizer", normalizer, NORMALIZERS)
        BOX_BETA.check("box_beta", box_beta)
        self.head = head
        self.normalizer = NORMALIZERS[normalizer]()
        self.box_beta = box_beta
        self.register_forward_pre_hook(_check_columns, with_kwargs=True)

    @abstractmethod
    def forward(self, samples: Samples) -> dict[str, Tensor]:
        """Return scalar losses by name; their sum is what training minimises."""

    def check_stage(self, stage: Stage) -> None:
        """Raise ValueError for a stage that this method cannot train, with the reason."""
        name = type(self).__name__
        if stage not in self.stages:
            raise ValueError(f"{name} is defined for {', '.join(sorted(self.stages))}, not for {stage}")
        if stage == "rpn" and self.head.activation != "sigmoid":
            raise ValueError(f"RPN has one sigmoid column; {name} asks for softmax")

    def assigner(self) -> Assigner | None:
        """The paper's own assignment, in place of the study's; for the dense stage."""
        return None

    def sampler(self) -> Sampler | None:
        """The paper's own sampling, in place of the study's."""
        return None

    def param_groups(self) -> list[dict[str, Any]]:
        """Learned parameters that Adam updates beside the study's optimizer: groups of ``torch.optim.Adam``."""
        return []

    def inspect(self, samples: Samples) -> dict[str, Tensor]:
        """The [N] quantities that the paper is about, by name, for figures; without gradient."""
        return {}

    def box_rows(self, samples: Samples) -> Tensor:
        """[N] smooth L1 losses of the foreground's offsets, summed over the four; 0 elsewhere."""
        return smooth_l1(samples.foreground_deltas, samples.delta_targets, self.box_beta).sum(1)


def _check_columns(method: Method, args: tuple[Samples, ...], kwargs: dict[str, Samples]) -> None:
    """Raise ValueError for logits of the other kind of head: a sigmoid loss would take the background for a class."""
    (samples,) = (*args, *kwargs.values())
    shape, wanted = samples.logits.shape, method.head.columns(samples.num_classes)
    if shape[1] != wanted:
        raise ValueError(
            f"logits of shape {list(shape)} have {shape[1]} columns; {type(method).__name__} with "
            f"{samples.num_classes} classes and {method.head.activation} expected {wanted}"
        )


def two_terms(samples: Samples, class_rows: Tensor, box_rows: Tensor, divisor: Tensor) -> dict[str, Tensor]:
    """The two losses that every method has: [N] rows times the sampler's weights, divided, summed."""
    return {
        "classification": (samples.weight * class_rows / divisor).sum(),
        "box_regression": (samples.weight * box_rows / divisor).sum(),
    }


def build_method(spec: Mapping[str, Any], frequency: Sequence[float] | None = None) -> Method:
    """Build a method from ``{"name": ..., parameter: value, ...}``.

    Args:
        spec: name and parameters.
        frequency: K shares of the training images that hold each class, for a method that has the parameter
            ``frequency`` and whose ``spec`` leaves it to the data.

    Raises:
        UserError: a spec that is no mapping of names, an unknown name or parameter, a missing one, or a value of the
            wrong type or out of range.
    """
    if not isinstance(spec, Mapping) or not all(isinstance(key, str) for key in spec):
        raise UserError(f"a method is a mapping such as {{'name': 'focal', 'gamma': 2.0, ...}}, got {spec!r}")
    parameters = dict(spec)
    name = parameters.pop("name", None)
    if name not in method_names():
        raise UserError(f"method name {name!r} does not exist; {nearest(str(name), method_names())}")
    module = importlib.import_module(f"imbdet.methods.{name}")
    (cls,) = _methods_in(module)
    known = inspect.signature(cls).parameters
    for key in parameters.keys() - known.keys():
        raise UserError(f"method {name}: unknown parameter {key!r}; {nearest(key, known)}")
    if frequency is not None and "frequency" in known:
        if isinstance(frequency, Mapping | Set):  # a tuple of it would be of keys, or in any order
            kind = type(frequency).__name__
            raise UserError(
                f"method {name}: frequency is a {kind}, expected a list of K shares in the order of the labels"
            )
        parameters.setdefault("frequency", tuple(frequency))
    try:
        method: Method = cls(**parameters)
    except ValueError as error:
        raise UserError(f"method {name}: {error}") from None
    return method


def _methods_in(module: ModuleType) -> list[type[Method]]:
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass)]
    return [cls for cls in classes if issubclass(cls, Method) and cls.__module__ == module.__name__]


def _checked(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that refuses parameters which do not keep to its annotations."""
    signature = inspect.signature(init)

    @cache
    def model() -> type[BaseModel]:
        _, *parameters = signature.parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        fields: dict[str, Any] = {
            p.name: (Any if p.annotation is p.empty else p.annotation, ... if p.default is p.empty else p.default)
            for p in named
        }
        return create_model(init.__qualname__, __config__=STRICT, **fields)

    @wraps(init)
    def checked(self: Method, *args: Any, **kwargs: Any) -> None:
        given = signature.bind_partial(self, *args, **kwargs).arguments
        try:
            model().model_validate(given)
        except ValidationError as error:
            fields = model().model_fields
            raise ValueError("; ".join(_explain(e, fields) for e in error.errors())) from None
        init(self, *args, **kwargs)

    return checked


def _explain(error: ErrorDetails, fields: Mapping[str, FieldInfo]) -> str:
    key = str(error["loc"][0])
    if error["type"] == "missing":
        return f"parameter {key!r} is missing"
    out_of_range = "_than" in error["type"] and type(None) in get_args(fields[key].annotation)
    hint = " (None, null in a study, for none)" if out_of_range else ""
    return f"{key}: {error['msg']}, got {error['input']!r}{hint}"

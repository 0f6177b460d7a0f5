"""A study: one YAML file that says which data, detector, training and experiments, checked before anything runs.

This module imports no torch, so that Snakemake builds its graph in seconds. A method's own parameters are checked by
:func:`imbdet.methods.build_method`, which every study passes through before its first training.
"""

from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from imbdet.errors import UserError, nearest

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Range = Annotated[tuple[int, int], Field(description="smallest and largest number, both included")]
SAFE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=SAFE_NAME)]


def method_names() -> list[str]:
    """Names of all methods: the public modules of ``imbdet/methods``."""
    return sorted(path.stem for path in (Path(__file__).parent / "methods").glob("[a-z]*.py"))


class Section(BaseModel):
    """A part of a study: unknown keys and infinite numbers are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ShapesData(Section):
    """The generated data set (:mod:`imbdet.data.shapes`): a pure function of these values."""

    source: Literal["shapes"]
    folder: str
    seed: int
    image_size: Annotated[int, Field(ge=32, description="side in pixels; images are square")]
    train_images: Count
    val_images: Count
    classes: Annotated[int, Field(ge=1, le=8)]
    tail_exponent: Annotated[float, Field(ge=0, description="class k of 0..K-1 has frequency ~ (k+1)^-exponent")]
    objects: Range
    box_size: Annotated[tuple[PositiveShare, Share], Field(description="smallest and largest side, in image sides")]
    distractors: Range
    class_colours: Annotated[
        Share, Field(description="share of the objects in the colour of their class, and of the distractors in any's")
    ] = 0.0
    jittered_boxes: Annotated[Share, Field(description="share of the training boxes that are moved")] = 0.0
    jitter: Annotated[Share, Field(description="how far, as a share of the box's side")] = 0.0
    wrong_labels: Annotated[Share, Field(description="share of the training boxes with another class")] = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> "ShapesData":
        for key in ("objects", "box_size", "distractors"):
            low, high = getattr(self, key)
            if low > high or low < 0:
                raise ValueError(f"{key} is [smallest, largest], both at least 0, got [{low}, {high}]")
        return self


class Coco2017Data(Section):
    """COCO 2017 from its official archives (:mod:`imbdet.data.download`)."""

    source: Literal["coco2017"]
    folder: str
    base_url: str = "http://images.cocodataset.org"


class CocoFormatData(Section):
    """An archive or folder in COCO's format: ``train/``, ``val/``, ``annotations/instances_{train,val}.json``."""

    source: Literal["coco_format"]
    folder: str
    path: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


Data = Annotated[ShapesData | Coco2017Data | CocoFormatData, Field(discriminator="source")]


class Anchors(Section):
    """Anchors of the levels from P3 up: for each level the roots of the areas in pixels; ratios height over width."""

    sizes: Annotated[tuple[tuple[Positive, ...], ...], Field(min_length=3, max_length=5)]
    ratios: Annotated[tuple[Positive, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_number_at_each_level(self) -> "Anchors":
        if len({len(level) for level in self.sizes}) != 1 or not self.sizes[0]:
            raise ValueError("every level needs the same number of sizes, at least one: all levels share the head")
        return self


class MaxIoU(Section):
    """The RetinaNet paper's assignment; see :class:`imbdet.assigners.MaxIoUAssigner`."""

    foreground_iou: Share
    background_iou: Share
    low_quality: Literal["argmax", "reassign", "off"]
    crowd: Literal["ignore", "drop"]


class Detector(Section):
    """A detector and what it reads; see :mod:`imbdet.detectors`."""

    name: Literal["retinanet"]
    backbone: str
    pretrained: bool
    fpn_channels: Count
    p6_source: Annotated[
        Literal["c5", "p5", "none"],
        Field(description="c5 in the paper, p5 in torchvision; none ends the pyramid at P5"),
    ]
    head_norm: Annotated[Literal["none", "group"], Field(description="none in the paper")]
    short_side: Annotated[int, Field(ge=32, description="pixels after resizing, as far as long_side allows")]
    long_side: Annotated[int, Field(ge=32)]
    anchors: Anchors
    assigner: MaxIoU

    @model_validator(mode="after")
    def _sizes_for_each_level(self) -> "Detector":
        levels = 3 if self.p6_source == "none" else 5
        if len(self.anchors.sizes) != levels:
            raise ValueError(
                f"p6_source {self.p6_source} makes levels P3 to P{levels + 2}: anchors.sizes needs {levels} lists, "
                f"got {len(self.anchors.sizes)}"
            )
        return self


class SGD(Section):
    name: Literal["sgd"]
    lr: Positive
    momentum: Share
    weight_decay: Annotated[float, Field(ge=0)]


class AdamW(Section):
    name: Literal["adamw"]
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]


class MultiStep(Section):
    """Linear warm-up, then the rate times ``factor`` at each milestone (a share of all steps)."""

    name: Literal["multistep"]
    warmup_steps: Annotated[int, Field(ge=0)]
    milestones: tuple[Share, ...]
    factor: Positive


class Cosine(Section):
    """Linear warm-up, then half a cosine to zero."""

    name: Literal["cosine"]
    warmup_steps: Annotated[int, Field(ge=0)]


class Train(Section):
    """One training: the same for every experiment of a study, so that only the method differs."""

    steps: Count
    batch_size: Annotated[int, Field(ge=1, description="images in a step, over all processes")]
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")]
    schedule: Annotated[MultiStep | Cosine, Field(discriminator="name")]
    clip_norm: Positive | None
    flip: Annotated[Share, Field(description="probability of a horizontal flip")]
    precision: Literal["fp32", "bf16"] = "fp32"
    compile_loss: bool = False
    workers: Annotated[int, Field(ge=0)] = 0
    log_every: Count = 20
    checkpoint_every: Count = 500
    tensorboard: bool = False


class Evaluate(Section):
    """Inference and the operating point at which TP, FP and FN are counted."""

    batch_size: Count
    score_threshold: Share
    nms_iou: Share
    candidates_per_level: Count
    detections_per_image: Count
    operating_score: Annotated[Share, Field(description="detections below it are not counted as TP or FP")]


class LossSamples(Section):
    """How many logits of a trained detector are kept for the figures of cumulative loss."""

    foreground: Count
    background: Count


class Experiment(Section):
    """One training of the study: its method (name and parameters) and its name in figures and tables."""

    label: str
    method: dict[str, Any]

    @model_validator(mode="after")
    def _method_is_named(self) -> "Experiment":
        name = self.method.get("name")
        if name not in method_names():
            raise ValueError(f"method name {name!r} does not exist; {nearest(str(name), method_names())}")
        return self


class Report(Section):
    """Which experiments stand in which figure or table; a figure whose list is empty is not drawn."""

    cumulative_loss: Name
    precision_recall: tuple[Name, ...]
    detections: tuple[Name, ...]
    gamma: tuple[Name, ...] = ()
    alpha: tuple[Name, ...] = ()
    focal_star: tuple[Name, ...] = ()


class Study(Section):
    """A whole study. ``name`` is the file's name, which is also the folder of its results and figures."""

    name: Name
    description: Annotated[str, Field(description="data set and size in a few words, for every caption")]
    seed: Annotated[int, Field(ge=0)]
    data: Data
    detector: Detector
    train: Train
    evaluate: Evaluate
    loss_samples: LossSamples
    report: Report
    experiments: Annotated[dict[Name, Experiment], Field(min_length=1)]

    @model_validator(mode="after")
    def _report_names_experiments(self) -> "Study":
        for key, value in self.report.model_dump().items():
            for name in [value] if isinstance(value, str) else value:
                if name not in self.experiments:
                    raise ValueError(
                        f"report.{key} names {name!r}, not an experiment; {nearest(name, self.experiments)}"
                    )
        return self

    def experiment(self, name: str) -> Experiment:
        """Return an experiment by name, or raise :class:`UserError` with the nearest names."""
        if name not in self.experiments:
            raise UserError(f"study {self.name}: no experiment {name!r}; {nearest(name, self.experiments)}")
        return self.experiments[name]


class _NoDuplicates(yaml.SafeLoader):
    """YAML silently keeps the last of two equal keys; a study that names an experiment twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"key {sorted(map(str, twice))[0]!r} stands twice{node.start_mark}")
        return super().construct_mapping(node, deep)


def load_study(path: str | Path) -> Study:
    """Read and check ``config/<study>.yaml``. Raises :class:`UserError` naming file, key, value and what is allowed."""
    path = Path(path)
    try:
        raw = yaml.load(path.read_text(), Loader=_NoDuplicates)
    except FileNotFoundError as error:
        known = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"no study {path}; {nearest(str(path), known)}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, got {type(raw).__name__}")
    return parse_study(raw, name=path.stem, where=str(path))


def parse_study(raw: dict[str, Any], name: str, where: str) -> Study:
    """Check a study given as a mapping; ``where`` stands in front of every message."""
    try:
        return Study.model_validate({"name": name, **raw})
    except ValidationError as error:
        raise UserError("\n".join(_explain(where, e) for e in error.errors())) from None


def _explain(where: str, error: Any) -> str:
    """One pydantic error as a sentence with the key's path, the value and, for an unknown key, the nearest ones."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}; {nearest(location[-1], _keys_at(Study, location[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict):
        return f"{where}: {key + ': ' if key else ''}{message}"
    return f"{where}: {key} is {error['input']!r}: {message}"


def _keys_at(model: Any, location: list[str]) -> set[str]:
    """The keys that are allowed at a path inside a model; union members are told apart by their tag."""
    if get_origin(model) is Annotated:
        model = get_args(model)[0]
    if get_origin(model) in (Union, UnionType):
        tags: dict[str, Any] = {}
        for member in get_args(model):
            for field in getattr(member, "model_fields", {}).values():
                tags |= {tag: member for tag in get_args(field.annotation) if isinstance(tag, str)}
        return _keys_at(tags[location[0]], location[1:]) if location and location[0] in tags else set()
    if get_origin(model) is dict:
        return _keys_at(get_args(model)[1], location[1:])
    fields = getattr(model, "model_fields", {})
    if not location:
        return set(fields)
    return _keys_at(fields[location[0]].rebuild_annotation(), location[1:]) if location[0] in fields else set()

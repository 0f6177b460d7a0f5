"""The sections of a study that say how each part is set: data, detectors, training, evaluation. No torch here."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from imbdet.urls import without_secrets

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Url = Annotated[str, PlainSerializer(without_secrets)]
WEB = ("http://", "https://")
Range = Annotated[tuple[int, int], Field(description="smallest and largest number, both included")]


class Section(BaseModel):
    """A part of a study: unknown keys and infinite numbers are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Validation(Section):
    """What becomes of each defect that the validation of a data set finds."""


class Source(Section):
    """What every source of data has: the folder it is prepared in, and the policy on its defects."""

    folder: str
    validation: Validation = Validation()


class ShapesData(Source):
    """The generated data set (:mod:`imbdet.data.shapes`): a pure function of these values."""

    source: Literal["shapes"]
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


class Subset(Section):
    """Some images of each split: their ids, or how many; :func:`imbdet.data.subset.choose` says which those are."""

    train: int | tuple[int, ...]
    val: int | tuple[int, ...]

    @model_validator(mode="after")
    def _some_images(self) -> "Subset":
        for split in ("train", "val"):
            wanted = getattr(self, split)
            if isinstance(wanted, int) and wanted < 1:
                raise ValueError(f"{split} is {wanted}; expected a number of images, at least 1, or a list of ids")
            if isinstance(wanted, tuple) and not 0 < len(wanted) == len(set(wanted)):
                raise ValueError(f"{split} is a list of {len(wanted)} ids; expected at least one, each once")
        return self


class DownloadedData(Source):
    """Images of COCO 2017 from its server, as whole archives or, for a subset, one by one.

    A password does not belong in a study, which is in Git: set HTTP_PROXY and HTTPS_PROXY in the environment instead of
    ``proxy``. Should an address hold one all the same, no record does.
    """

    base_url: Url = "http://images.cocodataset.org"
    proxy: Annotated[str | None, Field(exclude=True, description="for http and https; not a fact about the data")] = None
    checksums: Annotated[dict[str, Sha256], Field(description="SHA-256 by the name of a downloaded archive")] = {}
    subset: Subset | None = None
    archives: ClassVar[tuple[str, ...]] = ("train2017.zip", "val2017.zip")

    @model_validator(mode="after")
    def _addresses_and_names(self) -> "DownloadedData":
        for key, schemes in {"base_url": WEB, "annotations_url": WEB, "proxy": (*WEB, "socks5://", "socks5h://")}.items():
            if not (getattr(self, key, None) or schemes[0]).startswith(schemes):  # not shown: it may hold a password
                raise ValueError(f"{key} does not start with {', '.join(schemes)}")
        for name in self.checksums:
            if name not in self.archives:
                raise ValueError(f"checksums names {name!r}; the archives are {', '.join(self.archives)}")
        return self


class Coco2017Data(DownloadedData):
    """COCO 2017 as it is published (:mod:`imbdet.data.published`)."""

    source: Literal["coco2017"]
    archives: ClassVar[tuple[str, ...]] = ("annotations_trainval2017.zip", *DownloadedData.archives)


class LvisData(DownloadedData):
    """LVIS v1 as it is published: its annotations, COCO's images (:mod:`imbdet.data.published`)."""

    source: Literal["lvis_v1"]
    annotations_url: Url = "https://dl.fbaipublicfiles.com/LVIS"
    archives: ClassVar[tuple[str, ...]] = ("lvis_v1_train.json.zip", "lvis_v1_val.json.zip", *DownloadedData.archives)


class CocoFormatData(Source):
    """An archive or folder in COCO's format: ``train/``, ``val/``, ``annotations/instances_{train,val}.json``."""

    source: Literal["coco_format"]
    path: str
    sha256: Sha256 | None = None


Data = Annotated[ShapesData | Coco2017Data | LvisData | CocoFormatData, Field(discriminator="source")]


class Anchors(Section):
    """Anchors of each level, finest first: the roots of their areas in pixels; ratios height over width."""

    sizes: Annotated[tuple[tuple[Positive, ...], ...], Field(min_length=1)]
    ratios: Annotated[tuple[Positive, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_number_at_each_level(self) -> "Anchors":
        if len({len(level) for level in self.sizes}) != 1 or not self.sizes[0]:
            raise ValueError("every level needs the same number of sizes, at least one: all levels share the head")
        return self


class MaxIoU(Section):
    """Foreground and background by IoU; see :class:`imbdet.assigners.MaxIoUAssigner`."""

    foreground_iou: Share
    background_iou: Share
    low_quality: Literal["argmax", "reassign", "off"]


class Network(Section, ABC):
    """What the detectors share: the pyramid and the images and anchors that it sees; see :mod:`imbdet.detectors`."""

    backbone: str
    pretrained: bool
    fpn_channels: Count
    short_side: Annotated[int, Field(ge=32, description="pixels after resizing, as far as long_side allows")]
    long_side: Annotated[int, Field(ge=32)]
    anchors: Anchors
    crowd: Annotated[Literal["ignore", "drop"], Field(description="what becomes of crowd regions in training")]
    train: Annotated[
        dict[str, Any], Field(description="values of the study's train that this detector has instead")
    ] = {}

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Strides of the pyramid's levels; images are padded to a multiple of the last."""

    @model_validator(mode="after")
    def _sizes_for_each_level(self) -> "Network":
        if len(self.anchors.sizes) != len(self.strides):
            raise ValueError(
                f"the pyramid has the strides {', '.join(map(str, self.strides))}: anchors.sizes needs "
                f"{len(self.strides)} lists, got {len(self.anchors.sizes)}"
            )
        return self


class RetinaNet(Network):
    """The one-stage detector of Lin et al. 2017, with the stage "dense"."""

    name: Literal["retinanet"]
    p6_source: Annotated[
        Literal["c5", "p5", "none"],
        Field(description="c5 in the paper, p5 in torchvision; none ends the pyramid at P5"),
    ]
    head_norm: Annotated[Literal["none", "group"], Field(description="none in the paper")]
    assigner: MaxIoU

    @property
    def strides(self) -> tuple[int, ...]:
        return (8, 16, 32) if self.p6_source == "none" else (8, 16, 32, 64, 128)


class Proposals(Section):
    """How many of RPN's boxes go on: the best of each level, and of all levels after suppression."""

    candidates_per_level: Count
    kept: Count


class RPN(Section):
    """Region proposals: assignment, sampling and suppression (Ren et al. 2015, section 3.1)."""

    assigner: MaxIoU
    sampled: Annotated[int, Field(ge=1, description="anchors of an image in the loss")]
    foreground_share: Share
    nms_iou: Share
    training: Proposals
    inference: Proposals


class RoI(Section):
    """Fast R-CNN's head: assignment, sampling and pooling of proposals (Lin et al. 2017, FPN, section 4.2)."""

    assigner: MaxIoU
    sampled: Annotated[int, Field(ge=1, description="proposals of an image in the loss")]
    foreground_share: Share
    pool_size: Count
    sampling_ratio: Count
    canonical_size: Annotated[float, Field(gt=0, description="side of the boxes that are pooled from P4, pixels")]
    head_channels: Count


class FasterRCNN(Network):
    """The two-stage detector of Ren et al. 2015 on a feature pyramid, with the stages "rpn" and "roi"."""

    name: Literal["faster_rcnn"]
    p6_source: Annotated[Literal["pool", "none"], Field(description="pool in the paper; none ends the pyramid at P5")]
    rpn: RPN
    roi: RoI

    @property
    def strides(self) -> tuple[int, ...]:
        return (4, 8, 16, 32) if self.p6_source == "none" else (4, 8, 16, 32, 64)


Detector = Annotated[RetinaNet | FasterRCNN, Field(discriminator="name")]


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
    """One training: the same for every experiment of a detector, so that only the method differs."""

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

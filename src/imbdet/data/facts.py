"""What detectors and methods need to know of a data set, from its manifest."""

from dataclasses import dataclass

from imbdet.data.coco import read_json
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

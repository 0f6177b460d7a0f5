"""What every caption says in the same words: where the numbers come from, and what they must not be taken for."""

from collections.abc import Sequence

from imbdet.config import Study
from imbdet.settings import Coco2017Data

RESAMPLED = {  # by ``over`` of the intervals
    "images": "the images",
    "seeds_and_images": "the images, with Student's t for the seeds",
}

DETECTORS = {"retinanet": "RetinaNet", "faster_rcnn": "Faster R-CNN"}  # by kind


def is_coco(study: Study) -> bool:
    """Whether a study's numbers are COCO results: of all its images."""
    return isinstance(study.data, Coco2017Data) and study.data.subset is None


def about(study: Study, images: str, seeds: Sequence[int] = ()) -> str:
    """Return the study, data set, size and seeds.

    ``images`` says which were used, e.g. ``400 validation images``; ``seeds`` those of the runs, by default the first,
    which single runs are of.
    """
    several = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else f"seed {study.seed}"
    warning = "" if is_coco(study) else " These are not COCO results."
    return f"Study {study.name}: {study.description}; {images}; {several}.{warning}"


def detector_name(key: str) -> str:
    """Return how a figure calls a detector of a study: as the field does, where its key is that of its kind."""
    return DETECTORS.get(key, key.replace("_", " "))


def single(study: Study) -> str:
    """Return what is to be said of runs that are shown singly, though seeds may be several."""
    return "One run each. " if len(study.seeds) == 1 else f"Of {len(study.seeds)} seeds the first alone. "


def badge(study: Study) -> str:
    """Return the few words that stand above every picture about a study."""
    return f"study {study.name}" + ("" if is_coco(study) else " · not COCO")


def rst(text: str) -> str:
    """Return plain text as reStructuredText that shows the same characters."""
    for mark in ("\\", "*", "`", "_", "|"):
        text = text.replace(mark, f"\\{mark}")
    return text + "\n"

"""AP while training: the numbers of the ``evaluate`` command in a fraction of its time.

Every number that is reported for COCO's rules comes from pycocotools; these are equal to it within 1e-12, which tests
show.
"""

from typing import Any

from imbdet.evaluation import lvis_ap
from imbdet.evaluation.averages import mean, threshold
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.matching import Boxes, Found, curves
from imbdet.settings import Rules


def average_precision(
    truth: dict[str, Any], detections: Detections, detections_per_image: int = 100, rules: Rules = "coco"
) -> dict[str, float | None]:
    """AP, AP50 and AP75; None where no class has a box.

    Arguments and errors as of :func:`imbdet.evaluation.coco_ap.evaluate`, and by the rules of LVIS as of
    :func:`imbdet.evaluation.lvis_ap.evaluate`.
    """
    if rules == "lvis":
        boxes, found = lvis_ap.judged(truth, detections)
        limit = lvis_ap.LIMIT
    else:
        boxes, found = Boxes.of(truth), Found.of(detections, truth)
        limit = max(detections_per_image, 100)
    precision, _ = curves(boxes, found, len(truth["categories"]), limit=limit)
    return {
        "AP": mean(precision),
        "AP50": mean(precision[threshold(0.5)]),
        "AP75": mean(precision[threshold(0.75)]),
    }

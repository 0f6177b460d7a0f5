"""How much AP each kind of error costs, and how well scores tell objects from background.

Bolya, Foley, Hays, Hoffman: TIDE, a General Toolbox for Identifying Object Detection Errors, ECCV 2020 (arXiv
2008.08115), sections 2.2 and 2.3. Each false detection has one error, by its highest IoU with the boxes of its own
class ("right") and of all others ("wrong"); the first line that holds:

============  ==============================  ====================================================================
error         where                           as if fixed
============  ==============================  ====================================================================
localisation  0.1 <= right < 0.5              true, if its box is free and no better error wants it; else left out
class         wrong >= 0.5                    the same, in the class of its box
duplicate     right >= 0.5, the box is taken  left out
background    right and wrong < 0.1           left out
both          otherwise                       left out
missed        a free box that no error wants  the box is left out
============  ==============================  ====================================================================

The cost of an error is AP50 with all errors of this kind fixed, and no others, minus AP50. Costs do not add up to
what is missing to 1: errors hide each other. They are never negative. Two special costs: AP50 without any false
detection, and with all boxes that nothing takes left out, minus AP50.

No library that is kept has this: vernier 0.5 (faster-coco-eval has nothing of the kind) takes AP of all ten thresholds,
which errors told apart at one of them can lower, and says neither what a single detection is nor what false negatives
cost. The authors' own, tidecv, has had no release since 1.0.1 of 2020. The fixtures of the tests hold its numbers, from
which these differ on purpose:

- AP50 is the one of ``evaluation.json``. At most 100 detections count of an image and class (tidecv: of an image); of
  boxes with equal IoU the last is taken (the first). Classes without boxes are left out of the mean, also where they
  are detected (their AP is 0). Recalls are those of pycocotools, some of which lie a rounding error above k/100, so
  that a recall of exactly k/100 does not reach them (it does), which moves AP50 and costs by up to about 0.001.
- What lies on a crowd region of its class counts for nothing. With tidecv it is an error, though not in AP50, and may
  become the true detection of a box nearby. A region is met from an IoU of 0.5 on (above 0.5).
- An IoU of exactly 0.5 or 0.1 belongs to the upper side everywhere (in some rules to the lower).
- A class of which a fix leaves no box has AP 1 if nothing is detected of it either (it is left out of the mean), and 0
  otherwise.
- Of detections with equal scores that want one box the first by class and place is mended (by place).
- Costs are as they are (those below 0 are set to 0).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask

from imbdet.config import Study
from imbdet.data.coco import read_annotations, read_json
from imbdet.errors import UserError
from imbdet.evaluation.detections import Detections
from imbdet.evaluation.matching import RECALLS, Boxes, Floats, Found, Ints
from imbdet.files import write_json
from imbdet.layout import Layout

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU from which on a box is found, and below which nothing is
ERRORS = ("class", "localisation", "both", "duplicate", "background", "missed")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

Bools = NDArray[np.bool_]


def run(study: Study, layout: Layout, experiment: str) -> None:
    """Analyse the errors of an experiment's detections on the val split: write ``errors.json``.

    Raises UserError for detections of other data; and for LVIS, by whose rules a detection may be no error.
    """
    chosen = study.experiment(experiment)
    if study.data.rules == "lvis":
        raise UserError(
            f"study {study.name}: errors are told apart by the rules of COCO, and LVIS has others, as each of its "
            "images is labelled for some classes only; of this study `evaluate` alone can be had"
        )
    path = layout.annotations("val")
    read_annotations(path)  # its checks
    detections = Detections.load(layout.detections(experiment), path)
    record = {
        "study": study.name,
        "experiment": experiment,
        "label": chosen.label,
        "detector": chosen.detector,
        "data": study.description,
        "seed": study.seed,
        **analyse(read_json(path), detections, study.evaluate.detections_per_image),
    }
    write_json(layout.errors(experiment), record)


def analyse(truth: dict[str, Any], detections: Detections, detections_per_image: int = 100) -> dict[str, Any]:
    """Tell the errors of detections apart, and say what each kind costs.

    Args:
        truth: content of a COCO annotation file; never modified.
        detections: in any order; none at all miss every box.
        detections_per_image: the detector's own cap; max(100, cap) detections count of an image and class.

    Returns:
        "images"; "AP50", "cost" by error and "special" costs, shares of 1, None where there is no box at all; "counts"
        of errors and of "true" and "ignored" detections; "scores" as :func:`_scores` has them.

    Raises:
        UserError: an image or category that the annotations lack.
    """
    found = Found.of(detections, truth)
    verdicts = judge(Boxes.of(truth), found.select(found.rank < max(100, detections_per_image)))
    before = verdicts.ap50()
    kinds = ("true", "ignored", *ERRORS)
    return {
        "images": len(truth["images"]),
        "AP50": before,
        "cost": {error: _gain(verdicts.ap50({error}), before) for error in ERRORS},
        "special": {
            "false_positive": _gain(verdicts.ap50_without_false(), before),
            "false_negative": _gain(verdicts.ap50_without_untaken(), before),
        },
        "counts": {kind: int((verdicts.kind == kind).sum()) for kind in kinds} | {"missed": int(verdicts.missed.sum())},
        "scores": _scores(verdicts),
    }


def _gain(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


@dataclass(frozen=True)
class Verdicts:
    """What n detections and G boxes are.

    found, boxes: the detections and boxes.
    kind: [n] str, "true", "ignored" (on a crowd region) or the kind of its error.
    repaired: [n] bool, whether it becomes true if its error is fixed, instead of being left out.
    repaired_label: [n] int64, its class then.
    free, missed: [G] bool, no crowd regions: whether nothing takes the box, and whether no error wants it either.
    on_box: [n] bool, whether a box of its class is under it, taken or not.
    """

    found: Found
    boxes: Boxes
    kind: NDArray[np.str_]
    repaired: Bools
    repaired_label: Ints
    free: Bools
    missed: Bools
    on_box: Bools

    def ap50(self, fixed: Collection[str] = ()) -> float | None:
        """AP50 with all errors of some kinds fixed; None where there is no box."""
        fix = np.isin(self.kind, list(fixed))
        mended = fix & self.repaired
        return self._ap50((self.kind != "ignored") & (mended | ~fix), mended, self.missed & ("missed" in fixed))

    def ap50_without_false(self) -> float | None:
        """AP50 of the true detections alone."""
        return self._ap50(self.kind == "true", np.zeros_like(self.repaired), np.zeros_like(self.free))

    def ap50_without_untaken(self) -> float | None:
        """AP50 with no other boxes than those that true detections take."""
        return self._ap50(self.kind != "ignored", np.zeros_like(self.repaired), self.free)

    def _ap50(self, counted: Bools, mended: Bools, gone: Bools) -> float | None:
        """COCO's AP of the ``counted`` detections, some of them ``mended``, without the boxes that are ``gone``."""
        true = ((self.kind == "true") | mended)[counted]
        label = np.where(mended, self.repaired_label, self.found.label)[counted]
        order = np.lexsort((-self.found.score[counted], label))
        classes, boxes = np.unique(self.boxes.label[~self.boxes.crowd], return_counts=True)
        boxes -= np.bincount(np.searchsorted(classes, self.boxes.label[gone]), minlength=len(classes))
        start, end = (np.searchsorted(label[order], classes, side) for side in ("left", "right"))
        values = [_class_ap(true[order[a:b]], left) for a, b, left in zip(start, end, boxes, strict=True)]
        return float(np.mean(values)) if values else None


def _class_ap(true: Bools, boxes: int) -> float:
    """Mean precision at COCO's recalls. true: [m] bool, from the highest score down; boxes: how many there are."""
    if boxes == 0:
        return float(len(true) == 0)
    hits = np.cumsum(true)
    precision = hits / np.arange(1, len(true) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.searchsorted(hits / boxes, RECALLS)
    return float(highest[place[place < len(true)]].sum() / len(RECALLS))


def judge(boxes: Boxes, found: Found) -> Verdicts:
    """Match detections with boxes as COCO does at an IoU of 0.5, and tell the errors of the others."""
    d, g, iou = _pairs(boxes, found)
    own, crowd = boxes.label[g] == found.label[d], boxes.crowd[g]
    close = iou >= FOREGROUND
    true, free = _take(d, g, iou, own & close, len(found.score), ~boxes.crowd)
    ignored = np.zeros_like(true)
    ignored[d[own & close & crowd]] = True
    right_iou, right_box = _nearest(d, g, iou, own & ~crowd, len(true))
    wrong_iou, wrong_box = _nearest(d, g, iou, ~own & ~crowd, len(true))
    rules = {  # the first that holds
        "true": true,
        "ignored": ignored,
        "localisation": (right_iou >= BACKGROUND) & (right_iou < FOREGROUND),
        "class": wrong_iou >= FOREGROUND,
        "duplicate": right_iou >= FOREGROUND,
        "background": wrong_iou < BACKGROUND,
    }
    kind = np.select(list(rules.values()), list(rules), "both")
    wanted = np.select([kind == "localisation", kind == "class"], [right_box, wrong_box], -1)
    repaired = _first_of_each(wanted, free, found.score)
    label, missed = found.label.copy(), free.copy()
    label[repaired] = boxes.label[wanted[repaired]]
    missed[wanted[repaired]] = False
    return Verdicts(found, boxes, kind, repaired, label, free, missed, right_iou >= FOREGROUND)


def _pairs(boxes: Boxes, found: Found) -> tuple[Ints, Ints, Floats]:
    """Detection, box and IoU of all pairs in one image whose IoU is at least that of background; any classes."""
    of_found, of_box = np.argsort(found.image, kind="stable"), np.argsort(boxes.image, kind="stable")
    images = np.intersect1d(found.image, boxes.image)
    d_edges, g_edges = (
        [np.searchsorted(side.image[order], images, where).tolist() for where in ("left", "right")]
        for side, order in ((found, of_found), (boxes, of_box))
    )
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for a, b, start, end in zip(*d_edges, *g_edges, strict=True):
        rows, columns = of_found[a:b], of_box[start:end]
        overlaps = mask.iou(found.bbox[rows], boxes.bbox[columns], boxes.crowd[columns])
        i, j = np.nonzero(overlaps >= BACKGROUND)
        parts.append((rows[i], columns[j], overlaps[i, j]))
    d, g, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return d, g, iou


def _take(d: Ints, g: Ints, iou: Floats, usable: Bools, count: int, free: Bools) -> tuple[Bools, Bools]:
    """Which of ``count`` detections take a box, and which boxes of those that are ``free`` [G] stay so.

    Detections of an image and class choose in their order, each the free box of highest IoU; of equal ones the last.
    """
    true, free = np.zeros(count, np.bool_), free.copy()
    rows = np.flatnonzero(usable)
    rows = rows[np.lexsort((-g[rows], -iou[rows], d[rows]))]
    for detection, box in zip(d[rows].tolist(), g[rows].tolist(), strict=True):
        if free[box] and not true[detection]:
            true[detection], free[box] = True, False
    return true, free


def _nearest(d: Ints, g: Ints, iou: Floats, usable: Bools, count: int) -> tuple[Floats, Ints]:
    """Highest IoU of each of ``count`` detections, and its box (of equal ones the first); 0 and -1 without any."""
    highest, nearest = np.zeros(count), np.full(count, -1)
    rows = np.flatnonzero(usable)
    rows = rows[np.lexsort((-g[rows], iou[rows]))]
    highest[d[rows]], nearest[d[rows]] = iou[rows], g[rows]  # of repeated places the last value stays
    return highest, nearest


def _first_of_each(wanted: Ints, free: Bools, score: Floats) -> Bools:
    """Which detections [n] have the highest score of all that want the same free box; -1 wants none."""
    rows = np.flatnonzero(wanted >= 0)
    rows = rows[free[wanted[rows]]]
    rows = rows[np.argsort(-score[rows], kind="stable")]
    _, first = np.unique(wanted[rows], return_index=True)
    chosen = np.zeros(len(wanted), np.bool_)
    chosen[rows[first]] = True
    return chosen


def _scores(verdicts: Verdicts) -> dict[str, Any]:
    """How the scores of foreground and background differ.

    Foreground are the detections with a box of their class under them, duplicates included; background those whose
    error is so called. Of each the "count" and "quantiles" (at "levels"; None without any).
    "separation": how probably one of the foreground has a higher score than one of the background, ties as half: the
    area under the ROC curve; None where there are not both.
    """
    score = verdicts.found.score
    foreground, background = score[verdicts.on_box], score[verdicts.kind == "background"]
    return {
        "levels": list(QUANTILES),
        "foreground": _distribution(foreground),
        "background": _distribution(background),
        "separation": _separation(foreground, background),
    }


def _distribution(score: Floats) -> dict[str, Any]:
    return {"count": len(score), "quantiles": np.quantile(score, QUANTILES).tolist() if len(score) else None}


def _separation(foreground: Floats, background: Floats) -> float | None:
    if not len(foreground) or not len(background):
        return None
    ranks = [np.searchsorted(np.sort(background), foreground, side) for side in ("left", "right")]
    return float(np.mean(ranks) / len(background))

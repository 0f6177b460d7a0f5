"""Write ``lvis_expected.json``, which holds what the LVIS API itself says of the cases.

Run once, in an environment of its own, as the package asks for NumPy as it was until 2023 and the project does not use
it:

    python -m venv /tmp/lvis && /tmp/lvis/bin/pip install lvis==0.5.3 numpy pycocotools --no-deps
    /tmp/lvis/bin/python tests/evaluation/make_lvis_expected.py

The package also imports what draws pictures, which needs OpenCV and matplotlib: an empty module stands for it here, and
the old name of ``float`` is put back. Nothing of the evaluation is changed.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import numpy as np
from lvis_cases import CASES, SCORE, detections_on

sys.modules["lvis.vis"] = ModuleType("lvis.vis")
sys.modules["lvis.vis"].LVISVis = None
vars(np)["float"] = float

from lvis import LVIS, LVISEval, LVISResults  # noqa: E402


def run(truth, rows, limit=300):
    """The API's evaluation with at most ``limit`` detections of an image."""
    keys = ("image_id", "category_id", "bbox", "score")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(truth, file)
        file.flush()
        gt = LVIS(file.name)
    evaluation = LVISEval(gt, LVISResults(gt, [dict(zip(keys, row, strict=True)) for row in rows], limit), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def mean(values):
    """The mean of the defined values, as the API takes it."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def counts(evaluation, iou):
    """TP, FP and boxes at one threshold, of detections of at least SCORE."""
    row = int(np.argmin(np.abs(evaluation.params.iou_thrs - iou)))
    sides = evaluation.params.area_rng[0]
    entries = [e for e in evaluation.eval_imgs if e is not None and e["area_rng"] == sides]
    true = false = boxes = 0
    for entry in entries:
        kept = (np.array(entry["dt_scores"]) >= SCORE) & ~entry["dt_ignore"][row].astype(bool)
        taken = entry["dt_matches"][row] > 0
        true, false = true + int((kept & taken).sum()), false + int((kept & ~taken).sum())
        boxes += int((np.array(entry["gt_ignore"]) == 0).sum())
    return [true, false, boxes]


def expected(truth, rows):
    """All that a record holds, under its keys."""
    evaluation = run(truth, rows)
    precision = evaluation.eval["precision"]
    own = {key: None if value == -1 else float(value) for key, value in evaluation.results.items()}
    names = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "AP_rare": "APr", "AP_common": "APc", "AP_frequent": "APf"}
    names |= {f"AP_{size}": f"AP{size[0]}" for size in ("small", "medium", "large")}
    names |= {f"AR_{size}": f"AR{size[0]}@300" for size in ("small", "medium", "large")} | {"AR_300": "AR@300"}
    with_boxes = precision[..., 0][..., (precision[..., 0] > -1).all(axis=(0, 1))]
    return {
        "detections": len(rows),
        "metrics": {key: own[name] for key, name in names.items()}
        | {"AP90": mean(precision[8, ..., 0])}
        | {f"AR_{limit}": mean(run(truth, rows, limit).eval["recall"][..., 0]) for limit in (1, 10, 100)},
        "per_class": [mean(precision[..., k, 0]) for k in range(precision.shape[2])],
        "counts": {str(iou): counts(evaluation, iou) for iou in (0.5, 0.75, 0.9)},
        "curve": with_boxes.mean(axis=(0, 2))[::10].tolist(),
    }


def main():
    content = {}
    for name, (make, seed) in CASES.items():
        truth = make()
        content[name] = expected(truth, detections_on(truth, seed))
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    Path(__file__).with_name("lvis_expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

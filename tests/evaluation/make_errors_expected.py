"""Write ``errors_expected.json``, which holds what the TIDE authors' own package says of the cases.

Run once, in an environment of its own, as the project does not use the package, whose last release is of 2020:

    python -m venv /tmp/tide && /tmp/tide/bin/pip install tidecv==1.0.1 numpy pycocotools --no-deps
    /tmp/tide/bin/python tests/evaluation/make_errors_expected.py

What it imports to draw pictures and to download data is replaced by empty modules. Nothing of the analysis is changed.
"""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

from error_cases import CASES, made_up

for name in ("appdirs", "cv2", "matplotlib", "matplotlib.lines", "matplotlib.pyplot", "pandas", "seaborn"):
    sys.modules[name] = MagicMock()

from tidecv import TIDE, Data  # noqa: E402

NAMES = {
    "Cls": "class",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
    "FalsePos": "false_positive",
    "FalseNeg": "false_negative",
}


def expected(truth, rows):
    """AP50, costs (shares of 1) and numbers of errors, under the names of this project."""
    gt, found = Data("truth"), Data("detections")
    for a in truth["annotations"]:
        add = gt.add_ignore_region if a["iscrowd"] else gt.add_ground_truth
        add(a["image_id"], a["category_id"], a["bbox"])
    for image in truth["images"]:
        gt.add_image(image["id"], image["file_name"])
    for image, category, bbox, score in rows:
        found.add_detection(image, category, score, bbox)
    tide = TIDE()
    run = tide.evaluate(gt, found, mode=TIDE.BOX)
    errors = tide.get_all_errors()
    return {
        "AP50": run.ap / 100,
        "cost": {NAMES[key]: value / 100 for key, value in errors["main"]["detections"].items()},
        "special": {NAMES[key]: value / 100 for key, value in errors["special"]["detections"].items()},
        "counts": {NAMES[kind.short_name]: count for kind, count in run.count_errors().items()},
    }


def main():
    content = {name: expected(*made_up(*case)) for name, case in CASES.items()}
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    Path(__file__).with_name("errors_expected.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The assigner gives every anchor of the reference scenes the same box, exactly."""

import json

import pytest
import torch
from torch.testing import assert_close

from imbdet.assigners import BACKGROUND, FOREGROUND, IGNORED, MaxIoUAssigner, Truth


def assigner_of(library, case):
    if library == "mmdet":
        rule = "reassign" if case["match_low_quality"] else "off"
        return MaxIoUAssigner(case["pos_iou_thr"], case["neg_iou_thr"], rule, case["min_pos_iou"])
    low, high = case["thresholds"][0], case["thresholds"][-1]
    return MaxIoUAssigner(high, low, "argmax" if case["allow_low_quality"] else "off")


def assign(assigner, scene):
    boxes = torch.tensor(scene["gt"]).reshape(-1, 4)
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    truth = Truth(boxes, zeros, zeros, torch.zeros(0, 4), zeros[:0], num_images=1)
    return assigner(torch.tensor(scene["anchors"]), truth)


def expected_status(case, num_anchors):
    status = torch.full((1, num_anchors), BACKGROUND)
    status[0, list(map(int, case["pos"]))] = FOREGROUND
    status[0, case["ignored"]] = IGNORED
    assert (status == BACKGROUND).sum() == case["num_neg"]
    return status


@pytest.mark.parametrize("library", ["detectron2", "mmdet"])
def test_every_anchor_gets_the_reference_box(vectors, library):
    scenes = json.loads((vectors / "max_iou_match.json").read_text())["cases"]
    assert scenes
    for scene in scenes:
        for case in scene[library]:
            matches = assign(assigner_of(library, case), scene)
            assert_close(matches.status, expected_status(case, len(scene["anchors"])), rtol=0, atol=0)
            foreground = {
                str(anchor): matches.gt_id[0, anchor].item() + 1
                for anchor in (matches.status[0] == FOREGROUND).nonzero()[:, 0].tolist()
            }
            assert foreground == case["pos"]

"""The funnel against counts by hand: of plain assignment, and of what random sampling must keep."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from slow_assigner import anchors_of, area, assign, common, iou
from small_study import EXPERIMENT, place, small_study, with_random_weights
from studies import ADDED

from imbdet.data.facts import read_facts
from imbdet.data.loader import Split, collate
from imbdet.detectors import build_detector
from imbdet.errors import UserError
from imbdet.evaluation import funnel
from imbdet.files import write_bytes
from imbdet.training.checkpoint import serialise

__all__ = ["place"]
STATIONS = ["anchors", "RPN sample", "proposals", "RoI sample"]
KINDS = ("foreground", "background", "ignored")


@pytest.fixture
def study(place):
    """The small study with a second detector of random weights, all of its stages within reach of a loop."""
    second = deepcopy(ADDED["detectors"]["faster_rcnn"]) | {"short_side": 60, "long_side": 110}
    second["rpn"]["training"] = {"candidates_per_level": 300, "kept": 400}
    experiments = deepcopy(ADDED["experiments"])
    made, layout = small_study(place, detectors={"faster_rcnn": second}, experiments=experiments)
    torch.manual_seed(1)
    model = build_detector(made, "two-stage", read_facts(layout)).eval()
    write_bytes(layout.weights("two-stage"), serialise(model.state_dict()))
    return made, layout, model


def images_of(study, layout):
    split = Split(study.detectors["faster_rcnn"], layout, "train")
    return split, [collate([split.sample(i, mirrored=False)], split.stride, seed=0) for i in range(len(split))]


def labels_of_proposals(proposals, boxes, labels, crowds):
    """Foreground from an IoU of .5, and the others background, but for those mostly inside a crowd."""
    found = []
    for proposal in proposals:
        overlaps = [iou(proposal, box) for box in boxes]
        crowded = any(common(proposal, crowd) > 0.5 * area(proposal) for crowd in crowds)
        if max(overlaps, default=0) >= 0.5:
            found.append(labels[overlaps.index(max(overlaps))])
        else:
            found.append(-1 if crowded else 3)
    return found


def counts(labels, background):
    return np.array([sum(0 <= x < background for x in labels), labels.count(background), labels.count(-1)])


def boxes_of(batch):
    return batch.gt_boxes.tolist(), batch.gt_labels.tolist(), batch.ignore_boxes.tolist()


def by_hand(model, batch, settings):
    """Labels of the anchors as objects or not, the proposals, and the ground truth of a batch of one image."""
    boxes, labels, crowds = boxes_of(batch)
    anchors = [box for _, box in anchors_of(settings.anchors, *batch.images.shape[-2:], settings.strides)]
    with torch.no_grad():
        limits = model.rpn_settings.training
        (proposals,) = model.propose(batch, *model.predict_objects(model.features(batch)), limits)
    objects = assign(anchors, boxes, [0] * len(boxes), crowds, settings.rpn.assigner, 1)
    return objects, proposals.tolist(), (boxes, labels, crowds)


def written(study, layout):
    funnel.run(study, layout, "two-stage")
    record = json.loads(layout.funnel.read_text())
    return record, {row["name"]: np.array([row[kind] for kind in KINDS]) for row in record["stations"]}


def test_anchors_and_proposals_are_those_of_the_assigners(study):
    made, layout, model = study
    record, means = written(made, layout)
    _, batches = images_of(made, layout)
    settings = made.detectors["faster_rcnn"]
    expected = {"anchors": np.zeros(3), "proposals": np.zeros(3)}
    for batch in batches:
        objects, proposals, truth = by_hand(model, batch, settings)
        expected["anchors"] += counts(objects, 1)
        assert len(proposals) <= settings.rpn.training.kept
        expected["proposals"] += counts(labels_of_proposals(proposals, *truth), 3)
    assert (record["study"], record["experiment"], record["images"]) == (made.name, "two-stage", len(batches))
    assert list(means) == STATIONS
    for station, total in expected.items():
        np.testing.assert_allclose(means[station], total / len(batches), rtol=1e-12)
    assert (expected["anchors"] > 3).all()
    assert (expected["proposals"] > 3).all()


def test_samples_keep_what_random_sampling_must(study):
    """As much foreground as there is and the share allows, then background; ground truth is a proposal too."""
    made, layout, model = study
    _, means = written(made, layout)
    _, batches = images_of(made, layout)
    settings = made.detectors["faster_rcnn"]
    expected = {"RPN sample": np.zeros(3), "RoI sample": np.zeros(3)}
    for batch in batches:
        objects, proposals, truth = by_hand(model, batch, settings)
        found = labels_of_proposals(proposals + truth[0], *truth)
        for station, stage, (foreground, background, _) in (
            ("RPN sample", settings.rpn, counts(objects, 1)),
            ("RoI sample", settings.roi, counts(found, 3)),
        ):
            kept = min(foreground, int(stage.sampled * stage.foreground_share))
            others = min(background, stage.sampled - kept)
            expected[station] += [kept, others, stage.sampled - kept - others]
    for station, total in expected.items():
        np.testing.assert_allclose(means[station], total / len(batches), rtol=1e-12)


def test_large_sets_are_sampled_evenly_from_first_to_last(study, monkeypatch):
    made, layout, model = study
    monkeypatch.setattr(funnel, "MOST_IMAGES", 2)
    record, means = written(made, layout)
    _, batches = images_of(made, layout)
    ends = [funnel.count(model.match_anchors(batch).label, 1).numpy() for batch in (batches[0], batches[-1])]
    assert record["images"] == 2
    np.testing.assert_allclose(means["anchors"], sum(ends) / 2, rtol=1e-12)


def test_a_detector_of_one_stage_is_refused(place):
    made, layout = small_study(place)
    with_random_weights(made, layout)
    with pytest.raises(UserError, match=r"report.funnel names ce, whose detector has one stage; name a two-stage"):
        funnel.run(made, layout, EXPERIMENT)
    assert not layout.funnel.exists()


def test_run_twice_gives_the_same_bytes(study):
    made, layout, _ = study
    first = (funnel.run(made, layout, "two-stage"), layout.funnel.read_bytes())
    assert first == (funnel.run(made, layout, "two-stage"), layout.funnel.read_bytes())

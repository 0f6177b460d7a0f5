"""The structure that is drawn is that of the network: its tensors, layers and anchors."""

import pytest
import torch
from small_study import CATEGORIES, place, random_detector, small_study
from studies import ADDED, ROI, merged

from imbdet.data.batch import Batch
from imbdet.data.facts import read_facts
from imbdet.detectors import build_detector
from imbdet.evaluation.structure import describe

__all__ = ["place"]


def blank(height, width):
    none = torch.zeros(0, dtype=torch.int64)
    size = torch.tensor([[height, width]])
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    return Batch(images, size, torch.ones(1, 2), none, torch.zeros(0, 4), none, none, torch.zeros(0, 4), none)


@pytest.mark.parametrize(
    ("backbone", "p6_source", "channels"),
    [("tiny", "c5", [48, 64, 96]), ("tiny", "p5", [48, 64, 96]), ("resnet18", "c5", [128, 256, 512])],
)
def test_structure_is_what_the_network_does(place, backbone, p6_source, channels):
    named = {"name": backbone, "weights": "none", "frozen": "none"}
    changes = {"backbone": named, "p6_source": p6_source, "fpn_channels": 16, "short_side": 100, "long_side": 200}
    study, layout = small_study(place, detectors={"retinanet": changes})
    model = random_detector(study, layout)
    seen = {}
    model.head.register_forward_pre_hook(lambda module, inputs: seen.update(levels=inputs[0]))
    written = describe(study.detectors["retinanet"], model)
    assert written["image"] == [128, 224]  # padded to a multiple of 32: P6 and P7 round up
    batch = blank(*written["image"])
    logits, deltas = model.eval().predict(batch)
    anchors, levels = model.anchors(*written["image"])
    assert written["parameters"] == sum(p.numel() for p in model.parameters())
    assert [(level["name"], level["stride"]) for level in written["levels"]] == [
        ("P3", 8), ("P4", 16), ("P5", 32), ("P6", 64), ("P7", 128)
    ]  # fmt: skip
    for k, (level, features) in enumerate(zip(written["levels"], seen["levels"], strict=True)):
        assert [level["channels"], *level["shape"]] == list(features.shape[1:])
        assert level["anchors"] == (levels == k).sum()
        assert level["anchors"] == level["anchors_per_location"] * level["shape"][0] * level["shape"][1]
        of_level = anchors[levels == k]
        extents = of_level[:, 2:] - of_level[:, :2]
        assert level["anchor_sides"] == pytest.approx([extents.min().item(), extents.max().item()])
    assert sum(level["anchors"] for level in written["levels"]) == logits.shape[1] == deltas.shape[1]
    assert [(level["name"], level["stride"]) for level in written["backbone_levels"]] == [
        ("C3", 8), ("C4", 16), ("C5", 32)
    ]  # fmt: skip
    assert [level["channels"] for level in written["backbone_levels"]] == channels
    assert [level["shape"] for level in written["backbone_levels"]] == [[16, 28], [8, 14], [4, 7]]


def test_heads_are_those_of_the_network(place):
    study, layout = small_study(place)
    model = random_detector(study, layout)
    classification, regression = describe(study.detectors["retinanet"], model)["heads"]
    layers = model.head.classification_head, model.head.regression_head
    for head, module, last in zip(
        (classification, regression), layers, (layers[0].cls_logits, layers[1].bbox_reg), strict=True
    ):
        assert head["convs"] == len(module.conv) == 4
        assert head["channels"] == last.in_channels
        anchors, outputs = head["outputs"].split(" x ")
        assert int(anchors) * int(outputs) == last.out_channels
    assert (classification["outputs"], regression["outputs"]) == ("6 x 3", "6 x 4")


@pytest.mark.parametrize("norm", ["none", "group"])
def test_normalisation_of_the_heads_is_that_of_the_network(place, norm):
    study, layout = small_study(place, detectors={"retinanet": {"head_norm": norm}})
    model = random_detector(study, layout)
    heads = describe(study.detectors["retinanet"], model)["heads"]
    has_group_norm = any(isinstance(module, torch.nn.GroupNorm) for module in model.head.modules())
    assert [head["norm"] for head in heads] == [norm, norm]
    assert has_group_norm == (norm == "group")


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_structure_of_a_detector_of_two_stages(place, activation):
    roi = ROI | {"activation": activation}
    study, layout = small_study(place, **merged(ADDED, {"experiments": {"two-stage": {"methods": {"roi": roi}}}}))
    model = build_detector(study, "two-stage", read_facts(layout)).eval()
    seen = {}
    model.rpn.head.register_forward_pre_hook(lambda module, inputs: seen.update(levels=inputs[0]))
    written = describe(study.detectors["faster_rcnn"], model)
    logits, _ = model.predict_objects(model.features(blank(*written["image"])))
    assert (written["name"], written["p6_source"], written["image"]) == ("faster_rcnn", "pool", [64, 64])
    assert written["parameters"] == sum(p.numel() for p in model.parameters())
    levels, stages = written["levels"], written["backbone_levels"]
    assert [(x["name"], x["stride"]) for x in levels] == [("P2", 4), ("P3", 8), ("P4", 16), ("P5", 32), ("P6", 64)]
    assert [(x["name"], x["stride"]) for x in stages] == [("C2", 4), ("C3", 8), ("C4", 16), ("C5", 32)]
    assert [x["channels"] for x in stages] == [32, 48, 64, 96]
    for level, features in zip(levels, seen["levels"], strict=True):
        assert [level["channels"], *level["shape"]] == list(features.shape[1:])
    assert sum(level["anchors"] for level in levels) == logits.shape[1]
    rpn, head = written["heads"]
    shared, predictor = model.rpn.head, model.roi_heads.box_predictor
    assert (rpn["name"], rpn["convs"], rpn["channels"]) == ("rpn", len(shared.conv), shared.cls_logits.in_channels)
    assert rpn["outputs"] == f"{shared.cls_logits.out_channels} x (1 + 4)"
    assert (head["name"], head["pool"], head["layers"]) == ("roi", 3, 2)
    assert head["channels"] == predictor.cls_score.in_features
    assert head["outputs"] == f"{predictor.cls_score.out_features} + {len(CATEGORIES)} x 4"

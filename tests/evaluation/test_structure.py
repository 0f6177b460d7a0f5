"""The structure that is drawn is that of the network: its tensors, layers and anchors."""

import pytest
import torch
from small_study import place, random_detector, small_study

from imbdet.data.batch import Batch
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
    sides = {"short_side": 100, "long_side": 200}
    study, _ = small_study(place, detector={"backbone": backbone, "p6_source": p6_source, "fpn_channels": 16} | sides)
    model = random_detector(study)
    seen = {}
    model.head.register_forward_pre_hook(lambda module, inputs: seen.update(levels=inputs[0]))
    written = describe(study, model)
    assert written["image"] == [128, 256]  # padded to the coarsest stride
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
    assert [level["shape"] for level in written["backbone_levels"]] == [[16, 32], [8, 16], [4, 8]]


def test_heads_are_those_of_the_network(place):
    study, _ = small_study(place)
    model = random_detector(study)
    classification, regression = describe(study, model)["heads"]
    layers = model.head.classification_head, model.head.regression_head
    for head, module, last in zip(
        (classification, regression), layers, (layers[0].cls_logits, layers[1].bbox_reg), strict=True
    ):
        assert head["convs"] == len(module.conv) == 4
        assert head["channels"] == last.in_channels
        anchors, outputs = head["outputs"].split(" x ")
        assert int(anchors) * int(outputs) == last.out_channels
    assert (classification["outputs"], regression["outputs"]) == ("6 x 3", "6 x 4")

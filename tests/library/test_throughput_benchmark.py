"""The benchmark of throughput counts what it says, on detectors as the study has them."""

from pathlib import Path

import pytest
import torch
from scripts import load

from imbdet.study_file import load_study

TINY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benchmark():
    torch.set_num_threads(1)
    return load("throughput")


@pytest.fixture(scope="module")
def coco(benchmark):
    return load_study(Path(__file__).parents[2] / benchmark.STUDY)


def test_operations_are_three_times_those_of_forward(benchmark):
    """Of one layer: 2 for each multiplication with its addition; backward has as many for weights and for inputs."""
    layer, images = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.rand(2, 3, 16, 16, requires_grad=True)
    forward = 2 * (2 * 16 * 16) * (3 * 3 * 3) * 8
    assert benchmark.count(lambda: layer(images).sum().backward()) == 3 * forward


def test_a_row_is_by_image(benchmark, monkeypatch):
    """Two images cost twice one, so that numbers an image do not depend on how many were measured."""
    monkeypatch.setattr(benchmark, "HEIGHT", 400)
    monkeypatch.setattr(benchmark, "WIDTH", 400)
    study = load_study(TINY)
    study = study.model_copy(update={"detectors": {"retinanet": enlarged(study.detectors["retinanet"])}})
    one, two = (benchmark.measure(study, "ce", images, 1, CPU) for images in (1, 2))
    assert one["operations_an_image"] == two["operations_an_image"] > 0
    assert one["padded"] == one["largest_padded"] == [416, 416]
    assert one["largest_operations_an_image"] == one["operations_an_image"]
    assert one["seconds_an_image"] > 0
    assert one["memory_an_image"] == pytest.approx(two["memory_an_image"], rel=0.2)


def enlarged(detector):
    """With sides that the made-up boxes fit into."""
    return detector.model_copy(update={"short_side": 400, "long_side": 400})


@pytest.mark.parametrize("experiment", ["ce", "faster-ce"])
def test_the_detectors_are_frozen_as_with_pretrained_weights(benchmark, coco, experiment):
    assert coco.detector(experiment).backbone.frozen == "stem"
    body = benchmark.make_detector(coco, experiment).backbone.body
    trained = {name.split(".")[0] for name, p in body.named_parameters() if p.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert "FrozenBatchNorm2d" in {type(module).__name__ for module in body.modules()}
    assert "BatchNorm2d" not in {type(module).__name__ for module in body.modules()}

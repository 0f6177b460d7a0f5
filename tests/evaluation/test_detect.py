"""Detections of a trained detector, in pixels and category ids of the annotation file."""

import numpy as np
import pytest
import torch
from small_study import CATEGORIES, EXPERIMENT, SIZES, place, small_study, with_random_weights
from studies import ADDED

from imbdet.data.facts import read_facts
from imbdet.detectors import build_detector
from imbdet.detectors.base import ImageDetections
from imbdet.detectors.retinanet import RetinaNet
from imbdet.errors import UserError
from imbdet.evaluation import detect
from imbdet.evaluation.detections import Detections
from imbdet.files import write_bytes
from imbdet.training.checkpoint import serialise

__all__ = ["place"]
IDS = [4, 14, 24, 34]


def test_boxes_go_back_to_original_pixels_and_labels_to_category_ids(place, monkeypatch):
    """A detector that finds the same share of every resized image finds that share of every original one."""
    study, layout = small_study(place)
    with_random_weights(study, layout)
    share = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0], [0.5, 0.125, 1.0, 0.25]])

    def found(self, batch, settings):
        sides = batch.sizes.flip(1).float()
        assert not torch.equal(sides, torch.tensor(SIZES).flip(1)[: len(sides)].float())
        boxes = [share * side.repeat(2) for side in sides]
        return [ImageDetections(box, torch.tensor([2, 0, 1]), torch.tensor([0.9, 0.5, 0.1])) for box in boxes]

    monkeypatch.setattr(RetinaNet, "detect", found)
    detect.run(study, layout, EXPERIMENT)
    result = Detections.load(layout.detections(EXPERIMENT), layout.annotations("val"))
    assert result.image_id.tolist() == np.repeat(IDS, 3).tolist()
    assert result.category_id.tolist() == [40, 3, 7] * 4
    np.testing.assert_allclose(result.score, [0.9, 0.5, 0.1] * 4, rtol=1e-6)
    expected = [
        [x * width, y * height, (x2 - x) * width, (y2 - y) * height]
        for height, width in SIZES
        for x, y, x2, y2 in share.tolist()
    ]
    np.testing.assert_allclose(result.bbox, expected, rtol=1e-5, atol=1e-4)


def test_detections_lie_inside_their_images_above_the_threshold_and_in_number(place):
    study, layout = small_study(place, evaluate={"score_threshold": 0.3, "detections_per_image": 7})
    with_random_weights(study, layout)
    detect.run(study, layout, EXPERIMENT)
    result = Detections.load(layout.detections(EXPERIMENT), layout.annotations("val"))
    assert set(result.category_id.tolist()) <= set(CATEGORIES)
    assert len(set(result.category_id.tolist())) > 1
    for image_id, (height, width) in zip(IDS, SIZES, strict=True):
        rows = result.select(result.image_id == image_id)
        assert len(rows) == 7
        assert (rows.score > 0.3).all()
        assert (np.diff(rows.score) <= 0).all()
        assert (rows.bbox >= 0).all()
        assert (rows.bbox[:, :2] + rows.bbox[:, 2:] <= np.array([width, height]) * (1 + 1e-5)).all()


def test_the_model_detects_in_evaluation_mode_with_its_own_weights(place):
    """Running statistics, not those of the batch: the size of a batch of equal images changes nothing."""
    study, layout = small_study(place, evaluate={"batch_size": 1})
    expected = with_random_weights(study, layout)
    model, _ = detect.load_trained(study, layout, EXPERIMENT)
    assert not model.training
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_run_twice_gives_the_same_bytes(place):
    study, layout = small_study(place)
    with_random_weights(study, layout)
    written = []
    for _ in range(2):
        detect.run(study, layout, EXPERIMENT)
        written.append(layout.detections(EXPERIMENT).read_bytes())
        layout.detections(EXPERIMENT).unlink()
    assert written[0] == written[1]


@pytest.mark.parametrize("threshold", [0.0, 0.999])
def test_no_detection_at_all_is_a_whole_file(place, threshold):
    study, layout = small_study(place, evaluate={"score_threshold": threshold, "operating_score": 0.999})
    with_random_weights(study, layout)
    detect.run(study, layout, EXPERIMENT)
    assert (len(Detections.load(layout.detections(EXPERIMENT), layout.annotations("val"))) == 0) == (threshold > 0)


def test_a_detector_of_two_stages_detects_alike(place):
    """Inside the images, above the threshold, best first, and the same at every run."""
    evaluate = {"score_threshold": 0.2, "detections_per_image": 7, "nms_iou": 1.0}
    study, layout = small_study(place, evaluate=evaluate, **ADDED)
    torch.manual_seed(0)
    model = build_detector(study, "two-stage", read_facts(layout))
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=30)
    write_bytes(layout.weights("two-stage"), serialise(model.state_dict()))
    detect.run(study, layout, "two-stage")
    result = Detections.load(layout.detections("two-stage"), layout.annotations("val"))
    for image_id, (height, width) in zip(IDS, SIZES, strict=True):
        rows = result.select(result.image_id == image_id)
        assert 0 < len(rows) <= 7
        assert (rows.score > 0.2).all()
        assert (np.diff(rows.score) <= 0).all()
        assert (rows.bbox >= 0).all()
        assert (rows.bbox[:, :2] + rows.bbox[:, 2:] <= np.array([width, height]) * (1 + 1e-5)).all()
    first = layout.detections("two-stage").read_bytes()
    detect.run(study, layout, "two-stage")
    assert layout.detections("two-stage").read_bytes() == first


HEADS = {
    "head.classification_head.cls_logits": EXPERIMENT,
    "head.regression_head.bbox_reg": EXPERIMENT,
    "rpn.head.cls_logits": "two-stage",
    "rpn.head.bbox_pred": "two-stage",
    "roi_heads.box_predictor.cls_score": "two-stage",
    "roi_heads.box_predictor.bbox_pred": "two-stage",
}


@pytest.mark.parametrize(("name", "experiment"), HEADS.items())
def test_outputs_that_are_nan_are_refused_and_no_empty_result(place, name, experiment):
    """A score that is NaN is above no threshold, and a box that is NaN has no width: both would just be gone."""
    study, layout = small_study(place, **ADDED)
    model = build_detector(study, experiment, read_facts(layout))
    torch.nn.init.constant_(model.get_submodule(name).bias, torch.nan)
    write_bytes(layout.weights(experiment), serialise(model.state_dict()))
    with pytest.raises(
        UserError, match=r"images \[4, 14, 24\]: the detector's outputs are NaN: its weights are damaged"
    ):
        detect.run(study, layout, experiment)
    assert not layout.detections(experiment).exists()

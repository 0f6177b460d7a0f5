"""The library in somebody else's model: torchvision's Faster R-CNN with each method of this library, at each stage."""

import copy
import re
import runpy
from contextlib import contextmanager

import pytest
import torch
from stock_models import (
    BATCHES,
    CASES,
    CLASSES,
    SIDES,
    TESTS,
    batch,
    cases,
    caught_samples,
    copy_of,
    detect,
    faster_rcnn,
    method_of,
    train_one_step,
)
from torch.testing import assert_close
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.rpn import RPNHead

import imbdet
from imbdet.samplers import RandomSampler

PARITY = runpy.run_path(str(TESTS / "parity" / "faster_rcnn_pair.py"))
Recorder, Replay = PARITY["Recorder"], PARITY["Replay"]
RPN, ROI = "cross_entropy-rpn", "cross_entropy-roi"
BOTH = {"rpn": RPN, "roi": ROI}
SCORE = "roi_heads.box_predictor.cls_score"
SIGMOID_CASES = [case for case in cases("roi") if method_of(case).head.activation == "sigmoid"]
SOFTMAX_CASES = [case for case in cases("roi") if method_of(case).head.activation == "softmax"]


@pytest.fixture
def stock():
    return copy_of(faster_rcnn)


def attached(**case_of_stage):
    model = copy_of(faster_rcnn)
    methods = {stage: method_of(case) for stage, case in case_of_stage.items()}
    torch.manual_seed(1)
    imbdet.attach(model, **methods)
    return model, methods


@pytest.mark.parametrize("case", cases("rpn", "roi"))
def test_each_method_trains_and_detects(case):
    """The other stage stays torchvision's."""
    stage = CASES[case][0]
    model, methods = attached(**{stage: case})
    losses, changed = train_one_step(model, methods[stage], "one image without boxes")
    own = {f"{stage}_classification", f"{stage}_box_regression"}
    rest = {"rpn": {"loss_classifier", "loss_box_reg"}, "roi": {"loss_objectness", "loss_rpn_box_reg"}}[stage]
    assert own | rest <= losses.keys()
    assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
    assert min(losses[name] for name in own) > 0
    assert {"backbone.body.conv1.weight", "rpn.head.cls_logits.weight", f"{SCORE}.weight"} <= changed
    part = "rpn" if stage == "rpn" else "roi_heads"
    assert {f"{part}.method.{name}" for name, _ in methods[stage].named_parameters()} <= changed
    model.roi_heads.score_thresh = 0.0
    for image in detect(model):
        assert len(image["boxes"]) > 10
        assert set(image["labels"].tolist()) <= set(range(1, CLASSES + 1))


def push_boxes_out(model):
    """Make RPN send every box out of its image."""
    torch.nn.init.constant_(model.rpn.head.bbox_pred.bias, 1e4)


@pytest.mark.parametrize("case", [ROI, "ohem-paper", "pisa-roi", "sample_weighting-roi"])
@pytest.mark.parametrize("proposals", ["some", "none"])
def test_a_batch_without_boxes_has_a_gradient_for_every_parameter(case, proposals):
    model, methods = attached(rpn="focal-rpn", roi=case)
    if proposals == "none":
        push_boxes_out(model)
    losses, _ = train_one_step(model, methods["roi"], "no boxes at all")
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["rpn_box_regression"] == losses["roi_box_regression"] == 0
    assert losses["roi_classification"] > 0


NAMES = {
    "rpn_classification": "loss_objectness",
    "rpn_box_regression": "loss_rpn_box_reg",
    "roi_classification": "loss_classifier",
    "roi_box_regression": "loss_box_reg",
}
PARTS = {"rpn": "rpn", "roi": "roi_heads"}


@pytest.mark.parametrize(
    ("stages", "name"),
    [*((("rpn", "roi"), name) for name in BATCHES), (("rpn",), "two images"), (("roi",), "two images")],
)
def test_losses_and_gradients_on_the_same_sample_are_torchvisions(stock, stages, name, monkeypatch):
    ours, images_and_targets = copy.deepcopy(stock), batch(*BATCHES[name])
    methods = {stage: method_of(BOTH[stage]) for stage in stages}
    for stage, method in methods.items():
        method.box_beta = 1 / 9
        numbers = stock.get_submodule(PARTS[stage]).fg_bg_sampler
        recorder = Recorder(RandomSampler(numbers.batch_size_per_image, numbers.positive_fraction))
        monkeypatch.setattr(method, "sampler", lambda recorder=recorder: recorder)
        stock.get_submodule(PARTS[stage]).fg_bg_sampler = Replay(recorder)
    imbdet.attach(ours, **methods)
    losses, expected = ours(*images_and_targets), stock(*images_and_targets)
    for key, other in NAMES.items():
        if key[:3] in stages:
            assert_close(losses[key], expected[other], rtol=1e-5, atol=0)
    if len(stages) == 2:
        sum(losses.values()).backward()
        sum(expected.values()).backward()
        gradients = dict(ours.named_parameters())
        for key, parameter in stock.named_parameters():
            scale = parameter.grad.abs().max().item()
            assert_close(gradients[key].grad, parameter.grad, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("case_of_stage", [{"rpn": "focal-rpn"}, *({"roi": case} for case in SOFTMAX_CASES)])
def test_weights_and_detections_stay_where_the_columns_do(stock, case_of_stage):
    ours, _ = attached(**case_of_stage)
    for key, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    for mine, theirs in zip(detect(ours), detect(stock), strict=True):
        assert len(theirs["boxes"]) > 0
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("case", SIGMOID_CASES)
def test_sigmoid_has_a_new_last_layer_without_the_backgrounds_column(stock, case):
    ours, methods = attached(roi=case)
    new, head = ours.get_submodule(SCORE), methods["roi"].head
    assert (stock.get_submodule(SCORE).out_features, new.out_features) == (CLASSES + 1, CLASSES)
    assert new.weight.std().item() == pytest.approx(head.weight_std, rel=0.1)
    assert_close(new.bias.sigmoid(), torch.full((CLASSES,), head.prior_prob or 0.5))
    threshold = 0.05 if head.score_threshold is None else head.score_threshold
    assert ours.roi_heads.score_thresh == threshold
    assert stock.roi_heads.score_thresh == 0.05
    for key, value in stock.state_dict().items():
        assert key.startswith(SCORE) or torch.equal(ours.state_dict()[key], value), key


@contextmanager
def caught(heads):
    """What the RoI heads are given to make detections of."""
    inputs, original = [], heads.postprocess_detections
    heads.postprocess_detections = lambda *given: inputs.append(given) or original(*given)
    yield inputs
    heads.postprocess_detections = original


def test_sigmoid_detections_are_torchvisions_of_each_class_by_itself(stock):
    """Its softmax of two columns, 0 and a logit, is the sigmoid of the logit."""
    model, _ = attached(roi="focal-roi")
    torch.nn.init.normal_(model.get_submodule(SCORE).weight, std=0.5)
    heads = model.roi_heads
    heads.detections_per_img = 40
    with caught(heads) as inputs:
        detect(model)
    ((logits, deltas, proposals, shapes),) = inputs
    assert 0.2 < (logits.sigmoid() > heads.score_thresh).float().mean() < 0.9
    mine = heads.postprocess_detections(logits, deltas, proposals, shapes)
    of_class = []
    for k in range(CLASSES):
        columns = torch.stack([torch.zeros(len(logits)), logits[:, k]], dim=1)
        offsets = deltas.unflatten(1, (-1, 4))[:, [0, k + 1]].flatten(1)
        of_class.append(stock.roi_heads.postprocess_detections(columns, offsets, proposals, shapes))
    for i in range(len(shapes)):
        boxes, scores = (torch.cat([found[kind][i] for found in of_class]) for kind in (0, 1))
        labels = torch.cat([torch.full_like(found[2][i], k + 1) for k, found in enumerate(of_class)])
        best = scores.argsort(descending=True, stable=True)[:40]
        assert len(best) == 40
        assert_close(mine[0][i], boxes[best])
        assert_close(mine[1][i], scores[best])
        assert torch.equal(mine[2][i], labels[best])


@pytest.mark.parametrize("case", [ROI, "focal-roi"])
def test_without_proposals_nothing_is_detected(case):
    model, _ = attached(roi=case)
    push_boxes_out(model)
    for image in detect(model):
        assert [tuple(image[key].shape) for key in ("boxes", "labels", "scores")] == [(0, 4), (0,), (0,)]


def test_the_sample_has_the_models_own_numbers(stock):
    stock.roi_heads.fg_bg_sampler.positive_fraction = 0.1
    imbdet.attach(stock, rpn=method_of(RPN), roi=method_of(ROI))
    of_stage = {stage: caught_samples(stock.get_submodule(PARTS[stage])) for stage in BOTH}
    stock(*batch(*BATCHES["two images"]))
    for stage, number, least, most in (("rpn", 64, 1, 32), ("roi", 32, 3, 3)):
        (samples,) = of_stage[stage]
        for image in range(2):
            own = samples.image_id == image
            assert (own & (samples.label >= 0)).sum() == number
            assert least <= (own & samples.foreground).sum() <= most
    assert of_stage["rpn"][0].num_classes == 1
    assert of_stage["roi"][0].num_classes == CLASSES


@pytest.mark.parametrize("case", ["ohem-paper", "ohem-code"])
def test_ohem_brings_its_own_sampler(case):
    model, methods = attached(roi=case)
    seen = caught_samples(model.roi_heads)
    model(*batch(*BATCHES["two images"]))
    (samples,) = seen
    assert len(samples.label) == 2 * methods["roi"].hard_examples.per_image
    assert (samples.label >= 0).all()
    assert torch.equal(samples.image_id, samples.image_id.sort().values)


def test_a_copy_has_methods_of_its_own(stock):
    imbdet.attach(stock, rpn=imbdet.build_method({**FOCAL, "normalizer": "ema"}), roi=method_of(ROI))
    twin = copy.deepcopy(stock)
    twin(*batch(*BATCHES["two images"]))
    assert twin.rpn.method.normalizer.mean != 100 == stock.rpn.method.normalizer.mean
    assert set(twin.state_dict()) - set(faster_rcnn().state_dict()) == {"rpn.method.normalizer.mean"}


FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "batch", "box_beta": 0.0}


@pytest.mark.parametrize(("case_of_stage", "what"), [({"rpn": RPN}, "anchors"), ({"roi": ROI}, "proposals")])
def test_boxes_in_half_precision_are_refused(case_of_stage, what):
    model, _ = attached(**case_of_stage)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=rf"{what} of torch\.bfloat16"):
        model(*batch(*BATCHES["two images"]))


@pytest.mark.parametrize(("case_of_stage", "what"), [({"rpn": RPN}, "anchors"), ({"roi": ROI}, "proposals")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_in_another_precision_is_refused(case_of_stage, what, dtype, monkeypatch):
    model, _ = attached(**case_of_stage)
    if "roi" in case_of_stage:  # torchvision's RPN, which has no half precision on a CPU
        whole = torch.tensor([[0.0, 0.0, 64.0, 64.0]], dtype=dtype)
        monkeypatch.setattr(model.rpn, "forward", lambda images, *rest: ([whole] * len(images.image_sizes), {}))
    images, targets = batch(*BATCHES["two images"])
    message = rf"{what} of {re.escape(str(dtype))}, expected float32: call model\.float\(\)"
    with pytest.raises(ValueError, match=message):
        model.to(dtype)([image.to(dtype) for image in images], targets)


def replace_rpn(model):
    model.rpn = faster_rcnn().rpn


def replace_roi_heads(model):
    model.roi_heads = faster_rcnn().roi_heads


@pytest.mark.parametrize(("replace", "name"), [(replace_rpn, "rpn"), (replace_roi_heads, "roi_heads")])
def test_a_part_that_lost_its_method_is_refused(replace, name):
    """It would train with torchvision's own losses, without a word."""
    model, _ = attached(**BOTH)
    replace(model)
    with pytest.raises(ValueError, match=rf"model\.{name} was replaced after imbdet.attach, .* attach last"):
        model(*batch(*BATCHES["two images"]))


@pytest.mark.parametrize(
    ("stage", "case", "other"),
    [("rpn", RPN, "focal-rpn"), ("roi", ROI, "focal-roi"), ("roi", "focal-roi", ROI)],
)
def test_a_method_that_was_replaced_or_removed_is_refused(stage, case, other):
    model, _ = attached(**{stage: case})
    part, message = (
        model.get_submodule(PARTS[stage]),
        rf"model\.{PARTS[stage]}\.method was replaced after imbdet.attach",
    )
    part.method = method_of(other)
    with pytest.raises(ValueError, match=message):
        model(*batch(*BATCHES["two images"]))
    del part.method
    with pytest.raises(ValueError, match=message):
        model(*batch(*BATCHES["two images"]))


@pytest.mark.parametrize("classes", [1, CLASSES, CLASSES + 2])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_torchvisions_predictor_is_refused_in_the_place_of_a_sigmoid_one(classes, mode):
    model, _ = attached(roi="focal-roi")
    model.roi_heads.box_predictor = FastRCNNPredictor(1024, classes + 1)
    images, targets = batch(*BATCHES["two images"])
    for target in targets:
        target["labels"] = target["labels"].clamp(max=classes)
    message = rf"gives {classes + 1} columns and {4 * (classes + 1)} offsets; Focal needs K columns .* attach last"
    with pytest.raises(ValueError, match=message):
        getattr(model, mode)()(images, targets)


def test_a_predictor_of_another_form_is_refused_after_attach():
    model, _ = attached(roi=ROI)
    model.roi_heads.box_predictor.cls_score = torch.nn.Linear(1024, CLASSES + 2)
    with pytest.raises(ValueError, match=rf"gives {CLASSES + 2} columns .*; CrossEntropy needs K \+ 1 columns"):
        model(*batch(*BATCHES["two images"]))
    model.roi_heads.box_predictor = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"box_predictor is a Identity without cls_score\. Build the model anew"):
        model(*batch(*BATCHES["two images"]))


def test_heads_with_the_same_kind_of_columns_may_be_replaced_after_attach():
    """torchvision's recipe for fine-tuning: a predictor for other classes."""
    model, _ = attached(**BOTH)
    model.roi_heads.box_predictor = FastRCNNPredictor(1024, CLASSES + 5)
    model.rpn.head = RPNHead(256, 3)
    images, targets = batch(*BATCHES["two images"])
    targets[0]["labels"][0] = CLASSES + 4
    assert all(loss.isfinite() for loss in model(images, targets).values())


@pytest.mark.parametrize("case", [ROI, "focal-roi"])
@pytest.mark.parametrize("label", [0, CLASSES + 1])
def test_labels_without_a_column_are_refused(case, label):
    model, _ = attached(roi=case)
    images, targets = batch(*BATCHES["two images"])
    targets[1]["labels"][0] = label
    with pytest.raises(ValueError, match=f"label {label} of a box, expected 1 to {CLASSES}"):
        model(images, targets)


REFUSED = {
    "softmax at rpn": ({"rpn": ROI}, "RPN has one sigmoid column; CrossEntropy asks for softmax"),
    "another stage": ({"roi": "noisy_anchors-paper"}, "NoisyAnchors is defined for dense, not for roi"),
    "dense": ({"method": "focal-dense-batch"}, r"by attach\(model, rpn=..., roi=...\), .*; got a method for: dense"),
    "none": ({}, "got a method for: none"),
}


@pytest.mark.parametrize(("case_of_stage", "message"), REFUSED.values(), ids=REFUSED)
def test_methods_in_the_wrong_place_are_refused(stock, case_of_stage, message):
    before = list(stock.state_dict())
    with pytest.raises(ValueError, match=message):
        imbdet.attach(stock, **{stage: method_of(case) for stage, case in case_of_stage.items()})
    assert list(stock.state_dict()) == before
    assert not {"method", "forward"} & (vars(stock.rpn).keys() | vars(stock.roi_heads).keys())


def test_a_refused_stage_leaves_the_other_alone(stock):
    with pytest.raises(ValueError, match="RPN has one sigmoid column"):
        imbdet.attach(stock, rpn=method_of(ROI), roi=method_of("focal-roi"))
    assert stock.get_submodule(SCORE).out_features == CLASSES + 1


def test_one_method_at_two_stages_and_a_second_at_one_are_refused(stock):
    focal = method_of("focal-rpn")
    with pytest.raises(ValueError, match="one method for rpn and roi would mix their states"):
        imbdet.attach(stock, rpn=focal, roi=focal)
    imbdet.attach(stock, rpn=focal)
    imbdet.attach(stock, roi=method_of(ROI))
    with pytest.raises(ValueError, match=r"the stage roi has a method already \(CrossEntropy\)"):
        imbdet.attach(stock, roi=method_of("focal-roi"))


def test_masks_are_refused_for_roi_but_not_for_rpn(stock):
    model = MaskRCNN(copy.deepcopy(stock.backbone), CLASSES + 1, **SIDES)
    with pytest.raises(ValueError, match=r"RoI heads with masks or keypoints are not supported, only rpn=\.\.\. is"):
        imbdet.attach(model, roi=method_of(ROI))
    imbdet.attach(model, rpn=method_of(RPN))


def test_a_predictor_of_another_kind_is_refused(stock):
    class Predictor(torch.nn.Module):
        pass

    stock.roi_heads.box_predictor = Predictor()
    with pytest.raises(ValueError, match=r"Focal needs a head .* cls_score, a Linear, .*; a Predictor has not"):
        imbdet.attach(stock, roi=method_of("focal-roi"))

"""The library in somebody else's model: torchvision's RetinaNet with each method of this library."""

import copy
import io
import re
import runpy
from pathlib import Path

import pytest
import torch
from stock_models import (
    BATCHES,
    CASES,
    CLASSES,
    batch,
    cases,
    caught_samples,
    copy_of,
    detect,
    method_of,
    retinanet,
    train_one_step,
)
from torch.testing import assert_close
from torchvision.models.detection import fcos_resnet50_fpn, ssdlite320_mobilenet_v3_large
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetHead

import imbdet
from imbdet.methods.noisy_anchors import TopNAssigner

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_torchvision_model.py"
FOCAL = {"name": "focal", "alpha": 0.25, "gamma": 2.0, "prior_prob": 0.01, "normalizer": "per_image", "box_beta": 0.0}
METHOD = {"name": "cross_entropy", "activation": "sigmoid", "alpha": None, "prior_prob": 0.01, "box_beta": 1.0}
METHOD |= {"normalizer": "batch"}
SOFTMAX = "ssd_hard_negatives"
LAST = "head.classification_head.cls_logits"
SIGMOID_CASES = [case for case in cases("dense") if method_of(case).head.activation == "sigmoid"]


@pytest.fixture
def stock():
    return copy_of(retinanet)


def attached(case):
    model, method = copy_of(retinanet), method_of(case)
    torch.manual_seed(1)
    imbdet.attach(model, method)
    return model, method


@pytest.mark.parametrize("case", cases("dense"))
def test_each_method_trains_and_detects(case):
    model, method = attached(case)
    losses, changed = train_one_step(model, method, "one image without boxes")
    assert {"classification", "box_regression"} <= losses.keys()
    assert all(loss.isfinite() and loss.shape == () for loss in losses.values())
    assert min(losses["classification"], losses["box_regression"]) > 0
    assert {"backbone.body.conv1.weight", f"{LAST}.weight", "head.regression_head.bbox_reg.weight"} <= changed
    assert {f"method.{name}" for name, _ in method.named_parameters()} <= changed
    model.score_thresh = 0.0
    for image in detect(model):
        assert len(image["boxes"]) > 10
        assert set(image["labels"].tolist()) <= set(range(CLASSES))


@pytest.mark.parametrize("case", ["cross_entropy-dense", "noisy_anchors-code", "sample_weighting-dense", SOFTMAX])
def test_a_batch_without_boxes_has_a_gradient_for_every_parameter(case):
    losses, _ = train_one_step(*attached(case), "no boxes at all")
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["box_regression"] == 0


@pytest.mark.parametrize("name", BATCHES)
def test_focal_loss_attached_is_torchvisions_own(stock, name):
    images, targets = batch(*BATCHES[name])
    ours = copy.deepcopy(stock)
    imbdet.attach(ours, imbdet.build_method(FOCAL))
    expected, losses = stock(images, targets), ours(images, targets)
    assert_close(losses["classification"], expected["classification"], rtol=1e-5, atol=0)
    assert_close(losses["box_regression"], expected["bbox_regression"], rtol=1e-5, atol=1e-8)
    sum(expected.values()).backward()
    sum(losses.values()).backward()
    gradients = dict(ours.named_parameters())
    for key, parameter in stock.named_parameters():
        scale = parameter.grad.abs().max().item()
        assert_close(gradients[key].grad, parameter.grad, rtol=1e-3, atol=1e-4 * scale)


def test_another_method_gives_other_losses(stock):
    images, targets = batch(*BATCHES["two images"])
    ours = copy.deepcopy(stock)
    imbdet.attach(ours, imbdet.build_method(FOCAL | {"gamma": 0.5}))
    assert ours(images, targets)["classification"] > 1.1 * stock(images, targets)["classification"]


@pytest.mark.parametrize("case", SIGMOID_CASES)
def test_weights_and_detections_stay_where_the_columns_do(stock, case):
    ours, _ = attached(case)
    for key, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    for mine, theirs in zip(detect(ours), detect(stock), strict=True):
        assert len(theirs["boxes"]) > 0
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_softmax_has_a_new_last_layer_with_a_column_for_the_background(stock):
    ours, _ = attached(SOFTMAX)
    new, old = ours.get_submodule(LAST), stock.get_submodule(LAST)
    anchors = stock.head.classification_head.num_anchors
    assert (old.out_channels, new.out_channels) == (anchors * CLASSES, anchors * (CLASSES + 1))
    assert new.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not new.bias.any()
    for key, value in stock.state_dict().items():
        assert key.startswith(LAST) or torch.equal(ours.state_dict()[key], value), key


def test_softmax_detections_are_all_probabilities_above_the_threshold():
    """Without suppression and limits; the probabilities are taken from the head's outputs here."""
    model, _ = attached(SOFTMAX)
    torch.nn.init.normal_(model.get_submodule(LAST).weight, std=0.5)
    model.nms_thresh, model.topk_candidates, model.detections_per_img, model.score_thresh = 1.0, 10**6, 10**6, 0.4
    logits = []
    model.head.register_forward_hook(lambda head, inputs, outputs: logits.append(outputs["cls_logits"]))
    found = detect(model)
    for image, columns in zip(found, logits[0], strict=True):
        exponentials = columns.double().exp()
        probability = (exponentials / exponentials.sum(1, keepdim=True))[:, :CLASSES]
        assert 0.05 < (probability > 0.4).double().mean() < 0.6
        for label in range(CLASSES):
            scores = image["scores"][image["labels"] == label].double().sort().values
            expected = probability[:, label].sort().values
            assert_close(scores, expected[expected > 0.4], rtol=1e-5, atol=0)


def test_noisy_anchors_bring_their_own_assigner():
    model, _ = attached("noisy_anchors-paper")
    seen = caught_samples(model)
    images, targets = batch([[10, 10, 60, 90], [50, 40, 120, 110]])
    model(images, targets)
    (samples,) = seen
    picked = TopNAssigner(CASES["noisy_anchors-paper"][1]["top_n"])
    truth = imbdet.assigners.Truth(
        targets[0]["boxes"], targets[0]["labels"], torch.zeros(2).long(), torch.zeros(0, 4), torch.zeros(0).long(), 1
    )
    expected = picked(samples.priors, truth).status[0] == 1
    assert 4 < expected.sum() <= 8
    assert torch.equal(samples.foreground, expected)


def test_samples_know_their_level(stock):
    imbdet.attach(stock, imbdet.build_method(FOCAL))
    seen = caught_samples(stock)
    images, targets = batch(*BATCHES["two images"])
    stock(images, targets)
    (samples,) = seen
    sides = (samples.priors[:, 2:] - samples.priors[:, :2]).prod(dim=1).sqrt()
    smallest = [sides[samples.level == level].amin().item() for level in range(5)]
    assert smallest == pytest.approx([32, 64, 128, 256, 512], rel=0.02)
    assert (samples.level.bincount() == 9 * 2 * torch.tensor([16 * 24, 8 * 12, 4 * 6, 2 * 3, 1 * 2])).all()


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, saved_and_loaded])
def test_state_of_the_method_travels_with_the_model(stock, twin_of):
    imbdet.attach(stock, imbdet.build_method(FOCAL | {"normalizer": "ema"}))
    images, targets = batch(*BATCHES["two images"])
    stock(images, targets)
    twin = twin_of(stock)
    mean = stock.state_dict()["method.normalizer.mean"].item()
    assert mean != 100
    assert twin.method.normalizer.mean == mean
    losses = twin(images, targets)
    assert losses.keys() == {"classification", "box_regression"}
    assert twin.method.normalizer.mean != mean == stock.method.normalizer.mean


def test_anchors_in_half_precision_are_refused(stock):
    imbdet.attach(stock, imbdet.build_method(FOCAL))
    images, targets = batch(*BATCHES["two images"])
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match=r"anchors of torch\.bfloat16"):
        stock(images, targets)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("before_attach", [True, False])
def test_a_model_in_another_precision_is_refused(stock, dtype, before_attach):
    stock.to(dtype if before_attach else torch.float32)
    imbdet.attach(stock, imbdet.build_method(FOCAL))
    stock.to(dtype)
    images, targets = batch(*BATCHES["two images"])
    message = rf"anchors of {re.escape(str(dtype))}, expected float32: call model\.float\(\) and give images of float32"
    with pytest.raises(ValueError, match=message):
        stock([image.to(dtype) for image in images], targets)
    losses = stock.float()(images, targets)
    assert all(loss.isfinite() for loss in losses.values())


def classification_head(classes):
    return RetinaNetClassificationHead(256, 9, classes)


REPLACED = {
    "head": ("focal-dense-batch", "head", lambda: RetinaNetHead(256, 9, CLASSES)),
    "head, softmax": (SOFTMAX, "head", lambda: RetinaNetHead(256, 9, CLASSES + 1)),
    "as many classes": (SOFTMAX, "head.classification_head", lambda: classification_head(CLASSES)),
    "as many columns": (SOFTMAX, "head.classification_head", lambda: classification_head(CLASSES + 1)),
    "last layer": (SOFTMAX, LAST, lambda: torch.nn.Conv2d(256, 9 * CLASSES, 3, padding=1)),
}


@pytest.mark.parametrize(("case", "name", "new"), REPLACED.values(), ids=REPLACED)
def test_a_part_that_was_changed_must_not_be_replaced_afterwards(case, name, new):
    model, _ = attached(case)
    model.set_submodule(name, new())
    lost = "head" if name == "head" else LAST
    with pytest.raises(ValueError, match=rf"model\.{re.escape(lost)} was replaced after imbdet.attach, .* attach last"):
        model(*batch(*BATCHES["two images"]))


@pytest.mark.parametrize(("case", "other"), [("focal-dense-batch", SOFTMAX), (SOFTMAX, "focal-dense-batch")])
def test_a_method_that_was_replaced_or_removed_is_refused(case, other):
    """Its columns are those of the method before: the last class would be trained as the background."""
    model, method = attached(case)
    inputs = batch(*BATCHES["two images"])
    message = r"model\.method was replaced after imbdet.attach, .* attach last"
    model.method = method_of(other)
    with pytest.raises(ValueError, match=message):
        model(*inputs)
    del model.method
    with pytest.raises(ValueError, match=message):
        model(*inputs)
    model.method = method
    assert all(loss.isfinite() for loss in model(*inputs).values())


def test_a_classification_head_for_other_classes_trains_where_the_columns_stay(stock):
    """torchvision's recipe for fine-tuning, before or after."""
    imbdet.attach(stock, imbdet.build_method(FOCAL))
    stock.head.classification_head = classification_head(CLASSES + 4)
    images, targets = batch(*BATCHES["two images"])
    targets[0]["labels"][0] = CLASSES + 3
    assert all(loss.isfinite() for loss in stock(images, targets).values())
    targets[0]["labels"][0] = CLASSES + 4
    with pytest.raises(ValueError, match=f"label {CLASSES + 4} of a box, expected 0 to {CLASSES + 3}"):
        stock(images, targets)


@pytest.mark.parametrize("case", ["focal-dense-batch", SOFTMAX])
def test_a_wrapper_replaces_nothing(case):
    class Wrapper(torch.nn.Module):
        def __init__(self, wrapped):
            super().__init__()
            self.wrapped = wrapped

        def forward(self, *inputs):
            return self.wrapped(*inputs)

    model, _ = attached(case)
    before = model(*batch(*BATCHES["two images"]))
    model.head.classification_head.cls_logits = Wrapper(model.get_submodule(LAST))
    assert model(*batch(*BATCHES["two images"])) == before


@pytest.mark.parametrize("label", [-1, CLASSES])
@pytest.mark.parametrize("case", ["focal-dense-batch", SOFTMAX])
def test_labels_without_a_column_are_refused(case, label):
    model, _ = attached(case)
    images, targets = batch(*BATCHES["two images"])
    targets[1]["labels"][0] = label
    with pytest.raises(ValueError, match=f"label {label} of a box, expected 0 to {CLASSES - 1}"):
        model(images, targets)


def test_method_for_other_stages_is_refused(stock):
    with pytest.raises(ValueError, match="OHEM is defined for roi, not for dense"):
        imbdet.attach(stock, method_of("ohem-paper"))
    assert not hasattr(stock, "method")


def test_what_is_not_a_retinanets_is_refused(stock):
    focal = imbdet.build_method(FOCAL)
    how = r"methods of a RetinaNet are given by attach\(model, method\); got a method for: "
    with pytest.raises(ValueError, match=how + "none"):
        imbdet.attach(stock)
    with pytest.raises(ValueError, match=how + "rpn"):
        imbdet.attach(stock, rpn=focal)
    imbdet.attach(stock, focal)
    with pytest.raises(ValueError, match=r"dense has a method already \(Focal\): build the model anew"):
        imbdet.attach(stock, imbdet.build_method(FOCAL))


def test_another_last_layer_is_refused_if_it_has_to_be_replaced(stock):
    stock.head.classification_head.cls_logits = torch.nn.Sequential(stock.get_submodule(LAST))
    with pytest.raises(ValueError, match=r"SSDHardNegatives needs a head whose last layer .* cls_logits, a Conv2d"):
        imbdet.attach(stock, method_of(SOFTMAX))
    imbdet.attach(stock, method_of("focal-dense-batch"))


@pytest.mark.parametrize("given", [FOCAL, "focal", type(imbdet.build_method(FOCAL)), torch.nn.Identity()])
def test_what_is_no_method_is_refused(stock, given):
    with pytest.raises(ValueError, match=r"the method for dense is .*, expected a Method; imbdet\.build_method\("):
        imbdet.attach(stock, given)
    assert not hasattr(stock, "method")


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel, torch.nn.Sequential])
def test_a_wrapped_model_is_refused(stock, wrap):
    wrapped = wrap(stock)
    message = f"a {type(wrapped).__name__} is not supported, .*; attach to the model inside it first, and wrap"
    with pytest.raises(ValueError, match=message):
        imbdet.attach(wrapped, imbdet.build_method(FOCAL))


@pytest.mark.parametrize("build", [fcos_resnet50_fpn, ssdlite320_mobilenet_v3_large])
def test_other_models_are_refused(build):
    model = build(weights=None, weights_backbone=None, num_classes=3)
    name = type(model).__name__
    with pytest.raises(ValueError, match=f"a {name} is not supported, only torchvision's RetinaNet and FasterRCNN"):
        imbdet.attach(model, imbdet.build_method(FOCAL))


def test_example_trains_torchvisions_model(capsys):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    result = runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert set(result["losses"]) == {"classification", "box_regression"}
    assert all(loss.isfinite() and loss > 0 for loss in result["losses"].values())
    learned = [p for p in result["model"].parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    assert "'classification': " in capsys.readouterr().out


def test_public_names_are_what_they_say():
    """Twice: importing a submodule puts it into its package under its own name."""
    for _ in range(2):
        assert all(getattr(imbdet, name).__name__ == name for name in imbdet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'atach'"):
        _ = imbdet.atach


def test_example_attaches_in_ten_lines():
    code = EXAMPLE.read_text().split('"""', 2)[2]
    lines = [line for line in code.splitlines() if line.strip() and not re.match(r"import|from|print", line)]
    assert len(lines) <= 10

"""The sample weighting network with the references' weights gives their losses, weights and gradients."""

import json

import pytest
import torch
from torch.testing import assert_close

from imbdet.geometry import BoxCoder
from imbdet.methods import build_method
from imbdet.samples import Samples

NETWORKS = {"iou_net": "iou", "prob_net": "score", "cls_loss_net": "class_loss", "reg_loss_net": "box_loss"}
LAYERS = {"predictor.0": "joined", "predictor.2": "last"}
NEAR = {"rtol": 1e-9, "atol": 1e-14}


def runs_of(folder, name):
    cases = json.loads((folder / f"{name}.json").read_text())["cases"]
    runs = [(case, run) for case in cases for run in case["runs"]]
    assert runs
    return runs


def own_name(name):
    """``iou_net.0.weight`` of the references is ``iou.0.weight`` here, ``predictor.2.bias`` is ``last.bias``."""
    network, layer, kind = name.split(".")
    return f"{LAYERS[f'{network}.{layer}']}.{kind}" if network == "predictor" else f"{NETWORKS[network]}.{layer}.{kind}"


def labels_of(case, key, classes):
    """Background is 0 in the references, and what has no weight is ignored."""
    label = torch.tensor(case[key])
    label = torch.where(label == 0, classes, label - 1)
    return torch.where(torch.tensor(case.get("label_weights_in", [1.0] * len(label))) > 0, label, -1)


def wider(boxes):
    """Boxes of the references hold their last pixel: one of width x2 - x1 + 1 is ours if it ends one pixel later.

    Encoding, decoding and overlap are then the same, as all of them see corners and this width only.
    """
    return torch.tensor(boxes).reshape(-1, 4) + torch.tensor([0.0, 0.0, 1.0, 1.0])


def samples_of(stage, logits, deltas, label, priors, gt_boxes, coder, classes):
    foreground = (label >= 0) & (label < classes)
    n = len(label)
    return Samples(
        logits=logits.requires_grad_(),
        deltas=deltas.requires_grad_(),
        priors=priors,
        label=label,
        gt_id=torch.where(foreground, foreground.cumsum(0) - 1, -1),
        image_id=torch.zeros(n, dtype=torch.int64),
        level=torch.zeros(n, dtype=torch.int64),
        prior_iou=torch.zeros(n),
        weight=torch.ones(n),
        multiplicity=torch.ones(n),
        gt_boxes=gt_boxes,
        box_coder=coder,
        num_classes=classes,
        num_images=1,
        stage=stage,
    )


def dense_samples(case):
    classes, coder, priors = case["num_classes"], BoxCoder(), wider(case["anchors"])
    label = labels_of(case, "labels_1based_0bg", classes)
    own = coder.decode(torch.tensor(case["bbox_targets"]), priors)
    logits, deltas = torch.tensor(case["cls_score"]), torch.tensor(case["bbox_pred"])[:, None]
    own = own[(label >= 0) & (label < classes)]
    return samples_of("dense", logits, deltas, label, priors, own, coder, classes)


def roi_samples(case):
    """The references put the background's column, and its offsets, first."""
    classes, coder = case["num_fg_classes"], BoxCoder(tuple(1 / std for std in case["target_stds"]))
    label = labels_of(case, "labels_0bg", classes)
    logits = torch.tensor(case["cls_score"]).roll(-1, 1)
    deltas = torch.tensor(case["bbox_pred"]).reshape(len(label), classes + 1, 4)[:, 1:].clone()
    return samples_of("roi", logits, deltas, label, wider(case["proposals"]), wider(case["gt_of_pos"]), coder, classes)


def method_of(case, **parameters):
    method = build_method(
        {"name": "sample_weighting", "variant": "code", "averaging": "group", "learning_rate": 1e-3}
        | {"weight_decay": 1e-4, **parameters}
    ).double()
    method.network.load_state_dict({own_name(key): torch.tensor(value) for key, value in case["net_state"].items()})
    return method


def dense_method(case, run):
    return method_of(
        case,
        activation="sigmoid",
        **case["focal"],
        prior_prob=0.01,
        normalizer="batch",
        box_beta=case["smooth_l1_beta"],
        clamp=run["clamp"],
        class_regularizer=run["cls_w"],
        background_regularizer=None,
        box_regularizer=run["reg_w"],
    )


def roi_method(case, run):
    strengths = case["reg"]
    return method_of(
        case,
        activation="softmax",
        alpha=None,
        gamma=0.0,
        prior_prob=None,
        normalizer="sampled",
        box_beta=1.0,
        clamp=run["clamp"],
        class_regularizer=strengths["cls_pos"],
        background_regularizer=strengths["cls_neg"],
        box_regularizer=strengths["reg"],
    )


FILES = {"swn_retinanet": (dense_samples, dense_method), "swn_two_stage": (roi_samples, roi_method)}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=FILES)
def runs(request, vectors):
    """Every run of a file: what the file holds, the samples and the method."""
    build_samples, build = FILES[request.param]
    return [(case, run, build_samples(case), build(case, run)) for case, run in runs_of(vectors, request.param)]


def test_losses(runs):
    for _, run, samples, method in runs:
        losses, expected = method(samples), run["losses"]
        regularizer = sum(value for name, value in expected.items() if name.startswith("loss_uncertainty"))
        assert_close(losses["regularizer"].item(), regularizer, **NEAR)
        assert_close(sum(losses.values()).item(), run["total"], **NEAR)
        for ours, theirs in (("classification", "loss_cls"), ("box_regression", "loss_bbox")):
            if theirs in expected:
                assert_close(losses[ours].item(), expected[theirs], **NEAR)


def test_weights(runs):
    for _, run, samples, method in runs:
        seen = method.inspect(samples)
        assert_close(seen["class_weight"], torch.tensor(run["label_weights"]).flatten(), **NEAR)
        assert_close(seen["box_weight"][:, None].expand(-1, 4), torch.tensor(run["bbox_weights"]), **NEAR)
        means = {name: run["losses"][f"cls_prediction_{name}"] for name in ("pos", "neg", "reg")}
        assert_close(seen["class_weight"][samples.foreground].mean().item(), means["pos"], **NEAR)
        background = samples.label == samples.num_classes
        assert_close(seen["class_weight"][background].mean().item(), means["neg"], **NEAR)
        assert_close(seen["box_weight"][samples.foreground].mean().item(), means["reg"], **NEAR)


def test_inputs_of_the_network(runs):
    for _, run, samples, method in runs:
        expected, loss = run["losses"], method.inspect(samples)["class_loss"]
        if "pos_cls_loose_value" in expected:
            assert_close(loss[samples.foreground].mean().item(), expected["pos_cls_loose_value"], **NEAR)
            assert_close(loss[~samples.foreground].mean().item(), expected["neg_cls_loose_value"], **NEAR)


def test_gradients(runs):
    for case, run, samples, method in runs:
        sum(method(samples).values()).backward()
        columns, rows = torch.tensor(run["grad_cls"]), torch.tensor(run["grad_bbox"])
        if samples.stage == "roi":
            columns, rows = columns.roll(-1, 1), rows[:, 4:]
        assert_close(samples.logits.grad, columns, **NEAR)
        assert_close(samples.deltas.grad.flatten(1), rows, **NEAR)
        parameters = dict(method.network.named_parameters())
        order = case.get("net_param_order", list(case["net_state"]))
        norms = torch.stack([parameters[own_name(name)].grad.norm() for name in order])
        assert_close(norms, torch.tensor(run["grad_net_norm"]), **NEAR)


def test_initial_weights(vectors):
    """The references' network starts as narrow as ours; their means and deviations are of another draw."""
    for case, run in runs_of(vectors, "swn_retinanet"):
        network = dense_method(case, run).network
        torch.manual_seed(0)
        fresh = type(network)().state_dict()
        for name, (_, std) in case["fresh_init_mean_std"].items():
            assert_close(fresh[own_name(name)].std(correction=0).item(), std, rtol=0.5, atol=0)

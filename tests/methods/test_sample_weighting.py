"""The unified sample weighting network against plain loops, and what must hold of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import LABEL, ROWS, losses_and_gradients
from sample_weighting_cases import (
    ALL,
    AVERAGING,
    LABELS,
    SPEC,
    STAGES,
    VARIANTS,
    K,
    build,
    expected_losses,
    samples_for,
)
from torch.testing import assert_close

from imbdet.errors import UserError
from imbdet.methods import build_method, sample_weighting


@ALL
@VARIANTS
@AVERAGING
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_terms_equal_the_reference(stage, variant, averaging, label):
    for seed in range(3):
        changes = {"variant": variant, "averaging": averaging}
        method, samples = build(stage, seed, **changes), samples_for(stage, label, seed=seed)
        expected, _ = expected_losses(method, samples, {**SPEC, **STAGES[stage], **changes})
        losses = {name: loss.item() for name, loss in method(samples).items()}
        assert losses == pytest.approx(expected, rel=1e-9, abs=1e-12)


@ALL
def test_one_class_equals_the_reference(stage):
    method, samples = build(stage), samples_for(stage, [0, 1, -1, 1, 0, 1, 1, 1], num_classes=1)
    expected, _ = expected_losses(method, samples, {**SPEC, **STAGES[stage]})
    assert {name: loss.item() for name, loss in method(samples).items()} == pytest.approx(expected, rel=1e-9)


@ALL
@VARIANTS
@AVERAGING
def test_detector_gradients_are_those_of_the_reference(stage, variant, averaging):
    """Central differences with the network's inputs held still; IoU and score move in the official RetinaNet alone."""
    spec = {**SPEC, **STAGES[stage], "variant": variant, "averaging": averaging}
    method, samples = build(stage, variant=variant, averaging=averaging), samples_for(stage, LABEL[:8], seed=3)
    _, known = expected_losses(method, samples, spec)
    moves = 2 if stage == "dense" and variant == "code" else 0

    def frozen(inputs):
        return [(*new[:moves], *old[moves:]) for new, old in zip(inputs, known, strict=True)]

    def total(name, index, step):
        moved = getattr(samples, name).clone()
        moved[index] += step
        return sum(expected_losses(method, replace(samples, **{name: moved}), spec, frozen)[0].values())

    _, gradients = losses_and_gradients(method, samples)
    step = 1e-5
    for name, gradient in zip(("logits", "deltas"), gradients, strict=True):
        for index in np.ndindex(*gradient.shape):
            slope = (total(name, index, step) - total(name, index, -step)) / (2 * step)
            assert gradient[index].item() == pytest.approx(slope, rel=1e-5, abs=1e-8)


@ALL
@VARIANTS
@AVERAGING
def test_network_gradients_are_those_of_the_reference(stage, variant, averaging):
    """Central differences along a random direction of each parameter, with s both within the clamp and outside."""
    spec = {**SPEC, **STAGES[stage], "variant": variant, "averaging": averaging}
    method, samples = build(stage, variant=variant, averaging=averaging), samples_for(stage)
    weight = build(stage, averaging="sample", clamp=50.0).inspect(samples)["class_weight"][samples.label >= 0]
    within = weight.log().abs() < spec["clamp"]
    assert within.any()
    assert not within.all()
    sum(method(samples).values()).backward()
    random, step = torch.Generator().manual_seed(1), 1e-6
    for parameter in method.network.parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=random)
        totals = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
                totals.append(sum(expected_losses(method, samples, spec)[0].values()))
                parameter.sub_(direction, alpha=sign * step)
        slope = (totals[0] - totals[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def plain_method(stage):
    spec = {name: value for name, value in STAGES[stage].items() if name != "background_regularizer"}
    if stage == "dense":
        return build_method({"name": "focal", **{key: spec[key] for key in spec if key != "activation"}})
    return build_method({"name": "cross_entropy", **{key: spec[key] for key in spec if key != "gamma"}})


@ALL
@VARIANTS
@AVERAGING
def test_without_a_last_layer_it_is_its_base_loss(stage, variant, averaging):
    method, samples = build(stage, variant=variant, averaging=averaging), samples_for(stage)
    torch.nn.init.zeros_(method.network.last.weight), torch.nn.init.zeros_(method.network.last.bias)
    losses, gradients = losses_and_gradients(method, samples)
    expected, expected_gradients = losses_and_gradients(plain_method(stage), samples)
    assert losses.pop("regularizer") == 0
    assert_close(losses, expected, rtol=1e-12, atol=0)
    assert_close(gradients, expected_gradients, rtol=1e-12, atol=0)


@ALL
def test_a_new_network_starts_there_up_to_its_initial_weights(stage):
    method, samples = build_method({**SPEC, **STAGES[stage]}).double(), samples_for(stage)
    layers = [x for x in method.network.modules() if isinstance(x, torch.nn.Linear)]
    assert len(layers) == 10
    assert all((layer.bias == 0).all() for layer in layers)
    assert all(layer.weight.std().item() == pytest.approx(1e-4, rel=0.4) for layer in layers)
    losses, expected = method(samples), plain_method(stage)(samples)
    assert losses.pop("regularizer").abs() < 1e-8
    assert_close(losses, expected, rtol=1e-8, atol=0)


@ALL
def test_the_official_baseline(stage):
    """Clamp 1e-9 and no regulariser: the detector's own losses, whatever the network says."""
    silent = {"class_regularizer": 0.0, "box_regularizer": 0.0, "clamp": 1e-9}
    silent |= {"background_regularizer": None if stage == "dense" else 0.0}
    losses, gradients = losses_and_gradients(build(stage, **silent), samples_for(stage))
    expected, expected_gradients = losses_and_gradients(plain_method(stage), samples_for(stage))
    assert losses.pop("regularizer") == 0
    assert_close(losses, expected, rtol=1e-8, atol=0)
    assert_close(gradients, expected_gradients, rtol=1e-8, atol=1e-12)


@ALL
@AVERAGING
def test_what_the_regularisers_pull_with(stage, averaging):
    """d(lambda mean s)/ds is lambda in all: seen at the biases of s_cls and s_reg."""
    method = build(stage, averaging=averaging, clamp=1e3)
    method(samples_for(stage))["regularizer"].backward()
    of_class = 0.5 if stage == "dense" else 0.5 + 0.4
    assert_close(method.network.last.bias.grad, torch.tensor([of_class, 0.3], dtype=torch.float64))


def test_where_loss_and_regulariser_balance():
    """exp(-s) L + lambda s is least at the weight lambda / L."""
    method, samples = build("dense", clamp=1e3), samples_for("dense")
    base = plain_method("dense")(samples)
    with torch.no_grad():
        method.network.last.weight.zero_()
        method.network.last.bias[0] = (base["classification"] / 0.5).log()
        method.network.last.bias[1] = (base["box_regression"] / 0.3).log()
    sum(method(samples).values()).backward()
    assert_close(method.network.last.bias.grad, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


@ALL
@AVERAGING
@pytest.mark.parametrize("side", [-1, 1])
def test_outside_the_clamp_nothing_is_learned(stage, averaging, side):
    method = build(stage, averaging=averaging, clamp=0.7)
    with torch.no_grad():
        method.network.last.weight.zero_()
        method.network.last.bias.fill_(side * 0.8)
    samples = samples_for(stage)
    seen = method.inspect(samples)
    weight = torch.tensor(-side * 0.7, dtype=torch.float64).exp()
    assert_close(seen["class_weight"][samples.label >= 0], weight.expand(18))
    assert_close(seen["box_weight"][samples.foreground], weight.expand(9))
    sum(method(samples).values()).backward()
    assert all((parameter.grad == 0).all() for parameter in method.network.parameters())


@ALL
@AVERAGING
def test_weights_multiply_the_gradients_and_pass_none(stage, averaging):
    """All inputs are detached: a row's gradient is that of the plain loss times its weight, which inspect returns."""
    method, samples = build(stage, averaging=averaging), samples_for(stage)
    seen = method.inspect(samples)
    assert len(seen["box_weight"][samples.foreground].unique()) > 1
    _, (logits, deltas) = losses_and_gradients(method, samples)
    _, (plain_logits, plain_deltas) = losses_and_gradients(plain_method(stage), samples)
    assert_close(logits, seen["class_weight"][:, None] * plain_logits)
    assert_close(deltas, seen["box_weight"][:, None, None] * plain_deltas)
    if stage == "dense":
        _, (leaked, _) = losses_and_gradients(build(stage, averaging=averaging, variant="code"), samples)
        weight = build(stage, averaging=averaging, variant="code").inspect(samples)["class_weight"]
        assert not torch.allclose(leaked, weight[:, None] * plain_logits)


def test_averaging_leaves_one_class_weight_a_group():
    samples = samples_for("roi")
    groups = [samples.foreground, samples.label == K]
    for averaging, number in (("group", 1), ("sample", 9)):
        weight = build("roi", averaging=averaging, clamp=50.0).inspect(samples)["class_weight"]
        assert [len(weight[group].unique()) for group in groups] == [number, number]
    weight = build("dense").inspect(samples_for("dense"))["class_weight"]
    assert len(weight[samples.label >= 0].unique()) == 1


@ALL
@VARIANTS
@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_what_ignored_rows_hold_does_not_leak(stage, variant, junk):
    method, samples = build(stage, variant=variant), samples_for(stage)
    ignored = (samples.label == -1)[:, None]
    logits = torch.where(ignored, junk, samples.logits)
    dirty = replace(samples, logits=logits, deltas=torch.where(ignored[:, None], junk, samples.deltas))
    results = []
    for each in (samples, dirty):
        method.zero_grad()
        sum(method(each).values()).backward()
        results.append([losses_and_gradients(method, each), [p.grad for p in method.network.parameters()]])
    assert_close(results[1], results[0], rtol=0, atol=0)


def test_ignored_anchors_enter_the_mean_in_the_code_alone():
    samples = samples_for("dense")
    kept = replace(samples, **{name: getattr(samples, name)[samples.label >= 0] for name in ROWS})
    assert_close(build("dense")(samples), build("dense")(kept))
    code = build("dense", variant="code")
    assert not torch.allclose(code(samples)["classification"], code(kept)["classification"])


@ALL
@pytest.mark.parametrize("label", [LABELS["no foreground"], LABELS["nothing"]], ids=["background", "ignored"])
def test_every_parameter_gets_a_gradient_where_there_is_nothing_to_learn(stage, label):
    method = build(stage)
    losses = method(samples_for(stage, label))
    assert losses["box_regression"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.network.parameters())


@ALL
@AVERAGING
def test_a_box_that_is_not_finite_costs_no_other_row(stage, averaging):
    method, samples = build(stage, averaging=averaging), samples_for(stage)
    deltas = samples.deltas.clone()
    deltas[1] = float("nan")
    losses = method(replace(samples, deltas=deltas))
    assert losses["box_regression"].isnan()  # for whoever watches the losses
    others = losses["classification"] + losses["regularizer"]
    others.backward()
    assert others.isfinite()
    assert all(p.grad.isfinite().all() for p in method.network.parameters())
    assert all(x.isfinite().all() for x in method.inspect(replace(samples, deltas=deltas)).values())


def many(share):
    """512 rows of which one in ``share`` is foreground."""
    return [row // share % K if row % share == 0 else K for row in range(512)]


@VARIANTS
def test_rows_beyond_the_foreground_are_cheap_and_the_same(variant, monkeypatch):
    samples = samples_for("dense", many(16))
    results = []
    for room in (4096, 8):
        monkeypatch.setattr(sample_weighting, "LEAST_ROOM", room)
        method = build("dense", variant=variant, averaging="sample")
        terms = losses_and_gradients(method, samples)
        sum(method(samples).values()).backward()
        results.append((terms, [p.grad for p in method.network.parameters()]))
    assert_close(results[1], results[0], rtol=1e-9, atol=1e-12)


def test_foreground_beyond_the_slots_counts_as_background(monkeypatch):
    """On the dense stage no more than an eighth is expected; what is beyond stays finite. RoIs are all computed."""
    monkeypatch.setattr(sample_weighting, "LEAST_ROOM", 8)
    monkeypatch.setattr(sample_weighting, "ONE_IN", 64)
    method, samples = build("dense", averaging="sample", clamp=50.0), samples_for("dense", many(16))
    class_loss = method.inspect(samples)["class_loss"]
    zeros = torch.zeros(512, 6, dtype=torch.float64)
    as_background = method.network(class_loss, zeros, samples.foreground, 8).detach()[:, 0]
    differ = ~torch.isclose(method.inspect(samples)["class_weight"], (-as_background).exp())
    assert differ.sum() == 8
    assert not differ[~samples.foreground].any()
    rois = samples_for("roi", many(2))
    expected, _ = expected_losses(build("roi"), rois, {**SPEC, **STAGES["roi"]})
    assert {name: loss.item() for name, loss in build("roi")(rois).items()} == pytest.approx(expected, rel=1e-9)


@ALL
@AVERAGING
def test_samplers_weights_multiply_all_terms(stage, averaging):
    """Also the regularisers: otherwise the network would learn to undo the weights."""
    method, samples = build(stage, averaging=averaging), samples_for(stage)
    doubled = method(replace(samples, weight=2 * samples.weight))
    assert_close(doubled, {name: 2 * loss for name, loss in method(samples).items()})


@ALL
def test_the_network_keeps_its_precision_under_autocast(stage):
    method, samples = build(stage, std=0.1).float(), samples_for(stage, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = method(samples)
    assert_close(mixed, method(samples), rtol=1e-6, atol=0)


def test_the_network_has_an_optimizer_of_its_own():
    method = build("dense", learning_rate=0.02, weight_decay=0.5)
    (group,) = method.param_groups()
    assert (group["lr"], group["weight_decay"]) == (0.02, 0.5)
    assert [id(p) for p in group["params"]] == [id(p) for p in method.parameters()]
    assert len(group["params"]) == 20
    sum(method(samples_for("dense")).values()).backward()
    torch.optim.Adam(method.param_groups()).step()


@ALL
def test_what_figures_see(stage):
    method, samples = build(stage), samples_for(stage)
    seen = method.inspect(samples)
    assert list(seen) == ["class_weight", "box_weight", "class_loss", "iou"]
    assert all(x.shape == samples.label.shape and not x.requires_grad for x in seen.values())
    assert (seen["class_weight"][samples.label < 0] == 0).all()
    assert (seen["box_weight"][~samples.foreground] == 0).all()
    assert_close(seen["iou"], samples.predicted_iou)


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("dense", {"clamp": 0.0}, "clamp: Input should be greater than 0"),
        ("dense", {"class_regularizer": -0.5}, "class_regularizer: Input should be greater than or equal to 0"),
        ("dense", {"averaging": "batch"}, "averaging: Input should be 'group' or 'sample'"),
        ("dense", {"variant": "official"}, "variant: Input should be 'paper' or 'code'"),
        ("roi", {"gamma": 2.0}, "a softmax head has plain cross entropy"),
        ("roi", {"prior_prob": 0.01}, "prior_prob is for sigmoid heads"),
    ],
)
def test_wrong_parameters_are_refused(stage, changes, message):
    with pytest.raises(UserError, match=message):
        build_method({**SPEC, **STAGES[stage], **changes})

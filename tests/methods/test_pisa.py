"""PISA against its loops, and what it promises: the sums that it keeps, what is detached."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pisa_reference as reference
import pytest
import torch
from batches import ROWS, losses_and_gradients, make_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from pisa_cases import SAMPLING, SPECS, K, arrays, spec_of
from torch.testing import assert_close

from imbdet import normalizers, weighting
from imbdet.errors import UserError
from imbdet.methods import build_method, pisa
from imbdet.methods.pisa import hierarchical_ranks

STAGES = pytest.mark.parametrize("stage", SPECS)
LABELS = {
    "every kind": None,
    "an image without objects": [0, 1, K, -1, 0, 2, K, K, K, -1, K, K],
    "one positive": [K, K, 1, -1, K, K, K, K],
    "one class only": [1, 1, K, 1, 1, -1, 1, K, 1, 1],
    "no positives": [K, -1, K, K],
    "nothing but ignored": [-1, -1],
}


def samples_of(stage, label=None, weight=None, **rest):
    """Samples with a weight of its own for each row, as a sampler gives them."""
    samples = make_samples(stage, label, activation=SPECS[stage]["activation"], **rest)
    weight = torch.linspace(0.5, 1.5, len(samples.label), dtype=torch.float64) if weight is None else weight
    return replace(samples, weight=weight)


def gradients_of(term, method, samples):
    """Gradients of one term with respect to logits and deltas, 0 where it does not depend on them."""
    inputs = [samples.logits.detach().requires_grad_(), samples.deltas.detach().requires_grad_()]
    loss = method(replace(samples, logits=inputs[0], deltas=inputs[1]))[term]
    return torch.autograd.grad(loss, inputs, materialize_grads=True)


@STAGES
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("seed", [1, 2])
def test_losses_equal_the_loops(stage, label, seed):
    samples = samples_of(stage, label, seed=seed, boxes_of_gt=3)
    for changed in ({}, {"positive_bias": 0.3, "positive_power": 0.7, "carl_bias": 0.0, "carl_power": 2.0}):
        spec = spec_of(stage, **changed)
        expected = reference.losses(arrays(samples), spec)
        losses = build_method(spec)(samples)
        assert_close({k: v.item() for k, v in losses.items()}, expected, rtol=1e-9, atol=1e-12)


@STAGES
@pytest.mark.parametrize("num_classes", [1, 5])
def test_other_numbers_of_classes(stage, num_classes):
    label = [0, num_classes, 0, num_classes - 1, -1, num_classes - 1, 0, num_classes] * 2
    samples = samples_of(stage, label, num_classes=num_classes)
    losses = build_method(spec_of(stage))(samples)
    expected = reference.losses(arrays(samples), spec_of(stage))
    assert_close({k: v.item() for k, v in losses.items()}, expected, rtol=1e-9, atol=1e-12)


@STAGES
def test_gradients_equal_differences_with_the_ranks_held(stage):
    """The positives' weights are constants; CARL's are not, nor is their sum."""
    samples = samples_of(stage, [0, 1, 0, K, 0, -1, 1, K, 2, 0], boxes_of_gt=2)
    spec, batch = spec_of(stage), arrays(samples)
    weights = reference.positive_weights(batch, spec)
    _, gradients = losses_and_gradients(build_method(spec), samples)
    for name, gradient in zip(("logits", "deltas"), gradients, strict=True):
        expected = np.zeros_like(batch[name])
        for index, x in np.ndenumerate(batch[name]):
            for step in (1e-6, -1e-6):
                changed = {**batch, name: batch[name].copy()}
                changed[name][index] = x + step
                expected[index] += sum(reference.losses(changed, spec, weights).values()) / (2 * step)
        assert_close(gradient.numpy(), expected, rtol=1e-6, atol=1e-9)


@STAGES
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("changed", [{}, {"positive_bias": 0.3, "positive_power": 0.7}], ids=["recipe", "bias"])
def test_ranks_weights_and_ious_are_shown(stage, label, changed):
    samples, spec = samples_of(stage, label, boxes_of_gt=3), spec_of(stage, **changed)
    batch, shown = arrays(samples), build_method(spec).inspect(samples)
    weights, (ranks, _) = reference.positive_weights(batch, spec), reference.iou_ranks(batch)
    for i in range(len(samples.label)):
        assert shown["rank"][i] == ranks.get(i, -1)
        assert shown["class_weight"][i].item() == pytest.approx(batch["weight"][i] * weights.get(i, 1.0))
        assert shown["iou"][i].item() == pytest.approx(reference.predicted_iou(batch, i) if i in ranks else 0.0)


@STAGES
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_isr_keeps_the_value_and_shifts_the_gradient(stage, label):
    samples = samples_of(stage, label, weight=None if label is None else torch.ones(len(label)))
    method = build_method(spec_of(stage))
    plain = build_method(spec_of(stage, positive_bias=1.0))
    assert_close(method(samples)["classification"], plain(samples)["classification"], rtol=1e-12, atol=0)
    ours, _ = gradients_of("classification", method, samples)
    theirs, _ = gradients_of("classification", plain, samples)
    weight = method.inspect(samples)["class_weight"] / samples.weight
    assert_close(ours, weight[:, None] * theirs, rtol=1e-12, atol=0)
    if samples.foreground.sum() > 1:
        assert len(set(weight[samples.foreground].tolist())) > 1


PLAIN = {"dense": {"name": "focal"}, "roi": {"name": "cross_entropy"}}


@STAGES
def test_biases_of_one_are_the_plain_losses(stage):
    shared = ("activation", "alpha", "gamma", "prior_prob", "normalizer", "box_beta")
    spec = {key: SPECS[stage][key] for key in shared} | PLAIN[stage]
    del spec["activation" if stage == "dense" else "gamma"]
    plain = build_method(spec)
    method = build_method(spec_of(stage, positive_bias=1.0, carl_bias=1.0))
    samples = samples_of(stage)
    losses, expected = method(samples), plain(samples)
    for name in ("classification", "box_regression"):
        assert_close(losses[name], expected[name], rtol=1e-12, atol=0)
        assert_close(gradients_of(name, method, samples), gradients_of(name, plain, samples), rtol=1e-12, atol=0)
    assert_close(losses["carl"], expected["box_regression"], rtol=1e-12, atol=0)
    on_logits, on_deltas = gradients_of("carl", method, samples)
    assert (on_logits == 0).all()
    assert_close(on_deltas, gradients_of("box_regression", plain, samples)[1], rtol=1e-12, atol=0)


@STAGES
def test_with_one_positive_everything_is_plain(stage):
    samples = samples_of(stage, LABELS["one positive"])
    method = build_method(spec_of(stage))
    plain = build_method(spec_of(stage, positive_bias=1.0, carl_bias=1.0))
    for ours, theirs in zip(losses_and_gradients(method, samples), losses_and_gradients(plain, samples), strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-16)


@STAGES
def test_what_is_detached(stage):
    method, samples = build_method(spec_of(stage)), samples_of(stage)
    on_logits, on_deltas = gradients_of("classification", method, samples)
    assert (on_deltas == 0).all()  # the ranks' IoU
    on_logits, on_deltas = gradients_of("carl", method, samples)
    assert (on_logits[samples.foreground] != 0).any(1).all()
    assert (on_logits[~samples.foreground] == 0).all()
    assert (on_deltas[samples.foreground] != 0).any()


@STAGES
def test_carls_sum_has_a_gradient(stage):
    """With equal box losses, moving weight between positives changes nothing: so the gradient of the scores is 0."""
    samples = samples_of(stage, weight=torch.ones(24))
    targets = torch.where(samples.foreground[:, None], samples.delta_targets, 0.0)[:, None]
    method, samples = build_method(spec_of(stage)), replace(samples, deltas=(targets + 3.0).expand_as(samples.deltas))
    on_logits, on_deltas = gradients_of("carl", method, samples)
    assert on_deltas.abs().max() > 1e-3
    assert on_logits.abs().max() < 1e-15


@STAGES
def test_without_positives_carl_is_zero_and_attached(stage):
    samples = samples_of(stage, LABELS["no positives"])
    deltas = samples.deltas.requires_grad_()
    loss = build_method(spec_of(stage))(samples)["carl"]
    assert loss == 0
    loss.backward()
    assert (deltas.grad == 0).all()


@STAGES
def test_boxes_that_miss_their_object_are_ranked_by_order(stage):
    """All IoUs are 0: ties go to the earlier row, in each object and then in the class."""
    samples = samples_of(stage, [0, 0, 0, 0, 0, 1, K, K], images=1, boxes_of_gt=2)
    samples = replace(samples, deltas=samples.deltas + 50 * torch.tensor(samples.box_coder.weights))
    shown = build_method(spec_of(stage)).inspect(samples)
    assert (shown["iou"] == 0).all()
    assert shown["rank"].tolist() == [0, 3, 1, 4, 2, 0, -1, -1]  # objects: rows 0 1, 2 3, 4; row 5 of another class
    assert shown["class_weight"].isfinite().all()


@STAGES
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("changed", [{}, {"carl_bias": 0.0, "carl_power": 0.5}], ids=["recipe", "no bias"])
@pytest.mark.parametrize("saturated", [100.0, -100.0])
def test_saturated_scores_are_finite(stage, dtype, changed, saturated):
    samples = samples_of(stage, dtype=dtype)
    target = torch.nn.functional.one_hot(samples.label.clamp(min=0), K + 1)[:, : samples.logits.shape[1]] > 0
    samples = replace(
        samples, logits=torch.where(target, saturated, -saturated).to(dtype), weight=samples.weight.float()
    )
    losses, gradients = losses_and_gradients(build_method(spec_of(stage, **changed)), samples)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert_close(losses["carl"], losses["box_regression"])  # equal scores, also where they are all 0


@st.composite
def values_and_groups(draw):
    """Few distinct values, so that many are equal; a subgroup lies in one group."""
    n = draw(st.integers(0, 25))
    subgroup = draw(st.lists(st.integers(-1, 6), min_size=n, max_size=n))
    value = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n))
    return value, subgroup, [s % 3 for s in subgroup]


@settings(deadline=None)
@given(values_and_groups())
def test_hierarchical_ranks_equal_the_loops(case):
    value, subgroup, group = case
    integers = (torch.tensor(ids, dtype=torch.int64) for ids in (subgroup, group))
    ranks = hierarchical_ranks(torch.tensor(value, dtype=torch.float64), *integers)
    assert ranks.tolist() == reference.hierarchical_ranks(value, subgroup, group)


@pytest.mark.parametrize(
    ("stage", "changed", "message"),
    [
        ("roi", {"sampled": None}, "belong together"),
        ("dense", SAMPLING, "null for sigmoid"),
        ("roi", {"prior_prob": 0.01}, "prior_prob is for sigmoid"),
        ("roi", {"alpha": 0.25, "gamma": 2.0}, "softmax head has plain cross entropy"),
        ("dense", {"positive_bias": 1.5}, "positive_bias"),
        ("dense", {"carl_power": 0.0}, "carl_power"),
        ("roi", {"sampled": 0}, "sampled"),
    ],
)
def test_wrong_parameters_are_refused(stage, changed, message):
    with pytest.raises(UserError, match=message):
        build_method(spec_of(stage, **changed))


@STAGES
def test_two_processes_have_the_gradients_of_one(stage, monkeypatch):
    """Their sums are shared. Ranks are not: here no class is in both images, and the largest classes are equal."""
    of_images = [0, 0, 0, K, K, -1, K, 0, K, K], [K, 1, 1, 2, K, 1, 2, K, 1, K]
    samples = samples_of(stage, [*of_images[0], *of_images[1]], seed=3)
    logits, deltas = samples.logits.requires_grad_(), samples.deltas.requires_grad_()
    method = build_method(spec_of(stage))
    whole = torch.autograd.grad(sum(method(samples).values()), (logits, deltas))

    # Two threads exchange their summands, so that gradients flow through the sums as between processes.
    own, summands, barrier = threading.local(), [None, None], threading.Barrier(2)

    def total(values):
        summands[own.rank] = values
        barrier.wait(timeout=60)
        result = summands[0] + summands[1]
        barrier.wait(timeout=60)
        return result

    for module in (pisa, weighting, normalizers):
        monkeypatch.setattr(module, "total", total)
    monkeypatch.setattr(normalizers, "processes", lambda: 2)

    def loss_of(rank):
        own.rank = rank
        rows = {name: getattr(samples, name)[samples.image_id == rank] for name in ROWS}
        return sum(method(replace(samples, **rows)).values())

    with ThreadPoolExecutor(2) as threads:
        losses = list(threads.map(loss_of, range(2)))
    assert_close(torch.autograd.grad(sum(losses) / 2, (logits, deltas)), whole, rtol=1e-9, atol=1e-16)

"""What every method promises at every stage it is defined for, collected from imbdet/methods."""

import math
from dataclasses import replace

import plain_losses
import pytest
import torch
from batches import NUM_CLASSES, ROWS, losses_and_gradients, make_samples
from contract_cases import (
    ALL,
    CASES,
    PAIRS_OF_METHOD_AND_STAGE,
    SEVERAL_CLASSES,
    activation_of,
    detector_with,
    make_batch,
    method_of,
    stage_of,
)
from torch.testing import assert_close

from imbdet import class_sums
from imbdet import losses as library
from imbdet.config import method_names
from imbdet.methods import equalization, noisy_anchors, sample_weighting


def test_every_method_is_under_contract_at_every_stage_of_it():
    """The list is written out, so that a stage that is lost, or a method that is added, does not go unnoticed."""
    found = {(spec["name"], stage) for stage, spec in CASES.values()}
    assert sorted(found) == PAIRS_OF_METHOD_AND_STAGE
    assert found == {(spec["name"], stage) for case, (_, spec) in CASES.items() for stage in method_of(case).stages}
    assert {name for name, _ in found} == set(method_names())


def samples_of(case, label=None, **options):
    return make_samples(stage_of(case), label, activation=activation_of(case), **options)


def assert_finite(losses, gradients):
    for name, loss in losses.items():
        assert loss.shape == (), name
        assert loss.isfinite(), name
    for gradient in gradients:
        assert gradient.isfinite().all()


@ALL
def test_ignored_rows_get_no_gradient(case):
    samples = samples_of(case)
    _, gradients = losses_and_gradients(method_of(case), samples)
    for gradient in gradients:
        assert (gradient[samples.label == -1] == 0).all()
        assert (gradient != 0).any()


@ALL
@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_what_ignored_rows_hold_does_not_leak(case, junk):
    samples = samples_of(case)
    ignored = samples.label == -1
    dirty = replace(
        samples,
        logits=torch.where(ignored[:, None], junk, samples.logits),
        deltas=torch.where(ignored[:, None, None], junk, samples.deltas),
    )
    clean_losses, clean_gradients = losses_and_gradients(method_of(case), samples)
    losses, gradients = losses_and_gradients(method_of(case), dirty)
    assert_close(losses, clean_losses, rtol=0, atol=0)
    assert_close(gradients, clean_gradients, rtol=0, atol=0)


@ALL
def test_boxes_cost_nothing_but_those_of_the_foreground(case):
    samples, method = samples_of(case), method_of(case)
    _, (_, gradient) = losses_and_gradients(method, samples)
    assert (gradient[~samples.foreground] == 0).all()
    selected = method.inspect(samples).get("selected", torch.ones_like(samples.weight)) > 0
    if stage_of(case) == "roi":
        selected[:] = True  # there, selection is the sampler's work
    assert (samples.foreground & selected).any()
    assert (gradient[samples.foreground & selected] != 0).flatten(1).any(1).all()
    if samples.deltas.shape[1] > 1:  # offsets of other classes
        own = samples.label.clamp(0, NUM_CLASSES - 1)[:, None] == torch.arange(NUM_CLASSES)
        assert (gradient[~own] == 0).all()


LABELS = {
    "background": [3] * 8,
    "ignored": [-1] * 8,
    "an image ignored": [3, 3, 3, 3, -1, -1, -1, -1],
    "an image without foreground": [3, 0, 2, 1, 3, 3, 3, -1],
    "one foreground row": [3, 1, 3, 3, 3, 3, 3, 3],
    "only foreground": [0, 1, 2, 0, 0, 1, 2, 1],
}


@ALL
@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_unusual_labels_are_finite_and_back_propagate(case, label):
    method = method_of(case)
    assert_finite(*losses_and_gradients(method, samples_of(case, label)))


@SEVERAL_CLASSES
def test_one_class(case):
    label = [-1, 0, 1, 0, 1, 1, 0, 1]
    assert_finite(*losses_and_gradients(method_of(case, 1), samples_of(case, label, num_classes=1)))


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_and_half_precision_outputs_are_finite(case, dtype):
    samples = samples_of(case, dtype=dtype)
    samples = replace(samples, logits=torch.where(samples.logits > 0, 100.0, -100.0).to(dtype))
    losses, gradients = losses_and_gradients(method_of(case), samples)
    assert_finite(losses, gradients)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(gradient.dtype == dtype for gradient in gradients)


@ALL
def test_outputs_in_bf16_cost_what_the_same_values_cost_in_fp32(case):
    """Nothing but the network is rounded, and gradients on their way into it: twice where two losses share a logit."""
    half = samples_of(case, dtype=torch.bfloat16)
    single = replace(half, logits=half.logits.float(), deltas=half.deltas.float())
    losses, gradients = losses_and_gradients(method_of(case), half)
    expected, expected_gradients = losses_and_gradients(method_of(case), single)
    assert_close(losses, expected, rtol=1e-6, atol=0)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        assert_close(gradient.float(), other, rtol=2**-6, atol=1e-9)


@ALL
def test_the_order_of_rows_does_not_matter(case):
    samples = samples_of(case)
    order = torch.randperm(len(samples.label), generator=torch.Generator().manual_seed(2))
    permuted = replace(samples, **{name: getattr(samples, name)[order] for name in ROWS})
    losses, gradients = losses_and_gradients(method_of(case), samples)
    permuted_losses, permuted_gradients = losses_and_gradients(method_of(case), permuted)
    assert_close(permuted_losses, losses, rtol=1e-6, atol=1e-12)
    for gradient, other in zip(gradients, permuted_gradients, strict=True):
        assert_close(other, gradient[order], rtol=1e-6, atol=1e-12)


@ALL
def test_a_weight_multiplies_its_row(case):
    """Twice the weight of every row is twice the loss: samplers rely on it, and the figures of effective weights."""
    samples = samples_of(case)
    losses, gradients = losses_and_gradients(method_of(case), samples)
    doubled, doubled_gradients = losses_and_gradients(method_of(case), replace(samples, weight=2 * samples.weight))
    assert_close(doubled, {name: 2 * loss for name, loss in losses.items()})
    assert_close(doubled_gradients, tuple(2 * gradient for gradient in gradients))


@ALL
def test_inspection_gives_a_value_for_each_row_and_changes_nothing(case):
    samples, method = samples_of(case), method_of(case)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    seen = method.eval().inspect(samples)
    assert {name: values.shape for name, values in seen.items()} == dict.fromkeys(seen, samples.label.shape)
    assert not any(values.requires_grad for values in seen.values())
    assert_close(dict(method.state_dict()), before, rtol=0, atol=0)


def gradient_penalty(case, compiled=False):
    """The gradients with respect to logits and offsets, and those of a penalty on them."""
    samples, method = samples_of(case), method_of(case)
    method.compiled = compiled
    inputs = [samples.logits.clone().requires_grad_(), samples.deltas.clone().requires_grad_()]
    losses = method(replace(samples, logits=inputs[0], deltas=inputs[1]))
    first = torch.autograd.grad(sum(losses.values()), inputs, create_graph=True)
    weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in inputs]
    penalty = sum((gradient.square() + w * gradient).sum() for gradient, w in zip(first, weights, strict=True))
    return [gradient.detach() for gradient in first], torch.autograd.grad(penalty, inputs)


@ALL
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_can_be_differentiated_as_those_of_plain_losses(monkeypatch, case, compiled):
    """As gradient penalties, GradNorm and AdaHessian do; what a method detaches stays detached."""
    monkeypatch.setattr(class_sums, "_compiled", lambda kernel: kernel)
    monkeypatch.setattr(sample_weighting, "BLOCK_ROWS", 5)
    first, second = gradient_penalty(case, compiled)
    assert all((gradient[samples_of(case).label == -1] == 0).all() for gradient in second)
    assert (second[0] != 0).any()
    for module in (library, equalization):
        monkeypatch.setattr(module, "sum_over_classes", plain_losses.sum_over_classes)
    monkeypatch.setattr(noisy_anchors, "sigmoid_focal_loss", plain_losses.sigmoid_focal_loss)
    assert_close((first, list(second)), tuple(map(list, gradient_penalty(case))), rtol=1e-9, atol=1e-12)


@ALL
def test_forward_mode_has_the_gradient_of_backward(case):
    """Also of what a method detaches: ``torch.no_grad`` stops backward mode alone."""
    samples, method = samples_of(case), method_of(case).double().eval()
    inputs = samples.logits, samples.deltas
    random = torch.Generator().manual_seed(3)
    along = tuple(torch.randn(x.shape, dtype=x.dtype, generator=random) for x in inputs)

    def loss(logits, deltas):
        if samples.generator is not None:
            samples.generator.manual_seed(4)
        return sum(method(replace(samples, logits=logits, deltas=deltas)).values())

    gradients = torch.func.grad(loss, argnums=(0, 1))(*inputs)
    expected = sum((gradient * direction).sum() for gradient, direction in zip(gradients, along, strict=True))
    assert_close(torch.func.jvp(loss, inputs, along)[1], expected, rtol=1e-9, atol=1e-12)


BATCHES = {
    "an image without boxes": [[[5, 5, 40, 50], [30, 30, 50, 54]], []],
    "no boxes": [[], []],
    "a box that no anchor covers": [[[400, 400, 420, 420]], [[5, 5, 40, 50]]],
    "only a box that no anchor covers": [[[400, 400, 420, 420]], []],
    "a box of no area": [[[30, 30, 30, 30]], [[5, 5, 40, 50]]],
}


@ALL
@pytest.mark.parametrize("boxes", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_unusual_batches_train(case, boxes, num_classes):
    """From images to gradients: every weight gets one, also where there is nothing to find."""
    model = detector_with(case, num_classes)
    losses = model(make_batch(boxes))
    sum(losses.values()).backward()
    assert_finite(losses, [p.grad for p in model.parameters()])


@pytest.mark.parametrize("case", [case for case, (stage, _) in CASES.items() if stage == "dense"])
def test_a_box_that_nothing_covers_leaves_everything_background(case):
    samples = detector_with(case).samples(make_batch(BATCHES["only a box that no anchor covers"]))["dense"]
    assert (samples.label == samples.num_classes).all()


@ALL
def test_a_restored_model_takes_the_same_step(case):
    """Two steps, a round trip through the state dict, a third step: bit for bit the same."""
    batch = make_batch(BATCHES["an image without boxes"])

    def step(model):
        losses = model(batch)
        model.zero_grad()
        sum(losses.values()).backward()
        torch.optim.SGD(model.parameters(), lr=0.01).step()
        return losses

    model = detector_with(case)
    before = {name: value.clone() for name, value in model.method(stage_of(case)).state_dict().items()}
    step(model), step(model)
    restored = detector_with(case)
    restored.load_state_dict(model.state_dict())
    assert_close(step(restored), step(model), rtol=0, atol=0)
    assert_close(dict(restored.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    after = model.method(stage_of(case)).state_dict()
    fixed = {"tail"}
    assert before.keys() <= fixed or any((after[name] != before[name]).any() for name in before)


@ALL
def test_learned_parameters_have_an_optimizer_of_their_own(case):
    method = method_of(case)
    grouped = [id(p) for group in method.param_groups() for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters())


@ALL
def test_a_constructor_checks_what_build_method_checks(case):
    """Of every method and each of its parameters: NaN, and values of another type."""
    spec = dict(CASES[case][1], box_beta=0.11)
    spec.pop("name")
    cls = type(method_of(case))
    cls(**spec)
    for key in spec:
        for wrong in (math.nan, object()):
            with pytest.raises(ValueError, match=rf"^{key}[:.]"):
                cls(**spec | {key: wrong})
        with pytest.raises(ValueError, match=rf"^parameter '{key}' is missing$"):
            cls(**{k: v for k, v in spec.items() if k != key})

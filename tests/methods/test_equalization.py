"""The Equalization Loss in both forms against plain loops, its tail, and what the paper says of special cases."""

from dataclasses import replace

import equalization_reference as reference
import numpy as np
import pytest
import torch
from batches import losses_and_gradients, make_samples
from compiler import torch_compile_works
from focal_reference import losses as reference_losses
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from imbdet.errors import UserError
from imbdet.methods import build_method
from imbdet.methods._tail import tail_classes

K = 5
COUNTS = [900, 40, 3, 60, 3]  # of 1000 images
FREQUENCY = [count / 1000 for count in COUNTS]
COMMON = {"frequency": FREQUENCY, "threshold": 0.05, "tail_ratio": None, "normalizer": "sampled", "box_beta": 0.0}
SIGMOID = {"name": "equalization", "prior_prob": 0.001, "score_threshold": 0.0} | COMMON
SOFTMAX = {"name": "equalization_softmax", "gamma": 0.9} | COMMON
CERTAIN = SOFTMAX | {"gamma": 1.0}
CE = {"name": "cross_entropy", "alpha": None, "prior_prob": None, "normalizer": "sampled", "box_beta": 0.0}
NO_TAIL, ALL_TAIL = {"threshold": 0.0}, {"threshold": 1.0}
BOTH_FORMS = pytest.mark.parametrize("spec", [SIGMOID, SOFTMAX], ids=["sigmoid", "softmax"])
WITHOUT_CHANCE = pytest.mark.parametrize("spec", [SIGMOID, CERTAIN], ids=["sigmoid", "softmax"])


def samples_for(spec, label=None, seed=1, num_classes=K, **options):
    """RoIs with random weights; by default half of the rows are background and every class occurs."""
    rows = [*range(K), *[K] * 8, -1, -1, *range(K)] if label is None else label
    activation = "sigmoid" if spec["name"] == "equalization" else "softmax"
    samples = make_samples("roi", rows, num_classes, activation=activation, seed=seed, **options)
    random = torch.Generator().manual_seed(seed)
    return replace(samples, weight=2 * torch.rand(len(rows), generator=random).to(samples.weight))


def certain_cross_entropy(spec):
    return build_method(CE | {"activation": "sigmoid" if spec["name"] == "equalization" else "softmax"})


def assert_as_reference(spec, samples):
    method = build_method(spec)
    tail = reference.tail_below(spec["frequency"], spec["threshold"])
    beta = np.random.default_rng(0).integers(0, 2, (len(samples.label), len(tail)))
    method.draw_beta = lambda _: torch.from_numpy(beta).bool()  # the softmax form's
    losses, (gradient, _) = losses_and_gradients(method, samples)
    logits, label, weight = (getattr(samples, name).numpy() for name in ("logits", "label", "weight"))
    if spec["name"] == "equalization":
        rows, slopes = reference.sigmoid_form(logits, label, tail)
    else:
        rows, slopes = reference.softmax_form(logits, label, tail, beta)
    batch = {name: getattr(samples, name).numpy() for name in ("deltas", "priors", "gt_id", "image_id", "gt_boxes")}
    batch |= {"label": label, "weight": weight, "num_classes": len(tail), "num_images": samples.num_images}
    batch |= {"coder_weights": samples.box_coder.weights}
    terms = reference_losses(batch, rows, spec["box_beta"], spec["normalizer"])
    assert_close({name: loss.item() for name, loss in losses.items()}, terms, rtol=1e-10, atol=1e-12)
    divisor = max(1, (label >= 0).sum())
    assert_close(gradient.numpy(), weight[:, None] * slopes / divisor, rtol=1e-10, atol=1e-12)


@BOTH_FORMS
@pytest.mark.parametrize("threshold", [0.0, 0.003, 0.0031, 0.05, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_terms_and_gradients(spec, threshold, seed):
    assert_as_reference(spec | {"threshold": threshold}, samples_for(spec, seed=seed))


UNUSUAL = {
    "an image without foreground": [0, 4, 2, -1, K, K, K, -1],
    "one foreground row": [K, K, 2, K],
    "no foreground": [K, -1, K, K],
    "ignored": [-1, -1],
    "only the tail": [2, 4, 2, 4, 4, 1],
}


@BOTH_FORMS
@pytest.mark.parametrize("label", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_batches(spec, label):
    assert_as_reference(spec, samples_for(spec, label))


@BOTH_FORMS
@pytest.mark.parametrize("frequency", [0.01, 0.5])
def test_one_class_has_no_others_to_leave_out(spec, frequency):
    spec = spec | {"frequency": [frequency]}
    samples = samples_for(spec, [0, 1, -1, 0], num_classes=1)
    assert_as_reference(spec, samples)
    assert_close(*(losses_and_gradients(m, samples) for m in (build_method(spec), certain_cross_entropy(spec))))


@WITHOUT_CHANCE
@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
def test_ignored_rows_may_hold_anything(spec, junk):
    samples = samples_for(spec)
    ignored = (samples.label == -1)[:, None]
    dirty = replace(samples, logits=torch.where(ignored, junk, samples.logits))
    clean, results = (losses_and_gradients(build_method(spec), s) for s in (samples, dirty))
    assert_close(results, clean, rtol=0, atol=0)


@BOTH_FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_are_finite(spec, dtype):
    samples = samples_for(spec, dtype=dtype)
    samples = replace(samples, logits=torch.where(samples.logits > 0, 100.0, -100.0).to(dtype))
    losses, gradients = losses_and_gradients(build_method(spec), samples)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert all(gradient.isfinite().all() and gradient.dtype == dtype for gradient in gradients)


def test_fused_kernels_leave_out_the_same_or_nothing():
    samples, method = samples_for(SIGMOID, dtype=torch.float32), build_method(SIGMOID)
    expected = losses_and_gradients(method, samples)
    method.compiled = True
    if torch_compile_works():
        assert_close(losses_and_gradients(method, samples), expected)
    else:
        with pytest.raises(RuntimeError):
            losses_and_gradients(method, samples)


@WITHOUT_CHANCE
def test_the_order_of_rows_does_not_matter(spec):
    samples = samples_for(spec)
    order = torch.randperm(len(samples.label), generator=torch.Generator().manual_seed(2))
    rows = ("logits", "deltas", "priors", "label", "gt_id", "image_id", "weight")
    shuffled = replace(samples, **{name: getattr(samples, name)[order] for name in rows})
    losses, gradients = losses_and_gradients(build_method(spec), samples)
    others, permuted = losses_and_gradients(build_method(spec), shuffled)
    assert_close(others, losses)
    assert_close(permuted, tuple(gradient[order] for gradient in gradients))


# What the paper says of special cases


@BOTH_FORMS
def test_lambda_0_is_cross_entropy(spec):
    samples = samples_for(spec)
    results = [losses_and_gradients(m, samples) for m in (build_method(spec | NO_TAIL), certain_cross_entropy(spec))]
    assert_close(*results, rtol=0, atol=0)


def test_gamma_0_is_cross_entropy():
    samples = samples_for(SOFTMAX)
    methods = build_method(SOFTMAX | ALL_TAIL | {"gamma": 0.0}), certain_cross_entropy(SOFTMAX)
    assert_close(*(losses_and_gradients(method, samples) for method in methods), rtol=0, atol=0)


@BOTH_FORMS
def test_background_keeps_every_class(spec):
    """E(r) = 0: it alone teaches the tail where there is nothing."""
    samples = samples_for(spec)
    background = samples.label == K
    methods = build_method(spec | ALL_TAIL), certain_cross_entropy(spec)
    (_, (gradient, _)), (_, (plain, _)) = (losses_and_gradients(method, samples) for method in methods)
    assert_close(gradient[background], plain[background], rtol=0, atol=0)
    assert (gradient[background] != 0).all()


@WITHOUT_CHANCE
def test_foreground_teaches_the_tail_nothing_but_its_own_class(spec):
    samples = samples_for(spec)
    _, (gradient, _) = losses_and_gradients(build_method(spec), samples)
    tail = torch.tensor(reference.tail_below(FREQUENCY, spec["threshold"]))
    assert tail.tolist() == [False, True, True, False, True]
    own = torch.nn.functional.one_hot(samples.label[samples.foreground], K).bool()
    classes = gradient[samples.foreground][:, :K]
    assert (classes[~own & tail] == 0).all()
    assert (classes[own | ~tail] != 0).all()


def test_the_own_class_and_the_frequent_ones_get_their_full_gradient():
    samples = samples_for(SIGMOID)
    results = (losses_and_gradients(m, samples) for m in (build_method(SIGMOID), certain_cross_entropy(SIGMOID)))
    (_, (gradient, _)), (_, (plain, _)) = results
    kept = gradient != 0
    assert kept.sum() < (plain != 0).sum()
    assert_close(gradient[kept], plain[kept], rtol=0, atol=0)
    own = samples.foreground.nonzero()[:, 0], samples.label[samples.foreground]
    assert (gradient[own] == plain[own]).all()


def test_in_softmax_the_others_take_the_tail_s_share():
    """Without the tail in the sum, a foreground row's own class is pushed up less and the rest down more."""
    samples = samples_for(SOFTMAX)
    results = (losses_and_gradients(m, samples) for m in (build_method(CERTAIN), certain_cross_entropy(SOFTMAX)))
    (losses, (gradient, _)), (plain_losses, (plain, _)) = results
    assert losses["classification"] < plain_losses["classification"]
    assert_close(gradient.sum(1), torch.zeros_like(gradient[:, 0]), rtol=0, atol=1e-12)
    of_0 = samples.label == 0
    assert (gradient[of_0, 0].abs() < plain[of_0, 0].abs()).all()
    assert (gradient[of_0][:, [3, K]] > plain[of_0][:, [3, K]]).all()


def test_softmax_of_nothing_but_tail_is_each_class_against_the_background():
    samples = samples_for(CERTAIN)
    loss = build_method(CERTAIN | ALL_TAIL)(samples)["classification"]
    margin = samples.logits[:, K] - samples.logits.gather(1, samples.label.clamp(min=0)[:, None])[:, 0]
    against = torch.nn.functional.softplus(margin)
    plain = samples.logits.logsumexp(1) - samples.logits[:, K]
    rows = torch.where(samples.foreground, against, torch.where(samples.label == K, plain, 0.0))
    assert_close(loss, (samples.weight * rows).sum() / (samples.label >= 0).sum())


# The draw of beta


def test_the_draw_follows_the_samples_generator_alone():
    method = build_method(SOFTMAX | {"gamma": 0.5})

    def loss(seed):
        torch.manual_seed(3)
        generator = torch.Generator().manual_seed(seed)
        value = method(replace(samples_for(SOFTMAX), generator=generator))["classification"].item()
        assert torch.initial_seed() == 3
        assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3))
        return value

    assert loss(1) == loss(1)
    assert len({loss(seed) for seed in range(10)}) > 5


@pytest.mark.parametrize("gamma", [0.3, 0.9])
def test_each_row_and_class_has_a_draw_of_its_own(gamma):
    beta = build_method(SOFTMAX | {"gamma": gamma}).draw_beta(samples_for(SOFTMAX, [0] * 4000)).double()
    assert_close(beta.mean(0), torch.full((K,), gamma).double(), rtol=0, atol=0.03)  # four standard deviations
    assert_close(torch.corrcoef(beta.T), torch.eye(K).double(), rtol=0, atol=0.07)
    assert_close(torch.corrcoef(torch.stack([beta[1:, 0], beta[:-1, 0]]))[0, 1].item(), 0.0, rtol=0, atol=0.07)


# The tail


def test_the_threshold_is_strict():
    """LVIS v0.5: classes of exactly 100 of 56,740 images are common; lambda .00176 drops them, .00177 does not."""
    frequency = [100 / 56740, 101 / 56740, 99 / 56740]
    assert tail_classes(frequency, 0.00177, None).tolist() == [True, False, True]
    assert tail_classes(frequency, 0.00176, None).tolist() == [False, False, True]
    assert tail_classes(frequency, 100 / 56740, None).tolist() == [False, False, True]


HAND = {  # of 600 image counts, 40 are 6.67 % and 100 are 16.67 %
    0.0: [],
    0.0166: [],
    0.0167: [10],
    0.05: [10],
    0.0666: [10],  # both classes of 15 or none: with one of them the share would be 4.17 %
    0.0667: [10, 15, 15],
    0.1: [10, 15, 15],
    0.1667: [10, 15, 15, 60],
    0.99: [10, 15, 15, 60],
    1.0: [10, 15, 15, 60, 500],
}


@pytest.mark.parametrize(("ratio", "expected"), HAND.items())
def test_the_tail_ratio_by_hand(ratio, expected):
    counts = [500, 15, 60, 10, 15]
    tail = tail_classes([count / 2000 for count in counts], None, ratio)
    assert sorted(n for n, is_tail in zip(counts, tail.tolist(), strict=True) if is_tail) == expected


def test_ratio_and_threshold_name_the_same_tail():
    """40 + 3 + 3 of 1006: the classes below 5 % of the images."""
    by_ratio = tail_classes(FREQUENCY, None, 46 / 1006)
    assert by_ratio.tolist() == tail_classes(FREQUENCY, 0.05, None).tolist() == [False, True, True, False, True]
    assert tail_classes(FREQUENCY, None, 45 / 1006).tolist() == [False, False, True, False, True]


@given(counts=st.lists(st.integers(1, 10**4), min_size=1, max_size=30), extra=st.integers(0, 10**4), data=st.data())
@settings(max_examples=200, deadline=None)
def test_the_tail_is_the_largest_within_the_ratio(counts, extra, data):
    """Also where the ratio is exactly that of some tail."""
    images = max(counts) + extra
    largest = data.draw(st.sampled_from(counts))
    exact = reference.tail_ratio(counts, [n <= largest for n in counts])
    for ratio in (exact, data.draw(st.integers(0, 1000)) / 1000):
        tail = tail_classes([count / images for count in counts], None, ratio)
        assert tail.tolist() == reference.tail_within(counts, ratio)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_the_tail_by_threshold(frequency, threshold):
    assert tail_classes(frequency, threshold, None).tolist() == reference.tail_below(frequency, threshold)


def test_classes_without_images_are_of_every_tail_but_that_of_lambda_0():
    frequency = [0.5, 0.0, 0.2]
    assert tail_classes(frequency, None, 0.0).tolist() == [False, True, False]
    assert tail_classes(frequency, 1e-9, None).tolist() == [False, True, False]
    assert not tail_classes(frequency, 0.0, None).any()


@BOTH_FORMS
def test_the_tail_travels_with_checkpoints(spec):
    saved, restored = build_method(spec), build_method(spec | ALL_TAIL)
    assert restored.tail.all()
    restored.load_state_dict(saved.state_dict())
    assert restored.tail.tolist() == [False, True, True, False, True]


@BOTH_FORMS
def test_inspect_counts_what_is_left_out(spec):
    samples = samples_for(spec, [0, 1, 2, K, -1, 3])
    state = samples.generator.get_state()
    suppressed = build_method(spec).inspect(samples)["suppressed"]
    probability = spec.get("gamma", 1.0)
    assert_close(suppressed, probability * torch.tensor([3.0, 2.0, 2.0, 0.0, 0.0, 3.0]))
    assert (samples.generator.get_state() == state).all()


# Parameters


def test_the_head_starts_at_the_prior():
    head = build_method(SIGMOID).head
    assert (head.activation, head.columns(K), head.score_threshold) == ("sigmoid", K, 0.0)
    assert head.bias == pytest.approx(-6.90676, abs=1e-5)
    head = build_method(SOFTMAX).head
    assert (head.activation, head.columns(K), head.bias) == ("softmax", K + 1, 0.0)


@BOTH_FORMS
@pytest.mark.parametrize("kind", [list, tuple])
def test_frequencies_come_as_list_or_tuple(spec, kind):
    assert build_method(spec | {"frequency": kind(FREQUENCY)}).tail.sum() == 3


REFUSED = {
    "both": ({"tail_ratio": 0.05}, r"either threshold or tail_ratio, got threshold 0.05 and tail_ratio 0.05"),
    "none": ({"threshold": None}, r"either threshold or tail_ratio, got threshold None and tail_ratio None"),
    "counts": ({"frequency": [900, 40, 3, 60, 3]}, r"share of training images that hold a class, 0 to 1, got 900"),
    "negative": ({"frequency": [-0.1] * K}, r"share of training images .* got -0.1"),
    "no numbers": ({"frequency": ["a"] * K}, r"frequency: .*valid number, got 'a'"),
    "no list": ({"frequency": 0.5}, r"frequency: .*got 0.5"),
    "not a number": ({"frequency": [float("nan")] * K}, r"frequency: .*finite number, got nan"),
    "a ratio in percent": ({"threshold": None, "tail_ratio": 9.0}, r"tail_ratio: .*less than or equal to 1, got 9.0"),
}


@BOTH_FORMS
@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_parameters_are_refused(spec, change, message):
    with pytest.raises(UserError, match=message):
        build_method(spec | change)


@BOTH_FORMS
def test_frequencies_of_other_classes_are_refused(spec):
    samples = samples_for(spec, [0, 1, 2, 3], num_classes=3)
    for use in (build_method(spec), build_method(spec).inspect):
        with pytest.raises(ValueError, match=r"frequency is of 5 classes, but the samples have 3"):
            use(samples)


def test_a_library_user_s_frequencies_are_checked_too():
    with pytest.raises(ValueError, match="0 to 1, got nan"):
        tail_classes([float("nan")], 0.1, None)

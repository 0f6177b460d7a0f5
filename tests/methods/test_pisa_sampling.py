"""Score-HLR sampling with the weights of ISR-N against its loops, and who is sampled."""

from dataclasses import asdict, replace

import pisa_reference as reference
import pytest
import torch
from batches import losses_and_gradients, make_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from pisa_cases import SAMPLING, K, arrays, spec_of
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from imbdet.methods import build_method
from imbdet.methods.pisa import nms_match
from imbdet.samplers import RandomSampler


@st.composite
def scored_boxes(draw):
    """Boxes on a coarse grid, so that IoUs of exactly 1/2, equal boxes and boxes without area are common."""
    n = draw(st.integers(0, 15))
    numbers = st.integers(0, 3)
    corners = draw(st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=n, max_size=n))
    scores = draw(st.lists(st.sampled_from([0.25, 0.5, 0.75]), min_size=n, max_size=n))
    images = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    return [[x, y, x + w, y + h] for x, y, w, h in corners], scores, images


@settings(deadline=None)
@given(scored_boxes(), st.sampled_from([0.3, 0.5, 1.0]))
def test_nms_match_equals_the_loops(case, least_iou):
    boxes, scores, images = case
    box_tensor = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    leader = nms_match(box_tensor, torch.tensor(scores), torch.tensor(images, dtype=torch.int64), least_iou).tolist()
    for image in set(images):
        rows = [i for i, of in enumerate(images) if of == image]
        expected = reference.nms_match([boxes[i] for i in rows], [scores[i] for i in rows], least_iou)
        assert [leader[i] for i in rows] == [rows[j] for j in expected]


def candidates_of(seed, images=3, per_image=30, dtype=torch.float64, class_agnostic=False):
    """RoIs with few objects and many overlapping negatives, ignored ones among them, which hold NaN."""
    random = torch.Generator().manual_seed(seed)
    label = torch.tensor([0, K, -1, 1, K, K, K, K, K, K] * (images * per_image // 10)).roll(seed)
    samples = make_samples("roi", label.tolist(), activation="softmax", images=images, seed=seed, dtype=dtype)
    corner = 10 * torch.rand(len(label), 2, generator=random).to(samples.priors.dtype)
    crowded = torch.cat([corner, corner + 20], 1)
    ignored = (label < 0)[:, None]
    deltas = samples.deltas[:, :1] if class_agnostic else samples.deltas
    return replace(
        samples,
        priors=torch.where((label == K)[:, None], crowded, samples.priors),
        logits=torch.where(ignored, torch.nan, samples.logits),
        deltas=torch.where(ignored[..., None], torch.nan, deltas),
    )


def sample(spec, samples, seed=0):
    return build_method(spec).sampler()(samples, lambda: samples, torch.Generator().manual_seed(seed))


def by_image(kept, samples, rows):
    """Slots of each image that hold such rows, in order: [(index, weight), ...] for each image."""
    slots = zip(kept.index.tolist(), kept.valid.tolist(), kept.weight.tolist(), strict=True)
    chosen = [(i, w) for i, valid, w in slots if valid and rows[i]]
    return [[(i, w) for i, w in chosen if samples.image_id[i] == image] for image in range(samples.num_images)]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("sampled", [6, 20, 40])
@pytest.mark.parametrize("changed", [{}, {"negative_bias": 0.3, "negative_power": 2.0}], ids=["recipe", "bias"])
@pytest.mark.parametrize("class_agnostic", [False, True], ids=["by class", "class-agnostic"])
def test_negatives_are_sampled_as_by_the_loops(seed, sampled, changed, class_agnostic):
    samples, spec = candidates_of(seed, class_agnostic=class_agnostic), spec_of("roi", sampled=sampled, **changed)
    kept, batch = sample(spec, samples), arrays(samples)
    assert kept.index.shape == kept.valid.shape == kept.weight.shape == (3 * sampled,)
    positives = by_image(kept, samples, samples.foreground)
    for image, chosen in enumerate(by_image(kept, samples, samples.label == K)):
        ranked, rest = reference.score_hlr(batch, image, spec)
        assert len(ranked) > 3
        assert rest
        index = [i for i, _ in chosen]
        number = min(sampled - len(positives[image]), len(ranked) + len(rest))
        assert len(set(index)) == len(index) == number
        assert index[: len(ranked)] == ranked[:number]
        assert set(index[len(ranked) :]) <= set(rest)
        assert [w for _, w in chosen] == pytest.approx(reference.negative_weights(batch, index, len(ranked), spec))
    assert all(w == 1 for chosen in positives for _, w in chosen)
    assert (kept.weight[~kept.valid] == 1).all()


@pytest.mark.parametrize("sampled", [6, 40])
def test_positives_are_those_of_random_sampling(sampled):
    samples = candidates_of(4)
    kept = sample(spec_of("roi", sampled=sampled), samples, seed=9)
    random = RandomSampler(sampled, 0.25)(samples, lambda: samples, torch.Generator().manual_seed(9))
    assert by_image(kept, samples, samples.foreground) == by_image(random, samples, samples.foreground)
    assert kept.valid.tolist() == random.valid.tolist()


def test_without_a_score_above_the_floor_the_sampling_is_random():
    samples = candidates_of(5)
    kept = sample(spec_of("roi", score_floor=1.0), samples, seed=9)
    random = RandomSampler(8, 0.25)(samples, lambda: samples, torch.Generator().manual_seed(9))
    assert_close(asdict(kept), asdict(random), check_dtype=False, rtol=1e-12, atol=0)


def test_other_images_do_not_change_an_images_negatives():
    samples = candidates_of(6)
    alone = sample(spec_of("roi"), replace(samples, label=torch.where(samples.image_id == 1, samples.label, -1)))
    together = sample(spec_of("roi"), samples)
    negatives = samples.label == K
    assert by_image(together, samples, negatives)[1] == by_image(alone, samples, negatives)[1]


@pytest.mark.parametrize("label", [[0, 1, 2, 0], [-1, -1], [K, K, 0, 1]], ids=["positives", "ignored", "by image"])
def test_images_without_negatives_or_positives(label):
    samples = make_samples("roi", label, activation="softmax")
    kept = sample(spec_of("roi", sampled=4, foreground_share=0.5), samples)
    assert sorted(kept.index[kept.valid].tolist()) == [i for i, y in enumerate(label) if y >= 0]
    assert kept.weight.isfinite().all()


def test_sampled_rows_train():
    """ISR-N keeps the sum of the negatives' losses: weights of 1 give the same classification loss."""
    samples, spec = candidates_of(7, dtype=torch.float32), spec_of("roi", sampled=20)
    kept = sample(spec, samples)
    assert kept.weight.dtype == torch.float32
    assert len(set(kept.weight.tolist())) > 10
    chosen = samples.select(kept).predicted(samples.logits[kept.index], samples.deltas[kept.index])
    losses, gradients = losses_and_gradients(build_method(spec), chosen)
    plain, _ = losses_and_gradients(build_method(spec), replace(chosen, weight=torch.ones_like(chosen.weight)))
    assert_close(losses, plain, rtol=1e-5, atol=0)
    assert all(gradient.isfinite().all() for gradient in gradients)


class Waits(TorchDispatchMode):
    """Counts the operators whose result, in size or value, the host has to wait for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.index:
            waits = any(index.dtype is torch.bool for index in args[1] if index is not None)
        else:
            waits = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        self.count += bool(waits) or func.namespace == "torchvision"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("images", [1, 6])
def test_the_sampler_waits_twice_a_batch(images):
    samples = candidates_of(8, images=images)
    with Waits() as waits:
        sample(spec_of("roi"), samples)
    assert waits.count == 2
    with Waits() as waits:
        build_method(spec_of("roi"))(samples)
    assert waits.count == 0


def test_without_its_parameters_there_is_no_sampler():
    assert build_method(spec_of("roi", **dict.fromkeys(SAMPLING))).sampler() is None
    assert build_method(spec_of("dense")).sampler() is None

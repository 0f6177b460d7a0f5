"""OHEM's choice of proposals and their losses against plain loops; what it is where it chooses everything."""

from dataclasses import replace

import focal_reference
import ohem_reference as reference
import pytest
import torch
from batches import arrays, losses_and_gradients, make_samples
from ohem_cases import UNUSUAL, random_samples, rows_of
from torch.testing import assert_close
from torchvision.ops import nms

from imbdet.errors import UserError
from imbdet.methods import build_method
from imbdet.methods.ohem import hardest_first, left_in_groups

SOFTMAX = {"activation": "softmax", "prior_prob": None}
SIGMOID = {"activation": "sigmoid", "prior_prob": 0.01}
COMMON = {"normalizer": "sampled", "box_beta": 1.0}
SPEC = {"name": "ohem", "variant": "code", "per_image": 3, "nms_iou": 0.3, **SOFTMAX, **COMMON}
VARIANTS = pytest.mark.parametrize("variant", ["paper", "code"])
HEADS = pytest.mark.parametrize("head", [SOFTMAX, SIGMOID], ids=["softmax", "sigmoid"])


def choose(spec, samples):
    """The sampler's choice, and the rows of it that are valid, in its order."""
    kept = build_method(spec).sampler()(samples, lambda: samples, None)
    return kept, kept.index[kept.valid].tolist()


def train(spec, samples):
    """Losses and gradients from the choice on: the head sees the chosen rows again, now with gradient."""
    kept, _ = choose(spec, samples)
    inputs = [samples.logits.clone().requires_grad_(), samples.deltas.clone().requires_grad_()]
    chosen = samples.select(kept).predicted(*(x[kept.index] for x in inputs))
    losses = build_method(spec)(chosen)
    return losses, torch.autograd.grad(sum(losses.values()), inputs)


def reference_rows(samples, head):
    """[N] classification losses and their sums with the box losses."""
    batch = arrays(samples)
    if head["activation"] == "softmax":
        rows = focal_reference.softmax_rows(batch)
    else:
        rows = focal_reference.sigmoid_rows(batch, focal_reference.cross_entropy, None)
    return batch, rows, rows + focal_reference.box_rows(batch, COMMON["box_beta"])


@VARIANTS
@HEADS
@pytest.mark.parametrize("nms_iou", [None, 0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize(("seed", "per_image"), [(1, 4), (2, 9), (3, 100)])
def test_the_hardest_are_chosen(variant, head, nms_iou, seed, per_image):
    samples = random_samples("roi", seed, rows=90, images=3, activation=head["activation"])
    batch, _, losses = reference_rows(samples, head)
    spec = SPEC | head | {"variant": variant, "per_image": per_image, "nms_iou": nms_iou}
    kept, chosen = choose(spec, samples)
    expected = reference.ohem(batch, losses, variant, per_image, nms_iou)
    assert chosen == expected
    assert len(kept.index) == 3 * per_image
    assert (kept.weight == 1).all()
    selected = build_method(spec).inspect(samples)["selected"]
    assert rows_of(selected) == sorted(expected)
    assert set(selected.tolist()) <= {0.0, 1.0}


@VARIANTS
@HEADS
@pytest.mark.parametrize("options", UNUSUAL.values(), ids=UNUSUAL)
def test_losses_and_unusual_batches(variant, head, options):
    samples = random_samples("roi", seed=4, activation=head["activation"], **options)
    batch, rows, losses = reference_rows(samples, head)
    chosen = reference.ohem(batch, losses, variant, 3, 0.3)
    # The sampler gives every row that it keeps a weight of 1.
    batch = reference.only(batch, chosen) | {"weight": [1.0] * len(rows)}
    kept_rows = [row if i in chosen else 0 for i, row in enumerate(rows)]
    expected = focal_reference.losses(batch, kept_rows, COMMON["box_beta"], "sampled")
    terms, gradients = train(SPEC | head | {"variant": variant}, samples)
    assert_close({name: term.item() for name, term in terms.items()}, expected)
    assert all(gradient.isfinite().all() for gradient in gradients)


@VARIANTS
@HEADS
def test_of_the_chosen_it_is_cross_entropy(variant, head):
    """Rows left out get no gradient, and the choice adds none to those chosen."""
    samples = replace(random_samples("roi", 5, rows=60, activation=head["activation"]), weight=torch.ones(60).double())
    spec = SPEC | head | {"variant": variant}
    chosen = build_method(spec).inspect(samples)["selected"] > 0
    assert 0 < chosen.sum() < (samples.label >= 0).sum()
    plain = build_method({"name": "cross_entropy", "alpha": None, **head, **COMMON})
    expected = losses_and_gradients(plain, replace(samples, label=torch.where(chosen, samples.label, -1)))
    losses, gradients = train(spec, samples)
    assert_close((losses, gradients), expected)
    assert (gradients[0][~chosen] == 0).all()
    assert (gradients[0][chosen] != 0).any(1).all()


@VARIANTS
@HEADS
@pytest.mark.parametrize("nms_iou", [None, 1.0])
def test_all_rows_without_nms_are_cross_entropy(variant, head, nms_iou):
    samples = make_samples("roi", activation=head["activation"])
    spec = SPEC | head | {"variant": variant, "per_image": len(samples.label), "nms_iou": nms_iou}
    plain = build_method({"name": "cross_entropy", "alpha": None, **head, **COMMON})
    assert_close(train(spec, samples), losses_and_gradients(plain, samples))


def test_the_code_takes_from_all_images_together_and_the_paper_from_each():
    samples = make_samples("roi", label=[3] * 12, activation="softmax")
    easy = samples.image_id == 1
    wrong = torch.tensor([9.0, 0, 0, 0]).double()
    samples = replace(samples, logits=torch.where(easy[:, None], -wrong, wrong + samples.logits / 10))
    images = {
        variant: samples.image_id[choose(SPEC | {"variant": variant, "nms_iou": None}, samples)[1]].tolist()
        for variant in ("code", "paper")
    }
    assert images == {"code": [0] * 6, "paper": [0, 0, 0, 1, 1, 1]}


def test_the_code_suppresses_within_a_label_and_the_paper_within_an_image():
    samples = make_samples("roi", label=[0, 1, 1, 3], activation="softmax", images=1)
    samples = replace(samples, priors=samples.priors[:1].expand(4, 4))
    kept = {variant: len(choose(SPEC | {"variant": variant}, samples)[1]) for variant in ("code", "paper")}
    assert kept == {"code": 3, "paper": 1}


@VARIANTS
def test_ignored_proposals_suppress_nothing(variant):
    """The ignored row lies on the others and holds rubbish."""
    samples = make_samples("roi", label=[-1, 3, -1, 3], activation="softmax")
    junk = torch.where((samples.label == -1)[:, None], torch.inf, samples.logits)
    samples = replace(samples, priors=samples.priors[:1].expand(4, 4), logits=junk)
    assert sorted(choose(SPEC | {"variant": variant}, samples)[1]) == [1, 3]


@VARIANTS
def test_the_order_of_rows_does_not_matter(variant):
    samples = random_samples("roi", 6, rows=60, activation="softmax")
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    names = ("logits", "deltas", "priors", "label", "gt_id", "image_id", "weight")
    permuted = replace(samples, **{name: getattr(samples, name)[order] for name in names})
    spec = SPEC | {"variant": variant}
    assert order[choose(spec, permuted)[1]].tolist() == choose(spec, samples)[1]


@pytest.mark.parametrize("n", [60, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_left_is_nms_of_each_group(n, dtype):
    """All groups at once and, of 3,000 boxes, one after the other; boxes on both sides of 0."""
    random = torch.Generator().manual_seed(n)
    corner = 60 * torch.rand(n, 2, generator=random, dtype=dtype) - 40
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(n, 2, generator=random, dtype=dtype)], 1)
    losses = torch.rand(n, generator=random, dtype=dtype)
    group = torch.randint(0, 7, (n,), generator=random)
    member = torch.rand(n, generator=random) < 0.8
    left = left_in_groups(boxes, hardest_first(losses), group, member, 0.4)
    for g in range(7):
        rows = (member & (group == g)).nonzero()[:, 0]
        alone = rows[nms(boxes[rows], losses[rows], 0.4)]
        assert rows_of(left & (group == g)) == sorted(alone.tolist())
    assert not (left & ~member).any()


def test_nms_does_not_depend_on_the_number_of_the_group():
    """Pairs with an IoU of a hair more than .7, or less: with coordinates rounded to .06 pixels, some would turn."""
    for width, left_of_pair in ((99.99, [True, False]), (100.01, [True, True])):
        boxes = torch.tensor([[0.0, 0.0, width, 100.0], [0.0, 0.0, 70.0, 100.0]]).repeat(400, 1)
        boxes[-1, 2:] = 2000  # moves the groups far apart
        group = torch.arange(400).repeat_interleave(2) * 3
        left = left_in_groups(boxes, hardest_first(-torch.arange(800.0)), group, torch.ones(800).bool(), 0.7)
        assert left[:-2].tolist() == left_of_pair * 399


def test_nms_keeps_groups_apart_left_of_0():
    """Shifted by the largest coordinate, as for boxes inside an image, the second box would lie on the first."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [-11.0, -11.0, -1.0, -1.0]])
    key, everything = hardest_first(torch.tensor([2.0, 1.0])), torch.ones(2).bool()
    assert left_in_groups(boxes, key, torch.tensor([0, 1]), everything, 0.5).all()


def test_equal_losses_are_taken_by_row():
    key = hardest_first(torch.tensor([1.0, 3.0, 1.0, 3.0, 2.0]))
    assert key.argsort().tolist() == [1, 3, 4, 0, 2]
    assert ((key >= 0) & (key < 1)).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"per_image": 0}, "per_image"),
        ({"per_image": 2.5}, "per_image"),
        ({"nms_iou": 1.5}, "nms_iou"),
        ({"variant": "mmdet"}, "variant"),
        ({"prior_prob": 0.01}, "softmax starts with a bias of 0"),
    ],
)
def test_wrong_parameters_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        build_method(SPEC | wrong)

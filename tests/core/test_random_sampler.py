"""Laws of random sampling: how many of each kind an image gives, in which order, and each with the same chance."""

from dataclasses import replace

import pytest
import torch
from batches import make_samples
from hypothesis import given, settings
from hypothesis import strategies as st

from imbdet.samplers import RandomSampler, fill_slots, ranks_in_groups

K = 2
LABELS = st.lists(st.lists(st.integers(-1, K), max_size=12), min_size=1, max_size=4)
seeded = settings(max_examples=80, deadline=None, derandomize=True)


def candidates_of(labels_by_image):
    """Candidates with the given labels (K background, -1 ignored), rows of the images one after the other."""
    flat = [label for labels in labels_by_image for label in labels]
    image_id = torch.tensor([i for i, labels in enumerate(labels_by_image) for _ in labels], dtype=torch.int64)
    samples = make_samples("dense", flat, num_classes=K)
    return replace(samples, label=samples.label.long(), image_id=image_id, num_images=len(labels_by_image))


def draw(candidates, number, share, generator=None):
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    return RandomSampler(number, share)(candidates, lambda: pytest.fail("random sampling needs no score"), generator)


@seeded
@given(LABELS, st.integers(1, 10), st.floats(0, 1), st.randoms(use_true_random=False))
def test_each_image_gives_its_quotas(labels_by_image, number, share, random):
    """At most a share of foreground, background in place of what is missing, nothing in place of that."""
    candidates = candidates_of(labels_by_image)
    order = torch.tensor(random.sample(range(len(candidates.label)), len(candidates.label)), dtype=torch.int64)
    candidates = replace(candidates, label=candidates.label[order], image_id=candidates.image_id[order])
    kept = draw(candidates, number, share)
    assert kept.index.shape == kept.valid.shape == kept.weight.shape == (len(labels_by_image) * number,)
    for image, labels in enumerate(labels_by_image):
        slots = slice(image * number, (image + 1) * number)
        rows = kept.index[slots][kept.valid[slots]]
        foreground = min(sum(0 <= label < K for label in labels), int(number * share))
        background = min(labels.count(K), number - foreground)
        # Foreground stands first, then background, then the slots that stay empty.
        expected = [True] * foreground + [False] * background
        assert candidates.foreground[rows].tolist() == expected
        assert (candidates.label[rows] >= 0).all(), "an ignored row"
        assert kept.valid[slots].tolist() == [True] * len(expected) + [False] * (number - len(expected))
        assert (candidates.image_id[rows] == image).all()
        assert len(rows.unique()) == len(rows), "a row twice"
    assert (kept.weight == 1).all()


def test_quotas_of_rpn_and_fast_rcnn():
    plenty, few = [0] * 300 + [K] * 700, [1] * 40 + [K] * 700 + [-1] * 300
    for number, share, kept in ((256, 0.5, (128, 40)), (512, 0.25, (128, 40))):
        chosen = candidates_of([plenty, few])
        chosen = chosen.select(draw(chosen, number, share))
        for image, foreground in enumerate(kept):
            of_image = chosen.image_id == image
            assert chosen.foreground[of_image].sum() == foreground
            assert (chosen.label[of_image] == K).sum() == number - foreground


def test_background_never_gives_its_place_to_foreground():
    chosen = draw(candidates_of([[0] * 50 + [K] * 3]), 20, 0.5)
    assert chosen.valid.sum() == 13


def test_empty_slots_are_ignored_rows_of_the_selection():
    candidates = candidates_of([[0, K], [], [-1, -1, 1]])
    chosen = candidates.select(draw(candidates, 4, 0.5))
    assert chosen.label.tolist() == [0, K, -1, -1, -1, -1, -1, -1, 1, -1, -1, -1]


def test_an_equal_generator_draws_the_same_and_another_does_not():
    candidates = candidates_of([[0] * 30 + [K] * 200] * 3)
    first, again, other = (draw(candidates, 32, 0.5, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.index, again.index)
    assert not torch.equal(first.index, other.index)
    state = torch.get_rng_state()
    draw(candidates, 32, 0.5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_goes_on_from_draw_to_draw():
    candidates, generator = candidates_of([[0] * 30 + [K] * 200]), torch.Generator().manual_seed(1)
    assert not torch.equal(*(draw(candidates, 32, 0.5, generator).index for _ in range(2)))


def test_every_candidate_is_equally_likely():
    """Of 30 foreground rows 8 and of 50 background rows 12, whatever their place; within five deviations."""
    label = [0, K, K, 1, K, -1, K, 0, K] * 10  # 30 foreground, 50 background, 10 ignored
    candidates, draws = candidates_of([[K] * 7, label]), 3000
    generator, counts = torch.Generator().manual_seed(5), torch.zeros(97)
    together = torch.zeros(97)
    for _ in range(draws):
        rows = draw(candidates, 20, 0.4, generator).index[20:]
        counts[rows] += 1
        together[rows] += float((rows == 7).any())
    foreground, background = candidates.foreground, candidates.label == K
    background[:7] = False  # of the other image
    for kind, chance in ((foreground, 8 / 30), (background, 12 / 50)):
        deviation = (draws * chance * (1 - chance)) ** 0.5
        assert ((counts[kind] - draws * chance).abs() < 5 * deviation).all()
    assert counts[~(foreground | background)].sum() == 0
    # Row 7, the first of its kind, is drawn with each of the others equally often.
    others = foreground.clone()
    others[7] = False
    chance = 8 / 30 * 7 / 29
    assert ((together[others] - draws * chance).abs() < 5 * (draws * chance * (1 - chance)) ** 0.5).all()


@seeded
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40), st.integers(0, 1000))
def test_ranks_in_groups_are_positions_by_ascending_key(rows, seed):
    group = torch.tensor([g for g, _ in rows], dtype=torch.int64)
    member = torch.tensor([m for _, m in rows], dtype=torch.bool)
    keys = torch.rand(len(rows), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ranks, counts = ranks_in_groups(keys, group, member, 5)
    assert ranks.shape == group.shape
    for g in range(5):
        of_group = (member & (group == g)).nonzero()[:, 0].tolist()
        assert counts[g] == len(of_group)
        expected = sorted(of_group, key=lambda row: keys[row].item())
        assert sorted(of_group, key=lambda row: ranks[row].item()) == expected
        assert sorted(ranks[of_group].tolist()) == list(range(len(of_group)))


def test_ranks_tell_keys_apart_in_the_last_of_many_groups():
    """Group and key share one number: of 1,000 groups it still holds keys to about 1e-13."""
    keys = torch.tensor([0.5 + 3e-13, 0.5, 0.5 + 6e-13], dtype=torch.float64)
    ranks, _ = ranks_in_groups(keys, torch.full((3,), 999), torch.ones(3, dtype=torch.bool), 1000)
    assert ranks.tolist() == [1, 0, 2]


def test_slots_hold_the_rows_that_are_kept():
    keep, slot = torch.tensor([True, False, True, True, False]), torch.tensor([4, 0, 0, 2, 3])
    kept = fill_slots(keep, slot, 6)
    assert kept.valid.tolist() == [True, False, True, False, True, False]
    assert kept.index[kept.valid].tolist() == [2, 3, 0]
    assert kept.weight.tolist() == [1.0] * 6

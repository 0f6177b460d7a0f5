"""Intervals hold what is true as often as they say, and pairing takes out what two methods share."""

import numpy as np
import pytest
from coco_cases import random_case
from promises import refused

from imbdet.evaluation.intervals import Measured, draw, holm, measure
from imbdet.evaluation.matching import IOUS
from imbdet.evaluation.resampling import ClassMatches, match, resampled_ap

SKILLS = (1.0, 0.8)


def simulated(rng, images):
    """Two detectors of one class on the same images, which are as hard for both; all matches are at IoU .5 alone."""
    boxes = rng.poisson(2, images)
    box_image = np.repeat(np.arange(images), boxes)
    hardness = rng.normal(0, 1, images)[box_image]
    return [[detector(rng, boxes, box_image, skill - hardness)] for skill in SKILLS]


def detector(rng, boxes, box_image, ease):
    seen = ease + rng.normal(0, 1, len(ease))
    found = seen > 0
    stray = np.repeat(np.arange(len(boxes)), rng.poisson(2, len(boxes)))
    score = np.concatenate([seen[found] + rng.normal(0, 0.5, found.sum()), rng.normal(0, 1, len(stray))])
    order = np.argsort(-score)
    taken = np.zeros((len(IOUS), len(score)), bool)
    taken[0] = (np.arange(len(score)) < found.sum())[order]
    return ClassMatches(np.concatenate([box_image[found], stray])[order], taken, np.zeros_like(taken), boxes)


def difference(pair, resamples):
    first, second = (measure([run], resamples)["AP50"] for run in pair)
    return first - second


@pytest.fixture(scope="module")
def studies():
    """Differences as 400 studies of 150 images would measure them, and the true one, of 200,000 images."""
    many = simulated(np.random.default_rng(0), 200_000)
    once = np.ones((1, 200_000), np.int64)
    true = np.subtract(*(resampled_ap(run, once)[0, 0] for run in many))
    made = [
        difference(simulated(np.random.default_rng([1, k]), 150), draw(300, 150, seeds=1, seed=k)) for k in range(400)
    ]
    return true, made


@pytest.mark.promise("An interval of 95 % holds the true difference between 93 and 97 times of 100", "law")
def test_intervals_cover_the_true_difference(studies, record_property):
    true, made = studies
    covered = [low <= true <= high for low, high in (one.interval for one in made)]
    record_property("count", len(covered))
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_smallest_effect_is_found_four_times_of_five(studies):
    """With a true difference of that size; how often it is found is read off studies of their own."""
    true, made = studies
    effect = np.mean([one.smallest_effect for one in made])
    shifted = [Measured(one.value + effect - true, one.resampled + effect - true) for one in made]
    found = np.mean([one.interval[0] > 0 for one in shifted])
    assert 0.75 <= found <= 0.85


def test_without_a_difference_p_values_are_even(studies):
    true, made = studies
    p = np.array([Measured(one.value - true, one.resampled - true).p_value for one in made])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / len(p)))


def test_pairing_narrows_the_interval():
    pair = simulated(np.random.default_rng(5), 300)
    together, apart = draw(500, 300, 1, seed=1), draw(500, 300, 1, seed=2)
    paired = difference(pair, together)
    crossed = measure([pair[0]], together)["AP50"] - measure([pair[1]], apart)["AP50"]
    assert np.std(paired.resampled) < 0.8 * np.std(crossed.resampled)


def test_a_method_does_not_differ_from_itself():
    (run, _) = simulated(np.random.default_rng(6), 50)
    none = difference([run, run], draw(40, 50, 1, seed=3))
    assert none.value == 0
    assert none.interval == (0, 0)
    assert none.p_value == 1
    assert none.smallest_effect == 0


def test_values_are_those_of_all_images_and_the_mean_of_the_seeds():
    truth, first = random_case(1)
    runs = [match(truth, first), match(truth, first.select(np.arange(len(first)) % 2 == 0))]
    measured = measure(runs, draw(20, len(truth["images"]), 2, seed=4))
    alone = [measure([run], draw(20, len(truth["images"]), 1, seed=4)) for run in runs]
    for name, both in measured.items():
        assert both.value == pytest.approx(np.mean([one[name].value for one in alone]))


def test_seeds_are_drawn_with_replacement():
    """On one image nothing else varies: the mean of two runs is that of one of them, or of both."""
    boxes, image = np.array([2]), np.zeros(2, np.int64)
    hits = ([True, True], [True, False])
    runs = [[ClassMatches(image, np.tile(hit, (len(IOUS), 1)), np.zeros((len(IOUS), 2), bool), boxes)] for hit in hits]
    measured = measure(runs, draw(2000, 1, 2, seed=5))["AP"]
    high, low = 1, 51 / 101
    values, counts = np.unique(measured.resampled.round(9), return_counts=True)
    assert values.tolist() == pytest.approx([low, (low + high) / 2, high])
    assert (counts / 2000).tolist() == pytest.approx([0.25, 0.5, 0.25], abs=0.04)
    assert measured.value == pytest.approx((low + high) / 2)


def test_draws_are_a_function_of_the_seed_and_as_many_as_there_are():
    first, again, other = (draw(7, 12, 3, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.seeds, again.seeds)
    assert not np.array_equal(first.images, other.images)
    assert (first.images.sum(axis=1) == 12).all()
    assert (first.seeds.sum(axis=1) == 3).all()


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
    ],
)
def test_holm(p, expected):
    assert holm(p).tolist() == pytest.approx(expected)


BAD = "A comparison that cannot be made is refused"


@pytest.mark.promise(BAD, "bad input")
@pytest.mark.parametrize("sizes", [(0, 5, 1), (10, 0, 1), (10, 5, 0), (-1, 5, 1)])
def test_nothing_to_resample_is_refused(sizes):
    with refused(r"a bootstrap needs at least one of each: \w+ is (0|-1); 1,000 resamples are usual"):
        draw(*sizes, seed=1)


@pytest.mark.promise(BAD, "bad input")
def test_runs_that_are_not_one_for_each_seed_are_refused():
    pair = simulated(np.random.default_rng(8), 20)
    with refused("2 runs of a method, but 3 seeds; each seed needs one run"):
        measure(pair, draw(10, 20, 3, seed=1))


@pytest.mark.promise(BAD, "bad input")
def test_too_few_boxes_are_refused():
    pair = simulated(np.random.default_rng(9), 20)
    alone = np.zeros_like(pair[0][0].boxes)
    alone[3] = 1
    one = pair[0][0]
    with refused("a resample holds no box at all"):
        measure([[ClassMatches(one.image, one.taken, one.ignored, alone)]], draw(50, 20, 1, seed=1))

"""Intervals hold what is true as often as they say, and pairing takes out what two methods share."""

from dataclasses import replace

import numpy as np
import pytest
from coco_cases import random_case
from promises import refused

from imbdet.evaluation.holm import holm
from imbdet.evaluation.intervals import draw, measure
from imbdet.evaluation.matching import IOUS
from imbdet.evaluation.resampling import ClassMatches, match, resampled_ap

SKILLS = (1.0, 0.8)
OWN = 0.4  # spread over the images of what is hard for one method alone
NOISE = 0.3  # spread of the skill over the seeds


class Scene:
    """Images of one class, their boxes, how hard each box is for all, and how hard each image is for either method."""

    def __init__(self, rng, images):
        self.boxes = rng.poisson(2, images)
        self.box_image = np.repeat(np.arange(images), self.boxes)
        own = rng.normal(0, OWN, (len(SKILLS), images))
        self.ease = np.array(SKILLS)[:, None] - (rng.normal(0, 1, images) + own)[:, self.box_image]

    def run(self, rng, method, luck=0.0):
        """What a detector finds, its skill as the luck of its seed has it; all matches are at IoU .5 alone."""
        seen = self.ease[method] + luck + rng.normal(0, 1, len(self.box_image))
        found = seen > 0
        stray = np.repeat(np.arange(len(self.boxes)), rng.poisson(2, len(self.boxes)))
        score = np.concatenate([seen[found] + rng.normal(0, 0.5, found.sum()), rng.normal(0, 1, len(stray))])
        order = np.argsort(-score)
        taken = np.zeros((len(IOUS), len(score)), bool)
        taken[0] = (np.arange(len(score)) < found.sum())[order]
        image = np.concatenate([self.box_image[found], stray])[order]
        return [ClassMatches(image, taken, np.zeros_like(taken), self.boxes)]


def simulated(rng, images):
    """A run of each of two methods on the same images."""
    scene = Scene(rng, images)
    return [scene.run(rng, method) for method in (0, 1)]


def study(rng, images, seeds, resamples, over):
    """The difference that a study of several seeds measures, in whose runs luck has a part."""
    scene, drawn = Scene(rng, images), draw(resamples, images, seeds, over, seed=int(rng.integers(2**32)))
    runs = [[scene.run(rng, method, rng.normal(0, NOISE)) for _ in range(seeds)] for method in (0, 1)]
    first, second = (measure(own, drawn)["AP50"] for own in runs)
    return first - second


def true_difference(noise):
    """On 200,000 images; over the luck of the seeds by quadrature, as it is normal."""
    rng, once = np.random.default_rng(0), np.ones((1, 200_000), np.int64)
    scene = Scene(rng, 200_000)
    places, weights = np.polynomial.hermite_e.hermegauss(5)
    ap = [[resampled_ap(scene.run(rng, method, noise * x), once)[0, 0] for x in places] for method in (0, 1)]
    return np.subtract(*(np.array(ap) @ weights / weights.sum()))


def difference(pair, drawn):
    first, second = (measure([run], drawn)["AP50"] for run in pair)
    return first - second


@pytest.fixture(scope="module")
def studies():
    """Differences as 400 studies of 150 images would measure them, one seed each, and the true one."""
    rngs = [np.random.default_rng([1, k]) for k in range(400)]
    made = [difference(simulated(rng, 150), draw(300, 150, 1, "images", seed=k)) for k, rng in enumerate(rngs)]
    return true_difference(noise=0), made


@pytest.fixture(scope="module", params=[3, 5])
def studies_of_seeds(request):
    """The same of studies of several seeds, with 100 images each."""
    rngs = [np.random.default_rng([request.param, k]) for k in range(400)]
    return true_difference(NOISE), [study(rng, 100, request.param, 100, "seeds_and_images") for rng in rngs]


@pytest.mark.promise("An interval of 95 % holds the true difference between 93 and 97 times of 100", "law")
def test_intervals_cover_the_true_difference(studies, record_property):
    true, made = studies
    covered = [low <= true <= high for low, high in (one.interval for one in made)]
    record_property("count", len(covered))
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.promise("An interval over seeds and images holds the true difference as often, with 3 and 5 seeds", "law")
def test_intervals_over_seeds_cover_the_true_difference(studies_of_seeds, record_property):
    true, made = studies_of_seeds
    covered = [low <= true <= high for low, high in (one.interval for one in made)]
    record_property("count", len(covered))
    assert 0.93 <= np.mean(covered) <= 0.97


def test_intervals_of_an_ap_itself_cover_what_other_images_give(record_property):
    """Over many classes the rise of AP in resamples does not average out, though all else does: half a deviation here.

    About the mean of the resamples, which an interval must not be, too many would lie above.
    """
    low, high, resampled, values = [], [], [], []
    for k in range(400):
        rng = np.random.default_rng([2, k])
        classes = [Scene(rng, 100).run(rng, 0, luck=-1.5)[0] for _ in range(20)]
        one = measure([classes], draw(200, 100, 1, "images", seed=k))["AP50"]
        values.append(one.value)
        resampled.append(one.resampled.mean())
        low.append(one.interval[0])
        high.append(one.interval[1])
    expected = np.mean(values)
    covered = (np.array(low) <= expected) & (expected <= np.array(high))
    record_property("count", len(covered))
    assert np.mean(resampled) - expected > 0.4 * np.std(values)
    assert 0.93 <= covered.mean() <= 0.97
    assert np.mean(np.array(low) > expected) < 0.04
    assert np.mean(np.array(high) < expected) < 0.04


def test_intervals_from_drawing_seeds_with_replacement_would_be_too_narrow(studies_of_seeds):
    """The reason for Student's t. Without any account of seeds they are narrower still."""
    true, made = studies_of_seeds
    covered = {"drawn": [], "kept": []}
    for k, one in enumerate(made):
        seeds = len(one.by_seed)
        weights = np.random.default_rng(k).multinomial(seeds, np.full(seeds, 1 / seeds), one.resampled.shape[1]) / seeds
        drawn = {"drawn": np.einsum("rs,sr->r", weights, one.resampled), "kept": one.resampled.mean(axis=0)}
        for name, values in drawn.items():
            low, high = np.quantile(values, [0.025, 0.975])
            covered[name].append(low <= true <= high)
    assert np.mean(covered["kept"]) < np.mean(covered["drawn"]) < 0.93


def shifted(one, by):
    return replace(one, by_seed=one.by_seed + by, resampled=one.resampled + by)


def share_found(true, made):
    """Of studies whose true difference is the smallest effect that they name on average."""
    effect = np.mean([one.smallest_effect for one in made])
    return np.mean([shifted(one, effect - true).interval[0] > 0 for one in made])


def test_the_smallest_effect_is_found_four_times_of_five(studies):
    assert 0.75 <= share_found(*studies) <= 0.85


def test_the_smallest_effect_is_found_four_times_of_five_over_seeds(studies_of_seeds):
    assert 0.75 <= share_found(*studies_of_seeds) <= 0.85


def test_without_a_difference_p_values_are_even(studies):
    true, made = studies
    p = np.array([shifted(one, -true).p_value for one in made])
    for level in (0.05, 0.2, 0.5):
        assert np.mean(p <= level) == pytest.approx(level, abs=3 * np.sqrt(level * (1 - level) / len(p)))


def test_a_p_value_below_a_level_is_an_interval_without_zero(studies_of_seeds):
    """But for the asymmetry of a percentile interval."""
    _, made = studies_of_seeds
    by_p = [one.p_value < 0.05 for one in made]
    by_interval = [not one.interval[0] <= 0 <= one.interval[1] for one in made]
    assert np.mean(np.equal(by_p, by_interval)) > 0.97


def test_pairing_narrows_the_interval():
    pair = simulated(np.random.default_rng(5), 300)
    together, apart = draw(500, 300, 1, "images", seed=1), draw(500, 300, 1, "images", seed=2)
    paired = difference(pair, together)
    crossed = measure([pair[0]], together)["AP50"] - measure([pair[1]], apart)["AP50"]
    assert np.std(paired.strays) < 0.8 * np.std(crossed.strays)


def test_a_method_does_not_differ_from_itself():
    (run, _) = simulated(np.random.default_rng(6), 50)
    none = difference([run, run], draw(40, 50, 1, "images", seed=3))
    assert none.value == 0
    assert none.interval == (0, 0)
    assert none.p_value == 1
    assert none.smallest_effect == 0


def test_two_methods_that_agree_in_every_run_do_not_differ_over_seeds_either():
    scene, rng = Scene(np.random.default_rng(6), 50), np.random.default_rng(7)
    runs = [scene.run(rng, 0) for _ in range(3)]
    drawn = draw(40, 50, 3, "seeds_and_images", seed=3)
    none = measure(runs, drawn)["AP50"] - measure(runs, drawn)["AP50"]
    assert (none.value, none.interval, none.p_value, none.smallest_effect) == (0, (0, 0), 1, 0)


@pytest.mark.parametrize("over", ["images", "seeds_and_images"])
def test_values_are_those_of_all_images_by_seed_and_their_mean(over):
    truth, first = random_case(1)
    runs = [match(truth, first), match(truth, first.select(np.arange(len(first)) % 2 == 0))]
    measured = measure(runs, draw(20, len(truth["images"]), 2, over, seed=4))
    alone = [measure([run], draw(20, len(truth["images"]), 1, "images", seed=4)) for run in runs]
    for name, both in measured.items():
        assert both.by_seed.tolist() == pytest.approx([one[name].value for one in alone])
        assert both.value == pytest.approx(np.mean(both.by_seed))
        np.testing.assert_allclose(both.resampled, [one[name].resampled[0] for one in alone])


def test_where_seeds_alone_matter_the_interval_is_students():
    """On one image nothing else varies: three runs take both of its boxes, one of them, or none."""
    boxes, image = np.array([2]), np.zeros(2, np.int64)
    hits = ([True, True], [True, False], [False, False])
    runs = [[ClassMatches(image, np.tile(hit, (len(IOUS), 1)), np.zeros((len(IOUS), 2), bool), boxes)] for hit in hits]
    measured = measure(runs, draw(1000, 1, 3, "seeds_and_images", seed=5))["AP"]
    each = np.array([1, 51 / 101, 0])
    assert measured.by_seed.tolist() == pytest.approx(each)
    half = 4.302653 * np.std(each, ddof=1) / np.sqrt(3)  # Student's t with 2 degrees of freedom, from a table
    assert measured.interval == pytest.approx((each.mean() - half, each.mean() + half), rel=0.05)
    assert measured.smallest_effect == pytest.approx(half * 2.801585 / 1.959964, rel=0.05)


def test_over_images_the_seeds_stay_as_they_are():
    boxes, image = np.array([2]), np.zeros(2, np.int64)
    hits = ([True, True], [True, False])
    runs = [[ClassMatches(image, np.tile(hit, (len(IOUS), 1)), np.zeros((len(IOUS), 2), bool), boxes)] for hit in hits]
    measured = measure(runs, draw(30, 1, 2, "images", seed=5))["AP"]
    assert measured.interval == pytest.approx((measured.value, measured.value))


def test_draws_are_a_function_of_the_seed_and_as_many_as_there_are():
    first, again, other = (draw(7, 12, 3, "seeds_and_images", seed) for seed in (1, 1, 2))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.seed_errors, again.seed_errors)
    assert not np.array_equal(first.images, other.images)
    assert (first.images.sum(axis=1) == 12).all()
    assert np.array_equal(draw(7, 12, 3, "images", 1).images, first.images)


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
        draw(*sizes, "images", seed=1)


@pytest.mark.promise(BAD, "bad input")
def test_one_seed_is_no_sample_of_seeds():
    with refused("one seed says nothing of other seeds; give at least two, better five, or resample over images alone"):
        draw(10, 20, 1, "seeds_and_images", seed=1)


@pytest.mark.promise(BAD, "bad input")
def test_runs_that_are_not_one_for_each_seed_are_refused():
    pair = simulated(np.random.default_rng(8), 20)
    with refused("2 runs of a method, but 3 seeds; each seed needs one run"):
        measure(pair, draw(10, 20, 3, "images", seed=1))


@pytest.mark.promise(BAD, "bad input")
def test_too_few_boxes_are_refused():
    pair = simulated(np.random.default_rng(9), 20)
    alone = np.zeros_like(pair[0][0].boxes)
    alone[3] = 1
    one = pair[0][0]
    with refused("a resample holds no box at all"):
        measure([[ClassMatches(one.image, one.taken, one.ignored, alone)]], draw(50, 20, 1, "images", seed=1))

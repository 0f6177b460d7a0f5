"""Samples of a detector's logits: which they are, how many, and the same each time."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from small_study import CATEGORIES, EXPERIMENT, place, small_study, with_random_weights
from studies import ADDED

from imbdet.data.loader import EvaluationBatches
from imbdet.errors import UserError
from imbdet.evaluation import loss_samples

__all__ = ["place"]
K = len(CATEGORIES)


def slow_margins(model, batches):
    """x_t of every term that the loss sums, one row and one class at a time, by kind of row."""
    positive, negative = [], []
    for batch in batches:
        with torch.no_grad():
            samples = model.samples(batch)["dense"]
        for label, logits in zip(samples.label.tolist(), samples.logits.tolist(), strict=True):
            if label == K:
                negative += [-x for x in logits]
            elif label >= 0:
                positive.append(logits[label])
    return np.float32(positive), np.float32(negative)


def run(place, **wanted):
    study, layout = small_study(place, loss_samples=wanted)
    model = with_random_weights(study, layout)
    loss_samples.run(study, layout, EXPERIMENT)
    with np.load(layout.logits(EXPERIMENT)) as file:
        return layout, slow_margins(model, EvaluationBatches(study, layout, EXPERIMENT, "val")), dict(file)


def test_all_foreground_is_kept_and_of_the_background_what_was_asked_for(place):
    layout, (positive, negative), written = run(place, foreground=5, background=3000)
    assert len(positive) >= 5
    np.testing.assert_array_equal(np.sort(written["foreground"]), np.sort(positive))
    assert len(negative) > 2 * 3000
    assert len(written["background"]) == 3000  # two batches with an equal share
    assert set(written["background"].tolist()) <= set(negative.tolist())
    assert written["foreground"].dtype == written["background"].dtype == np.float32
    table = pd.read_csv(layout.cumulative_loss(EXPERIMENT))
    assert set(table.loc[table.set == "foreground", "samples"]) == {len(positive)}
    assert set(table.loc[table.set == "background", "samples"]) == {3000}


def test_all_of_the_background_where_as_much_was_asked_for(place):
    """The last batch is smaller than the others, and its share with it."""
    _, (_, negative), _ = run(place, foreground=1, background=1)
    _, _, written = run(place, foreground=1, background=len(negative))
    np.testing.assert_array_equal(np.sort(written["background"]), np.sort(negative))


def test_every_sample_of_the_background_is_equally_likely(place):
    """Of each batch and of low, middle and high logits the sample holds their share, within five deviations."""
    _, (_, negative), written = run(place, foreground=1, background=4000)
    sample = written["background"]
    assert not Counter(sample.tolist()) - Counter(negative.tolist())  # drawn without replacement
    for share in (0.1, 0.5, 0.9):
        bound = np.quantile(negative, share)
        expected = np.mean(negative < bound)
        assert abs(np.mean(sample < bound) - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)
    first, last = np.split(negative, [len(negative) * 3 // 4])
    counts = [np.isin(sample, np.setdiff1d(*pair)).sum() for pair in ((first, last), (last, first))]
    only = [np.isin(negative, np.setdiff1d(*pair)).sum() for pair in ((first, last), (last, first))]
    assert min(only) > 1000
    assert abs(counts[0] / sum(counts) - only[0] / sum(only)) < 5 * np.sqrt(0.25 / sum(counts))


@pytest.mark.parametrize("name", ["foreground", "background"])
def test_too_few_samples_are_refused_with_both_numbers(place, name):
    wanted = {"foreground": 1, "background": 1000} | {name: 10**6}
    with pytest.raises(UserError, match=rf"ce: the val split gives \d+ {name} samples, loss_samples.{name} asks for"):
        run(place, **wanted)
    _, layout = small_study(place, loss_samples=wanted)
    assert not layout.logits(EXPERIMENT).exists()
    assert not layout.cumulative_loss(EXPERIMENT).exists()


def test_a_detector_of_two_stages_is_refused(place):
    study, layout = small_study(place, **ADDED)
    with pytest.raises(UserError, match=r"^report.cumulative_loss names two-stage, whose detector has two stages; "):
        loss_samples.run(study, layout, "two-stage")


def test_run_twice_gives_the_same_bytes(place):
    written = []
    for _ in range(2):
        layout, _, _ = run(place, foreground=1, background=1000)
        written.append((layout.logits(EXPERIMENT).read_bytes(), layout.cumulative_loss(EXPERIMENT).read_bytes()))
    assert written[0] == written[1]

"""docs/imbalance.md: made from the data of the sweep's figure, and its sentences hold of the committed records."""

import json

import pandas as pd
import pytest
from pages import ROOT, read

from imbdet.figures import sweep
from imbdet.layout import Layout
from imbdet.study_file import load_study

STUDY = load_study(ROOT / "config" / "imbalance-sweep.yaml")


@pytest.fixture(scope="module")
def data():
    return pd.read_csv(ROOT / Layout.of(STUDY).figures / "sweep.csv")


def test_generated_part_is_that_of_the_committed_figure(build):
    text = read("imbalance.md")
    assert text == build.sweep_page(text, ROOT), "run `python docs/build.py` and commit docs/imbalance.md"
    assert "These are not COCO results." in text


def test_the_answer_counts_each_comparison_once(data):
    """The data that all axes share are the same in each."""
    found = {
        (name, row["experiment"], row["baseline"]): row["p_holm"] < 0.05
        for name, condition in STUDY.conditions.items()
        for row in json.loads((ROOT / Layout.of(condition).intervals).read_text())["differences"]
        if row["metric"] == "AP"
    }
    answer = sweep.answer(data)
    assert answer.startswith(f"{sum(found.values())} of {len(found)} comparisons ")
    for _, row in data[data["p_holm"] < 0.05].iterrows():
        assert f"{row['label']} − {row['baseline_label']} with " in answer


def test_the_answer_names_the_gains_that_change(data):
    changes = sweep.changes(data)
    moved = changes[changes["low"] * changes["high"] > 0]
    answer = sweep.answer(data)
    assert f"Of {len(changes)} changes of a gain along its property, {len(moved)} " in answer
    for _, row in moved.iterrows():
        assert f"{row['label']} − {row['baseline_label']} " in answer
        assert f"{abs(row['change']):.1f} points from {row['first']:g} to {row['last']:g}" in answer


def _mean(condition, experiment):
    """Metrics of a method, percent, the mean over the seeds."""
    layout = Layout.of(STUDY.conditions[condition])
    paths = [ROOT / layout.at_seed(seed).evaluation(experiment) for seed in STUDY.seeds]
    runs = [json.loads(path.read_text()) for path in paths]
    return {key: 100 * sum(run[key] for run in runs) / len(runs) for key in ("AP", "AP50", "AR_100")}


def test_sentences_hold_of_the_committed_records(data):
    widths = data["high"] - data["low"]
    assert STUDY.seeds == (1, 2, 3)
    assert (widths > 10).mean() > 0.5, "most intervals are wider than ten points"
    told = data[data["p_holm"] < 0.05]
    assert told[["experiment", "base"]].drop_duplicates().to_numpy().tolist() == [["noisy-anchors", True]], "clean data"
    changes = sweep.changes(data).set_index(["axis", "label"])
    assert changes.loc[("distractors", "OHEM"), "high"] < 0, "falls with distractors"
    fallen = changes[changes["high"] < 0].index.to_list()
    assert [label for axis, label in fallen if axis == "noise"] == ["Noisy Anchors", "PISA"]
    noisiest = data[(data["axis"] == "noise") & (data["x"] == 0.4)]
    assert noisiest["gain"].abs().max() < 1, "about the same AP"
    noise = STUDY.sweep["noise"].experiments
    clean, noisy = ({name: _mean(condition, name) for name in noise} for condition in ("base", "noise-0.4"))
    for name in noise:
        assert noisy[name]["AP"] == pytest.approx(10, abs=1)
        assert noisy[name]["AP50"] == pytest.approx(100 / STUDY.data.classes, abs=3), "one class of six is guessed"
        assert noisy[name]["AR_100"] > clean[name]["AR_100"] - 5, "the boxes are found"
    even = data[(data["experiment"] == "faster-eql") & (data["x"] == 0)]
    assert even[["gain", "low", "high"]].to_numpy().tolist() == [[0, 0, 0]]

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
    assert sweep.answer(data).startswith(f"{sum(found.values())} of {len(found)} comparisons are more than chance")


def test_the_answer_names_the_gains_that_change(data):
    changes = sweep.changes(data)
    moved = changes[changes["low"] * changes["high"] > 0]
    answer = sweep.answer(data)
    assert f"{len(moved)} of {len(changes)} gains change" in answer
    for _, row in moved.iterrows():
        assert f"{row['label']} − {row['baseline_label']} " in answer
        assert f"{abs(row['change']):.1f} points from {row['first']:g} to {row['last']:g}" in answer


def test_sentences_hold_of_the_committed_records(data):
    widths = data["high"] - data["low"]
    assert STUDY.seeds == (1, 2, 3)
    assert (widths > 10).mean() > 0.5, "most intervals are wider than ten points"
    anchors = data[data["experiment"] == "noisy-anchors"].set_index("x")["gain"]
    assert anchors[0] == data["gain"].max() or anchors[0.2] == data["gain"].max(), "gains most"
    assert anchors[0] == pytest.approx(anchors[0.2], abs=2), "as much on clean data"
    changes = sweep.changes(data).set_index(["axis", "label"])
    assert changes.loc[("distractors", "OHEM"), "high"] < 0, "worse with hard negatives"
    noisiest = data[(data["axis"] == "noise") & (data["x"] == 0.4)]
    assert noisiest["gain"].abs().max() < 1, "about the same AP"
    base = data[(data["axis"] == "noise") & (data["x"] == 0)]
    assert (noisiest["baseline_AP"].to_numpy() < base["baseline_AP"].to_numpy() / 3).all(), "low"
    even = data[(data["experiment"] == "faster-eql") & (data["x"] == 0)]
    assert even[["gain", "low", "high"]].to_numpy().tolist() == [[0, 0, 0]]

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


def test_sentences_hold_of_the_committed_records(data):
    assert STUDY.seeds == (1, 2, 3)
    assert (data["high"] - data["low"]).median() == pytest.approx(10, abs=0.5), "the median interval"
    told = data[data["p_holm"] < 0.05]
    places = told[["experiment", "base", "x"]].drop_duplicates(["experiment", "base"]).set_index("experiment")
    assert places["base"].to_dict() == {"ohem": True, "pisa": False, "noisy-anchors": True}, "focal loss is not told"
    assert places["x"]["pisa"] == data.loc[data["axis"] == "tail", "x"].max(), "where the tail is longest"
    gains = data.set_index(["axis", "experiment", "x"])["gain"].sort_index()
    assert gains["distractors", "ohem", 0] < 0
    assert gains["noise", "noisy-anchors"].is_monotonic_increasing, "larger still"
    baseline = data[data["baseline"] == "ce"]
    spread = (baseline["baseline_high"] - baseline["baseline_low"]).groupby([baseline["axis"], baseline["x"]]).first()
    assert spread.idxmax() == ("noise", 0.2), "runs of cross entropy differ most"
    changes = sweep.changes(data).set_index(["axis", "label"])
    assert changes.index[changes["low"] * changes["high"] > 0].to_list() == [("distractors", "OHEM")]
    assert len(changes) == 14
    level = data[(data["axis"] == "distractors") & (data["experiment"] == "ohem") & (data["x"] == 4)].iloc[0]
    assert level["low"] < 0 < level["high"]
    eql = data[data["experiment"] == "faster-eql"].set_index("x")[["gain", "low", "high"]]
    assert eql.loc[[0, 2]].to_numpy().tolist() == [[0, 0, 0], [0, 0, 0]]
    assert eql.loc[3, "low"] < 0 < eql.loc[3, "high"]


def test_every_run_of_the_sweep_is_short():
    """Below 45 s, on the hardware that the records name."""
    paths = [
        ROOT / Layout.of(condition).at_seed(seed).training(name)
        for condition in STUDY.conditions.values()
        for name in condition.experiments
        for seed in STUDY.seeds
    ]
    assert len(paths) == 138
    assert [path for path in paths if json.loads(path.read_text())["measured"]["seconds"] >= 45] == []

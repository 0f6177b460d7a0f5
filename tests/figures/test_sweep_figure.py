"""The sweep over properties of the data: conditions that differ in one thing, and the figure of their differences."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from promises import refused

from imbdet import figures
from imbdet.config import BASE
from imbdet.data.shapes import annotate
from imbdet.figures import sweep
from imbdet.layout import Layout
from imbdet.study_file import load_study

CONFIG = Path(__file__).parents[2] / "config" / "imbalance-sweep.yaml"


@pytest.fixture(scope="module")
def study():
    return load_study(CONFIG)


def compared(condition, rng):
    """Made-up intervals of a condition, in the format of real ones."""
    about = {name: {"label": e.label, "detector": e.detector} for name, e in condition.experiments.items()}
    metrics = ("AP", "AP50")
    experiments = {name: {**entry, **{m: interval(rng, 0.3) for m in metrics}} for name, entry in about.items()}
    differences = [
        {
            **{"experiment": name, **entry, "baseline": baseline, "metric": metric},
            **interval(rng, 0.0),
            "p_holm": rng.uniform(0, 0.1),
        }
        for baseline in condition.intervals.baselines
        for name, entry in about.items()
        if name != baseline and entry["detector"] == about[baseline]["detector"]
        for metric in metrics
    ]
    size = {"images": 300, "seeds": list(condition.seeds), "resamples": 1000, "over": "seeds_and_images"}
    return {"study": condition.name, **size, "experiments": experiments, "differences": differences}


def interval(rng, centre):
    low, value, high = np.sort(centre + rng.normal(0, 0.02, 3)).tolist()
    return {"value": value, "low": low, "high": high}


@pytest.fixture
def project(study, tmp_path, monkeypatch):
    """The current folder, with made-up intervals of every condition, which are returned."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    found = {name: compared(condition, rng) for name, condition in study.conditions.items()}
    for name, record in found.items():
        path = Layout.of(study.conditions[name]).intervals
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
    return found


def test_conditions_differ_from_the_base_in_the_named_keys_alone(study):
    base = study.conditions[BASE]
    values = base.data.model_dump(mode="json")
    for name, axis in study.sweep.items():
        for x, changes in axis.points.items():
            if changes:
                condition = study.conditions[f"{name}-{x:g}"]
                own = condition.data.model_dump(mode="json")
                assert {key for key in own if own[key] != values[key]} == {*changes, "folder"}
                assert own | changes == own
                for part in ("seeds", "train", "evaluate"):
                    assert getattr(condition, part) == getattr(base, part)
                for key, experiment in condition.experiments.items():
                    assert experiment == base.experiments[key]
                    assert condition.detector(key) == base.detector(key)


def test_every_axis_changes_keys_of_its_own_and_starts_from_the_base(study):
    changed = [{key for changes in axis.points.values() for key in changes} for axis in study.sweep.values()]
    assert sum(map(len, changed)) == len(set.union(*changed))
    for axis in study.sweep.values():
        assert sum(not changes for changes in axis.points.values()) == 1


def test_what_is_evaluated_on_has_no_noise(study):
    clean = study.conditions[BASE].data.model_copy(update={"train_images": 40, "val_images": 40})
    for changes in study.sweep["noise"].points.values():
        noisy = clean.model_copy(update=changes)
        assert annotate(noisy, "val") == annotate(clean, "val")
        assert (annotate(noisy, "train") == annotate(clean, "train")) == (not changes)


def test_methods_and_their_baseline_differ_in_the_method_alone(study):
    """Equal initial bias, normaliser and box loss; those that can be put on any loss are on the baseline's."""
    baselines = {study.experiments[name].detector: study.experiments[name] for name in study.intervals.baselines}
    for experiment in study.experiments.values():
        baseline = baselines[experiment.detector]
        for key in ("prior_prob", "normalizer", "box_beta"):
            assert experiment.method[key] == baseline.method[key]
        assert list(experiment.methods.values())[:-1] == list(baseline.methods.values())[:-1]
        if experiment.method["name"] in ("noisy_anchors", "sample_weighting", "pisa"):
            assert (experiment.method["alpha"], experiment.method["gamma"]) == (baseline.method["alpha"], 0.0)
        assert experiment.method.get("score_threshold") is None


def test_gains_are_the_differences_of_the_records(study, project):
    data = sweep.data(study, Layout.of(study))
    wanted = 0
    for name, axis in study.sweep.items():
        for x, changes in axis.points.items():
            record = project[f"{name}-{x:g}" if changes else BASE]
            for entry in record["differences"]:
                if entry["metric"] != "AP" or entry["experiment"] not in axis.experiments:
                    continue
                row = data[(data["axis"] == name) & (data["x"] == x) & (data["experiment"] == entry["experiment"])]
                assert len(row) == 1
                own = record["experiments"][entry["baseline"]]["AP"]
                expected = [100 * one[key] for one in (entry, own) for key in ("value", "low", "high")]
                columns = ["gain", "low", "high", "baseline_AP", "baseline_low", "baseline_high"]
                np.testing.assert_allclose(row[columns].to_numpy()[0], expected, rtol=0, atol=1e-8)
                assert row["base"].item() == (not changes)
                wanted += 1
    assert len(data) == wanted > 40


def test_the_base_stands_once_in_each_axis_with_the_same_numbers(study, project):
    data = sweep.data(study, Layout.of(study))
    shared = data[data["base"]]
    assert set(shared["axis"]) == set(study.sweep)
    assert shared.groupby("axis")["x"].nunique().eq(1).all()
    assert shared.groupby("experiment")[["gain", "low", "high"]].nunique().eq(1).all(axis=None)


def test_a_point_is_full_where_it_is_more_than_chance(study, project):
    data = sweep.data(study, Layout.of(study))
    uppers = [axes for axes in sweep.draw(data).axes if axes.get_ylabel().startswith("gain")]
    drawn = 0
    for axes, (_, rows) in zip(uppers, data.groupby("axis", sort=False), strict=True):
        full = [line for line in axes.lines if line.get_linestyle() == "None"]
        found = {point for line in full for point in zip(*line.get_data(), strict=True)}
        told = rows[rows["p_holm"] < 0.05]
        assert found == set(zip(told["x"], told["gain"], strict=True))
        drawn += len(told)
    assert 0 < drawn < len(data)


def test_the_change_of_a_gain_has_the_interval_of_a_difference(study, project):
    """Of symmetric intervals half of it is the square root of the sum of squares."""
    data = sweep.data(study, Layout.of(study))
    half = data["high"] - data["gain"]
    data["low"] = data["gain"] - half
    found = sweep.changes(data).set_index(["axis", "label"])
    assert len(found) == sum(len(axis.experiments) for axis in study.sweep.values()) - 5, "of five baselines"
    for key, line in data.groupby(["axis", "label"]):
        ends = line.sort_values("x").iloc[[0, -1]]
        change = np.subtract(*ends["gain"].iloc[::-1])
        width = np.hypot(*(ends["high"] - ends["gain"]))
        row = found.loc[key]
        assert row[["change", "low", "high"]].to_list() == pytest.approx([change, change - width, change + width])
        assert row[["first", "last"]].to_list() == ends["x"].to_list()


def test_a_change_is_greatest_with_the_last_gain_at_its_highest_and_the_first_at_its_lowest(study, project):
    data = sweep.data(study, Layout.of(study))
    data["low"] = data["high"] = data["gain"]
    greatest = data.groupby("axis")["x"].transform("max")
    data.loc[data["x"] == greatest, "high"] += 3
    data.loc[data["x"] == data.groupby("axis")["x"].transform("min"), "low"] -= 4
    found = sweep.changes(data)
    assert found["low"].equals(found["change"])
    assert (found["high"] - found["change"]).to_list() == pytest.approx([5] * len(found))


def test_a_method_has_one_colour_and_one_entry_in_the_legend(study, project):
    data = sweep.data(study, Layout.of(study))
    figure = sweep.draw(data)
    colours = {}
    for axes in figure.axes:
        for line, label in zip(*axes.get_legend_handles_labels(), strict=True):
            colours.setdefault(label, set()).add(line.get_color())
    methods = [label for label in colours if "−" in label]
    assert len(methods) == data["experiment"].nunique()
    assert all(len(colours[label]) == 1 for label in colours)
    assert len(set.union(*(colours[label] for label in methods))) == len(methods)
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert sorted(entry.get_text() for entry in legend.get_texts()) == sorted(colours)


def test_files_of_a_sweep_are_those_of_this_figure_alone(study, project):
    layout = Layout.of(study)
    assert figures.names(study) == ["sweep"]
    figures.run(study, layout, "sweep")
    assert set(layout.figures.iterdir()) == set(figures.outputs(layout, "sweep"))
    assert figures.check(study, layout) == []
    words = (layout.figures / "sweep.rst").read_text()
    for part in ("A pilot", "300 validation images", f"the mean of {len(study.seeds)} seeds", study.description):
        assert part in words
    table = pd.read_csv(layout.figures / "sweep.md", sep="|", skiprows=[1], nrows=len(study.conditions) + 3)
    assert len(table) == sum(len(axis.points) for axis in study.sweep.values())


@pytest.mark.promise("A figure names the records that it lacks, and the command that makes each", "bad input")
def test_a_condition_without_intervals_is_named_with_its_command(study, project):
    lacking = list(study.conditions)[-1]
    Layout.of(study.conditions[lacking]).intervals.unlink()
    with refused(r"intervals\.json: python -m imbdet intervals .* --condition ") as error:
        figures.run(study, Layout.of(study), "sweep")
    record = f"results/imbalance-sweep/{lacking}/intervals.json"
    command = f"python -m imbdet intervals config/imbalance-sweep.yaml --condition {lacking}"
    assert f"{record}: {command}" in str(error.value)
    assert str(error.value).count("python -m imbdet") == 1

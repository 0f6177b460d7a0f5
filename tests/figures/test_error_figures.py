"""The figures of errors and scores: what they show is in the records, and readable with many methods."""

import json
from itertools import pairwise

import fabricate
import numpy as np
import pytest

from imbdet import figures
from imbdet.evaluation import errors
from imbdet.figures import error_types, figure, records, score_separation, style
from imbdet.layout import Layout

SEEDS = (7, 8, 9)


def shown(drawn, layout, name):
    return records.parse_csv((drawn / layout.figures / f"{name}.csv").read_text(), name)


def caption(drawn, layout, name):
    return (drawn / layout.figures / f"{name}.rst").read_text().replace("\\", "")


@pytest.fixture
def several(project, study):
    """The study with three seeds, whose records are beside those of the first, and its layout."""
    made = fabricate.study(seeds=list(SEEDS))
    layout = Layout.of(made)
    for index, (name, experiment) in enumerate(made.experiments.items()):
        for seed in SEEDS:
            about = {"label": experiment.label, "detector": experiment.detector}
            path = layout.at_seed(seed).errors(name)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({**about, **fabricate.errors(index, seed)}))
    return made, layout


def test_names_are_those_of_the_analysis():
    assert tuple(error_types.ERRORS) == errors.ERRORS
    record = fabricate.errors(0, 0)
    assert list(record["special"]) == list(error_types.SPECIAL)
    assert len(record["scores"]["levels"]) == len(score_separation.LEVELS)


def test_every_method_is_shown_those_of_a_detector_together(drawn, study, layout):
    for name in ("error_types", "score_separation"):
        data = shown(drawn, layout, name)
        order = list(data["experiment"].unique())
        assert sorted(order) == sorted(study.report.methods)
        detectors = [study.experiment(experiment).detector for experiment in order]
        assert detectors == sorted(detectors, key=list(study.detectors).index)


def test_without_a_list_of_methods_every_experiment_is_shown():
    report = {key: value for key, value in fabricate.raw_study()["report"].items() if key != "methods"}
    made = fabricate.study(report=report)
    assert sorted(error_types.experiments(made)) == sorted(made.experiments)


def test_points_are_those_of_the_records(drawn, layout):
    for _, row in shown(drawn, layout, "error_types").iterrows():
        record = json.loads((drawn / layout.errors(row["experiment"])).read_text())
        assert row["lost"] == pytest.approx(100 * {**record["cost"], **record["special"]}[row["error"]])
        assert row["AP50"] == pytest.approx(100 * record["AP50"])


def test_the_baseline_is_cross_entropy_unless_the_study_names_another(drawn, layout):
    data = shown(drawn, layout, "error_types")
    assert data.groupby("detector")["baseline"].unique().map(list).to_dict() == {
        "retinanet": ["ce"],
        "faster_rcnn": ["two-cross_entropy"],
    }
    intervals = {"resamples": 40, "over": "images", "baselines": ["focal-g0.5", "focal-g2", "ce", "two-focal"]}
    made = fabricate.study(intervals=intervals)
    assert error_types._baseline(made, "pisa") == "focal-g2", "the first one is no method of the report"
    assert error_types._baseline(made, "two-pisa") == "two-focal"


def test_a_detector_without_cross_entropy_has_its_first_method_as_baseline():
    raw = fabricate.raw_study()
    made = fabricate.study(report={**raw["report"], "methods": ["pisa", "focal-g2", "two-focal"]})
    assert [error_types._baseline(made, name) for name in ("focal-g2", "two-focal")] == ["pisa", "two-focal"]


@pytest.mark.parametrize("number", [1, 3])
def test_bars_end_at_the_means_and_seeds_are_dots(several, number):
    study, _ = several
    study = fabricate.study(seeds=list(SEEDS[:number]))
    data = error_types.data(study, Layout.of(study))
    means = error_types.means(data)
    assert means.loc["pisa", "missed"] == pytest.approx(
        np.mean([row["lost"] for _, row in data.iterrows() if (row["experiment"], row["error"]) == ("pisa", "missed")])
    )
    places, _ = error_types.rows_of(data)
    panels = dict(zip(error_types.ERRORS, error_types.draw(data).axes, strict=False))
    for error, axes in panels.items():
        for name, place in places.items():
            parts = [bar for bar in axes.patches if bar.get_y() < place < bar.get_y() + bar.get_height()]
            grey, change = sorted(parts, key=lambda bar: bar.get_x())
            lost, base = means.loc[name, error], means.loc[error_types._baseline(study, name), error]
            assert grey.get_width() == pytest.approx(min(lost, base))
            assert change.get_x() == pytest.approx(min(lost, base))
            assert change.get_width() == pytest.approx(abs(lost - base))
        dots = [len(points.get_offsets()) for points in axes.collections]
        assert dots == ([number * len(places)] if number > 1 else [])


def test_the_caption_says_how_many_runs_and_the_ends_of_the_differences(several, drawn, layout):
    assert "One run each" in caption(drawn, layout, "error_types")
    study, layout = several
    data = error_types.data(study, layout)
    words = error_types.caption(study, data)
    assert "Means over the seeds (a dot for each)" in words
    assert "seeds 7, 8, 9." in words
    assert "One run" not in words
    means = error_types.means(data)[list(error_types.ERRORS)]
    for detector in study.detectors:
        own = [name for name in means.index if study.experiment(name).detector == detector]
        baseline = error_types._baseline(study, own[0])
        change = (means.loc[own] - means.loc[baseline]).drop(index=baseline)
        for value in (change.min().min(), change.max().max()):
            (name, error), *_ = [at for at, here in change.stack().items() if here == value]
            label = study.experiment(name).label
            assert f"{error_types.signed(value)} ({error}, {label})" in words


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    assert [error_types.signed(value) for value in (-0.04, 0.0, 0.049, -0.06, 1.25)] == ["0.0"] * 3 + ["−0.1", "+1.2"]


def test_the_table_has_means_over_the_seeds(several):
    study, layout = several
    data = error_types.data(study, layout)
    columns = {(column.group, column.heading): column.cells for column in error_types.table(data)}
    row = columns["", "experiment"].index(study.experiment("pisa").label)
    found = [json.loads(layout.at_seed(seed).errors("pisa").read_text()) for seed in SEEDS]
    assert columns["", "AP50"][row] == f"{100 * np.mean([record['AP50'] for record in found]):.1f}"
    lost = np.mean([record["cost"]["class"] for record in found])
    assert columns["points of AP50 lost to", "class"][row] == f"{100 * lost:.1f}"
    false = np.mean([record["special"]["false_positive"] for record in found])
    assert columns["lost to all of", "false positives"][row] == f"{100 * false:.1f}"


def test_missing_records_of_any_seed_are_named_with_their_command(several):
    study, layout = several
    layout.at_seed(8).errors("pisa").unlink()
    with pytest.raises(figures.UserError, match=r"errors\.json: python -m imbdet errors .* pisa --seed 8"):
        figures.run(study, layout, "error_types")


def test_scores_are_those_of_the_records(drawn, layout):
    data = shown(drawn, layout, "score_separation")
    for _, row in data.iterrows():
        scores = json.loads((drawn / layout.errors(row["experiment"])).read_text())["scores"]
        assert row[list(score_separation.LEVELS)].tolist() == pytest.approx(scores[row["set"]]["quantiles"])
        assert row["separation"] == pytest.approx(scores["separation"])
        assert row["count"] == scores[row["set"]]["count"]
    words = caption(drawn, layout, "score_separation")
    lowest, highest = (data.loc[data["separation"].agg(which)] for which in ("idxmin", "idxmax"))
    assert f"from {lowest['separation']:.3f} ({lowest['label']}) to {highest['separation']:.3f}" in words
    assert "from 5% to 95%" in words


def test_a_method_without_background_detections_is_drawn_without_a_box(project, study, layout):
    record = json.loads(layout.errors("pisa").read_text())
    record["scores"]["background"] = {"count": 0, "quantiles": None}
    record["scores"]["separation"] = None
    layout.errors("pisa").write_text(json.dumps(record))
    figures.run(study, layout, "score_separation")
    data = records.parse_csv((layout.figures / "score_separation.csv").read_text(), "score_separation")
    assert data.loc[data["experiment"] == "pisa", "separation"].isna().all()
    assert "nan" not in (layout.figures / "score_separation.rst").read_text()


@pytest.mark.parametrize("name", ["error_types", "score_separation"])
def test_no_words_overlap_or_leave_the_picture(project, study, layout, name):
    """Rows of text are apart, and all lie within the picture; also with a long name."""
    data = figure(name).data(study, layout)
    data["label"] = data["label"].replace("CE", "cross entropy with a long name")
    with style.applied():
        picture = figure(name).draw(data)
        style.encode(picture, "png")  # which lays it out
        for axes in picture.axes:
            ticks = [label for label in axes.get_yticklabels() if axes.axison and label.get_visible()]
            for words in (ticks, axes.texts, [legend] if (legend := axes.get_legend()) else []):
                boxes = sorted((word.get_window_extent() for word in words), key=lambda box: box.y0)
                assert all(box.x0 >= 0 and box.x1 <= picture.bbox.x1 for box in boxes)
                assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))

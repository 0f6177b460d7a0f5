"""AP by class frequency: the groups share out the classes, their means are those of the records."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from promises import refused

from imbdet.figures import figure, frequency_groups, style
from imbdet.layout import Layout
from imbdet.study_file import load_study

LVIS, THIRDS = list(frequency_groups.LVIS), list(frequency_groups.THIRDS)
counts = st.lists(st.integers(0, 2000), min_size=3, max_size=90)


def classes(images):
    return pd.DataFrame({"id": range(len(images)), "name": "a", "boxes": 1, "images": images})


def change(path, edit):
    record = json.loads(path.read_text())
    edit(record)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record))


@given(counts)
def test_groups_share_out_the_classes_by_frequency(images):
    grouped = frequency_groups.groups(classes(images))
    assert list(grouped["images"]) == sorted(images)
    assert (grouped["group"] != grouped["group"].shift()).sum() == 3
    if grouped["group"].iloc[0] in THIRDS:
        assert np.ptp(grouped["group"].value_counts()) <= 1
        assert not (min(images) <= 10 and any(10 < n <= 100 for n in images) and max(images) > 100)


def test_lvis_groups_end_at_10_and_100_images():
    grouped = frequency_groups.groups(classes([101, 1, 100, 11, 10, 5000]))
    assert dict(zip(grouped["images"], grouped["group"], strict=True)) == {
        1: "rare",
        10: "rare",
        11: "common",
        100: "common",
        101: "frequent",
        5000: "frequent",
    }
    assert list(frequency_groups.groups(classes([101, 1, 10]))["group"]) == THIRDS


@pytest.mark.promise("groups of classes by frequency, weighted by their classes, have the AP of the evaluation", "law")
def test_means_of_the_groups_add_up_to_the_measured_ap_of_the_demo(monkeypatch, pytestconfig):
    monkeypatch.chdir(pytestconfig.rootpath)
    demo = load_study("config/demo.yaml")
    layout = Layout.of(demo)
    found = frequency_groups.means(frequency_groups.data(demo, layout))
    for name in demo.report.equalization:
        rows = found[found["experiment"] == name].set_index("group")
        parts = rows.drop("all")
        ap = np.mean([json.loads(layout.at_seed(seed).evaluation(name).read_text())["AP"] for seed in demo.seeds])
        assert len(parts) == 3
        assert np.average(parts["AP"], weights=parts["classes"]) == pytest.approx(100 * ap, abs=1e-6)
        assert rows.loc["all", "AP"] == pytest.approx(100 * ap, abs=1e-6)


def test_ap_is_the_mean_over_the_seeds(project, study, layout):
    """The second seed has half the AP of the first in each class, so that all is at three quarters."""
    one = frequency_groups.data(study, layout)
    two_seeds = study.model_copy(update={"seeds": (7, 8)})
    for name in study.report.equalization:

        def halve(record):
            for row in record["per_class"]:
                row["AP"] = None if row["AP"] is None else row["AP"] / 2

        other = layout.at_seed(8).evaluation(name)
        other.parent.mkdir(parents=True)
        other.write_text(layout.evaluation(name).read_text())
        change(other, halve)
    two = frequency_groups.data(two_seeds, layout)
    np.testing.assert_allclose(two["AP"], 0.75 * one["AP"])
    np.testing.assert_allclose(two["difference"], 0.75 * one["difference"], atol=1e-8)
    assert "means over 2 seeds" in frequency_groups.caption(two_seeds, two)
    assert "seeds 7, 8" in frequency_groups.caption(two_seeds, two)
    assert "of one seed" in frequency_groups.caption(study, one)


def test_a_class_without_validation_boxes_is_left_out_of_means_and_picture(project, study, layout):
    data = frequency_groups.data(study, layout)
    assert set(data.loc[data["AP"].isna(), "name"]) == {"star"}
    assert "1 of 6 classes are in no validation image and left out" in frequency_groups.caption(study, data)
    found = frequency_groups.means(data)
    assert set(found.loc[found["group"] == "all", "classes"]) == {5}
    points = sum(len(part.get_offsets()) for part in frequency_groups.draw(data).axes[1].collections)
    assert points == 5 * (len(study.report.equalization) - 1)


def test_differences_are_to_the_first_experiment_class_by_class(project, study, layout):
    first, second = study.report.equalization[:2]
    change(layout.evaluation(second), lambda record: record["per_class"].reverse())
    change(layout.evaluation(second), lambda record: record["per_class"][0].update(AP=0.5))
    data = frequency_groups.data(study, layout)
    assert (data.loc[data["experiment"] == first, "difference"].dropna() == 0).all()
    ours = data[data["experiment"] == second].set_index("name")["difference"].dropna()
    assert ours.to_dict() == {"ring": pytest.approx(40), **dict.fromkeys(["disc", "square", "triangle", "cross"], 0)}


def test_the_table_has_a_row_for_each_experiment_and_a_column_for_each_group(project, study, layout):
    columns = frequency_groups.table(frequency_groups.data(study, layout))
    cells = {(column.group, column.heading): column.cells for column in columns}
    assert {len(column.cells) for column in columns} == {len(study.report.equalization)}
    assert cells["AP, percent", "all (5)"][0] == "36.0"
    assert cells["difference to two-stage sigmoid CE", "rarest third (2)"][0] == "+0.0"
    assert len(columns) == 1 + 2 * 4


def test_legend_and_points_do_not_meet(project, study, layout):
    with style.applied():
        picture = frequency_groups.draw(frequency_groups.data(study, layout))
        picture.canvas.draw()
    left = picture.axes[0]
    box = left.get_legend().get_window_extent()
    points = np.concatenate(
        [left.transData.transform(line.get_xydata()) for line in left.lines if line.get_label()[0] != "_"]
    )
    assert len(points) == 4 * len(study.report.equalization)
    assert not any(box.contains(x, y) for x, y in points)


@pytest.mark.promise("evaluations and a census of different classes are not brought together", "bad input")
def test_evaluations_of_other_classes_are_refused(project, study, layout):
    path = layout.evaluation(study.report.equalization[1])
    change(path, lambda record: record["per_class"].pop())
    with refused(r"are not of the same data: only one of them has category \d+; run the study again") as error:
        frequency_groups.data(study, layout)
    assert str(path) in str(error.value)
    assert "category 6" in str(error.value)


@pytest.mark.promise("AP by class frequency of images without boxes is not drawn", "bad input")
def test_no_class_with_validation_boxes_is_refused(project, study, layout):
    for name in study.report.equalization:
        change(layout.evaluation(name), lambda record: [row.update(AP=None) for row in record["per_class"]])
    with refused(r"no class has validation boxes, and so none has AP"):
        frequency_groups.data(study, layout)


@pytest.mark.parametrize("name", ["coco-mini", "coco-mini-cpu"])
def test_the_long_tailed_studies_draw_it(name, pytestconfig):
    study = load_study(pytestconfig.rootpath / "config" / f"{name}.yaml")
    assert study.report.equalization[0] == "sigmoid"
    assert {method.method["name"] for method in study.experiments.values()} >= {
        "cross_entropy",
        "focal",
        "equalization",
    }
    needed = figure("frequency_groups").inputs(study, Layout.of(study))
    assert len(needed) == len(study.report.equalization) * len(study.seeds) + 1

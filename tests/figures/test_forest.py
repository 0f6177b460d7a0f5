"""The forest plot: every comparison once, with its interval, its seeds and whether it is sure."""

import json

import fabricate
import numpy as np
import pytest
from matplotlib.colors import to_hex
from promises import refused

from imbdet.figures import forest
from imbdet.figures.tables import BLANK
from imbdet.layout import Layout

BASELINES = ("ce", "two-cross_entropy")


@pytest.fixture(scope="module", params=[(7,), (1, 2, 3)], ids=["one seed", "three seeds"])
def made(request, tmp_path_factory):
    """A study of two detectors with its record and the figure's data."""
    over = "images" if len(request.param) == 1 else "seeds_and_images"
    intervals = {"resamples": 1000, "over": over, "baselines": BASELINES}
    study = fabricate.study(seeds=request.param, intervals=intervals)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("forest"))
        layout = Layout.of(study)
        record = fabricate.intervals(study)
        layout.intervals.parent.mkdir(parents=True)
        layout.intervals.write_text(json.dumps(record))
        return study, record, forest.data(study, layout)


def rows_of(record):
    return [row for row in record["differences"] if row["metric"] == "AP"]


def test_each_comparison_stands_once_in_percent_after_its_baseline(made):
    study, record, data = made
    assert data["experiment"][data["difference"].isna()].tolist() == list(BASELINES)
    expected = rows_of(record)
    shown = data.dropna(subset="difference")
    assert list(zip(shown["baseline"], shown["experiment"], strict=True)) == [
        (row["baseline"], row["experiment"]) for row in expected
    ]
    for key, column in {
        "value": "difference",
        "low": "low",
        "high": "high",
        "smallest_effect": "smallest_effect",
    }.items():
        np.testing.assert_allclose(shown[column], [100 * row[key] for row in expected], atol=1e-9)
    assert shown["p_holm"].tolist() == [row["p_holm"] for row in expected]
    for place, seed in enumerate(study.seeds):
        np.testing.assert_allclose(shown[f"seed_{seed}"], [100 * row["by_seed"][place] for row in expected], atol=1e-9)


def test_filled_marks_are_the_sure_ones_and_seeds_are_dots(made):
    study, record, data = made
    figure = forest.draw(data)
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    marks = [line for line in lines if line.get_marker() == "o"]
    filled = [to_hex(mark.get_markerfacecolor()) != "#ffffff" for mark in marks]
    expected = rows_of(record)
    assert filled == [row["p_holm"] < 0.05 for row in expected]
    assert 0 < sum(filled) < len(filled)
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([100 * row["value"] for row in expected])
    dots = [line.get_xdata().tolist() for line in lines if line.get_marker() == "."]
    several = len(study.seeds) > 1
    assert len(dots) == (len(expected) if several else 0)
    if several:
        np.testing.assert_allclose(dots, [100 * np.array(row["by_seed"]) for row in expected], atol=1e-9)
    bands = [(bar.get_x(), bar.get_width()) for axes in figure.axes for bar in axes.patches]
    np.testing.assert_allclose(bands, [(-100 * r["smallest_effect"], 200 * r["smallest_effect"]) for r in expected])


def test_the_caption_says_what_the_interval_is_of(made):
    study, _, data = made
    caption = forest.caption(study, data)
    for words in ("1,000 resamples", "20 validation images", "Holm's correction", "four times of five"):
        assert words in caption
    if len(study.seeds) == 1:
        assert "of the images alone, with one run of each method" in caption
        assert "seed 7." in caption
    else:
        assert "of the images, with Student's t for the seeds" in caption
        assert "seeds 1, 2, 3." in caption


def test_the_caption_says_where_seeds_are_kept(made):
    study, _, data = made
    kept = forest.caption(study, data.assign(over="images"))
    assert ("the images alone, with the seeds kept" in kept) == (len(study.seeds) > 1)


def test_the_table_has_signed_differences_and_says_which_are_baselines(made):
    _, record, data = made
    table = {f"{place} {column.heading}": column.cells for place, column in enumerate(forest.table(data))}
    assert table["4 difference"].count("baseline") == table["5 95 %"].count(BLANK) == 2
    row = rows_of(record)[0]
    value, low, high = (f"{100 * row[key]:+.1f}".replace("-", "−") for key in ("value", "low", "high"))
    assert table["4 difference"][1] == value
    assert table["5 95 %"][1] == f"{low} to {high}"
    expected = [row["p_holm"] for row in rows_of(record)]
    cells = [cell for cell in table["6 p (Holm)"] if cell != BLANK]
    for cell, p, row in zip(cells, expected, rows_of(record), strict=True):
        bound = "≤ " if row["p"] <= record["least_p"] else ""
        assert cell == ("< 0.001" if p < 0.0005 else f"{bound}{p:.3f}")
    assert "< 0.001" in cells


def test_small_differences_have_another_digit(made):
    """Else the ends of an interval, and its sign, could not be told."""
    data = made[2].copy()
    ends = ["difference", "low", "high", "smallest_effect"]
    data[ends] *= 0.9 / (data["high"] - data["low"]).min()
    cells = {column.heading: column.cells for column in forest.table(data)}["difference"]
    assert cells[1] == f"{data['difference'].iloc[1]:+.2f}".replace("-", "−")
    assert any(text.get_text().startswith(cells[1]) for axes in forest.draw(data).axes for text in axes.texts)


@pytest.mark.promise("A study that asks for intervals which its runs cannot give is refused", "bad input")
def test_a_record_without_comparisons_is_refused(made, tmp_path, monkeypatch):
    study, record, _ = made
    monkeypatch.chdir(tmp_path)
    layout = Layout.of(study)
    layout.intervals.parent.mkdir(parents=True)
    layout.intervals.write_text(json.dumps(record | {"differences": []}))
    with refused("compares nothing; name under intervals.baselines of study fabricated an experiment whose detector"):
        forest.data(study, layout)

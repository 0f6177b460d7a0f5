"""The figure on gamma: its numbers are those of the published table and of the records, and its words follow them."""

import json

import fabricate
import pandas as pd
import pytest

from imbdet import figures
from imbdet.figures import comparison, gamma, gradient_shares, records
from imbdet.layout import Layout

LEVELS = tuple(gradient_shares.DIFFICULTIES)


@pytest.fixture
def shown(drawn, layout):
    return records.parse_csv((drawn / layout.figures / "gamma.csv").read_text(), "gamma")


@pytest.fixture
def three(project):
    """The study with three seeds, and its layout; the shares are those of the first."""
    made = fabricate.study(
        seeds=[7, 8, 9], intervals={"resamples": 500, "over": "seeds_and_images", "baselines": ["ce"]}
    )
    layout = Layout.of(made)
    layout.intervals.write_text(json.dumps(fabricate.intervals(made)))
    return made, layout


def test_it_wants_a_list_of_gammas_and_intervals():
    report = fabricate.raw_study()["report"]
    assert "gamma" in figures.names(fabricate.study())
    assert "gamma" not in figures.names(fabricate.study(report={**report, "gamma": []}))
    assert "gamma" not in figures.names(fabricate.study(intervals=None, report={**report, "verdicts": {}}))


def test_published_values_are_all_of_the_table(shown):
    theirs = comparison.published("focal_loss_1b")
    assert shown["gamma"].tolist() == theirs["gamma"].tolist()
    assert shown["published_AP"].tolist() == theirs["AP"].tolist()
    assert shown["published_alpha"].tolist() == theirs["alpha"].tolist()


def test_measured_values_are_those_of_the_intervals(three):
    made, layout = three
    rows = gamma.measured(gamma.data(made, layout))
    assert rows["experiment"].tolist() == list(made.report.gamma)
    found = json.loads(layout.intervals.read_text())["experiments"]
    for _, row in rows.iterrows():
        ap = found[row["experiment"]]["AP"]
        assert row[["AP", "low", "high"]].tolist() == pytest.approx([100 * ap[key] for key in ("value", "low", "high")])
        assert row[[f"AP_seed_{seed}" for seed in made.seeds]].tolist() == pytest.approx(
            [100 * value for value in ap["by_seed"]]
        )
        method = made.experiments[row["experiment"]].method
        assert (row["gamma"], row["alpha"]) == (method.get("gamma", 0), method["alpha"])


def test_shares_are_those_of_the_records_and_make_up_the_whole(drawn, layout, shown):
    for _, row in gamma.measured(shown).iterrows():
        table = pd.read_csv(drawn / layout.gradient_shares(row["experiment"])).query("by == 'difficulty'")
        assert row[list(gamma.PARTS.values())].sum() == pytest.approx(1, abs=1e-5)
        for level in LEVELS:
            of_level = table[table["value"] == level].set_index("set")["gradient"]
            assert row[f"foreground_{level}"] == pytest.approx(of_level["foreground"], abs=1e-9)
            assert row[f"background_{level}"] == pytest.approx(of_level.drop("foreground").sum(), abs=1e-9)
        assert row["easy"] == pytest.approx(table.loc[table["value"] == "easy", "logits"].sum())
        assert row["left"] == pytest.approx(table["gradient"].sum() / table["cross_entropy"].sum(), abs=1e-9)


def test_the_picture_has_seeds_as_dots_and_bars_up_to_one(three):
    made, layout = three
    data = gamma.data(made, layout)
    published, ours, _, gradient = gamma.draw(data).axes
    assert published.get_lines()[0].get_ydata().tolist() == data["published_AP"].tolist()
    mean, *dots = ours.get_lines()
    rows = gamma.measured(data)
    assert mean.get_ydata().tolist() == rows["AP"].tolist()
    assert [line.get_ydata().tolist() for line in dots] == [rows[f"AP_seed_{seed}"].tolist() for seed in made.seeds]
    tops = [max(bar.get_y() + bar.get_height() for bar in bars) for bars in zip(*gradient.containers, strict=False)]
    assert len(gradient.patches) == len(rows) * len(gamma.PARTS)
    assert max(tops) == pytest.approx(1, abs=1e-5)
    single = gamma.draw(data.assign(seeds=data["seeds"].where(data["seeds"].isna(), 1.0))).axes[1]
    assert len(single.get_lines()) == 1


def test_a_gamma_that_is_trained_twice_is_drawn_twice_and_published_once(three):
    made, layout = three
    report = {**fabricate.raw_study()["report"], "gamma": ["ce-a0.5", "ce-a0.75", "focal-g2"]}
    twice = made.model_copy(update={"report": fabricate.study(report=report).report})
    data = gamma.data(twice, layout)
    published, ours, _, gradient = gamma.draw(data).axes
    assert len(published.get_lines()[0].get_ydata()) == len(comparison.published("focal_loss_1b"))
    assert len(ours.get_lines()[0].get_ydata()) == len(gamma.measured(data)) == 3
    assert len(gradient.patches) == 3 * len(gamma.PARTS)


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ([10.0, 20.0, 15.0], "Here, AP is highest at γ = 1 (20.0), and 5.0 points lower at γ = 5."),
        ([10.0, 20.0, 25.0], "Here, AP is highest at γ = 5 (25.0), the greatest γ."),
        ([30.0, 20.0, float("nan")], "Here, AP is highest at γ = 0 (30.0), and 10.0 points lower at γ = 1."),
    ],
)
def test_the_answer_follows_the_numbers(measured, words):
    data = pd.DataFrame({"gamma": [0.0, 1.0, 5.0], "published_AP": [31.1, 34.0, 32.2], "AP": measured})
    published = "Published, AP is highest at γ = 1 (34.0), and 1.8 points lower at γ = 5."
    assert gamma.answer(data) == f"{published} {words}"


def test_captions_say_how_many_runs_and_that_alpha_differs(drawn, study, layout, shown, three):
    caption = gamma.caption(study, shown)
    for words in ("one run each", "95 % intervals over images alone", "α, below each γ, differs", "not COCO results"):
        assert words in caption
    several, its_layout = three
    caption = gamma.caption(several, gamma.data(several, its_layout))
    for words in ("means of 3 seeds (dots)", "over seeds and images", "of the first seed", "seeds 7, 8, 9"):
        assert words in caption


def test_the_table_is_in_percent(drawn, layout, shown):
    cells = {(column.group, column.heading): list(column.cells) for column in gamma.table(shown)}
    last = shown.iloc[-1]
    assert cells["", "γ"][-1] == "5"
    assert cells["measured", "AP (interval)"][-1] == f"{last['AP']:.1f} ({last['low']:.1f} to {last['high']:.1f})"
    background = last[[f"background_{level}" for level in LEVELS]].sum()
    hard = last[["foreground_hard", "background_hard"]].sum()
    assert cells["gradient, percent", "of background"][-1] == f"{100 * background:.0f}"
    assert cells["gradient, percent", "of hard logits"][-1] == f"{100 * hard:.0f}"
    assert cells["measured", "AP (interval)"][1] == "–"  # γ = 0.1 was not trained

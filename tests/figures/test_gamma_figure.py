"""The figure on gamma: its numbers are those of the published table and of the records, and its words follow them."""

import json

import fabricate
import pandas as pd
import pytest

from imbdet import figures
from imbdet.evaluation.holm import holm
from imbdet.figures import comparison, gamma, gradient_shares, records
from imbdet.layout import Layout

LEVELS = tuple(gradient_shares.DIFFICULTIES)
ALPHAS = ("ce-a0.25", "ce-a0.5", "ce-a0.75")
GAMMAS = ("focal-g0.5", "focal-g1", "focal-g2", "focal-g5")  # all with alpha .25


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
    found = shown.dropna(subset=["published_AP"])
    assert (
        found[["gamma", "alpha", "published_AP"]].to_numpy().tolist()
        == theirs[["gamma", "alpha", "AP"]].to_numpy().tolist()
    )


def test_a_row_has_both_sides_where_gamma_and_alpha_are_equal(shown, study):
    both = shown.dropna(subset=["published_AP", "experiment"])
    assert both[["gamma", "alpha"]].to_numpy().tolist() == [[0, 0.75], [1, 0.25], [2, 0.25], [5, 0.25]]
    assert len(shown) == len(comparison.published("focal_loss_1b")) + len(study.report.gamma) - len(both)


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
    rows = gamma.measured(data)
    curves = list(data.dropna(subset=["published_AP"]).groupby("alpha")["published_AP"])
    assert [line.get_ydata().tolist() for line in published.get_lines()] == [values.tolist() for _, values in curves]
    curves = [values.tolist() for _, values in rows.groupby("alpha")["AP"]]
    seeds = [rows[f"AP_seed_{seed}"].tolist() for seed in made.seeds]
    assert [line.get_ydata().tolist() for line in ours.get_lines()] == curves + seeds
    drawn = [segment[:, 1].tolist() for lines in ours.collections for segment in lines.get_segments()]
    assert drawn == rows[["low", "high"]].to_numpy().tolist()
    tops = [max(bar.get_y() + bar.get_height() for bar in bars) for bars in zip(*gradient.containers, strict=False)]
    assert len(gradient.patches) == len(rows) * len(gamma.PARTS)
    assert max(tops) == pytest.approx(1, abs=1e-5)
    single = gamma.draw(data.assign(seeds=data["seeds"].where(data["seeds"].isna(), 1.0))).axes[1]
    assert len(single.get_lines()) == len(curves)


@pytest.fixture
def grid(project):
    """A study of three seeds with three alphas at gamma 0, one of them the baseline of other gammas; layout; data."""
    made = fabricate.study(
        seeds=[7, 8, 9],
        intervals={"resamples": 500, "over": "seeds_and_images", "baselines": ["ce-a0.25", "ce-a0.5"]},
        report={**fabricate.raw_study()["report"], "verdicts": {}, "gamma": [*ALPHAS, *GAMMAS]},
    )
    layout = Layout.of(made)
    layout.intervals.write_text(json.dumps(fabricate.intervals(made)))
    return made, layout, gamma.data(made, layout)


def test_alphas_of_one_gamma_stand_beside_each_other_and_only_gamma_is_named(grid):
    _, _, data = grid
    published, ours, _, gradient = gamma.draw(data).axes
    points = [point for line in ours.get_lines() for point in line.get_xdata()]
    assert {0 - gamma.STEP, 0, gamma.STEP, 1, 2, 3, 4} <= {round(x, 9) for x in points}
    assert [label.get_text() for label in ours.get_xticklabels()] == [
        "γ 0",
        *(f"γ {g}\nα 0.25" for g in (0.5, 1, 2, 5)),
    ]
    assert len(gradient.patches) == len(gamma.measured(data)) * len(gamma.PARTS)
    assert sum(len(line.get_xdata()) for line in published.get_lines()) == len(comparison.published("focal_loss_1b"))


def test_gains_are_the_differences_from_gamma_0_with_the_same_alpha(grid):
    _, layout, data = grid
    record = json.loads(layout.intervals.read_text())
    wanted = {
        row["experiment"]: row
        for row in record["differences"]
        if (row["baseline"], row["metric"]) == ("ce-a0.25", "AP") and row["experiment"] in GAMMAS
    }
    found = data.dropna(subset=["gain"]).set_index("experiment")
    assert found.index.tolist() == list(GAMMAS)
    for name, row in found.iterrows():
        ends = [100 * wanted[name][end] for end in ("value", "low", "high")]
        assert row[["gain", "gain_low", "gain_high"]].tolist() == pytest.approx(ends)
    assert found["gain_p_holm"].tolist() == pytest.approx(holm([wanted[name]["p"] for name in GAMMAS]).tolist())


def test_a_study_that_compares_no_gamma_with_gamma_0_has_no_gains(shown):
    assert shown[list(gamma.GAINS.values())].isna().all(axis=None)
    assert not any("γ 0 of this α" in column.heading for column in gamma.table(shown))
    assert "differences" not in gamma.answer(shown)


def test_hollow_points_are_those_that_nothing_tells_from_gamma_0(grid):
    made, _, data = grid
    for sure in (GAMMAS[:1], GAMMAS[1:], ()):
        told = data["experiment"].isin(sure)
        changed = data.assign(gain_p_holm=data["gain_p_holm"].where(~told, 0.01).where(told | data["gain"].isna(), 0.2))
        lines = gamma.draw(changed).axes[1].get_lines()
        hollow = [line.get_ydata()[0] for line in lines if line.get_markerfacecolor() == "white"]
        assert hollow == changed.loc[~told & changed["gain"].notna(), "AP"].tolist()
        answer = gamma.answer(changed)
        assert f"{len(sure)} of {len(GAMMAS)} differences from γ = 0 with the same α" in answer
        for _, row in changed[told].iterrows():
            assert f"{row['gain']:+.1f} at γ = {row['gamma']:g}".replace("-", "−") in answer
        assert "Hollow ones are not told from γ = 0" in gamma.caption(made, changed)


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ([10.0, 20.0, 15.0], "Here, AP is highest at γ = 1 (20.0), and 5.0 points lower at γ = 5."),
        ([10.0, 20.0, 25.0], "Here, AP is highest at γ = 5 (25.0), the greatest γ."),
        ([30.0, 20.0, float("nan")], "Here, AP is highest at γ = 0 (30.0), and 10.0 points lower at γ = 1."),
    ],
)
def test_the_answer_follows_the_numbers(measured, words):
    data = pd.DataFrame(
        {"gamma": [0.0, 1.0, 5.0], "published_AP": [31.1, 34.0, 32.2], "AP": measured, "gain": float("nan")}
    )
    published = "Published, AP is highest at γ = 1 (34.0), and 1.8 points lower at γ = 5."
    assert gamma.answer(data) == f"{published} {words}"


def test_captions_say_how_many_runs_and_what_is_joined(drawn, study, layout, shown, three, grid):
    caption = gamma.caption(study, shown)
    for words in ("one run each", "95 % intervals over images alone", "Points of one α are joined", "not COCO results"):
        assert words in caption
    assert "from left to right" not in caption  # it has one alpha for each
    made, _, data = grid
    assert "The α of one γ rise from left to right." in gamma.caption(made, data)
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
    assert cells["", "α"][-1] == "0.25"


def test_the_table_has_gains_where_there_are_any(grid):
    _, _, data = grid
    cells = {column.heading: list(column.cells) for column in gamma.table(data)}
    last = data.iloc[-1]
    interval = f"{last['gain']:+.1f} ({last['gain_low']:+.1f} to {last['gain_high']:+.1f})".replace("-", "−")
    assert cells["less γ 0 of this α (interval)"][-1] == interval
    assert cells["p (Holm)"][-1] == ("< 0.001" if last["gain_p_holm"] < 0.0005 else f"{last['gain_p_holm']:.3f}")
    assert cells["p (Holm)"][0] == "–"

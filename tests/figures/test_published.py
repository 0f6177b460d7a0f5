"""The published numbers: complete, sourced, and in the relations that the paper itself states."""

import pytest

from imbdet.figures import comparison

ROWS = {
    "focal_loss_1a": 7,
    "focal_loss_1b": 7,
    "focal_loss_1c": 7,
    "focal_loss_1d": 10,
    "focal_loss_1e": 10,
    "focal_loss_2": 2,
    "focal_loss_3": 4,
    "modern_reruns": 8,
}
SOURCE = ["paper", "table", "data", "setting"]


def metrics(table):
    """AP, AP50 and AP75 of a table's only row."""
    assert len(table) == 1
    return [table[metric].iloc[0] for metric in comparison.METRICS]


def test_every_file_is_known():
    assert {path.stem for path in comparison.PUBLISHED.glob("*")} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_complete_distinct_and_carry_their_source(name):
    table = comparison.published(name)
    assert len(table) == ROWS[name]
    assert not table[SOURCE].isna().any(axis=None)
    assert not table.drop(columns=["AP"]).duplicated().any()
    assert table["AP"].between(0, 100).all()
    if "AP50" in table:
        assert (table["AP"] <= table["AP50"]).all()
        assert (table["AP75"] <= table["AP50"]).all()
        assert set(table["paper"]) == {"Lin et al. 2017, arXiv 1708.02002"}
        assert set(table["table"].astype(str)) == {name.removeprefix("focal_loss_")}


def test_best_gamma_is_2_with_34_points():
    table = comparison.published("focal_loss_1b")
    best = table.loc[table["AP"].idxmax()]
    assert (best["gamma"], best["alpha"], best["AP"]) == (2, 0.25, 34.0)
    assert (best["AP"] - table.set_index("gamma")["AP"][5]) == pytest.approx(1.8)


def test_gamma_0_is_the_best_row_of_cross_entropy():
    cross_entropy = comparison.published("focal_loss_1a")
    best = cross_entropy[cross_entropy["AP"] == cross_entropy["AP"].max()]
    gammas = comparison.published("focal_loss_1b")
    first = gammas[gammas["gamma"] == 0]
    assert best["alpha"].iloc[0] == first["alpha"].iloc[0] == 0.75
    assert metrics(best) == metrics(first)
    assert metrics(comparison.published("focal_loss_3").query("loss == 'CE'")) == metrics(first)


def test_the_default_run_stands_in_three_tables():
    ablation = metrics(comparison.published("focal_loss_1b").query("gamma == 2"))
    assert metrics(comparison.published("focal_loss_1c").query("scales == 3 and ratios == 3")) == ablation
    assert metrics(comparison.published("focal_loss_3").query("loss == 'FL'")) == ablation


def test_focal_loss_is_3_2_points_above_the_best_of_ohem():
    table = comparison.published("focal_loss_1d").set_index("method")["AP"]
    assert table["FL"] - table.drop("FL").max() == pytest.approx(3.2)


def test_larger_images_and_deeper_backbones_are_better_and_slower():
    table = comparison.published("focal_loss_1e")
    for _, backbone in table.groupby("backbone"):
        assert backbone["AP"].is_monotonic_increasing
        assert backbone["milliseconds"].is_monotonic_increasing
    wide = table.pivot_table(["AP", "milliseconds"], "scale", "backbone")
    for column in ("AP", "milliseconds"):
        assert (wide[column]["R101-FPN"] > wide[column]["R50-FPN"]).all()
    assert comparison.published("focal_loss_2")["AP"].min() > table["AP"].max()

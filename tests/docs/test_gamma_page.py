"""docs/gamma.md: made from the data of its study's figure, and its sentences hold of the committed records."""

import json
from contextlib import chdir
from itertools import product

import fabricate
import pandas as pd
import pytest
import yaml
from pages import ROOT, read

from imbdet import figures
from imbdet.evaluation.inspection import EASY
from imbdet.figures import gamma, records
from imbdet.layout import Layout
from imbdet.study_file import load_study


@pytest.fixture
def project(tmp_path):
    """A project whose study of gamma is fabricated, with its figure."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "gamma.yaml").write_text(yaml.safe_dump(fabricate.raw_study(), sort_keys=False))
    study = load_study(tmp_path / "config" / "gamma.yaml")
    with chdir(tmp_path):
        fabricate.write(study, Layout.of(study))
        figures.run(study, Layout.of(study), "gamma")
    return tmp_path


def test_generated_part_holds_the_numbers_of_the_records(build, project):
    text = read("gamma.md")
    page = build.gamma_page(text, project)
    assert build.gamma_page(page, project) == page
    assert page.startswith(text.partition(build.BEGIN)[0])
    assert page.endswith(text.partition(build.END)[2])
    assert "](../paper_figures/gamma/gamma.png)" in page
    assert "These are not COCO results." in page
    found = json.loads((project / "results/gamma/intervals.json").read_text())["experiments"]["focal-g5"]["AP"]
    value, low, high = (f"{100 * found[key]:.1f}" for key in ("value", "low", "high"))
    assert f"| 5 | 0.25 | 32.2 | {value} ({low} to {high}) |" in page


def test_generated_part_is_that_of_the_committed_figure(build):
    text = read("gamma.md")
    assert text == build.gamma_page(text, ROOT), "run `python docs/build.py` and commit docs/gamma.md"


def test_factors_in_the_text_are_those_of_the_formula():
    """At p_t = 0.9 and 0.5 for γ = 2 and 5, and at 0.7 for γ = 5."""
    text = " ".join(read("gamma.md").split())
    assert "$p_t = 0.9$ loses a factor of 100 and one with $p_t = 0.5$ a factor of 4. At γ = 5" in text
    assert [(1 - p) ** -2 for p in (0.9, 0.5)] == pytest.approx([100, 4])
    assert "the same two lose factors of 100,000 and 32, and one with $p_t = 0.7$" in text
    assert [(1 - p) ** -5 for p in (0.9, 0.5)] == pytest.approx([100_000, 32])
    assert "loses a factor of about 400" in text
    assert [(1 - p) ** -5 for p in (0.7,)] == pytest.approx([400], rel=0.05)


@pytest.fixture(scope="module")
def study():
    return load_study(ROOT / "config" / "gamma.yaml")


@pytest.fixture(scope="module")
def rows(study):
    """What was measured, a row for each pair of gamma and alpha; gamma rises."""
    return gamma.measured(pd.read_csv(ROOT / Layout.of(study).figures / "gamma.csv"))


@pytest.fixture(scope="module")
def intervals(study):
    return records.read_json(ROOT / Layout.of(study).intervals)


def test_the_answer_holds_of_the_committed_records(rows):
    assert rows["seeds"].unique().tolist() == [5]
    greatest = rows[rows["gamma"] == 5].set_index("alpha")
    assert ((greatest["gain"] < 0) & (greatest["gain_p_holm"] < 0.05)).all(), "by more than chance explains"
    assert (greatest["high"] < rows[rows["gamma"] == 2].set_index("alpha")["low"]).all(), "falls from 2 to 5"
    assert (rows[rows["gamma"] < 5]["gain_p_holm"].dropna() >= 0.05).all(), "none is told from none"
    by_gamma = rows.groupby("gamma")
    assert rows.loc[by_gamma["AP"].idxmax()[0], "alpha"] == 0.25, "highest at .25"
    assert set(rows.loc[by_gamma["AP"].idxmin()[[1, 2, 5]], "alpha"]) == {0.25}, "lowest at .25, from 1 on"
    overlap = by_gamma["low"].max() < by_gamma["high"].min()
    assert overlap.to_dict() == {0: True, 0.5: True, 1: False, 2: True, 5: True}
    at_one = rows[rows["gamma"] == 1].set_index("alpha")
    assert at_one.loc[0.25, "high"] < at_one.loc[0.75, "low"]


def estimate(found):
    """A difference as the page writes it."""
    value, low, high = (f"{found[key]:.1f}".replace("-", "−") for key in ("difference", "low", "high"))
    return f"{value} ({low} to {high})"


def test_what_focal_loss_gains_depends_on_what_it_is_compared_with(study, rows, intervals):
    focal = [name for name in study.experiments if name.startswith("focal") and "g5" not in name]
    compared = [d for d in intervals["differences"] if d["metric"] == "AP" and d["experiment"] in focal]
    plain = rows[rows["gamma"] == 0]
    assert {(d["experiment"], d["baseline"]) for d in compared} >= set(product(focal, plain["experiment"]))
    assert not [d for d in compared if d["p_holm"] < 0.05 and d["value"] > 0], "none is sure to gain"
    assert len(focal) == 9
    best = rows.loc[rows["AP"].idxmax(), "experiment"]
    assert plain.loc[plain["AP"].idxmax(), "alpha"] == 0.25
    over = {alpha: records.difference(intervals, best, f"ce-a{alpha}", "AP") for alpha in (0.25, 0.75)}
    points = estimate(over[0.75]).replace(" ", " points ", 1)
    text = " ".join(read("gamma.md").split())
    assert (
        f"gains {points} over cross entropy with the paper's α, .75, and {estimate(over[0.25])} over the best" in text
    )
    assert f"has {estimate(records.difference(intervals, 'focal-g2-a0.25', 'ce-a0.75', 'AP'))} here" in text


def test_seeds_differ_by_points_with_cross_entropy_most(study, rows):
    def spread(name):
        runs = (Layout.of(study).at_seed(seed).evaluation(name) for seed in study.seeds)
        found = [100 * records.read_json(ROOT / run)["AP"] for run in runs]
        return max(found) - min(found)

    spreads = {name: spread(name) for name in rows["experiment"]}
    assert max(spreads, key=spreads.get) == "ce-a0.75"
    assert round(spreads["ce-a0.75"]) == 9
    published = pd.read_csv(ROOT / "paper_figures" / "claims" / "verdicts.csv").set_index("claim")["published"]
    assert round(published["focal_over_alpha_ce"]) == 3, "the paper's size"


def test_the_study_of_claims_says_of_the_same_methods_what_the_page_says():
    verdicts = pd.read_csv(ROOT / "paper_figures" / "claims" / "verdicts.csv").set_index("claim")
    claim = verdicts.loc["focal_over_alpha_ce"]
    assert (claim["experiment"], claim["baseline"], claim["verdict"]) == ("focal-g2", "ce-a0.75", "cannot tell")
    intervals = records.read_json(ROOT / "results" / "claims" / "intervals.json")
    behind = records.difference(intervals, "focal-g2", "ce-a0.5", "AP")
    forest = pd.read_csv(ROOT / "paper_figures" / "claims" / "forest.csv").set_index(["experiment", "baseline"])
    assert 0.03 < forest.loc[("focal-g2", "ce-a0.5"), "p_holm"] < 0.05, "by a little"
    assert f"focal loss is behind: {estimate(behind)}" in " ".join(read("gamma.md").split())


def test_other_studies_are_as_the_page_says(study):
    demo = load_study(ROOT / "config" / "demo.yaml")
    results = [json.loads((ROOT / Layout.of(demo).evaluation(name)).read_text())["AP"] for name in demo.report.gamma]
    assert results[1:] == sorted(results[1:], reverse=True), "lower at each γ from 1 on"

    twins = {"ce-a0.5": "ce-a0.5", "ce-a0.75": "ce-a0.75", "focal-g2": "focal-g2-a0.25", "focal-g5": "focal-g5-a0.25"}
    claims = load_study(ROOT / "config" / "claims.yaml")
    assert study.seeds == claims.seeds[:5] == (1, 2, 3, 4, 5)
    assert len(claims.seeds) == 8, "three seeds more"
    for (there, here), seed in product(twins.items(), study.seeds):
        places = Layout.of(claims).at_seed(seed).training(there), Layout.of(study).at_seed(seed).training(here)
        both = [records.read_json(ROOT / place) for place in places]
        assert len({record["weights_sha256"] for record in both}) == 1, "equal to the bit"
        assert len({record["hardware"]["cpu"] for record in both}) == 1, "of the same kind"


def test_what_is_said_of_the_gradient_holds_of_the_committed_records(study, rows):
    layout = Layout.of(study)
    for alpha, names in rows.groupby("alpha")["experiment"]:
        tables = [pd.read_csv(ROOT / layout.gradient_shares(name)) for name in names]  # γ rises
        parts = [table[table["by"] == "difficulty"] for table in tables]
        foreground = [part.loc[part["set"] == "foreground", "gradient"].sum() for part in parts]
        assert all(0.4 < share < 0.6 for share in foreground), f"even at α {alpha}"
        easy = [part.loc[part["value"] == "easy", "logits"].sum() for part in parts]
        assert easy[0] > 0.99
        assert min(easy) == easy[-1] < 0.75, "a large part is easy no longer"
        of_background = [part[part["set"] == "background"].set_index("value")["gradient"] for part in parts]
        assert of_background[-1]["easy"] < 0.1 * of_background[0]["easy"]
        assert of_background[-1]["middling"] > 2 * of_background[0]["middling"]
        left = [part["gradient"].sum() / part["cross_entropy"].sum() for part in parts]
        assert left == sorted(left, reverse=True)
        assert left[-1] < 0.01, "less than one percent"
        last = json.loads((ROOT / layout.evaluation(names.iloc[-1])).read_text())
        assert last["detections"] == study.evaluate.detections_per_image * last["images"], "fill their limit"
        curve = pd.read_csv(ROOT / layout.loss_curve(names.iloc[-1])).iloc[-1]
        assert curve["box_regression"] > 2 * curve["classification"], "the box loss is by far the greater part"
    assert EASY < 1 - 0.01, "training starts with easy background"

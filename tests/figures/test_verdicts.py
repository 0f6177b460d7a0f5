"""The verdicts: claims are the papers' own, the rules hold at their borders, and nothing is called replicated."""

import json

import fabricate
import pandas as pd
import pytest
from promises import refused

from imbdet import figures
from imbdet.config import Study
from imbdet.evaluation.holm import holm
from imbdet.figures import comparison, records, verdicts
from imbdet.layout import Layout

CLAIMS = pd.read_csv(verdicts.CLAIMS).set_index("claim")
# Where the two numbers of a claim stand: a table, its column, and the rows (first minus second).
TABLE_OF = {
    "focal_over_alpha_ce": ("focal_loss_1b", "AP", "gamma == 2", "gamma == 0"),
    "gamma_5_below_2": ("focal_loss_1b", "AP", "gamma == 5", "gamma == 2"),
    "alpha_75_over_5": ("focal_loss_1a", "AP", "alpha == 0.75", "alpha == 0.5"),
    "focal_over_ohem": ("focal_loss_1d", "AP", "method == 'FL'", "method != 'FL'"),  # the best of them
    "focal_star_like_focal": ("focal_loss_3", "AP", "loss == 'FL*' and gamma == 2", "loss == 'FL'"),
    "noisy_anchors_over_focal": (
        "noisy_anchors",
        "AP",
        "backbone == 'R50-FPN' and schedule == '1x' and method == 'noisy anchors'",
        "backbone == 'R50-FPN' and schedule == '1x' and method == 'baseline'",
    ),
    "pisa_over_focal": (
        "pisa",
        "AP",
        "model == 'RetinaNet' and backbone == 'R50-FPN' and method == 'PISA'",
        "model == 'RetinaNet' and backbone == 'R50-FPN' and method == 'baseline'",
    ),
    "pisa_over_random": (
        "pisa",
        "AP",
        "model == 'Faster R-CNN' and backbone == 'R50-FPN' and method == 'PISA'",
        "model == 'Faster R-CNN' and backbone == 'R50-FPN' and method == 'baseline'",
    ),
    "eql_over_sigmoid": ("equalization_methods", "AP_box", "method == 'EQL'", "method == 'sigmoid cross entropy'"),
}
ELSEWHERE = {"swn_over_baseline", "ohem_over_random"}  # of which no published table is in this project


def test_claims_are_complete():
    assert CLAIMS.index.is_unique
    assert set(CLAIMS.index) == set(TABLE_OF) | ELSEWHERE
    assert set(CLAIMS["direction"]) == {"better", "worse", "equal"}
    assert set(CLAIMS["metric"]) == {"AP", "AP50"}
    assert CLAIMS.drop(columns=["published", "margin"]).notna().all(axis=None)
    assert CLAIMS["margin"].notna().tolist() == (CLAIMS["direction"] == "equal").tolist()
    assert CLAIMS.index[CLAIMS["published"].isna()].tolist() == ["swn_over_baseline"]
    signed = CLAIMS.dropna(subset="published")
    assert (signed.loc[signed["direction"] == "better", "published"] > 0).all()
    assert (signed.loc[signed["direction"] == "worse", "published"] < 0).all()


@pytest.mark.parametrize("claim", TABLE_OF)
def test_a_published_difference_is_that_of_the_published_rows(claim):
    name, column, first, second = TABLE_OF[claim]
    table = comparison.published(name)
    ours, theirs = table.query(first), table.query(second)
    assert len(ours) == 1
    assert ours[column].iloc[0] - theirs[column].max() == pytest.approx(CLAIMS.loc[claim, "published"])
    assert CLAIMS.loc[claim, ["paper", "table", "data"]].tolist() == ours[["paper", "table", "data"]].iloc[0].tolist()
    if claim.startswith(("focal", "gamma", "alpha")):
        assert CLAIMS.loc[claim, "setting"] == ours["setting"].iloc[0]


def row(**changes):
    """A difference of +2 (1 to 3) points over several seeds, of a claim that the first is better."""
    found = {"seeds": 3, "over": "seeds_and_images", "direction": "better", "margin": None}
    found |= {"candidates": None, "baseline_candidates": None, "foreground": 7.0, "baseline_foreground": 7.0}
    found |= {"published": 1.0, "smallest_effect": 1.5}
    return {**found, "difference": 2.0, "low": 1.0, "high": 3.0, "p_holm": 0.01, "p_is_bound": False, **changes}


@pytest.mark.parametrize(
    ("direction", "difference", "p", "verdict"),
    [
        ("better", 2.0, 0.0499, "agrees"),
        ("better", 2.0, 0.05, "cannot tell"),
        ("better", -2.0, 0.0499, "disagrees"),
        ("better", -2.0, 0.05, "cannot tell"),
        ("worse", -2.0, 0.0499, "agrees"),
        ("worse", 2.0, 0.0499, "disagrees"),
        ("worse", -2.0, 1.0, "cannot tell"),
    ],
)
def test_better_and_worse_are_told_by_sign_and_adjusted_p(direction, difference, p, verdict):
    assert verdicts.judge(row(direction=direction, difference=difference, p_holm=p))[0] == verdict


@pytest.mark.parametrize(("published", "effect", "missed"), [(1.0, 1.5, True), (-1.0, 1.5, True), (1.5, 1.0, False)])
def test_where_nothing_can_be_told_it_says_whether_the_published_effect_could_have_been_seen(published, effect, missed):
    sizes = {"published": published, "smallest_effect": effect}
    assert ("would often be missed" in verdicts.judge(row(p_holm=0.2, **sizes))[1]) == missed
    assert "missed" not in verdicts.judge(row(p_holm=0.01, **sizes))[1]
    assert "missed" not in verdicts.judge(row(p_holm=0.2, published=float("nan"), smallest_effect=effect))[1]


@pytest.mark.parametrize("counts", [(16, 64), (128, None), (None, 64)])
def test_unequal_numbers_of_candidates_are_named_with_any_verdict(counts):
    words = "trained on {} candidates of an image, the other on {}".format(*(count or "all" for count in counts))
    for p in (0.01, 0.2):
        found = row(p_holm=p, candidates=counts[0], baseline_candidates=counts[1])
        assert verdicts.judge(found)[1].endswith(words)
        assert "trained on" not in verdicts.judge({**found, "candidates": counts[1]})[1]


def test_unequal_numbers_of_foreground_anchors_are_named_with_any_verdict():
    for p in (0.01, 0.2):
        more = verdicts.judge(row(p_holm=p, foreground=111.0))[1]
        assert more.endswith("; 111.0 anchors of an image are its foreground, 7.0 the other's")
        for same in (7.001, None, float("nan")):  # as records round, and where one of the two has two stages
            assert "foreground" not in verdicts.judge(row(p_holm=p, foreground=same))[1]


def test_numbers_of_foreground_anchors_are_those_that_the_assigners_make(several):
    made, layout, record = several
    data = verdicts.data(made, layout).set_index("experiment")
    for name, shown in data.iterrows():
        candidates = pd.read_csv(layout.candidates(name)).query("set == 'foreground'")
        if "dense" in made.experiment(name).methods:
            assert shown["foreground"] == pytest.approx(candidates["represents"].sum() / record["images"])
        else:
            assert pd.isna(shown["foreground"])
    assert data["foreground"].notna().nunique() == 2, "of one stage and of two"


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.5, 0.5, "agrees"),
        (0.1, 0.4, "agrees"),  # sure to be above zero, and equal for all that
        (-0.5, 0.51, "cannot tell"),
        (-0.51, 0.5, "cannot tell"),
        (0.5, 1.0, "cannot tell"),
        (0.51, 1.0, "disagrees"),
        (-1.0, -0.5, "cannot tell"),
        (-1.0, -0.51, "disagrees"),
        (-3.0, 3.0, "cannot tell"),
    ],
)
def test_equal_is_told_by_the_whole_interval(low, high, verdict):
    found = row(direction="equal", margin=0.5, low=low, high=high, p_holm=0.001)
    assert verdicts.judge(found)[0] == verdict


@pytest.mark.parametrize("direction", ["better", "worse", "equal"])
@pytest.mark.parametrize("difference", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize(("changes", "why"), [({"seeds": 1}, "one run"), ({"over": "images"}, "these very runs")])
def test_without_seeds_nothing_can_be_told(direction, difference, changes, why):
    """However large the difference is, and however close to zero."""
    sure = {"difference": difference, "low": difference - 0.1, "high": difference + 0.1, "p_holm": 0.0001}
    verdict, reason = verdicts.judge(row(direction=direction, margin=0.5, **sure, **changes))
    assert verdict == "cannot tell"
    assert why in reason
    assert "another seed may differ" in reason


def full_study(**changes) -> Study:
    """All claims that the fabricated experiments can be asked for, with three seeds."""
    pairs = {
        "focal_over_alpha_ce": ["focal-g2", "ce-a0.75"],
        "gamma_5_below_2": ["focal-g5", "focal-g2"],
        "focal_star_like_focal": ["focal-star-g2-b1", "focal-g2"],
        "pisa_over_random": ["two-pisa", "two-cross_entropy"],
        "swn_over_baseline": ["sample_weighting", "focal-g2"],
        "ohem_over_random": ["two-ohem", "two-cross_entropy"],
    }
    intervals = {
        "resamples": 500,
        "over": "seeds_and_images",
        "baselines": ["ce-a0.75", "focal-g2", "two-cross_entropy"],
    }
    report = {**fabricate.raw_study()["report"], "verdicts": pairs}
    return fabricate.study(**{"seeds": [7, 8, 9], "intervals": intervals, "report": report, **changes})


@pytest.fixture
def several(project):
    """That study, its layout and its record, which a test may change and write again."""
    made = full_study()
    layout = Layout.of(made)
    record = fabricate.intervals(made)
    layout.intervals.write_text(json.dumps(record))
    return made, layout, record


def difference_of(record, shown):
    """What the record has of the pair and metric of a row; it has each pair once."""
    wanted = shown[["experiment", "baseline", "metric"]].tolist()
    (found,) = (o for o in record["differences"] if [o[key] for key in ("experiment", "baseline", "metric")] == wanted)
    return found


def test_holms_correction_is_for_all_claims_that_say_which_is_better(several):
    made, layout, _ = several
    data = verdicts.data(made, layout)
    tested = data[data["direction"] != "equal"]
    assert len(tested) == len(data) - 1 == 5
    assert tested["p_holm"].tolist() == holm(tested["p"]).tolist()
    assert data.loc[data["direction"] == "equal", "p_holm"].isna().all()


def test_a_pair_may_stand_the_other_way_round_in_the_record(several):
    made, layout, record = several
    before = verdicts.data(made, layout).set_index("claim").loc["gamma_5_below_2"]
    found = difference_of(record, before)
    found["experiment"], found["baseline"] = found["baseline"], found["experiment"]
    found["value"], found["low"], found["high"] = -found["value"], -found["high"], -found["low"]
    layout.intervals.write_text(json.dumps(record))
    after = verdicts.data(made, layout).set_index("claim").loc["gamma_5_below_2"]
    pd.testing.assert_series_equal(after, before)


def test_a_p_value_that_resamples_bound_is_called_at_most(several):
    made, layout, record = several
    for difference in record["differences"]:
        difference["p"] = record["least_p"]
    layout.intervals.write_text(json.dumps(record))
    reasons = verdicts.data(made, layout).query("direction != 'equal'")["reason"]
    assert all(reason.startswith("p ≤ 0.010") for reason in reasons), "five times 1/501"


def test_differences_are_those_of_the_record_in_points(several):
    made, layout, record = several
    data = verdicts.data(made, layout)
    assert data["claim"].tolist() == list(made.report.verdicts)
    for _, shown in data.iterrows():
        found = difference_of(record, shown)
        columns = ["difference", "low", "high", "smallest_effect"]
        expected = [100 * found[key] for key in ("value", "low", "high", "smallest_effect")]
        assert shown[columns].tolist() == pytest.approx(expected)
        assert shown["p"] == found["p"]
        assert (shown["verdict"], shown["reason"]) == verdicts.judge(shown)
    assert data.set_index("claim").loc["ohem_over_random", "metric"] == "AP50"


def test_the_table_and_the_picture_hold_a_row_for_each_claim(several):
    made, layout, record = several
    for difference in record["differences"]:
        difference["p"] = 0.004 if difference["value"] > 0 else 0.9
    layout.intervals.write_text(json.dumps(record))
    figures.run(made, layout, "verdicts")
    data = records.parse_csv((layout.figures / "verdicts.csv").read_text(), "verdicts")
    table = (layout.figures / "verdicts.md").read_text()
    assert {"agrees", "cannot tell"} <= set(data["verdict"])
    for _, shown in data.iterrows():
        (line,) = (line for line in table.splitlines() if shown["statement"].replace("*", r"\*") in line)
        assert f"| {shown['verdict']} |" in line
        estimate = f"{shown['difference']:+.1f} ({shown['low']:+.1f} to {shown['high']:+.1f})".replace("-", "−")
        assert estimate in line
        assert f"| {shown['smallest_effect']:.1f} |" in line
        assert shown["claimed_setting"] in line
    axes = verdicts.draw(data).axes[0]
    assert [text.get_text() for text in axes.texts] == data["verdict"].tolist()
    assert len(axes.get_yticks()) == len(data)


def test_captions_give_the_rules_and_say_that_this_is_no_replication(several):
    made, layout, _ = several
    data = verdicts.data(made, layout)
    caption = verdicts.caption(made, data)
    for words in (
        "below .05 after Holm's correction",
        "within ±0.5 points",
        "the margin is ours",
        "another seed may differ",
        "found four times of five",
        "the mean of 3 seeds",
        "500 paired resamples of the images, with Student's t for the seeds",
        "no replication of any paper",
        "seeds 7, 8, 9",
    ):
        assert words in caption
    coco = full_study(data={"source": "coco2017", "folder": "data/coco"})
    assert "no replication" not in verdicts.caption(coco, data)
    alike = data[data["direction"] != "equal"]
    assert "margin" not in verdicts.caption(made, alike)


def test_one_seed_tells_nothing_and_nothing_is_ever_called_replicated(drawn, several):
    made, layout, _ = several
    figures.run(made, layout, "verdicts")
    for folder in (drawn / layout.figures, layout.figures):
        for suffix in ("csv", "rst", "md", "tex", "svg"):
            assert "replicated" not in (folder / f"verdicts.{suffix}").read_text().lower()
    data = records.parse_csv((drawn / layout.figures / "verdicts.csv").read_text(), "verdicts")
    assert set(data["verdict"]) == {"cannot tell"}
    assert "one run of each, with the 95 % interval" in (drawn / layout.figures / "verdicts.rst").read_text()


@pytest.mark.promise("Seeds, intervals and sweeps that make no sense are refused", "bad input")
def test_an_unknown_claim_names_the_nearest_before_anything_runs():
    made = full_study()
    report = made.report.model_copy(update={"verdicts": {"focal_over_ohm": ("focal-g2", "ce-a0.75")}})
    wrong = made.model_copy(update={"report": report})
    with refused(r"report\.verdicts names no claim '.*'; did you mean '.*'") as error:
        figures.inputs(wrong, Layout.of(wrong), "verdicts")
    assert "'focal_over_ohem'" in str(error.value)


def test_a_record_that_lacks_a_pair_is_named(several):
    made, layout, record = several
    record["differences"] = [one for one in record["differences"] if one["experiment"] != "focal-g5"]
    layout.intervals.write_text(json.dumps(record))
    with refused("has no difference in AP between .* and .*; it is older") as error:
        verdicts.data(made, layout)
    assert f"{layout.intervals} has no difference in AP between focal-g5 and focal-g2" in str(error.value)

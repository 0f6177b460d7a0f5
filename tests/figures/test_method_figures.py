"""Figures across methods and of single papers: what they show is in the records, counted again by hand."""

import json

import fabricate
import numpy as np
import pandas as pd
import pytest

from imbdet import figures
from imbdet.errors import UserError
from imbdet.evaluation import inspection
from imbdet.figures import figure, gradient_shares, inspected, records, style, suppressed_gradients

CANDIDATES = ["p_t", "effective_weight"]


def shown(drawn, layout, name):
    return records.parse_csv((drawn / layout.figures / f"{name}.csv").read_text(), name)


def caption(drawn, layout, name):
    return (drawn / layout.figures / f"{name}.rst").read_text()


def table_of(study, layout, name):
    module = figure(name)
    return {(c.group, c.heading): list(c.cells) for c in module.table(module.data(study, layout))}


def test_candidates_shown_are_some_of_each_kind_spread_over_the_record(project, study, layout):
    for name in ("ce", "pisa"):
        record = pd.read_csv(layout.candidates(name))
        record.assign(p_t=np.arange(len(record)) / len(record)).to_csv(layout.candidates(name), index=False)
    data = inspected.read(study, layout, ["ce", "pisa"], CANDIDATES, most=40)
    assert list(data) == ["experiment", "label", "set", *CANDIDATES, "images"]
    for name in ("ce", "pisa"):
        record = pd.read_csv(layout.candidates(name))
        for kind in ("foreground", "background"):
            known = record.loc[record["set"] == kind, "p_t"].tolist()
            ours = data.loc[(data["experiment"] == name) & (data["set"] == kind), "p_t"]
            places = sorted(map(known.index, ours))
            assert len(set(places)) == 40
            assert np.diff([-1, *places, len(known)]).max() <= -(-len(known) // 40)
    every = inspected.read(study, layout, ["ce"], CANDIDATES, most=10**6)
    assert len(every) == len(pd.read_csv(layout.candidates("ce")))


def test_experiments_without_what_a_figure_needs_are_left_out(project, study, layout):
    data = inspected.read(study, layout, ["ce", "pisa", "noisy_anchors"], ("rank",), needs=("rank",))
    assert set(data["experiment"]) == {"pisa"}
    with pytest.raises(UserError, match=r"of ce, noisy_anchors no candidates have rank; name an experiment"):
        inspected.read(study, layout, ["ce", "noisy_anchors"], ("rank",), needs=("rank",))


def test_each_method_has_a_panel_and_none_is_left_out(drawn, study, layout):
    for name in ("effective_weight", "effective_weight_iou", "method_loss"):
        assert list(shown(drawn, layout, name)["experiment"].unique()) == list(study.report.methods)


def test_iou_is_that_of_the_predicted_box_for_foreground_and_of_the_prior_for_background(drawn, layout):
    data = shown(drawn, layout, "effective_weight_iou").query("experiment == 'focal-g2'")
    record = pd.read_csv(drawn / layout.candidates("focal-g2"))
    for kind, column in (("foreground", "predicted_iou"), ("background", "prior_iou")):
        ours = data[data["set"] == kind][["iou", "effective_weight"]].to_numpy()
        theirs = record[record["set"] == kind][[column, "effective_weight"]].to_numpy()
        assert {tuple(row) for row in ours} <= {tuple(row) for row in theirs}
        assert len(ours) == 150


def test_what_weighs_nothing_stands_on_the_floor_and_everything_is_inside_the_axes(drawn, layout):
    from imbdet.figures import effective_weight

    data = shown(drawn, layout, "effective_weight")
    assert (data["effective_weight"] == 0).any()
    for panel in effective_weight.draw(data).axes[: data["experiment"].nunique()]:
        for points in panel.collections:
            x, y = np.asarray(points.get_offsets()).T
            assert (y >= effective_weight.FLOOR).all()
            assert (np.clip(x, *panel.get_xlim()) == x).all()
            assert (np.clip(y, *panel.get_ylim()) == y).all()


def test_difficulties_are_those_of_the_inspection():
    assert (gradient_shares.HARD, gradient_shares.EASY) == (inspection.HARD, inspection.EASY)
    assert tuple(gradient_shares.DIFFICULTIES) == inspection.DIFFICULTIES
    assert set(gradient_shares.SETS) == set(inspection.SETS)


def test_gradient_shares_rise_with_gamma_and_the_caption_says_how_they_move(drawn, study, layout):
    data = shown(drawn, layout, "gradient_shares")
    assert list(data["gamma"].unique()) == [0, 0.5, 1, 2, 5]
    assert len(data) == 9 * len(study.report.gamma)
    for column in ("logits", "gradient"):
        np.testing.assert_allclose(data.groupby("experiment")[column].sum(), 1)
    words = caption(drawn, layout, "gradient_shares")
    for kind, column, verb in (
        ("hard", "difficulty", "rises"),
        ("easy", "difficulty", "falls"),
        ("background", "set", "falls"),
    ):
        shares = data[data[column] == kind].groupby("gamma")["gradient"].sum()
        assert f"{verb} from {shares[0]:.0%} to {shares[5]:.0%}" in words


def test_gradient_shares_are_compared_at_one_alpha_where_both_ends_have_it(drawn, study, layout):
    data = shown(drawn, layout, "gradient_shares")
    assert ", at α" not in gradient_shares.caption(study, data), "the ends differ in alpha"
    one = data.assign(alpha=0.25)
    words = gradient_shares.caption(study, one)
    assert "From γ = 0 to γ = 5, at α = 0.25, the share" in words
    last = one[one["gamma"] == 5].assign(
        experiment="another", alpha=0.75, gradient=lambda rows: rows["gradient"].iloc[::-1].to_numpy()
    )
    moves = words.partition("the share of ")[2].partition(". Of the logits")[0]
    assert moves in gradient_shares.caption(study, pd.concat([one, last], ignore_index=True))


def test_many_bars_have_their_names_upright_and_no_numbers(drawn, layout):
    data = shown(drawn, layout, "gradient_shares")
    copies = [data.assign(experiment=data["experiment"] + str(i)) for i in range(2)]
    for rows, angle in ((data, 0), (pd.concat(copies, ignore_index=True), 90)):
        axes = gradient_shares.draw(rows).axes[0]
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {angle}
        assert bool(axes.texts) == (angle == 0)


def test_a_bar_is_the_shares_on_top_of_each_other(drawn, layout):
    data = shown(drawn, layout, "gradient_shares")
    bars = [bar for container in gradient_shares.draw(data).axes[0].containers for bar in container]
    heights = sorted(bar.get_height() for bar in bars)
    np.testing.assert_allclose(heights, sorted([*data["gradient"], *data["logits"]]))
    tops = [bar.get_y() + bar.get_height() for bar in bars]
    assert sum(np.isclose(tops, 1)) >= 2 * data["experiment"].nunique()


def test_method_loss_caption_names_the_extremes(drawn, layout):
    data = shown(drawn, layout, "method_loss")
    words = caption(drawn, layout, "method_loss")
    for kind, share in (("foreground", 0.2), ("background", 0.001)):
        found = {}
        for label, curve in data[data["set"] == kind].groupby("label"):
            found[label] = 1 - np.interp(1 - share, curve["fraction"], curve["cumulative"])
        least, most = min(found, key=found.get), max(found, key=found.get)
        assert f"{found[least]:.0%} ({least}) to {found[most]:.0%} ({most})" in words.replace("\\", "")


def test_cleanliness_and_ranks_are_of_foreground_alone(drawn, layout):
    for name in ("cleanliness", "prime_ranks"):
        assert set(shown(drawn, layout, name)["set"]) == {"foreground"}
    assert (shown(drawn, layout, "prime_ranks")["rank"] >= 0).all()


def test_histograms_of_the_selected_and_of_the_others_each_sum_to_1(drawn, layout):
    data = shown(drawn, layout, "selected_anchors")
    assert set(data["experiment"]) == {"ohem_dense", "ohem-1-3", "ssd_hard_negatives", "two-ohem"}
    for (name, kind, selected), bars in data.groupby(["experiment", "set", "selected"]):
        record = pd.read_csv(drawn / layout.candidates(name))
        chosen = record[(record["set"] == kind) & ((record["selected"] > 0) == (selected == 1))]
        assert bars["share"].sum() == pytest.approx(1 if len(chosen) else 0)
        low, high = bars["from"].iloc[4], bars["to"].iloc[4]
        inside = chosen["p_t"].between(low, high, inclusive="left").mean() if len(chosen) else 0
        assert bars["share"].iloc[4] == pytest.approx(inside)


def test_the_part_that_is_selected_counts_what_the_sample_stands_for(project, study, layout):
    record = pd.read_csv(layout.candidates("ohem_dense"))
    background = record["set"] == "background"
    record.loc[background, "represents"] = np.where(record.loc[background, "selected"] > 0, 2, 5000)
    record.to_csv(layout.candidates("ohem_dense"), index=False)
    data = figure("selected_anchors").data(study, layout).query("experiment == 'ohem_dense' and set == 'background'")
    chosen = background & (record["selected"] > 0)
    expected = 2 * chosen.sum() / record.loc[background, "represents"].sum()
    assert 0 < expected < 0.001
    assert data["part"].unique().tolist() == pytest.approx([expected])


def test_forces_are_quotients_by_label_whatever_the_order_of_the_classes():
    """Labels follow the ids; the census has the classes by boxes."""
    classes = [
        {"id": 7, "name": "b", "boxes": 9},
        {"id": 40, "name": "c", "boxes": 5},
        {"id": 3, "name": "a", "boxes": 1},
    ]
    rows = [
        ("foreground", 0, 2.0, 2.0),
        ("foreground", 1, 4.0, 4.0),
        ("foreground", 2, 0.0, 0.0),
        ("other classes", 0, 0.0, 6.0),
        ("other classes", 1, 1.0, 1.0),
        ("other classes", 2, 1.0, 1.0),
        ("background", 0, 8.0, 8.0),
        ("background", 1, 1.0, 1.0),
        ("background", 2, 1.0, 1.0),
    ]
    table = pd.DataFrame(rows, columns=["set", "value", "gradient", "cross_entropy"]).assign(by="class")
    found = suppressed_gradients.forces(table, classes)
    assert list(found["name"]) == ["b", "b", "c", "c", "a", "a"]
    of = {(row["name"], row["set"]): (row["cross_entropy"], row["loss"]) for _, row in found.iterrows()}
    assert of["a", "other classes"] == (3, 0)
    assert of["a", "background"] == (4, 4)
    assert of["b", "other classes"] == (0.25, 0.25)
    assert all(np.isnan(of["c", "background"]))  # nothing pushes it up, and it has no point
    assert suppressed_gradients.draw(found.assign(experiment="e", label="E"))
    spared = suppressed_gradients.tail(found.assign(experiment="e"))
    assert spared.set_index("name")["tail"].to_dict() == {"a": True, "b": False, "c": False}


def test_forces_are_shown_of_methods_that_suppress_and_the_caption_says_what_is_left(drawn, layout):
    data = shown(drawn, layout, "suppressed_gradients")
    assert list(data["experiment"].unique()) == ["two-equalization", "two-equalization_softmax"]
    others = data[(data["set"] == "other classes") & (data["experiment"] == "two-equalization")]
    tail = others.sort_values("boxes").iloc[:2]
    assert (tail["loss"] == 0).all()
    assert (tail["suppressed"] == 1).all()
    assert (others.sort_values("boxes").iloc[2:]["loss"] == others.sort_values("boxes").iloc[2:]["cross_entropy"]).all()
    words = caption(drawn, layout, "suppressed_gradients")
    assert f"for the 2 classes of the tail from {tail['cross_entropy'].median():.2g} to 0 and for the 4 other" in words


def test_a_study_without_equalization_among_its_baselines_is_told(project, study, layout):
    for name in study.report.equalization:
        record = pd.read_csv(layout.candidates(name))
        record.drop(columns="suppressed", errors="ignore").to_csv(layout.candidates(name), index=False)
    with pytest.raises(UserError, match=r"no experiment of report\.equalization has candidates with a column"):
        figure("suppressed_gradients").data(study, layout)


def test_ohem_is_joined_by_batch_and_threshold(project, study, layout):
    data = figure("ohem_table").data(study, layout)
    joined = data.dropna(subset=["measured_experiment"]).set_index("measured_experiment")
    assert joined["published_AP"].to_dict() == {"focal-g2": 36.0, "ohem_dense": 32.8, "ohem-1-3": 31.1}
    assert len(data) == 10
    table = table_of(study, layout, "ohem_table")
    assert table["", "batch"][:2] == ["–", "128"]


def test_equalization_is_joined_by_method_and_means_are_over_the_classes_that_it_spares(project, study, layout):
    data = figure("equalization_table").data(study, layout)
    joined = data.dropna(subset=["measured_experiment"]).set_index("measured_experiment")
    published = joined["published_AP_box"].dropna().to_dict()
    assert published == {"two-sigmoid": 20.5, "two-cross_entropy": 20.7, "two-equalization": 23.3}
    record = json.loads(layout.evaluation("two-sigmoid").read_text())
    classes = {row["name"]: row["AP"] for row in record["per_class"]}
    assert data["tail"].unique().tolist() == ["cross, ring"]
    tail = [100 * classes[name] for name in ("cross", "ring")]
    others = [100 * ap for name, ap in classes.items() if name not in ("cross", "ring") and ap is not None]
    assert len(others) == 3
    assert joined["measured_AP_tail"].to_dict()["two-sigmoid"] == pytest.approx(np.mean(tail))
    assert joined["measured_AP_others"].to_dict()["two-sigmoid"] == pytest.approx(np.mean(others))
    note = figure("equalization_table").caption(study, data)
    assert "table 5, LVIS v0.5" in note
    assert "(cross, ring)" in note


def test_equalization_is_joined_by_tail_ratio(project, study, layout):
    data = figure("equalization_lambda_table").data(study, layout)
    joined = data.dropna(subset=["measured_experiment"]).set_index("measured_experiment")
    assert joined["published_AP_box"].to_dict() == {"two-sigmoid": 20.5, "two-equalization": 23.3}
    assert len(data) == 9
    table = table_of(study, layout, "equalization_lambda_table")
    assert table["", "tail ratio"][:2] == ["0", "0.0093"]


@pytest.mark.parametrize(
    ("name", "rows", "measured"),
    [
        (
            "pisa_table",
            18,
            {"two-cross_entropy": "baseline", "two-pisa": "PISA", "focal-g2": "baseline", "pisa": "PISA"},
        ),
        ("noisy_anchors_table", 8, {"focal-g2": "baseline", "noisy_anchors": "noisy anchors"}),
        (
            "equalization_models_table",
            22,
            {
                "two-sigmoid": "baseline",
                "two-cross_entropy": "baseline",
                "two-equalization": "EQL",
                "two-equalization_softmax": "equalization_softmax",
            },
        ),
    ],
)
def test_a_gain_stands_beside_the_published_ones(project, study, layout, name, rows, measured):
    """Of the same detector, under a backbone of its own; no row of either side is lost."""
    data = figure(name).data(study, layout)
    ours = data.dropna(subset=["measured_experiment"])
    assert len(data) == rows
    assert ours.set_index("measured_experiment")["method"].to_dict() == measured
    assert ours["published_AP"].isna().all()
    assert set(ours["backbone"]) == {"tiny"}
    assert set(ours["model"]) <= set(data.dropna(subset=["published_AP"])["model"]) | {"Faster R-CNN"}
    for source in data["published_paper"].dropna().unique():
        assert source in figure(name).caption(study, data)


def test_a_tail_without_boxes_in_the_validation_images_has_no_mean(project, study, layout):
    record = json.loads(layout.evaluation("two-sigmoid").read_text())
    for row in record["per_class"]:
        row["AP"] = None if row["name"] in ("cross", "ring") else 0.0
    layout.evaluation("two-sigmoid").write_text(json.dumps(record))
    data = figure("equalization_table").data(study, layout).set_index("measured_experiment")
    assert np.isnan(data.loc["two-sigmoid", "measured_AP_tail"])
    assert data.loc["two-sigmoid", "measured_AP_others"] == 0


def test_the_funnel_stands_beside_the_anchors_of_the_one_stage_detector(drawn, study, layout):
    data = shown(drawn, layout, "funnel")
    assert list(data["station"]) == ["anchors", "anchors", "RPN sample", "proposals", "RoI sample"]
    levels = json.loads((drawn / layout.census("retinanet")).read_text())["levels"]
    ratio = sum(level["background"] for level in levels) / sum(level["foreground"] for level in levels)
    assert data["background"][0] / data["foreground"][0] == pytest.approx(ratio)
    words = caption(drawn, layout, "funnel")
    assert "anchors 400, RPN sample 3, proposals 9, RoI sample 3; the one-stage detector trains" in words
    assert f"on its anchors at {ratio:.3g}. " in words


def test_without_a_one_stage_detector_the_funnel_stands_alone(project, layout):
    raw = fabricate.raw_study()
    chosen = {name: entry for name, entry in raw["experiments"].items() if entry["detector"] == "faster_rcnn"}
    report = {
        "cumulative_loss": ["two-focal"],
        "precision_recall": [],
        "detections": [],
        "funnel": ["two-cross_entropy"],
    }
    detectors = {"faster_rcnn": raw["detectors"]["faster_rcnn"]}
    study = fabricate.study(detectors=detectors, experiments=chosen, report=report, intervals=None)
    assert "structure" not in figures.names(study)
    assert layout.census("retinanet") not in figures.inputs(study, layout, "funnel")
    data = figure("funnel").data(study, layout)
    assert list(data["station"]) == ["anchors", "RPN sample", "proposals", "RoI sample"]
    assert "one-stage" not in figure("funnel").caption(study, data)
    assert figure("funnel").draw(data)
    assert figures.inputs(study, layout, "census") == [layout.census("faster_rcnn")]


@pytest.mark.parametrize("label", ["cross entropy with a long name", "CROSS ENTROPY, LONG NAME"])
def test_legends_lie_inside_their_pictures(drawn, layout, label):
    """Also with long or wide labels and beside long numbers: they take the room that they need from the panels."""
    for name in ("loss_curves", "method_loss"):
        data = shown(drawn, layout, name)
        data["label"] = data["label"].replace("CE", label)
        if name == "loss_curves":
            data["loss"] = 0.025 + 0.01 * data["loss"].rank(pct=True)
        with style.applied():
            picture = figure(name).draw(data)
            style.add_caption(picture, "caption", "badge")
            style.encode(picture, "png")
            legends = [legend for axes in picture.axes if (legend := axes.get_legend())]
            assert len(legends) == 2
            for legend in legends:
                box = legend.get_window_extent()
                assert box.x0 >= 0
                assert box.x1 <= picture.bbox.x1

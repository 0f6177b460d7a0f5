"""Published beside measured: joined by parameters, nothing lost on either side."""

import json

import pytest

from imbdet.figures import comparison, figure


def test_both_sides_are_joined_by_gamma(project, study, layout):
    data = figure("gamma_ablation").data(study, layout).set_index("gamma")
    assert list(data.index) == [0, 0.1, 0.2, 0.5, 1, 2, 5]
    assert data["measured_experiment"].dropna().to_dict() == {
        0: "ce-a0.75",
        0.5: "focal-g0.5",
        1: "focal-g1",
        2: "focal-g2",
        5: "focal-g5",
    }
    assert data["published_AP"].to_dict()[2] == 34.0
    measured = json.loads(layout.evaluation("focal-g2").read_text())
    assert data["measured_AP75"].to_dict()[2] == pytest.approx(100 * measured["AP75"])


def test_unweighted_cross_entropy_stands_alone(project, study, layout):
    data = figure("alpha_ablation").data(study, layout)
    alone = data[data["alpha"].isna()]
    assert list(alone["measured_experiment"]) == ["ce"]
    assert alone["published_AP"].isna().all()
    assert len(data) == 8


def test_focal_star_is_joined_by_gamma_and_beta(project, study, layout):
    data = figure("focal_star").data(study, layout)
    keys = data[["loss", "gamma", "beta"]].fillna(-1).itertuples(index=False, name=None)
    joined = dict(zip(keys, data["measured_experiment"], strict=True))
    assert joined == {
        ("CE", 0, -1): "ce-a0.75",
        ("FL", 2, -1): "focal-g2",
        ("FL*", 2, 1): "focal-star-g2-b1",
        ("FL*", 4, 0): "focal-star-g4-b0",
    }


def test_focal_star_never_stands_beside_a_published_focal_loss(project, study, layout):
    data = comparison.data(study, layout, ["focal-star-g2-b1"], "focal_loss_1b", ("loss", "gamma"))
    star = data[data["loss"] == "FL*"]
    assert list(star["measured_experiment"]) == ["focal-star-g2-b1"]
    assert star["published_AP"].isna().all()


def test_two_runs_of_one_gamma_are_two_rows(project, study, layout):
    record = json.loads(layout.evaluation("focal-g2").read_text())
    record["method"]["alpha"] = 0.5
    layout.evaluation("focal-g5").write_text(json.dumps(record))
    data = comparison.data(study, layout, ["focal-g2", "focal-g5"], "focal_loss_1b", ("loss", "gamma"))
    assert list(data.query("gamma == 2")["measured_alpha"]) == [0.25, 0.5]


def test_of_several_seeds_the_measured_side_is_the_mean(project, study, layout):
    two = study.model_copy(update={"seeds": (study.seed, study.seed + 1)})
    again = layout.at_seed(study.seed + 1).evaluation
    for name in study.report.gamma:
        record = json.loads(layout.evaluation(name).read_text())
        again(name).parent.mkdir(parents=True, exist_ok=True)
        again(name).write_text(json.dumps(record | {"AP": record["AP"] + 0.1}))
    module = figure("gamma_ablation")
    assert {again(name) for name in study.report.gamma} < set(module.inputs(two, layout))
    one, both = module.data(study, layout), module.data(two, layout)
    assert (both["measured_AP"] - one["measured_AP"]).dropna().to_list() == pytest.approx([5] * len(study.report.gamma))
    assert both["measured_AP50"].equals(one["measured_AP50"])
    assert "one run each" in module.caption(study, one)
    assert "means of 2 runs" in module.caption(two, both)
    assert f"seeds {study.seed}, {study.seed + 1}" in module.caption(two, both)


def test_an_undefined_metric_is_a_dash(project, study, layout):
    record = json.loads(layout.evaluation("ce").read_text())
    layout.evaluation("ce").write_text(json.dumps({**record, "AP75": None}))
    module = figure("results")
    columns = {column.heading: column.cells for column in module.table(module.data(study, layout))}
    assert columns["AP75"][0] == "–"
    assert columns["AP large"] == ["–"] * len(study.experiments)
    assert columns["AP"][0] == "25.0"


def test_each_side_names_its_data(project, study, layout):
    module = figure("focal_star")
    groups = [column.group for column in module.table(module.data(study, layout))]
    assert groups[:3] == [""] * 3
    assert set(groups[3:7]) == {"published: COCO trainval35k to minival"}
    assert set(groups[7:]) == {f"measured: {study.description}"}

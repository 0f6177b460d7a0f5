"""What every figure promises: files, data, captions, equal bytes, and errors that help."""

import json
import subprocess
import sys
from copy import deepcopy
from itertools import combinations
from pathlib import Path

import fabricate
import matplotlib as mpl
import pytest

from imbdet import figures
from imbdet.errors import UserError
from imbdet.figures import captions, drawing, records
from imbdet.layout import Layout

ANALYTIC = {"focal_loss_pt", "focal_loss_xt", "focal_star_xt", "derivatives"}
OF_A_STUDY = [name for name in figures.FIGURES if name not in figures.OF_A_SWEEP]
COCO = {"source": "coco2017", "folder": "data/coco"}


def test_the_graph_is_built_without_heavy_imports():
    code = """if True:
        import json, sys
        from imbdet import figures
        from imbdet.study_file import parse_study
        from imbdet.layout import Layout
        study = parse_study(json.loads(sys.argv[1]), name="s", where="s")
        for name in figures.names(study):
            assert figures.inputs(study, Layout.of(study), name) is not None
            assert figures.outputs(Layout.of(study), name)
        print({"torch", "matplotlib", "pandas"} & set(sys.modules))
    """
    command = [sys.executable, "-c", code, json.dumps(fabricate.raw_study())]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "set()\n"


def test_every_name_has_a_module_of_its_own():
    folder = Path(figures.__file__).parent
    for name in figures.FIGURES:
        module = figures.figure(name)
        assert Path(module.__file__) == folder / f"{name}.py"
        assert hasattr(module, "draw") or hasattr(module, "table")


def test_a_figure_whose_list_is_empty_is_not_drawn():
    report = {**fabricate.raw_study()["report"], "gamma": [], "detections": []}
    names = figures.names(fabricate.study(report=report))
    assert set(OF_A_STUDY) - set(names) == {"gamma", "gamma_ablation", "gradient_shares", "detections"}


def test_the_ablation_of_gamma_is_not_drawn_where_a_gamma_has_several_alphas():
    """Its curve would join what differs in both."""
    raw = fabricate.raw_study()
    ours = [name for name in raw["report"]["gamma"] if raw["experiments"][name]["methods"]["dense"]["name"] == "focal"]
    twin = deepcopy(raw["experiments"][ours[0]])
    twin["methods"]["dense"]["alpha"] = 0.6
    twin["label"] = "twin"
    report = {**raw["report"], "gamma": [*raw["report"]["gamma"], "twin"]}
    names = figures.names(fabricate.study(experiments={**raw["experiments"], "twin": twin}, report=report))
    assert set(figures.names(fabricate.study())) - set(names) == {"gamma_ablation"}


def test_a_study_with_one_kind_of_detector_draws_no_structure_of_the_other():
    raw = fabricate.raw_study()
    chosen = {name: entry for name, entry in raw["experiments"].items() if entry["detector"] == "retinanet"}
    report = {key: raw["report"][key] for key in ("cumulative_loss", "precision_recall", "detections")}
    one = fabricate.study(detectors={"retinanet": raw["detectors"]["retinanet"]}, experiments=chosen, report=report)
    assert "structure" in figures.names(one)
    assert "structure_two_stage" not in figures.names(one)
    assert {"funnel", "method_loss", "ohem_table"}.isdisjoint(figures.names(one))
    assert {"structure", "structure_two_stage"} <= set(figures.names(fabricate.study()))
    with pytest.raises(UserError, match="has no faster_rcnn among its detectors"):
        figures.inputs(one, Layout.of(one), "structure_two_stage")


@pytest.mark.parametrize("name", OF_A_STUDY)
def test_exactly_the_declared_files_are_written(drawn, layout, name):
    written = {path.relative_to(drawn) for path in (drawn / layout.figures).glob(f"{name}.*")}
    assert written == set(figures.outputs(layout, name))


def test_equal_records_give_equal_bytes(project, study, layout):
    for name in ("census", "cumulative_loss", "gamma_ablation", "effective_weight", "prime_ranks"):
        before = {path: path.read_bytes() for path in figures.outputs(layout, name)}
        figures.run(study, layout, name)
        assert before == {path: path.read_bytes() for path in figures.outputs(layout, name)}


def test_the_users_matplotlib_settings_change_nothing(project, study, layout):
    before = (layout.figures / "structure.png").read_bytes()
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "savefig.dpi": 20}):
        figures.run(study, layout, "structure")
    assert (layout.figures / "structure.png").read_bytes() == before


@pytest.mark.parametrize("name", OF_A_STUDY)
def test_inputs_are_all_that_is_read(project, study, layout, name):
    """With no other record there, the figure is the same."""
    needed = set(figures.inputs(study, layout, name))
    for path in Path("results").rglob("*"):
        if path.is_file() and path not in needed:
            path.unlink()
    data = figures.figure(name).data(study, layout)
    written = records.parse_csv((layout.figures / f"{name}.csv").read_text(), name)
    assert list(data) == list(written)
    assert len(data) == len(written)


@pytest.mark.parametrize("name", sorted(set(OF_A_STUDY) - ANALYTIC))
def test_captions_name_data_size_and_seed(drawn, study, layout, name):
    caption = (drawn / layout.figures / f"{name}.rst").read_text()
    for words in (study.description, "Study fabricated", "images", "seed 7", "These are not COCO results."):
        assert words in caption


@pytest.mark.parametrize("name", sorted(ANALYTIC))
def test_captions_of_equations_say_so(drawn, layout, name):
    caption = (drawn / layout.figures / f"{name}.rst").read_text()
    assert "no detector or data set is involved" in caption


def test_every_picture_holds_its_caption_and_a_badge(drawn, study, layout):
    for path in (drawn / layout.figures).glob("*.svg"):
        svg = path.read_text()
        assert ("not COCO" in svg) == (path.stem not in ANALYTIC)
        first_words = path.with_suffix(".rst").read_text()[:20].replace("\\", "")
        assert f"<!-- {first_words}" in svg


def test_only_a_coco_study_may_look_like_one(project, layout):
    study = fabricate.study(data=COCO)
    data = records.parse_csv((layout.figures / "results.csv").read_text(), "results")
    assert "not COCO" not in figures.figure("results").caption(study, data)
    assert "not COCO" not in drawing.captions.badge(study)
    part = fabricate.study(data=COCO | {"subset": {"train": 4, "val": 2}})
    assert "not COCO" in drawing.captions.badge(part)
    assert "not COCO" in figures.figure("results").caption(part, data)
    archive = {"source": "coco_format", "folder": "data/voc", "path": "voc.zip"}
    assert "not COCO" in drawing.captions.badge(fabricate.study(data=archive))


def test_photographs_that_are_not_passed_on_become_blank_canvases(project, study, layout):
    examples = json.loads(layout.examples.read_text())
    for image in examples["images"]:
        image["pixels"] = None
    layout.examples.write_text(json.dumps(examples))
    figures.run(study, layout, "detections")
    assert "blank canvases" in (layout.figures / "detections.rst").read_text()
    assert "data:image" not in (layout.figures / "detections.svg").read_text()


def test_detections_below_the_operating_score_are_not_shown(drawn, layout):
    data = records.parse_csv((drawn / layout.figures / "detections.csv").read_text(), "detections")
    found = json.loads((drawn / layout.examples).read_text())["images"]
    scores = [box["score"] for image in found for boxes in image["detections"].values() for box in boxes]
    assert min(scores) < 0.3
    assert sorted(data["score"].dropna()) == sorted(score for score in scores if score >= 0.3)


@pytest.mark.parametrize("shape", [(320, 240), (120, 320)])
def test_labels_of_detections_are_in_the_image_and_apart_where_there_is_room(drawn, layout, shape):
    """Boxes at all corners, one on another, and one as large as the image."""
    width, height = shape
    corners = [(x, y, 20, 20) for x in (0, width - 20) for y in (0, height - 20)]
    middle = (width / 2, height / 2, 40, 40)
    boxes = [*corners, middle, middle, (0, 0, width, height)]
    rows = records.parse_csv((drawn / layout.figures / "detections.csv").read_text(), "detections").iloc[:1]
    titles = json.dumps({"truth": "ground truth", "other": "another"})
    common = {**rows.iloc[0].to_dict(), "width": width, "height": height, "pixels": None, "panels": titles}
    shown = [{**common, "shown": "pixels"}]
    for x, y, w, h in boxes:
        shown.append({**common, "shown": "truth", "category": "disc", "x": x, "y": y, "w": w, "h": h, "score": None})
    figure = figures.figure("detections").draw(records.frame(shown))
    figure.canvas.draw()
    axes = figure.axes[0]
    places = [text.get_window_extent().transformed(axes.transData.inverted()) for text in axes.texts]
    assert len(places) == len(boxes)
    for place in places:
        assert -1 <= place.xmin < place.xmax <= width + 1
        assert -1 <= min(place.y0, place.y1) < max(place.y0, place.y1) <= height + 1
    for one, other in combinations(places, 2):
        assert not one.shrunk(0.9, 0.9).overlaps(other)


@pytest.mark.parametrize("name", ["loss_curves", "precision_recall"])
def test_every_curve_is_drawn_once_and_each_experiment_has_a_look_of_its_own(project, study, layout, name):
    """With 25 experiments on two detectors, whose losses have different terms."""
    every = tuple(study.experiments)
    study = fabricate.study(report={**fabricate.raw_study()["report"], "precision_recall": every})
    module = figures.figure(name)
    data = module.data(study, layout)
    lines = [line for axes in module.draw(data).axes for line in axes.get_lines()]
    assert len(lines) == len(data.groupby(["experiment", "term" if name == "loss_curves" else "iou"]))
    looks = {}
    for line in lines:
        label = line.get_label() if name == "loss_curves" else line.get_label().rpartition(":")[0]
        looks.setdefault(label, set()).add((line.get_color(), line.get_linestyle(), str(line._dash_pattern)))
    assert all(len(look) == 1 for look in looks.values())
    for _, rows in data.groupby("detector"):
        of_detector = [frozenset(looks[label]) for label in rows["label"].unique()]
        assert len(set(of_detector)) == len(of_detector)


def test_cumulative_loss_caption_reads_the_curves(drawn, layout):
    data = records.parse_csv((drawn / layout.figures / "cumulative_loss.csv").read_text(), "cumulative_loss")
    caption = (drawn / layout.figures / "cumulative_loss.rst").read_text()
    for gamma, curve in data[data["set"] == "foreground"].groupby("gamma"):
        easiest = curve.loc[(curve["fraction"] - 0.8).abs().idxmin(), "cumulative"]
        assert f"{1 - easiest:.0%} (γ = {gamma:g})" in caption


def test_eighty_classes_are_drawn_without_names(project, study, layout):
    census = json.loads(layout.census("retinanet").read_text())
    census["classes"] = [{"id": i, "name": f"class {i}", "boxes": 1000 // (i + 1)} for i in range(80)]
    layout.census("retinanet").write_text(json.dumps(census))
    figures.run(study, layout, "census")
    svg = (layout.figures / "census.svg").read_text()
    assert "80 classes, commonest first" in svg
    assert "class 7 " not in svg


@pytest.mark.parametrize(("least", "floor"), [(2.4, 1), (1, 0.1), (0.78, 0.1), (0.004, 0.001)])
def test_the_axis_of_a_census_begins_below_its_smallest_bar(project, study, layout, least, floor):
    census = json.loads(layout.census("retinanet").read_text())
    for level in census["levels"]:
        level.update(foreground=least, background=1000, ignored=0)
    layout.census("retinanet").write_text(json.dumps(census))
    module = figures.figure("census")
    assert module.draw(module.data(study, layout)).axes[0].get_ylim()[0] == pytest.approx(floor)


def test_detectors_are_called_as_the_field_calls_them():
    names = [captions.detector_name(key) for key in ("retinanet", "faster_rcnn", "retinanet_r50")]
    assert names == ["RetinaNet", "Faster R-CNN", "retinanet r50"]


def test_an_unknown_figure_names_the_nearest():
    with pytest.raises(UserError, match=r"no figure 'focal_los_pt'; did you mean 'focal_loss_pt'"):
        figures.figure("focal_los_pt")


def test_missing_records_are_named_with_their_commands(project, study, layout):
    layout.precision_recall("ce").unlink()
    layout.evaluation("focal-g2").unlink()
    with pytest.raises(UserError) as error:
        figures.run(study, layout, "precision_recall")
    for experiment, path in (("ce", layout.precision_recall("ce")), ("focal-g2", layout.evaluation("focal-g2"))):
        assert f"{path}: python -m imbdet evaluate config/fabricated.yaml {experiment}" in str(error.value)


def test_a_missing_census_is_named_with_the_command_of_its_detector(project, study, layout):
    layout.census("retinanet").unlink()
    with pytest.raises(UserError) as error:
        figures.run(study, layout, "census")
    path = "results/fabricated/census-retinanet.json"
    assert f"{path}: python -m imbdet census config/fabricated.yaml retinanet" in str(error.value)


def test_every_record_has_a_command(tmp_path, monkeypatch, study):
    monkeypatch.chdir(tmp_path)
    for name in figures.FIGURES:
        if name not in ANALYTIC:
            with pytest.raises(UserError, match="python -m imbdet"):
                figures.run(study, Layout.of(study), name)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not valid JSON"), ("[]", "must hold a JSON object, got list"), ('{"study": "s"}', "no key 'levels'")],
)
def test_a_damaged_record_is_named(project, study, layout, content, message):
    layout.census("retinanet").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        figures.run(study, layout, "census")
    assert str(layout.census("retinanet")) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("a,b\n1,2\n", "no column 'set'"),
        ('a,b\n"1', "not valid CSV"),
        ("set,gamma,fraction,cumulative,samples\n", "no rows"),
    ],
)
def test_a_damaged_curve_is_named(project, study, layout, content, message):
    path = layout.cumulative_loss("focal-g2")
    path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        figures.run(study, layout, "cumulative_loss")
    assert str(path) in str(error.value)

"""By whose rules detections are evaluated: the data's source says it, to the training and to `evaluate` alike."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from coco_cases import detections_of
from lvis_cases import SCORE, detections_on, made_up
from promises import refused

from imbdet.evaluation import coco_ap, errors, lvis_ap
from imbdet.evaluation.fast import average_precision
from imbdet.files import sha256, write_json
from imbdet.layout import Layout
from imbdet.study_file import load_study
from imbdet.training import validation

STUDY = Path(__file__).parents[1] / "pipeline" / "tiny.yaml"
PATH = {"path": "archive.zip"}
SOURCES = {"coco_format": PATH, "lvis_format": PATH, "lvis_v1": {}, "coco2017": {}, "voc2007": {}}
BY_LVIS = {"lvis_format", "lvis_v1"}


def study_of(source, **more):
    plain = load_study(STUDY)
    data = {"source": source, "folder": plain.data.folder, **SOURCES[source]}
    return type(plain).model_validate(plain.model_dump() | {"data": data} | more)


def with_keys(which):
    """The made-up data of LVIS, whose images at the positions ``which`` have its lists."""
    truth = made_up()
    for position, image in enumerate(truth["images"]):
        if position not in which:
            del image["neg_category_ids"], image["not_exhaustive_category_ids"]
    return truth


def both_ways(study, truth, monkeypatch):
    """AP, AP50 and AP75 of the same detections on the way and by `evaluate`, whose whole record comes third."""
    layout, name = Layout.of(study), next(iter(study.experiments))
    detections = detections_of(detections_on(made_up(), 1))
    layout.annotations("val").parent.mkdir(parents=True)
    layout.annotations("val").write_text(json.dumps(truth))
    write_json(layout.manifest, {"splits": {"val": {"annotations_sha256": sha256(layout.annotations("val"))}}})
    detections.save(layout.detections(name), layout.annotations("val"))
    monkeypatch.setattr("imbdet.evaluation.detect.detect_all", lambda *_: detections)
    state = SimpleNamespace(model=torch.nn.Identity(), validation=[], step=1)
    validation.validate(study, layout, name, state, torch.device("cpu"))
    coco_ap.run(study, layout, name)
    record = json.loads(layout.evaluation(name).read_text())
    keys = ("AP", "AP50", "AP75")
    return {key: state.validation[0][key] for key in keys}, {key: record[key] for key in keys}, record


@pytest.mark.promise("AP while training and AP of `evaluate` are by the same rules", "law")
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("which", [range(10), range(9), [3], []], ids=["all", "all but one", "one", "none"])
def test_the_training_and_evaluate_give_one_ap(tmp_path, monkeypatch, source, which):
    monkeypatch.chdir(tmp_path)
    truth = with_keys(which)
    if source in BY_LVIS and len(which) < 10:
        with refused(r"image \d+ has neg_category_ids None; LVIS has a list of category ids there"):
            both_ways(study_of(source), truth, monkeypatch)
        return
    on_the_way, afterwards, record = both_ways(study_of(source), truth, monkeypatch)
    assert on_the_way == pytest.approx(afterwards, abs=1e-12)
    assert ("AP_rare" in record) == (source in BY_LVIS)


def test_the_case_tells_the_rules_apart():
    truth, detections = made_up(), detections_of(detections_on(made_up(), 1))
    by_coco = coco_ap.evaluate(truth, detections, SCORE).metrics["AP"]
    by_lvis = lvis_ap.evaluate(truth, detections, SCORE).metrics["AP"]
    assert by_lvis > by_coco + 0.01
    assert average_precision(truth, detections)["AP"] == pytest.approx(by_coco, abs=1e-12)
    assert average_precision(truth, detections, rules="lvis")["AP"] == pytest.approx(by_lvis, abs=1e-12)


@pytest.mark.promise("Errors by COCO's rules are refused for LVIS", "bad input")
def test_what_is_of_coco_alone_is_refused_for_the_format_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = study_of("lvis_format")
    with refused("errors are told apart by the rules of COCO, and LVIS has others"):
        errors.run(study, Layout.of(study), next(iter(study.experiments)))
    intervals = {"resamples": 40, "over": "images", "baselines": [next(iter(study.experiments))]}
    assert study_of("coco_format", intervals=intervals).intervals
    with pytest.raises(ValueError, match="intervals are of COCO's AP, which LVIS does not have"):
        study_of("lvis_format", intervals=intervals)

"""The benchmark of the methods: realistic samples, fair comparison, and a page that says what its records say."""

import copy
from dataclasses import replace

import pytest
import torch
from scripts import FOLDER, load

from imbdet.config import method_names
from imbdet.errors import UserError
from imbdet.methods import build_method

SIZES = {"dense_images": 2, "anchors": 3000, "foreground": 40, "roi_images": 3, "proposals": 200, "sampled": 64}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def benchmark():
    torch.set_num_threads(1)
    return load("methods")


@pytest.fixture(scope="module")
def groups(benchmark):
    return benchmark.make_groups(SIZES, CPU)


@pytest.fixture(scope="module")
def record(benchmark):
    return benchmark.make_record(SIZES, repetitions=3, threads=[1])


def test_every_method_is_measured_at_every_stage_of_its_paper(benchmark):
    """But for RPN, whose one column is the dense head's case of one class."""
    specs = [(title, spec) for title, group in benchmark.read_specs().items() for spec in group.values()]
    measured = {(spec["name"], title.split(", ")[0].lower()) for title, spec in specs}
    stages = {spec["name"]: build_method(spec, benchmark.FREQUENCY).stages for _, spec in specs}
    assert set(stages) == set(method_names())
    assert measured == {(name, stage) for name, of_paper in stages.items() for stage in of_paper - {"rpn"}}


def test_a_group_shares_its_samples_and_begins_with_cross_entropy(benchmark, groups):
    specs = benchmark.read_specs()
    assert set(specs) < set(groups)
    for title, group in specs.items():
        activation = title.split(", ")[1]
        assert [spec["name"] for spec in group.values()].index("cross_entropy") == 0
        heads = {build_method(spec, benchmark.FREQUENCY).head.activation for spec in group.values()}
        assert heads == {activation}
        first, *others = groups[title].values()
        for other in others:
            assert all(a is b for a, b in zip(first.inputs, other.inputs[:2], strict=True))


def test_papers_samplers_and_assigners_stand_beside_the_librarys_own(groups):
    assert list(groups["sampling proposals"]) == ["RandomSampler", "HardExamples", "ScoreHLRSampler"]
    assert list(groups["assigning anchors"]) == ["MaxIoUAssigner", "TopNAssigner"]


def test_every_run_gives_the_methods_gradients(benchmark, groups):
    """Also the second, though samples remember what they have computed."""
    specs = benchmark.read_specs()["dense, sigmoid"]
    samples = benchmark.scenes.dense_samples(SIZES["dense_images"], SIZES["anchors"], SIZES["foreground"], "sigmoid")
    inputs = {name: getattr(samples, name).clone().requires_grad_() for name in ("logits", "deltas")}
    sum(build_method(specs["pisa"])(replace(samples, **inputs)).values()).backward()
    subject = groups["dense, sigmoid"]["pisa"]
    for _ in range(2):
        subject.prepare()
        subject.run()
        torch.testing.assert_close([x.grad for x in subject.inputs], [x.grad for x in inputs.values()])


def test_all_gradients_are_finite(benchmark, groups):
    for title in benchmark.read_specs():
        for name, subject in groups[title].items():
            subject.prepare()
            subject.run()
            for tensor in subject.inputs:
                assert tensor.grad is not None, (title, name)
                assert tensor.grad.isfinite().all(), (title, name)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_dense_samples_are_those_of_a_detector(benchmark, activation):
    samples = benchmark.scenes.dense_samples(2, 5000, 60, activation)
    assert samples.logits.shape == (10_000, 80 + (activation == "softmax"))
    check_samples(samples, activation)
    assert samples.level.unique().tolist() == [0, 1, 2, 3, 4]
    foreground = samples.foreground.view(2, -1)
    assert foreground.sum(1).tolist() == [60, 60]
    overlaps = samples.prior_iou.view(2, -1)
    for rows, iou in zip(foreground, overlaps, strict=True):
        assert iou[rows].min() >= iou[~rows].max()
    assert (samples.prior_iou[samples.label == 80] < 0.4).all()


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_roi_samples_are_those_of_a_detector(benchmark, activation):
    samples = benchmark.scenes.roi_samples(3, 400, 64, activation)
    assert len(samples.label) == 3 * 64
    assert samples.deltas.shape == (3 * 64, 80, 4)
    check_samples(samples, activation)
    assert samples.foreground.view(3, -1).sum(1).tolist() == [16, 16, 16]
    assert (samples.prior_iou[samples.foreground] >= 0.5).all()


def check_samples(samples, activation):
    """Boxes belong to their image; probabilities are low, and high where they should be; predicted boxes fit."""
    foreground = samples.foreground
    images = torch.arange(len(samples.gt_boxes)) // 8
    assert torch.equal(images[samples.gt_id[foreground]], samples.image_id[foreground])
    if activation == "sigmoid":
        background = samples.logits[samples.label == 80].sigmoid().mean()
        assert 0.01 < background < 0.05
        own = samples.target_logits[foreground].sigmoid()
    else:
        scores = samples.logits.softmax(1)
        assert 0.5 < scores[samples.label == 80, -1].mean() < 0.9
        own = scores[foreground].gather(1, samples.label[foreground, None])
    assert 0.2 < own.mean() < 0.8
    assert samples.predicted_iou[foreground].mean() > 0.6


def test_waits_are_counted(benchmark):
    """NMS among them, whose operator has no tag of its own."""
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    with benchmark.Waits() as waits:
        torch.ops.torchvision.nms(boxes, torch.ones(1), 0.5)
        boxes.sum().item()
        boxes.nonzero()
        boxes + boxes
    assert len(waits.waiting) == 3


def test_nothing_waits_for_each_image(record):
    """The first that are tried suffice here."""
    assert record["waits"]["batch"] == record["waits"]["one_image"]
    rows = record["results"][0]["rows"]
    waiting = {row["name"]: number for row, number in zip(rows, record["waits"]["batch"], strict=True) if number}
    assert set(waiting) == {"ohem_dense", "ohem_dense (1:3)", "HardExamples", "ScoreHLRSampler"}


def test_the_record_compares_each_group_with_its_first(record):
    for result in record["results"]:
        groups = {}
        for row in result["rows"]:
            assert len(row["times_ms"]) == 3
            assert row["median_ms"] == sorted(row["times_ms"])[1]
            groups.setdefault(row["group"], []).append(row)
        for first, *others in groups.values():
            assert first["ratio"] == 1
            for row in others:
                ratios = [a / b for a, b in zip(row["times_ms"], first["times_ms"], strict=True)]
                assert row["ratio"] == pytest.approx(sorted(ratios)[1])


def test_tables_show_every_row(benchmark, record):
    result = record["results"][0]
    rows = benchmark.table(result, record["waits"]).splitlines()[2:]
    assert len(rows) == len(result["rows"])
    assert all(
        row["name"] in line and f"{row['ratio']:.2f}" in line for row, line in zip(result["rows"], rows, strict=True)
    )


def test_the_page_is_that_of_the_records(page, committed):
    assert page.PAGE.read_text(encoding="utf-8") == page.page(*committed)


def test_every_measured_row_is_on_the_page_once(page, committed):
    """Nothing of the record is left out where somebody adds a group or a method."""
    methods = committed[0]
    text = page.page(*committed)
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(lines) == len(methods["results"][0]["rows"])
    for row in methods["results"][0]["rows"]:
        numbers = f"| {row['median_ms']:.1f} | {row['ratio']:.2f} |"
        assert [line for line in lines if line.startswith(f"| `{row['name']}` ") and numbers in line]


def test_the_record_is_of_the_methods_as_they_are(benchmark, committed):
    """Measured anew after a method or a recipe has come or gone."""
    names = {title: list(group) for title, group in benchmark.read_specs().items()}
    rows = committed[0]["results"][0]["rows"]
    assert {title: [row["name"] for row in rows if row["group"] == title] for title in names} == names
    assert committed[0]["specs"] == benchmark.read_specs()


def test_the_target_is_met_or_the_page_says_why(page, committed):
    methods, *others = copy.deepcopy(committed)
    reasons = page.page(methods, *others).partition("### What needs more")[2]
    for row in methods["results"][0]["rows"]:
        assert (f"{row['ratio']:.1f} in {row['group']}" in reasons) == (row["ratio"] > page.TARGET)
    focal_row = next(row for row in methods["results"][0]["rows"] if row["name"] == "focal")
    focal_row["ratio"] = 3.01
    with pytest.raises(UserError, match="focal needs more than 3 times the first of its group"):
        page.page(methods, *others)


def test_the_page_says_what_was_measured_on_what(page, committed):
    text = page.page(*committed)
    assert "there are no numbers from a GPU yet" in text
    for record in committed:
        assert all(result["hardware"]["device"] == "cpu" for result in record["results"])
        assert record["results"][0]["hardware"]["cpu"] in text


def test_scripts_are_where_the_page_says(page):
    assert all((FOLDER / name).exists() for name in ("methods.py", "focal_loss.py", "evaluation.py", "page.py"))

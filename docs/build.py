"""Write the parts of the pages that come from elsewhere: ``python docs/build.py``.

The worked example of ``docs/metrics.md`` and the README's list of experiments come from the demo's committed records,
the tables of ``docs/gamma.md`` and ``docs/imbalance.md`` from the data of figures; no number of them is typed by hand.
``docs/methods.md`` comes from the methods' docstrings, ``docs/promises.md`` from what the tests recorded.
"""

import ast
import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.errors import UserError
from imbdet.figures import gamma, records, sweep, tables
from imbdet.files import write_text
from imbdet.layout import Layout
from imbdet.study_file import load_study

if TYPE_CHECKING:
    from pandas import DataFrame

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "metrics.md"
METHODS_PAGE = ROOT / "docs" / "methods.md"
PROMISES_PAGE = ROOT / "docs" / "promises.md"
PROMISES = Path("results/promises.json")
GAMMA_PAGE = ROOT / "docs" / "gamma.md"
SWEEP_PAGE = ROOT / "docs" / "imbalance.md"
README = ROOT / "README.md"
BLOCK = ("Paper", "Equations", "Official code", "Deviations", "Stages", "Recipe")
BEGIN = "<!-- begin of the part that docs/build.py writes -->\n"
END = "<!-- end of the part that docs/build.py writes -->\n"
CURVES = {"0.5": "AP50", "0.75": "AP75", "0.9": "AP90", "mean": "AP"}


def main() -> None:
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8"), ROOT))
    write_text(METHODS_PAGE, methods_page(ROOT))
    write_text(PROMISES_PAGE, promises_page(ROOT))
    write_text(README, readme(README.read_text(encoding="utf-8"), ROOT))
    write_text(GAMMA_PAGE, gamma_page(GAMMA_PAGE.read_text(encoding="utf-8"), ROOT))
    write_text(SWEEP_PAGE, sweep_page(SWEEP_PAGE.read_text(encoding="utf-8"), ROOT))


def page(text: str, root: Path) -> str:
    """Return the page with its generated part made again from the records below ``root``."""
    study = load_study(root / "config" / "demo.yaml")
    layout, experiment = Layout.of(study), study.report.precision_recall[-1]
    record = json.loads((root / layout.evaluation(experiment)).read_text(encoding="utf-8"))
    with (root / layout.precision_recall(experiment)).open(encoding="utf-8", newline="") as file:
        curves = list(csv.DictReader(file))
    return _with_part(text, worked_example(record, curves), "docs/metrics.md")


def _with_part(text: str, part: str, where: str) -> str:
    """A page with another text between its two marks."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UserError(f"{where} must hold the lines {BEGIN.strip()!r} and {END.strip()!r} once each")
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n" + part + "\n" + END + rest.partition(END)[2]


def readme(text: str, root: Path) -> str:
    """Return the README with its list of the demo's experiments made again from the records below ``root``."""
    study = load_study(root / "config" / "demo.yaml")
    layout = Layout.of(study)
    rows, hardware = [], set()
    for name, experiment in study.experiments.items():
        training = json.loads((root / layout.training(name)).read_text(encoding="utf-8"))
        result = json.loads((root / layout.evaluation(name)).read_text(encoding="utf-8"))
        hardware.add(f"{training['hardware']['device']} with {training['hardware']['threads']} thread")
        percent = [f"{100 * result[key]:.1f}" for key in ("AP", "AP50")]
        rows.append([experiment.label, experiment.detector, f"{training['measured']['seconds']:.0f} s", *percent])
    total = sum(float(row[2].removesuffix(" s")) for row in rows)
    about = (
        f"One seed each, on {study.description}; {total / 60:.0f} minutes of training in all, two at a time "
        f"({', '.join(sorted(hardware))} each). Not COCO, and differences of a few points may be noise.\n\n"
    )
    return _with_part(text, about + _table(["experiment", "detector", "training", "AP", "AP50"], rows), "README.md")


def gamma_page(text: str, root: Path) -> str:
    """Return the page on gamma with its generated part made again from the data of the figure below ``root``."""
    study, path, data = _figure(root, "gamma", "gamma")
    table = tables.markdown(gamma.table(data), gamma.caption(study, data))
    picture = f"![Published and measured AP by γ, and shares of the gradient](../{path}.png)\n"
    return _with_part(text, f"{gamma.answer(data)}\n\n{table}\n{picture}", "docs/gamma.md")


def sweep_page(text: str, root: Path) -> str:
    """Return the page on the sweep with its generated part made again from the data of its figure below ``root``."""
    study, path, data = _figure(root, "imbalance-sweep", "sweep")
    found = sweep.changes(data)
    pairs = found["label"] + " − " + found["baseline_label"]
    places = [f"{first:g} to {last:g}" for first, last in zip(found["first"], found["last"], strict=True)]
    gains = [tables.numbers(found[key], "+.1f") for key in ("first_gain", "last_gain")]
    change = tables.estimates(found["change"], found["low"], found["high"], "+.1f")
    rows = zip(found["property"], places, pairs, *gains, change, strict=True)
    heads = ["property", "from, to", "method − baseline", "first gain", "last gain", "change (interval)"]
    picture = f"![What each method gains as one property of the data changes](../{path}.png)\n"
    table = tables.markdown(sweep.table(data), sweep.caption(study, data))
    ends = _table(heads, [list(row) for row in rows])
    part = f"{sweep.answer(data)}\n\n{picture}\n{table}\n### From one end to the other\n\n{ends}"
    return _with_part(text, part, "docs/imbalance.md")


def _figure(root: Path, study: str, name: str) -> tuple[Study, Path, "DataFrame"]:
    """A study, where its figure is without the suffix, and the figure's data."""
    known = load_study(root / "config" / f"{study}.yaml")
    path = Layout.of(known).figures / name
    return known, path, records.parse_csv((root / f"{path}.csv").read_text(encoding="utf-8"), f"{path}.csv")


def methods_page(root: Path) -> str:
    """Return the page of all methods, made from the fixed block that each method's module docstring has."""
    methods = {path.stem: block(path) for path in sorted((root / "src/imbdet/methods").glob("[a-z]*.py"))}
    rows = [[f"[{name}](#{name})", entry["title"], entry["stages"]] for name, entry in methods.items()]
    sections = [
        f"## {name}\n\n{entry['title']}\n\n" + "".join(f"- **{key}.** {entry[key]}\n" for key in BLOCK)
        for name, entry in methods.items()
    ]
    head = (
        "# The methods\n\nEach is one file of [src/imbdet/methods](../src/imbdet/methods), and this page is made from "
        "their docstrings by `python docs/build.py`. Where paper and code differ, a method has a `variant`.\n\n"
    )
    return head + _table(["method", "what it does", "stages"], rows) + "\n" + "\n".join(sections)


def block(path: Path) -> dict[str, str]:
    """Stages, title and fixed block of a method's file, each in one line. Raises UserError where a part is missing."""
    code = path.read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(code)) or ""
    parts = re.split(rf"^({'|'.join(BLOCK)})(?: from both)?: ", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    missing = [key for key in BLOCK if key not in found]
    if missing:
        raise UserError(f"{path}: the module's docstring has no {', '.join(missing)}; see CONTRIBUTING.md")
    stages = ", ".join(re.findall(r'"(\w+)"', re.findall(r"stages: .*frozenset\((.*)\)", code)[0]))
    return {key: " ".join(value.split()) for key, value in {"title": parts[0], "stages": stages, **found}.items()}


KINDS = {
    "kill": ("Runs that were killed", "kills survived"),
    "fault": ("Faults", "faults injected"),
    "bad input": ("Bad input", "bad inputs tried"),
    "law": ("Laws", "cases in which a law held"),
}


def promises_page(root: Path) -> str:
    """Return the page of promises, made from what ``make promises`` recorded below ``root``."""
    records = json.loads((root / PROMISES).read_text(encoding="utf-8"))
    messages = {message for record in records for message in record["messages"]}
    totals = [[what, sum(r["cases"] for r in records if r["kind"] == kind)] for kind, (_, what) in KINDS.items()]
    head = (
        "# What is promised, and the tests that show it\n\nEach promise is named by the tests that keep it. They write "
        "down how many cases passed, `make promises` collects that in [results/promises.json](../results/promises.json)"
        ", and this page is made from it by `python docs/build.py`: no number is typed. `make soak` kills far more "
        "often.\n\n"
    )
    tables = [
        f"\n## {title}\n\n"
        + _table(
            ["promise", "tests", "cases"],
            [[r["promise"], _tests(r["tests"]), r["cases"]] for r in records if r["kind"] == kind],
        )
        for kind, (title, _) in KINDS.items()
    ]
    return head + _table(["", "number"], [*totals, ["different messages asserted", len(messages)]]) + "".join(tables)


def _tests(names: list[str]) -> str:
    """Links to tests, each given as ``tests/FOLDER/FILE.py::FUNCTION``."""
    parts = [name.split("::", 1) for name in names]
    return "<br>".join(f"[{function}](../{file})" for file, function in parts)


def worked_example(record: dict[str, Any], curves: list[dict[str, str]]) -> str:
    """The section's text. record: ``evaluation.json``; curves: rows of ``precision_recall.csv``."""
    parts = (_data, _counts, _curves, _recalls, _classes)
    return "\n".join(part(record, curves) for part in parts)


def _data(record: dict[str, Any], _: list[dict[str, str]]) -> str:
    return (
        f"Study `{record['study']}` ({record['data']}, seed {record['seed']}), experiment `{record['experiment']}` "
        f"({record['label']}): {record['images']} held-out images with {record['boxes']} boxes; the detector gave "
        f"{record['detections']} detections.\n"
    )


def _counts(record: dict[str, Any], _: list[dict[str, str]]) -> str:
    point = record["operating_point"]
    rows = [
        [c["iou"], c["TP"], c["FP"], c["FN"], _number(c["precision"]), _number(c["recall"])] for c in point["counts"]
    ]
    c = point["counts"][0]
    return (
        f"**One score.** Of the detections with a score of at least {point['score']}:\n\n"
        + _table(["IoU", "TP", "FP", "FN", "precision", "recall"], rows)
        + f"\nThe first row reads: precision = {c['TP']} / ({c['TP']} + {c['FP']}) = {_number(c['precision'])} and "
        f"recall = {c['TP']} / ({c['TP']} + {c['FN']}) = {_number(c['recall'])}. TP + FP is the same in each row "
        f"unless crowd regions are about, and TP + FN is always {record['boxes']}: a stricter IoU turns TP into FP, "
        "and the box that was found into FN.\n"
    )


def _curves(record: dict[str, Any], curves: list[dict[str, str]]) -> str:
    precision = {iou: [float(row["precision"]) for row in curves if row["iou"] == iou] for iou in CURVES}
    recalls = [row["recall"] for row in curves if row["iou"] == "mean"]
    rows = [[recalls[i], *(_number(precision[iou][i]) for iou in CURVES)] for i in range(0, len(recalls), 10)]
    means = [f"**{_number(sum(values) / len(values))}**" for values in precision.values()]
    averages = ", ".join(f"{key} {_number(record[key])}" for key in CURVES.values())
    return (
        "**All scores.** Interpolated precision, mean over the classes, at eleven of the 101 recalls, for three IoU "
        "thresholds and for the mean over all ten:\n\n"
        + _table(["recall", *CURVES], [*rows, ["mean of all 101", *means]])
        + f"\nThe last row is the average precision, and equals the record: {averages}.\n"
    )


def _recalls(record: dict[str, Any], _: list[dict[str, str]]) -> str:
    return (
        "**Average recall.** With at most 1, 10 and 100 detections in each image and class: "
        + ", ".join(f"AR_{limit} {_number(record[f'AR_{limit}'])}" for limit in (1, 10, 100))
        + ". AR is a mean over the IoU thresholds and over classes of equal say, at the lowest score; the recalls of "
        "the first table are of one threshold and one score, and each box has an equal say. The two are not to be "
        "compared.\n"
    )


def _classes(record: dict[str, Any], _: list[dict[str, str]]) -> str:
    classes = sorted(record["per_class"], key=lambda row: -row["boxes"])
    rows = [[c["name"], c["boxes"], *(_number(c[key]) for key in ("AP", "AP50", "AR_100"))] for c in classes]
    means = [f"**{_number(record[key])}**" for key in ("AP", "AP50", "AR_100")]
    return "**Classes.** Each class counts the same in the mean, however few boxes it has:\n\n" + _table(
        ["class", "boxes", "AP", "AP50", "AR_100"], [*rows, ["mean (sum of boxes)", record["boxes"], *means]]
    )


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()

"""The Equalization Loss beside its baselines (Tan et al. 2020, table 5) and the measured runs."""

from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imbdet.config import Study
from imbdet.figures import comparison, records, suppressed_gradients
from imbdet.figures.tables import Column
from imbdet.layout import Layout

if TYPE_CHECKING:
    from pandas import DataFrame

KEYS = ("method",)
PUBLISHED = ("AP", "AP_rare", "AP_common", "AP_frequent", "AP_box")
MEASURED = (*comparison.METRICS, "AP_tail", "AP_others")
NAMES = {"focal": "focal loss", "equalization": "EQL", "equalization_softmax": "softmax EQL"}


def inputs(study: Study, layout: Layout) -> list[Path]:
    """The evaluation of each experiment of the list, and what tells which classes are of the tail."""
    needed = [*comparison.inputs(study, layout, study.report.equalization), *suppressed_gradients.inputs(study, layout)]
    return list(dict.fromkeys(needed))


def data(study: Study, layout: Layout) -> "DataFrame":
    """Columns of :func:`imbdet.figures.comparison.data`, and AP over the tail's classes and over the others, and names.

    The tail is that of the list's first experiment with the Equalization Loss, for all experiments alike.
    """
    names = study.report.equalization
    joined = comparison.data(study, layout, names, "equalization_methods", KEYS, _describe)
    spared = suppressed_gradients.tail(suppressed_gradients.data(study, layout))
    spared = spared[spared["experiment"] == spared["experiment"].iloc[0]]
    spared = spared[spared["tail"]]
    for column, of_tail in (("AP_tail", True), ("AP_others", False)):
        means = {name: _mean(records.evaluations(study, layout, name), set(spared["class"]), of_tail) for name in names}
        joined[f"measured_{column}"] = joined["measured_experiment"].map(means)
    return joined.assign(tail=", ".join(sorted(spared["name"])) or "none")


def _describe(record: records.Record) -> dict[str, Any]:
    method = record["method"]
    if method["name"] == "cross_entropy":
        return {"method": f"{method['activation']} cross entropy"}
    return {"method": NAMES.get(method["name"], method["name"])}


def _mean(runs: list[records.Record], tail: set[int], of_tail: bool) -> float:
    """Mean AP, in percent, of the classes in or outside the tail (labels), of those that the validation images hold."""
    by_label = [enumerate(sorted(run["per_class"], key=itemgetter("category_id"))) for run in runs]
    rows = [row for labelled in by_label for label, row in labelled if (label in tail) == of_tail]
    known = [row["AP"] for row in rows if row["AP"] is not None]
    return round(100 * sum(known) / len(known), 9) if known else float("nan")


def caption(study: Study, data: "DataFrame") -> str:
    """Say what either side was measured on, and which classes are of the tail."""
    tail = data["tail"].iloc[0]
    note = (
        "Measured AP is of boxes and stands beside AP box. AP tail is the mean over the classes that the Equalization "
        f"Loss spares in this study ({tail}), AP others that over the rest; in the paper the tail is the rare and the "
        "common classes."
    )
    return comparison.caption(study, data, "Equalization Loss and its baselines", note)


def table(data: "DataFrame") -> list[Column]:
    """Published and measured columns side by side."""
    return comparison.columns(data, KEYS, published=PUBLISHED, measured=MEASURED)

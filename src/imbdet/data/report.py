"""What the validation of a data set has found: as a record, as a table for people, as the message of a refusal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from imbdet.data.findings import Findings
from imbdet.errors import UserError
from imbdet.settings import Validation

Record = dict[str, Any]
LISTED = 20  # ids of a defect in the record; a message and the table have fewer
SHOWN = 5
# Names of all defects, in the order of the tables: the settings that choose what becomes of one.
DEFECTS = tuple(name for name, field in Validation.model_fields.items() if get_origin(field.annotation) is Literal)


def report(counts: Mapping[str, Record], found: Mapping[str, Findings], policy: Validation) -> Record:
    """The record: the policy, and by split counts and for each defect that was looked for its number and first ids."""
    splits = {
        split: {
            **counts[split],
            "defects": {
                name: {
                    "policy": getattr(policy, name),
                    "count": len(findings[name].ids),
                    "ids": findings[name].ids[:LISTED].tolist(),
                }
                for name in DEFECTS
                if name in findings
            },
        }
        for split, findings in found.items()
    }
    return {"policy": policy.model_dump(mode="json"), "splits": splits}


def as_table(record: Record) -> str:
    """The record as Markdown: a row a defect that was found, with its count by split and the first ids."""
    splits = record["splits"]
    head = ["defect", "policy", *splits, "first ids"]
    rows = [head, ["---", "---", *("---:" for _ in splits), "---"]]
    absent = []
    for name in DEFECTS:
        found = {split: part["defects"][name] for split, part in splits.items() if name in part["defects"]}
        if not any(defect["count"] for defect in found.values()):
            absent += [name] if found else []
            continue
        ids = [f"{split}: {_listed(d['ids'], d['count'])}" for split, d in found.items() if d["count"]]
        counts = [str(defect["count"]) for defect in found.values()]
        text = f"{name}: {Validation.model_fields[name].description}"
        rows.append([text, record["policy"][name], *counts, "; ".join(ids)])
    kept = [
        f"{split}: {part['images_kept']} of {part['images']} images and {part['annotations_kept']} of "
        f"{part['annotations']} annotations are kept, {part['images_in_quarantine']} images are in quarantine.\n"
        for split, part in splits.items()
    ]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows) if len(rows) > 2 else "No defects were found.\n"
    return f"{table}\nLooked for and not found: {', '.join(absent)}.\n\n{''.join(kept)}"


def refuse(found: Sequence[tuple[Path, Findings]], policy: Validation, record: Record) -> None:
    """Print the table and raise :class:`UserError` where there is a defect whose policy is ``error``.

    Args:
        found: with the file of each split's annotations.
        record: of the same findings.
    """
    wrong = [
        (path, name, findings[name])
        for name in DEFECTS
        for path, findings in found
        if getattr(policy, name) == "error" and name in findings and len(findings[name].rows)
    ]
    if not wrong:
        return
    print(as_table(record), flush=True)
    path, name, finding = wrong[0]
    count = len(finding.ids)
    more = f" (and {count - 1} more, ids {_listed(finding.ids[:LISTED].tolist(), count)})" if count > 1 else ""
    others = [f"{len(finding.ids)} of {name}" for _, name, finding in wrong[1:]]
    also = f"; found besides: {', '.join(others)}" if others else ""
    choices = [choice for choice in get_args(Validation.model_fields[name].annotation) if choice != "error"]
    raise UserError(
        f"{path}: {finding.first}{more}; mend it, or set data.validation.{name} to {' or '.join(choices)}{also}"
    )


def _listed(ids: list[int], count: int) -> str:
    shown = ", ".join(map(str, ids[:SHOWN]))
    return f"{shown}, ..." if count > SHOWN else shown

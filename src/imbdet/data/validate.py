"""Validation before training: every defect of a data set is counted, named and treated as the study's policy says.

What the policy drops is left out of the prepared annotations. Files are never changed or deleted: images that are left
out for a defect are in quarantine, which the report counts and ``quarantine.txt`` in the data folder lists.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from imbdet.data import image_files
from imbdet.data.coco import KEPT, admit_annotations, read_collected
from imbdet.data.federated import lacking, unlisted
from imbdet.data.findings import Finding, Findings, clipped, describe_ignored, find
from imbdet.data.report import refuse, report
from imbdet.data.table import Ints, Mask, Table
from imbdet.errors import UserError
from imbdet.files import write_text
from imbdet.layout import SPLITS, Layout
from imbdet.settings import Rules, Validation

Record = dict[str, Any]
BROKEN = ("duplicate_image_ids", *image_files.DEFECTS)  # an image that is dropped for one of these is in quarantine
OF_IMAGES = (*BROKEN, "marked_images")


@dataclass
class Split:
    """A split under validation.

    table, findings: all that its file lists, and the defects. images, annotations: [I] and [n] bool, which are
    admitted. hashes: SHA-256 and size in bytes of the files, by row of the images.
    """

    table: Table
    findings: Findings
    images: Mask
    annotations: Mask
    hashes: dict[int, tuple[str, int]]

    @property
    def quarantine(self) -> dict[str, list[str]]:
        """The defects of each image that is left out, by file name."""
        rows: dict[str, list[str]] = {}
        for name in BROKEN:
            found = self.findings[name].rows.tolist() if name in self.findings else []
            for row in (i for i in found if not self.images[i]):
                rows.setdefault(self.table.file_names[row], []).append(name)
        return rows


def validate(
    layout: Layout, policy: Validation, before: Record | None = None, rules: Rules = "coco"
) -> tuple[Record, Record]:
    """Admit the annotations that a source has collected, without defects, to their place in the data folder.

    Args:
        before: the second result of an earlier validation of the same images with the same policy; their files are
            then not read again.
        rules: by which detections on the val split are evaluated.

    Returns:
        The report, and by split what the images are: ``images_sha256`` over the sorted lines ``name sha256`` of the
        admitted ones, ``image_bytes`` of those, and the ids of images by ``defects`` of their files.

    Raises:
        UserError: a defect whose policy is ``error``, or more images in quarantine than the policy allows. The table of
            all that was found is printed first. Also a val split that cannot be evaluated by LVIS's rules, if asked.
    """
    splits = {split: _examine(read_collected(layout.annotations(split)), policy, rules) for split in SPLITS}
    if rules == "lvis":
        _require_lvis(splits["val"], policy)
    _refuse(splits, policy)  # before the images, which take minutes
    for name, split in splits.items():
        if before is None:
            _look(split, layout.images(name), policy)
        else:
            _recall(split, before[name]["defects"])
        _leave_out(split, policy)
        _leave_out_empty(split, policy)
    _refuse(splits, policy)
    for split in splits.values():
        _refuse_quarantine(split, policy)
    _list_quarantine(splits, Path(layout.data_folder) / "quarantine.txt")
    for name, split in splits.items():
        admit_annotations(layout.annotations(name), _admitted(split, policy))
    return _report(splits, policy), before or {name: _images(split) for name, split in splits.items()}


def _require_lvis(split: Split, policy: Validation) -> None:
    """Refuse what an evaluation by LVIS's rules, after the trainings, could not read or would take for an object."""
    path, content = split.table.path, split.table.content
    fault = lacking(content) or unlisted(content)
    if fault:
        raise UserError(f"{path}: {fault}; complete it, or set data.source to coco_format to evaluate by COCO's rules")
    _leave_out(split, policy)
    for name in ("crowds", "marked"):
        rows = split.findings[name].rows
        kept = rows[split.annotations[rows]]
        if len(kept):
            raise UserError(
                f"{path}: {describe_ignored(split.table, int(kept[0]))}; LVIS's rules have no regions to ignore: "
                f"set data.validation.{name} to drop"
            )


def _examine(table: Table, policy: Validation, rules: Rules) -> Split:
    images, annotations = (np.ones(len(ids), dtype=bool) for ids in (table.image_ids, table.ids))
    return Split(table, find(table, policy, rules), images, annotations, hashes={})


def _look(split: Split, folder: Path, policy: Validation) -> None:
    """Look at the files of all images whose id is their own."""
    table = split.table
    rows = np.setdiff1d(np.arange(len(table.image_ids)), split.findings["duplicate_image_ids"].rows)
    paths = [folder / table.file_names[row] for row in rows]
    sizes = [(int(h), int(w)) for h, w in table.sizes[rows]]
    seen = image_files.look_at_all(paths, sizes, policy.max_pixels, f"checking {folder.name}")
    for row, file in zip(rows.tolist(), seen, strict=True):
        split.hashes[row] = (file.sha256, file.size)
    for name in image_files.DEFECTS:
        having = [i for i, file in enumerate(seen) if name in file.defects]
        first = seen[having[0]].defects[name] if having else ""
        split.findings[name] = _of_images(table, rows[having], first)


def _recall(split: Split, defects: Mapping[str, list[int]]) -> None:
    for name in image_files.DEFECTS:
        split.findings[name] = _of_images(split.table, np.flatnonzero(np.isin(split.table.image_ids, defects[name])))


def _of_images(table: Table, rows: Ints, first: str = "") -> Finding:
    ids = table.image_ids[rows]
    return Finding(rows, ids, f"image {ids[0]}: {first}" if len(rows) else "")


def _leave_out(split: Split, policy: Validation) -> None:
    """Leave out what has a defect, found so far, that the policy drops."""
    for name, finding in split.findings.items():
        if getattr(policy, name) == "drop":
            mask = split.images if name in OF_IMAGES else split.annotations
            mask[finding.rows] = False
    split.annotations &= np.isin(split.table.images, split.table.image_ids[split.images])


def _leave_out_empty(split: Split, policy: Validation) -> None:
    """Find the images to which no annotation is left, and leave them out if the policy drops them."""
    table = split.table
    empty = split.images & ~np.isin(table.image_ids, table.images[split.annotations])
    split.findings["empty_images"] = _of_images(table, np.flatnonzero(empty), "no annotation is left to it")
    if policy.empty_images == "drop":
        split.images &= ~empty


def _admitted(split: Split, policy: Validation) -> Record:
    """The content of the prepared annotation file."""
    content, boxes = split.table.content, clipped(split.table)
    annotations = list(content["annotations"])
    for name in ("reaching_out", "rounded_out"):
        for row in split.findings[name].rows.tolist() if getattr(policy, name) == "clip" else ():
            annotations[row] = annotations[row] | {"bbox": boxes[row].tolist()}
    for row in split.findings["marked"].rows.tolist() if policy.marked == "crowd" else ():
        annotations[row] = annotations[row] | {"iscrowd": 1}
    kept = {
        "images": _select(content["images"], split.images),
        "annotations": _select(annotations, split.annotations),
        "categories": content["categories"],
    }
    return {part: kept[part] for part in KEPT}


def _select(records: Iterable[Any], mask: Mask) -> list[Any]:
    return [record for record, keep in zip(records, mask.tolist(), strict=True) if keep]


def _images(split: Split) -> Record:
    rows = np.flatnonzero(split.images).tolist()
    lines = sorted(f"{split.table.file_names[row]} {split.hashes[row][0]}\n" for row in rows)
    return {
        "images_sha256": hashlib.sha256("".join(lines).encode()).hexdigest(),
        "image_bytes": sum(split.hashes[row][1] for row in rows),
        "defects": {name: split.findings[name].ids.tolist() for name in image_files.DEFECTS},
    }


def _refuse_quarantine(split: Split, policy: Validation) -> None:
    broken, count = split.quarantine, len(split.table.image_ids)
    if len(broken) > policy.quarantine_share * count:
        name, names = next(iter(broken.items()))
        raise UserError(
            f"{split.table.path}: {len(broken)} of {count} images would be left out, first {name} ({names[0]}); "
            f"data.validation.quarantine_share allows {policy.quarantine_share:g} of them; mend the source or raise it"
        )
    if not split.images.any():
        raise UserError(f"{split.table.path}: data.validation leaves out all of its {count} images; mend the source")


def _list_quarantine(splits: Mapping[str, Split], path: Path) -> None:
    lines = [
        f"{split}/{name}: {', '.join(names)}\n"
        for split, review in splits.items()
        for name, names in sorted(review.quarantine.items())
    ]
    if lines:
        write_text(path, "".join(lines))
    else:
        path.unlink(missing_ok=True)


def _refuse(splits: Mapping[str, Split], policy: Validation) -> None:
    refuse([(split.table.path, split.findings) for split in splits.values()], policy, _report(splits, policy))


def _report(splits: Mapping[str, Split], policy: Validation) -> Record:
    counts = {
        name: {
            "images": len(split.images),
            "annotations": len(split.annotations),
            "images_kept": int(split.images.sum()),
            "annotations_kept": int(split.annotations.sum()),
            "images_in_quarantine": len(split.quarantine),
        }
        for name, split in splits.items()
    }
    return report(counts, {name: split.findings for name, split in splits.items()}, policy)

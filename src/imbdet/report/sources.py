"""Where every number of the page is from: record, code, seed, hardware and software of each run."""

from collections.abc import Sequence

from imbdet.report.results import identified, identity
from imbdet.report.runs import Group, Run
from imbdet.report.tables import Cell, Column, Table

HEADINGS = ("detector", "seed", "records", "commit", "finished", "hardware", "software")


def table(groups: Sequence[Group]) -> Table:
    """A row for each run that has a record; its id is the run's anchor, which the other tables link to."""
    runs = [run for group in groups for run in group.runs if run.files]
    names = identity(groups)
    columns = [*names, *(Column(heading, numeric=heading == "seed") for heading in HEADINGS)]
    rows = [[*identified(run, names), *_cells(run)] for run in runs]
    caption = "Every run with its records, the code that made it and the machine that it ran on"
    return Table(caption, columns, rows, named=len(names), anchors=[run.anchor for run in runs])


def _cells(run: Run) -> list[Cell]:
    which = [Cell(run.detector), Cell(str(run.seed), run.seed), Cell("\n".join(map(str, run.files)))]
    if run.training is None:
        return [*which, *(Cell("no record of the training") for _ in HEADINGS[len(which) :])]
    code, measured = run.training["code"], run.training["measured"]
    changed = {True: "and changes that are in no commit", False: "", None: "changes unknown"}[code["dirty"]]
    commit = Cell((code["commit"] or "unknown")[:12], below=changed, title=code["commit"] or "")
    finished = Cell(measured["finished"].replace("T", " ").removesuffix("Z"), below="UTC")
    versions = ", ".join(f"{name} {version}" for name, version in run.training["versions"].items())
    return [*which, commit, finished, hardware(run), Cell(versions)]


def hardware(run: Run) -> Cell:
    """The device that a run trained on, and the rest of its machine below."""
    assert run.training is not None
    machine = run.training["hardware"]
    gpu = machine["device"] != "cpu"
    counts = [(machine["cores"], "core"), (machine["threads"], "thread"), (machine["processes"], "process")]
    parts = [machine["cpu"]] if gpu else []
    parts += [f"{count} {word}" + ("es" if word == "process" else "s") * (count > 1) for count, word in counts]
    return Cell(machine["device"] if gpu else machine["cpu"], below=", ".join(parts))

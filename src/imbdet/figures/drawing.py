"""From records to files: data, picture, table and caption of one figure."""

from pathlib import Path

from imbdet import figures
from imbdet.config import Study
from imbdet.figures import captions, records, style, tables
from imbdet.files import write_bytes, write_text
from imbdet.layout import Layout


def redraw(study: Study, layout: Layout, name: str, folder: Path) -> None:
    """Write every file of a figure into ``folder``. Raises :class:`UserError` where a record is missing or damaged.

    The data are read back from the CSV's own text before anything is drawn: what is committed is what is shown.
    """
    module = figures.figure(name)
    inputs = module.inputs(study, layout)
    records.require(study, layout, inputs, name)
    text = module.data(study, layout).to_csv(index=False, lineterminator="\n")
    data = records.parse_csv(text, name)
    caption = module.caption(study, data)
    write_text(folder / f"{name}.csv", text)
    write_text(folder / f"{name}.rst", captions.rst(caption))
    if hasattr(module, "draw"):
        with style.applied():
            picture = module.draw(style.plain(data))
            style.add_caption(picture, caption, captions.badge(study) if inputs else "")
            for kind in ("png", "svg"):
                write_bytes(folder / f"{name}.{kind}", style.encode(picture, kind))
    if hasattr(module, "table"):
        columns = module.table(data)
        write_text(folder / f"{name}.md", tables.markdown(columns, caption))
        write_text(folder / f"{name}.tex", tables.latex(columns, caption, label=f"{study.name}-{name}"))

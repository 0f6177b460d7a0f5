"""A study as one HTML page: what was run, what came out, how sure it is and where each number is from.

Everything is read from the study's settings, its records and its figures; no model, no data set. The page holds its
pictures, its style and its script, asks nothing of any server, and is the same for the same files.
"""

from imbdet.config import Study
from imbdet.layout import Layout


def run(study: Study, layout: Layout) -> None:
    """Write ``layout.report``. Parts without records are left out with a sentence.

    Raises :class:`imbdet.errors.UserError` if no experiment has a record at all, or one is damaged or of another run.
    """
    from imbdet.files import write_text
    from imbdet.report.page import build

    write_text(layout.report, build(study, layout))
    print(f"{layout.report} shows study {study.name}; open it in a browser")

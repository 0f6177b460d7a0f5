"""No line of a committed caption is wider than its picture."""

from pathlib import Path

import pytest

from imbdet.figures import style

FOLDER = Path(__file__).parents[2] / "paper_figures" / "demo"
CAPTIONS = sorted(path for path in FOLDER.glob("*.rst") if path.with_suffix(".png").exists())


def test_there_are_captions() -> None:
    assert CAPTIONS


@pytest.mark.parametrize("path", CAPTIONS, ids=lambda path: path.stem)
def test_caption_fits(path: Path) -> None:
    from matplotlib.figure import Figure

    with style.applied():
        figure = Figure(figsize=(style.WIDTH, 3), layout="constrained")
        style.add_caption(figure, " ".join(path.read_text().split()), "")
        figure.canvas.draw()
        caption = figure.texts[0].get_window_extent()
    assert caption.x0 >= 0
    assert caption.x1 <= figure.bbox.x1

"""Outlines of the generated objects and distractors, and their exact anti-aliased rasterisation.

A shape is a tuple of closed contours, each [V, 2] float64 (x, y); a hole is a contour of the opposite direction.
Polygons rather than masks, because the tight box of a polygon is known exactly before anything is drawn.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Contours = tuple[Floats, ...]

CURVE = 48  # vertices of a full circle: its polygon misses the circle by 0.2 % of the radius
SUBROWS = 4  # sub-scanlines in a pixel; along x the covered share is exact


def _arc(start: float, stop: float, radius: float = 1.0, centre_x: float = 0.0) -> Floats:
    """Points on a circle between two angles in turns, both ends included."""
    count = max(2, round(abs(stop - start) * CURVE) + 1)
    angle = 2 * np.pi * np.linspace(start, stop, count)
    return np.stack([centre_x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _regular(vertices: int, radius: float = 1.0) -> Floats:
    """A regular polygon that stands on an edge (y points down)."""
    phase = 0.25 + 0.5 / vertices
    angle = 2 * np.pi * (phase + np.arange(vertices) / vertices)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _hollow(outline: Floats, hole: float) -> Contours:
    """An outline with a smaller copy of itself cut out around the origin."""
    return outline, hole * outline[::-1]


def _star() -> Floats:
    outer, inner = _regular(5), -_regular(5, radius=0.42)
    return np.stack([outer, np.roll(inner, 2, axis=0)], axis=1).reshape(10, 2)


def _cross() -> Floats:
    quarter = np.array([[0.3, 1.0], [0.3, 0.3], [1.0, 0.3]])
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    return np.concatenate([quarter, (quarter @ turn), -quarter, -(quarter @ turn)])


def _crescent() -> Floats:
    """A disc less a disc of 0.8 of its radius, 0.55 to its right; the arcs meet where the circles do."""
    radius, shift = 0.8, 0.55
    x = (1 - radius**2 + shift**2) / (2 * shift)
    outer = np.arccos(x) / (2 * np.pi)
    inner = np.arccos((x - shift) / radius) / (2 * np.pi)
    return np.concatenate([_arc(outer, 1 - outer), _arc(1 - inner, inner, radius, shift)])


def _arrow() -> Floats:
    upper = np.array([[-1.0, -0.3], [0.1, -0.3], [0.1, -1.0], [1.0, 0.0]])
    return np.concatenate([upper, (upper * [1, -1])[2::-1]])


def _notched_disc() -> Floats:
    return np.concatenate([_arc(0.11, 0.89), [[-0.1, 0.0]]])


def _corner() -> Floats:
    return np.array([[-1.0, -1.0], [-0.3, -1.0], [-0.3, 0.3], [1.0, 0.3], [1.0, 1.0], [-1.0, 1.0]])


def _blob() -> Floats:
    angle = 2 * np.pi * np.arange(CURVE) / CURVE
    radius = 1 + 0.22 * np.cos(3 * angle) + 0.15 * np.sin(5 * angle)
    outline: Floats = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return outline


# In the order of class frequency: class k of a study is the k-th of these.
OBJECTS: dict[str, Contours] = {
    "disc": (_arc(0, 1)[:-1],),
    "triangle": (_regular(3),),
    "square": (_regular(4),),
    "cross": (_cross(),),
    "star": (_star(),),
    "ring": _hollow(_arc(0, 1)[:-1], 0.5),
    "crescent": (_crescent(),),
    "arrow": (_arrow(),),
}
# Background that looks like an object: same sizes, same colours, almost the same outlines.
DISTRACTORS: dict[str, Contours] = {
    "hollow square": _hollow(_regular(4), 0.6),
    "hollow triangle": _hollow(_regular(3), 0.5),
    "notched disc": (_notched_disc(),),
    "half disc": (_arc(0, 0.5),),
    "corner": (_corner(),),
    "blob": (_blob(),),
}


def fit(contours: Contours, turn: float, mirror: bool, box: Floats) -> Contours:
    """Turn a shape (radians), mirror it and stretch it until ``box`` ([4] xywh, pixels) is its tight box."""
    cos, sin = np.cos(turn), np.sin(turn)
    side = -1.0 if mirror else 1.0
    turned = [np.stack([side * (c[:, 0] * cos - c[:, 1] * sin), c[:, 0] * sin + c[:, 1] * cos], 1) for c in contours]
    low = turned[0].min(axis=0)
    extent = turned[0].max(axis=0) - low
    return tuple((c - low) / extent * box[2:] + box[:2] for c in turned)


def coverage(contours: Contours, height: int, width: int) -> Floats:
    """Share of each pixel inside a shape, [height, width] in 0..1.

    Every crossing of an edge with a sub-scanline adds its sign to all pixels on its right, the crossed pixel by the
    share right of the crossing: two additions a crossing and one running sum a row, whatever the shape's size.
    """
    start = np.concatenate(contours)
    end = np.concatenate([np.roll(c, -1, axis=0) for c in contours])
    y = ((np.arange(height * SUBROWS) + 0.5) / SUBROWS)[:, None]
    down = (start[:, 1] <= y) & (y < end[:, 1])
    up = (end[:, 1] <= y) & (y < start[:, 1])
    row, edge = np.nonzero(down | up)
    a, b = start[edge], end[edge]
    x = a[:, 0] + (y[row, 0] - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    x = np.clip(x, 0, width)
    column = x.astype(np.int64)
    sign = np.where(down[row, edge], 1.0, -1.0)
    cell = row // SUBROWS * (width + 2) + column
    cells = height * (width + 2)
    steps = np.bincount(cell, sign * (column + 1 - x), cells) + np.bincount(cell + 1, sign * (x - column), cells)
    inside = np.abs(np.cumsum(steps.reshape(height, width + 2), axis=1)[:, :width]) / SUBROWS
    return np.clip(inside, 0, 1)

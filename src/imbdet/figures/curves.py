"""What the figures of losses against the margin share: one table of curves, one way to draw it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imbdet.figures import records
from imbdet.figures.analytic import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

Curve = tuple[str, float | None, float | None]  # name of the loss, gamma, beta; None where it has none


def frame(x_t: Array, values: Mapping[Curve, Array]) -> "DataFrame":
    """Return columns curve (position), loss, gamma, beta, x_t, value for curves over the same [N] margins."""
    return records.frame(
        {"curve": position, "loss": loss, "gamma": gamma, "beta": beta, "x_t": x, "value": value}
        for position, ((loss, gamma, beta), column) in enumerate(values.items())
        for x, value in zip(x_t.tolist(), column.tolist(), strict=True)
    )


def plot(axes: "Axes", data: "DataFrame", looks: Sequence[dict[str, Any]]) -> None:
    """Draw the curves of :func:`frame`; ``looks`` are their colours and dashes."""
    for look, (_, curve) in zip(looks, data.groupby("curve"), strict=True):
        first = curve.iloc[0]
        parameters = [
            f"{greek} = {first[key]:g}" for greek, key in (("γ", "gamma"), ("β", "beta")) if _given(first[key])
        ]
        axes.plot(curve["x_t"], curve["value"], label=", ".join([first["loss"], *parameters]), **look)


def _given(value: float) -> bool:
    return value == value  # noqa: PLR0124  a missing number differs from itself

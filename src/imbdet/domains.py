"""What a parameter may be, said once for the library's functions and for the keys of a study. No torch here."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from pydantic import Field

from imbdet.errors import nearest

LARGEST_INTEGER = 2**63 - 1  # in tensors; Python's own have no bound


@dataclass(frozen=True)
class Domain:
    """Finite numbers within bounds that are included (``ge``, ``le``) or excluded (``gt``, ``lt``).

    none: what None means where it is allowed as well.
    whole: whether only integers are allowed.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    none: str | None = None
    whole: bool = False

    def field(self) -> Any:
        """Return the bounds as pydantic reads them in an annotation."""
        return Field(ge=self.ge, gt=self.gt, le=self.le, lt=self.lt)

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for a value outside the domain, with the value that was expected."""
        if value is None and self.none is not None:
            return
        number = isinstance(value, Integral if self.whole else Real) and not isinstance(value, bool)
        if not number or not self._within(value):
            kind = "an integer" if self.whole else "a finite number"
            none = f", or None for {self.none}" if self.none else ""
            raise ValueError(f"{name} is {value!r}; expected {kind}{self._bounds(name)}{none}")

    def _within(self, value: float) -> bool:
        above = (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        below = (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)
        storable = not isinstance(value, Integral) or abs(int(value)) <= LARGEST_INTEGER
        return above and below and storable and -math.inf < value < math.inf

    def _bounds(self, name: str) -> str:
        pairs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        bounds = [f"{name} {sign} {getattr(self, key):g}" for key, sign in pairs if getattr(self, key) is not None]
        return f" with {' and '.join(bounds)}" if bounds else ""


ALPHA = Domain(ge=0, le=1, none="no weighing (-1 in torchvision and fvcore)")
GAMMA = Domain(ge=0)
STEEPNESS = Domain(gt=0)  # gamma of FL*, which divides by it
SHIFT = Domain()  # beta of FL*
BOX_BETA = Domain(ge=0)
PRIOR_PROB = Domain(gt=0, lt=1, none="a bias of 0")
SCORE_THRESHOLD = Domain(ge=0, le=1, none="that of the study")
SHARE = Domain(ge=0, le=1)
POSITIVE_SHARE = Domain(gt=0, le=1)
NOT_NEGATIVE = Domain(ge=0)
POSITIVE = Domain(gt=0)
COUNT = Domain(ge=1, whole=True)


def check_word(name: str, value: Any, words: Iterable[str]) -> None:
    """Raise ValueError for a value that is none of ``words``, with the nearest of them."""
    words = tuple(words)
    if value not in words:
        raise ValueError(f"{name} {value!r} does not exist; {nearest(str(value), words)}")


def check_thresholds(foreground_iou: float, background_iou: float) -> None:
    """Raise ValueError for a threshold that is no IoU, nor infinite for never, and where a prior would be both."""
    if foreground_iou != math.inf:
        POSITIVE_SHARE.check("foreground_iou", foreground_iou)
    if background_iou != math.inf:
        SHARE.check("background_iou", background_iou)
    if background_iou > foreground_iou:
        raise ValueError(
            f"background_iou is {background_iou}, above foreground_iou {foreground_iou}; a prior between them would be "
            "both: expected background_iou <= foreground_iou"
        )

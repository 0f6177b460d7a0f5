"""Errors whose message is meant for the person at the keyboard: what was wrong, what was expected, what to do."""

import difflib
from collections.abc import Iterable

MOST_KNOWN = 100  # names that a message still lists


class UserError(Exception):
    """A mistake in input or set-up. The command line prints the message without a traceback."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``did you mean 'focal'? Known: a, b`` for a name that is not in ``known``."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
    return f"{hint}Known: {', '.join(known) if len(known) <= MOST_KNOWN else f'{len(known):,} names'}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Join the first names in sorted order, such as ``a, b and 3 more``; ``nothing`` for none."""
    known = sorted(set(names))
    more = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + more if known else "nothing"

"""Addresses as people may see them."""

import re

_USER = re.compile(r"(?<=://)[^/?#\s]*@")


def without_secrets(text: str) -> str:
    """Return a text without the ``user:password@`` of every URL in it, for messages and records."""
    return _USER.sub("", text)

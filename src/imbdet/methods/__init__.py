"""One file, one paper: ``method: {name: focal, ...}`` in a study is the class of ``imbdet/methods/focal.py``."""

from imbdet.methods._base import Method, build_method

__all__ = ["Method", "build_method"]

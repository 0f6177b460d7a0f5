"""Which of the project's own files a command runs, found by following imports without importing anything.

Both pipeline tools compare these files by content: a command runs again when code that it runs has changed, and only
then. Modules that are looked up by name at run time (methods, figures) are named by the caller.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from imbdet.errors import UserError

ROOT = Path("src")
PACKAGE = "imbdet"


def sources(*modules: str, root: Path = ROOT) -> list[Path]:
    """Return the files of the modules and of everything of this project that they import, directly or not.

    Imports inside functions count, and so does the ``__init__.py`` of every package on the way, which Python runs too;
    those for type checkers alone do not.

    Args:
        modules: names such as ``imbdet.training.run``.
        root: the folder that holds the package; by default that of the project, which is the current folder.

    Returns:
        Sorted paths below ``root``: ``src/imbdet/...``.

    Raises:
        UserError: a module has no file.
    """
    for module in modules:
        if _file(module, root) is None:
            raise UserError(f"module {module} has no file under {root}; run this in the project's root")
    found: dict[Path, None] = {}
    todo = [part for module in modules for part in _with_packages(module)]
    while todo:
        path = _file(todo.pop(), root)
        if path and path not in found:
            found[path] = None
            todo += _imports(path.read_text(), path.relative_to(root))
    return sorted(found)


def _file(module: str, root: Path) -> Path | None:
    """The file of a module or package; None for a name that is neither, such as a function of a module."""
    path = root.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_name(path.name + ".py"))
    return next((file for file in candidates if file.is_file()), None)


def _with_packages(module: str) -> list[str]:
    """``a.b.c`` to ``a``, ``a.b`` and ``a.b.c``."""
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


@cache
def _imports(code: str, path: Path) -> list[str]:
    """The modules of this project that a file imports; ``from m import x`` gives both ``m`` and ``m.x``."""
    package = path.parent.parts
    names = []
    for node in _statements(ast.parse(code, filename=str(path))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    ours = [name for name in names if name.split(".")[0] == PACKAGE]
    return [part for name in ours for part in _with_packages(name)]


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, except what stands under ``if TYPE_CHECKING``, which never runs."""
    yield node
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        children: Iterable[ast.AST] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from _statements(child)

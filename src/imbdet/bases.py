"""A study's base: ``base: NAME`` takes the values of ``NAME.yaml`` beside it, with those of the study's file over them.

``python -m imbdet.bases config/STUDY.yaml`` writes what results, one plain configuration, which DVC reads.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imbdet.config import SAFE_NAME
from imbdet.errors import UserError, nearest
from imbdet.files import write_text
from imbdet.study_yaml import as_text, read_values

BASE, WITHOUT = "base", "without"  # the keys that are resolved here, and are in no plain configuration
KINDS = ("name", "source")  # keys that say of which kind a section is, and so which other keys it has
Values = dict[Any, Any]
Keys = tuple[Any, ...]


@dataclass(frozen=True)
class Plain:
    """A study's configuration once its bases are resolved, with the files that it was read from.

    ``values`` are unchecked, nested as in a file, without ``base`` and ``without``. ``files`` are the study's own file,
    its base, the base of that, and so on, each with what it says itself.
    """

    values: Values
    files: tuple[tuple[Path, Values], ...]

    @property
    def path(self) -> Path:
        """The study's own file."""
        return self.files[0][0]

    def where(self, dotted: str) -> Path:
        """Return the file in which the value at a key stands.

        Of a section it is the one that says all of it, of a key that is nowhere the one that says all beside it; where
        several do, the study's own.
        """
        keys, _ = _locate(self.values, dotted)
        part: Any = self.values
        for key in keys:
            part = part[key]
        saying = {next(path for path, own in self.files if _has(own, leaf)) for leaf in _leaves(part, keys)}
        return saying.pop() if len(saying) == 1 else self.path

    def heading(self, dotted: str) -> str:
        """Return how a message about a key begins: the file in which it stands, and whose base that is."""
        path = self.where(dotted)
        return str(path) if path == self.path else f"{path}, base of {self.path}"


def resolve(path: Path) -> Plain:
    """Read a study's file and its bases, and put them together.

    Mappings are merged key by key, a section of another kind (``name``, ``source``) and all other values are replaced.
    What ``without`` lists is first taken out of the base.

    Raises:
        UserError: a file that cannot be read; a base that is no name, does not exist or leads back here; ``without``
            where it takes nothing out; data in the folder of the base.
    """
    return _resolve(path, ())


def _resolve(path: Path, heirs: tuple[Path, ...]) -> Plain:
    own = read_values(path)
    if BASE not in own:
        if WITHOUT in own:
            raise UserError(f"{path}: {WITHOUT} takes keys out of a base, but this study has none; remove {WITHOUT}")
        return Plain(own, ((path, own),))
    base = _resolve(_base_of(path, own[BASE], heirs), (*heirs, path))
    inherited = _take_out({key: value for key, value in base.values.items() if key != "name"}, own, path)
    values = merge(inherited, {key: value for key, value in own.items() if key not in (BASE, WITHOUT)})
    _check_folder(path, values, base)
    return Plain(values, ((path, own), *base.files))


def merge(base: Values, own: Values) -> Values:
    """Return the values of ``base`` with those of ``own`` over them, mappings key by key; neither is changed.

    A mapping inside takes the place of one of another kind, whose ``name`` or ``source`` is another.
    """
    return base | own | {key: _over(base[key], value) for key, value in own.items() if key in base}


def plain_file(study: str) -> Path:
    """Where the plain configuration of a study with a base is, for DVC."""
    return Path("pipelines") / study / "study.yaml"


def write_plain(path: Path) -> Path:
    """Write the plain configuration of the study at ``path`` and return where it is."""
    about = f"# Written by `python -m imbdet.bases {path}`: change the study or its base, not this file.\n"
    write_text(plain_file(path.stem), about + as_text(resolve(path).values))
    return plain_file(path.stem)


def _base_of(path: Path, name: Any, heirs: tuple[Path, ...]) -> Path:
    """The file of a base. Raises :class:`UserError` where there is none that can be read before its heirs."""
    if not isinstance(name, str) or not re.fullmatch(SAFE_NAME, name):
        raise UserError(f"{path}: {BASE} is {name!r}; expected the name of a study beside this one, without .yaml")
    base, chain = path.with_name(f"{name}.yaml"), (*heirs, path)
    if base in chain:
        names = " -> ".join(file.stem for file in (*chain[chain.index(base) :], base))
        raise UserError(f"{path}: {BASE} is {name!r}, which leads back to itself: {names}; one of them needs no base")
    if not base.is_file():
        known = (file.stem for file in path.parent.glob("*.yaml") if file not in chain)
        raise UserError(f"{path}: {BASE} is {name!r}, but there is no {base}; {nearest(name, known)}")
    return base


def _take_out(base: Values, own: Values, path: Path) -> Values:
    """The values of the base but for what ``without`` lists."""
    listed = own.get(WITHOUT, [])
    if not isinstance(listed, list) or not all(isinstance(dotted, str) for dotted in listed):
        raise UserError(f"{path}: {WITHOUT} is {listed!r}; expected a list of keys of the base, such as [sweep]")
    for dotted in listed:
        keys, rest = _locate(base, dotted)
        if rest:
            part: Any = base
            for key in keys:
                part = part[key]
            beside = [".".join(map(str, (*keys, key))) for key in part] if isinstance(part, dict) else []
            hint = nearest(dotted, beside) if beside else f"nothing is below {'.'.join(map(str, keys))}"
            raise UserError(f"{path}: {WITHOUT} names {dotted!r}, which {own[BASE]} does not have; {hint}")
        base = _less(base, keys)
    return base


def _less(values: Values, keys: Keys) -> Values:
    """A copy without the value at ``keys``."""
    first, *rest = keys
    if not rest:
        return {key: value for key, value in values.items() if key != first}
    return values | {first: _less(values[first], tuple(rest))}


def _over(base: Any, value: Any) -> Any:
    """A value over that of the base."""
    both = isinstance(base, dict) and isinstance(value, dict)
    return merge(base, value) if both and not _is_another_kind(base, value) else value


def _is_another_kind(base: Values, own: Values) -> bool:
    """Whether two mappings say that they are of different kinds; one of experiments may have the key, not a text."""
    kinds = [(base.get(key), own.get(key)) for key in KINDS]
    return any(isinstance(a, str) and isinstance(b, str) and a != b for a, b in kinds)


def _check_folder(path: Path, values: Values, base: Plain) -> None:
    """Refuse to prepare data where the base does: both tools want one writer of a file."""
    folders = [plain["data"].get("folder") for plain in (values, base.values) if isinstance(plain.get("data"), dict)]
    if len(folders) == 2 and folders[0] is not None and folders[0] == folders[1]:
        raise UserError(
            f"{path}: data.folder is {folders[0]!r}, that of its base {base.path.stem}: two studies would write the "
            f"same files; give it a folder of its own, such as data/{path.stem}"
        )


def _locate(values: Any, dotted: str) -> tuple[Keys, str]:
    """The keys on the way to a dotted path as far as they exist, and what is left of it; a key may hold dots itself."""
    found: tuple[Keys, str] = ((), dotted)
    for key in values if isinstance(values, dict) else ():
        if dotted == str(key):
            return (key,), ""
        if dotted.startswith(f"{key}."):
            keys, rest = _locate(values[key], dotted.removeprefix(f"{key}."))
            found = min(found, ((key, *keys), rest), key=lambda way: len(way[1]))
    return found


def _leaves(part: Any, keys: Keys) -> Iterator[Keys]:
    """The keys of each value in a part of a study that is no mapping, or an empty one."""
    if not isinstance(part, dict) or not part:
        yield keys
        return
    for key, value in part.items():
        yield from _leaves(value, (*keys, key))


def _has(values: Any, keys: Keys) -> bool:
    """Whether a file says something at ``keys``."""
    for key in keys:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m imbdet.bases", description="Write a study's plain configuration.")
    parser.add_argument("study", type=Path, help="config/STUDY.yaml, a study with a base")
    try:
        print(write_plain(parser.parse_args().study))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

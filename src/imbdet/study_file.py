"""A study's file checked, with messages that name file, key, value and the nearest names. No torch here."""

from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationError

from imbdet.bases import BASE, WITHOUT, resolve
from imbdet.config import Study
from imbdet.errors import UserError, nearest


def load_study(path: str | Path) -> Study:
    """Read and check ``config/<study>.yaml``, its bases resolved.

    Raises :class:`UserError` naming file, key, value and what is allowed; of a value that is a base's, that file.
    """
    plain = resolve(Path(path))
    return _check(plain.values, plain.path.stem, plain.heading)


def parse_study(raw: dict[str, Any], name: str, where: str) -> Study:
    """Check a study given as a mapping; ``where`` stands in front of every message."""
    return _check(raw, name, lambda key: where)


def _check(raw: dict[str, Any], name: str, heading: Callable[[str], str]) -> Study:
    """Check a study's values; ``heading`` says of a key how a message about it begins."""
    try:
        return Study.model_validate({"name": name, **raw})
    except ValidationError as error:
        raise UserError("\n".join(_explain(heading, raw, e) for e in error.errors())) from None


def _explain(heading: Callable[[str], str], raw: dict[str, Any], error: Any) -> str:
    """One pydantic error as a sentence with the key's path, the value and, for an unknown key, the nearest ones."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(_in_file(raw, location))
    message = error["msg"].removeprefix("Value error, ")
    about = message.split(" ")[0].rstrip(",:")  # where a message is about a key inside, it begins with it
    where = heading(f"{key}.{about}".lstrip("."))
    if error["type"] == "extra_forbidden":
        known = _keys_at(Study, location[:-1]) | (set() if location[:-1] else {BASE, WITHOUT})
        return f"{where}: unknown key {key!r}; {nearest(location[-1], known)}"
    if error["type"] == "missing":
        return f"{where}: key {key!r} is missing"
    if error["type"] == "string_type" and isinstance(error["input"], int | float):  # or true, an int as well
        message += f'; write it in quotes, as "{str(error["input"]).lower()}"'
    if isinstance(error["input"], dict):
        return f"{where}: {key + ': ' if key else ''}{message}"
    return f"{where}: {key} is {error['input']!r}: {message}"


def _in_file(raw: Any, location: list[str]) -> list[str]:
    """The path as the file has it: where a section may be of several kinds, pydantic puts in which one it is."""
    shown = []
    for part in location:
        is_dict = isinstance(raw, dict)
        if is_dict and part not in raw and part in (raw.get("name"), raw.get("source")):
            continue
        shown.append(part)
        raw = raw.get(part) if is_dict else None
    return shown


def _keys_at(model: Any, location: list[str]) -> set[str]:
    """The keys that are allowed at a path inside a model; union members are told apart by their tag."""
    if get_origin(model) is Annotated:
        model = get_args(model)[0]
    if get_origin(model) in (Union, UnionType):
        tags: dict[str, Any] = {}
        for member in get_args(model):
            for field in getattr(member, "model_fields", {}).values():
                tags |= {tag: member for tag in get_args(field.annotation) if isinstance(tag, str)}
        return _keys_at(tags[location[0]], location[1:]) if location and location[0] in tags else set()
    if get_origin(model) is dict:
        return _keys_at(get_args(model)[1], location[1:])
    fields = getattr(model, "model_fields", {})
    if not location:
        return set(fields)
    return _keys_at(fields[location[0]].rebuild_annotation(), location[1:]) if location[0] in fields else set()

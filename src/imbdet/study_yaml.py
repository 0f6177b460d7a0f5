"""YAML 1.2 of studies: a file read as nested values, and nested values written as a file. No torch here."""

import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from imbdet.errors import UserError, nearest

MAX_BYTES, MAX_VALUES = 1_000_000, 100_000  # a list of image ids may be long
MAX_DEPTH = 20  # levels, of which a study has about seven
MERGE, INTEGER = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:int"
# Tag, pattern, first characters; all other scalars are text.
SCALARS = (
    (MERGE, "<<", ["<"]),
    ("tag:yaml.org,2002:null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", "true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    (INTEGER, "[-+]?[0-9]+(_[0-9]+)*|0x[0-9a-fA-F]+|0o[0-7]+", [*"-+0123456789"]),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?([0-9]+(_[0-9]+)*\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        [*"-+.0123456789"],
    ),
)


class _StudyLoader(yaml.SafeLoader):
    """YAML 1.2's core schema, with ``_`` between digits: what DVC reads from the same file.

    By YAML 1.1, which PyYAML reads, ``off`` is False, ``1e-2`` a text, ``12:30`` is 750 and ``010`` is 8. Of two equal
    keys YAML silently keeps the last; a study that names an experiment twice is a mistake.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):  # other keys are refused as such
                value = key.value if key.tag == MERGE else self.construct_object(key)
                if value in seen:
                    raise yaml.YAMLError(f"key {key.value!r} stands twice{key.start_mark}")
                seen.add(value)
        return super().construct_mapping(node, deep)

    def construct_integer(self, node: yaml.ScalarNode) -> int:
        """Read decimal digits, or hexadecimal or octal ones after 0x or 0o."""
        return int(node.value, 0 if node.value[:2] in ("0x", "0o") else 10)


_StudyLoader.yaml_implicit_resolvers = {}  # none of SafeLoader's
for _tag, _pattern, _first in SCALARS:
    _StudyLoader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})$"), _first)
_StudyLoader.add_constructor(INTEGER, _StudyLoader.construct_integer)


class _StudyDumper(yaml.SafeDumper):
    """Quotes what :class:`_StudyLoader` would take for another value, and writes each value out where it stands."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_StudyDumper.yaml_implicit_resolvers = {
    first: [*known] for first, known in _StudyLoader.yaml_implicit_resolvers.items()
}
_StudyDumper.add_implicit_resolver("tag:yaml.org,2002:value", re.compile("=$"), ["="])  # unquoted, DVC refuses it
# Unquoted, DVC takes texts such as 0_ and ._ for numbers.
_StudyDumper.add_implicit_resolver("tag:yaml.org,2002:number", re.compile("[-+.0-9_:eE]+$"), [*"-+.0123456789"])


def read_values(path: Path) -> dict[str, Any]:
    """Read a study's file as it stands, unchecked. Raises :class:`UserError` for a file that holds no mapping."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes; a study is a few pages of settings")
        text = path.read_text(encoding="utf-8")
        if _is_deep(text):
            raise UserError(f"{path} is nested more than {MAX_DEPTH} levels deep; a study has about seven")
        raw = yaml.load(text, Loader=_StudyLoader)
    except FileNotFoundError as error:
        known = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise UserError(f"no study {path}; {nearest(str(path), known)}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; expected a file config/STUDY.yaml") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:  # a value that its tag does not fit
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path} must hold a mapping of keys to values, got {type(raw).__name__}")
    if _is_larger(raw, MAX_VALUES):
        raise UserError(f"{path} holds more than {MAX_VALUES:,} values once its aliases (*name) are put in; use fewer")
    return raw


def as_text(values: dict[str, Any]) -> str:
    """Return nested values as YAML, in ASCII, that :func:`read_values` and DVC read back as the same values."""
    return yaml.dump(values, Dumper=_StudyDumper, sort_keys=False, width=120)


def _is_deep(text: str) -> bool:
    """Whether YAML is nested too deeply, by its events: to build the values of such a one would end in recursion."""
    events = yaml.parse(text, Loader=yaml.SafeLoader)
    starts = (
        isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent) for event in events
    )
    return any(depth > MAX_DEPTH for depth in accumulate(starts))


def _is_larger(value: Any, limit: int) -> bool:
    """Whether a nested value has more than ``limit`` parts; a few lines of aliases can stand for billions."""
    waiting, count = [value], 0
    while waiting and count <= limit:
        part = waiting.pop()
        count += 1
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part
    return count > limit

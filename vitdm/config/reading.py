"""YAML read within bounds, so that no file can fill the memory, and no value changes silently.

Refused with the key and its line, beside what is no YAML: a key that occurs twice, and what YAML
1.1 reads otherwise than a person writes it, such as 12:30, in base 60, or 017, in base 8.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from vitdm.errors import InputError, cut, shown

#: bytes of a file; the longest configuration of the article has some 10 000
LARGEST = 1_000_000
#: keys and values, those of an alias each time that it is used
MOST_NODES = 30_000
#: sections within sections
DEEPEST = 40
#: digits of a number
LONGEST_NUMBER = 400
#: what YAML 1.1 reads otherwise than it is written
_MISREAD = {
    "in base 60": re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"),
    "in base 8": re.compile(r"[-+]?0[0-7_]+"),
    "as a date": re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*", re.DOTALL),
}
_KINDS = ("int", "float", "bool", "null", "merge", "timestamp")


class _Refused(yaml.YAMLError):
    """What is YAML, but not taken; the key, and what is wrong."""


class _Loader(yaml.SafeLoader):
    """The safe loader within the bounds above, which counts before it builds anything."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self._path: list[str] = []
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        self._path.append(_name(index))
        if len(self._path) > DEEPEST:
            raise self._wrong(f"expected at most {DEEPEST} levels", self.peek_event())
        alias = self.check_event(yaml.AliasEvent)
        event = self.peek_event()
        node = super().compose_node(parent, index)
        if node not in self._sizes:
            if alias:
                raise self._wrong("found an alias of what it is in", event)
            self._check(node)
            below = node.value if isinstance(node.value, list) else []
            pairs = isinstance(node, yaml.MappingNode)
            children = [child for pair in below for child in pair] if pairs else below
            self._sizes[node] = 1 + sum(self._sizes[child] for child in children)
        if self._sizes[node] > MOST_NODES or len(self._sizes) > MOST_NODES:
            raise self._wrong(f"expected at most {MOST_NODES} values, aliases included", event)
        self._path.pop()
        return node

    def _check(self, node: yaml.Node) -> None:
        """Raise _Refused for a value that a person would read otherwise, and for a key twice."""
        kind = node.tag.replace("tag:yaml.org,2002:", "!!")
        if not isinstance(node, yaml.ScalarNode):
            if kind not in ("!!map", "!!seq"):
                raise self._wrong(f"found the tag {cut(kind)}; expected none", node)
            if kind == "!!map":
                self._check_keys([key for key, _ in node.value])
            return
        value = node.value
        if yaml.reader.Reader.NON_PRINTABLE.search(value):
            raise self._wrong(f"found control characters in {shown(value)}", node)
        if kind == "!!str":
            return
        plain = self.resolve(yaml.ScalarNode, value, (True, False))
        if kind.removeprefix("!!") not in _KINDS or node.tag != plain:
            raise self._wrong(f"found the tag {cut(kind)}; expected none", node)
        for how, pattern in _MISREAD.items():
            if pattern.fullmatch(value):
                found = f"found {shown(value)}, which YAML reads {how}"
                raise self._wrong(f"{found}; expected a plain number, or quotes", node)
        if len(value) > LONGEST_NUMBER:
            raise self._wrong(f"found a number of {len(value)} digits", node)

    def _check_keys(self, keys: list[yaml.Node]) -> None:
        seen = set()
        for key in keys:
            if isinstance(key, yaml.ScalarNode):
                if (known := (key.tag, key.value)) in seen:
                    self._path.append(_name(key))
                    raise self._wrong("occurs twice; expected once", key)
                seen.add(known)

    def _wrong(self, what: str, place: Any) -> _Refused:
        key = cut(".".join(self._path[1:]))
        return _Refused(f"{key or '(file)'}: {what} (line {place.start_mark.line + 1})")


def _name(index: Any) -> str:
    """Return a part of a key: of a mapping, a place of a list, or a key that is being read."""
    if isinstance(index, yaml.ScalarNode):
        return cut(index.value)
    return str(index) if isinstance(index, int) else "(key)"


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a file of keys and values; InputError if it is none, or larger than any should be."""
    try:
        special = Path(path).exists() and not Path(path).is_file()  # a pipe would never end
        with Path(os.devnull if special else path).open("rb") as file:
            text = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read ({found})") from error
    if special:
        raise InputError(f"{path}: is no file; expected one of keys and values (YAML)")
    if len(text) > LARGEST:
        raise InputError(f"{path}: is larger than {LARGEST} bytes; expected settings (YAML)")
    try:
        content = _Loader(text).get_single_data()
    except _Refused as error:
        raise InputError(f"{path}: {error}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        found = str(error).replace('in "<byte string>", ', "at ")
        raise InputError(f"{path}: is not YAML: {cut(found, 300)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content

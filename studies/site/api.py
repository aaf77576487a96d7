"""The reference of the public names: their docstrings beside examples that are run as tests.

``docs/api/ROOM.md`` has a section for each public name, or for several that belong together
(``## CDM, AXION``), with an example. The site puts signatures and docstrings between.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

HEADING = re.compile(r"^## (.+)$", re.M)
MODULE = re.compile(r"\A# (vitdm[\w.]*)$", re.M)
LINE = 88  # characters of a signature: of a longer one, each parameter has a line
CONFIGURATION = "../reference/configuration.md"
_KEYWORD, _MANY = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_POSITIONAL
FENCE = re.compile(r"^```.*$", re.M)


def module_of(page: str) -> str:
    """Return the module whose names a page has."""
    return MODULE.match(page)[1]


def sections(page: str) -> dict[str, str]:
    """Return the text of each section of a page by the names in its heading."""
    parts = HEADING.split(page)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def names(heading: str) -> list[str]:
    """Return the names in a heading."""
    return [name.strip() for name in heading.split(",")]


def public(module: str) -> list[str]:
    """Return the public names of a module."""
    return list(importlib.import_module(module).__all__)


def rendered(page: str) -> str:
    """Return a page with signature and docstring of each name between its heading and example."""
    module = importlib.import_module(module_of(page))

    def told(match: re.Match) -> str:
        found = {name: getattr(module, name) for name in names(match[1])}
        texts = [_described(name, thing) for name, thing in found.items()]
        return f"{match[0]}\n\n" + "\n\n".join(texts) + "\n\n**Example.**"

    return HEADING.sub(told, page)


def _described(name: str, thing: Any) -> str:
    """Return signature and docstring of a name, and of the methods of a class."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return f"`{name}`: {type(thing).__name__}"
    if inspect.isclass(thing) and issubclass(thing, BaseModel):
        text = f"**`{name}`**. {_docstring(thing)} Its keys: [Configuration]({CONFIGURATION})."
    else:
        text = f"{_signature(name, thing)}\n\n{_docstring(thing)}"
    members = _methods(thing) if inspect.isclass(thing) else {}
    for member, method in members.items():
        told = f"{_signature(f'{name}.{member}', method)}\n\n{_docstring(method)}"
        text += "\n\n" + told
    return text


def _methods(kind: type) -> dict[str, Any]:
    """Return the public methods and properties that a class has beyond those it inherits."""
    found = {}
    for name, thing in vars(kind).items():
        plain = thing.__func__ if isinstance(thing, (classmethod, staticmethod)) else thing
        method = inspect.isfunction(plain) or isinstance(
            plain, (property, functools.cached_property)
        )
        if method and not name.startswith("_") and _docstring(plain):
            found[name] = plain
    return found


def _signature(name: str, thing: Any) -> str:
    """Return how something is called, as code; a parameter a line if it is long."""
    if isinstance(thing, (property, functools.cached_property)):
        return f"```python\n{name}\n```"
    signature = inspect.signature(thing)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    words = [_parameter(p) for p in parameters]
    if _KEYWORD in (kinds := [p.kind for p in parameters]) and _MANY not in kinds:
        words.insert(kinds.index(_KEYWORD), "*")
    returned = signature.return_annotation
    end = "" if inspect.isclass(thing) or returned is signature.empty else f" -> {_type(returned)}"
    text = f"{name}({', '.join(words)}){end}"
    if len(text) > LINE:
        text = f"{name}(\n" + "".join(f"    {word},\n" for word in words) + f"){end}"
    return f"```python\n{text}\n```"


def _parameter(p: inspect.Parameter) -> str:
    text = {_MANY: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name
    if p.annotation is not p.empty:
        text += f": {_type(p.annotation)}"
    if p.default is not p.empty:
        gap = "=" if p.annotation is p.empty else " = "
        text += gap + ("…" if callable(p.default) else repr(p.default))
    return text


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def _docstring(thing: Any) -> str:
    """Return a docstring as Markdown."""
    if isinstance(thing, functools.cached_property):
        thing = thing.func
    text = inspect.getdoc(thing) or ""
    text = re.sub(r":math:`(.*?)`", r"$\1$", text)
    return re.sub(r"``(.*?)``", r"`\1`", text)


def code(page: str) -> str:
    """Return a page as doctest reads it: a fence would be taken for what an example prints."""
    return FENCE.sub("", page)


def pages(folder: Path) -> dict[str, str]:
    """Return the pages of a folder by their modules."""
    texts = [file.read_text() for file in sorted(folder.glob("*.md"))]
    return {module_of(text): text for text in texts if MODULE.match(text)}

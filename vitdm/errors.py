"""The error that every wrong input raises, and how its message shows what was found."""

from __future__ import annotations

import reprlib
from typing import Any


class InputError(ValueError):
    """A file, key or value that the user gave is wrong; the message says what would be right."""


class _Short(reprlib.Repr):
    """Representations of which no more is built than is shown, however large the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxother = 4, 80
        self.maxstring = self.maxlong = 60
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdict = 10

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() < 200 else f"<integer of {x.bit_length()} bits>"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return self.repr_str(x, level)


_short = _Short()


def cut(text: str, length: int = 80) -> str:
    """Return a text in one line of at most ``length`` characters."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else line[: length - 3] + "..."


def shown(value: Any) -> str:
    """Return the ``repr`` of a value for a message, cut at 80 characters and never built whole."""
    return cut(_short.repr(value))

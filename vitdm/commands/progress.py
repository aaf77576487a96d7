"""How far the work on a lens is, on stderr: one line that changes on a terminal, else many."""

from __future__ import annotations

import sys
from typing import Any


class Progress:
    """A line for each stage; on a terminal each replaces the one before, and the end all."""

    def __init__(self, name: str) -> None:
        self.name, self.terminal = name, sys.stderr.isatty()

    def __call__(self, stage: str) -> None:
        line = f"{self.name}: {stage}"
        if self.terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

"""Results of the larger studies (config/extended.yaml): the committed ones, or those of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from studies.config import Config

EXTENDED = Path("paper/extended")  # committed, shown by the article


def committed(config: Config, name: str) -> list[Path]:
    """Return a committed file as a list of one; empty if the run is not the article's."""
    return [EXTENDED / name] * config.publish


def first_there(files: Iterable[Path]) -> Path | None:
    """Return the first of some files that exists; None if none does."""
    return next((file for file in files if file.exists()), None)

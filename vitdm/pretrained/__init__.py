"""The reference model that comes with the library, the first of the article's final models."""

from __future__ import annotations

from pathlib import Path

from vitdm.model.runs import Run, load_run

FOLDER = Path(__file__).parent / "reference"


def load_pretrained() -> Run:
    """Return the reference model; ``predict.predict([run], images)`` applies it to raw images."""
    return load_run(FOLDER)

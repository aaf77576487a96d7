"""The models that come with the library, each in a folder with its card."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vitdm.data.readers import observations_at, suffix_of
from vitdm.errors import InputError
from vitdm.model.runs import Run, load_run

#: the models by name, and the images that each was trained for
MODELS = {
    "reference": "lenses in counts, 0.05 arcsec a pixel",
    "binary": "grey levels of DeepLense's binary set, 0.06 arcsec a pixel",
}
FOLDER = Path(__file__).parent / "reference"
GREY = (".jpg", ".jpeg", ".png")  # files of grey levels; others hold brightness


def load_pretrained(name: str = "reference") -> Run:
    """Return a model of ``MODELS``; ``predict.predict([run], images)`` applies it to raw images.

    InputError if there is no model of that name.
    """
    if name not in MODELS:
        raise InputError(f"model: found {name!r}; expected one of: {', '.join(MODELS)}")
    return load_run(folder_of(name))


def folder_of(run: str | Path) -> Path:
    """Return the folder of a model that comes with the library, or that of any other run."""
    run = Path(run)
    return FOLDER.with_name(str(run)) if str(run) in MODELS and not run.is_dir() else run


def suited(paths: Iterable[str | Path]) -> str:
    """Return the name of the model for images in files or folders: grey levels, or brightness.

    InputError if there are both: no model was trained for both, and answers of two cannot be
    compared.
    """
    files: dict[bool, Path] = {}
    for file in observations_at(paths):
        files.setdefault(suffix_of(file.name) in GREY, file)
    if len(files) > 1:
        raise InputError(
            f"{files[True]}: found grey levels, but none in {files[False]}; no model was trained "
            "for both: expected images of one kind, or --run"
        )
    return "binary" if True in files else "reference"

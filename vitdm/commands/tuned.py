"""The settings that a finished search chose: no command, but what ``--tuned`` means in two."""

from __future__ import annotations

from pathlib import Path

from vitdm.config import Settings
from vitdm.errors import InputError
from vitdm.tuning.finished import load_best


def settings_of_search(settings: Settings, search: Path, *, start: bool = False) -> Settings:
    """Return the settings with the best point of a search put in, or with the point it started at.

    InputError if the search has not finished, or if its parameters do not fit the settings.
    """
    params = load_best(search)["start" if start else "params"]
    if settings.tune is None:
        raise InputError(f"{search}: found no section tune in the settings; expected the search's")
    try:
        return settings.trial(params)
    except ValueError as error:
        found = f"found {params}, which does not fit the configuration"
        raise InputError(f"{search}: {found}: {error}") from error

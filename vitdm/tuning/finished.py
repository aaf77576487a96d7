"""A finished search, read from its folder: its trials, and what it chose.

Apart from the search itself, which whoever uses its result need not import.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from vitdm.errors import InputError


def load_best(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``best.json``; InputError if the search has not finished."""
    path = Path(folder) / "best.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the search first")
    try:
        best = json.loads(path.read_text())
        return best | {key: dict(best[key]) for key in ("params", "start")}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: found no parameters ({error}); run the search again") from error


def load_trials(folder: str | Path) -> pd.DataFrame:
    """Return the table of all trials, ``trials.csv``; those trained anew have stage ``again``."""
    path = Path(folder) / "trials.csv"
    if not path.is_file():
        raise InputError(f"{path}: no such file; run the search first")
    return pd.read_csv(path, keep_default_na=False, na_values=[""]).fillna({"error": ""})

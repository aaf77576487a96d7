"""Settings read from files, and written to them."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from pydantic import BaseModel

from vitdm.config.network import RunSettings
from vitdm.config.reading import read_yaml
from vitdm.config.sections import checked
from vitdm.config.settings import Settings


def load_settings(path: str | Path) -> Settings:
    """Read the settings of a command; InputError names each wrong key."""
    return checked(Settings, read_yaml(path), str(path))


def load_run_settings(path: str | Path) -> RunSettings:
    """Read the ``config.yaml`` of a run; InputError names each wrong key."""
    return checked(RunSettings, read_yaml(path), str(path))


def save(config: BaseModel, path: str | Path) -> None:
    """Write a configuration as YAML, by rename, and only if it differs from what is there."""
    path = Path(path)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)

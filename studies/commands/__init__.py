"""What the commands of the studies share; what a command is, ``vitdm.commands`` says."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studies.config import Config


def add_config(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add ``--config``, the file that the workflow writes for a stage (``studies.stages``)."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", required=required, help="settings of a stage (YAML)"
    )


def read_config(options: argparse.Namespace) -> Config:
    """Return the settings in the file of ``--config``, and no others."""
    from studies.config.part import load_part

    return load_part(options.config)

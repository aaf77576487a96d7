"""The command line of the studies: ``python -m studies COMMAND``, from the repository's root."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys

from studies import commands
from vitdm.commands import build_parser, run_command

COMMANDS = {
    module.name.replace("_", "-"): importlib.import_module(f"studies.commands.{module.name}")
    for module in pkgutil.iter_modules(commands.__path__)
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    description = "What the article measures with vitdm; the workflow calls these commands."
    return build_parser("python -m studies", description, COMMANDS)


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return run_command(parser(), COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())

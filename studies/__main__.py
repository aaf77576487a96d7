"""The command line of the studies: ``python -m studies COMMAND``, from the repository's root."""

from __future__ import annotations

import argparse
import sys

from studies.commands import (
    article,
    audit,
    check,
    compare,
    efficiency,
    ideal_observer,
    invariance,
    join_trials,
    known_lens,
    merge_compare,
    merge_efficiency,
    merge_fits,
    merge_real_sky,
    merge_shards,
    rates,
    real_sky,
    tuned_against_start,
    write_reference,
)
from vitdm.commands import build_parser, run_command

COMMANDS = {
    "merge-shards": merge_shards,
    "merge-fits": merge_fits,
    "ideal-observer": ideal_observer,
    "known-lens": known_lens,
    "invariance": invariance,
    "tuned-against-start": tuned_against_start,
    "efficiency": efficiency,
    "merge-efficiency": merge_efficiency,
    "compare": compare,
    "merge-compare": merge_compare,
    "audit": audit,
    "real-sky": real_sky,
    "merge-real-sky": merge_real_sky,
    "rates": rates,
    "join-trials": join_trials,
    "article": article,
    "check": check,
    "write-reference": write_reference,
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

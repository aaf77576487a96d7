"""``article``: the article of a run, or the report on a user's own images."""

from __future__ import annotations

import argparse
from pathlib import Path

from studies.commands import add_config
from vitdm import commands

HELP = "Build the article, or the report on a user's own images."
EXAMPLE = (
    "python -m studies article --results results/paper --figures figures"
    " --tables paper/tables --made roc_curve runs --out paper"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", type=Path, help="Markdown in place of paper.md or report.md")
    add_config(parser, required=False)
    parser.add_argument("--results", type=Path, required=True, help="folder of the run")
    parser.add_argument("--figures", type=Path, required=True, help="folder of its figures")
    parser.add_argument("--tables", type=Path, required=True, help="folder of its tables")
    parser.add_argument("--made", nargs="+", required=True, help="names of the run's figures")
    text = "folder that receives paper.pdf, .html and .tex, or report.pdf …"
    commands.add_out(parser, text, apart=False)


def run(options: argparse.Namespace) -> None:
    from studies.article import build

    build(
        source=options.source,
        config=options.config,
        results=options.results,
        figures=options.figures,
        tables=options.tables,
        made=options.made,
        out=options.out,
    )

"""``archive``: a run to deposit."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Write an archive (zip) to deposit: code, intermediates, sidecars, RO-Crate metadata."
EXAMPLE = "python -m studies archive --config config/paper.yaml --out results/paper/vitdm.zip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, required=True, help="configuration of the run (YAML)"
    )
    parser.add_argument("--results", help="its folder; default: that of the configuration")
    parser.add_argument("--out", type=Path, required=True, help="the archive (zip)")


def run(options: argparse.Namespace) -> None:
    from studies.archive import archive

    names = archive(options.config, options.out, results=options.results)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {len(names)} files, {size:.0f} MB; `make article` rebuilds the article")

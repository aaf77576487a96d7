"""``vitdm benchmark``: the DeepLense benchmark, its sets of images and the scores of answers."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands

HELP = "List, make or score the sets of the DeepLense benchmark."
EXAMPLE = "vitdm benchmark score model_ii_repaired predictions.csv"
SIZES = "full (the benchmark), small or tiny (to try things out); default: full"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", description="List sets, repairs and sizes.", help="list the sets")
    make = actions.add_parser("make", description="Write a set.", help="write a set of images")
    _add_set(make)
    commands.add_shard(make)
    commands.add_out(make, "dataset folder")
    score = actions.add_parser(
        "score", description="Score answers to the test images of a set.", help="score answers"
    )
    _add_set(score)
    score.add_argument(
        "predictions",
        nargs="+",
        type=Path,
        help="CSV files, named after their models: id, p_no_sub, p_cdm, p_axion",
    )
    score.add_argument("--out", type=Path, help="CSV file of all numbers")


def _add_set(parser: argparse.ArgumentParser) -> None:
    text = "such as model_ii, model_ii_repaired, model_ii_noise (vitdm benchmark list)"
    parser.add_argument("name", help=text)
    parser.add_argument("--size", default="full", help=SIZES)


def run(options: argparse.Namespace) -> None:
    {"list": _list, "make": _make, "score": _score}[options.action](options)


def _list(options: argparse.Namespace) -> None:
    from vitdm import benchmark

    known = benchmark.definition()
    print(f"DeepLense benchmark, version {known.version}\n\nsets:")
    for name in benchmark.shown_sets():
        chosen = benchmark.BenchmarkSet(name)
        repairs = ", ".join(chosen.repairs) or "as published"
        print(f"  {name:<20} {known.models[chosen.model]}: {repairs}")
    print("\nrepairs, also one by one or some together, such as model_ii_noise_mass:")
    for name, repair in known.repairs.items():
        print(f"  {name:<20} {repair.meaning}")
    print("\nsizes:")
    for size, n_images in known.sizes.items():
        print(f"  {size:<20} " + ", ".join(f"{n} {split}" for split, n in n_images.items()))


def _make(options: argparse.Namespace) -> None:
    from vitdm import benchmark

    benchmark.make(options.name, options.out, options.size, options.shard)


def _score(options: argparse.Namespace) -> None:
    import pandas as pd

    from vitdm import benchmark
    from vitdm.provenance import atomic

    rows = [
        benchmark.score_predictions(path, options.name, options.size)
        for path in options.predictions
    ]
    table = pd.DataFrame(rows)
    print(benchmark.markdown(table))
    if options.out is not None:
        with atomic(options.out) as temporary:
            table.to_csv(temporary, index=False)

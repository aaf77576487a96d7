"""``write-reference``: a run made the reference, its numbers and its model."""

from __future__ import annotations

import argparse
from pathlib import Path

from vitdm import commands
from vitdm.bounds import MOST_IMAGES

HELP = "Make a run the reference: its numbers, the README's, the reference model."
EXAMPLE = "python -m studies write-reference --results results/paper"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results/paper", help="folder (default: %(default)s)")
    parser.add_argument(
        "--reference", default="paper/reference.json", help="numbers (default: %(default)s)"
    )
    parser.add_argument(
        "--novelty",
        type=commands.whole(2, MOST_IMAGES),
        metavar="N",
        help="only learn anew, from N simulated lenses and N held out, what is unlike them",
    )
    parser.add_argument(
        "--binary",
        type=commands.whole(2, MOST_IMAGES),
        metavar="N",
        help="only train the model for DeepLense's binary set, on N simulated lenses",
    )
    parser.add_argument("--images", help="with --binary: class folders of that set, to be scored")


def run(options: argparse.Namespace) -> None:
    from studies import reference_model
    from studies.article import contradictions_of_run
    from studies.check import check_chain, fill_numbers, read_numbers, write_reference
    from vitdm.errors import InputError
    from vitdm.provenance import write_json

    if options.novelty is not None:
        return reference_model.learn_novelty(options.novelty)
    if options.binary is not None:
        from studies import binary_model

        return print(binary_model.write(options.binary, options.images).to_string(index=False))
    numbers = read_numbers(options.results)
    check_chain(options.results, numbers)
    claims = Path(options.reference).with_name("claims.yaml")
    if claims.is_file() and (against := contradictions_of_run(claims, numbers, options.results)):
        raise InputError(f"{options.results}: contradicts the article. {against[0]}")
    write_reference(numbers, options.reference)
    write_json(Path(options.reference).with_name("numbers.json"), numbers)
    fill_numbers("README.md", numbers)
    reference_model.write(options.results, numbers)

"""The command line: ``vitdm simulate | ingest | preprocess | lensfit | features | train | …``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from vitdm import __version__, config
from vitdm.config.sections import checked
from vitdm.errors import InputError
from vitdm.provenance import atomic


def _shard(text: str) -> tuple[int, int]:
    try:
        k, of = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected k/n, such as 0/8") from None
    return k, of


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="vitdm", description=__doc__.split("\n")[0])
    top.add_argument("--version", action="version", version=f"vitdm {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str, *, out: str, needs_config: bool = True):
        sub = commands.add_parser(name, help=help, description=help)
        if needs_config:
            sub.add_argument("--config", required=True, help="workflow configuration (YAML)")
        if out:
            sub.add_argument("--out", required=True, type=Path, help=out)
        return sub

    sub = command(
        "simulate", "Simulate lenses of a population.", out="dataset folder", needs_config=False
    )
    sub.add_argument("--config", help="workflow configuration: population, splits and seed (YAML)")
    sub.add_argument("--population", help="population (YAML); default: the configuration's")
    sub.add_argument("--n", type=int, help="number of images, all in split train; default: splits")
    sub.add_argument("--n-opt", type=int, default=0, help="beside --n: as many in split opt")
    sub.add_argument("--seed", type=int, help="default: the configuration's, or 0")
    sub.add_argument("--shard", type=_shard, default=(0, 1), help="k/n: which of how many shards")

    sub = command("ingest", "Make a dataset of images in files.", out="dataset folder")
    sub.add_argument("path", help="folder or archive in a DeepLense layout (docs/data.md)")
    sub.add_argument(
        "--resplit", action="store_true", help="draw all splits anew, whatever was published"
    )
    sub.add_argument(
        "--skip-bad", action="store_true", help="leave out files that cannot be used, list them"
    )
    sub.add_argument(
        "--drop-duplicates", action="store_true", help="keep one of several images that are equal"
    )
    sub.add_argument(
        "--pixel-scale", type=float, metavar="ARCSEC", help="of all images; default: FITS headers"
    )

    sub = command(
        "merge", "Join shards of a dataset, or of its lens fits.", out="folder", needs_config=False
    )
    sub.add_argument("shards", nargs="+", type=Path)

    sub = command(
        "ceiling",
        "Compute how well the classes of a population can be told apart at all.",
        out="folder",
        needs_config=False,
    )
    sub.add_argument("population", help="population (YAML)")
    sub.add_argument("--n", type=int, default=1000, help="number of images (default: %(default)s)")
    sub.add_argument(
        "--of",
        type=Path,
        metavar="PREDICTIONS",
        help="predictions.csv of vitdm evaluate: of its images, the scores with the smooth lens "
        "known (instead of --n)",
    )
    sub.add_argument("--seed", type=int, default=0, help="of the data set (default: %(default)s)")
    sub.add_argument("--jobs", type=int, default=1, help="processes of --of (default: %(default)s)")

    sub = command("preprocess", "Cut, turn and stretch every image.", out="dataset folder")
    sub.add_argument("dataset", type=Path)
    sub.add_argument(
        "--tuned", type=Path, metavar="TUNE", help="as this search chose, if it varied preprocess"
    )

    sub = command("features", "Measure the physics features of every image.", out="CSV file")
    sub.add_argument("dataset", type=Path)
    sub.add_argument("--fits", type=Path, help="folder of vitdm lensfit, for the group lensfit")

    sub = command(
        "invariance",
        "Compare images rotated, moved, brightened with themselves, all processed.",
        out="folder",
    )
    sub.add_argument("dataset", type=Path)
    sub.add_argument("--n", type=int, default=200, help="number of images (default: %(default)s)")

    sub = command("select", "Judge the features, choose those for the model.", out="folder")
    sub.add_argument("processed", type=Path, help="dataset folder; its catalog is read")
    sub.add_argument("--features", type=Path, required=True, help="feature table (CSV)")
    sub.add_argument(
        "--ranking-only",
        action="store_true",
        help="one by one, on split train: no redundancy, no classifiers, no choice",
    )

    def with_features(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--features", type=Path, help="feature table (CSV)")
        sub.add_argument(
            "--selection", type=Path, help="selection.json of vitdm select: the features to join"
        )
        sub.add_argument("--fits", type=Path, help="folder of vitdm lensfit, for model.residual")

    sub = command("lensfit", "Fit a smooth lens to every image.", out="folder")
    sub.add_argument("dataset", type=Path)
    sub.add_argument("--population", help="of simulated lenses (YAML): tells PSF and photon noise")
    sub.add_argument("--shard", type=_shard, default=(0, 1), help="k/n: which of how many shards")

    sub = command(
        "train", "Train one model, of one or several seeds.", out="run folder, {seed} for its seed"
    )
    sub.add_argument("processed", type=Path, help="folder of processed images")
    with_features(sub)
    sub.add_argument("--run", help="name of an entry in the configuration's runs")
    sub.add_argument(
        "--seed",
        type=int,
        nargs="+",
        default=[0],
        help="added to the configuration's seed; of several one after another",
    )
    sub.add_argument(
        "--final",
        type=Path,
        metavar="TUNE",
        help="train on splits train and opt with the best values found in this search folder",
    )

    sub.add_argument(
        "--start", action="store_true", help="with --final: with the values it started from instead"
    )

    sub = command("tune", "Search the hyperparameters (gp_minimize).", out="search folder")
    sub.add_argument("processed", type=Path)
    with_features(sub)
    sub.add_argument(
        "--dataset", type=Path, help="images before processing, if the space has preprocess keys"
    )
    sub.add_argument(
        "--parallel", type=int, metavar="N", help="trials at once; default: the configuration's"
    )
    sub.add_argument(
        "--backend",
        default="loky",
        metavar="NAME[=ADDRESS]",
        help="where they run (joblib): loky, dask, ray, threading, such as dask=tcp://host:8786"
        " (default: %(default)s)",
    )

    what = sub.add_mutually_exclusive_group()
    what.add_argument("--arm", help="a kind of search in the configuration's study instead")
    what.add_argument(
        "--recipe", help="no search: a recipe of the configuration's rates, at each of them"
    )
    sub.add_argument("--seed", type=int, default=0, help="with --arm: which of its searches")

    sub = command("join-trials", "Join the trials of arms, or of recipes.", out="CSV file")
    sub.add_argument("folders", nargs="+", type=Path)

    sub = command("gain", "Compare runs, pair by pair, on split opt.", out="JSON file")
    sub.add_argument("processed", type=Path, help="of images that these runs have not seen")
    sub.add_argument("--runs", nargs="+", type=Path, required=True)
    sub.add_argument("--against", nargs="+", type=Path, required=True)
    sub.add_argument("--features", type=Path, help="feature table (CSV)")
    sub.add_argument("--fits", type=Path, help="folder of vitdm lensfit, for model.residual")

    sub = command(
        "efficiency", "Train on a number of images, score; or join such scores.", out="folder"
    )
    sub.add_argument(
        "folders",
        nargs="+",
        type=Path,
        help="a sample (with processed, features.csv,"
        " lensfit), and others to score; with --merge, folders of scores",
    )
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--n", type=int, help="number of training images")
    what.add_argument("--merge", action="store_true", help="join scores")
    sub.add_argument("--seed", type=int, default=0, help="added to the configuration's seed")
    sub.add_argument(
        "--runs", nargs="+", metavar="NAME", help="only these networks, which see images alone"
    )

    sub = command(
        "compare", "Tune and train a row of the fair comparison; or join the rows.", out="folder"
    )
    sub.add_argument("folders", nargs="+", type=Path, help="a sample; with --merge, all rows")
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--row", help="name of an entry in compare.rows of the configuration")
    what.add_argument("--merge", action="store_true", help="join the rows")

    sub = command("audit", "Train the precursor's recipe, fault by fault, and ours.", out="folder")
    sub.add_argument("sample", type=Path, help="folder with dataset, processed, features.csv")

    sub = command(
        "real-sky",
        "Train on simulated lenses, ask of real ones; or join the answers.",
        out="folder",
    )
    sub.add_argument(
        "folders", nargs="+", type=Path, help="a sample; with --merge, folders <set>/seed<k>"
    )
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--set", help="name of an entry in real_sky.sets of the configuration")
    what.add_argument("--merge", action="store_true", help="join the answers")
    sub.add_argument("--seed", type=int, default=0, help="added to the configuration's seed")

    sub = command("evaluate", "Open the test split: apply runs and score them.", out="folder")
    sub.add_argument("processed", type=Path)
    sub.add_argument("runs", nargs="+", type=Path)
    sub.add_argument("--features", type=Path, help="feature table (CSV)")
    sub.add_argument("--fits", type=Path, help="folder of vitdm lensfit, for model.residual")

    sub = command("predict", "Classify images.", out="", needs_config=False)
    sub.add_argument("images", nargs="+", help="jpg, png, npy or FITS files, or folders of them")
    sub.add_argument(
        "--run", nargs="+", type=Path, help="run folder(s); averaged; default: the reference model"
    )
    sub.add_argument("--out", type=Path, help="CSV file; default: standard output")

    sub = command("check", "Compare a rebuild with the reference.", out="", needs_config=False)
    sub.add_argument("--results", default="results/paper")
    sub.add_argument("--reference", default="paper/reference.json")
    sub.add_argument(
        "--write",
        action="store_true",
        help="make this run the reference (README, reference model) instead",
    )
    return top


def _run(arguments: argparse.Namespace) -> int:
    """Carry out one command; heavy imports happen only where they are needed."""
    written = getattr(arguments, "config", None)
    settings = config.load(written) if written else None
    match arguments.command:
        case "simulate":
            _simulate(arguments, settings)
        case "ingest":
            from vitdm.data.ingest import ingest

            chosen, scale = settings.ingest, arguments.pixel_scale
            summary = ingest(
                arguments.path,
                arguments.out,
                settings.n_images,
                settings.seed,
                resplit=arguments.resplit or chosen.resplit,
                skip_bad=arguments.skip_bad or chosen.skip_bad,
                drop_duplicates=arguments.drop_duplicates or chosen.drop_duplicates,
                pixel_scale=chosen.pixel_scale if scale is None else scale,
            )
            print(summary, file=sys.stderr)
        case "merge" if all((folder / "fits.csv").is_file() for folder in arguments.shards):
            from vitdm.lens import merge_fits

            merge_fits(arguments.shards, arguments.out)
        case "merge":
            from vitdm.data.dataset import merge

            merge(
                arguments.shards,
                arguments.out,
                inputs=[folder / "images.npy" for folder in arguments.shards],
            )
        case "ceiling":
            from studies import ideal_observer

            population, seed = config.load_population(arguments.population), arguments.seed
            if arguments.of:
                auc = ideal_observer.write_known(
                    population, arguments.of, seed, arguments.out, jobs=arguments.jobs
                )
                print(f"smooth lens known: ROC-AUC of chi2 {auc:.4f}", file=sys.stderr)
            else:
                summary = ideal_observer.write(population, arguments.n, seed, arguments.out)
                print(ideal_observer.in_words(summary), file=sys.stderr)
        case "preprocess":
            from vitdm.preprocess.process import process_dataset

            cut = settings.preprocess
            if arguments.tuned:
                from vitdm.tuning.result import load_best

                _, _, cut = _trial(settings, load_best(arguments.tuned)["params"], arguments.tuned)
            process_dataset(arguments.dataset, arguments.out, cut)
        case "features":
            from vitdm.features.measure import measure_dataset

            measure_dataset(
                arguments.dataset,
                arguments.out,
                settings.preprocess,
                settings.features,
                arguments.fits,
            )
        case "invariance":
            from studies import invariance

            summary = invariance.write(arguments.dataset, settings, arguments.n, arguments.out)
            print(invariance.in_words(summary), file=sys.stderr)
        case "select":
            from vitdm.evaluation.selection import select

            only = arguments.ranking_only
            select(arguments.processed, arguments.features, settings, arguments.out, only)

        case "lensfit":
            from vitdm.lens import fit_dataset, settings_for

            chosen = settings.lensfit
            if arguments.population:
                chosen = settings_for(config.load_population(arguments.population), chosen)
            fit_dataset(arguments.dataset, arguments.out, chosen, arguments.shard)
        case "train":
            _train(arguments, settings)
        case "tune":
            _tune(arguments, settings)
        case "join-trials":
            from studies import rates

            rates.join(arguments.folders, settings, arguments.out)
        case "gain":
            from studies import gain

            found = gain.measure(
                arguments.processed,
                arguments.features,
                arguments.runs,
                arguments.against,
                arguments.out,
                task=settings.task,
                n_bootstrap=settings.final.bootstrap,
                seed=settings.seed,
                fits=arguments.fits,
            )
            text = "gain in ROC-AUC {gain:+.4f} ({low:+.4f} to {high:+.4f})"
            print(text.format(**found), file=sys.stderr)
        case "efficiency" if arguments.merge:
            from studies import efficiency

            efficiency.merge(arguments.folders, arguments.out)
        case "efficiency":
            from studies import efficiency

            first, *also = arguments.folders
            n, seed = arguments.n, arguments.seed
            efficiency.measure(first, settings, n, seed, arguments.out, also, arguments.runs)
        case "compare" if arguments.merge:
            from studies import compare

            compare.merge(arguments.folders, settings, arguments.out)
        case "compare":
            from studies import compare

            compare.measure(_only(arguments.folders), settings, arguments.row, arguments.out)
        case "audit":
            from studies.audit import measure

            measure(arguments.sample, settings, arguments.out)
        case "real-sky" if arguments.merge:
            from studies import real_sky

            real_sky.merge(arguments.folders, settings, arguments.out)
        case "real-sky":
            from studies import real_sky

            sample, seed = _only(arguments.folders), arguments.seed
            real_sky.measure(sample, settings, arguments.set, seed, arguments.out)
        case "evaluate":
            from vitdm.evaluation.evaluate import evaluate

            evaluate(
                arguments.processed,
                arguments.features,
                arguments.runs,
                arguments.out,
                task=settings.task,
                n_bootstrap=settings.final.bootstrap,
                seed=settings.seed,
                fits=arguments.fits,
            )
        case "predict":
            from vitdm import pretrained
            from vitdm.predict import predict_files

            table = predict_files(arguments.images, arguments.run or [pretrained.FOLDER])
            if arguments.out:
                with atomic(arguments.out) as temporary:
                    table.to_csv(temporary, index=False)
            else:
                table.to_csv(sys.stdout, index=False)
        case "check":
            from studies.check import check, fill_numbers, read_numbers, write_reference
            from vitdm import pretrained

            if arguments.write:
                numbers = read_numbers(arguments.results)
                write_reference(numbers, arguments.reference)
                fill_numbers("README.md", numbers)
                pretrained.write(arguments.results, numbers)
                return 0
            return 1 if check(arguments.results, arguments.reference) else 0
    return 0


def _only(folders: list[Path]) -> Path:
    """Return the sample that is named alone."""
    if len(folders) > 1:
        raise InputError(f"{folders[1]}: found a second sample; expected one")
    return folders[0]


def _simulate(arguments: argparse.Namespace, settings: config.Config | None) -> None:
    from vitdm.simulation.simulate import simulate

    if settings is None and not (arguments.population and arguments.n):
        raise InputError("found neither --config nor both --population and --n; expected one")
    population = config.load_population(arguments.population or settings.population)
    n_images = {"train": arguments.n} if arguments.n else settings.n_images
    n_images = n_images | ({"opt": arguments.n_opt} if arguments.n_opt else {})
    seed = arguments.seed if arguments.seed is not None else settings.seed if settings else 0
    simulate(population, n_images, seed, arguments.out, arguments.shard)


def _trial(
    settings: config.Config, params: dict[str, Any], search: Path
) -> tuple[config.Model, config.Train, config.Preprocess]:
    """Return settings with the parameters of a search put in; InputError if they do not fit."""
    try:
        return settings.trial(params)
    except ValueError as error:
        found = f"found {params}, which does not fit the configuration"
        raise InputError(f"{search}: {found}: {error}") from error


def _tune(arguments: argparse.Namespace, settings: config.Config) -> None:
    from studies import rates
    from vitdm.tuning.tuner import tune

    seen = (arguments.processed, arguments.features)
    given = {"selection": arguments.selection, "fits": arguments.fits}
    if arguments.recipe is not None:
        rates.measure(*seen, settings, arguments.recipe, arguments.out, **given)
        return
    random = False
    if arguments.arm is not None:
        if arguments.arm not in settings.study.arms:
            known = ", ".join(settings.study.arms) or "none"
            raise InputError(f"--arm {arguments.arm}: no such arm; expected one of: {known}")
        random = settings.study.arms[arguments.arm].random
        settings = settings.for_arm(arguments.arm, arguments.seed)
    if arguments.parallel is not None:
        search = settings.tune.model_dump() | {"parallel": arguments.parallel}
        chosen = checked(config.Tune, search, "--parallel")
        settings = settings.model_copy(update={"tune": chosen})
    tune(
        *seen,
        settings,
        arguments.out,
        dataset=arguments.dataset,
        backend=arguments.backend,
        random=random,
        **given,
    )


def _train(arguments: argparse.Namespace, settings: config.Config) -> None:
    from vitdm.evaluation.selection import joined_features
    from vitdm.model.train import Diverged, checkpoint_of, fit

    folders = {
        seed: arguments.out.with_name(arguments.out.name.replace("{seed}", str(seed)))
        for seed in arguments.seed
    }
    if len(set(folders.values())) < len(arguments.seed):
        raise InputError(
            f"--out {arguments.out}: found one folder for {len(arguments.seed)} seeds; expected "
            "different seeds, and {seed} in its name"
        )
    if arguments.start and not arguments.final:
        raise InputError("--start: found no --final; expected the folder of a search")
    if arguments.final:
        from vitdm.tuning.result import load_best

        best = load_best(arguments.final)
        chosen = best["start" if arguments.start else "params"]
        model, train, cut = _trial(settings, chosen, arguments.final)
        train = train.model_copy(update={"epochs": settings.final.epochs})
        settings = settings.model_copy(update={"preprocess": cut})
        splits = {"train_splits": ("train", "opt"), "score_split": "valid"}
    else:
        override = config.Override(label="")
        if arguments.run is not None:
            if arguments.run not in settings.runs:
                known = ", ".join(settings.runs) or "none"
                raise InputError(f"--run {arguments.run}: no such run; expected one of: {known}")
            override = settings.runs[arguments.run]
        model, train = settings.settings(override.model, override.train)
        splits = {"train_splits": ("train",), "valid_split": "valid", "score_split": "opt"}
    names = joined_features(model, settings, arguments.selection)
    for seed, out in folders.items():
        try:
            fit(
                arguments.processed,
                arguments.features,
                settings,
                model,
                train,
                seed=settings.seed + seed,
                out=out,
                feature_names=names,
                fits=arguments.fits,
                label=out.name,
                keep_checkpoint=True,
                **splits,
            )
        except Diverged as error:
            raise InputError(f"{out}: {error}; expected a lower learning rate") from error
    # only now: whoever starts a killed command again may have lost the folders that were ready
    for out in folders.values():
        checkpoint_of(out).unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Run a command; what is wrong with the input becomes one message and exit status 2."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    arguments = parser().parse_args(argv)
    try:
        return _run(arguments)
    except InputError as error:
        print(f"vitdm {arguments.command}: error: {error}", file=sys.stderr)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or error
        print(f"vitdm {arguments.command}: error: {where}{reason}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"vitdm {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())

"""What each stage of the workflow may read of the configuration: the contents of its file.

A command reads its settings from the file of its stage, ``results/<name>/config/<stage>.yaml``, and
from nowhere else. The file is an input of its rule. So a rule is run again if, and only if, a value
changes that its command can read, and there is no second list of what a rule depends on.

Runs, rows, recipes and searches are written as they are after their changes: their ``model`` is the
one that is trained.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from studies.config import Config
from studies.contents import NOTEBOOKS
from studies.targets import ARTICLE, Sample, Targets
from vitdm.config import Settings

Content = dict[str, Any]

PAPER = Path(__file__).resolve().parents[1] / "paper"
#: what a training reads
MODEL = ("seed", "task", "preprocess", "model", "train")
#: and what it reads besides if the model joins features, or has residual maps
JOINED = ("features", "lensfit")
#: changes of a row or a recipe that are made already
DONE: Content = {"model": {}, "train": {}}


def pick(settings: Settings, *keys: str) -> Content:
    """Return some sections of the configuration, and some keys of sections: ``final.epochs``."""
    everything = settings.model_dump(mode="json", include={key.partition(".")[0] for key in keys})
    chosen: Content = {}
    for key in keys:
        section, _, name = key.partition(".")
        if not name:
            chosen[section] = everything[section]
        elif section not in keys:
            chosen.setdefault(section, {})[name] = everything[section][name]
    return chosen


def stages(config: Config, targets: Targets | None = None) -> dict[str, Content]:
    """Return the contents of the file of each stage by its name."""
    targets = targets or Targets(config)
    contents = {
        "simulate": pick(config, "seed", "test_seed", "n_images"),
        "ingest": pick(config, "seed", "n_images", "ingest"),
        "preprocess": pick(config, "preprocess"),
        "fit": pick(config, "lensfit"),
        "features": pick(config, "features", "preprocess.threshold"),
        "select": pick(config, "seed", "selection", "features"),
        "ideal_observer": pick(config, "seed", "populations.n_ideal_observer"),
        "invariance": pick(config, "seed", "preprocess", "populations.n_invariance"),
        "known_lens": pick(config, "seed", "test_seed"),
        "tune": _searching(config),
        "train_final": _training(config, epochs=config.final.epochs) | pick(config, "tune"),
        "evaluate": pick(config, "seed", "task", "evaluation"),
        "join_trials": _labels(config),
        "paper": _article(config),
    }
    for name, sample in targets.samples.items():
        contents[f"simulate_{name.replace('/', '_')}"] = _sample(sample)
    for name in config.runs:
        contents[f"train_{name}"] = _training(config.run(name))
    for name in targets.curves:
        contents[f"efficiency_{name}"] = _efficiency(config, targets.networks(name))
    for name in config.compare.rows:
        contents[f"compare_{name}"] = _row(config, name)
    if targets.rows:
        contents["merge_compare"] = _merged_rows(config)
    if targets.mapped:
        contents["fit_maps"] = pick(config, "lensfit")
        contents["fit_maps"]["lensfit"]["maps"] = config.maps.source
        for name in config.maps.rows:
            contents[f"maps_{name}"] = _map_row(config, name)
        contents["merge_maps"] = pick(config, "seed", "evaluation", "maps")
        del contents["merge_maps"]["maps"]["populations"]
    if targets.posterior_rows:
        for name in config.posterior.rows:
            contents[f"posterior_{name}"] = _posterior_row(config, name)
        contents["merge_posterior"] = pick(config, "seed", "posterior")
        del contents["merge_posterior"]["posterior"]["populations"]
    for name in config.where.rows if targets.where_rows else []:
        contents[f"where_{name}"] = _where_row(config, name)
    if targets.where_rows:
        contents["merge_where"] = pick(config, "seed", "evaluation.bootstrap", "where")
        del contents["merge_where"]["where"]["population"]
    if targets.audited:
        contents["audit"] = _audit(config)
    for name in targets.sky:
        contents[f"real_sky_{name}"] = _real_set(config, name)
    if targets.sky:
        contents["merge_real_sky"] = _merged_sets(config, targets.sky)
    if targets.slacs_lenses:
        own = ("slacs.pixel_scale", "slacs.unmasked", "slacs.search")
        contents["slacs"] = pick(config, "freeform", "perturbers", *own)
        contents["merge_slacs"] = pick(config, "slacs.shown")
    if config.misspecification.rows:
        contents["misspecification"] = _lenses(config)
        contents["merge_misspecification"] = pick(config, "seed", "misspecification")
    if config.benchmark.sets:
        for name in config.benchmark.rivals:
            contents[f"benchmark_{name}"] = _rival(config, name)
        contents["merge_benchmark"] = _merged_rivals(config)
    for name in config.study.arms:
        for k in range(config.study.seeds):
            contents[f"search_{name}_{k}"] = _searching(config.arm(name, k))
    for name in config.rates.recipes:
        contents[f"rates_{name}"] = _rates(config, name)
    for notebook in NOTEBOOKS:
        contents[f"notebook_{notebook.number}"] = pick(config, *notebook.settings)
    return contents


def _sample(sample: Sample) -> Content:
    return {"seed": sample.seed, "n_images": sample.n_images}


def _training(settings: Settings, epochs: int | None = None) -> Content:
    """Return what a training reads; ``epochs`` are those of the article's final models."""
    joined = settings.model.features or settings.model.sees_fits
    content = pick(settings, *MODEL, *(JOINED if joined else ()))
    if epochs is not None:
        content["train"]["epochs"] = epochs
    return content


def _searching(settings: Settings) -> Content:
    """Return what a search reads; its trainings have a number of epochs of their own."""
    content = pick(settings, *MODEL, *JOINED, "tune")
    content["train"]["epochs"] = settings.tune.epochs
    return content


def _efficiency(config: Config, networks: Iterable[str]) -> Content:
    """Return what the trainings of a curve read: no other networks than these."""
    content = pick(config, *MODEL, *JOINED, "efficiency.runs", "efficiency.min_steps")
    runs = pick(config, "runs")["runs"]
    return content | {"runs": {name: runs[name] for name in networks}}


def _row(config: Config, name: str) -> Content:
    """Return what a row of the comparison reads; with which it is compared is not among it."""
    row = config.row(name)
    content = pick(config, *MODEL, "features") | pick(row, "model", "train")
    unread = "rates" if config.compare.rows[name].boosting else "boosting_rates"
    compare = config.compare.model_dump(mode="json", exclude={"population", "rows", unread})
    own = config.compare.rows[name].model_dump(mode="json", exclude={"against"})
    return content | {"compare": compare | {"rows": {name: own | DONE}}}


def _map_row(config: Config, name: str) -> Content:
    """Return what a row of the study of maps reads."""
    chosen, row = config.maps.rows[name], config.map_row(name)
    content = pick(config, "seed", "task", "features") | pick(row, "model", "train")
    kind = chosen.kind
    unread = {"populations", "source", "rows"}
    unread |= {"rates"} if kind != "network" else set()
    unread |= {"boosting_rates"} if kind != "trees" else set()
    unread |= set() if chosen.copies else {"copies"}
    maps = config.maps.model_dump(mode="json", exclude=unread)
    own = chosen.model_dump(mode="json", exclude={"against"})
    return content | {"maps": maps | {"rows": {name: own | DONE}}}


def _posterior_row(config: Config, name: str) -> Content:
    """Return what a row of the posteriors reads."""
    content = pick(config, "seed", "task", "features", "posterior")
    content |= pick(config.posterior_row(name), "model", "train")
    del content["posterior"]["populations"]
    own = content["posterior"]["rows"][name]
    content["posterior"]["rows"] = {name: own | DONE}
    return content


def _where_row(config: Config, name: str) -> Content:
    """Return what a row of the study of places reads."""
    content = pick(config, "seed", "task", "where")
    content |= pick(config.where_row(name), "model", "train")
    for unread in ("population", "against", "false_peaks"):
        del content["where"][unread]
    own = content["where"]["rows"][name]
    content["where"]["rows"] = {name: own | DONE}
    return content


def _merged_rows(config: Config) -> Content:
    content = pick(config, "seed", "task", "preprocess", "model", "train", "evaluation", "compare")
    del content["compare"]["population"]
    return content


def _audit(config: Config) -> Content:
    content = pick(config, "seed", "model", "train", "features", "evaluation", "audit")
    del content["audit"]["population"]
    return content


def _real_set(config: Config, name: str) -> Content:
    """Return what the models of a set of real images read."""
    chosen = config.real_sky.sets[name].model_dump(mode="json")
    del chosen["label"], chosen["population"]
    content = pick(config, "seed", "preprocess", "model", "train", *JOINED)
    return content | {"real_sky": {"sets": {name: chosen}}}


def _merged_sets(config: Config, names: Iterable[str]) -> Content:
    content = pick(config, "seed", "preprocess", "model", "train", "features", "evaluation")
    sky = config.real_sky.model_dump(mode="json")
    sky["sets"] = {name: sky["sets"][name] for name in names}
    for chosen in sky["sets"].values():
        del chosen["population"]
    return content | pick(config, "selection.fdr") | {"real_sky": sky}


def _lenses(config: Config) -> Content:
    """Return what a block of one row reads; which other rows there are is not among it."""
    content = pick(config, "seed", "misspecification")
    del content["misspecification"]["rows"]
    return content


def _rival(config: Config, name: str) -> Content:
    """Return what the trainings of a rival read; on which sets is not among it."""
    rival = config.benchmark.rivals[name]
    kept = {
        "images": ("seed", "preprocess", "benchmark.seeds"),
        "features": ("seed", "preprocess.threshold", "features.levels"),
        "fits": ("seed", "preprocess.threshold", "features.levels", "lensfit"),
        "radius": (),
    }
    content = pick(config, *kept[rival.sees], "benchmark.set_size")
    if rival.sees == "images":
        content |= pick(config.rival(name), "model", "train")
    content["benchmark"]["rivals"] = {name: {"sees": rival.sees} | DONE}
    return content


def _merged_rivals(config: Config) -> Content:
    content = pick(config, "benchmark.sets", "benchmark.set_size")
    rivals = {name: {"label": rival.label} for name, rival in config.benchmark.rivals.items()}
    content["benchmark"]["rivals"] = rivals
    return content


def _rates(config: Config, name: str) -> Content:
    """Return what a recipe reads that is trained at each of some learning rates."""
    content = pick(config.recipe(name), *MODEL, *JOINED) | pick(config, "tune.metric")
    content["train"]["epochs"] = config.rates.epochs
    rates = config.rates.model_dump(mode="json", exclude={"recipes"}) | {"model": {}}
    own = config.rates.recipes[name].model_dump(mode="json", exclude={"label"})
    return content | {"rates": rates | {"recipes": {name: own | DONE}}}


def _article(config: Config) -> Content:
    """Return the settings that the article's sources name, such as ``config.model.depth``."""
    everything = config.model_dump(mode="json")
    text = "".join((PAPER / name).read_text() for name in ARTICLE)
    named = sorted(set(re.findall(r"\bconfig\.(\w+)(?:\.(\w+))?", text)))
    keys = ["name", "publish", "data", "population", "report"]
    for section, name in named:
        whole = not name or name not in everything.get(section, {})
        keys += [section if whole else f"{section}.{name}"] if section in everything else []
    return pick(config, *keys)


def _labels(config: Config) -> Content:
    """Return the names and labels of the searches and recipes that are compared."""
    arms = {name: {"label": arm.label} for name, arm in config.study.arms.items()}
    recipes = {name: {"label": recipe.label} for name, recipe in config.rates.recipes.items()}
    return {"study": {"arms": arms}, "rates": {"recipes": recipes}}

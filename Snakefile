"""The article, from images to PDF: `snakemake --cores 4`.

`--configfile config/smoke.yaml` runs everything on tiny data, `--config data=PATH` on your own
images. A rule is run again if its inputs change or the sections of the configuration that it
watches; the settings themselves are read from the resolved copy in <results>/config.yaml.
"""

import json
from os.path import exists
from pathlib import Path

from vitdm import config as schema
from vitdm.errors import InputError

if not workflow.configfiles:

    configfile: "config/paper.yaml"


try:
    SETTINGS = schema.build(config, ", ".join(map(str, workflow.configfiles)))
    schema.check_data(SETTINGS)
except InputError as error:
    raise WorkflowError(str(error)) from None

OUT = SETTINGS.results
CONFIG = f"{OUT}/config.yaml"

FIGURES = "figures" if SETTINGS.publish else f"{OUT}/figures"
TABLES = "paper/tables" if SETTINGS.publish else f"{OUT}/tables"
PAPER = "paper" if SETTINGS.publish else f"{OUT}/paper"

SHARDS = [f"{OUT}/shards/{k}-of-{SETTINGS.shards}" for k in range(SETTINGS.shards)]
DATASET = multiext(f"{OUT}/dataset/", "images.npy", "catalog.csv", "dataset.json")
PROCESSED = multiext(f"{OUT}/processed/", "images.npy", "catalog.csv", "dataset.json")
RUN = ("metrics.json", "history.csv", "config.yaml", "model.safetensors")
RUNS = [f"{run}_seed{k}" for run in SETTINGS.runs for k in range(SETTINGS.run_seeds)]
FINAL = [f"seed{k}" for k in range(SETTINGS.final.seeds)]
SELECTION = f"{OUT}/selection/selection.json"
# compared in notebook 02: what the features add to the images
COMPARED = [f"{run}_seed{k}" for run in SETTINGS.feature_runs for k in range(SETTINGS.run_seeds)]
SIMULATED = SETTINGS.data == "simulate"
POPULATIONS = {Path(file).stem: file for file in SETTINGS.populations.files if SIMULATED}
MAIN = Path(SETTINGS.population).stem
CURVES = {curve.name: curve for curve in SETTINGS.efficiency.curves}
AUDITED = [Path(SETTINGS.audit.population).stem] if SETTINGS.audit.population else []
# real images that models of simulated lenses are asked of, by set; those of a curve are used again
SKY = SETTINGS.real_sky.present if SIMULATED else {}
SKY_SAMPLES = {
    name: (
        f"efficiency/{stem}" if (stem := Path(chosen.population).stem) in CURVES else f"sky/{name}"
    )
    for name, chosen in SKY.items()
}
SKY_TABLES = [f"real_sky{table}" for table in ("", "_images", "_scores", "_shift", "_ranks")]
SKY_FILES = [f"{table}.csv" for table in SKY_TABLES] + ["real_sky.json"]
# further lenses: shown beside the main ones, simulated for the curves of efficiency, or the audit,
# or as those that real ones are compared with
SAMPLES = {f"populations/{name}": file for name, file in POPULATIONS.items()}
SAMPLES |= {f"efficiency/{name}": curve.population for name, curve in CURVES.items()}
SAMPLES |= {f"audit/{name}": SETTINGS.audit.population for name in AUDITED}
SAMPLES |= {SKY_SAMPLES[name]: chosen.population for name, chosen in SKY.items()}
TRAININGS = [
    f"{OUT}/efficiency/{name}/n{n}_seed{k}"
    for name, curve in CURVES.items()
    for n in curve.sizes
    for k in range(curve.seeds or SETTINGS.efficiency.seeds)
]
SCORES = ("efficiency.csv", "sensitivity.csv", "efficiency.json")
SEEN = ("processed/images.npy", "features.csv", "lensfit/residuals.npy")  # of a sample
ROWS = list(SETTINGS.compare.rows)
ARMS = [f"{arm}_{k}" for arm in SETTINGS.study.arms for k in range(SETTINGS.study.seeds)]
RECIPES = list(SETTINGS.rates.recipes)
# trials of searches and recipes that are compared: of which folders each table is made
STUDIES = {"searches": ARMS, "rates": RECIPES}
STUDIES = {name: [f"{OUT}/{name}/{part}" for part in parts] for name, parts in STUDIES.items()}
STUDIED = [name for name, folders in STUDIES.items() if folders]
COMPARED_ON = Path(SETTINGS.compare.population or "none").stem
COMPARISON = (".csv", "_gains.csv", "_history.csv", ".json")
INVARIANCE = expand(f"{OUT}/populations/{{name}}/invariance", name=POPULATIONS) or [
    f"{OUT}/invariance"
]
REAL = sorted(map(str, Path(SETTINGS.real_images).rglob("*.*"))) if SETTINGS.real_images else []
SLACS = "config/slacs.yaml"
KNOWN = [file for file in REAL if Path(file).name in schema.load_cutouts(SLACS).cutouts]
NOISY = [
    name
    for name, file in POPULATIONS.items()
    if schema.load_population(file).instrument.noise != "none"
]
# the simulator's own knowledge of the test images, a reference beside the final test
KNOWN_MODEL = [
    f"{OUT}/known_model/scores.csv"
    for file in [SETTINGS.population]
    if SIMULATED and schema.load_population(file).instrument.noise != "none"
]
CLUMPY = [
    name
    for name, file in POPULATIONS.items()
    if "cdm" in schema.load_population(file).class_fractions
]

FITTED = "lensfit" in SETTINGS.features.groups
FITS = ("fits.csv", "residuals.npy", "provenance.json")
# the images as the search chose to process them, if it did
TUNED = PROCESSED
if schema.by_section(SETTINGS.tune.space)["preprocess"]:
    TUNED = multiext(f"{OUT}/tuned/processed/", "images.npy", "catalog.csv", "dataset.json")
# lenses of the same population that no search and no training has seen: what did tuning bring?
FRESH = f"{OUT}/efficiency/{MAIN}"
GAIN = [f"{OUT}/tune/gain.json"] * (MAIN in CURVES and TUNED == PROCESSED)
# what the model of the search and the final test needs of the fits
MODEL_FITS = [f"{OUT}/lensfit/fits.csv"] * SETTINGS.model.residual
FIT_SHARDS = [f"{OUT}/shards/fits-{k}-of-{SETTINGS.shards}" for k in range(SETTINGS.shards)]
# the committed results of config/extended.yaml, which the article shows
EXTENDED = [
    file
    for file in expand("paper/extended/{table}.csv", table=["efficiency", "comparison"])
    if SETTINGS.publish and exists(file)
]
# the tables of the studies that notebook 04 shows: of this run, or the committed ones
STUDY_TABLES = {
    name: f"{OUT}/{name}/{name}.csv" if name in STUDIED else f"paper/extended/{name}.csv"
    for name in STUDIES
    if name in STUDIED or (SETTINGS.publish and exists(f"paper/extended/{name}.csv"))
}
# sensitivity on other populations: committed, or of this run
FURTHER = ["paper/extended/sensitivity.csv"] * (
    SETTINGS.publish and exists("paper/extended/sensitivity.csv")
) or [f"{OUT}/efficiency/all/sensitivity.csv"] * bool(CURVES)
SHORTCUT = bool(EXTENDED) or {"model_i", "model_i_sizes"} <= set(CURVES)
AUDIT = [f"{OUT}/audit/table/audit.csv"] * bool(AUDITED) or [
    file for file in ["paper/extended/audit.csv"] if SETTINGS.publish and exists(file)
]
REAL_SKY = [f"{OUT}/sky/all/{file}" for file in SKY_FILES if SKY] or [
    f"paper/extended/{file}"
    for file in SKY_FILES
    if SETTINGS.publish and exists("paper/extended/real_sky.csv")
]
FAIR = bool(ROWS) or "paper/extended/comparison.csv" in EXTENDED
# What each notebook reads, and the figures and tables of the article that it draws.
NOTEBOOKS = {
    "01_feature_discovery": {
        "reads": [*DATASET, *PROCESSED, f"{OUT}/features.csv", *REAL]
        + [SLACS] * bool(KNOWN)
        + expand("{folder}/invariance.csv", folder=INVARIANCE)
        + expand(f"{OUT}/lensfit/{{file}}", file=FITS if FITTED else [])
        + expand(f"{OUT}/populations/{{name}}/lensfit/fits.csv", name=POPULATIONS if FITTED else [])
        + expand(f"{OUT}/populations/{{name}}/dataset/catalog.csv", name=POPULATIONS)
        + expand(f"{OUT}/populations/{{name}}/features.csv", name=POPULATIONS)
        + expand(f"{OUT}/populations/{{name}}/ideal_observer/ideal_observer.json", name=NOISY),
        "figures": ["lens_gallery", "noise", "processing_steps", "invariance", "unrolled_rings"]
        + ["feature_distributions"]
        + ["perturbations"] * SIMULATED
        + ["residual_maps"] * (FITTED and SIMULATED)
        + ["einstein_radii"] * (FITTED and bool({MAIN, "model_i"} & set(POPULATIONS)))
        + ["subhalo_distance"] * (FITTED and bool({MAIN, "model_i"} & set(CLUMPY)))
        + ["real_lenses"] * bool(REAL)
        + ["real_residuals"] * bool(KNOWN)
        + ["populations"] * bool(POPULATIONS)
        + expand("gallery_{name}", name=POPULATIONS),
        "tables": ["features", "invariance"]
        + ["population"] * SIMULATED
        + ["populations"] * bool(POPULATIONS)
        + ["real_lenses"] * bool(REAL)
        + ["real_fits"] * bool(KNOWN),
    },
    "02_feature_comparison": {
        "reads": [f"{OUT}/features.csv", SELECTION]
        + expand(f"{OUT}/populations/{{name}}/selection/ranking.csv", name=POPULATIONS)
        + expand(f"{OUT}/runs/{{run}}/predictions.csv", run=COMPARED),
        "figures": ["feature_auc", "feature_correlation", "feature_importance"]
        + ["feature_populations"] * bool(POPULATIONS)
        + ["feature_gain"] * bool(COMPARED),
        "tables": ["feature_ranking", "feature_scores"]
        + ["feature_populations"] * bool(POPULATIONS),
    },
    "03_model": {
        "reads": [*DATASET, *PROCESSED, f"{OUT}/features.csv", SELECTION]
        + expand(f"{OUT}/lensfit/{{file}}", file=FITS if FITTED else [])
        + expand(f"{OUT}/runs/{{run}}/metrics.json", run=RUNS)
        + [f"{OUT}/efficiency/all/efficiency.csv"] * bool(CURVES)
        + [f"{OUT}/compare/all/comparison.csv"] * bool(ROWS)
        + EXTENDED,
        "figures": ["pipeline", "spt_lsa", "attention", "positions", "training_history", "runs"]
        + ["data_efficiency"] * bool(CURVES)
        + ["shortcut_loss"] * SHORTCUT
        + ["comparison"] * FAIR,
        "tables": ["runs"]
        + ["data_efficiency"] * bool(CURVES)
        + ["shortcut_loss"] * SHORTCUT
        + ["comparison"] * FAIR,
    },
    "04_optimisation": {
        "reads": [f"{OUT}/tune/best.json", f"{OUT}/tune/trials.csv", *GAIN, *STUDY_TABLES.values()],
        "figures": ["tune_convergence", "tune_evaluations", "tune_objective", "tune_learning_rate"]
        + ["tune_again"]
        + [f"tune_{study}" for study in STUDY_TABLES],
        "tables": ["tune_best"] + ["tune_searches"] * ("searches" in STUDY_TABLES),
    },
    "05_final_test": {
        "reads": [*DATASET, *PROCESSED, f"{OUT}/features.csv", f"{OUT}/evaluation/metrics.json"]
        + KNOWN_MODEL
        + expand(f"{OUT}/lensfit/{{file}}", file=FITS if FITTED else [])
        + expand(f"{OUT}/final/{{seed}}/model.safetensors", seed=FINAL)
        + expand(f"{OUT}/runs/{{run}}/predictions.csv", run=RUNS)
        + FURTHER
        + AUDIT
        + REAL_SKY,
        "figures": ["roc_curve", "confusion_matrix", "failures", "neighbours", "headline"]
        + ["sensitivity"] * SIMULATED
        + ["audit"] * bool(AUDIT)
        + ["real_sky"] * bool(REAL_SKY),
        "tables": ["results", "rivals", "per_class", "confusion", "mistakes", "remedies"]
        + ["sensitivity"] * SIMULATED
        + ["audit"] * bool(AUDIT)
        + ["real_sky"] * bool(REAL_SKY),
    },
}


def population_of(file):
    """Return the population that tells how the images were taken, if they are simulated."""
    return [file] if SIMULATED else []


def numbers_of(sample):
    """Return the options of vitdm simulate that tell how many lenses a sample has."""
    if sample.startswith("populations/"):
        return f"--n {SETTINGS.populations.n_images}"
    if sample.startswith("audit/"):
        n = SETTINGS.audit.n_train + SETTINGS.audit.n_valid
        return f"--n {n} --n-opt {SETTINGS.audit.n_scored} --seed {SETTINGS.seed + 1}"
    if sample.startswith("sky/"):
        chosen = SKY[sample.removeprefix("sky/")]
        return f"--n {chosen.n_train} --n-opt {chosen.n_scored} --seed {SETTINGS.seed + 1}"
    chosen = CURVES[sample.removeprefix("efficiency/")]
    # samples that share models have as many lenses: then the k-th of each is the same draw
    shared = [
        curve
        for curve in CURVES.values()
        if curve is chosen
        or (curve.runs is None and curve.population in chosen.also)
        or (chosen.runs is None and chosen.population in curve.also)
    ]
    sizes = [size for curve in shared for size in curve.sizes]
    return f"--n {max(sizes)} --n-opt {SETTINGS.efficiency.n_scored} --seed {SETTINGS.seed + 1}"


def also_scored(wildcards):
    """Return the folders of the other samples on which the models of a curve are scored."""
    return [f"{OUT}/efficiency/{Path(file).stem}" for file in CURVES[wildcards.name].also]


def watch(*sections, **more):
    """Return the settings whose change runs a rule again: whole sections, and single values."""
    settings = SETTINGS.model_dump(mode="json")
    return {name: settings[name] for name in ("seed", *sections)} | more


def watch_run(wildcards):
    """Return the settings that a comparison run depends on; its label is not among them."""
    override = SETTINGS.runs[wildcards.run]
    return watch("task", "model", "train", changes=override.model_dump(exclude={"label"}))


def watch_row(name):
    """Return the settings that a row of the fair comparison depends on."""
    chosen = SETTINGS.compare.model_dump(mode="json")
    row = {key: value for key, value in chosen.pop("rows")[name].items() if key != "against"}
    return watch("task", "model", "train", "preprocess", compare=chosen, row=row)


def watch_set(name):
    """Return the settings that the models of a set of real images depend on; not its label."""
    chosen = SETTINGS.real_sky.sets[name].model_dump(mode="json", exclude={"label"})
    return watch("model", "train", "preprocess", "features", chosen=chosen)


def joined(wildcards):
    """Return the files of features that a comparison run reads: none if it sees images only."""
    override = SETTINGS.runs[wildcards.run]
    model, _ = SETTINGS.settings(override.model, override.train)
    files = {"features": f"{OUT}/features.csv"} if model.features else {}
    chosen = model.features and model.feature_set == "selected"
    files |= {"selection": SELECTION} if chosen else {}
    return files | ({"fits": f"{OUT}/lensfit/fits.csv"} if model.residual else {})


def option(name, file):
    """Return the option of the command line that hands a file over, of fits their folder."""
    return [f"--{name}", Path(file).parent if name == "fits" else file]


def shown(file, notebook):
    """Return a figure or table, marked for the report, with what its sidecar says of it."""

    def labels(wildcards):
        told = json.loads(Path(file).with_suffix(".json").read_text())
        kind = "figure" if file.endswith(".png") else "table"
        return {kind: Path(file).stem, "what it shows": told["caption"]}

    category = f"{int(notebook[:2])}. {notebook[3:].replace('_', ' ')}"
    kind = "figures" if file.endswith(".png") else "tables"
    caption = "paper/report/notebook.rst"
    return report(file, caption=caption, category=category, subcategory=kind, labels=labels)


# The search and the final training have numbers of epochs of their own.
RECIPE = SETTINGS.train.model_dump(mode="json", exclude={"epochs"})


onstart:
    schema.save(SETTINGS, CONFIG)


report: "paper/report/workflow.rst"


wildcard_constraints:
    sample="|".join(SAMPLES) or "none",
    run="|".join(SETTINGS.runs) or "none",
    arm="|".join(SETTINGS.study.arms) or "none",
    recipe="|".join(RECIPES) or "none",
    real="|".join(SKY) or "none",
    study="|".join(STUDIED) or "none",
    which="seed|start",
    row="|".join(ROWS) or "none",
    k="[0-9]+",


localrules:
    all,


rule all:
    input:
        multiext(f"{PAPER}/paper", ".pdf", ".html", ".tex"),
        expand(f"{OUT}/notebooks/{{name}}.ipynb", name=NOTEBOOKS),


# -------------------------------------------------------------------------------- images

if SIMULATED:

    rule simulate:
        input:
            SETTINGS.population,
        output:
            multiext(
                f"{OUT}/shards/{{k}}-of-{SETTINGS.shards}/",
                "images.npy",
                "catalog.csv",
                "dataset.json",
            ),
        log:
            f"{OUT}/logs/simulate_{{k}}.log",
        conda:
            "environment.yml"
        params:
            config=CONFIG,
            out=subpath(output[0], parent=True),
            shard=lambda wildcards: f"{wildcards.k}/{SETTINGS.shards}",
            watch=watch("n_images"),
        shell:
            "vitdm simulate --config {params.config} --shard {params.shard} --out {params.out}"
            " 2>&1 | tee {log}"

    rule merge:
        input:
            expand("{shard}/images.npy", shard=SHARDS),
        output:
            DATASET,
        log:
            f"{OUT}/logs/merge.log",
        conda:
            "environment.yml"
        params:
            shards=SHARDS,
            out=subpath(output[0], parent=True),
        shell:
            "vitdm merge {params.shards} --out {params.out} 2>&1 | tee {log}"

    rule simulate_sample:
        input:
            lambda wildcards: SAMPLES[wildcards.sample],
        output:
            multiext(f"{OUT}/{{sample}}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
        log:
            f"{OUT}/logs/simulate_{{sample}}.log",
        conda:
            "environment.yml"
        params:
            config=CONFIG,
            out=subpath(output[0], parent=True),
            n=lambda wildcards: numbers_of(wildcards.sample),
            watch=lambda wildcards: watch(n=numbers_of(wildcards.sample)),
        shell:
            "vitdm simulate --config {params.config} --population {input} {params.n}"
            " --out {params.out} 2>&1 | tee {log}"

    rule ceiling:
        input:
            lambda wildcards: POPULATIONS[wildcards.name],
        output:
            multiext(
                f"{OUT}/populations/{{name}}/ideal_observer/",
                "ideal_observer.csv",
                "ideal_observer.json",
            ),
        log:
            f"{OUT}/logs/ceiling_{{name}}.log",
        conda:
            "environment.yml"
        params:
            out=subpath(output[0], parent=True),
            n=SETTINGS.populations.n_ceiling,
            seed=SETTINGS.seed,
        shell:
            "vitdm ceiling {input} --n {params.n} --seed {params.seed} --out {params.out}"
            " 2>&1 | tee {log}"

else:

    rule ingest:
        input:
            SETTINGS.data,
        output:
            DATASET,
        log:
            f"{OUT}/logs/ingest.log",
        conda:
            "environment.yml"
        params:
            config=CONFIG,
            out=subpath(output[0], parent=True),
            watch=watch("n_images", "ingest", files=schema.fingerprint(SETTINGS.data)),
        shell:
            "vitdm ingest {input:q} --config {params.config} --out {params.out} 2>&1 | tee {log}"


rule preprocess:
    input:
        multiext("{folder}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
    output:
        multiext("{folder}/processed/", "images.npy", "catalog.csv", "dataset.json"),
    log:
        "{folder}/logs/preprocess.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        dataset=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        watch=watch("preprocess"),
    shell:
        "vitdm preprocess {params.dataset} --config {params.config} --out {params.out} 2>&1 | tee {log}"


if FITTED:

    rule lensfit:
        input:
            DATASET,
            *population_of(SETTINGS.population),
        output:
            multiext(f"{OUT}/shards/fits-{{k}}-of-{SETTINGS.shards}/", *FITS),
        log:
            f"{OUT}/logs/lensfit_{{k}}.log",
        conda:
            "environment.yml"
        params:
            config=CONFIG,
            dataset=subpath(input[0], parent=True),
            population=lambda wildcards, input: [f"--population {p}" for p in input[3:]],
            out=subpath(output[0], parent=True),
            shard=lambda wildcards: f"{wildcards.k}/{SETTINGS.shards}",
            watch=watch("lensfit"),
        shell:
            "vitdm lensfit {params.dataset} --config {params.config} {params.population}"
            " --shard {params.shard} --out {params.out} 2>&1 | tee {log}"

    rule merge_fits:
        input:
            expand("{fits}/fits.csv", fits=FIT_SHARDS),
        output:
            multiext(f"{OUT}/lensfit/", *FITS),
        log:
            f"{OUT}/logs/merge_fits.log",
        conda:
            "environment.yml"
        params:
            shards=FIT_SHARDS,
            out=subpath(output[0], parent=True),
        shell:
            "vitdm merge {params.shards} --out {params.out} 2>&1 | tee {log}"

    rule lensfit_sample:
        input:
            multiext(f"{OUT}/{{sample}}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
            population=lambda wildcards: SAMPLES[wildcards.sample],
        output:
            multiext(f"{OUT}/{{sample}}/lensfit/", *FITS),
        log:
            f"{OUT}/logs/lensfit_{{sample}}.log",
        conda:
            "environment.yml"
        params:
            config=CONFIG,
            dataset=subpath(input[0], parent=True),
            out=subpath(output[0], parent=True),
            watch=watch("lensfit"),
        shell:
            "vitdm lensfit {params.dataset} --config {params.config} --population {input.population}"
            " --out {params.out} 2>&1 | tee {log}"


rule features:
    input:
        multiext("{folder}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
        fits=multiext("{folder}/lensfit/", *FITS) if FITTED else [],
    output:
        "{folder}/features.csv",
    log:
        "{folder}/logs/features.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        dataset=subpath(input[0], parent=True),
        fits=lambda wildcards, input: ["--fits", Path(input.fits[0]).parent] if FITTED else [],
        watch=watch("features", threshold=SETTINGS.preprocess.threshold),
    shell:
        "vitdm features {params.dataset} {params.fits} --config {params.config} --out {output}"
        " 2>&1 | tee {log}"


rule invariance:
    input:
        multiext("{folder}/dataset/", "images.npy", "catalog.csv", "dataset.json"),
    output:
        multiext("{folder}/invariance/", "invariance.csv", "invariance.json", "provenance.json"),
    log:
        "{folder}/logs/invariance.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        dataset=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        n=SETTINGS.populations.n_invariance,
        watch=watch("preprocess"),
    shell:
        "vitdm invariance {params.dataset} --config {params.config} --n {params.n}"
        " --out {params.out} 2>&1 | tee {log}"


rule select:
    input:
        PROCESSED,
        features=f"{OUT}/features.csv",
    output:
        SELECTION,
        multiext(
            f"{OUT}/selection/",
            "ranking.csv",
            "correlation.csv",
            "importance.csv",
            "scores.csv",
            "predictions.csv",
            "select.json",
        ),
    log:
        f"{OUT}/logs/select.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        processed=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        watch=watch("selection"),
    shell:
        "vitdm select {params.processed} --features {input.features} --config {params.config}"
        " --out {params.out} 2>&1 | tee {log}"


rule rank_population:  # all of it is in split train: features one by one, no choice
    input:
        multiext(
            f"{OUT}/populations/{{name}}/dataset/",
            "images.npy",
            "catalog.csv",
            "dataset.json",
        ),
        features=f"{OUT}/populations/{{name}}/features.csv",
    output:
        multiext(f"{OUT}/populations/{{name}}/selection/", "ranking.csv", "select.json"),
    log:
        f"{OUT}/logs/rank_{{name}}.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        dataset=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        watch=watch("selection"),
    shell:
        "vitdm select {params.dataset} --features {input.features} --config {params.config}"
        " --out {params.out} --ranking-only 2>&1 | tee {log}"


# ------------------------------------------------------------------------------ training


rule train:  # all seeds of a run: to start takes as long as some epochs
    input:
        PROCESSED,
        unpack(joined),
    output:
        expand(
            f"{OUT}/runs/{{{{run}}}}_seed{{k}}/{{file}}",
            k=range(SETTINGS.run_seeds),
            file=[*RUN, "predictions.csv"],
        ),
    log:
        f"{OUT}/logs/train_{{run}}.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        processed=subpath(input[0], parent=True),
        out=subpath(output[0], ancestor=2),
        seeds=list(range(SETTINGS.run_seeds)),
        joined=lambda wildcards: [
            word for name, file in joined(wildcards).items() for word in option(name, file)
        ],
        watch=watch_run,
    shell:
        "vitdm train {params.processed} {params.joined} --config {params.config}"
        " --run {wildcards.run} --seed {params.seeds}"
        " --out {params.out}/{wildcards.run}_seed{{seed}} 2>&1 | tee {log}"


rule efficiency:
    input:
        lambda wildcards: [
            f"{folder}/{file}"
            for folder in (f"{OUT}/efficiency/{wildcards.name}", *also_scored(wildcards))
            for file in SEEN[: 1 if CURVES[wildcards.name].runs else None]
        ],
    output:
        expand(f"{OUT}/efficiency/{{{{name}}}}/n{{{{n}}}}_seed{{{{k}}}}/{{file}}", file=SCORES),
    log:
        f"{OUT}/logs/efficiency_{{name}}_{{n}}_{{k}}.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        samples=lambda wildcards: [f"{OUT}/efficiency/{wildcards.name}", *also_scored(wildcards)],
        out=subpath(output[0], parent=True),
        runs=lambda wildcards: ["--runs", *runs] if (runs := CURVES[wildcards.name].runs) else [],
        watch=lambda wildcards: watch(
            "task",
            "model",
            "train",
            steps=SETTINGS.efficiency.min_steps,
            runs={
                name: SETTINGS.runs[name].model_dump(mode="json")
                for name in CURVES[wildcards.name].runs or SETTINGS.efficiency.runs
            },
        ),
    shell:
        "vitdm efficiency {params.samples} {params.runs} --n {wildcards.n} --seed {wildcards.k}"
        " --config {params.config} --out {params.out} 2>&1 | tee {log}"


rule merge_efficiency:
    input:
        expand("{training}/efficiency.csv", training=TRAININGS),
    output:
        expand(f"{OUT}/efficiency/all/{{file}}", file=SCORES),
    log:
        f"{OUT}/logs/merge_efficiency.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        trainings=TRAININGS,
        out=subpath(output[0], parent=True),
    shell:
        "vitdm efficiency {params.trainings} --merge --config {params.config} --out {params.out}"
        " 2>&1 | tee {log}"


rule compare:
    input:
        expand(
            f"{OUT}/efficiency/{COMPARED_ON}/{{file}}",
            file=["dataset/images.npy", *SEEN] if ROWS else [],
        ),
    output:
        multiext(f"{OUT}/compare/{{row}}/", "trials.csv", "history.csv", "compare.json"),
    log:
        f"{OUT}/logs/compare_{{row}}.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        sample=f"{OUT}/efficiency/{COMPARED_ON}",
        out=subpath(output[0], parent=True),
        watch=lambda wildcards: watch_row(wildcards.row),
    shell:
        "vitdm compare {params.sample} --row {wildcards.row} --config {params.config}"
        " --out {params.out} 2>&1 | tee {log}"


rule merge_compare:
    input:
        expand(f"{OUT}/compare/{{row}}/trials.csv", row=ROWS),
    output:
        multiext(f"{OUT}/compare/all/comparison", *COMPARISON),
    log:
        f"{OUT}/logs/merge_compare.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        rows=[f"{OUT}/compare/{row}" for row in ROWS],
        out=subpath(output[0], parent=True),
        watch=watch("compare"),
    shell:
        "vitdm compare {params.rows} --merge --config {params.config} --out {params.out}"
        " 2>&1 | tee {log}"


rule audit:
    input:
        expand(
            f"{OUT}/audit/{{name}}/{{file}}",
            name=AUDITED,
            file=["dataset/images.npy", *SEEN[: None if SETTINGS.audit_fits else 1]],
        ),
    output:
        multiext(f"{OUT}/audit/table/audit", ".csv", ".json"),
    log:
        f"{OUT}/logs/audit.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        sample=expand(f"{OUT}/audit/{{name}}", name=AUDITED),
        out=subpath(output[0], parent=True),
        watch=watch("audit", "model", "train"),
    shell:
        "vitdm audit {params.sample} --config {params.config} --out {params.out} 2>&1 | tee {log}"


rule real_sky:
    input:
        lambda wildcards: f"{OUT}/{SKY_SAMPLES[wildcards.real]}/dataset/images.npy",
        lambda wildcards: [
            f"{OUT}/{SKY_SAMPLES[wildcards.real]}/lensfit/fits.csv"
            for group in SKY[wildcards.real].groups
            if group == "lensfit"
        ],
        lambda wildcards: sorted(Path(SKY[wildcards.real].images).rglob("*.*")),
        lambda wildcards: SKY[wildcards.real].cutouts or [],
    output:
        multiext(f"{OUT}/sky/{{real}}/seed{{k}}/", "images.csv", "real_sky.json"),
    log:
        f"{OUT}/logs/real_sky_{{real}}_{{k}}.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        sample=subpath(input[0], ancestor=2),
        out=subpath(output[0], parent=True),
        watch=lambda wildcards: watch_set(wildcards.real),
    shell:
        "vitdm real-sky {params.sample} --set {wildcards.real} --seed {wildcards.k}"
        " --config {params.config} --out {params.out} 2>&1 | tee {log}"


rule merge_real_sky:
    input:
        expand(
            f"{OUT}/sky/{{real}}/seed{{k}}/images.csv",
            real=SKY,
            k=range(SETTINGS.real_sky.seeds),
        ),
    output:
        expand(f"{OUT}/sky/all/{{file}}", file=SKY_FILES),
    log:
        f"{OUT}/logs/merge_real_sky.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        parts=lambda wildcards, input: [Path(file).parent for file in input],
        out=subpath(output[0], parent=True),
        watch=watch(
            "selection",
            bootstrap=SETTINGS.final.bootstrap,
            permutations=SETTINGS.real_sky.permutations,
            labels=[chosen.label for chosen in SKY.values()],
        ),
    shell:
        "vitdm real-sky {params.parts} --merge --config {params.config} --out {params.out}"
        " 2>&1 | tee {log}"


if not SETTINGS.publish:  # what is published reads the committed results of config/extended.yaml

    rule extended:
        input:
            expand(f"{OUT}/efficiency/all/{{file}}", file=SCORES),
            multiext(f"{OUT}/compare/all/comparison", *COMPARISON) if ROWS else [],
            multiext(f"{OUT}/audit/table/audit", ".csv", ".json") if AUDITED else [],
            expand(f"{OUT}/sky/all/{{file}}", file=SKY_FILES if SKY else []),
            expand(f"{OUT}/{{study}}/{{study}}.{{ext}}", study=STUDIED, ext=["csv", "json"]),
        output:
            expand("paper/extended/{file}", file=SCORES),
            multiext("paper/extended/comparison", *COMPARISON) if ROWS else [],
            multiext("paper/extended/audit", ".csv", ".json") if AUDITED else [],
            expand("paper/extended/{file}", file=SKY_FILES if SKY else []),
            expand("paper/extended/{study}.{ext}", study=STUDIED, ext=["csv", "json"]),
        log:
            f"{OUT}/logs/extended.log",
        conda:
            "environment.yml"
        shell:
            "cp {input} paper/extended/ 2> {log}"


rule tune:
    input:
        PROCESSED,
        DATASET,
        features=f"{OUT}/features.csv",
        selection=SELECTION,
        fits=MODEL_FITS,
    output:
        multiext(f"{OUT}/tune/", "best.json", "trials.csv"),
    log:
        f"{OUT}/logs/tune.log",
    priority: 10  # the longest job: start it first
    conda:
        "environment.yml"
    threads: SETTINGS.tune.parallel
    params:
        config=CONFIG,
        processed=subpath(input[0], parent=True),
        dataset=Path(DATASET[0]).parent,
        out=subpath(output[0], parent=True),
        fits=MODEL_FITS and option("fits", MODEL_FITS[0]),
        watch=watch("task", "model", "preprocess", "tune", train=RECIPE),
    shell:
        "vitdm tune {params.processed} --features {input.features} --selection {input.selection}"
        " {params.fits} --dataset {params.dataset} --config {params.config} --out {params.out}"
        " 2>&1 | tee {log}"


if TUNED != PROCESSED:

    rule preprocess_tuned:
        input:
            DATASET,
            best=f"{OUT}/tune/best.json",
        output:
            TUNED,
        log:
            f"{OUT}/logs/preprocess_tuned.log",
        conda:
            "environment.yml"
        params:
            config=CONFIG,
            dataset=subpath(input[0], parent=True),
            search=subpath(input.best, parent=True),
            out=subpath(output[0], parent=True),
        shell:
            "vitdm preprocess {params.dataset} --tuned {params.search} --config {params.config}"
            " --out {params.out} 2>&1 | tee {log}"


rule search:  # one of those that are compared
    input:
        PROCESSED,
        features=f"{OUT}/features.csv",
        selection=SELECTION,
        fits=MODEL_FITS,
    output:
        multiext(f"{OUT}/searches/{{arm}}_{{k}}/", "best.json", "trials.csv"),
    log:
        f"{OUT}/logs/search_{{arm}}_{{k}}.log",
    conda:
        "environment.yml"
    threads: lambda wildcards: SETTINGS.for_arm(wildcards.arm, 0).tune.parallel
    params:
        config=CONFIG,
        processed=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        fits=MODEL_FITS and option("fits", MODEL_FITS[0]),
        watch=lambda wildcards: watch(
            "task",
            "model",
            "train",
            "tune",
            study=SETTINGS.study.tune,
            arm=SETTINGS.study.arms[wildcards.arm].model_dump(exclude={"label"}),
        ),
    shell:
        "vitdm tune {params.processed} --features {input.features} --selection {input.selection}"
        " {params.fits} --arm {wildcards.arm} --seed {wildcards.k} --config {params.config}"
        " --out {params.out} 2>&1 | tee {log}"


rule rates:
    input:
        PROCESSED,
        features=f"{OUT}/features.csv",
        selection=SELECTION,
        fits=f"{OUT}/lensfit/fits.csv" if FITTED else [],
    output:
        f"{OUT}/rates/{{recipe}}/trials.csv",
    log:
        f"{OUT}/logs/rates_{{recipe}}.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        processed=subpath(input[0], parent=True),
        out=subpath(output[0], parent=True),
        fits=option("fits", f"{OUT}/lensfit/fits.csv") if FITTED else [],
        watch=lambda wildcards: watch(
            "task",
            "model",
            "train",
            rates=SETTINGS.rates.model_dump(mode="json", exclude={"recipes"}),
            recipe=SETTINGS.recipe(wildcards.recipe).model_dump(exclude={"label"}),
        ),
    shell:
        "vitdm tune {params.processed} --features {input.features} --selection {input.selection}"
        " {params.fits} --recipe {wildcards.recipe} --config {params.config} --out {params.out}"
        " 2>&1 | tee {log}"


rule join_trials:
    input:
        lambda wildcards: [f"{folder}/trials.csv" for folder in STUDIES[wildcards.study]],
    output:
        table=f"{OUT}/{{study}}/{{study}}.csv",
        provenance=f"{OUT}/{{study}}/{{study}}.json",
    log:
        f"{OUT}/logs/join_{{study}}.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        folders=lambda wildcards: STUDIES[wildcards.study],
        watch=watch("study", "rates"),
    shell:
        "vitdm join-trials {params.folders} --config {params.config} --out {output.table}"
        " 2>&1 | tee {log}"


rule train_final:  # seed: as the search chose; start: as it began
    input:
        TUNED,
        features=f"{OUT}/features.csv",
        selection=SELECTION,
        fits=MODEL_FITS,
        best=f"{OUT}/tune/best.json",
    output:
        expand(
            f"{OUT}/final/{{{{which}}}}{{k}}/{{file}}",
            k=range(SETTINGS.final.seeds),
            file=[*RUN, "predictions.csv"],
        ),
    log:
        f"{OUT}/logs/final_{{which}}.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        processed=subpath(input[0], parent=True),
        search=subpath(input.best, parent=True),
        out=subpath(output[0], ancestor=2),
        seeds=list(range(SETTINGS.final.seeds)),
        fits=MODEL_FITS and option("fits", MODEL_FITS[0]),
        start=lambda wildcards: "--start" if wildcards.which == "start" else "",
        watch=watch("task", "model", train=RECIPE, epochs=SETTINGS.final.epochs),
    shell:
        "vitdm train {params.processed} --features {input.features} --selection {input.selection}"
        " {params.fits} --config {params.config} --final {params.search} {params.start}"
        " --seed {params.seeds} --out {params.out}/{wildcards.which}{{seed}} 2>&1 | tee {log}"


if GAIN:

    rule gain:
        input:
            f"{FRESH}/processed/images.npy",
            features=f"{FRESH}/features.csv",
            fits=f"{FRESH}/lensfit/fits.csv" if MODEL_FITS else [],
            runs=expand(f"{OUT}/final/{{seed}}/model.safetensors", seed=FINAL),
            against=expand(
                f"{OUT}/final/start{{k}}/model.safetensors", k=range(SETTINGS.final.seeds)
            ),
        output:
            GAIN,
        log:
            f"{OUT}/logs/gain.log",
        conda:
            "environment.yml"
        params:
            config=CONFIG,
            processed=subpath(input[0], parent=True),
            runs=expand(f"{OUT}/final/{{seed}}", seed=FINAL),
            against=expand(f"{OUT}/final/start{{k}}", k=range(SETTINGS.final.seeds)),
            fits=option("fits", f"{FRESH}/lensfit/fits.csv") if MODEL_FITS else [],
            watch=watch("task", bootstrap=SETTINGS.final.bootstrap),
        shell:
            "vitdm gain {params.processed} --features {input.features} {params.fits}"
            " --runs {params.runs} --against {params.against} --config {params.config}"
            " --out {output} 2>&1 | tee {log}"


rule evaluate:  # the only rule that reads the test split
    input:
        TUNED,
        features=f"{OUT}/features.csv",
        fits=MODEL_FITS,
        runs=expand(f"{OUT}/final/{{seed}}/model.safetensors", seed=FINAL),
    output:
        multiext(
            f"{OUT}/evaluation/",
            "metrics.json",
            "predictions.csv",
            "roc.csv",
            "failures.csv",
            "neighbours.csv",
            "evaluation.json",
        ),
    log:
        f"{OUT}/logs/evaluate.log",
    conda:
        "environment.yml"
    params:
        config=CONFIG,
        processed=subpath(input[0], parent=True),
        runs=expand(f"{OUT}/final/{{seed}}", seed=FINAL),
        out=subpath(output[0], parent=True),
        fits=MODEL_FITS and option("fits", MODEL_FITS[0]),
        watch=watch("task", bootstrap=SETTINGS.final.bootstrap),
    shell:
        "vitdm evaluate {params.processed} {params.runs} --features {input.features}"
        " {params.fits} --config {params.config} --out {params.out} 2>&1 | tee {log}"


if KNOWN_MODEL:

    rule known_model:  # draws the test images again, after the final test, and reads none of them
        input:
            population=SETTINGS.population,
            predictions=f"{OUT}/evaluation/predictions.csv",
        output:
            multiext(f"{OUT}/known_model/", "scores.csv", "provenance.json"),
        log:
            f"{OUT}/logs/known_model.log",
        conda:
            "environment.yml"
        threads: 2  # little else is left to do
        params:
            out=subpath(output[0], parent=True),
            seed=SETTINGS.seed,
        shell:
            "vitdm ceiling {input.population} --of {input.predictions} --seed {params.seed}"
            " --jobs {threads} --out {params.out} 2>&1 | tee {log}"


# ------------------------------------------------------------------ notebooks and article


rule convert_notebook:
    input:
        "notebooks/{name}.py",
    output:
        temp(f"{OUT}/notebooks/source/{{name}}.ipynb"),
    log:
        f"{OUT}/logs/convert_{{name}}.log",
    conda:
        "environment.yml"
    shell:
        "jupytext --quiet --to ipynb --output {output} {input} > {log} 2>&1"


for name, notebook in NOTEBOOKS.items():

    rule:
        name:
            f"notebook_{name[:2]}"
        input:
            notebook["reads"],
            notebook=f"{OUT}/notebooks/source/{name}.ipynb",
        output:
            expand(
                f"{FIGURES}/{{figure}}.{{ext}}",
                figure=notebook["figures"],
                ext=["pdf", "json"],
            ),
            expand(f"{TABLES}/{{table}}.json", table=notebook["tables"]),
            figures=[shown(f"{FIGURES}/{figure}.png", name) for figure in notebook["figures"]],
            tables=[shown(f"{TABLES}/{table}.csv", name) for table in notebook["tables"]],
            executed=f"{OUT}/notebooks/{name}.ipynb",
            numbers=f"{OUT}/numbers/{name[:2]}.json",
        log:
            f"{OUT}/logs/notebook_{name}.log",
        retries: 1  # kernels that start together may race for a port (papermill issue 511)
        conda:
            "environment.yml"
        params:
            results=subpath(output.numbers, ancestor=2),
            figures=lambda wildcards, output: Path(output.figures[0]).parent,
            tables=lambda wildcards, output: Path(output.tables[0]).parent,
            watch=SETTINGS.model_dump(mode="json"),
        shell:
            "papermill {input.notebook} {output.executed} --kernel python3 --cwd ."
            " -p results {params.results} -p figures {params.figures} -p tables {params.tables}"
            " --no-progress-bar > {log} 2>&1"


rule paper:
    input:
        expand("paper/{file}", file=["paper.md", "references.bib", "crossref.lua"]),
        expand("paper/{file}", file=["build.py", "article.typ", "article.css"]),
        numbers=[f"{OUT}/numbers/{name[:2]}.json" for name in NOTEBOOKS],
        figures=[f"{FIGURES}/{figure}.pdf" for n in NOTEBOOKS.values() for figure in n["figures"]],
        tables=[f"{TABLES}/{table}.csv" for n in NOTEBOOKS.values() for table in n["tables"]],
    output:
        report(
            f"{PAPER}/paper.pdf",
            caption="paper/report/paper.rst",
            category="article",
            labels={"file": "paper.pdf"},
        ),
        multiext(f"{PAPER}/paper", ".html", ".tex"),
    log:
        f"{OUT}/logs/paper.log",
    conda:
        "environment.yml"
    params:
        results=lambda wildcards, input: Path(input.numbers[0]).parents[1],
        figures=lambda wildcards, input: Path(input.figures[0]).parent,
        made=[figure for notebook in NOTEBOOKS.values() for figure in notebook["figures"]],
        tables=lambda wildcards, input: Path(input.tables[0]).parent,
        out=subpath(output[0], parent=True),
        watch=SETTINGS.model_dump(mode="json"),
    shell:
        "python paper/build.py --results {params.results} --figures {params.figures}"
        " --made {params.made} --tables {params.tables} --out {params.out} 2>&1 | tee {log}"

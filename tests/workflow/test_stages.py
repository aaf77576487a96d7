"""What each stage reads of the configuration, and which jobs a change of it runs again."""

import copy
import fnmatch
import json

import pytest
import yaml

from studies.config import Config, build, load
from studies.config.part import load_part, part_of, text_of
from studies.contents import NOTEBOOKS
from studies.stages import stages
from studies.targets import Targets
from vitdm.config import Settings
from vitdm.errors import InputError

SMOKE = "config/smoke.yaml"

#: other values of keys that have few
OTHERS = {
    "task": ["binary"],
    "architecture": ["vit_pytorch"],
    "crop": ["roi"],
    "detect": ["point"],
    "source": ["free_form"],
    "position": ["none"],
    "kind": ["trees", "score"],
    "table": ["maps", "features"],
    "score": ["fit_chi2"],
    "sizes": [[25, 50]],
    "stretch": ["linear"],
    "norm": ["post"],
    "pool": ["mean"],
    "join": ["token"],
    "feature_set": ["all", "morphology"],
    "accelerator": ["auto"],
    "acquisition": ["PI"],
    "metric": ["average_precision"],
    "initial_point_generator": ["halton"],
    "groups": [["morphology"], ["morphology", "lensfit"]],
    "size": [128],
    "embed_dim": [96],
    "num_heads": [4, 8],
    "patch_size": [48],
    "x0": [[{"learning_rate": 2e-3}]],
    "constraints": [["depth <= 2"]],
    "model": [{"depth": 1}],
    "train": [{"clip": 2.0}],
    "preprocess": [{"softening": 3.0}],
    "tune": [{"n_calls": 9}],
    "cutouts": [SMOKE],
    "real_images": ["real"],
    "against": ["resnet"],
    "population": ["model_ii", "model_iii"],
    "classes": [{"wdm": "cdm"}],
    "labels": ["labels.csv"],
    "title": ["mine"],
    "author": ["me"],
    "theta_E": [[0.5, 2.0]],
    "masses": [[8.0]],
    "refitted_masses": [[9.0]],
    "sees": ["fits", "features"],
    "sets": [["model_ii"]],
    "type": [],  # of a dimension: it has other keys, too
}


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """The smoke configuration with all its defaults, and real images that are there."""
    content = load(SMOKE).model_dump(mode="json")
    for name, chosen in content["real_sky"]["sets"].items():
        chosen["images"] = str(tmp_path_factory.mktemp(name))
    lenses = tmp_path_factory.mktemp("lenses")
    for name in content["slacs"]["names"]:
        (lenses / name).mkdir()
        (lenses / name / "image.fits").touch()
    content["slacs"]["images"] = str(lenses)
    return content


def leaves(content, path=()):
    """The keys of a configuration that have a value; entries of lists of sections by number."""
    nested = isinstance(content, list) and content and isinstance(content[0], dict)
    if (isinstance(content, dict) and content) or nested:
        entries = enumerate(content) if nested else content.items()
        for name, value in entries:
            yield from leaves(value, (*path, name))
    else:
        yield path, content


def other(name, value):
    """Return another value of a key, of the same type; None if there is none."""
    if name == "maps":  # of a lens fit, or those that a model sees
        return "matched" if value is None else ["residual"]
    if name == "against" and isinstance(value, list):
        return value[:-1] if value else ["cnn"]
    if name in OTHERS and not (name == "train" and isinstance(value, int)):  # n_images.train
        return next((known for known in OTHERS[name] if known != value), None)
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case float():
            return value * 0.9 or 0.1
        case str():
            return f"{value}_2"
        case [int(), *_]:
            return [2 * number for number in value]
        case [float(), *_]:
            return [0.5 * number for number in value]
        case list():
            return value[:-1] if value else ["spt"]
        case None:
            return ["plain"] if name == "runs" else 3


def changed(content, path, value):
    """Return the configuration with another value; which keys go together is not checked."""
    content = copy.deepcopy(content)
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return part_of(Config, content, "test")


# ------------------------------------------------------------------------ who should read what

FITTED = ("train_spt_lsa_[!r]*", "train_spt_lsa_residual")  # runs that join features or residuals
SEARCHES = ("tune", "search_*")
MODELS = ("train_*", "efficiency_*", "compare_*", "rates_*", *SEARCHES)
RIVALS = ("benchmark_*",)
NB = {k: f"notebook_0{k}" for k in range(1, 7)}
MERGED = ("merge_compare", "merge_real_sky")
NETWORKS = ("benchmark_resnet",)  # of the benchmark
POSTERIOR = ("posterior_*", "merge_posterior")
WHERE = ("where_*", "merge_where")
MAPPED = ("maps_*", "posterior_*", "where_*")
JOINING = (*FITTED, "train_final", "efficiency_*", "rates_*", *SEARCHES, "real_sky_*")

#: keys, and the stages that read them; the first that fits counts
EXPECTED = {
    "seed": (*MODELS, *RIVALS, "simulate*", "ingest", "select", "ideal_observer", "invariance")
    + ("known_lens", "evaluate", *MERGED, "audit", "real_sky_*", "notebook_*")
    + ("misspecification", "merge_misspecification", "maps_*", "merge_maps", *POSTERIOR)
    + WHERE,
    "task": (*MODELS, *MAPPED, "evaluate", "merge_compare", NB[3]),
    "n_images.*": ("simulate", "ingest"),
    "test_seed": ("simulate", "known_lens"),
    "ingest.*": ("ingest",),
    "preprocess.threshold": (*MODELS, *RIVALS, "preprocess", "invariance", *MERGED, "real_sky_*")
    + (NB[1], NB[3], NB[5], "features"),
    "preprocess.*": (*MODELS, *NETWORKS, "preprocess", "invariance", *MERGED, "real_sky_*")
    + (NB[1], NB[3], NB[5]),
    "features.groups": (
        *JOINING,
        "features",
        "select",
        "maps_*",
        "posterior_*",
        "compare_*",
        "audit",
        "merge_real_sky",
    )
    + (NB[1], NB[3], NB[5]),
    "features.*": (*JOINING, "features", "select", "maps_*", "compare_*", "audit", "merge_real_sky")
    + ("posterior_*", NB[1], NB[3], "benchmark_trees"),
    "lensfit.maps": (*JOINING, "fit"),
    "lensfit.*": (*JOINING, "fit", "fit_maps"),
    "freeform.*": ("slacs", NB[1], NB[6]),
    "perturbers.*": ("slacs", NB[6]),
    "selection.fdr": ("select", "merge_real_sky", NB[2], NB[5]),
    "selection.*": ("select", NB[2]),
    "model.*": (*MODELS, *NETWORKS, *MAPPED, "audit", "real_sky_*", *MERGED, NB[3]),
    "train.learning_rate": (*MODELS, *NETWORKS, *MAPPED, "audit", "real_sky_*", *MERGED)
    + (NB[3], NB[4]),
    "train.epochs": ("train_[!f]*", *MAPPED, "efficiency_*", "compare_*", "audit", "real_sky_*")
    + (*MERGED, *NETWORKS, NB[3]),
    "train.*": (*MODELS, *NETWORKS, *MAPPED, "audit", "real_sky_*", *MERGED, NB[3]),
    "tune.metric": (*SEARCHES, "rates_*", "train_final", NB[4]),
    "tune.space.*": (*SEARCHES, "train_final", NB[3], NB[4]),
    "tune.*": (*SEARCHES, "train_final", NB[4]),
    "evaluation.bootstrap": ("evaluate", "merge_maps", "audit", *MERGED, NB[2], NB[3], NB[5])
    + ("merge_where",),
    "evaluation.*": ("evaluate", "merge_maps", "audit", *MERGED, NB[2], NB[3], NB[5]),
    "runs.*.label": ("efficiency_*", NB[2], NB[3]),
    "runs.*": ("train_*", "efficiency_*", NB[2], NB[3]),
    "efficiency.runs": ("efficiency_*",),
    "efficiency.n_scored": ("simulate_efficiency_*",),
    "efficiency.min_steps": ("efficiency_*",),
    "compare.rows.*.against": ("merge_compare", NB[3]),
    "compare.rows.*": ("compare_*", "merge_compare", NB[3]),
    "compare.rates": ("compare_[!b]*", "merge_compare"),
    "compare.boosting_rates": ("compare_boosting", "merge_compare"),
    "compare.population": (),
    "compare.*": ("compare_*", "merge_compare"),
    "maps.rows.*.against": ("merge_maps", NB[3]),
    "maps.rows.*": ("maps_*", "merge_maps", NB[3]),
    "maps.source": ("fit_maps", "merge_maps"),
    "maps.copies": ("maps_cnn", "merge_maps"),
    "maps.rates": ("maps_vit", "maps_cnn", "merge_maps"),
    "maps.boosting_rates": ("maps_trees", "merge_maps"),
    "maps.populations": ("simulate_maps_*", "fit_maps", "maps_*", "merge_maps", *POSTERIOR, *WHERE),
    "maps.sizes": ("maps_*", "merge_maps", "simulate_maps_*"),
    "maps.n_*": ("maps_*", "merge_maps", "simulate_maps_*"),
    "maps.*": ("maps_*", "merge_maps"),
    "posterior.populations": POSTERIOR,
    "posterior.rows.*": (*POSTERIOR, NB[3]),
    "posterior.*": POSTERIOR,
    "where.population": WHERE,
    "where.against": ("merge_where",),
    "where.false_peaks": ("merge_where",),
    "where.rows.*": (*WHERE, NB[3]),
    "where.*": WHERE,
    "audit.n_*": ("audit", "simulate_audit_lenses"),
    "audit.population": ("simulate_audit_*",),
    "audit.*": ("audit",),
    "real_sky.sets.*.label": ("merge_real_sky",),
    "real_sky.sets.*.population": (),
    "real_sky.sets.*.images": ("real_sky_*", "merge_real_sky", "simulate_sky_*"),
    "real_sky.sets.*.n_*": ("real_sky_*", "merge_real_sky", "simulate_sky_*"),
    "real_sky.sets.*": ("real_sky_*", "merge_real_sky"),
    "real_sky.*": ("merge_real_sky",),
    "slacs.fitted": ("slacs", "merge_slacs"),
    "slacs.images": ("slacs", "merge_slacs", NB[1], NB[6]),
    "slacs.pixel_scale": ("slacs", NB[1], NB[6]),
    "slacs.shown": ("merge_slacs",),
    "slacs.unmasked": ("slacs",),
    "slacs.search.*": ("slacs",),
    "slacs.*": (),  # which lenses there are, and a file
    "misspecification.rows": ("merge_misspecification",),
    "misspecification.*": ("misspecification", "merge_misspecification"),
    "benchmark.sets": ("merge_benchmark", NB[3]),
    "benchmark.set_size": (*RIVALS, "merge_benchmark"),
    "benchmark.seeds": NETWORKS,
    "benchmark.rivals.*.label": ("merge_benchmark",),
    "benchmark.rivals.trees.model": (),  # of networks
    "benchmark.rivals.trees.train": (),
    "benchmark.rivals.*": RIVALS,
    "study.tune.*": ("search_*",),
    "study.arms.*.label": ("join_trials",),
    "study.arms.*": ("search_*",),
    "rates.recipes.*.label": ("join_trials",),
    "rates.*": ("rates_*",),
    "populations.n_images": ("simulate_populations_*",),
    "populations.n_ideal_observer": ("ideal_observer",),
    "populations.n_invariance": ("invariance",),
    "final.epochs": ("train_final", NB[5]),
    "report.*": (),  # the title of a report on a user's images, and who signs it
    # these say what there is to be made; the article, and notebooks, say it too
    "name": (),
    "quickstart.*": (),  # parameters of its notebook
    "shards": (),
    "final.seeds": (),
    "efficiency.seeds": (),
    "study.seeds": ("search_*",),  # there are more of them
    "run_seeds": (NB[2], NB[3]),
    "publish": (NB[3], NB[4], NB[5], NB[6]),
    "data": (NB[1], NB[2], NB[5], "simulate_*", "efficiency_*", "real_sky_*", *MERGED, "audit")
    + ("maps_*", "fit_maps", "merge_maps", *POSTERIOR, *WHERE),
    "population": (NB[1], NB[2], NB[5]),
    "populations.files": (NB[1], NB[2], "simulate_populations_*"),
    "real_images": (NB[1],),
    "efficiency.curves.*": (NB[3], "efficiency_*", "simulate_efficiency_*"),
}
#: of these a change need not reach all the stages that are named
SOME = (
    "data",
    "maps.populations",
    "posterior.populations",
    "where.population",
    "populations.files",
    "study.seeds",
    "efficiency.curves.*",
    "audit.population",
)
#: named parts of sections, and their stages: a change reaches that of the part alone
PARTS = {
    ("runs",): "train_{}",
    ("compare", "rows"): "compare_{}",
    ("maps", "rows"): "maps_{}",
    ("posterior", "rows"): "posterior_{}",
    ("where", "rows"): "where_{}",
    ("rates", "recipes"): "rates_{}",
    ("study", "arms"): "search_{}_0",
    ("real_sky", "sets"): "real_sky_{}",
    ("benchmark", "rivals"): "benchmark_{}",
}


def of_others(content, path):
    """Return the stages of other runs, rows, recipes, searches and sets than that of a key."""
    for section, stage in PARTS.items():
        if path[: len(section)] == section:
            entries = content
            for name in section:
                entries = entries[name]
            own = path[len(section)]
            found = {stage.format(name) for name in entries if name != own}
            if section == ("real_sky", "sets"):
                found |= {f"simulate_sky_{name}" for name in entries if name != own}
            if section == ("runs",):
                targets = Targets(part_of(Config, content, "test"))
                curves = [name for name in targets.curves if own not in targets.networks(name)]
                found |= {f"efficiency_{name}" for name in curves}
            return found | ({"train_final"} if section == ("runs",) else set())
    return set()


def expected(key, names):
    """Return the stages that should read a key, and whether a change reaches all of them."""
    pattern = next((pattern for pattern in EXPECTED if fnmatch.fnmatchcase(key, pattern)), None)
    assert pattern is not None, f"{key}: a new key? expected it in EXPECTED, with its stages"
    named = {name for name in names for p in EXPECTED[pattern] if fnmatch.fnmatchcase(name, p)}
    return named, not any(fnmatch.fnmatchcase(key, some) for some in SOME)


def overridden(content, section, name):
    """Return the stages of runs, rows, recipes, searches that have a value of their own."""
    found, rates, study = set(), content["rates"], content["study"]
    if section == "tune":
        arms = {arm: study["tune"] | entry["tune"] for arm, entry in study["arms"].items()}
        return {f"search_{arm}_0" for arm, own in arms.items() if name in {**own, "random": 1}}
    for run, entry in content["runs"].items():
        found |= {f"train_{run}"} if name in entry[section] else set()
    for row, entry in content["compare"]["rows"].items():
        found |= {f"compare_{row}"} if name in entry[section] else set()
    for rival, entry in content["benchmark"]["rivals"].items():
        found |= {f"benchmark_{rival}"} if name in entry[section] else set()
    for row, entry in content["maps"]["rows"].items():
        found |= {f"maps_{row}"} if name in entry[section] else set()
    for row, entry in content["posterior"]["rows"].items():
        found |= {f"posterior_{row}"} if name in entry[section] else set()
    for row, entry in content["where"]["rows"].items():
        found |= {f"where_{row}"} if name in entry.get(section, {}) else set()
    for recipe, entry in rates["recipes"].items():
        common = rates["model"] if section == "model" else {"epochs": rates["epochs"]}
        found |= {f"rates_{recipe}"} if name in common | entry[section] else set()
    return found


def test_a_change_reaches_the_stages_that_read_the_key(content):
    """For every key of the configuration; the article (stage ``paper``) may read all."""
    before, untried = stages(part_of(Config, content, "test")), set()
    for path, value in leaves(content):
        key, new = ".".join(map(str, path)), other(path[-1], value)
        if new is None:
            assert path[-1] == "type", f"{key}: expected another value in OTHERS"
            continue
        try:
            after = stages(changed(content, path, new))
        except ValueError:  # a model that cannot be
            untried.add(key)
            continue
        names = {*before, *after} - {"paper"}
        found = {name for name in names if before.get(name) != after.get(name)}
        named, all_of_them = expected(key, names)
        if path[0] in ("model", "train", "tune"):
            named -= overridden(content, path[0], path[1])
        named -= of_others(content, path)
        assert found <= named, (key, found - named)
        assert found == named or not all_of_them, (key, named - found)
    # some runs have residuals, and some rows maps, which do not go together; and only maps have
    # a middle
    apart = ("model.maps", "model.residual", "model.places")
    assert {key for key in untried if not key.endswith(apart)} == set()


def test_all_sections_of_the_schema_are_tried(content):
    assert set(content) == set(Config.model_fields)
    keys = {path[0] for path, _ in leaves(content)}
    assert keys == set(content)


# ------------------------------------------------------------------------------ files of stages


def test_files_are_read_as_they_are_written(content, tmp_path):
    for name, stage in stages(part_of(Config, content, "test")).items():
        (tmp_path / "stage.yaml").write_text(text_of(stage))
        part = load_part(tmp_path / "stage.yaml")
        assert part.model_dump(mode="json") == stage, name
        assert isinstance(part, Config)


def test_stages_of_the_library_are_settings():
    found = stages(load(SMOKE))
    names = ["simulate", "ingest", "preprocess", "fit", "features", "select", "tune", "train_plain"]
    for name in [*names, "train_final", "evaluate", "search_random_0", "simulate_audit_lenses"]:
        settings = Settings.model_validate(found[name])
        for section, value in found[name].items():
            dumped = json.loads(json.dumps(settings.model_dump(mode="json")[section]))
            assert dumped | value == dumped if isinstance(value, dict) else dumped == value


def test_a_part_has_what_its_file_has(tmp_path):
    config = load(SMOKE)
    part = part_of(Config, stages(config)["rates_ours"], "ours.yaml")
    assert part.preprocess == config.preprocess and part.seed == config.seed
    assert part.recipe("ours").model == config.recipe("ours").model
    assert part.recipe("ours").train.epochs == config.rates.epochs
    assert part.tune.metric == config.tune.metric
    with pytest.raises(AttributeError, match=r"tune\.n_calls: not in the settings of this stage"):
        _ = part.tune.n_calls
    with pytest.raises(AttributeError, match=r"final: not in .* studies/stages.py"):
        _ = part.final
    with pytest.raises(AttributeError, match="selection"):
        _ = part.settings.selection
    row = part_of(Config, stages(config)["compare_derotated"], "row.yaml")
    assert row.row("derotated").preprocess == config.row("derotated").preprocess
    assert row.row("derotated").model == config.row("derotated").model


def test_a_wrong_file_is_named(tmp_path):
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump({"tune": {"metric": "f1"}, "seed": 1}))
    with pytest.raises(InputError, match=r"stage.yaml: tune.metric: .*'f1'"):
        load_part(tmp_path / "stage.yaml")
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump({"real_sky": {"sets": {"a": {"x": 1}}}}))
    with pytest.raises(InputError, match=r"real_sky.sets.a.x: unknown key; expected some of: lab"):
        load_part(tmp_path / "stage.yaml")


def test_notebooks_declare_keys_that_there_are():
    config = load(SMOKE)
    for notebook in NOTEBOOKS:
        content = stages(config)[f"notebook_{notebook.number}"]
        part = part_of(Config, content, notebook.name)
        assert part.seed == config.seed


def test_images_from_files_have_no_samples():
    config = build(load(SMOKE).model_dump(mode="json") | {"data": "lenses.tgz"})
    found = stages(config, Targets(config))
    assert not [n for n in found if n.startswith(("simulate_", "efficiency", "audit", "real_sky"))]
    assert {"ingest", "train_plain", "search_random_0", "rates_ours"} < set(found)

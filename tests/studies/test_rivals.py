"""The table of the DeepLense benchmark: what each rival is given, and how rows are joined."""

import numpy as np
import pandas as pd
import pytest
import yaml

from studies.__main__ import main
from studies.config import build, load
from studies.rivals import merge_rivals, score_rival
from studies.story.rivals import benchmark_numbers, benchmark_table
from vitdm import benchmark
from vitdm.errors import InputError

SMOKE = load("config/smoke.yaml").model_dump(mode="json")
RIVALS = {
    "radius": {"label": "radius", "sees": "radius"},
    "resnet": SMOKE["benchmark"]["rivals"]["resnet"],
    "trees": SMOKE["benchmark"]["rivals"]["trees"],
    "fits": {"label": "fits", "sees": "fits"},
}


def settings(**changes):
    chosen = SMOKE["benchmark"] | {"sets": ["model_ii_repaired"], "rivals": RIVALS, "seeds": 2}
    return build(SMOKE | {"benchmark": chosen | changes})


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    out = tmp_path_factory.mktemp("benchmark")
    for rival in RIVALS:
        score_rival("model_ii_repaired", rival, settings(), out / "model_ii_repaired" / rival)
    return out


def test_rows_are_the_scores_of_the_answers(scored):
    for rival in RIVALS:
        rows = pd.read_csv(scored / "model_ii_repaired" / rival / "rows.csv")
        assert len(rows) == (2 if rival == "resnet" else 1)
        for row in rows.to_dict("records"):
            file = scored / f"model_ii_repaired/{rival}/predictions_seed{row['seed']}.csv"
            again = benchmark.score_predictions(file, "model_ii_repaired", "tiny")
            assert row["macro_roc_auc"] == pytest.approx(again["macro_roc_auc"], abs=1e-3)
            if rival != "radius":  # no better than itself, but for the digits of the file
                assert row["above_ring_low"] == pytest.approx(again["above_ring_low"], abs=1e-2)


def test_what_a_rival_sees(scored):
    """Two trainings differ, as do trees that see more; the radius is what the ring has."""
    answers = {
        f"{rival}{seed}": pd.read_csv(file)["p_cdm"].to_numpy()
        for rival in RIVALS
        for seed in (0, 1)
        if (file := scored / f"model_ii_repaired/{rival}/predictions_seed{seed}.csv").exists()
    }
    assert list(answers) == ["radius0", "resnet0", "resnet1", "trees0", "fits0"]
    for name, values in answers.items():
        assert not any(np.allclose(values, other) for n, other in answers.items() if n != name)
    row = pd.read_csv(scored / "model_ii_repaired/radius/rows.csv").iloc[0]
    assert row["macro_roc_auc"] == pytest.approx(row["ring_macro_roc_auc"], abs=1e-6)


def test_a_rival_has_settings_of_its_own(tmp_path):
    """Another depth, another network, although the configuration has one for all."""
    answers = []
    for depth in (1, 2):
        model = {"features": False, "patch_size": 16, "depth": depth}
        own = {"vit": {"label": "ViT", "model": model, "train": {"epochs": 1}}}
        score_rival("model_ii", "vit", settings(rivals=own, seeds=1), tmp_path / str(depth))
        answers.append(pd.read_csv(tmp_path / str(depth) / "predictions_seed0.csv")["p_cdm"])
    assert not np.allclose(*answers)


def test_joined(scored, tmp_path):
    table = merge_rivals(scored, settings(), tmp_path / "results/benchmark/all")
    assert table["rival"].tolist() == ["radius", "resnet", "resnet", "trees", "fits"]
    text = (tmp_path / "results/benchmark/all/benchmark.md").read_text()
    assert text.count("\n") == 2 + 4 and "| model_ii_repaired (tiny) | ResNet |" in text
    means = benchmark_table(settings(), tmp_path / "results")
    assert means["n_trained"].tolist() == [1, 2, 1, 1]
    numbers = benchmark_numbers(means)
    expected = table["macro_roc_auc"][table["rival"] == "resnet"].mean()
    assert numbers["benchmark_model_ii_repaired_resnet_macro_roc_auc"] == pytest.approx(expected)
    assert benchmark_table(settings(sets=[]), tmp_path / "results") is None


def test_what_does_not_belong_together_is_refused(scored, tmp_path):
    with pytest.raises(InputError, match=r"rows.csv: found version and size .*'tiny'.*'small'"):
        merge_rivals(scored, settings(set_size="small"), tmp_path / "all")
    with pytest.raises(InputError, match=r"cannot be read as a table.*No such file"):
        merge_rivals(scored, settings(sets=["model_i"]), tmp_path / "all")
    with pytest.raises(InputError, match="'swin': found none in benchmark.rivals; .* radius, res"):
        score_rival("model_ii", "swin", settings(), tmp_path / "swin")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": ["model_iv"]}, "set 'model_iv': unknown"),
        ({"sets": ["model_i_mass_noise"]}, "found model_i_mass_noise; expected model_i_noise_mass"),
        ({"sets": ["model_i", "model_i"]}, "model_i occurs twice"),
        ({"set_size": "huge"}, "size 'huge': unknown"),
        ({"rivals": {}}, "rivals: found none"),
        ({"rivals": {"a": {"label": "a", "sees": "fits", "model": {"depth": 1}}}}, "no effect"),
        ({"rivals": {"a": {"label": "a"}}}, "expected images alone"),
        ({"rivals": {"a": {"label": "a", "sees": "everything"}}}, "benchmark.rivals.a.sees"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        settings(**changes)


def test_commands(tmp_path):
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(settings().model_dump(mode="json")))
    config = ["--config", str(tmp_path / "stage.yaml"), "--out"]
    place = str(tmp_path / "scores/model_ii_repaired/radius")
    command = ["benchmark", "model_ii_repaired", "--rival", "radius"]
    assert main([*command, *config, place]) == 0
    only = settings(rivals={"radius": RIVALS["radius"]}).model_dump(mode="json")
    (tmp_path / "stage.yaml").write_text(yaml.safe_dump(only))
    assert main(["merge-benchmark", str(tmp_path / "scores"), *config, str(tmp_path / "all")]) == 0
    assert (tmp_path / "all/benchmark.md").exists()

"""The model for DeepLense's binary images, trained and written in miniature."""

import json

import numpy as np

from studies import binary_model
from studies.__main__ import main
from vitdm.data.simulated import class_of_each
from vitdm.model import novelty
from vitdm.model.runs import RUN_FILES, load_run
from vitdm.predict import predict
from vitdm.simulation import load_population, simulate_one

LENSES = load_population("lenses")


def test_the_first_model_is_written_with_the_scores_of_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(novelty, "FEWEST", 8)
    monkeypatch.setitem(binary_model.CHANGES, "train", {"epochs": 1})
    written, folder = [], tmp_path / "binary"
    write = binary_model.write

    def here(n, images):
        written.append(write(n, images, folder, seeds=2))
        return written[0]

    monkeypatch.setattr(binary_model, "write", here)
    assert main(["write-reference", "--binary", "24"]) == 0
    assert "2027 simulated" in capsys.readouterr().out
    table, run = written[0], load_run(folder)
    assert table["seed"].tolist() == [2026, 2027] and run.settings.seed == 2026
    assert {file.name for file in folder.iterdir()} == {*RUN_FILES, novelty.NAME, "README.md"}
    kinds = class_of_each(binary_model.PLANNED, binary_model.SEED, LENSES)[:6]
    images = [simulate_one(k, kind, binary_model.SEED, LENSES)[0] for k, kind in enumerate(kinds)]
    answer = predict([run], images)  # from raw images
    right = (answer["class"] == "no_sub") == (np.array(kinds) == "no_sub")
    assert table["right"][0] == right.sum() and table["n"].tolist() == [6, 6]
    card = (folder / "README.md").read_text()
    assert "24 simulated lenses of the population `lenses`" in card
    assert f"| 2026 | simulated | {right.sum()} of 6 |" in card
    assert json.loads((folder / "run.json").read_text())["rule"] == "write_binary"

"""What perturbations do to an image, and what remains of them, where the answer is known."""

import json
import math
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from studies import invariance, precursor
from studies.__main__ import main
from studies.config.part import text_of
from studies.invariance import Perturbation, Sky
from studies.plots import processing as processing_plots
from studies.stages import stages
from vitdm.config import Preprocess
from vitdm.data.dataset import Dataset
from vitdm.errors import InputError
from vitdm.preprocess import detect

SIDE = 150
Y, X = np.mgrid[:SIDE, :SIDE].astype(float)
SETTINGS = Preprocess()
SKY = Sky(np.zeros(9, np.float32), 1.0)


def rng():
    return np.random.default_rng(3)


def noise(seed=0):
    return rng().normal(size=(SIDE, SIDE))


def spot(x0=74.5, y0=74.5, along=8.0, across=8.0, angle=0.0):
    """An elliptical Gaussian of peak 100; angle in degrees, from +x to +y."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = X - x0, Y - y0
    image = np.exp(-0.5 * (((x * c + y * s) / along) ** 2 + ((y * c - x * s) / across) ** 2))
    return (100 * image).astype(np.float32)


def correlations(image, tried, settings=SETTINGS):
    table = pd.DataFrame(invariance.compare(image, settings, rng(), tried))
    return table.groupby("perturbation")["correlation"].min()


# ------------------------------------------------------------------------------- perturbations


@pytest.mark.parametrize("shape", [(31, 31), (40, 40)])
def test_quarter_turns_move_pixels_only(shape):
    image = rng().normal(size=shape).astype(np.float32)
    for quarter in range(4):
        turned = invariance.rotated(image, 90.0 * quarter, SKY, rng())
        np.testing.assert_allclose(turned, np.rot90(image, -quarter), atol=1e-4)


@pytest.mark.parametrize("angle", [10, 45, 130, 290])
def test_a_rotated_ellipse_is_the_ellipse_drawn_at_that_angle(angle):
    turned = invariance.rotated(spot(90, 60, 9, 3, 20), float(angle), SKY, rng())
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    x, y = 74.5 + 15.5 * c + 14.5 * s, 74.5 + 15.5 * s - 14.5 * c
    np.testing.assert_allclose(turned, spot(x, y, 9, 3, 20 + angle), atol=0.7)


def test_no_light_comes_from_beyond_the_border():
    image = 1000 * np.ones((SIDE, SIDE), np.float32)
    turned = invariance.rotated(image, 45.0, Sky(np.float32([5.0]), 1.0), rng())
    assert set(np.unique(np.round(turned))) == {5, 1000}
    octagon = 8 * (math.sqrt(2) - 1) / 4 * SIDE**2  # where two squares, 45 deg apart, overlap
    assert (turned > 500).sum() == pytest.approx(octagon, rel=0.01)


@pytest.mark.parametrize("direction", range(0, 360, 45))
def test_a_shift_moves_whole_pixels_and_brings_in_sky(direction):
    image = 10 + spot(70, 80)
    shift = Perturbation("shift", 15.0, float(direction))
    moved = invariance.perturb(image, shift, Sky(np.float32([7.0]), 1.0), rng())
    dx, dy = (15 * round(f(math.radians(direction)) * 1.2) for f in (math.cos, math.sin))
    expected = np.full_like(image, 7)
    inside = np.s_[max(dy, 0) : SIDE + min(dy, 0), max(dx, 0) : SIDE + min(dx, 0)]
    expected[inside] = (10 + spot(70 + dx, 80 + dy))[inside]
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def test_sky_is_taken_far_from_light_and_looks_like_it():
    image = np.clip(noise() + 0.2 + spot(), 0, None).astype(np.float32)
    sky = invariance.sky_of(image, detect(image, SETTINGS))
    assert (sky.values == 0).mean() == pytest.approx((image[0] == 0).mean(), abs=0.1)
    assert sky.values.max() < 6
    turned = invariance.rotated(image, 45.0, sky, rng())
    assert turned.min() == 0 and (turned == 0).mean() > 0.1
    noisy = invariance.perturb(image, Perturbation("noise", 0.5), sky, rng())
    assert noisy.min() == 0
    full = detect(np.full((9, 9), 4.0), SETTINGS)
    assert invariance.sky_of(np.full((9, 9), 4.0, np.float32), full).values.mean() == 4


def test_noise_is_added_in_units_of_the_sky():
    image = (3 * noise() + spot()).astype(np.float32)
    sky = invariance.sky_of(image, detect(image, SETTINGS))
    noisy = invariance.perturb(image, Perturbation("noise", 0.5), sky, rng())
    assert (noisy - image).std() == pytest.approx(1.5, rel=0.05)


def test_an_unknown_perturbation_is_named():
    with pytest.raises(InputError, match="found 'twist'; expected rotation, mirror"):
        invariance.perturb(spot(), Perturbation("twist", 1.0), SKY, rng())


# ------------------------------------------------------------------------------------- measures


def test_correlation():
    first = rng().normal(size=(20, 30))
    assert invariance.correlation(first, 3 * first + 5) == pytest.approx(1)
    assert invariance.correlation(first, -first) == pytest.approx(-1)
    second = rng().normal(size=(20, 30)) + np.arange(30)
    expected = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert invariance.correlation(first, second) == pytest.approx(expected)
    assert math.isnan(invariance.correlation(first, np.ones_like(first)))


def test_doing_nothing_keeps_what_did_not_change():
    identity = {"identity": lambda image, light: (image, 1.0)}
    disc = spot()
    found = correlations(disc, identity)
    assert found["brightness"] == pytest.approx(1, abs=1e-9)
    assert found["mirror"] == pytest.approx(1, abs=1e-9)
    assert found["rotation"] > 0.9999
    # two Gaussians of width s at a distance d overlap by exp(-d² / 4 s²); less the mean of each
    overlap, mean = math.exp(-2 * 15**2 / (4 * 64)), 4 * math.pi * 64 / SIDE**2
    assert found["shift"] == pytest.approx((overlap - mean) / (1 - mean), abs=1e-3)
    ellipse = correlations(spot(along=20, across=4), identity)
    assert ellipse["rotation"] < 0.5 and ellipse["brightness"] == pytest.approx(1, abs=1e-9)


def test_turning_undoes_a_rotation_and_leaving_does_not():
    image = spot(85, 60, 14, 5, 30) + 0.4 * spot(95, 66, 5, 5) + 0.2 * noise().astype(np.float32)
    found = pd.DataFrame(invariance.compare(image.astype(np.float32), SETTINGS, rng()))
    lowest = found.groupby(["procedure", "perturbation"])["correlation"].min()
    assert lowest["derotated", "rotation"] > 0.9
    assert lowest["derotated", "shift"] > 0.95
    assert lowest["plain", "rotation"] < 0.5 and lowest["precursor", "rotation"] < 0.5
    for name in ("derotated", "plain", "precursor"):
        assert lowest[name, "brightness"] == pytest.approx(1, abs=1e-4)
    assert found.groupby("procedure")["flux_kept"].min()["derotated"] > 0.99
    unperturbed = found[(found["perturbation"] == "rotation") & (found["amount"] == 0)]
    assert unperturbed["correlation"].to_numpy() == pytest.approx(1)


def test_flux_kept_is_the_part_that_is_in_the_cut():
    x, y = np.hypot(X - 20, Y - 74), np.hypot(X - 74, Y - 74)
    image = (100.0 * (x < 10) + 100.0 * (y < 10) + 0.1 * noise()).astype(np.float32)
    rows = pd.DataFrame(invariance.compare(image, SETTINGS, rng()))
    kept = rows[rows["amount"] == 0].set_index("procedure")["flux_kept"]
    assert kept["plain"] == pytest.approx(0.5, abs=0.15)  # one disc of two is cut off
    whole = SETTINGS.model_copy(update={"size": 150})
    rows = pd.DataFrame(invariance.compare(image, whole, rng()))
    assert rows[rows["amount"] == 0].set_index("procedure")["flux_kept"]["plain"] == 1


def test_an_image_without_light_or_numbers_is_measured():
    for image in (noise(), np.full((50, 50), np.nan), np.zeros((8, 8))):
        table = invariance.correlations([image.astype(np.float32)], ["a"], SETTINGS, progress=False)
        assert len(table) == 3 * len(invariance.PERTURBATIONS)
        assert (table["oriented"] == 0).all()
    assert not table["correlation"].notna().any()  # of constant images there is none
    assert math.isnan(invariance.summarise(table)["procedures"]["plain"]["mirror"]["all"]["p5"])


def test_the_precursor_is_measured_as_it_is():
    image = spot(85, 60, 14, 5, 30)
    mirrored = precursor.process(np.ascontiguousarray(image[:, ::-1]))
    expected = invariance.correlation(mirrored, precursor.process(image))
    rows = pd.DataFrame(invariance.compare(image, SETTINGS, rng()))
    chosen = rows[(rows["procedure"] == "precursor") & (rows["perturbation"] == "mirror")]
    assert chosen["correlation"].item() == pytest.approx(expected)


# -------------------------------------------------------------------------------------- summary


def made_up():
    rows = [
        {"id": name, "oriented": int(name != "c"), "perturbation": kind, "amount": amount}
        | {"procedure": "plain", "correlation": value, "flux_kept": value}
        for name, value in zip("abc", (0.9, 0.7, 0.1), strict=True)
        for kind, amount in (("rotation", 10.0), ("mirror", math.nan))
    ]
    trivial = rows[0] | {"amount": 0.0, "correlation": 1.0, "flux_kept": 1.0}
    return pd.DataFrame([*rows, trivial])


def test_the_summary_leaves_out_the_rotation_by_nothing():
    summary = invariance.summarise(made_up())
    assert summary["n"] == 3 and summary["oriented"] == pytest.approx(2 / 3)
    plain = summary["procedures"]["plain"]
    assert plain["rotation"]["all"]["median"] == plain["mirror"]["all"]["median"] == 0.7
    assert plain["rotation"]["all"]["smallest"] == 0.1
    assert plain["rotation"]["oriented"]["median"] == pytest.approx(0.8)
    assert plain["rotation"]["oriented"]["p5"] == pytest.approx(0.71)
    assert plain["flux_kept"]["median"] == pytest.approx(0.8)  # of all rotations


def test_the_figure_shows_median_and_central_90_percent():
    rows = [
        {"population": name, "id": f"{k}", "perturbation": "rotation", "amount": float(angle)}
        | {"procedure": procedure, "correlation": k / 20 * scale}
        for name, scale in (("one", 1.0), ("other", 0.5))
        for procedure in ("derotated", "plain", "precursor")
        for angle in (0, 90)
        for k in range(21)
    ]
    ignored = rows[0] | {"perturbation": "mirror", "population": "third"}
    figure = processing_plots.invariance(pd.DataFrame([*rows, ignored]))
    panels = {axes.get_title(): axes for axes in figure.axes if axes.lines}
    assert list(panels) == ["one (n = 21)", "other (n = 21)"]
    for axes, scale in zip(panels.values(), (1.0, 0.5), strict=True):
        assert axes.lines[0].get_ydata() == pytest.approx([0.5 * scale] * 2)
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == pytest.approx((0.05 * scale, 0.95 * scale))
    assert len(figure.legends[0].get_texts()) == 3
    plt.close(figure)


def test_images_are_spread_evenly_and_none_is_of_the_test_split():
    catalog = pd.DataFrame({"split": ["train"] * 50 + ["test"] * 50 + ["opt"] * 51})
    rows = invariance.rows_of(catalog, 5)
    assert rows.tolist() == [0, 25, 100, 125, 150]
    assert len(invariance.rows_of(catalog, 1000)) == 101
    with pytest.raises(InputError, match="found images of split test only"):
        invariance.rows_of(catalog[50:100], 5)
    with pytest.raises(InputError, match="--n: found 0"):
        invariance.rows_of(catalog, 0)


def test_command_line(lenses, settings, tmp_path, capsys):
    (tmp_path / "stage.yaml").write_text(text_of(stages(settings)["invariance"]))
    command = ["invariance", str(lenses), "--config", str(tmp_path / "stage.yaml"), "--n", "6"]
    out = tmp_path / "out"
    assert main([*command, "--out", str(out)]) == 0
    assert "6 images" in capsys.readouterr().err
    table = pd.read_csv(out / "invariance.csv")
    assert len(table) == 6 * len(invariance.PERTURBATIONS) * 3
    catalog = Dataset.open(lenses).catalog.set_index("id")
    assert "test" not in set(catalog.loc[table["id"], "split"])
    summary = json.loads((out / "invariance.json").read_text())
    assert summary["n"] == 6 and list(summary["procedures"]) == ["derotated", "plain", "precursor"]
    sidecar = json.loads((out / "provenance.json").read_text())
    assert sidecar["rule"] == "invariance" and sidecar["seed"] == 7
    again = tmp_path / "again"
    assert main([*command, "--out", str(again)]) == 0  # the same numbers once more
    assert (again / "invariance.csv").read_bytes() == (out / "invariance.csv").read_bytes()
    with pytest.raises(SystemExit):
        main([*command[:-1], "0", "--out", str(out)])


def test_images_with_missing_pixels(lenses, settings, tmp_path):
    shutil.copytree(lenses, tmp_path / "gaps")
    images = np.load(lenses / "images.npy")
    images[:, :3, 5:9] = np.nan
    np.save(tmp_path / "gaps" / "images.npy", images)
    summary = invariance.write(
        tmp_path / "gaps", settings.preprocess, 4, 0, tmp_path / "out", False
    )
    whole = invariance.write(lenses, settings.preprocess, 4, 0, tmp_path / "whole", False)
    for kind in ("rotation", "mirror", "shift", "noise"):
        for procedure in ("derotated", "plain"):
            expected = whole["procedures"][procedure][kind]["all"]["median"]
            found = summary["procedures"][procedure][kind]["all"]["median"]
            assert found == pytest.approx(expected, abs=0.05), kind

"""What is written of a free-form fit: numbers, images, the picture, and the COOLEST export."""

import json
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from free_form import BLOBS, TRUTH, light, made
from lenstronomy.LensModel.lens_model import LensModel
from matplotlib.axes import Axes
from matplotlib.text import Text
from scipy.ndimage import map_coordinates
from scipy.signal import fftconvolve

from vitdm import lens
from vitdm.config import FreeForm
from vitdm.data.simulated import observed
from vitdm.errors import InputError
from vitdm.lens.free_form import archive, coolest, files, mass
from vitdm.lens.free_form.model import FLAGS
from vitdm.lens.free_form.picture import picture
from vitdm.simulation import NO_SUB, load_population


@pytest.fixture(scope="module")
def model():
    return made(shape=(80, 91))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit") / "lens"
    files.write(model, folder)
    return folder


# ---------------------------------------------------------------------------------------- files


def test_numbers_and_images_come_back(model, folder):
    found = files.read(folder)
    table = found["parameters"].set_index("name")
    assert table["value"].to_dict() == TRUTH and table.loc["theta_E", "unit"] == "arcsec"
    assert np.isnan(table.loc["a1_x", "error"]) and table.loc["slope", "error"] == 0.01
    np.testing.assert_array_equal(found["covariance"], model.covariance)
    assert found["neighbours"].to_dict("records") == model.neighbours.to_dict("records")
    assert found["numbers"]["flags"] == {model.flags[0]: FLAGS[model.flags[0]]}
    assert found["numbers"]["galaxy"]["sigmas"] == [0.1, 0.3, 0.8]
    assert found["numbers"]["versions"].keys() >= {"python", "numpy"}
    np.testing.assert_array_equal(found["data"], model.observation.data)
    np.testing.assert_allclose(found["model"], model.lens_light + model.arcs, rtol=1e-6)
    np.testing.assert_array_equal(found["fitted"], model.fitted)


def test_coordinates_of_the_image_and_of_the_source(model, folder):
    """The brightest pixel of the source lies where its brightest blob is."""
    found = files.read(folder)
    row, column = np.unravel_index(found["source"].argmax(), found["source"].shape)
    place = found["source_x"][column], found["source_y"][row]
    assert place == pytest.approx(BLOBS[0][1:3], abs=0.011)
    assert np.ptp(found["source_x"]) == pytest.approx(2 * model.source.half_width)
    header = fits.getheader(folder / "lens.fits", "ARCS")
    assert (header["CRPIX1"], header["CRPIX2"], header["CDELT1"]) == (46, 40.5, 0.06)
    assert header["CUNIT2"] == "arcsec" and header["BUNIT"] == "electron/s"
    assert fits.getheader(folder / "lens.fits", "SOURCE")["BUNIT"] == "electron/s arcsec-2"


def test_convergence_integrates_to_the_einstein_radius(folder):
    """Within theta_E of an elliptical power law the mean convergence is nearly 1."""
    found = files.read(folder)
    height, width = found["convergence"].shape
    y, x = np.mgrid[:height, :width]
    x, y = (x - (width - 1) / 2) * 0.06 - 0.03, (y - (height - 1) / 2) * 0.06 + 0.02
    inside = np.hypot(x, y) < TRUTH["theta_E"]
    assert found["convergence"][inside].mean() == pytest.approx(1, abs=0.05)
    assert (found["magnification"] < 0).any() and (found["magnification"] > 0).any()


def test_the_same_fit_gives_the_same_bytes(model, folder, tmp_path):
    files.write(model, tmp_path)
    for name in (files.NUMBERS, files.IMAGES):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_a_folder_without_a_fit(folder, tmp_path):
    with pytest.raises(InputError, match=r"lens\.json"):
        files.read(tmp_path)
    (tmp_path / "lens.json").write_bytes((folder / "lens.json").read_bytes())
    (tmp_path / "lens.fits").write_bytes((folder / "lens.fits").read_bytes()[:20000])
    with pytest.raises(InputError, match=r"lens\.fits"):
        files.read(tmp_path)
    (tmp_path / "lens.json").write_text(json.dumps({"parameters": []}))
    with pytest.raises(InputError, match=r"lens\.json"):
        files.read(tmp_path)


def test_a_lens_without_light(model, tmp_path):
    dark = replace(model, galaxy=None)
    files.write(dark, tmp_path)
    assert files.read(tmp_path)["numbers"]["galaxy"] is None
    assert "Lens light: none was fitted." in words(picture(dark))
    coolest.write(dark, tmp_path)
    content = json.loads((tmp_path / "coolest.json").read_text())
    assert content["lensing_entities"][0]["light_model"] == [] and content["meta"]["sky"] is None


# ----------------------------------------------------------------------------- a model read again


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """A quick fit of a simulated lens with a galaxy that shines, and its folder."""
    observation = observed(10, NO_SUB, 2026, load_population("hubble"))
    model = lens.fit(observation, FreeForm(splines=10, supersampling=2, theta_E=(1.0, 1.4)))
    files.write(model, folder := tmp_path_factory.mktemp("fit"))
    return model, folder


def same(first, second):
    """Whether two values have the same bits; of dataclasses, all their fields."""
    if is_dataclass(first):
        pairs = [(getattr(first, f.name), getattr(second, f.name)) for f in fields(first)]
        return type(first) is type(second) and all(same(*pair) for pair in pairs)
    if isinstance(first, np.ndarray):
        equal = np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
        return equal and first.dtype == second.dtype
    if isinstance(first, pd.DataFrame):
        return first.equals(second.astype(first.dtypes))
    return type(first) is type(second) and first == second


def test_a_model_comes_back_to_the_last_bit(fit):
    model, folder = fit
    again = files.read_model(folder)
    for field in fields(model):
        if field.name != "observation":
            assert same(getattr(model, field.name), getattr(again, field.name)), field.name
    assert same(model.problem.point.solution.root, again.problem.point.solution.root)
    ours, theirs = model.observation, again.observation
    np.testing.assert_allclose(ours.psf, theirs.psf, rtol=1e-14)  # it is normalised again
    assert same(ours.replace(psf=None), theirs.replace(psf=None))
    assert model.galaxy is not None and model.problem.posterior.frame is not None


def test_the_same_model_is_the_same_archive(fit, tmp_path):
    files.write(files.read_model(fit[1]), tmp_path)
    for name in (files.NUMBERS, files.PROBLEM):
        assert (tmp_path / name).read_bytes() == (fit[1] / name).read_bytes()


def spoiled(archive, **changes):
    with np.load(archive) as arrays:
        kept = {name: array for name, array in arrays.items() if name not in changes}
    np.savez(archive, **kept, **{key: value for key, value in changes.items() if value is not None})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "does not exist"),
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), "problem.npz: "),
        (lambda file: spoiled(file, **{"problem.values": None}), "found no problem.values; exp"),
        (lambda file: spoiled(file, **{"problem.values": np.array([{}])}), "problem.npz: .*pickle"),
        (lambda file: spoiled(file, **{"problem.fitted": np.ones((3, 3), bool)}), "problem.npz: "),
    ],
)
def test_a_spoiled_archive_is_named(fit, tmp_path, spoil, message):
    for name in (files.NUMBERS, files.PROBLEM):
        (tmp_path / name).write_bytes((fit[1] / name).read_bytes())
    spoil(tmp_path / files.PROBLEM)
    with pytest.raises(InputError, match=message):
        files.read_model(tmp_path)


class Other:
    """A kind of value that an archive does not know."""


USUAL = Other()


@dataclass(frozen=True)
class Part:
    """What an archive holds, but for the last, which must have its default."""

    number: float
    places: tuple[float, ...]
    text: str | None = None
    other: Other = USUAL


def test_what_an_archive_does_not_know_must_be_usual(tmp_path):
    part = Part(0.1 + 0.2, (1e-300, float("inf")))
    archive.write(tmp_path / "part.npz", part=part)
    again = archive.read(tmp_path / "part.npz", part=Part)["part"]
    assert again == part and again.other is USUAL and type(again.number) is float
    with pytest.raises(TypeError, match=r"part\.other: Other"):
        archive.write(tmp_path / "part.npz", part=replace(part, other=Other()))


# -------------------------------------------------------------------------------------- picture


def words(figure):
    """Return all words of a figure and of its subfigures."""
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def panels_of(figure):
    return {axes.get_title(): axes for axes in figure.findobj(Axes)}


def test_the_picture_says_what_was_fitted(model):
    said = words(picture(model))
    assert "J0000+0000" in said and "multipoles of order 3, 4" in said
    assert 'theta_E +1.200 ± 0.010 "' in said and "axis ratio 0.83, major axis at -16°" in said
    assert f"chi2 per pixel: {model.chi2:.3f} ({model.fitted.sum()} pixels)" in said
    assert " ".join(FLAGS[model.flags[0]].split()[:4]) in said
    assert "-1.90 +1.70 0.9 masked" in said and "a1_x" not in said
    for title in ("Data [electron/s]", "Residual [noise]", "Source [electron/s / arcsec²]"):
        assert title in said
    plain = words(picture(made(multipoles=False, flags=())))
    assert "No flags." in plain


def test_panels_show_the_model_and_its_curves(model):
    """The residual is in noise; the critical curve runs where the determinant changes sign."""
    figure = picture(model, zoom=2.0)
    panels = panels_of(figure)
    residual = panels["Residual [noise]"]
    np.testing.assert_array_equal(
        residual.images[0].get_array().filled(np.nan),
        np.where(model.observation.mask, np.nan, model.residual),
    )
    assert residual.images[0].get_clim() == (-5, 5) and residual.get_xlim() == (-2, 2)
    assert residual.images[0].get_extent() == pytest.approx([-2.73, 2.73, -2.4, 2.4])
    whole = panels_of(picture(model))["Residual [noise]"]
    assert whole.get_xlim() == pytest.approx((-2.6, 2.6), abs=0.1)  # fitted to 2.3", and a margin
    (curve,) = (line for line in panels["Model of the arcs"].lines if len(line.get_xdata()) > 50)
    x, y = np.array(curve.get_xdata()), np.array(curve.get_ydata())
    inside = mass.magnification(model.values, 0.97 * x, 0.97 * y)
    outside = mass.magnification(model.values, 1.03 * x, 1.03 * y)
    assert (inside < 0).all() and (outside > 0).all()


def test_no_text_of_a_crowded_page_leaves_it():
    """All flags, unknowns and forty neighbours."""
    model = made(shape=(80, 101), name="a/" + 10 * "long_name_", flags=tuple(FLAGS))
    rng = np.random.default_rng(0)
    columns = {"x": rng.uniform(-3, 3, 40), "y": 0.0, "flux": rng.lognormal(size=40), "radius": 0.2}
    crowd = pd.DataFrame(columns | {"kind": "cosmic_ray", "masked": True})
    observation = model.observation.replace(psf=None, unit=None)
    changes = {"neighbours": crowd, "observation": observation}
    figure = picture(model.__class__(**(vars(model) | changes)))
    figure.draw_without_rendering()
    page = figure.bbox
    for text in figure.subfigs[1].texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    assert "more (lens.json)" in words(figure) and "Estimated or assumed: psf." in words(figure)


# -------------------------------------------------------------------------------------- COOLEST

#: what version 0.1.11 of the standard wants of a profile
PROFILES = {
    "PEMD": {"theta_E", "gamma", "q", "phi", "center_x", "center_y"},
    "ExternalShear": {"gamma_ext", "phi_ext"},
    "PixelatedRegularGridPotential": {"pixels"},
    "PixelatedRegularGrid": {"pixels"},
    "Sersic": {"I_eff", "theta_eff", "n", "q", "phi", "center_x", "center_y"},
}
GRID = {"fits_file", "field_of_view_x", "field_of_view_y", "num_pix_x", "num_pix_y"}


@pytest.fixture(scope="module", params=[(91, 91), (80, 91)], ids=["square", "odd"])
def exported(request, tmp_path_factory):
    """A model and its export; of an image whose sides are odd and even, padded by half a pixel."""
    folder = tmp_path_factory.mktemp("coolest")
    model = made(shape=request.param)
    coolest.write(model, folder)
    return model, folder, json.loads((folder / "coolest.json").read_text())


def profile(content, kind):
    """Return the values of the first profile of a kind."""
    models = [
        m for e in content["lensing_entities"] for m in (e["mass_model"], e.get("light_model"))
    ]
    found = next(p for model in models if model for p in model if p["type"] == kind)
    values = found["parameters"].items()
    return {name: entry.get("point_estimate", {}).get("value") for name, entry in values}


def grid(content, shape):
    """Return x, y of the pixels of the image in the coordinates of the export."""
    pixels = content["observation"]["pixels"]
    n, low = pixels["num_pix_x"], pixels["field_of_view_x"][0]
    axis = low + (np.arange(n) + 0.5) * content["instrument"]["pixel_size"]
    rows, columns = ((n - side) // 2 for side in shape)
    return np.meshgrid(axis[columns : columns + shape[1]], axis[rows : rows + shape[0]])


def test_the_export_has_what_the_standard_requires(exported):
    _, folder, content = exported
    required = {"standard", "mode", "meta", "coordinates_origin", "observation", "instrument"}
    assert content.keys() >= required | {"lensing_entities"} and content["mode"] == "MAP"
    assert content["instrument"].keys() == {"name", "band", "pixel_size", "readout_noise", "psf"}
    for entity in content["lensing_entities"]:
        keys = {"type", "name", "redshift", "mass_model"}
        keys |= {"light_model"} if entity["type"] == "Galaxy" else set()
        assert entity.keys() == keys and entity["type"] in ("Galaxy", "MassField")
        for found in entity["mass_model"] + entity.get("light_model", []):
            assert found["parameters"].keys() == PROFILES[found["type"]]
    grids = [content["observation"]["pixels"], content["instrument"]["psf"]["pixels"]]
    grids += [content["observation"]["noise"]["noise_map"], content["likelihoods"][0]["mask"]]
    for entry in grids:
        assert entry.keys() == GRID
        image = fits.getdata(folder / entry["fits_file"]["path"])
        assert image.shape == (entry["num_pix_y"], entry["num_pix_x"])
    assert content["meta"]["multipoles"]["a4_x"] == TRUTH["a4_x"]


def test_the_exported_mass_is_that_of_the_fit(exported):
    """Read with the standard's conventions, by lenstronomy; the potential is derived numerically.

    The shear is about the origin there: the deflections differ by a constant.
    """
    model, folder, content = exported
    x, y = grid(content, model.observation.shape)
    power_law, shear = profile(content, "PEMD"), profile(content, "ExternalShear")
    phi, e = np.radians(power_law["phi"] - 90), (1 - power_law["q"]) / (1 + power_law["q"])
    center = {"center_x": power_law["center_x"], "center_y": power_law["center_y"]}
    epl = {"theta_E": power_law["theta_E"], "gamma": power_law["gamma"]}
    epl |= {"e1": e * np.cos(2 * phi), "e2": e * np.sin(2 * phi)} | center
    phi = np.radians(shear["phi_ext"] - 90)
    gamma = {"gamma1": np.cos(2 * phi), "gamma2": np.sin(2 * phi)}
    gamma = {name: shear["gamma_ext"] * value for name, value in gamma.items()}
    theirs = np.array(LensModel(["EPL", "SHEAR"]).alpha(x, y, [epl, gamma]))
    potential = fits.getdata(folder / "multipoles.fits")
    n = len(potential)
    rim = [(n - side) // 2 for side in model.observation.shape]
    slopes = np.gradient(potential, content["instrument"]["pixel_size"])[::-1]
    height, width = model.observation.shape
    theirs += [s[rim[0] : rim[0] + height, rim[1] : rim[1] + width] for s in slopes]
    ours = mass.deflection(model.values, *(a.ravel() for a in files.positions(model)))
    difference = ours.reshape(2, height, width) - theirs
    difference = (difference - difference[:, 10:11, 10:11])[:, 2:-2, 2:-2]
    far = np.hypot(x, y)[2:-2, 2:-2] > 0.5  # finite differences are of little use in the centre
    assert np.abs(difference[:, far]).max() < 2e-4


def test_the_potential_of_a_multipole_of_order_1(model, tmp_path):
    """It does not grow linearly with the radius, as the others do; derived numerically."""
    values = model.values.copy()
    values[8:10] = 0.03, -0.02
    coolest.write(replace(model, values=values), tmp_path)
    potential, n = fits.getdata(tmp_path / "multipoles.fits"), 91
    axis = (np.arange(n) - (n - 1) / 2) * 0.06
    x, y = np.meshgrid(axis, axis + 0.03)  # 80 rows: padded by one more above than below
    smooth = np.where(np.arange(14) < 8, values, 0)
    place = x.ravel(), y.ravel()
    alpha = mass.deflection(values, *place) - mass.deflection(smooth, *place)
    difference = alpha.reshape(2, n, n) - np.gradient(potential, 0.06)[::-1]
    far = np.hypot(x, y)[2:-2, 2:-2] > 0.7
    assert np.abs(difference[:, 2:-2, 2:-2][:, far]).max() < 3e-4


def test_the_exported_source_makes_the_same_arcs(exported, tmp_path):
    """Traced by the exported power law and shear, through the exported PSF."""
    shape = exported[0].observation.shape
    model = made(shape=shape, multipoles=False)
    coolest.write(model, tmp_path)
    content = json.loads((tmp_path / "coolest.json").read_text())
    assert not (tmp_path / "multipoles.fits").exists() and not content["meta"]["multipoles"]
    source = content["lensing_entities"][-1]["light_model"][0]["parameters"]["pixels"]
    image = fits.getdata(tmp_path / source["fits_file"]["path"])
    low, high = source["field_of_view_x"]
    x, y = grid(content, shape)
    gamma1, gamma2 = TRUTH["gamma1"], TRUTH["gamma2"]
    values = model.values.copy()
    values[3:5] = [profile(content, "PEMD")[f"center_{axis}"] for axis in "xy"]
    values[5:7] = 0
    alpha = mass.deflection(values, x.ravel(), y.ravel()).reshape(2, *shape)
    alpha += [gamma1 * x + gamma2 * y, gamma2 * x - gamma1 * y]
    place = np.array([y - alpha[1], x - alpha[0]])
    place = (place - low) / (high - low) * len(image) - 0.5
    arcs = fftconvolve(map_coordinates(image, place), fits.getdata(tmp_path / "psf.fits"), "same")
    np.testing.assert_allclose(arcs, model.arcs, atol=0.01 * model.arcs.max())


def test_the_exported_light_is_that_of_the_galaxy(exported):
    """Sérsic profiles of index 1/2, by their definition."""
    model, _, content = exported
    x, y = grid(content, model.observation.shape)
    total = np.zeros_like(x)
    for entry in content["lensing_entities"][0]["light_model"]:
        value = {k: v["point_estimate"]["value"] for k, v in entry["parameters"].items()}
        phi = np.radians(value["phi"] - 90)
        u, v = x - value["center_x"], y - value["center_y"]
        along, across = np.cos(phi) * u + np.sin(phi) * v, np.cos(phi) * v - np.sin(phi) * u
        r2 = (along**2 * value["q"] + across**2 / value["q"]) / value["theta_eff"] ** 2
        total += value["I_eff"] * np.exp(-np.log(2) * (r2 - 1))
    np.testing.assert_allclose(total, light(model.galaxy, *files.positions(model)), rtol=1e-9)


def test_errors_are_exported(exported):
    """Those of axis ratio and angle follow from the covariance; here by drawing from it."""
    model, _, content = exported
    entries = content["lensing_entities"][0]["mass_model"][0]["parameters"]
    draws = np.random.default_rng(0).multivariate_normal(model.values, model.covariance, 20000)
    e = np.hypot(draws[:, 1], draws[:, 2])
    angle = np.degrees(np.arctan2(draws[:, 2], draws[:, 1]) / 2) + 90
    for name, values in (("q", (1 - e) / (1 + e)), ("phi", angle), ("gamma", draws[:, 7])):
        statistics = entries[name]["posterior_stats"]
        width = statistics["percentile_84th"] - statistics["percentile_16th"]
        assert width / 2 == pytest.approx(values.std(), rel=0.05), name


def test_the_package_reads_the_export(exported):
    """Deflection and convergence evaluated by ``coolest`` itself."""
    util = pytest.importorskip("coolest.api.util", reason="the package coolest is not installed")
    models = pytest.importorskip("coolest.api.composable_models")
    model, folder, content = exported
    read = util.get_coolest_object(str(folder / "coolest"))
    lens = models.ComposableMassModel(read, str(folder), entity_selection=[0, 1])
    x, y = grid(content, model.observation.shape)
    smooth = np.where(np.arange(14) < 8, model.values, 0)
    place = [a.ravel() for a in files.positions(model)]
    kappa = mass.convergence(smooth, *place).reshape(x.shape)
    np.testing.assert_allclose(lens.evaluate_convergence(x, y), kappa, rtol=1e-9)
    difference = np.array(lens.evaluate_deflection(x, y)).reshape(2, -1)
    difference -= mass.deflection(smooth, *place)
    assert np.ptp(difference, axis=1).max() < 1e-9
    stored = read.likelihoods[0].get_mask_pixels(directory=str(folder))
    assert stored.sum() == model.fitted.sum()

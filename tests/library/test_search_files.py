"""What is written of a search for perturbers: maps, peaks and numbers, and the picture."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from free_form import made
from matplotlib.axes import Axes
from matplotlib.text import Text
from perturbers import PROFILES, searched

from vitdm.errors import InputError
from vitdm.lens.perturbers import files
from vitdm.lens.perturbers.picture import _power, picture
from vitdm.lens.perturbers.verdict import WARNINGS, answer, warnings_of


@pytest.fixture(scope="module")
def search():
    return searched()


@pytest.fixture(scope="module")
def folder(search, tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "lens"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files.write(search, folder)
    return folder


# ---------------------------------------------------------------------------------------- files


def test_maps_peaks_and_numbers_come_back(search, folder):
    found = files.read(folder)
    for profile in PROFILES:
        maps = search.maps[profile]
        for kind in ("snr", "amplitude", "error"):
            image = search.image(getattr(maps, kind))
            np.testing.assert_allclose(found[kind][profile], image, rtol=1e-6)
        masses = 5 * maps.error * search.solar_masses
        np.testing.assert_allclose(found["sensitivity"][profile], search.image(masses), rtol=1e-6)
    np.testing.assert_allclose(found["x"], search.axis_x, atol=1e-12)
    pd.testing.assert_frame_equal(found["peaks"], search.peaks)
    numbers = found["numbers"]
    assert numbers["score"] == search.score and numbers["p_value"] == pytest.approx(1 / 201)
    assert numbers["twin_scores"] == search.twin_scores.tolist() and numbers["n_twins"] == 200
    assert numbers["settings"]["z_lens"] == 0.222 and numbers["misfit"] == 0.97
    assert numbers["versions"].keys() >= {"python", "numpy"}
    masses = 5 * search.maps["point"].error * 4.5e11
    assert numbers["sensitivity"]["point"]["lowest"] == np.nanmin(masses)


def test_the_header_tells_where_the_peak_is(search, folder):
    """Read as any program reads a linear WCS."""
    with fits.open(folder / files.IMAGES) as extensions:
        header, image = extensions["SNR_ISOTHERMAL"].header, extensions["SNR_ISOTHERMAL"].data
        units = [extensions[f"{kind}_POINT"].header["BUNIT"] for kind in files.EXTENSIONS]
    row, column = np.unravel_index(np.nanargmax(image), image.shape)
    x, y = WCS(header).wcs_pix2world(column, row, 0)
    assert (float(x), float(y)) == pytest.approx(tuple(search.peaks.loc[0, ["x", "y"]]), abs=1e-9)
    assert header["CUNIT1"] == "arcsec" and header["PROFILE"] == "isothermal"
    assert units == ["", "arcsec2", "arcsec2", "solMass"]
    angles = fits.getdata(folder / files.IMAGES, "ANGLE_STRING")
    np.testing.assert_allclose(angles, search.image(search.maps["string"].angle), rtol=1e-6)


def test_the_same_search_gives_the_same_bytes(search, folder, tmp_path):
    files.write(search, tmp_path)
    for name in (files.NUMBERS, files.IMAGES, files.PEAKS):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_without_redshifts_peaks_or_twins(tmp_path):
    bare = searched(z_lens=None, z_source=None, peaks=pd.DataFrame({"x": [], "y": []}), n=0)
    files.write(bare, tmp_path)
    found = files.read(tmp_path)
    header = fits.getheader(tmp_path / files.IMAGES, "SENSITIVITY_POINT")
    assert header["BUNIT"] == "arcsec2" and not len(found["peaks"])
    assert found["numbers"]["p_value"] is None and found["numbers"]["solar_masses"] is None
    assert found["numbers"]["warnings"].keys() >= {"no_twins", "redshifts"}
    said = words(picture(bare))
    assert "No peaks." in said and "no peak was fitted" in said and "arcsec²" in said


@pytest.mark.parametrize("name", [files.NUMBERS, files.IMAGES, files.PEAKS])
def test_a_missing_or_spoiled_file_is_named(search, tmp_path, name):
    files.write(search, tmp_path)
    (tmp_path / name).write_bytes(b"\x00")
    with pytest.raises(InputError, match=name):
        files.read(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        files.read(tmp_path)


# -------------------------------------------------------------------------------------- verdict


def changed(search, **values):
    """Return a search with other values in the row of its highest peak."""
    peaks = search.peaks.copy()
    for name, value in values.items():
        peaks.loc[0, name] = value
    return searched(peaks=peaks)


def test_a_clear_detection_has_no_warnings():
    clear = searched(made(flags=()))
    assert warnings_of(clear) == {}
    assert answer(clear).startswith("Something stands out that noise does not explain. None of 200")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"delta_luminous": 39.0}, "luminous"),
        ({"delta_multipoles": 60.0}, "multipoles"),
        ({"converged": False}, "unstable"),
        ({"fit_x": 0.9}, "unstable"),
        ({"x": 2.2, "y": 0.1}, "border"),  # fitted up to 2.6", not near the mask
        ({"x": -1.9, "y": 1.35}, "border"),  # beside the masked neighbour
    ],
)
def test_what_speaks_against_a_peak(search, values, name):
    peaks = {"x": 2.6, "y": 0.1} if values.get("x") == 2.2 else {}
    assert name in warnings_of(changed(search, **(values | peaks)))
    assert name not in warnings_of(search)


def test_what_speaks_against_a_map():
    assert "few_twins" in warnings_of(searched(n=50))
    assert "twins_disagree" in warnings_of(searched(refitted_scores=np.full(20, 6.0)))
    wild = searched(height=0.0, misfit=2.5)
    for found in wild.maps.values():
        found.amplitude[:] *= -4.0
    assert warnings_of(wild).keys() >= {"rough", "negative"}
    assert "fit" in warnings_of(wild) and "no_arcs" in warnings_of(wild)["fit"]


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (41 / 201, "Nothing stands out. 40 of 200 smooth twins of this lens score as high."),
        (11 / 201, "Hardly anything stands out. 10 of 200 smooth twins"),
        (2 / 201, "Something stands out that noise does not explain. 1 of 200 smooth twins"),
        (np.nan, "How often noise alone scores as much is not known"),
    ],
)
def test_the_answer_follows_from_the_p_value(p, said):
    assert answer(searched(p_value=p)).startswith(said)


# -------------------------------------------------------------------------------------- picture


def words(figure):
    """Return all words of a figure and of its subfigures."""
    return " ".join(" ".join(text.get_text() for text in figure.findobj(Text)).split())


def panels_of(figure):
    return {axes.get_title(): axes for axes in figure.findobj(Axes)}


def test_the_picture_says_what_was_found(search):
    said = words(picture(search))
    peak = search.peaks.iloc[0]
    assert f"Peak 1 at ({peak.x:+.2f}, {peak.y:+.2f}): S/N {peak.snr:.1f}" in said
    mass = _power(peak.fit_mass * 4.5e11, peak.fit_mass_error * 4.5e11)
    assert f"refit {mass} Msun, isothermal sphere" in said and "Msun, NFW halo, c = 30" in said
    assert f"{_power(peak.solar_mass_1kpc)} Msun within 1 kpc" in said
    assert "ln evidence +41 (rivals: light +2, multipoles +6)" in said
    assert "p-value: 0.005 (the least that so many twins can tell)" in said
    assert "How to read this page" in said and "200 twins" in said and "20 refitted twins" in said
    assert f"this lens: {search.score:.1f}" in said


def test_two_refits_that_end_at_one_place_are_told_once(search):
    peaks = search.peaks.copy()
    peaks.loc[1, ["fit_x", "fit_y"]] = peaks.loc[0, ["fit_x", "fit_y"]].to_numpy(float) + 0.02
    said = words(picture(searched(peaks=peaks)))
    assert "ends at that of peak 1" in said and said.count("ln evidence +") == 1
    peaks["delta_evidence"] = np.nan  # as of peaks that were not refitted
    assert "refit " not in words(picture(searched(peaks=peaks)))


def test_panels_show_the_maps_where_they_are(search):
    panels = panels_of(picture(search))
    snr = panels["S/N of a perturber (isothermal sphere)"]
    image = search.image(search.maps["isothermal"].snr)
    np.testing.assert_array_equal(snr.images[0].get_array().filled(np.nan), image)
    assert snr.images[0].get_extent() == pytest.approx([-2.05, 2.05, -2.05, 2.05])
    low, high = snr.images[0].get_clim()
    assert low == -high and high >= search.score
    ring = next(line for line in snr.lines if line.get_marker() == "o")
    assert ring.get_xydata()[0] == pytest.approx(search.peaks.loc[0, ["x", "y"]].to_numpy(float))
    curves = [line for line in snr.lines if len(line.get_xdata()) > 50]
    assert len(curves) == 1 and snr.get_legend()  # the critical curve
    masses = panels["Mass with S/N 5 [$M_\\odot$]"].images[0]
    known = 5 * search.maps["isothermal"].error * 4.5e11
    assert masses.get_clim()[0] == pytest.approx(np.nanmin(known))
    assert masses.norm.__class__.__name__ == "LogNorm"


def test_bars_are_the_evidence_of_each_explanation(search):
    panel = panels_of(picture(search))["Gain in ln evidence of each peak"]
    widths = [bar.get_width() for bars in panel.containers for bar in bars]
    columns = ["delta_evidence", "delta_luminous", "delta_multipoles"]
    assert widths == [value for name in columns for value in search.peaks[name]]


def test_no_text_of_a_crowded_page_leaves_it():
    """Three peaks, all warnings, masses of all sizes."""
    peaks = pd.concat([searched().peaks] * 2).iloc[:3].reset_index(drop=True)
    peaks.loc[0, ["converged", "delta_luminous", "delta_multipoles"]] = [False, 50, 50]
    crowded = searched(
        made(name="a/" + 10 * "long_name_", flags=("poor", "far")), peaks=peaks, n=50, misfit=1.4
    )
    for found in crowded.maps.values():
        found.amplitude[:] *= -4.0
    figure = picture(crowded)
    assert len(warnings_of(crowded)) >= 7
    figure.draw_without_rendering()
    page = figure.bbox
    for text in figure.subfigs[1].texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1


def test_every_warning_can_occur():
    """Those that the tests above provoke, and the flags that the page must explain."""
    assert set(WARNINGS) == {
        *("fit", "rough", "negative", "no_twins", "few_twins", "twins_disagree"),
        *("border", "unstable", "multipoles", "luminous", "redshifts"),
    }
    json.dumps(WARNINGS)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (4.21e9, 3.4e8, "(4.2 ± 0.3)e9"),
        (2.4e-3, 8e-4, "(2.4 ± 0.8)e-3"),
        (9.97e9, 1e9, "(1.0 ± 0.1)e10"),
        (-3e8, 1e8, "(-3.0 ± 1.0)e8"),
        (0.0, 2e7, "(0.0 ± 2.0)e7"),
    ],
)
def test_masses_are_written_with_one_power_of_ten(value, error, text):
    assert _power(value, error) == text

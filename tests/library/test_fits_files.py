"""FITS files as HST, JWST, Rubin, Legacy Surveys, CCDData and PyAutoLens write them."""

import bz2
import gzip
import io
import lzma
import warnings

import cv2
import numpy as np
import pytest
from astropy.io import fits

from vitdm.data import foreign
from vitdm.data.readers import load_observations, read_image, read_observation, read_picture
from vitdm.errors import InputError

RNG = np.random.default_rng(4)
IMAGE = RNG.normal(0, 2, (40, 40)).astype("f4")
IMAGE[18:23, 18:23] += 50
RMS = (2 + RNG.random((40, 40))).astype("f4")
BAD = np.zeros((40, 40), "i2")
BAD[3, 5] = 1
BAD[7, 9] = 4096
KERNEL = np.outer([1, 2, 1], [1, 2, 1]).astype("f4")
CUBE = np.stack([IMAGE, IMAGE + 1, IMAGE + 2])


def written(path, *extensions, primary=None, header=None):
    """A FITS file of extensions (name, array) or (name, array, header), and its path."""
    hdus = [fits.PrimaryHDU(primary, fits.Header(header or {}))]
    for name, array, *more in extensions:
        hdus.append(fits.ImageHDU(array, fits.Header(more[0] if more else {}), name=name))
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def same(observation, image=IMAGE):
    shown = ~observation.mask
    np.testing.assert_array_equal(observation.data[shown], image[shown])
    return True


# ------------------------------------------------------------------------------- which extension


@pytest.mark.parametrize("science", ["SCI", "DATA", "image", "F814W_SCI", "SCIENCE"])
@pytest.mark.parametrize("noise", ["NOISE", "NOISE_MAP", "ERR", "rms", "SIGMA"])
def test_extensions_are_found_by_their_names(tmp_path, science, noise):
    path = tmp_path / "a.fits"
    written(path, ("MASK", BAD), (science, IMAGE), (noise, RMS), ("PSF", KERNEL), ("CTX", BAD))
    found = read_observation(path)
    assert same(found) and found.unknown == ("pixel_scale",) and found.name == str(path)
    np.testing.assert_array_equal(found.mask, BAD != 0)
    np.testing.assert_array_equal(found.noise, RMS)
    np.testing.assert_allclose(found.psf, KERNEL / 16)
    np.testing.assert_array_equal(read_image(path), IMAGE)


def test_the_primary_image_with_a_mask_behind_it(tmp_path):
    path = written(tmp_path / "a.fits", ("MASK", BAD), ("", IMAGE + 9), primary=IMAGE)
    found = read_observation(path)
    assert same(found) and found.mask.sum() == 2
    named = fits.HDUList([fits.PrimaryHDU(BAD), fits.ImageHDU(IMAGE)])
    named[0].name = "MASK"
    named.writeto(path, overwrite=True)
    assert same(read_observation(path)) and read_observation(path).mask.sum() == 2


@pytest.mark.parametrize(
    ("extensions", "listed"),
    [
        ([("SCI", IMAGE), ("SCI", IMAGE, {"EXTVER": 2})], r"\[1\] SCI \(40, 40\), \[2\] SCI,2"),
        ([("F606W", IMAGE), ("F814W", IMAGE)], r"\[1\] F606W \(40, 40\), \[2\] F814W \(40, 40\)"),
        ([("", IMAGE), ("", IMAGE)], r"\[1\] \(no name\) \(40, 40\), \[2\] \(no name\)"),
        ([("MASK", BAD), ("NOISE", RMS)], r"\[1\] MASK \(40, 40\), \[2\] NOISE"),
        ([], "no image with two axes"),
    ],
)
def test_what_is_ambiguous_is_refused_with_a_list(tmp_path, extensions, listed):
    path = written(tmp_path / "a.fits", *extensions)
    for read in (read_image, read_observation):
        with pytest.raises(InputError, match=rf"a\.fits: .*hdu.*--hdu.*{listed}"):
            read(path)


def test_the_user_chooses_the_extension(tmp_path):
    path = written(
        tmp_path / "flc.fits",
        ("SCI", IMAGE),
        ("ERR", RMS),
        ("SCI", IMAGE + 1, {"EXTVER": 2}),
        ("ERR", RMS + 1, {"EXTVER": 2}),
    )
    for hdu in (3, "3", "sci,2"):
        found = read_observation(path, hdu=hdu)
        assert same(found, IMAGE + 1)
        np.testing.assert_array_equal(found.noise, RMS + 1)  # of the same chip
        np.testing.assert_array_equal(read_picture(path, hdu=hdu).pixels, IMAGE + 1)
    for hdu in ("SCI", 9, "sky"):
        with pytest.raises(InputError, match=rf"hdu '{hdu}': found .* in \[1\] SCI \(40, 40\)"):
            read_observation(path, hdu=hdu)
    np.save(tmp_path / "a.npy", IMAGE)
    with pytest.raises(InputError, match=r"a\.npy: hdu 1: is no FITS file"):
        read_observation(tmp_path / "a.npy", hdu=1)


def test_an_rms_comes_before_a_variance_before_weights(tmp_path):
    weights, variance = ("WHT", RMS**-2), ("VAR_RNOISE", RMS**2)
    for extensions in ([weights, variance, ("ERR", RMS)], [weights, variance], [weights]):
        path = written(tmp_path / "a.fits", ("SCI", IMAGE), *extensions)
        np.testing.assert_allclose(read_observation(path).noise, RMS, rtol=1e-5)
    path = written(tmp_path / "a.fits", ("SCI", IMAGE), ("VAR_A", RMS), ("VAR_B", RMS))
    with pytest.raises(InputError, match=r"several that could be the noise .* choose one by noise"):
        read_observation(path)
    assert read_observation(path, noise="VAR_A").noise[0, 0] == pytest.approx(RMS[0, 0] ** 0.5)


@pytest.mark.parametrize("name", ["IVAR", "INVVAR", "WHT", "WEIGHT", "weight_map"])
def test_inverse_variances(tmp_path, name):
    weights = RMS**-2
    weights[:2] = 0
    found = read_observation(written(tmp_path / "a.fits", ("SCI", IMAGE), (name, weights)))
    assert found.mask[:2].all() and not found.mask[2:].any()
    np.testing.assert_allclose(found.noise[2:], RMS[2:], rtol=1e-5)


def test_weights_that_are_exposure_times_are_no_noise(tmp_path):
    seconds = np.full((40, 40), 2000, "f4")
    seconds[:2] = 0
    path = written(tmp_path / "a.fits", ("SCI", IMAGE), ("WHT", seconds))
    with pytest.warns(UserWarning, match=r"a\.fits: its weights are no inverse variances"):
        found = read_observation(path)
    assert found.noise is None and "noise" in found.unknown
    assert found.mask[:2].all() and not found.mask[2:].any()


def test_an_uncertainty_says_of_which_kind_it_is(tmp_path):
    kinds = {"StdDevUncertainty": RMS, "VarianceUncertainty": RMS**2, "InverseVariance": RMS**-2}
    for kind, values in kinds.items():
        uncertainty = ("UNCERT", values, {"UTYPE": kind})
        path = written(tmp_path / "a.fits", uncertainty, ("MASK", BAD), primary=IMAGE)
        np.testing.assert_allclose(read_observation(path).noise, RMS, rtol=1e-5)


def test_a_rubin_mask_does_not_mask_the_lens(tmp_path):
    planes = np.where(IMAGE > 20, 32, BAD).astype("i4")
    header = {"MP_BAD": 0, "MP_DETECTED": 5, "MP_NO_DATA": 12}
    path = tmp_path / "a.fits"
    written(path, ("IMAGE", IMAGE), ("MASK", planes, header), ("VARIANCE", RMS**2))
    found = read_observation(path)
    np.testing.assert_array_equal(found.mask, BAD != 0)
    np.testing.assert_allclose(found.noise, RMS, rtol=1e-5)


def test_noise_psf_and_mask_of_other_files_arrays_and_numbers(tmp_path):
    path = written(tmp_path / "a.fits", ("PSF", KERNEL + 1), primary=IMAGE)
    np.save(tmp_path / "rms.npy", RMS)
    written(tmp_path / "weight.fits", primary=RMS**-2)
    written(tmp_path / "k.fits", ("MASK", BAD), ("KERNEL", KERNEL))
    mask = tmp_path / "k.fits"
    for noise in (tmp_path / "rms.npy", str(tmp_path / "weight.fits"), RMS):
        found = read_observation(path, noise=noise, psf=mask, mask=mask)
        np.testing.assert_allclose(found.noise, RMS, rtol=1e-5)
        np.testing.assert_allclose(found.psf, KERNEL / 16)
        np.testing.assert_array_equal(found.mask, BAD != 0)
    found = read_observation(path, noise=2.5, psf=0.1, mask=BAD > 1, pixel_scale=0.05, gain=0.5)
    known = (found.noise, found.psf, found.mask.sum(), found.pixel_scale, found.gain)
    assert known == (2.5, 0.1, 1, 0.05, 0.5)
    for noise in ("rsm.npy", "NIOSE"):
        with pytest.raises(InputError, match=rf"{noise}: "):
            read_observation(path, noise=noise)
    with pytest.raises(InputError, match=r"a\.fits: noise: found a map of shape \(3, 3\)"):
        read_observation(path, noise=KERNEL)


def test_a_folder_is_one_observation(tmp_path):
    folder = tmp_path / "lenses" / "J1"
    folder.mkdir(parents=True)
    for name, array in {"image": IMAGE, "psf": KERNEL, "mask": BAD}.items():
        written(folder / f"{name}.fits", primary=array)
    noise = RMS.copy()
    noise[10:, :30] = 1e8  # over half of the pixels
    noise[0, 30:33] = 0, -1, np.nan
    written(folder / "noise.fits", primary=noise)
    found = read_observation(folder)
    wanted = (BAD != 0) | ~(noise < 1e7)
    wanted[0, 30:33] = True
    np.testing.assert_array_equal(found.mask, wanted)
    assert same(found) and found.psf.shape == (3, 3) and found.name == str(folder)
    listed = list(load_observations([folder.parent]))
    assert [path for path, _ in listed] == [folder] and same(listed[0][1])
    assert read_observation(folder, noise=3.0).noise == 3
    cv2.imwrite(str(folder / "data.jpg"), np.zeros((9, 9), np.uint8))  # a picture only shows it
    assert same(read_observation(folder))
    np.save(folder / "data.npy", IMAGE)
    with pytest.raises(InputError, match=r"one file with the science image; found data\.npy, im"):
        read_observation(folder)


# ------------------------------------------------------------------------------- bands and blanks


def test_bands(tmp_path):
    path = written(tmp_path / "cube.fits", ("IVAR", np.stack([RMS**-2] * 3)), primary=CUBE)
    with pytest.raises(InputError, match=r"\(3, 40, 40\).*choose one of its 3 bands .*--band"):
        read_image(path)
    assert same(read_observation(path, band=2), IMAGE + 2)
    np.testing.assert_allclose(read_observation(path, band=2).noise, RMS, rtol=1e-5)
    with pytest.raises(InputError, match="band 3: expected one from 0 to 2"):
        read_image(path, band=3)
    header = {"BANDS": "grz"}  # as the Legacy Surveys cut out
    path = written(tmp_path / "cube.fits", primary=CUBE, header=header)
    assert same(read_observation(path, band="r"), IMAGE + 1)
    with pytest.raises(InputError, match="band 'i': expected a number from 0, one of g, r, z"):
        read_image(path, band="i")
    for name, cube in {"first.npy": CUBE, "last.npy": np.moveaxis(CUBE, 0, 2)}.items():
        np.save(tmp_path / name, cube)
        np.testing.assert_array_equal(read_image(tmp_path / name, band=1), IMAGE + 1)
    np.testing.assert_allclose(read_image(tmp_path / "last.npy"), IMAGE + 1, atol=1e-5)
    with pytest.raises(InputError, match="3 bands"):
        read_image(tmp_path / "first.npy")
    np.save(tmp_path / "one.npy", IMAGE)
    np.testing.assert_array_equal(read_image(tmp_path / "one.npy", band=0), IMAGE)
    with pytest.raises(InputError, match=r"band 1: expected 0"):
        read_image(tmp_path / "one.npy", band=1)


@pytest.mark.parametrize("packed", [False, True])
def test_blank_pixels_of_unsigned_integers(tmp_path, packed):
    counts = np.arange(1600, dtype="u2").reshape(40, 40) * 40
    hdu = (fits.CompImageHDU if packed else fits.ImageHDU)(counts, name="SCI")
    hdu.header["BLANK"] = -32768 + 40 * 77  # as stored: less BZERO
    hdu.writeto(tmp_path / "a.fits")
    read = read_image(tmp_path / "a.fits")
    np.testing.assert_array_equal(read, np.where(counts == 40 * 77, np.nan, counts))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files(tmp_path, pack):
    content = written(tmp_path / "a.fts", primary=IMAGE).read_bytes()
    np.testing.assert_array_equal(read_image(tmp_path / "a.fts"), IMAGE)
    (tmp_path / "a.fits.bz2").write_bytes(pack(content))  # its bytes count, not its name
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits.bz2"), IMAGE)


# -------------------------------------------------------------------------------- scale and unit


SKY = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"}
DELTA = {"CDELT1": -0.05 / 3600, "CDELT2": 0.05 / 3600}
LOOKUP = {  # HST flc: tables of distortion, in extensions that a cutout lacks
    "CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CPDIS1": "LOOKUP", "CPDIS2": "LOOKUP",
    "DP1.EXTVER": 1.0, "A_ORDER": 4, "B_ORDER": 4, "A_0_2": 2e-6, "ORIENTAT": 30.0,
    "CD1_1": -0.05 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.05 / 3600,
}  # fmt: skip


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (SKY | DELTA, 0.05),
        (SKY | DELTA | {"CROTA2": 30.0}, 0.05),
        (SKY | DELTA | {"PC1_1": 0.6, "PC1_2": -0.8, "PC2_1": 0.8, "PC2_2": 0.6}, 0.05),
        (SKY | DELTA | {"PC001001": -1.0, "PC002002": 1.0}, 0.05),
        (SKY | {"CD1_1": 0.0, "CD1_2": 0.262 / 3600, "CD2_1": 0.262 / 3600}, 0.262),
        (SKY | {"CDELT1": -0.05, "CDELT2": 0.05, "CUNIT1": "arcsec", "CUNIT2": "arcsec"}, 0.05),
        ({"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR"} | DELTA, 0.05),
        (LOOKUP, 0.05),
        (DELTA, 0.05),  # no CTYPE
        ({"CDELT1": 0.05, "CDELT2": 0.05}, 0.05),  # and no unit: arcsec
        ({"CTYPE1": "WAVE", "CTYPE2": "LINEAR", "CDELT1": 0.05, "CDELT2": 0.05}, None),
        (SKY | {"CDELT1": 1.0, "CDELT2": 1.0}, None),  # a degree: never of a lens
        (SKY | {"CD1_1": "a", "CD2_2": 0.1}, None),
        (SKY | {"CDELT1": 0.0, "CDELT2": 0.0}, None),
        ({"PIXSCALE": "0.262"}, 0.262),
        ({"PIXSCALE": "0.262 arcsec/pixel"}, 0.262),
        ({"PIXSCALE": 0.05 / 3600}, 0.05),
        ({"PIXSCALE": "40 mas"}, 0.04),
        ({"PIXSCALE": "7 mm"}, None),
        ({"PIXSCALE": True}, None),
        ({"D001SCAL": 0.03}, 0.03),
        ({"PIXSCAX": 0.1, "PIXSCAY": 0.1}, 0.1),
        ({"SECPIX": 0.4}, 0.4),
        ({"PIXSCAL1": 0.2}, 0.2),
        ({"PIXAR_A2": 0.03**2}, 0.03),
    ],
)
def test_pixel_scale(tmp_path, header, expected):
    for place in ("own", "primary"):
        own, primary = (header, None) if place == "own" else ({}, header)
        path = written(tmp_path / "a.fits", ("SCI", IMAGE, own), header=primary)
        for found in (read_picture(path), read_observation(path)):
            assert found.pixel_scale == (expected and pytest.approx(expected, rel=1e-6))
    assert read_observation(path, pixel_scale=0.7).pixel_scale == 0.7


def test_pixels_that_are_not_square(tmp_path):
    for ratio, expected in ((1.005, None), (1.04, "taken for square")):
        header = SKY | {"CDELT1": -0.05 / 3600, "CDELT2": 0.05 * ratio / 3600}
        path = written(tmp_path / "a.fits", ("SCI", IMAGE, header))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert read_picture(path).pixel_scale == pytest.approx(0.05 * ratio**0.5)
        assert [expected in str(w.message) for w in told] == [True] * (expected is not None)
    header["CDELT2"] *= 2
    path = written(tmp_path / "a.fits", ("SCI", IMAGE, header))
    with pytest.raises(InputError, match=r"a\.fits: has pixels of 0\.05 x 0\.104 arcsec"):
        read_picture(path)
    assert read_observation(path, pixel_scale=0.05).pixel_scale == 0.05


def test_a_psf_of_other_pixels_is_refused(tmp_path):
    path = written(tmp_path / "a.fits", ("SCI", IMAGE, {"PIXSCALE": 0.05}))
    written(tmp_path / "psf.fits", primary=KERNEL, header={"PIXSCALE": 0.0125})
    with pytest.raises(InputError, match=r"psf: has pixels of 0\.0125 arcsec; expected .* 0\.05"):
        read_observation(path, psf=tmp_path / "psf.fits")


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("electrons/s", "electron/s"),
        ("ELECTRONS/S", "electron/s"),
        ("electron s-1", "electron/s"),
        ("e-/sec", "electron/s"),
        ("ELECTRONS", "electron"),
        ("COUNTS", "counts"),
        ("counts/s", "counts/s"),
        ("cps", "counts/s"),
        ("DN", "DN"),
        ("ADU", "adu"),
        ("nanomaggies", "nanomaggy"),
        ("MJy/sr", "MJy/sr"),
        ("  ", None),
    ],
)
def test_units(tmp_path, text, unit):
    path = written(tmp_path / "a.fits", ("SCI", IMAGE, {"BUNIT": text}))
    assert read_observation(path).unit == unit
    path = written(tmp_path / "a.fits", ("SCI", IMAGE), header={"BUNIT": text})
    assert read_observation(path).unit == unit


def test_keywords_that_cannot_be_read_tell_nothing(tmp_path):
    header = {"BUNIT": "counts", "PIXSCALE": 0.05, "D001SCAL": 0.04}
    path = written(tmp_path / "a.fits", ("SCI", IMAGE, header))
    content = path.read_bytes()
    for card in (b"BUNIT   = 'counts  '", b"PIXSCALE=                 0.05"):
        assert card in content
        content = content.replace(card, card[:10] + b"\x01" + card[11:])
    path.write_bytes(content)
    found = read_observation(path)
    assert (found.unit, found.pixel_scale) == (None, 0.04)


# ------------------------------------------------------------------------------ headers that lie


def test_headers_that_lie_are_refused_before_anything_is_made(tmp_path, monkeypatch):
    content = written(tmp_path / "a.fits", primary=IMAGE).read_bytes()
    for size in (b"9999999", b"  65536"):
        lie = content.replace(b"NAXIS1  =                   40", b"NAXIS1  = " + size.rjust(20))
        with pytest.raises(InputError, match=r"a\.fits: .*(declares an array|truncated)"):
            read_image("a.fits", lie)
    packed = io.BytesIO()
    fits.CompImageHDU(IMAGE, name="SCI").writeto(packed)
    lie = packed.getvalue()
    for axis in (b"1", b"2"):
        card = b"ZNAXIS" + axis + b" =                   40"
        assert card in lie
        lie = lie.replace(card, card[:-7] + b"  30000")
    with pytest.raises(InputError, match="declares an array"):
        read_image("a.fits.fz", lie)
    with pytest.raises(InputError, match="no end of header 0"):
        read_image("a.fits", content[:80] + (b"COMMENT " + b"x" * 72) * 20000 + content[80:])
    monkeypatch.setattr(foreign, "MAX_BYTES", 1 << 20)
    with pytest.raises(InputError, match="has over 1048576 bytes"):
        read_image("a.fits.gz", gzip.compress(content + bytes(1 << 20)))

"""Image files read against arrays made by hand; files that are none of them."""

import bz2
import gzip
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from astropy.io import fits
from files import encoded, fits_bytes, npy, npz, pair, tar

from vitdm.data.readers import (
    fill_missing,
    load_images,
    load_observations,
    members,
    read_image,
    read_observation,
    read_observations,
    read_picture,
    suffix_of,
)
from vitdm.errors import InputError

RAMP = np.arange(12).reshape(3, 4)
REAL = Path(os.environ.get("VITDM_REAL_DATA", Path(__file__).resolve().parents[3] / "shared/data"))
RGB = np.stack([RAMP, RAMP + 1, RAMP + 5], -1)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("grey.png", encoded(".png", RAMP.astype("u1")), RAMP),
        ("deep.PNG", encoded(".png", (RAMP * 5000).astype("u2")), RAMP * 5000),
        ("colour.png", encoded(".png", RGB.astype("u1")), RAMP + 2),
        ("alpha.png", encoded(".png", np.dstack([RGB, 255 - RAMP]).astype("u1")), RAMP + 2),
        ("flat.jpeg", encoded(".jpg", np.full((16, 16, 3), 77, "u1")), np.full((16, 16), 77)),
        ("deep.tif", encoded(".tif", (RAMP * 5000).astype("u2")), RAMP * 5000),
        ("counts.tiff", encoded(".tiff", (RAMP / 8 - 0.5).astype("f4")), RAMP / 8 - 0.5),
        ("plain.npy", npy(RAMP.astype("f8")), RAMP),
        ("unit.npy", npy(RAMP / 16), RAMP / 16),
        ("channel.npy", npy(RAMP[None]), RAMP),
        ("last.npy", npy(RAMP[..., None]), RAMP),
        ("rgb.npy", npy(RGB), RAMP + 2),
        ("big_endian.npy", npy(RAMP.astype(">f4")), RAMP),
        ("fortran.npy", npy(np.asfortranarray(RAMP)), RAMP),
        ("axion.npy", pair(RAMP.astype("f8"), 1e-23), RAMP),
        ("sky.fits", fits_bytes(RAMP.astype(">f4")), RAMP),
        ("sky.fit", fits_bytes(RAMP.astype("i2")), RAMP),
        ("channel.fits", fits_bytes(RAMP[None].astype("i2")), RAMP),
        ("second.fits", fits_bytes(None, RAMP), RAMP),
        ("sky.fts", fits_bytes(RAMP, RAMP + 1), RAMP),
        ("packed.fits.bz2", bz2.compress(fits_bytes(RAMP.astype("f8"))), RAMP),
        ("packed.fits.gz", gzip.compress(fits_bytes(RAMP.astype("f8"))), RAMP),
    ],
)
def test_read_image(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    for image in (read_image(tmp_path / name), read_image(name, content)):
        assert image.dtype == np.float32 and image.dtype.isnative and image.flags.c_contiguous
        np.testing.assert_array_equal(image, expected)


def test_compressed_fits_and_blank_pixels(tmp_path):
    counts = np.arange(400, dtype="i4").reshape(20, 20)
    fits.CompImageHDU(counts).writeto(tmp_path / "a.fits.fz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits.fz"), counts)
    image = read_image("a.fits", fits_bytes(RAMP.astype("i2"), header={"BLANK": 5}))
    np.testing.assert_array_equal(image, np.where(RAMP == 5, np.nan, RAMP))


def turned(scale, angle):
    """A CD matrix [deg] of square pixels of so many arcsec, as astronomers have it: east left."""
    cos, sin = np.cos(angle) * scale / 3600, np.sin(angle) * scale / 3600
    return {"CD1_1": -cos, "CD1_2": sin, "CD2_1": sin, "CD2_2": cos}


SKY = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 216.0, "CRVAL2": 54.0}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (SKY | {"CDELT1": -0.25 / 3600, "CDELT2": 0.25 / 3600}, 0.25),
        (SKY | turned(0.04, 0.7), 0.04),
        ({"PIXSCALE": 0.262}, 0.262),
        ({"PIXSCALE": "unknown"}, None),
        (SKY | {"CTYPE1": "no projection"}, None),
        ({"CDELT1": 1.0, "CDELT2": 1.0}, None),  # of what is not told
        ({}, None),
    ],
)
def test_pixel_scale_of_a_fits_header(header, expected):
    content = fits_bytes(RAMP.astype("f4"), header=header)
    assert read_picture("a.fits", content).pixel_scale == pytest.approx(expected)
    assert read_picture("a.npy", npy(RAMP)).pixel_scale is None


def test_axion_mass_is_read_with_the_image():
    picture = read_picture("axion_sim_1.npy", pair(RAMP[None] * 1.0, np.float64(3e-23)))
    np.testing.assert_array_equal(picture.pixels, RAMP)
    assert picture.axion_mass == 3e-23
    assert read_picture("cdm_sim_1.npy", npy(RAMP)).axion_mass is None


def test_missing_pixels_stay_until_filled():
    image = np.array([[1.0, np.nan, 3.0], [8.0, np.inf, 2.0]])
    read = read_image("a.npy", npy(image))
    np.testing.assert_array_equal(read, image)
    filled = fill_missing(read, "a.npy")
    np.testing.assert_array_equal(filled, [[1, 2.5, 3], [8, 2.5, 2]])
    with pytest.raises(InputError, match=r"a\.npy: no pixel has a finite value"):
        fill_missing(np.full((3, 3), np.nan), "a.npy")


# ------------------------------------------------------------------------------ broken files


NOISE = np.random.default_rng(1).integers(0, 255, (64, 64)).astype("u1")
PICTURES = {suffix: encoded(suffix, NOISE) for suffix in (".jpg", ".png", ".tif")}
PICTURES |= {".npy": npy(NOISE), ".fits": fits_bytes(NOISE.astype("f4"))}
PICTURES |= {".fits.gz": gzip.compress(PICTURES[".fits"])}


@pytest.mark.parametrize("suffix", PICTURES)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_truncated_or_foreign_files_are_refused(suffix, kept, capfd):
    whole = PICTURES[suffix]
    assert read_image("whole" + suffix, whole).shape == (64, 64)
    with pytest.raises(InputError, match=f"half{suffix}: ." if kept else "is empty"):
        read_image("half" + suffix, whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=f"page{suffix}: ."):
        read_image("page" + suffix, b"<html>not found</html>" * 99)
    assert capfd.readouterr() == ("", "")  # libraries keep their comments to themselves


def test_truncation_is_found_where_the_decoder_does_not_tell(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: NOISE)  # as OpenCV 4 does with a grey rest
    for suffix in (".jpg", ".png"):
        assert read_image("a" + suffix, PICTURES[suffix]).shape == (64, 64)
        with pytest.raises(InputError, match="truncated"):
            read_image("a" + suffix, PICTURES[suffix][:-20])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy(np.zeros((5, 3, 4))), r"shape \(5, 3, 4\)"),
        (npy(np.zeros(7)), r"shape \(7,\)"),
        (npy(np.zeros((0, 4))), r"shape \(0, 4\)"),
        (npy(np.array([["a", "b"], ["c", "d"]])), "real numbers"),
        (npy(RAMP * 1j), "real numbers"),
        (npz(data=RAMP, label=1), "npz archive"),
        (b"\x93NUMPY\x09\x00" + npy(RAMP)[8:], "unknown version"),
    ],
)
def test_arrays_that_are_no_image_are_refused(content, reason):
    with pytest.raises(InputError, match=r"x\.npy: .*" + reason):
        read_image("x.npy", content)


def test_a_file_too_large_for_an_image_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("vitdm.data.foreign.MAX_BYTES", 100)
    tar(tmp_path / "in.tar", {"a.npy": npy(RAMP)}, "w")
    for path in (tmp_path / "in.tar", tmp_path):
        with pytest.raises(InputError, match="has over 100 bytes; too large for an image"):
            [member.read() for member in members(path)]


# ------------------------------------------------------------------------------ several files


def test_load_images(tmp_path):
    names = ("sub/0.npy", "sub/1.npy", "no_sub/0.npy", "gap.npy")
    for i, name in enumerate(names):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(npy(RAMP + i))
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "._0.npy").write_bytes(b"resource fork")
    (tmp_path / "in" / "gap.npy").write_bytes(npy(np.array([[np.nan, 4.0], [4.0, 4.0]])))
    single = tmp_path / "in" / "sub" / "1.npy"
    found = list(load_images([tmp_path / "in", single]))
    assert [path for path, _ in found] == [tmp_path / "in" / n for n in (*sorted(names), single)]
    assert found[-1][1][0, 0] == 1
    np.testing.assert_array_equal(dict(found)[tmp_path / "in" / "gap.npy"], np.full((2, 2), 4))
    (tmp_path / "empty").mkdir()
    for path, reason in (
        ("empty", "no image"),
        ("gone.npy", "does not exist"),
        ("in/notes.txt", "unknown kind"),
    ):
        with pytest.raises(InputError, match=f"{path}: .*{reason}"):
            load_images([tmp_path / path])  # at once, before anything is read


def test_real_images_are_read():
    if not REAL.is_dir():
        pytest.skip(f"real images absent: {REAL}")
    files = [path for path in REAL.rglob("*") if suffix_of(path.name)]
    read = dict(load_images([REAL]))
    assert set(read) == set(files) and len(files) > 40
    sides = {"hst_slacs": 100, "panstarrs_i": 120, "deeplense_binary": 150}
    sides |= {"deeplense_threeclass": 150}  # others have sides of their own
    for path, image in read.items():
        side = sides.get(path.relative_to(REAL).parts[0], len(image))
        assert image.shape == (side, side) and np.isfinite(image).all(), path
        assert image.std() > 0
    path = next(path for path in files if path.suffix == ".fits" and "panstarrs_i" in path.parts)
    content = path.read_bytes()
    start = (content.find(b"END" + b" " * 77) // 2880 + 1) * 2880  # the pixels follow the header
    raw = np.frombuffer(content, ">f4", 120 * 120, start)
    np.testing.assert_array_equal(read_image(path).ravel(), raw)
    assert read_picture(path).pixel_scale == pytest.approx(0.25)  # Pan-STARRS sky cells


# ---------------------------------------------------------------------------------------- stacks

STACK = np.random.default_rng(1).normal(100, 1, (4, 20, 21)).astype("f4")
COLOURED = STACK[..., None].repeat(3, -1).astype("u1")


def written_stack(path):
    """Write ``STACK`` to a file of the kind that its name tells."""
    if path.suffix == ".fits":
        fits.PrimaryHDU(STACK).writeto(path)
    elif path.suffix == ".npy":
        np.save(path, STACK[:, None] if path.stem == "channel" else STACK)
    else:
        pages = list(COLOURED) if path.stem == "colour" else list(STACK)
        cv2.imwritemulti(str(path), pages)
    return path


@pytest.mark.parametrize("name", ["a.npy", "channel.npy", "a.fits", "a.tif", "colour.tif"])
def test_a_stack_is_as_many_images(tmp_path, name):
    path = written_stack(tmp_path / name)
    found = read_observations(path)
    assert [image.name for image in found] == [f"{path}[{k}]" for k in range(4)]
    expected = COLOURED.mean(-1) if name == "colour.tif" else STACK
    for image, plane in zip(found, expected, strict=True):
        np.testing.assert_allclose(image.data, plane, rtol=1e-6)
    assert [place for place, _ in load_observations([path])] == [path] * 4
    (one,) = read_observations(path, band=2)
    assert one.name == str(path) and same(one, read_observation(path, band=2))
    np.testing.assert_allclose(one.data, expected[2], rtol=1e-6)
    with pytest.raises(InputError, match="choose one of its 4 bands"):
        read_observation(path)


def same(one, other):
    return np.array_equal(one.data, other.data, equal_nan=True)


def test_noise_psf_and_mask_of_a_stack(tmp_path):
    """A map of each image, or one of all of them; in the file, in another file, as an array."""
    rms, mask = 1 + np.abs(STACK), STACK > 101
    hdus = [fits.PrimaryHDU(STACK), fits.ImageHDU(rms, name="ERR")]
    fits.HDUList([*hdus, fits.ImageHDU(np.ones((3, 3)), name="PSF")]).writeto(tmp_path / "a.fits")
    np.save(tmp_path / "rms.npy", rms)
    np.save(tmp_path / "stack.npy", STACK)
    for found in (
        read_observations(tmp_path / "a.fits"),
        read_observations(tmp_path / "stack.npy", noise=tmp_path / "rms.npy", psf=np.ones((3, 3))),
        read_observations(tmp_path / "stack.npy", noise=rms, psf=np.ones((3, 3)), mask=mask),
    ):
        for k, image in enumerate(found):
            np.testing.assert_array_equal(image.noise, rms[k])
            assert image.psf.shape == (3, 3)
    for image, masked in zip(found, mask, strict=True):
        np.testing.assert_array_equal(image.mask, masked)
    found = read_observations(tmp_path / "stack.npy", noise=rms[0])
    assert all(np.array_equal(image.noise, rms[0]) for image in found)
    with pytest.raises(InputError, match=r"stack\.npy\[0\]: noise: found a map of shape \(2, 2\)"):
        read_observations(tmp_path / "stack.npy", noise=np.ones((2, 2)))


def test_what_is_no_stack(tmp_path):
    """One image, colour, and planes that a header calls bands or steps of a wavelength."""
    np.save(tmp_path / "one.npy", STACK[:1])
    np.save(tmp_path / "colour.npy", COLOURED[0])
    for name in ("one.npy", "colour.npy"):
        (found,) = read_observations(tmp_path / name)
        assert found.name == str(tmp_path / name) and found.shape == (20, 21)
    for key, value in (("BANDS", "griz"), ("BAND0", "g"), ("CTYPE3", "WAVE")):
        path = tmp_path / f"{key}.fits"
        fits.PrimaryHDU(STACK, fits.Header({key: value})).writeto(path)
        with pytest.raises(InputError, match="choose one of its 4 bands"):
            read_observations(path)
        assert len(read_observations(path, band=1)) == 1


def test_pages_of_a_tiff_that_do_not_match_or_are_damaged(tmp_path):
    path = tmp_path / "a.tif"
    cv2.imwritemulti(str(path), [STACK[0], STACK[1, :10]])
    with pytest.raises(InputError, match=r"TIFF of 2 pages that differ \(10 x 21, 20 x 21\)"):
        read_observations(path)
    content = written_stack(tmp_path / "b.tif").read_bytes()
    for end in range(8, len(content) - 8, 499):
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match=r"a\.tif: "):
            read_observations(path)
    path.write_bytes(content[: len(content) // 2])  # within the pointer from page 1 to page 2
    with pytest.raises(InputError, match="is a truncated TIFF: page 1 cannot be read"):
        read_observations(path)

"""Files damaged in thousands of ways: each gives an image or an InputError, in little memory.

``VITDM_FUZZ=100000 pytest tests/library/test_fuzz_readers.py`` tries so many new ones of each kind.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pickle
import struct
import warnings

import cv2
import numpy as np
import pytest
from astropy.io import fits
from files import encoded, fits_bytes, npy, npz, pair, tar, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import bounded

from vitdm.data.observation import Observation
from vitdm.data.readers import members, read_observation, read_picture
from vitdm.errors import InputError

N = int(os.environ.get("VITDM_FUZZ", 0))
FUZZ = settings(
    max_examples=N or 120,
    derandomize=not N,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NOISE = np.random.default_rng(1).integers(0, 255, (24, 20)).astype("u1")


def several(pack=fits.ImageHDU):
    """A FITS file of a science image with noise, mask and PSF."""
    image, stream = NOISE.astype("f4"), io.BytesIO()
    header = fits.Header({"CD1_1": -1e-5, "CD2_2": 1e-5, "CTYPE1": "RA---TAN", "BUNIT": "counts"})
    hdus = [pack(image, header, name="SCI"), pack(image + 1, name="ERR")]
    hdus += [fits.ImageHDU(NOISE, name="DQ"), fits.ImageHDU(image[:5, :5] + 1, name="PSF")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(stream)
    return stream.getvalue()


def tiff(*options):
    return cv2.imencode(".tif", NOISE.astype("u2") * 99, options)[1].tobytes()


SKY = fits_bytes(NOISE.astype("i2"))
FILES = {
    "a.npy": npy(NOISE.astype(">f4")),
    "pair.npy": pair(NOISE, 1e-23),
    "old.npy": npy(NOISE)[:10] + pickle.dumps(np.array([NOISE, 1e-23], object), 0),
    "sky.fits": SKY,
    "several.fits": several(),
    "packed.fits.fz": several(fits.CompImageHDU),
    "sky.fits.gz": gzip.compress(SKY),
    "sky.fits.bz2": bz2.compress(SKY),
    "sky.fit": lzma.compress(SKY),
    "a.png": encoded(".png", NOISE),
    "colour.png": encoded(".png", np.dstack([NOISE] * 4).astype("u2") * 99),
    "a.jpg": encoded(".jpg", NOISE),
    "progressive.jpg": cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    "plain.tif": tiff(cv2.IMWRITE_TIFF_COMPRESSION, 1),
    "lzw.tif": tiff(),
    "deflated.tif": tiff(cv2.IMWRITE_TIFF_COMPRESSION, 8),
    "float.tif": encoded(".tif", NOISE.astype("f4")),
}
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 1 << 24, (1 << 31) - 1, (1 << 32) - 1]
TEXTS = [
    b"9" * 9,
    b"-1",
    b"nan",
    b"'",
    b"((((",
    b"{",
    b"\x00",
    b"\n",
    b"END" + b" " * 77,
    b"\xff\xda",
]
WHERE = st.floats(0, 1, exclude_max=True)
EDIT = st.one_of(
    st.tuples(st.just("flip"), WHERE, st.integers(0, 7)),
    st.tuples(st.just("number"), WHERE, st.sampled_from(NUMBERS), st.sampled_from("BHI<")),
    st.tuples(st.just("text"), WHERE, st.sampled_from(TEXTS) | st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("digit"), WHERE, st.integers(0, 9)),
    st.tuples(st.just("cut"), WHERE, WHERE),
    st.tuples(st.just("double"), WHERE, WHERE),
    st.tuples(st.just("end"), WHERE),
)


def damaged(content, edits):
    """Apply edits (kind, place, …) to bytes; places are fractions, small ones in the header."""
    data = bytearray(content)
    for kind, place, *more in edits:
        at = int(place**2 * len(data))
        if kind == "flip" and data:
            data[at] ^= 1 << more[0]
        elif kind == "number":
            form = {"B": "B", "H": ">H", "I": ">I", "<": "<I"}[more[1]]
            number = struct.pack(form, more[0] & (256 ** struct.calcsize(form) - 1))
            data[at : at + len(number)] = number
        elif kind == "text":
            data[at : at + len(more[0])] = more[0]
        elif kind == "digit":  # of the numbers in headers
            digits = [k for k in range(min(len(data), 9000)) if 48 <= data[k] < 58]
            if digits:
                data[digits[int(place * len(digits))]] = 48 + more[0]
        elif kind == "cut":
            del data[at : at + 1 + int(more[0] * 40)]
        elif kind == "double":
            data[at:at] = data[at : at + 1 + int(more[0] * 200)]
        elif kind == "end":
            del data[at:]
    return bytes(data)


@pytest.fixture(autouse=True)
def limits(capfd):
    with bounded(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pixels that are not square, of odd weights
        yield
    assert capfd.readouterr() == ("", "")  # libraries keep their comments to themselves


def refused(name, error):
    text = str(error)
    assert text.startswith(f"{name}: ") and len(text) < 1000 and "\n" not in text
    assert "emory" not in text, text  # it asked for too much, before it knew
    return True


@pytest.mark.parametrize("name", FILES)
@FUZZ
@given(edits=st.lists(EDIT, min_size=1, max_size=4))
def test_damaged_images(name, edits):
    content = damaged(FILES[name], edits)
    try:
        picture = read_picture(name, content)
    except InputError as error:
        assert refused(name, error)
    else:
        pixels = picture.pixels
        assert pixels.ndim == 2 and min(pixels.shape) >= 2 and pixels.dtype == np.float32
        assert picture.pixel_scale is None or 1e-3 < picture.pixel_scale < 10


@FUZZ
@given(edits=st.lists(EDIT, min_size=1, max_size=4))
def test_damaged_observations(tmp_path, edits):
    path = tmp_path / "several.fits"
    path.write_bytes(damaged(FILES[path.name], edits))
    try:
        found = read_observation(path)
    except InputError as error:
        assert refused(path, error)
    else:
        assert isinstance(found, Observation) and not found.mask.all()


MEMBERS = {"sub/0.npy": npy(NOISE), "sub/1.png": FILES["a.png"], "no_sub/" + "x" * 120: b"page"}
MEMBERS["labels/y.npy"] = npz(label=np.eye(2))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_damaged_archives(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        zipped(path, MEMBERS)
    else:
        tar(path, MEMBERS, f"w:{kind[4:]}" if kind != "tar" else "w")
    whole = path.read_bytes()

    @FUZZ
    @given(edits=st.lists(EDIT, min_size=1, max_size=4))
    def read(edits):
        path.write_bytes(damaged(whole, edits))
        try:
            for member in members(path):
                with contextlib.suppress(InputError):
                    assert len(member.read()) < 1 << 20
        except InputError as error:
            assert refused(path, error)

    read()

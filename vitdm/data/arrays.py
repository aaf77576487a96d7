"""Images in .npy files: arrays of numbers, or DeepLense's pairs [image, axion_mass]."""

from __future__ import annotations

import io
import math
import warnings
from typing import BinaryIO

import numpy as np

from vitdm.data import foreign, unpickle

MAX_HEADER = 1 << 14  # bytes; NumPy itself refuses more than 10 000


def decode(content: bytes) -> tuple[np.ndarray, float | None]:
    """Return the array of a .npy file, of real numbers, and the axion mass [eV] beside it if any.

    ValueError for anything else, and for a header that promises more than there is.
    """
    if content.startswith(b"PK"):
        raise ValueError("is an npz archive of several arrays; expected one array per .npy file")
    stream, mass = io.BytesIO(content), None
    shape, dtype, fortran = npy_header(stream)
    if dtype.hasobject:
        array, mass = unpickle.image_and_mass(stream)
    else:
        left = len(content) - stream.tell()
        foreign.check_array(shape, dtype.itemsize, left)
        array = np.frombuffer(content, dtype, math.prod(shape), stream.tell())
        array = array.reshape(shape, order="F" if fortran else "C")
    if array.dtype.kind not in "biuf":
        found = str(array.dtype)[:40]
        raise ValueError(f"found values of type {found}; expected real numbers")
    return array, mass


def npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype, bool]:
    """Read the header of a .npy file: shape, type and whether its order is Fortran's.

    The stream, which must be one that can seek, then stands at the values. ValueError for another
    file, and for a header of more than MAX_HEADER bytes.
    """
    start = stream.tell()
    head = io.BytesIO(stream.read(MAX_HEADER))
    if head.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
        raise ValueError("is not a NumPy file")
    read = {
        b"\1\0": np.lib.format.read_array_header_1_0,
        b"\2\0": np.lib.format.read_array_header_2_0,
    }.get(head.read(2))
    if read is None:
        raise ValueError("is a NumPy file of an unknown version")
    with warnings.catch_warnings():  # of Python 2's headers, and of what is no Python at all
        warnings.simplefilter("ignore")
        shape, fortran, dtype = read(head)
    stream.seek(start + head.tell())
    return shape, dtype, fortran

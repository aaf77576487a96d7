"""Object arrays ``[image, axion_mass]``, read without running anything that their pickle asks for.

NumPy stores an array of objects as a pickle, and a pickle is a program: it names functions of any
module and calls them. Here it can name only what NumPy itself writes for arrays and numbers, and
each of these names stands for a function of this page, which does nothing but interpret bytes as
numbers. Any other name ends the reading.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

from vitdm.data import foreign

MAX_MASS = 1e300  # eV; and no integer of a thousand digits
MAX_MEMO = MAX_OPCODES = 1 << 12  # an image and its mass need some 40 entries, 110 opcodes
# What NumPy's arrays are written with. No dict and no set: hashing a key takes for ever if it is
# a tuple of the same tuple twice, and so on.
_OPCODES = re.compile(
    "FRAME|PROTO|STOP|MARK|NONE|GLOBAL|STACK_GLOBAL|REDUCE|BUILD|MEMOIZE|(LONG_|)(BIN|)(GET|PUT)|"
    "(EMPTY_|)(LIST|TUPLE[123]?)|APPENDS?|NEWTRUE|NEWFALSE|INT|LONG1?|FLOAT|BININT[12]?|BINFLOAT|"
    "(SHORT_|)BINBYTES8?|BYTEARRAY8|(SHORT_|)(BIN|)(STRING|UNICODE)8?"
)


def image_and_mass(stream: BinaryIO) -> tuple[np.ndarray, float]:
    """Return the image and the axion mass [eV] of the pickle that ``stream`` stands at.

    Raises ValueError, with the reason, for any other content.
    """
    value = getattr(_load(stream.read()), "value", None)
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("is an object array; expected numbers, or the pair [image, axion_mass]")
    image, mass = (getattr(entry, "value", entry) for entry in value)
    if not isinstance(image, np.ndarray):
        raise ValueError(f"first object is {type(image).__name__}; expected [image, axion_mass]")
    if isinstance(mass, np.ndarray) and mass.size == 1:
        mass = mass.item()
    if not isinstance(mass, (int, float)) or not 0 < mass < MAX_MASS:
        # Never the repr of an unknown object: lists of the same list twice would fill memory.
        found = f"{mass!r:.40}" if isinstance(mass, (int, float, str)) else type(mass).__name__
        found = f"array of shape {mass.shape}" if isinstance(mass, np.ndarray) else found
        raise ValueError(f"axion mass: found {found}; expected a positive number")
    return image, float(mass)


def _load(content: bytes) -> Any:
    try:
        for n, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if n > MAX_OPCODES or not _OPCODES.fullmatch(opcode.name):
                raise pickle.UnpicklingError(f"it has {opcode.name}, opcode {n}, refused")
            # The memo grows to the largest number put there, however few entries it has.
            if "PUT" in opcode.name and argument > MAX_MEMO:
                raise pickle.UnpicklingError("its memo is too large")
        return _Restricted(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # whatever a damaged or malicious pickle makes of it
        reason = foreign.reason_of(error)
        raise ValueError(f"is an object array that cannot be read safely: {reason}") from error


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        admitted = _ADMITTED.get((re.sub(r"^numpy\._core\.", "numpy.core.", module), name))
        if admitted is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not admitted")
        return admitted


class _Name:
    """What a name in a pickle stands for: it can be called, not changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Array:
    """An array: made empty, then given its state. ``value`` is an array of numbers, or a list."""

    __slots__ = ("value",)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if isinstance(content, list):
            self.value = content
        else:
            self.value = _numbers(content, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """The type of an array: made from its name, then given its byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: str) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


def _numbers(content: Any, dtype: _Dtype, shape: Any, order: str = "C") -> np.ndarray:
    if isinstance(content, str):  # as Python 2 wrote bytes
        content = content.encode("latin1")
    if not re.fullmatch(r"[biuf]\d{1,2}", dtype.name) or dtype.order not in ("<", ">", "=", "|"):
        raise pickle.UnpicklingError(f"found values of type {dtype.name:.9}; expected real numbers")
    numbers = np.frombuffer(content, np.dtype(dtype.name).newbyteorder(dtype.order))
    return numbers.reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError("found an encoding of bytes; expected 'latin1'")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): _Name(lambda *_: _Array()),
    ("numpy", "dtype"): _Name(lambda name, *_: _Dtype(name)),
    ("numpy.core.multiarray", "_reconstruct"): _Name(lambda *_: _Array()),
    ("numpy.core.multiarray", "scalar"): _Name(lambda dtype, content: _numbers(content, dtype, ())),
    ("numpy.core.numeric", "_frombuffer"): _Name(_numbers),
    ("_codecs", "encode"): _Name(_encode),
}

"""Object arrays [image, mass]: each way NumPy writes them, and pickles that want more than that."""

import io
import os
import pickle
import struct
import subprocess

import numpy as np
import pytest
from files import npy, pair

from vitdm.data.readers import read_picture
from vitdm.data.unpickle import image_and_mass
from vitdm.errors import InputError

IMAGE = np.arange(6.0).reshape(2, 3)


def objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])  # NumPy 2 and 1
@pytest.mark.parametrize(
    "image",
    [IMAGE, np.asfortranarray(IMAGE), IMAGE.astype(">f4"), IMAGE.astype("u2"), IMAGE[None]],
    ids=["plain", "fortran", "big_endian", "integer", "channel"],
)
def test_pairs_of_every_protocol(protocol, module, image):
    for mass in (1e-23, np.float64(1e-23), np.array(1e-23), np.array([1e-23])):
        content = pickle.dumps(objects(image, mass), protocol)
        if protocol < 4:  # later ones tell the length of a name
            content = content.replace(b"numpy._core", module.encode())
        found, axion_mass = image_and_mass(io.BytesIO(content))
        np.testing.assert_array_equal(found, image)
        assert found.dtype == image.dtype and axion_mass == 1e-23


def test_names_of_numpy_1_in_a_file_of_today():
    """The names as NumPy 1 saves them, in the protocol of ``numpy.save``: their length counts."""
    content = pair(IMAGE, np.float64(2e-23))
    assert content.count(b"\x8c\x16numpy._core.multiarray") == 1
    frame = content.index(b"\x95") + 1
    (length,) = struct.unpack("<Q", content[frame : frame + 8])
    old = content[:frame] + struct.pack("<Q", length - 1) + content[frame + 8 :]
    old = old.replace(b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray")
    assert np.load(io.BytesIO(old), allow_pickle=True)[1] == 2e-23  # NumPy agrees
    picture = read_picture("axion_sim_1.npy", old)
    np.testing.assert_array_equal(picture.pixels, IMAGE)
    assert picture.axion_mass == 2e-23


def test_a_pair_that_python_2_wrote():
    """Python 2 had bytes as strings; opcode by opcode, as its cPickle wrote an array."""

    def array(shape, dtype, order, flags, content):
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        kind = b"cnumpy\ndtype\nU\x02" + dtype + b"K\x00K\x01\x87R"
        kind += b"(K\x03U\x01" + order + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K" + flags + b"tb"
        return made + b"(K\x01" + shape + kind + b"\x89" + content + b"tb"

    raw = IMAGE.tobytes()
    image = array(b"K\x02K\x03\x86", b"f8", b"<", b"\0", b"U" + bytes([len(raw)]) + raw)
    mass = b"G" + struct.pack(">d", 1e-23)
    content = array(b"K\x02\x85", b"O8", b"|", b"?", b"](" + image + mass + b"e")
    content = b"\x80\x02" + content + b"."
    np.testing.assert_array_equal(pickle.loads(content, encoding="latin1")[0], IMAGE)  # it is one
    found, axion_mass = image_and_mass(io.BytesIO(content))
    np.testing.assert_array_equal(found, IMAGE)
    assert axion_mass == 1e-23


class Call:
    """Pickles as the call of a function, with any state."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


MARKER = "VITDM_TEST_WAS_HERE"
SET = f"__import__('os').environ.__setitem__({MARKER!r}, '1')"
MALICIOUS = {
    "os.system": Call(os.system, (f"touch {MARKER}",)),
    "subprocess": Call(subprocess.getoutput, (f"touch {MARKER}",)),
    "eval": Call(eval, (SET,)),
    "exec": Call(exec, (SET,)),
    "import": Call(__import__, ("antigravity",)),
    "getattr": Call(getattr, (Call(__import__, ("os",)), "system")),
    "nested in the arguments": Call(np.dtype, (Call(eval, (SET,)), False, True)),
    "nested in a list": [1, [2, (3, {"a": Call(eval, (SET,))})]],
    "nested in a state": Call(np.dtype, ("f8", False, True), (3, Call(eval, (SET,)))),
    "numpy.load": Call(np.load, ("secret.npy", None, True)),
    "numpy.fromfile": Call(np.fromfile, ("/etc/passwd",)),
    "numpy.memmap": Call(np.memmap, ("victim", "u1", "w+", 0, 10)),
    "numpy.ndarray.tofile": Call(np.ndarray.tofile, (IMAGE, "victim")),
    "numpy.vectorize": Call(np.vectorize, (Call(eval, ("print",)),)),
    "ctypeslib": Call(np.ctypeslib.load_library, ("libc", "/lib")),
}


@pytest.fixture
def harmless(tmp_path, monkeypatch):
    """Check at the end that nothing ran: no file appeared, no variable was set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(MARKER, raising=False)
    yield
    assert list(tmp_path.iterdir()) == [] and MARKER not in os.environ


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", MALICIOUS)
def test_no_pickle_runs_anything(harmless, name, protocol):
    header = npy(objects(IMAGE, 1), allow_pickle=True)
    header = header[: header.index(b"\n") + 1]
    for value in (MALICIOUS[name], objects(IMAGE, MALICIOUS[name])):
        with pytest.raises(InputError, match=r"a\.npy: is an object array that cannot be read"):
            read_picture("a.npy", header + pickle.dumps(value, protocol))


NAME = b"\x8c%c%s\x8c%c%s\x93"


def named(module, name):
    return NAME % (len(module), module, len(name), name)


ARRAY = named(b"numpy._core.multiarray", b"_reconstruct")
HAND_MADE = {
    "dotted name": named(b"numpy", b"ndarray.tofile") + b")R.",
    "dotted module": named(b"numpy.f2py", b"compile") + b")R.",
    "attribute of a module": named(b"numpy._core.multiarray", b"os.system") + b")R.",
    "function reached through a module": named(b"numpy.lib._npyio_impl", b"load") + b")R.",
    "instance": b"(S'touch here'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch here'\no.",
    "new object": b"cos\nsystem\n(S'touch here'\nt\x81.",
    "persistent": b"Pmodule\n.",
    "extension": b"\x82\x01.",
    "changed function": ARRAY + b"}\x8c\x08__code__K\x01sb.",
    "changed function, by its slots": ARRAY + b"N}\x8c\x08__code__K\x01s\x86b.",
    "called array": ARRAY + b")R)R.",
    "other encoding": named(b"_codecs", b"encode") + b"\x8c\x01a\x8c\x06base64\x86R.",
    "memory": b"Nr\xff\xff\xff\x7f.",
    "memory, in text": b"Np2147483647\n.",
    "endless": b"(" * 9999 + b"t" * 9998 + b".",
    "unfinished": b"]",
    "unknown": b"\xff.",
    "empty": b"",
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_programs_in_the_language_of_pickles(harmless, name):
    for start in (b"", b"\x80\x04"):
        with pytest.raises(ValueError, match="object array"):
            image_and_mass(io.BytesIO(start + HAND_MADE[name]))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (objects(IMAGE), "expected numbers, or the pair"),
        (objects(IMAGE, 1e-23, 2), "expected numbers, or the pair"),
        (objects(1e-23, IMAGE), "first object is float"),
        (objects(IMAGE, IMAGE), "axion mass: found array"),
        (objects(IMAGE, "heavy"), "axion mass: found 'heavy'"),
        (objects(IMAGE, -1.0), "axion mass: found -1.0; expected a positive number"),
        (objects(IMAGE, np.nan), "axion mass: found nan"),
        (objects(IMAGE * 1j, 1e-23), "values of type c16; expected real numbers"),
        (objects(objects(1, 2), 1e-23), "first object is list"),
    ],
)
def test_other_objects_are_refused(value, reason):
    with pytest.raises(InputError, match=r"a\.npy: .*" + reason):
        read_picture("a.npy", npy(value, allow_pickle=True))


def test_shapes_that_lie_are_refused():
    content = pickle.dumps(objects(IMAGE, 1e-23), 2)
    assert content.count(b"K\x02K\x03\x86") == 1
    with pytest.raises(ValueError, match="reshape"):
        image_and_mass(io.BytesIO(content.replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86")))

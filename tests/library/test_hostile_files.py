"""Files that were made to fill memory, to hang, or to be something else than a file."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import struct
import tarfile
import zlib

import cv2
import numpy as np
import pytest
from files import encoded, npy, tar, zipped
from memory import bounded

from vitdm.data import foreign
from vitdm.data.archives import members
from vitdm.data.readers import load_images, load_observations, read_image, read_observation
from vitdm.errors import InputError

IMAGE = np.arange(64.0).reshape(8, 8)
FIFO = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


@pytest.fixture(autouse=True)
def little_memory():
    with bounded(1 << 29):
        yield


def refuses(name, content, reason):
    with pytest.raises(InputError, match=reason) as error:
        read_image(name, content)
    text = str(error.value)
    assert text.startswith(f"{name}: ") and len(text) < 600 and "emory" not in text
    return True


# ----------------------------------------------------------------------- headers of pictures lie


def png(width, height, bits=16, colour=6):
    def chunk(kind, content):
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("size", [(30000, 30000), (8000, 5000), (1 << 31, 2), (3, 1 << 30)])
def test_pictures_whose_headers_lie(size):
    width, height = size
    assert refuses("a.png", png(width, height), "declares an array of shape")
    jpeg = encoded(".jpg", np.zeros((8, 8), "u1"))
    start = jpeg.index(b"\xff\xc0") + 5
    huge = struct.pack(">HH", height & 0xFFFF or 65535, width & 0xFFFF or 65535)
    if min(height, width) > 3:
        assert refuses("a.jpg", jpeg[:start] + huge + jpeg[start + 4 :], "declares an array")
    tiff = encoded(".tif", np.zeros((8, 8), "u2"))
    for tag, value in ((256, width), (257, height)):
        entry = tiff.index(struct.pack("<HH", tag, 3)) if struct.pack("<HH", tag, 3) in tiff else -1
        entry = entry if entry >= 0 else tiff.index(struct.pack("<HH", tag, 4))
        lie = struct.pack("<HHII", tag, 4, 1, value)
        tiff = tiff[:entry] + lie + tiff[entry + 12 :]
    assert refuses("a.tif", tiff, "declares an array of shape")


def test_pictures_that_are_large_and_honest_are_read():
    image = np.zeros((3000, 2000), "u1")
    image[5, 7] = 9
    for suffix in (".png", ".tif"):
        assert read_image("a" + suffix, encoded(suffix, image))[5, 7] == 9


def test_the_largest_image():
    foreign.check_array((5000, 6000), 8, 1 << 29)
    for shape, itemsize in (((5000, 8000), 1), ((8000, 3, 5000), 1), ((3, 5000, 6000), 8)):
        with pytest.raises(ValueError, match="too large for an image"):
            foreign.check_array(shape, itemsize, 1 << 40)


def test_half_a_jpeg_with_an_end_is_damaged(capfd):
    noise = np.random.default_rng(1).integers(0, 255, (64, 64)).astype("u1")
    jpeg = encoded(".jpg", noise)
    half = jpeg[: len(jpeg) // 2] + b"\xff\xd9"
    assert cv2.imdecode(np.frombuffer(half, "u1"), -1).shape == (64, 64)  # OpenCV takes it
    assert "premature end" in capfd.readouterr().err  # and says so in passing
    assert refuses("a.jpg", half, "damaged picture: premature end")
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_of_endless_scans():
    jpeg = cv2.imencode(".jpg", IMAGE.astype("u1"), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    start = jpeg.index(b"\xff\xda")
    assert refuses("a.jpg", jpeg[:start] + jpeg[start:-2] * 500 + jpeg[-2:], "over 100 scans")


def test_other_formats_are_not_decoded():
    for suffix in (".bmp", ".webp", ".pgm"):
        assert refuses("a.png", encoded(suffix, IMAGE.astype("u1")), "expected a JPEG, PNG or TIFF")


# ------------------------------------------------------------------------------ arrays and pickles


def header(descr="'<f8'", shape="(8, 8)"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (header(shape="(1000000, 1000000)"), "declares an array of shape"),
        (header(shape="(8, 9)"), "512 bytes are left in the file: it is truncated"),
        (header(shape="(-1, 8)"), "declares an array of shape"),
        (header(descr="('<f8', (9999, 9999))"), "declares an array"),
        (header(descr="('<f8', (99999, 99999))"), "."),
        (header(descr="[" + "('a', '<f8'), " * 3 + "]"), "."),
        (header(shape="(" * 300), "."),
        (header(shape="8" * 5000), "."),
        (header(shape="'''"), "."),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "."),
    ],
)
def test_arrays_whose_headers_lie(start, reason):
    assert refuses("a.npy", start + IMAGE.tobytes(), reason)


def nested(kind, depth=60):
    value = kind([1.0])
    for _ in range(depth):
        value = kind([value, value])
    return value


def test_objects_that_unfold_without_end():
    """A list of the same list twice, sixty times: its repr has 2^60 characters."""
    start = npy(np.array([1, None], object), allow_pickle=True)
    start = start[: start.index(b"\n") + 1]
    for kind in (list, tuple):
        for objects in ([IMAGE, nested(kind)], [nested(kind), 1e-23], [IMAGE, [nested(kind)] * 2]):
            value = np.empty(2, object)
            value[0], value[1] = objects
            content = start + pickle.dumps(value, 2)
            assert len(content) < 3000 and refuses("a.npy", content, ".")
    # The key of a dict is hashed, and a tuple by all that is in it, as often as it is in it.
    key = b"\x80\x02}K\x01\x85" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(60)) + b"K\x01s."
    assert refuses("a.npy", start + key, "it has EMPTY_DICT, opcode 1, refused")
    encode = b"c_codecs\nencode\n(V1\n]" + b"(h\x00h\x00l" * 3 + b"tR."
    assert refuses("a.npy", start + encode, "object array")
    assert refuses("a.npy", start + b"N0" * 5000 + b".", "opcode")


# ----------------------------------------------------------------------------- packed without end


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_that_unpack_without_end(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(foreign, "MAX_BYTES", 1 << 24)
    bomb = pack(bytes(1 << 26))
    assert len(bomb) < 1 << 17 and refuses("a.fits.gz", bomb, "has over 16777216 bytes")
    path = tar(tmp_path / "a.tar", {"a.npy": npy(IMAGE), "b.txt": bytes(1 << 26)}, "w")
    path.write_bytes(pack(path.read_bytes()))  # of a member that nobody wants
    with pytest.raises(InputError, match=r"a\.tar: .*unpacks to over"):
        list(members(path))
    path = zipped(tmp_path / "a.zip", {"a.npy": bytes(1 << 26)})
    for member in members(path):
        with pytest.raises(InputError, match=r"a\.npy: has over 16777216 bytes"):
            member.read()


def test_archives_whose_headers_lie(tmp_path):
    path = tmp_path / "a.tar.gz"
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 3_400_000_000
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 3_400_000_000
    for info in (name, pax):
        path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 22)))
        with pytest.raises(InputError, match=r"a\.tar\.gz: .*has a header of over 1048576 bytes"):
            list(members(path))
    first = tarfile.TarInfo("0.txt").tobuf() + name.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(gzip.compress(first + bytes(1 << 22)))  # behind a member that is well
    with pytest.raises(InputError, match=r"has a header of over 1048576 bytes"):
        list(members(path))
    sparse = tarfile.TarInfo("a.npy")
    sparse.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    block[386:398], block[398:410], block[483:495] = b"0" * 12, b"0" * 12, b"77777777777\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(bytes(block) + bytes(10240))
    with pytest.raises(InputError, match=r"member 'a\.npy' is a special file"):
        list(members(path))


def test_an_archive_that_is_damaged_in_the_middle_is_refused(tmp_path):
    path = tar(tmp_path / "a.tar", {f"{i}.npy": npy(IMAGE) for i in range(4)}, "w")
    whole = path.read_bytes()
    second = whole.index(b"2.npy")
    path.write_bytes(whole[:second] + b"\xff" * 100 + whole[second + 100 :])
    with pytest.raises(InputError, match="damaged, or no archive: found no header of a member"):
        list(members(path))  # else two images would be lost in silence


@pytest.mark.parametrize("kind", ["tar.xz", "txz", "tar.bz2", "tbz2", "tgz"])
def test_every_kind_of_archive(tmp_path, kind):
    mode = {"x": "w:xz", "b": "w:bz2", "g": "w:gz"}[kind.removeprefix("tar.").removeprefix("t")[0]]
    path = tar(tmp_path / f"a.{kind}", {"sub/0.npy": npy(IMAGE), "sub/1.npy": npy(IMAGE)}, mode)
    assert {m.name: m.read() == npy(IMAGE) for m in members(path)} == {
        "sub/0.npy": True,
        "sub/1.npy": True,
    }


# --------------------------------------------------------------------------- no files, and links


@FIFO
def test_pipes_and_devices_are_never_opened(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    os.mkfifo(folder / "a.fits")  # to open it would wait for ever
    os.symlink("/dev/zero", folder / "b.npy")
    os.mkfifo(tmp_path / "a.tar")
    for name, kind in (("a.fits", "a named pipe"), ("b.npy", "a device")):
        path = folder / name
        calls = [read_image, read_observation, lambda path: list(load_images([path]))]
        calls += [lambda path: list(load_observations([path]))]
        for call in calls:
            with pytest.raises(InputError, match=rf"{name}: is {kind}; expected a file"):
                call(path)
    for member in members(folder):
        with pytest.raises(InputError, match="expected a file"):
            member.read()
    with pytest.raises(InputError, match=r"a\.tar: .*is a named pipe; expected a file"):
        list(members(tmp_path / "a.tar"))
    np.save(tmp_path / "image.npy", IMAGE)
    with pytest.raises(InputError, match=r"a\.fits: is a named pipe"):
        read_observation(tmp_path / "image.npy", noise=folder / "a.fits")


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    with open(tmp_path / "a.fits", "wb") as stream:
        stream.truncate(foreign.MAX_BYTES + 1)  # sparse: it takes no place on the disk
    with bounded(1 << 30), pytest.raises(InputError, match=r"a\.fits: has over 536870912 bytes"):
        read_image(tmp_path / "a.fits")


def test_links_are_followed_but_not_in_circles(tmp_path):
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "0.npy").write_bytes(npy(IMAGE))
    data = tmp_path / "data"
    data.mkdir()
    for name, target in {"sub": pool, "twin": pool, "loop": data}.items():
        os.symlink(target, data / name)
    os.symlink(data, pool / "back")
    assert [member.name for member in members(data)] == ["sub/0.npy", "twin/0.npy"]
    assert [path.name for path, _ in load_images([data])] == ["0.npy", "0.npy"]


def test_folders_without_end(tmp_path):
    place = tmp_path
    for _ in range(foreign.MAX_DEPTH + 1):
        place = place / "a"
        place.mkdir()
    with pytest.raises(InputError, match="expected folders at most 64 deep"):
        list(members(tmp_path))


def test_a_stream_is_read_no_further_than_a_header_may_be():
    stream = foreign.Limited(io.BytesIO(bytes(1 << 22)), 1 << 21)
    assert len(stream.read(1 << 20)) == 1 << 20 and stream.tell() == 1 << 20
    with pytest.raises(ValueError, match="has a header of over"):
        stream.read(1)
    with pytest.raises(ValueError, match=r"unpacks to over 2.1e\+06 bytes"):
        stream.seek(1 << 22)

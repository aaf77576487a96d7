"""Files of images, made by hand, in the layouts in which DeepLense data sets lie on disk."""

import io
import json
import tarfile
import zipfile

import cv2
import numpy as np
import yaml
from astropy.io import fits

from vitdm.provenance import config_hash, sha256

SHAPE = (5, 6)


def picture(value, shape=SHAPE):
    """An image whose first pixel tells which it is; the others rise from it."""
    return (value + np.arange(np.prod(shape)).reshape(shape)).astype("u1")


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def fits_bytes(*arrays, header=None):
    stream = io.BytesIO()
    hdus = [fits.PrimaryHDU(arrays[0]), *(fits.ImageHDU(array) for array in arrays[1:])]
    hdus[-1].header.update(header or {})
    fits.HDUList(hdus).writeto(stream)
    return stream.getvalue()


def encoded(suffix, array):
    return cv2.imencode(suffix, array)[1].tobytes()


def pair(image, mass):
    """The content of an axion file of Model I: an array of two objects, which needs a pickle."""
    objects = np.empty(2, object)
    objects[:] = image, mass
    return npy(objects, allow_pickle=True)


def class_folders(names=("no_sub", "sub"), n=6, suffix=".npy", shape=SHAPE, first=0):
    """Return the files of n images a folder; pixel (0, 0) is 40 k + i for file i of folder k."""
    images = {
        f"{name}/{i}{suffix}": picture(40 * k + i, shape)
        for k, name in enumerate(names)
        for i in range(first, first + n)
    }
    return {
        name: npy(image) if suffix == ".npy" else encoded(suffix, image)
        for name, image in images.items()
    }


def folder(root, members):
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


KINDS = ("folder", "tgz", "tar.gz", "tar", "zip")


def stored(place, kind, members):
    """Write files to a folder, or straight into an archive, and return its path."""
    if kind == "folder":
        return folder(place / "in", members)
    path = place / f"in.{kind}"
    if kind == "zip":
        return zipped(path, members)
    return tar(path, members, "w" if kind == "tar" else "w:gz")


def signed(folder):
    """A run or data set whose files were changed, as if these had been written together."""
    path = folder / ("run.json" if (folder / "run.json").is_file() else "dataset.json")
    sidecar = json.loads(path.read_text())
    if path.name == "run.json":
        sidecar["config_sha256"] = config_hash(yaml.safe_load((folder / "config.yaml").read_text()))
    sidecar["outputs"] = {name: sha256(folder / name) for name in sidecar["outputs"]}
    path.write_text(json.dumps(sidecar))
    return folder

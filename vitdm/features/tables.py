"""The features of an image, and the table of those of a dataset (features.csv).

What each feature is stands in ``definitions``, how one of the image is measured in ``image``; those
of the groups ``lensfit`` and ``search`` join the table from the fits of lenses (``vitdm.lens``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from numpy.typing import ArrayLike

from vitdm.config import Features, Preprocess
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.features.definitions import LENSFIT, SEARCH, definitions
from vitdm.features.measured import Measured
from vitdm.features.registry import image_features
from vitdm.preprocess import Detection, Roi, detect, roi_of, stream
from vitdm.provenance import atomic, check_outputs, read_json, sidecar


def measure(
    image: ArrayLike,
    cut: Preprocess,
    features: Features,
    groups: Sequence[str] | None = None,
) -> dict[str, float]:
    """Measure the features of a raw image, (height, width) of any real numbers.

    ``cut`` says how light is told from noise, ``features`` what is measured. ``groups`` are those
    of ``features`` if not given; those of a fitted lens are not measured here.

    What has no value is NaN: separations of fewer than two bright regions, shapes where no light is
    found, ring features of light that lies on no circle. InputError if the image is no
    two-dimensional array of real numbers.
    """
    light = detect(image, cut)
    return measure_light(light, roi_of(light), features, groups)


def measure_light(
    light: Detection, roi: Roi, features: Features, groups: Sequence[str] | None = None
) -> dict[str, float]:
    """Measure the features of an image whose light and region are already found."""
    lens, values = Measured(light, roi), {}
    groups = features.groups if groups is None else groups
    for name, entry, level in image_features(groups, features.levels):
        if entry.needs is not None and getattr(lens, entry.needs) is None:
            values[name] = math.nan
        elif level is None:
            values[name] = entry.function(lens)
        else:
            values[name] = entry.function(lens, level)
    return {name: value if math.isfinite(value) else math.nan for name, value in values.items()}


def measure_dataset(
    dataset_folder: str | Path,
    out_csv: str | Path,
    cut: Preprocess,
    features: Features,
    fits: str | Path | None = None,
    progress: bool = True,
) -> None:
    """Measure every image of a dataset of raw images: a CSV of id and the features, and a sidecar.

    ``cut`` says how light is told from noise, ``features`` what is measured. A value that does not
    exist is an empty cell. With the group ``lensfit`` or ``search``, ``fits`` is the folder of
    the fits of the same dataset (``vitdm.lens``); of a fit that did not converge nothing is used.
    InputError if they are not given, or of other images.
    """
    started = time.time()
    source = dataset.Dataset.open(dataset_folder)
    source.check_raw()
    inputs = [Path(dataset_folder) / "images.npy", Path(dataset_folder) / "catalog.csv"]
    fitted, more = None, {}
    if of_fits := [group for group in ("lensfit", "search") if group in features.groups]:
        if fits is None:
            found = f"found {' and '.join(of_fits)}"
            raise InputError(f"features.groups: {found}; expected the folder of the fits, too")
        inputs.append(Path(fits) / "fits.csv")
        fitted = read_fits(inputs[-1], source, of_fits)
        metadata = read_json(Path(fits) / "provenance.json")
        more = {"camera": metadata.get("camera")}  # what new images must be fitted with
    rows = [measure(image, cut, features) for image in stream(source, "features", progress)]
    measured = pd.DataFrame(rows)
    if fitted is not None:
        measured = pd.concat([measured, fitted], axis=1)
    measured = measured[list(definitions(features))].replace([math.inf, -math.inf], math.nan)
    measured.insert(0, "id", source.catalog["id"].to_numpy())
    out_csv = Path(out_csv)
    with atomic(out_csv) as temporary:
        measured.to_csv(temporary, index=False, float_format="%.7g")
    sidecar(
        out_csv.with_suffix(".json"),
        rule="features",
        config={
            "preprocess": cut.model_dump(),
            "features": features.model_dump(),
        },
        inputs=inputs,
        outputs=[out_csv],
        started=started,
        **more,
    )


def read_fits(
    path: str | Path, data: dataset.Dataset, groups: Sequence[str] = ("lensfit",)
) -> pd.DataFrame:
    """Return the features of the fits of a dataset, in the order of its catalog.

    ``groups`` are lensfit, search, or both. NaN of a fit that did not converge. InputError if the
    fits are not of these images, or were not searched.
    """
    table, ids = dataset.read_catalog(path), data.catalog["id"]
    if "id" not in table or table["id"].duplicated().any():
        raise InputError(f"{path}: found no id, or one twice; expected one row an image")
    table = table.set_index("id")
    absent = [str(name) for name in ids if name not in table.index]
    if absent or not set(LENSFIT) < set(table):
        what = f"no fit of {len(absent)} images, such as {absent[0]!r}" if absent else "no fits"
        raise InputError(f"{path}: found {what}; expected one row an image, of vitdm fit")
    origin = Path(path).with_name("provenance.json")
    data.check_same_images(path, origin)
    check_outputs(origin, Path(path).name)
    table = table.loc[ids].reset_index(drop=True)
    names = [name for group in groups for name in (LENSFIT if group == "lensfit" else SEARCH)]
    if "search" in groups and not set(SEARCH) < set(table):
        expected = "expected those of vitdm fit with lensfit.search: true"
        raise InputError(f"{path}: found no columns of a search; {expected}")
    return table[names].where(table["fit_converged"] == 1)

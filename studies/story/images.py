"""Images and features in notebook 01: processing, invariance, rings, lenses on the real sky."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from studies.plots.processing import RealLens
from studies.plots.style import label_of
from studies.story.folders import UNKNOWN
from vitdm import features, preprocess
from vitdm.config import SPLITS, Features, Preprocess
from vitdm.data import readers
from vitdm.data.dataset import Dataset, read_catalog
from vitdm.provenance import files_below
from vitdm.simulation import CLASSES

LONG_ARC = 120  # degrees: an arc so long shows what happens to a ring
TRIED = 50  # lenses of a class among which one with a long arc is looked for


def counts(raw: Dataset, processed: Dataset) -> dict[str, int]:
    """Return the numbers of images, of all and of each class and split, and their sides [px]."""
    catalog = processed.catalog
    _, classes = raw.labels("multiclass")
    numbers = {"n_images": len(catalog)}
    numbers |= {f"n_{name}": int((catalog["class"] == name).sum()) for name in classes}
    numbers |= {f"n_{name}": int((catalog["split"] == name).sum()) for name in SPLITS}
    return numbers | {"image_side": raw.images.shape[1], "crop_side": processed.images.shape[1]}


# -------------------------------------------------------------------------------- processing


def flux_kept(lights: Iterable[Any], settings: Preprocess) -> list[float]:
    """Return the fraction of the flux of the lensed area that the cut keeps, of each image.

    ``lights`` is what ``preprocess.detect`` finds; images without any such flux are left out.
    """
    kept = []
    for light in lights:
        flux = light.residual * light.mask
        if flux.sum() > 0:
            square = preprocess.cut(flux, preprocess.roi_of(light), settings)
            kept.append(square.sum() / flux.sum())
    return kept


def invariance_tests(folders: Mapping[str, Path]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the results of ``studies.invariance`` of each folder, by the name of its population.

    A table with a row for each image, procedure and perturbation, with the column ``population``,
    and a summary of each population.
    """
    tables, summaries = [], {}
    for name, folder in folders.items():
        table = pd.read_csv(folder / "invariance" / "invariance.csv", dtype={"id": str})
        tables.append(table.assign(population=name))
        summaries[name] = json.loads((folder / "invariance" / "invariance.json").read_text())
    return pd.concat(tables, ignore_index=True), summaries


def invariance_table(summaries: Mapping[str, Any]) -> pd.DataFrame:
    """Return the summaries of ``invariance_tests``, a row for each population and procedure.

    Columns: ``population``, ``procedure``, ``oriented`` (fraction of the images), the correlations
    ``rotation`` (median), ``rotation_p05`` (5th percentile), ``mirror``, ``shift``, ``noise``
    (medians) and ``brightness_min`` (smallest), and the fraction of the flux inside the cut,
    ``flux_median`` and ``flux_p1`` (1st percentile).
    """
    rows = []
    for name, summary in summaries.items():
        for procedure, of in summary["procedures"].items():
            turned = of["rotation"]["oriented"]
            row = {"population": name, "procedure": procedure, "oriented": summary["oriented"]}
            row |= {"rotation": turned["median"], "rotation_p05": turned["p5"]}
            row |= {kind: of[kind]["all"]["median"] for kind in ("mirror", "shift", "noise")}
            row |= {"brightness_min": of["brightness"]["all"]["smallest"]}
            rows.append(row | {f"flux_{key}": of["flux_kept"][key] for key in ("median", "p1")})
    table = pd.DataFrame(rows).set_index(["population", "procedure"])
    return table.astype(float).reset_index()  # what no image has is None


def invariance_numbers(table: pd.DataFrame, population: str) -> dict[str, float]:
    """Return the correlations of one population, and the smallest over all, by procedure.

    ``table`` is that of ``invariance_table``; ``population`` a name in it, else it is that of
    images without populations.
    """
    numbers = {}
    for row in table[table["population"].isin([population, UNKNOWN])].to_dict("records"):
        for name in ("rotation", "rotation_p05", "mirror", "shift", "noise"):
            numbers[f"{name}_corr_{row['procedure']}"] = row[name]
    for procedure, part in table.groupby("procedure"):
        worst = part.min(numeric_only=True)
        for key in ("rotation", "rotation_p05"):
            numbers[f"{key}_corr_worst_{procedure}"] = worst[key]
        for key in ("flux_median", "flux_p1"):
            numbers[f"{key}_worst_{procedure}"] = worst[key]
    return numbers


# ---------------------------------------------------------------------------------- features


def unrolled_rings(
    images: Sequence[np.ndarray],
    classes: pd.Series,
    arc_angle: pd.Series,
    settings: Preprocess,
) -> dict[str, tuple[np.ndarray, Any, Any]]:
    """Return a lens of each class with its ring, by the label of the class.

    ``classes`` and ``arc_angle`` [deg] are of rows of ``images`` (n, H, W), by index. Taken is
    the first of ``TRIED`` lenses of the class with a long arc, else that with the longest; classes
    without any ring are left out. Values are the image (H, W) in units of the noise, the fitted
    circle and the unrolled ring.
    """
    rings = {}
    for kind in [kind for kind in CLASSES if kind in set(classes)]:
        rows = classes.index[classes == kind][:TRIED]
        arcs = arc_angle[rows].fillna(0).to_numpy()
        for row in rows[np.argsort(-np.minimum(arcs, LONG_ARC), kind="stable")]:
            light = preprocess.detect(np.array(images[row]), settings)
            lens = features.Measured(light, preprocess.roi_of(light))
            if lens.circle:
                rings[label_of(kind)] = (light.residual / light.noise, lens.circle, lens.ring)
                break
    return rings


# ------------------------------------------------------------------------------ the real sky


def real_files(folder: str | None, without: str | None = None) -> list[Path]:
    """Return the images in a folder and those below; none if there is no such folder.

    Those in the folder ``without`` are left out: noise maps and PSFs are among them.
    """
    paths = files_below(folder) if folder else []
    paths = [file for file in paths if readers.suffix_of(file.name)]
    return [file for file in paths if not (without and file.is_relative_to(without))]


def real_lens(path: Path, image: np.ndarray, settings: Preprocess) -> RealLens:
    """Return a real image (H, W) with its region of interest, the square and its crop."""
    light = preprocess.detect(image, settings)
    roi = preprocess.roi_of(light)
    return RealLens(
        name=path.stem.split("_npix")[0],
        image=np.arcsinh(light.residual / (3 * light.noise)),
        roi=roi,
        window=preprocess.window(image.shape, roi, settings),
        crop=preprocess.process_light(light, roi, settings),
    )


def real_features(
    images: Mapping[str, np.ndarray], cut: Preprocess, chosen: Features
) -> pd.DataFrame:
    """Return the features of images (H, W), a row an image, by name."""
    values = {name: features.measure(image, cut, chosen) for name, image in images.items()}
    return pd.DataFrame.from_dict(values, orient="index")


def real_beside_simulated(
    real: pd.DataFrame, folders: Mapping[str, Path], names: list[str]
) -> pd.DataFrame:
    """Return features of real lenses beside the range of 90 % of the lenses of each population.

    ``real`` has a row a lens, by name, and a column a feature. Columns: ``lens`` (a population or
    a real lens) and the features ``names``, as text.
    """
    rows = {}
    for name, folder in folders.items():
        values = read_catalog(folder / "features.csv")[names]
        low, high = values.quantile(0.05), values.quantile(0.95)
        rows[name] = [f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True)]
    for name, value in real.iterrows():
        rows[name] = [f"{value[key]:.2f}" for key in names]
    return pd.DataFrame(rows, index=names).T.rename_axis("lens").reset_index()

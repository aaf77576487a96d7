"""One page (HTML) with every lens of the final test as a point: image, residual, scores, truth.

The page needs no server and loads nothing: numbers are JSON, pictures sheets of small JPEGs, the
script is that of ``explorer.html``.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from vitdm import provenance
from vitdm.data.dataset import Dataset, read_catalog
from vitdm.errors import InputError
from vitdm.evaluation.metrics import binary_scores, model_classes
from vitdm.simulation import CLASSES, NO_SUB

TEMPLATE = Path(__file__).with_name("explorer.html")
#: of the fits and of other features, those that are shown
MEASURED = ("fit_theta_E", "fit_chi2", "fit_chi2_arcs", "fit_peak", "fit_point_evidence")
MEASURED += ("fit_point_mass", "fit_string_evidence", "ring_radius", "peak_snr", "arc_angle")
COLUMNS = 32  # tiles beside each other in a sheet
ROWS = 32  # and below
FEW = 1000  # lenses: of more, pictures have half the side, so that the page stays at some 10 MB
SIDE = 96  # px
QUALITY = 55  # of JPEG
SIGMAS = 5.0  # of the noise: black and white of residuals


def explorer(results: Path, out: Path) -> None:
    """Write the page of a run's final test, and its sidecar.

    ``results`` has ``evaluation/predictions.csv``, ``dataset/`` and ``processed/``, and as far as
    they are there ``features.csv``, ``lensfit/`` and ``known_model/scores.csv``.
    InputError if something is missing.
    """
    predictions = read_catalog(results / "evaluation/predictions.csv")
    data, seen = Dataset.open(results / "dataset"), Dataset.open(results / "processed")
    rows = _rows(data, predictions["id"])
    side = SIDE if len(rows) <= FEW else SIDE // 2
    sheets = {"image": _sheets((_stretched(seen.images[row]) for row in rows), side)}
    inputs = ["evaluation/predictions.csv", "dataset/catalog.csv", "processed/dataset.json"]
    if (file := results / "lensfit/residuals.npy").is_file():
        maps = np.load(file, mmap_mode="r")
        sheets["residual"] = _sheets((_in_noise(maps[row], side) for row in rows), side)
        inputs.append("lensfit/provenance.json")
    kinds = {name: CLASSES[name] for name in CLASSES if name in set(predictions["class"])}
    content = {
        "name": results.name,
        "classes": model_classes(predictions),
        "kinds": {name: {"label": k.label, "colour": k.colour} for name, k in kinds.items()},
        "columns": _columns(results, predictions, data.catalog.iloc[rows]),
        "tile": {"side": side, "columns": COLUMNS, "rows": ROWS},
        "sheets": sheets,
        "sigmas": SIGMAS,
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    with provenance.atomic(out) as temporary:
        temporary.write_text(TEMPLATE.read_text().replace("/*DATA*/null", text))
    files = [results / name for name in inputs]
    provenance.sidecar(out.with_suffix(".json"), rule="explorer", inputs=files, outputs=[out])


def _rows(data: Dataset, ids: pd.Series) -> np.ndarray:
    """Return where the images of some ids lie in a dataset."""
    rows = pd.Series(np.arange(len(data.catalog)), index=data.catalog["id"]).reindex(ids)
    if rows.isna().any():
        lost = ids[rows.isna().to_numpy()].iloc[0]
        raise InputError(
            f"{data.folder}: lacks {lost}, which is in the predictions; expected those of one run"
        )
    return rows.to_numpy(int)


# ------------------------------------------------------------------------------------- numbers


def _columns(results: Path, predictions: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """Return the columns by what they are of: text, scores, truth, and what was measured."""
    ids = predictions["id"]
    chances = predictions.filter(regex="^p_")
    likely = [name.removeprefix("p_") for name in chances.columns[chances.to_numpy().argmax(1)]]
    right = [
        _is_right(*names, f"p_{names[1]}" in chances)
        for names in zip(likely, predictions["class"], strict=True)
    ]
    scores = {"score": binary_scores(predictions)[1], **chances}
    known = truth.select_dtypes("number").drop(columns=["seed"], errors="ignore")
    measured = _joined(results / "features.csv", ids, MEASURED)
    measured |= _joined(results / "known_model/scores.csv", ids, ("chi2_known",))
    return {
        "text": {
            "id": list(ids),
            "class": list(predictions["class"]),
            "called": likely,
            "right": right,
        },
        "scores": {name: _numbers(values) for name, values in scores.items()},
        "truth": {n: _numbers(known[n]) for n in known if known[n].nunique() > 1},
        "measured": {name: _numbers(values) for name, values in measured.items()},
    }


def _is_right(called: str, kind: str, is_known: bool) -> bool:
    """Whether the most probable class is the true one; of two classes, that with substructure."""
    return called == kind if is_known else (called == NO_SUB) == (kind == NO_SUB)


def _joined(file: Path, ids: pd.Series, names: tuple[str, ...]) -> dict[str, pd.Series]:
    """Return some columns of a table for these images, as far as there are."""
    if not file.is_file():
        return {}
    table = pd.read_csv(file, dtype={"id": str}).set_index("id").reindex(ids)
    return {name: table[name] for name in names if name in table}


def _numbers(values: Any) -> list[float | None]:
    """Return numbers of four digits; null for none."""
    return [float(f"{v:.4g}") if np.isfinite(v) else None for v in np.asarray(values, float)]


# ------------------------------------------------------------------------------------- pictures


def _stretched(image: np.ndarray) -> np.ndarray:
    """Return a processed image between black and white, uint8; the network sees the same."""
    low, high = np.nanpercentile(image, (1, 99.9))
    return (np.clip((np.nan_to_num(image) - low) / max(high - low, 1e-9), 0, 1) * 255).astype("u1")


def _in_noise(residual: np.ndarray, side: int) -> np.ndarray:
    """Return a residual in units of the noise, grey where it is 0; binned pixels have less."""
    limit = SIGMAS * side / max(residual.shape)
    return (np.clip(np.nan_to_num(residual) / limit / 2 + 0.5, 0, 1) * 255).astype("u1")


def _sheets(tiles: Any, side: int) -> list[str]:
    """Return pictures side by side in sheets, each as the address of a JPEG."""
    tiles = [cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA) for tile in tiles]
    sheets = []
    for start in range(0, len(tiles), COLUMNS * ROWS):
        part = tiles[start : start + COLUMNS * ROWS]
        sheet = np.zeros((-(-len(part) // COLUMNS) * side, COLUMNS * side), "u1")
        for k, tile in enumerate(part):
            y, x = divmod(k, COLUMNS)
            sheet[y * side : (y + 1) * side, x * side : (x + 1) * side] = tile[::-1]  # y upwards
        _, packed = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        sheets.append("data:image/jpeg;base64," + base64.b64encode(packed).decode())
    return sheets

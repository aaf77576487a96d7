"""Invariance of the processing under rotation, mirroring, shift, brightness and noise.

A lens does not change with the angle it is seen at, nor with where in the image it lies. Each image
is perturbed and processed, and the result is compared with the processed unperturbed image by
Pearson's correlation over all pixels. This is done for three ``procedures`` on the same perturbed
images: ours turned and cut around the light, ours with the cut around the centre, and the
precursor's.

The perturbation itself should leave no trace. So an image is turned by Lanczos interpolation, and
what comes into view from beyond its border is drawn from its own sky, pixel by pixel: no second
arc, and noise of the same distribution, clipped where it was clipped. (Turning still resamples the
noise, in all three procedures alike.)
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from studies import precursor
from vitdm.config import SPLITS, Preprocess
from vitdm.data import dataset
from vitdm.errors import InputError
from vitdm.preprocess import Detection, Window, detect, find_roi, process, window
from vitdm.preprocess.background import PILE_UP
from vitdm.provenance import atomic, check_replaceable, sidecar, write_json

INVARIANCE_FILES = ("invariance.csv", "invariance.json", "provenance.json")
SHIFT = 15  # px, on each axis


class Perturbation(NamedTuple):
    """A change that must not matter: ``kind``, ``amount``, and of shifts ``direction`` [deg].

    The amount of a rotation is in degrees (from +x to +y), of a shift in pixels on each
    axis, of a brightness a factor, of noise in units of that of the sky, of a mirror image none.
    """

    kind: str
    amount: float
    direction: float = math.nan


PERTURBATIONS = (
    *(Perturbation("rotation", float(angle)) for angle in range(0, 360, 10)),
    Perturbation("mirror", math.nan),
    *(Perturbation("shift", float(SHIFT), float(angle)) for angle in range(0, 360, 45)),
    *(Perturbation("brightness", factor) for factor in (0.1, 0.3, 3.0, 10.0)),
    Perturbation("noise", 0.5),
)
KINDS = tuple(dict.fromkeys(perturbation.kind for perturbation in PERTURBATIONS))


class Light(NamedTuple):
    """The pixels (n,) of an image in which light is detected, and their flux above the sky."""

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    flux: NDArray[np.float32]


class Sky(NamedTuple):
    """What surrounds a lens: ``values`` (n,) of its pixels, and their rms ``noise``."""

    values: NDArray[np.float32]
    noise: float


#: an image and its light -> the processed image, and the fraction of the light that is in it
Procedure = Callable[[NDArray[np.float32], Light], tuple[NDArray, float]]


# ------------------------------------------------------------------------------- perturbations


def perturb(
    image: NDArray[np.float32], perturbation: Perturbation, sky: Sky, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return an image (height, width), without NaN, perturbed; ``sky`` is its own."""
    match perturbation.kind:
        case "rotation":
            return rotated(image, perturbation.amount, sky, rng)
        case "mirror":
            return np.ascontiguousarray(image[:, ::-1])
        case "shift":
            return shifted(image, *_steps(perturbation), sky, rng)
        case "brightness":
            return image * np.float32(perturbation.amount)
        case "noise":
            noise = rng.normal(0, perturbation.amount * sky.noise, image.shape)
            return _clipped(image + noise.astype(np.float32), image)
    raise InputError(f"perturbation: found {perturbation.kind!r}; expected {', '.join(KINDS)}")


def _steps(shift: Perturbation) -> tuple[int, int]:
    """Return how far a shift moves an image along x and y (whole px)."""
    angle, steps = math.radians(shift.direction), int(shift.amount)
    # -1, 0 or 1: a diagonal shift is a full one on both axes
    return steps * round(1.1 * math.cos(angle)), steps * round(1.1 * math.sin(angle))


def rotated(
    image: NDArray[np.float32], angle: float, sky: Sky, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return an image turned about its centre by ``angle`` (deg, from +x to +y), sky around it."""
    if angle % 360 == 0:
        return image
    matrix, beyond = _turn(image.shape, angle)
    # reflected only for what the interpolation needs at the border; what lies beyond is sky
    turned = cv2.warpAffine(
        image,
        matrix,
        image.shape[::-1],
        flags=cv2.INTER_LANCZOS4,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    turned = _clipped(turned, image)
    turned[beyond] = rng.choice(sky.values, np.count_nonzero(beyond))
    return turned


@functools.lru_cache(maxsize=128)
def _turn(shape: tuple[int, int], angle: float) -> tuple[NDArray, NDArray[np.bool_]]:
    """Return the matrix (2, 3) of a rotation, and which pixels of its result it has no data for."""
    height, width = shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, -angle, 1.0)  # OpenCV's y points up
    back = cv2.invertAffineTransform(matrix)
    y, x = np.indices(shape)
    source_x, source_y = (row[0] * x + row[1] * y + row[2] for row in back)
    beyond = (np.abs(source_x - centre[0]) > width / 2) | (
        np.abs(source_y - centre[1]) > height / 2
    )
    return matrix, beyond


def shifted(
    image: NDArray[np.float32], dx: int, dy: int, sky: Sky, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return an image (height, width) moved by ``dx``, ``dy`` whole pixels.

    Where nothing of the image is left, pixels are drawn from the ``sky`` with ``rng``.
    """
    height, width = image.shape
    moved = rng.choice(sky.values, image.shape)
    kept = image[max(-dy, 0) : height - dy, max(-dx, 0) : width - dx]
    rows, columns = kept.shape
    moved[max(dy, 0) :, max(dx, 0) :][:rows, :columns] = kept
    return moved


def sky_of(image: NDArray[np.float32], detected: Detection) -> Sky:
    """Return the sky of an image: the half of its dark pixels that is far from any light."""
    dark = detected.mask == 0
    if not dark.any():
        return Sky(np.array([detected.sky], np.float32), detected.noise)
    if dark.all():
        return Sky(image.ravel(), detected.noise)
    distance = cv2.distanceTransform(dark.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)
    return Sky(image[dark & (distance >= np.median(distance[dark]))], detected.noise)


def _clipped(changed: NDArray[np.float32], image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a changed image, rounded and cut where the noise of the original was, if it was."""
    if (image == np.rint(image)).all():
        changed = np.rint(changed)
    smallest = image.min()
    if np.count_nonzero(image == smallest) < PILE_UP * image.size:
        return changed
    return np.maximum(changed, smallest)


# ---------------------------------------------------------------------------------- procedures


def procedures(settings: Preprocess) -> dict[str, Procedure]:
    """Return ours, ``derotated`` and ``plain``, of these settings otherwise, and ``precursor``."""
    chosen = {
        "derotated": settings.model_copy(update={"derotate": True, "crop": "roi"}),
        "plain": settings.model_copy(update={"derotate": False, "crop": "centre"}),
    }
    ours = {name: functools.partial(_ours, settings=changed) for name, changed in chosen.items()}
    return {**ours, "precursor": _precursor}


def _ours(
    image: NDArray[np.float32], light: Light, settings: Preprocess
) -> tuple[NDArray[np.float32], float]:
    """Return what our processing makes of an image, and the fraction of its light that is in it."""
    square, roi = process(image, settings)
    return square, _kept(light, _inside(light, window(image.shape, roi, settings)))


def _inside(light: Light, frame: Window) -> NDArray[np.bool_]:
    """Return (n,) which lit pixels are in the square that is cut."""
    cos, sin = math.cos(math.radians(frame.angle)), math.sin(math.radians(frame.angle))
    x, y = light.x - frame.x, light.y - frame.y
    along, across = x * cos + y * sin, y * cos - x * sin
    return np.maximum(np.abs(along), np.abs(across)) <= frame.side / 2


def _precursor(image: NDArray[np.float32], light: Light) -> tuple[NDArray[np.float64], float]:
    """Return what the precursor's makes of an image, and the fraction of its light in it."""
    scaled = precursor.scale(image)
    contour = precursor.find(scaled)
    square = precursor.resized(scaled, contour)
    if contour is None:
        return square, 1.0
    return square, _kept(light, precursor.inside(light.x, light.y, precursor.box_of(contour)))


def _kept(light: Light, inside: NDArray[np.bool_]) -> float:
    """Return the fraction of the flux that is in some pixels (n,); NaN without light."""
    total = float(light.flux.sum())
    return float(light.flux[inside].sum()) / total if total > 0 else math.nan


# --------------------------------------------------------------------------------- correlations


def correlation(first: NDArray, second: NDArray) -> float:
    """Return Pearson's correlation of two images of a shape; NaN if either is constant."""
    a, b = (image.ravel().astype(np.float64) for image in (first, second))
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan


def light_of(detection: Detection) -> Light:
    """Return the pixels in which light was detected, with their flux above the sky."""
    y, x = np.nonzero(detection.mask)
    return Light(x, y, detection.residual[y, x])


def compare(
    image: NDArray[np.float32],
    settings: Preprocess,
    rng: np.random.Generator,
    tried: Mapping[str, Procedure] | None = None,
) -> list[dict[str, Any]]:
    """Return a row for each perturbation of an image (height, width) and each procedure.

    Its keys are perturbation, amount and direction (see ``Perturbation``), procedure, correlation
    (with the unperturbed image, processed alike) and flux_kept: of the light detected in the
    perturbed image, the fraction that is in the cut. ``tried`` are the procedures, by default
    those of the settings. ``rng`` draws the sky that comes into view. Pixels without a number are
    replaced by the sky first.
    """
    tried = procedures(settings) if tried is None else tried
    detected = detect(image, settings)
    image = np.where(np.isfinite(image), image, np.float32(detected.sky)).astype(np.float32)
    light, sky = light_of(detected), sky_of(image, detected)
    references = {name: procedure(image, light)[0] for name, procedure in tried.items()}
    rows = []
    for perturbation in PERTURBATIONS:
        changed = perturb(image, perturbation, sky, rng)
        light = light_of(detect(changed, settings))
        for name, procedure in tried.items():
            processed, kept = procedure(changed, light)
            rows.append(
                {
                    "perturbation": perturbation.kind,
                    "amount": perturbation.amount,
                    "direction": perturbation.direction,
                    "procedure": name,
                    "correlation": correlation(processed, references[name]),
                    "flux_kept": kept,
                }
            )
    return rows


def correlations(
    images: Iterable[NDArray[np.float32]],
    ids: Sequence[str],
    settings: Preprocess,
    seed: int = 0,
    tried: Mapping[str, Procedure] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Return the rows of ``compare`` for all images (height, width), with id and oriented.

    ``ids`` has a name for each image; the random sky of an image follows from ``seed`` and its id.
    ``oriented`` (0 or 1) tells whether our region of interest of the unperturbed image is long
    enough to have a direction. ``settings`` and ``tried`` are those of ``compare``.
    """
    rows = []
    bar = tqdm(
        zip(images, ids, strict=True),
        desc="invariance",
        total=len(ids),
        disable=not progress,
        mininterval=5,
    )
    for image, name in bar:
        rng = np.random.default_rng([seed, *name.encode()])
        first = {"id": name, "oriented": int(find_roi(image, settings).oriented)}
        rows += [first | row for row in compare(np.asarray(image), settings, rng, tried)]
    return pd.DataFrame(rows)


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Return the summary of a table of ``correlations``.

    ``n`` images, ``oriented`` the fraction of them with a direction, and of each of the
    ``procedures``: for each kind of perturbation median, 5th percentile and smallest of the
    correlations, of ``all`` images and of the ``oriented`` ones; and ``flux_kept``, over the
    rotated images, with its 1st percentile. The rotation by 0 is left out of the correlations:
    it changes nothing.
    """
    trivial = (table["perturbation"] == "rotation") & (table["amount"] == 0)
    measured = {}
    for name, part in table.groupby("procedure", sort=False):
        changed = part[~trivial[part.index]]
        measured[name] = {
            kind: {
                "all": _statistics(rows["correlation"], p5=0.05),
                "oriented": _statistics(rows["correlation"][rows["oriented"] == 1], p5=0.05),
            }
            for kind, rows in changed.groupby("perturbation", sort=False)
        }
        measured[name]["flux_kept"] = _statistics(
            part["flux_kept"][part["perturbation"] == "rotation"], p1=0.01
        )
    oriented = table.groupby("id")["oriented"].first()
    return {"n": len(oriented), "oriented": float(oriented.mean()), "procedures": measured}


def _statistics(values: pd.Series, **quantiles: float) -> dict[str, float]:
    lower = {name: float(values.quantile(fraction)) for name, fraction in quantiles.items()}
    return {"median": float(values.median()), **lower, "smallest": float(values.min())}


def in_words(summary: dict[str, Any]) -> str:
    """Return the main numbers of ``summarise``, a line for each procedure."""
    lines = [f"{summary['n']} images, {summary['oriented']:.0%} with a direction"]
    for name, entry in summary["procedures"].items():
        kinds = ", ".join(f"{kind} {entry[kind]['all']['median']:.3f}" for kind in KINDS)
        turned, kept = entry["rotation"]["oriented"], entry["flux_kept"]
        lines.append(
            f"{name}: median correlation {kinds}; rotation with a direction "
            f"{turned['median']:.3f} (5th percentile {turned['p5']:.3f}); flux kept "
            f"{kept['median']:.3f} (1st percentile {kept['p1']:.3f})"
        )
    return "\n".join(lines)


def rows_of(catalog: pd.DataFrame, n: int, where: str | Path = "catalog") -> NDArray[np.int64]:
    """Return up to ``n`` row numbers spread evenly over a catalog, none of the test split.

    InputError if ``n`` is not positive or nothing is left.
    """
    if n < 1:
        raise InputError(f"--n: found {n}; expected at least 1")
    rows = np.flatnonzero(catalog["split"].isin(SPLITS[:-1]))
    if not rows.size:
        raise InputError(f"{where}: found images of split {SPLITS[-1]} only; expected others")
    return rows[np.linspace(0, rows.size - 1, min(n, rows.size)).round().astype(int)]


def write(
    dataset_folder: str | Path,
    settings: Preprocess,
    n: int,
    seed: int,
    out: str | Path,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the invariance of up to ``n`` images to a folder, and return its summary.

    ``out`` gets the table of ``correlations``, invariance.csv, the summary of ``summarise``,
    invariance.json, and the sidecar. ``settings`` are those of the procedures that are ours;
    ``seed`` draws the sky that perturbations bring into view.
    """
    started = time.time()
    check_replaceable(out, INVARIANCE_FILES)
    source = dataset.Dataset.open(dataset_folder)
    rows = rows_of(source.catalog, n, source.folder)
    ids = source.catalog["id"].iloc[rows].tolist()
    images = (source.images[row] for row in rows)
    table = correlations(images, ids, settings, seed, progress=progress)
    summary = summarise(table)
    with atomic(out) as folder:
        folder.mkdir()
        table.to_csv(folder / "invariance.csv", index=False, float_format="%.6g")
        write_json(folder / "invariance.json", summary)
        sidecar(
            folder / "provenance.json",
            rule="invariance",
            seed=seed,
            config=settings,
            inputs=[source.folder / "images.npy", source.folder / "catalog.csv"],
            started=started,
            n=summary["n"],
        )
    return summary

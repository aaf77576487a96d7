"""Real lenses of the SLACS survey, fitted with a source of free form and searched for subhalos.

All lenses are fitted with one configuration (``freeform``), nothing is set for a single lens. The
images are those of Cao et al. (2025): a folder for each lens with image, noise map and PSF
(docs/data.md). Published are the Einstein radii of Bolton et al. (2008, doi:10.1086/589327, SIE)
and of Cao et al. (2025).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from studies import slacs_search
from studies.config import Config
from vitdm import lens
from vitdm.config.reading import read_yaml
from vitdm.data.dataset import read_catalog
from vitdm.data.observation import Observation
from vitdm.data.readers import read_observation
from vitdm.errors import InputError, shown
from vitdm.lens import LensModel
from vitdm.provenance import atomic, check_replaceable, read_json, sidecar

FILES = ("lens.csv", "maps.npz", *slacs_search.FILES, "lens.json")
MERGED = ("slacs.csv", "slacs_maps.npz", *slacs_search.MERGED, "slacs.json")
#: columns of published.csv, and what they are called here
PUBLISHED = {"theta_E_sie": "theta_E_bolton", "theta_E": "theta_E_cao"}
PUBLISHED |= {"theta_E_low": "theta_E_cao_low", "theta_E_high": "theta_E_cao_high"}
AGREES = 0.05  # largest relative difference of two Einstein radii that agree
FEWEST = 200  # pixels of the sky
AROUND = 11  # px, side of the square whose median is taken away
SHOWN = 6  # lenses of the figure, if none are named
MARGIN = 1.1  # of the largest radius that is fitted, to the edge of the maps
BEYOND = 3.0  # ", from where on there is hardly more than sky
SOURCE = 61  # points of the source along each axis


class Maps(NamedTuple):
    """The images of a fitted lens (H, W) about its middle, in units of the noise of a pixel.

    ``image`` and ``light``, the model of the galaxy, are without the sky; ``arcs`` are the model of
    the lensed source, ``residual`` that of the whole model, where ``fitted``. ``source`` (n, n) is
    what a pixel of the image would show of the source plane, in a box of half width
    ``source_half_width`` about ``source_center`` [arcsec]. ``mass`` are the values (p,) of the fit.
    """

    image: NDArray
    light: NDArray
    arcs: NDArray
    residual: NDArray
    fitted: NDArray
    source: NDArray
    source_center: NDArray
    source_half_width: NDArray
    mass: NDArray
    pixel_scale: NDArray

    @classmethod
    def of(cls, model: LensModel) -> Maps:
        """Cut the maps of a model to the pixels that were fitted."""
        scale = model.observation.pixel_scale
        noise = float(np.median(model.noise[model.fitted]))
        sky = model.galaxy.sky if model.galaxy else 0.0
        data = np.where(model.observation.mask, np.nan, model.observation.data)
        square, source = _square(model.fitted), model.source
        brightness = [data - sky, model.lens_light - sky, model.arcs]
        return cls(
            *(_small(image[square] / noise) for image in brightness),
            _small(model.residual[square]),
            model.fitted[square],
            _small(source.image(SOURCE)[0] * scale**2 / noise),
            np.array(source.center),
            np.array(source.half_width),
            model.values,
            np.array(scale),
        )


def _small(image: NDArray) -> NDArray:
    """Return an image with three digits, enough for a figure."""
    return np.clip(image, -6e4, 6e4).astype(np.float16)


def _square(fitted: NDArray) -> tuple[slice, slice]:
    """Return the rows and columns of a square about the middle that holds all fitted pixels."""
    rows, columns = np.nonzero(fitted)
    height, width = fitted.shape
    reach = max(np.abs(rows - (height - 1) / 2).max(), np.abs(columns - (width - 1) / 2).max())
    half = int(np.ceil(MARGIN * reach))
    return tuple(slice(max(n // 2 - half, 0), n // 2 + half + n % 2) for n in (height, width))


# -------------------------------------------------------------------------------------- one lens


def fit_lens(
    folder: str | Path, settings: Config, out: str | Path, redshifts: str | Path | None = None
) -> dict[str, Any]:
    """Fit and search the lens in a folder of FITS files; write ``out``, return its row.

    lens.csv has the row (``measured``), maps.npz the ``Maps``, lens.json the sidecar with the
    seconds of the processor, of the fit and of all; the others are those of
    ``slacs_search.write``, for which ``redshifts`` is a file (CSV). InputError if the folder holds
    no image.
    """
    started, cpu = time.time(), time.process_time()
    check_replaceable(out, FILES, [folder])
    name = Path(folder).name
    known = slacs_search.read_redshifts(redshifts) if redshifts else {}
    observation = read_observation(folder, pixel_scale=settings.slacs.pixel_scale)
    model = lens.fit(observation, settings.freeform)
    fitting = time.process_time() - cpu
    models = {name: model}
    if name in settings.slacs.unmasked:
        bare = settings.freeform.model_copy(update={"neighbours": False})
        whole = unmasked(observation, folder)
        models[f"{name}{slacs_search.UNMASKED}"] = lens.fit(whole, bare)
    searches = {n: slacs_search.search_lens(n, m, settings, known) for n, m in models.items()}
    row = {"name": name} | measured(model)
    with atomic(out) as temporary:
        temporary.mkdir()
        pd.DataFrame([row]).to_csv(temporary / "lens.csv", index=False, float_format="%.7g")
        np.savez_compressed(temporary / "maps.npz", **Maps.of(model)._asdict())
        slacs_search.write(searches, settings, temporary)
        sidecar(
            temporary / "lens.json",
            rule="slacs",
            config={"freeform": settings.freeform, "perturbers": settings.perturbers},
            inputs=[*sorted(Path(folder).glob("*.fits")), *([redshifts] if redshifts else [])],
            started=started,
            cpu_seconds=round(fitting, 1),
            cpu_seconds_search=round(time.process_time() - cpu - fitting, 1),
        )
    return row


def unmasked(observation: Observation, folder: str | Path) -> Observation:
    """Return an observation with the pixels, too, that the noise map in its folder masks.

    The noise map has an endless noise there. It is replaced by that of sky and photons: a straight
    line of the variance against the brightness, fitted to the other pixels.
    """
    scale, given = observation.pixel_scale, ~observation.mask
    image = read_observation(Path(folder) / "image.fits", psf=observation.psf, pixel_scale=scale)
    variance = np.polyfit(observation.data[given], observation.noise[given] ** 2, 1)
    least = observation.noise[given].min()
    noise = np.sqrt(np.maximum(np.polyval(variance, image.data), least**2))
    noise = np.where(given, observation.noise, noise)
    return image.replace(noise=noise, name=observation.name)


def measured(model: LensModel) -> dict[str, Any]:
    """Return the numbers of a fit: radius [arcsec], slope, |shear|, |ellipticity|, chi^2, flags.

    ``chi2_sky`` is ``noise_of_sky``; ``neighbours`` and ``cosmic_rays`` are how many of them are
    masked.
    """
    value = dict(zip(model.names, model.values, strict=True))
    error = dict(zip(model.names, model.errors, strict=True))
    kinds = list(model.neighbours["kind"])
    return {
        "theta_E": value["theta_E"],
        "theta_E_error": error["theta_E"],
        "slope": value["slope"],
        "slope_error": error["slope"],
        "shear": np.hypot(value["gamma1"], value["gamma2"]),
        "ellipticity": np.hypot(value["e1"], value["e2"]),
        "chi2": model.chi2,
        "chi2_arcs": model.chi2_arcs,
        "chi2_sky": noise_of_sky(model),
        "n_pixels": model.n_pixels,
        "converged": int(model.converged),
        "flags": " ".join(model.flags),
        "neighbours": kinds.count("neighbour"),
        "cosmic_rays": kinds.count("cosmic_ray"),
    }


def noise_of_sky(model: LensModel) -> float:
    """Return the chi^2 per pixel that noise alone has in an image, NaN if little sky is seen.

    It is 1 for a right noise map. Pixels of drizzled images share noise: each scatters less than a
    map tells that is made for sums of them (Casertano et al. 2000, doi:10.1086/316851). Measured
    robustly (median absolute deviation) from the residual beyond ``BEYOND`` of the middle, without
    the median of the pixels around each, which takes away what is left of galaxies.
    """
    height, width = model.fitted.shape
    y, x = np.mgrid[:height, :width] * model.observation.pixel_scale
    far = np.hypot(x - x.mean(), y - y.mean()) > BEYOND
    sky = far & ~model.observation.mask & ~model.fitted
    if sky.sum() < FEWEST:
        return float("nan")
    rough = model.residual - median_filter(model.residual, AROUND)
    return float((1.4826 * np.median(np.abs(rough[sky]))) ** 2)


# ------------------------------------------------------------------------------------ all of them


def merge(
    folders: Sequence[str | Path],
    settings: Config,
    out: str | Path,
    published: str | Path | None = None,
    notes: str | Path | None = None,
) -> pd.DataFrame:
    """Join the fits in folders of ``fit_lens``; write ``out``, return the table.

    slacs.csv has a row a lens, in the order of their names: ``measured``, cpu_seconds, the
    published radii (``beside_published``), and why a fit is special (``read_notes``);
    slacs_maps.npz has the ``Maps`` of the lenses ``slacs.shown``; the files of the search are those
    of ``slacs_search.merge``. InputError if a fit is missing, or a lens is there twice.
    """
    started = time.time()
    check_replaceable(out, MERGED)
    places = _by_name(folders)
    rows = [read_catalog(place / "lens.csv") for place in places.values()]
    seconds = [read_json(place / "lens.json")["cpu_seconds"] for place in places.values()]
    table = pd.concat(rows, ignore_index=True).assign(cpu_seconds=seconds)
    table = beside_published(table, read_published(published) if published else None)
    words = read_notes(notes) if notes else {}
    table["why"] = [words.get(name, "") for name in table["name"]]
    chosen = [name for name in settings.slacs.shown if name in places] or list(places)[:SHOWN]
    known = [file for file in (published, notes) if file]
    with atomic(out) as temporary:
        temporary.mkdir()
        table.to_csv(temporary / "slacs.csv", index=False, float_format="%.6g")
        write_maps({n: read_maps(places[n] / "maps.npz") for n in chosen}, temporary / MERGED[1])
        searched = slacs_search.merge(list(places.values()), chosen, words, temporary)
        sidecar(
            temporary / "slacs.json",
            rule="merge_slacs",
            inputs=[*(place / "lens.csv" for place in places.values()), *searched, *known],
            started=started,
            cpu_seconds=round(sum(seconds), 1),
        )
    return table


def _by_name(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Return the folders of fits by the name of their lens, in the order of the names."""
    found: dict[str, Path] = {}
    for folder in sorted(map(Path, folders), key=lambda path: path.name):
        if missing := [file for file in FILES if not (folder / file).is_file()]:
            raise InputError(f"{folder}: no fit of slacs: {', '.join(missing)} missing")
        if folder.name in found:
            raise InputError(f"{folder}: {found[folder.name]} is of the same lens; expected one")
        found[folder.name] = folder
    return found


def read_published(file: str | Path) -> pd.DataFrame:
    """Read published Einstein radii [arcsec], a row a lens, the columns ``PUBLISHED``.

    InputError if the file is no table, or lacks one of the columns.
    """
    try:
        table = pd.read_csv(file, comment="#", dtype={"name": str}).rename(columns=PUBLISHED)
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error}); expected a CSV table") from error
    if lost := [name for name in ("name", *PUBLISHED.values()) if name not in table]:
        given = {new: old for old, new in PUBLISHED.items()}
        names = ", ".join(given.get(name, name) for name in lost)
        raise InputError(f"{file}: found no column {names}; expected name, {', '.join(PUBLISHED)}")
    return table[["name", *PUBLISHED.values()]]


def beside_published(table: pd.DataFrame, published: pd.DataFrame | None) -> pd.DataFrame:
    """Return the table of fits with published radii, where there are some.

    ``ratio`` is fitted over published radius of Bolton et al., ``within`` whether (0 or 1) they
    differ by at most ``AGREES``; ``ratio_cao`` and ``within_cao`` are those of Cao et al.
    """
    if published is None:
        published = pd.DataFrame(columns=["name", *PUBLISHED.values()])
    table = table.merge(published, on="name", how="left", validate="one_to_one")
    for source, end in (("bolton", ""), ("cao", "_cao")):
        ratio = table["theta_E"] / table[f"theta_E_{source}"].astype(float)
        within = ((ratio - 1).abs() <= AGREES).astype("Int64")
        table[f"ratio{end}"], table[f"within{end}"] = ratio, within.where(ratio.notna())
    return table


def read_notes(file: str | Path) -> dict[str, str]:
    """Read what is special about lenses, in words, by their names; InputError if it is no such."""
    notes = read_yaml(file) or {}
    for name, words in notes.items():
        if not isinstance(words, str):
            raise InputError(f"{file}: {name}: found {shown(words)}; expected words")
    return notes


# --------------------------------------------------------------------------------------- the maps


def write_maps(lenses: Mapping[str, Maps], file: str | Path) -> None:
    """Write the maps of several lenses as ``<name>/<map>`` into one file (npz)."""
    arrays = {f"{n}/{key}": a for n, maps in lenses.items() for key, a in maps._asdict().items()}
    np.savez_compressed(file, **arrays)


def read_maps(file: str | Path) -> Any:
    """Read maps: of one lens the ``Maps``, of several those by name."""
    with np.load(file, allow_pickle=False) as arrays:
        if "image" in arrays:
            return Maps(*(arrays[key] for key in Maps._fields))
        names = dict.fromkeys(key.split("/")[0] for key in arrays)
        return {n: Maps(*(arrays[f"{n}/{key}"] for key in Maps._fields)) for n in names}

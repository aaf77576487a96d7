"""A search on disk: ``search.fits`` (maps), ``peaks.csv``, and the rest in ``search.json``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray

from vitdm.data.foreign import decoding
from vitdm.lens.free_form.files import COORDINATES, axis_of, header_of
from vitdm.lens.perturbers.verdict import answer, warnings_of
from vitdm.provenance import atomic, read_json, versions, write_json

if TYPE_CHECKING:
    from vitdm.lens.perturbers.result import Search

NUMBERS, IMAGES, PEAKS = "search.json", "search.fits", "peaks.csv"
SURE = 5.0  # S/N of the masses in maps of sensitivity
#: what ``search.fits`` holds of each profile, in extensions such as ``SNR_POINT``
EXTENSIONS = {
    "SNR": "amplitude over its error",
    "AMPLITUDE": "most probable mass",
    "ERROR": "standard deviation of AMPLITUDE",
    "SENSITIVITY": f"mass with S/N {SURE:g}",
}


def write(search: Search, folder: str | Path) -> None:
    """Write the files of a search into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NUMBERS, numbers(search))
    with atomic(folder / PEAKS) as temporary:
        search.peaks.to_csv(temporary, index=False)
    with atomic(folder / IMAGES) as temporary:
        _extensions(search).writeto(temporary)


def read(folder: str | Path) -> dict[str, Any]:
    """Return what ``write`` wrote: tables and arrays by name.

    ``numbers`` (``search.json``), ``peaks``, for each profile the maps ``snr``, ``amplitude``,
    ``error`` [arcsec^2] and ``sensitivity``, as in ``found["snr"]["point"]``, and the axes ``x``
    and ``y`` ["]. InputError names the file that is wrong.
    """
    folder = Path(folder)
    found: dict[str, Any] = {"numbers": (content := read_json(folder / NUMBERS))}
    with decoding(folder / PEAKS):
        found["peaks"] = pd.read_csv(folder / PEAKS, float_precision="round_trip")
        found["peaks"][["x", "y"]].astype(float)  # else it is another table
    with decoding(folder / IMAGES), fits.open(folder / IMAGES, memmap=False) as extensions:
        profiles = content["settings"]["profiles"]
        for kind in EXTENSIONS:
            maps = {name: extensions[_name(kind, name)].data for name in profiles}
            found[kind.lower()] = maps
        header = extensions[_name("SNR", profiles[0])].header
    found["x"], found["y"] = (axis_of(header, k) for k in (1, 2))
    return found


def numbers(search: Search) -> dict[str, Any]:
    """Return the search without its maps, as ``search.json`` has it."""
    settings, model = search.settings, search.model
    snr = search.maps[settings.detect].snr
    seen = snr[np.isfinite(snr)]
    sensitivity = {name: _best(search.sensitivity(name, SURE)) for name in search.maps}
    return {
        "name": model.observation.name,
        "answer": answer(search),
        "warnings": warnings_of(search),
        "score": search.score,
        "p_value": search.p_value,
        "n_twins": len(search.twin_scores),
        "twin_scores": search.twin_scores,
        "refitted_scores": search.refitted_scores,
        "misfit": search.misfit,
        "snr_highest": float(seen.max()) if len(seen) else math.nan,
        "snr_lowest": float(seen.min()) if len(seen) else math.nan,
        "sensitivity": sensitivity,
        "sensitivity_unit": unit_of_mass(search),
        "solar_masses": search.solar_masses,
        "lens": {key: getattr(model, key) for key in ("chi2", "chi2_arcs", "evidence", "flags")},
        "coordinates": COORDINATES,
        "settings": settings,
        "versions": versions(),
    }


def unit_of_mass(search: Search) -> str:
    """Return the unit of sensitivities: solar masses if the redshifts are known."""
    return "solMass" if math.isfinite(search.solar_masses) else "arcsec2"


def _best(masses: NDArray) -> dict[str, float]:
    """Return the smallest mass [in its unit], and that which is reached at a tenth of places."""
    known = masses[np.isfinite(masses)]
    if not len(known):
        return {"lowest": math.nan, "tenth": math.nan}
    return {"lowest": float(known.min()), "tenth": float(np.quantile(known, 0.1))}


def _name(kind: str, profile: str) -> str:
    return f"{kind}_{profile.upper()}"


def _extensions(search: Search) -> fits.HDUList:
    units = {"SNR": "", "SENSITIVITY": unit_of_mass(search)}
    axes = search.axis_x, search.axis_y
    center = tuple(float(axis[0] + axis[-1]) / 2 for axis in axes)
    made: list[Any] = [fits.PrimaryHDU()]
    for profile, found in search.maps.items():
        maps = found.snr, found.amplitude, found.error, search.sensitivity(profile, SURE)
        for kind, values in zip(EXTENSIONS, maps, strict=True):
            image = search.image(values).astype(np.float32)
            header = header_of(search.settings.spacing, center, image.shape)
            header["BUNIT"] = (units.get(kind, "arcsec2"), EXTENSIONS[kind])
            header["PROFILE"] = (profile, "of the perturber")
            made.append(fits.ImageHDU(image, header, _name(kind, profile)))
        if found.angle is not None:
            image, header = search.image(found.angle).astype(np.float32), header.copy()
            header["BUNIT"] = ("rad", "from x towards y, of the string that fits best")
            made.append(fits.ImageHDU(image, header, _name("ANGLE", profile)))
    return fits.HDUList(made)

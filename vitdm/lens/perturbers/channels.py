"""Maps for networks of lenses that are fitted with a source of free form.

The channels, and their grid, are those of ``vitdm.lens.channels``. Sources of free form imitate
more than Sérsic profiles do, so that of a lens that both can fit the S/N is lower here, and of one
with a clumpy source it means something only here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial import KDTree

from vitdm.config import CHANNELS, LensFit, Perturbers
from vitdm.data.observation import Observation
from vitdm.lens.channels import perturber_channels, pixel_channels
from vitdm.lens.fit import Fits
from vitdm.lens.free_form.model import LensModel
from vitdm.lens.model import Camera
from vitdm.lens.perturbers.numbers import numbers_if_any, refitted, table_of
from vitdm.lens.perturbers.search import BEYOND, FEWEST_TWINS, Grid, Linear
from vitdm.lens.perturbers.twins import Noise, noise_lags
from vitdm.lens.squares import Window
from vitdm.threads import one_thread

#: what is mapped: the ``PROFILES`` of the channels, called as in a search
MAPPED = Perturbers(profiles=("point", "isothermal", "string"), peaks=0, twins=0)
FAINT = 0.3  # of the noise, of arcs about which perturbers are looked for


def measure_and_map(
    observations: Sequence[Observation],
    start: Fits,
    settings: LensFit,
    *,
    searched: bool,
    pixel_scale: float | None = None,
    gain: float | None = None,
) -> tuple[pd.DataFrame | None, NDArray]:
    """Return what is asked for of lenses that Sérsic fits have found: numbers of a search, maps.

    The numbers are those of ``measure``, None unless ``searched``; the maps (n, C, g, g) float32
    those of ``start``, with S/N, sensitivity and residual of a source of free form where
    ``settings.maps`` is ``free_form``. Each lens is fitted so once, if at all.
    """
    free = settings.maps == "free_form"
    maps, rows = start.maps, []
    if not (searched or free):
        return None, maps
    maps = maps.copy()
    known = {"pixel_scale": pixel_scale, "gain": gain}
    for k, model in enumerate(refitted(observations, start, settings, **known)):
        rows.append(numbers_if_any(model) if searched else {})
        if free and model:
            own = free_form_channels(model, start.cameras[k], settings.map_side)
            maps[k, : len(own)] = own
    return table_of(rows) if searched else None, maps


@one_thread()
def free_form_channels(model: LensModel, camera: Camera, places: int) -> NDArray:
    """Return all channels but the image, (C - 1, g, g), of a lens on g = ``places`` of a camera."""
    problem, rng = model.problem, np.random.default_rng(MAPPED.seed)
    shape = model.residual.shape
    noise = Noise(shape, noise_lags(problem, model.residual, model.arcs))
    grid = _places(model, camera, places)
    side = len(grid.axis_x)
    snr, information = np.zeros((2, 1, len(MAPPED.profiles), side, side))
    if len(grid.x):
        linear = Linear.of(problem, MAPPED, noise, rng, grid, FEWEST_TWINS)
    for k, name in enumerate(MAPPED.profiles if len(grid.x) else ()):
        found = linear.mapped(name).map(grid)
        told = np.isfinite(found.snr)
        at = grid.row[told], grid.column[told]
        snr[0, k][at], information[0, k][at] = found.snr[told], found.error[told] ** -2.0
    for maps in (snr, information):  # strings are looked for at every other place
        every = maps[0, 2, ::2, ::2].repeat(2, 0).repeat(2, 1)
        maps[0, 2] = every[:side, :side]
    residual = Window(shape, camera.size).cut(model.residual)
    residual = torch.from_numpy(residual)[None]
    perturbers = perturber_channels(
        torch.from_numpy(snr), torch.from_numpy(information), torch.tensor([model.values[0]])
    )
    pixels = pixel_channels(residual, torch.zeros_like(residual), places)[:, :-1]
    channels = torch.cat([perturbers.float(), pixels], 1)[0].numpy()
    assert len(channels) == len(CHANNELS) - 1
    return channels


def _places(model: LensModel, camera: Camera, places: int) -> Grid:
    """Return the places of the grid of a camera about the arcs."""
    x, y = (axis.numpy() for axis in camera.binned(camera.size // places).axes())
    height, width = model.arcs.shape
    row, column = np.nonzero(model.fitted & (model.arcs > FAINT * model.noise))
    scale = camera.pixel_scale
    lit = np.c_[(column - (width - 1) / 2) * scale, (row - (height - 1) / 2) * scale]
    every = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    near = np.full(len(every), np.inf)
    if len(lit):
        near = KDTree(lit).query(every, distance_upper_bound=BEYOND)[0]
    row, column = np.nonzero(np.isfinite(near).reshape(len(y), len(x)))
    return Grid(x, y, row, column)

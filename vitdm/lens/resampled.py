r"""Lenses that a fit makes up: its own lens again, with other substructure and other noise.

A simulated lens costs a fit before a network can see its maps, and networks ask for more lenses
than one waits for. But all that the maps tell is linear in the residual (``vitdm.lens.matched``),
and a fit has the derivatives by its parameters. So one fitted lens stands for many. Substructure of
its population is drawn anew, about the fitted halo, and its image rendered as that of any simulated
lens, with the fitted source; what it changes, in units of the noise of the fit, and new noise are
the residual r of a lens that was never fitted. Instead of a fit, with Q an orthonormal basis of the
derivatives J,

.. math:: r' = r - Q^T Q r

is what is left of it, and S/N and residual maps follow in milliseconds. Sensitivities are those of
the fit itself. What is neglected: a source that bends to the perturbation beyond the first order,
other minima, and errors of the fitted lens, which all its copies share. They are to be learned
from, beside real fits, and never scored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vitdm.config import CHANNELS, LensFit
from vitdm.data.dataset import Dataset, read_catalog
from vitdm.data.observation import as_observations
from vitdm.errors import InputError
from vitdm.lens.channels import LARGEST, pixel_channels
from vitdm.lens.fit import solved
from vitdm.lens.fits import MAPS, read_maps
from vitdm.lens.matched import search_of
from vitdm.lens.model import SmoothLens
from vitdm.lens.parameters import SOURCE_POSITION, parameters
from vitdm.lens.squares import Window, camera_of, squares_of
from vitdm.provenance import atomic, check_replaceable, read_json, sidecar
from vitdm.simulation.classes import CLASSES
from vitdm.simulation.population import Population
from vitdm.simulation.rendering import render
from vitdm.simulation.system import System
from vitdm.threads import one_thread

#: channels that copies have; strings would need the maps of each direction
RESAMPLED = tuple(name for name in CHANNELS if not name.endswith("_string"))
RESAMPLED_FILES = (MAPS, "catalog.csv", "resampled.json")
PERTURBERS = ("point", "clump")  # in the order of ``Search.again``


class Copies:
    """What is needed of a fitted lens to make it up again.

    ``image`` is that which was fitted, ``natural`` (p,) the values of its fit (``Fits.values``) and
    ``maps`` (C, g, g) its maps; ``settings`` and ``pixel_scale`` are those of the fit.
    """

    def __init__(
        self,
        image: NDArray,
        natural: NDArray,
        maps: NDArray,
        settings: LensFit,
        pixel_scale: float,
        population: Population,
    ) -> None:
        (observation,) = as_observations(image[None], pixel_scale=pixel_scale)
        camera = camera_of(observation, settings)
        squares = squares_of([observation], camera, settings, np.array([settings.gain or 0.0]))
        model = SmoothLens(camera, settings.n_lights)
        problem, values = solved(natural[None], squares, model)
        self.rows = problem.linear(values, torch.tensor([0]))[0].clone()
        self.source = tuple(1 + column for column in model.columns(SOURCE_POSITION))
        self.search, self.population = search_of(camera, settings.places), population
        self.image = squares.data[0] * squares.good[0]
        #: of a brightness in the unit of the image: its S/N, 0 where no pixel was fitted
        self.inverse = problem.inverse[0] / squares.unit[0]
        self.sky = squares.unit[0]
        at = [CHANNELS.index(f"sensitivity_{name}") for name in PERTURBERS]
        self.sensitivity = torch.from_numpy(maps[at].astype(np.float32))
        self.lens = _system(dict(zip(model.names, natural.tolist(), strict=True)))
        self.window = Window(image.shape, camera.size)
        self.smooth = render(self.lens, population)

    def draw(
        self, kinds: Sequence[str], streams: Sequence[np.random.Generator]
    ) -> tuple[NDArray[np.float16], list[dict[str, Any]]]:
        """Return ``RESAMPLED`` channels (k, C, g, g) of copies of some classes, and their truth.

        ``streams`` are the random numbers of each.
        """
        lenses = [
            self._perturbed(kind, stream) for kind, stream in zip(kinds, streams, strict=True)
        ]
        changes = [
            np.zeros_like(self.smooth) if lens is self.lens else self._change(lens)
            for lens in lenses
        ]
        change = torch.from_numpy(np.array([self.window.cut(change) for change in changes]))
        noise = [stream.standard_normal(change.shape[1:]) for stream in streams]
        noise = torch.from_numpy(np.array(noise))
        residual = ((change * self.inverse + noise) * (self.inverse > 0)).float()
        theta_E = self.lens.theta_E
        root = torch.where(self.sensitivity > 0, self.sensitivity.exp() / theta_E**2, 0.0)
        snr, left = self.search.again(self.rows, self.source, residual, root**2)
        # what was left of the image itself, in units of the sky's noise, gives way to this
        scale = torch.where(self.inverse > 0, 1 / (self.inverse * self.sky), 0.0)
        image = self.image + (left - self.rows[0]) * scale
        maps = torch.cat(
            [
                snr.clamp(-LARGEST, LARGEST),
                self.sensitivity.expand(len(kinds), -1, -1, -1),
                pixel_channels(left, image.float(), snr.shape[-1]),
            ],
            1,
        )
        return maps.half().numpy(), [lens.truth for lens in lenses]

    def _perturbed(self, kind: str, rng: np.random.Generator) -> System:
        """Return the fitted lens with substructure of a class."""
        draw = CLASSES[kind].draw
        return draw(self.lens, rng, self.population) if draw else self.lens

    def _change(self, lens: System) -> NDArray:
        """Return what substructure changes of the image, in its unit."""
        return render(lens, self.population) - self.smooth


def _system(natural: dict[str, float]) -> System:
    """Return a fitted lens as one that can be simulated; of its light, the source alone."""
    source = {name: natural[f"source_{name}"] for name in SOURCE}
    theta_E = natural["theta_E"]
    return System(
        theta_E=theta_E,
        theta_E_halo=theta_E,
        **{name: natural[name] for name in ("e1", "e2", "gamma1", "gamma2")},
        source=source | {"center_x": natural["source_x"], "center_y": natural["source_y"]},
        center=(natural["center_x"], natural["center_y"]),
    )


SOURCE = ("amp", "R_sersic", "n_sersic", "e1", "e2")


@one_thread()
def resample(
    dataset: str | Path,
    fits: str | Path,
    population: Population,
    number: int,
    out: str | Path,
    *,
    splits: Sequence[str] = ("train",),
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Make up ``number`` copies of each fitted lens of a dataset; write the folder ``out``.

    ``maps.npy`` (m, C, g, g) float16 has the ``RESAMPLED`` channels, ``catalog.csv`` the rows: id
    (of the lens that was fitted), class, and the truth of the substructure. Classes are drawn by
    their shares in the ``population``, which is that of the lenses. Lenses of other ``splits``, and
    those whose fit did not converge, have no copies. A copy depends on the seed, the row of its
    lens and its number among the copies of that lens alone. InputError if the fits have no maps,
    or if the population has other sources than Sérsic profiles, noise that pixels share, or grey
    levels.
    """
    started = time.time()
    check_replaceable(out, RESAMPLED_FILES)
    data = Dataset.open(dataset)
    given, told = read_maps(fits, data), read_json(Path(fits) / "provenance.json")["camera"]
    settings = LensFit(**told["lensfit"])
    _check(population, settings, fits)
    table = read_catalog(Path(fits) / "fits.csv")
    names = [row.name for row in parameters(settings.n_lights)]
    natural = table[[f"fit_{name}" for name in names]].to_numpy(float)
    good = (table["fit_converged"] == 1) & np.isfinite(natural).all(1)
    rows = np.flatnonzero(good & data.catalog["split"].isin(splits))
    if not len(rows):
        raise InputError(f"{fits}: found no fit of split {', '.join(splits)} that converged")
    kinds, shares = zip(*population.class_fractions.items(), strict=True)
    shares = np.array(shares) / sum(shares)
    shape = len(rows) * number, len(RESAMPLED), *given.shape[2:]
    lines: list[dict[str, Any]] = []
    with atomic(out) as folder:
        folder.mkdir()
        written = np.lib.format.open_memmap(folder / MAPS, "w+", np.float16, shape)
        for row in tqdm(rows, desc="resample", unit="lens", disable=not progress):
            streams = [
                np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(row), k)))
                for k in range(number)
            ]
            drawn = [str(stream.choice(kinds, p=shares)) for stream in streams]
            copies = Copies(
                data.images[row],
                natural[row],
                given[row],
                settings,
                told["pixel_scale"],
                population,
            )
            maps, truths = copies.draw(drawn, streams)
            written[len(lines) : len(lines) + number] = maps
            name = data.catalog["id"].iloc[row]
            lines += [
                {"id": name, "class": kind} | truth
                for kind, truth in zip(drawn, truths, strict=True)
            ]
        written.flush()
        pd.DataFrame(lines).to_csv(folder / "catalog.csv", index=False, float_format="%.7g")
        sidecar(
            folder / "resampled.json",
            rule="resample",
            config={"population": population.name, "number": number, "splits": list(splits)},
            inputs=[Path(fits) / "fits.csv", Path(fits) / MAPS, data.folder / "images.npy"],
            outputs=[folder / "catalog.csv", folder / MAPS],
            started=started,
            seed=seed,
            channels=list(RESAMPLED),
        )


def _check(population: Population, settings: LensFit, fits: str | Path) -> None:
    """Raise InputError unless copies of lenses of a population can be made."""
    if settings.maps != "matched":
        raise InputError(f"{fits}: found lensfit.maps = {settings.maps}; expected matched")
    if population.source.structure:
        raise InputError(
            f"population {population.name}: found a source with structure; expected a Sérsic "
            "profile, as the fit has it"
        )
    if population.instrument.drizzle or population.eight_bit:
        raise InputError(
            f"population {population.name}: found drizzled images, or grey levels; expected white "
            "noise that is not cut"
        )


def read_copies(folder: str | Path) -> tuple[NDArray[np.float16], pd.DataFrame]:
    """Return the maps (m, C, g, g) of ``resample``, mapped from file, and their catalog."""
    folder = Path(folder)
    if missing := [name for name in RESAMPLED_FILES if not (folder / name).is_file()]:
        raise InputError(f"{folder}: no copies of lenses: {', '.join(missing)} missing")
    if (found := read_json(folder / "resampled.json").get("channels")) != list(RESAMPLED):
        raise InputError(f"{folder}: found channels {found}; expected {', '.join(RESAMPLED)}")
    table = read_catalog(folder / "catalog.csv")
    try:
        maps = np.load(folder / MAPS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{folder / MAPS}: cannot be read as an array: {error}") from error
    if maps.ndim != 4 or maps.shape[:2] != (len(table), len(RESAMPLED)):
        raise InputError(
            f"{folder / MAPS}: found shape {maps.shape}; expected {len(table)} rows of "
            f"{len(RESAMPLED)} channels"
        )
    return maps, table

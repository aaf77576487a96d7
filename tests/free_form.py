"""A free-form lens model made without a fit: the truth of a simulated lens, with noise."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy.signal import fftconvolve

from vitdm.config import LensFit
from vitdm.data.observation import Observation
from vitdm.lens.free_form import mass
from vitdm.lens.free_form.model import FLAGS

TRUTH = {"theta_E": 1.2, "e1": 0.08, "e2": -0.05, "center_x": 0.03, "center_y": -0.02}
TRUTH |= {"gamma1": 0.03, "gamma2": -0.04, "slope": 2.07, "a1_x": 0.0, "a1_y": 0.0}
TRUTH |= {"a3_x": 0.006, "a3_y": -0.004, "a4_x": 0.008, "a4_y": 0.003}
FIXED = ("a1_x", "a1_y")
BLOBS = ((30.0, 0.08, 0.05, 0.07), (12.0, 0.18, 0.0, 0.05), (8.0, 0.02, 0.16, 0.04))


@dataclass(frozen=True)
class Source:
    """Three round blobs: peak per square arcsec, x, y and width in arcsec."""

    center: tuple[float, float] = (0.1, 0.06)
    half_width: float = 0.5

    def brightness(self, x, y):
        x, y = np.broadcast_arrays(x, y)
        inside = np.maximum(abs(x - self.center[0]), abs(y - self.center[1])) < self.half_width
        blobs = [p * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s**2)) for p, a, b, s in BLOBS]
        return np.where(inside, sum(blobs), 0.0)

    def errors(self, x, y):
        return 0.2 + 0.05 * self.brightness(x, y)

    def image(self, n=101):
        offsets = np.linspace(-self.half_width, self.half_width, n)
        x, y = np.meshgrid(self.center[0] + offsets, self.center[1] + offsets)
        return self.brightness(x, y), offsets


@dataclass(frozen=True, eq=False)
class Model:
    """What ``vitdm.lens.fit`` returns for one lens, as far as files and pictures read it."""

    observation: Observation
    noise: np.ndarray
    fitted: np.ndarray
    lens_light: np.ndarray
    arcs: np.ndarray
    residual: np.ndarray
    neighbours: pd.DataFrame
    galaxy: SimpleNamespace
    values: np.ndarray
    flags: tuple[str, ...] = tuple(FLAGS)[:1]
    names: tuple[str, ...] = mass.NAMES
    evidence: float = -1234.5
    problem: None = None
    converged: bool = True
    source: Source = Source()
    settings: LensFit = LensFit()

    @property
    def covariance(self):
        """Correlated errors of 1 %, none where a parameter is not free."""
        free = ~np.isin(self.names, FIXED)
        errors = 0.01 * np.where(free, 1.0, 0.0)
        return np.outer(errors, errors) * (0.3 + 0.7 * np.eye(len(errors)))

    @property
    def errors(self):
        return np.where(np.isin(self.names, FIXED), np.nan, np.sqrt(np.diag(self.covariance)))

    @property
    def chi2(self):
        return float((self.residual[self.fitted] ** 2).mean())

    @property
    def chi2_arcs(self):
        return float((self.residual[self.fitted & (self.arcs > self.noise)] ** 2).mean())

    @property
    def n_pixels(self):
        return int(self.fitted.sum())

    def table(self):
        table = pd.DataFrame({"name": self.names, "value": self.values, "error": self.errors})
        table["unit"] = [row.unit for row in mass.PARAMETERS]
        table["meaning"] = [row.meaning for row in mass.PARAMETERS]
        return table


def light(galaxy, x, y):
    """The brightness of the lens galaxy per square arcsec, without its sky."""
    total = np.zeros_like(x)
    for sigma, k, amplitude in zip(galaxy.sigmas, galaxy.family, galaxy.amplitudes, strict=True):
        e1, e2 = galaxy.ellipticities[k]
        e = np.hypot(e1, e2)
        q, phi = (1 - e) / (1 + e), np.arctan2(e2, e1) / 2
        u = x - galaxy.center[0], y - galaxy.center[1]
        along = np.cos(phi) * u[0] + np.sin(phi) * u[1]
        across = np.cos(phi) * u[1] - np.sin(phi) * u[0]
        r2 = along**2 * q + across**2 / q
        total += amplitude / (2 * np.pi * sigma**2) * np.exp(-r2 / (2 * sigma**2))
    return total


def made(name="J0000+0000", shape=(91, 91), scale=0.06, multipoles=True, seed=0, **changes):
    """Return a model of an observation of this shape, with a masked corner and a neighbour."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(float)
    x, y = (x - (width - 1) / 2) * scale, (y - (height - 1) / 2) * scale
    galaxy = SimpleNamespace(
        center=(0.01, -0.01),
        ellipticities=np.array([[0.1, -0.05], [0.05, 0.02]]),
        sigmas=np.array([0.1, 0.3, 0.8]),
        family=np.array([0, 0, 1]),
        amplitudes=np.array([1.0, 3.0, 6.0]),
        sky=0.01,
        flux=10.0,
        half_light_radius=0.6,
        axis_ratio=0.8,
        position_angle=-13.0,
    )
    source, values = Source(), np.array(list(TRUTH.values()))
    values[8:] *= multipoles
    alpha = mass.deflection(values, x.ravel(), y.ravel()).reshape(2, *shape)
    row = np.arange(-7, 8)
    psf = np.exp(-(row[:, None] ** 2 + row**2) / (2 * 0.9**2))
    psf /= psf.sum()
    arcs = fftconvolve(source.brightness(x - alpha[0], y - alpha[1]) * scale**2, psf, "same")
    lens_light = galaxy.sky + fftconvolve(light(galaxy, x, y) * scale**2, psf, "same")
    rng = np.random.default_rng(seed)
    noise = np.sqrt(0.004**2 + 5e-4 * (arcs + lens_light))
    data = arcs + lens_light + noise * rng.standard_normal(shape)
    spot = 0.12 * np.exp(-((x + 1.9) ** 2 + (y - 1.7) ** 2) / (2 * 0.12**2))
    mask = np.zeros(shape, bool)
    mask[:9, :7] = True
    observation = Observation(
        data + spot, noise, psf, mask, pixel_scale=scale, unit="electron/s", name=name
    )
    near = np.hypot(x + 1.9, y - 1.7) < 0.4
    fitted = ~observation.mask & ~near & (np.hypot(x, y) < 0.48 * min(shape) * scale)
    residual = (observation.data - lens_light - arcs) / noise
    columns = {"x": [-1.9], "y": [1.7], "flux": [0.9], "radius": [0.2], "kind": ["neighbour"]}
    return Model(
        observation=observation,
        noise=noise,
        fitted=fitted,
        lens_light=lens_light,
        arcs=arcs,
        residual=np.where(observation.mask, 0.0, residual),
        neighbours=pd.DataFrame(columns | {"masked": [True]}),
        galaxy=galaxy,
        values=values,
        **changes,
    )

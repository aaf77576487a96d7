"""The light of the lens galaxy: a multi-Gaussian expansion (Cappellari 2002, MNRAS 333, 400).

Two families of concentric elliptical Gaussians, each with its own ellipticity, and a constant sky;
a third family, if the galaxy has a disc that is seen edge-on.
The amplitudes, not negative, are solved for at each step in the few other parameters, the centre
and the ellipticities (variable projection). Such a model falls off in every direction and cannot
make a ring: what is brighter than it, arcs and neighbours, is masked, and the rest fitted again.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import nnls
from scipy.sparse import csr_array

from vitdm.data.observation import Observation
from vitdm.errors import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

NARROWEST = 0.5  # px, sigma of the narrowest Gaussian: what is narrower looks the same
WIDEST = 0.5  # of the larger side of the image
RATIO = 1.7  # largest ratio of neighbouring sigmas: a power law comes out smooth to 0.1 %
MODEL_ERROR = 0.025  # of the galaxy's light: what ellipses and the PSF's errors leave of it
BLURRED = 0.001  # largest error of a Gaussian that is widened by the PSF, of its peak
LIMIT = 16.0  # px, largest sigma of those that are not: the wings of a PSF reach far
REACH = 6.0  # sigmas of the widest Gaussian that is blurred by FFT, to which it is computed
INNER, BLOCK = 30, 3  # px: radius in which each pixel is fitted; beyond, means of so many squared
SEARCH = 0.75  # ", s.d. of the weight with which the brightest place is looked for at the start
ROUNDED = 0.3  # s.d. of the ellipticities' normal prior, which steadies a family without light
WANDER = 5.0  # px, s.d. of the centre's prior about the brightest place
SHARP = 1.2  # px, sigma along the minor axis below which sampling aliases
LARGEST = 0.85  # ellipticity
ROUND = np.array([[0.05, 0.02], [0.02, 0.05]])  # ellipticities of a start
ELONGATED, DISC = 0.22, 0.8  # ellipticity from which a disc is looked for; that of the disc
EXPLAINED = 0.95  # largest ratio of what is left with the disc and without
ROBUST, STEPS = 6, 3  # steps with all pixels; steps between two masks
ROUNDS, EDGES = 6, 2  # masks of what is bright; masks of their edges, too
GAIN = 0.1  # of chi2, with which a step is the last
SETTLED = 5e-4  # fraction of pixels in which a mask may differ from the last
AROUND = np.array([1, 2, 3, 2, 1]) / 9  # weights of the mean amplitude of neighbouring Gaussians
BEND, FAINT = 1.0, 0.01  # usual second difference over that mean; least mean over that of all
BROAD = 2.0  # sigmas of the PSF, of the narrowest Gaussian whose amplitude is like its neighbours'
RIDGE = 1e-10  # added to normal matrices of unit diagonal: neighbouring Gaussians are nearly alike
CORE = 3.0  # sigmas of the PSF about the centre that are never masked: errors of the PSF
HIGH, LOW = 3.0, 1.5  # sigmas above the galaxy: of what is bright in arcs, and of their edges
SMALLEST, BESIDE, GROWN = 5, 4, 2  # px: of what is bright; to its farthest edges; beyond them
DEFAULT_FWHM = 2.0  # px, where nothing is known of the PSF


@dataclass(frozen=True, eq=False)
class Galaxy:
    """Light of a galaxy: k Gaussians in n families, and the sky.

    ``center`` (x, y) ["]; ``ellipticities`` (n, 2): e1, e2 of each family; ``sigmas`` (k,) ["]: of
    the geometric mean of both axes; ``family`` (k,): below n; ``amplitudes`` (k,): flux in the unit
    of the image; ``sky``: per pixel; ``chi2``: mean square of the residuals over the noise, outside
    ``arcs`` (H, W), where something else is brighter than the galaxy.
    """

    center: tuple[float, float]
    ellipticities: Array
    sigmas: Array
    family: NDArray[np.intp]
    amplitudes: Array
    sky: float
    chi2: float
    arcs: Mask
    pixel_scale: float
    psf: Array

    def components(
        self, which: NDArray | slice = slice(None), shape: tuple[int, int] | None = None
    ) -> Array:
        """Return images (k, H, W) of Gaussians, all or some, of flux 1, as seen through the PSF.

        The middle of an image of another ``shape`` is that of the image that was fitted.
        """
        height, width = shape or self.arcs.shape
        x, y = (c / self.pixel_scale for c in self.center)
        center = x + (width - 1) / 2, y + (height - 1) / 2
        parameters, blur = np.concatenate([center, self.ellipticities.ravel()]), _Blur(self.psf)
        sigmas = self.sigmas[which] / self.pixel_scale
        gaussians = _Gaussians(parameters, sigmas, self.family[which])
        pixels = _Pixels.every((height, width), center, blur)
        return gaussians.seen(pixels, blur).T.reshape(-1, height, width)

    def image(self, shape: tuple[int, int] | None = None, sky: bool = True) -> Array:
        """Return the galaxy (H, W), with or without the sky, as seen through the PSF."""
        lit = self.amplitudes > 0
        light = np.tensordot(self.amplitudes[lit], self.components(lit, shape), 1)
        return light + self.sky * sky

    @property
    def flux(self) -> float:
        """All light of the galaxy, in the unit of the image."""
        return float(self.amplitudes.sum())

    @property
    def ellipticity(self) -> Array:
        """e1, e2 of the light within the half-light radius."""
        weight = self.amplitudes * -np.expm1(-0.5 * (self.half_light_radius / self.sigmas) ** 2)
        return weight @ self.ellipticities[self.family] / max(weight.sum(), 1e-300)

    @property
    def axis_ratio(self) -> float:
        """Minor over major axis, within the half-light radius."""
        e = math.hypot(*self.ellipticity)
        return (1 - e) / (1 + e)

    @property
    def position_angle(self) -> float:
        """Direction of the major axis, degrees from x towards y, from -90 to 90."""
        e1, e2 = self.ellipticity
        return math.degrees(math.atan2(e2, e1) / 2)

    @property
    def half_light_radius(self) -> float:
        """Radius ["], the geometric mean of both axes, with half of the light, before the PSF."""
        if self.flux <= 0:
            return math.nan
        radii = np.geomspace(self.sigmas.min() / 10, self.sigmas.max() * 10, 2000)
        enclosed = -np.expm1(-0.5 * (radii[:, None] / self.sigmas) ** 2) @ self.amplitudes
        return float(np.interp(self.flux / 2, enclosed, radii))


def fit_galaxy(
    observation: Observation, noise: Array | float, exclude: Mask | None = None
) -> Galaxy:
    """Fit the light of the lens galaxy; arcs and neighbours are found and masked.

    ``noise``: rms in the unit of the image, (H, W) or one number; pixels without a positive finite
    one are not fitted. ``exclude`` (H, W): True where light of something else is known. InputError,
    if the pixel scale is unknown, shapes differ or no pixel is left.
    """
    image, good, noise = _checked(observation, noise, exclude)
    scale, blur = float(observation.pixel_scale), _Blur(kernel_of(observation))
    fitted = _best(_Fit(image, noise, good, blur, scale))
    q, arcs, (height, width) = fitted.parameters, fitted.arcs, image.shape
    residual = (image - fitted.model)[good & ~arcs] / noise[good & ~arcs]
    return Galaxy(
        center=(float(q[0] - (width - 1) / 2) * scale, float(q[1] - (height - 1) / 2) * scale),
        ellipticities=q[2:].reshape(-1, 2),
        sigmas=fitted.sigmas * scale,
        family=fitted.family,
        amplitudes=fitted.amplitudes,
        sky=fitted.sky,
        chi2=float(np.mean(residual**2)) if residual.size else math.nan,
        arcs=arcs,
        pixel_scale=scale,
        psf=blur.kernel,
    )


def kernel_of(observation: Observation) -> Array:
    """Return the kernel of the PSF: as given, or the Gaussian of the given FWHM, else of 2 px."""
    psf = observation.psf
    if isinstance(psf, np.ndarray):
        return psf
    fwhm = DEFAULT_FWHM if psf is None else psf / observation.pixel_scale
    sigma = max(fwhm / math.sqrt(8 * math.log(2)), 1e-3)
    offset = np.arange(2 * math.ceil(4 * sigma) + 1) - math.ceil(4 * sigma)
    row = np.exp(-0.5 * (offset / sigma) ** 2)
    return np.outer(row, row) / row.sum() ** 2


def _checked(
    observation: Observation, noise: Array | float, exclude: Mask | None
) -> tuple[Array, Mask, Array]:
    """Return the image, where it can be fitted, and the noise; elsewhere the image is 0."""
    name = observation.name
    if observation.pixel_scale is None:
        raise InputError(f"{name}: found no pixel_scale; expected arcsec per pixel, above 0")
    noise = np.asarray(noise, float)
    if noise.ndim == 0:
        noise = np.full(observation.shape, float(noise))
    if noise.shape != observation.shape:
        raise InputError(
            f"{name}: noise: found a map of shape {noise.shape}; expected {observation.shape}"
        )
    good = ~observation.mask & np.isfinite(noise) & (noise > 0)
    if exclude is not None:
        if np.shape(exclude) != observation.shape:
            raise InputError(
                f"{name}: exclude: found a mask of shape {np.shape(exclude)}; expected "
                f"{observation.shape}"
            )
        good &= ~np.asarray(exclude, bool)
    if not good.any():
        raise InputError(f"{name}: found no pixel that is neither masked nor excluded")
    return np.where(good, observation.data, 0.0).astype(float), good, np.where(good, noise, 1.0)


def _widths(shape: tuple[int, int], families: int) -> tuple[Array, NDArray[np.intp]]:
    """Return sigmas [px] and families of the Gaussians."""
    widest = max(WIDEST * max(shape), 2 * NARROWEST)
    number = 1 + math.ceil(math.log(widest / NARROWEST) / math.log(RATIO))
    sigmas = np.geomspace(NARROWEST, widest, number)
    return np.tile(sigmas, families), np.repeat(np.arange(families), number)


def _brightest(image: Array, good: Mask, scale: float) -> tuple[float, float]:
    """Return x, y [px] of the brightest smoothed place, the nearer to the middle the rather."""
    sigma = max(scale / 5, 1.0)  # wide enough to fill what is masked
    light, weight = (
        cv2.GaussianBlur(array, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        for array in (image * good, good.astype(float))
    )
    light = light / np.maximum(weight, 0.01)
    y, x = np.indices(image.shape, float)
    height, width = image.shape
    distance = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2)
    score = (light - np.median(light[good])) * np.exp(-0.5 * (distance / scale) ** 2)
    row, column = np.unravel_index(np.argmax(score), image.shape)
    return float(column), float(row)


class _Blur:
    """A PSF: its kernel, its covariance, and up to which sigma a Gaussian feels more than that."""

    def __init__(self, kernel: Array) -> None:
        self.kernel, self._spectra = kernel, {}
        self.sigma = 1 / math.sqrt(2 * np.pi * kernel.max())  # of the Gaussian of the same peak
        height, width = kernel.shape
        y, x = (np.arange(side) - (side - 1) / 2 for side in (height, width))
        self.corner = np.array([(side - 1) / 2 % 1 for side in (width, height)])  # if even: 0.5
        self.mean = kernel.sum(0) @ x, kernel.sum(1) @ y
        x, y = x - self.mean[0], y - self.mean[1]
        xx, yy = kernel.sum(0) @ x**2, kernel.sum(1) @ y**2
        self.covariance = np.array([xx, y @ kernel @ x, yy]) + [1 / 12, 0, 1 / 12]  # and the pixel
        # Next order after the covariance: excess kurtosis, kappa_4 / (8 sigma^4) at the peak.
        fourth = max(
            abs(kernel.sum(0) @ x**4 - 3 * xx**2), abs(kernel.sum(1) @ y**4 - 3 * yy**2), 1e-3
        )
        self.limit = min(max((fourth / 8 / BLURRED) ** 0.25, 2.0), LIMIT)

    def spectrum(self, n: int) -> Array:
        """Return the kernel's transform (n, n // 2 + 1), its origin ``corner`` from its middle."""
        if n not in self._spectra:
            wx, wy = 2 * np.pi * np.fft.rfftfreq(n), 2 * np.pi * np.fft.fftfreq(n)[:, None]
            height, width = self.kernel.shape
            shift = np.exp(1j * (wy * ((height - 1) // 2) + wx * ((width - 1) // 2)))
            self._spectra[n] = rfft2(self.kernel, (n, n)) * shift
        return self._spectra[n]


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Pixels, or means of several: positions [px] from a corner, and how a box becomes them."""

    x: Array  # (P,)
    y: Array  # (P,)
    box: int  # side of the box in which the narrow Gaussians are blurred by FFT
    corner: tuple[int, int]  # column and row of its first pixel
    average: csr_array  # (P, box * box)

    @classmethod
    def every(cls, shape: tuple[int, int], center: tuple[float, float], blur: _Blur) -> _Pixels:
        """Return all pixels of an image."""
        return cls.of(np.arange(shape[0] * shape[1]).reshape(shape), center, blur)

    @classmethod
    def of(cls, groups: NDArray[np.intp], center: tuple[float, float], blur: _Blur) -> _Pixels:
        """Return the means of the pixels of each group (H, W), numbered from 0; -1 is left out."""
        rows, columns = np.nonzero(groups >= 0)
        group = groups[rows, columns]
        number = np.bincount(group)
        x, y = (np.bincount(group, axis) / number for axis in (columns, rows))
        half = math.ceil(REACH * blur.limit + max(blur.kernel.shape) / 2)
        box = next_fast_len(2 * half + 1, real=True)
        corner = round(center[0]) - box // 2, round(center[1]) - box // 2
        inside = (np.abs(columns - corner[0] - (box - 1) / 2) < box / 2) & (
            np.abs(rows - corner[1] - (box - 1) / 2) < box / 2
        )
        place = (rows[inside] - corner[1]) * box + columns[inside] - corner[0]
        entries = (1 / number[group[inside]], (group[inside], place))
        return cls(x, y, box, corner, csr_array(entries, shape=(number.size, box * box)))

    def means(self, spectra: Array) -> Array:
        """Return the means (P, k) of images that have the transforms (k, box, box // 2 + 1)."""
        images = irfft2(spectra, (self.box, self.box))
        return self.average @ images.reshape(-1, self.box**2).T


class _Gaussians:
    """Elliptical Gaussians of flux 1 at one centre, in n families of ellipticity.

    ``parameters``: x, y [px], then e1, e2 of each family. The covariance is
    sigma^2 [(1 + e^2) I + 2 E] / (1 - e^2) with E = [[e1, e2], [e2, -e1]]; its determinant is
    sigma^4 and the ratio of the axes (1 - e) / (1 + e), as in lenstronomy.
    """

    def __init__(self, parameters: Array, sigmas: Array, family: NDArray[np.intp]) -> None:
        self.center, self.sigmas, self.family = parameters[:2], sigmas, family
        self.families = (parameters.size - 2) // 2
        e1, e2 = parameters[2:].reshape(-1, 2).T[:, family]  # (k,) each
        e = e1**2 + e2**2
        # rows xx, xy, yy of the covariance, and of its derivatives by e1 and e2
        unit = np.array([1 + e + 2 * e1, 2 * e2, 1 + e - 2 * e1]) / (1 - e)
        self.covariance = sigmas**2 * unit
        self.minor = sigmas * np.sqrt((1 - np.sqrt(e)) / (1 + np.sqrt(e)))
        by1 = (np.array([2 * e1 + 2, 0 * e, 2 * e1 - 2]) + 2 * e1 * unit) / (1 - e)
        by2 = (np.array([2 * e2, 0 * e + 2, 2 * e2]) + 2 * e2 * unit) / (1 - e)
        self.derivatives = sigmas**2 * by1, sigmas**2 * by2

    def seen(self, pixels: _Pixels, blur: _Blur) -> Array:
        """Return their means (P, k) over pixels, as seen through the PSF."""
        narrow, wide = self._by_width(blur)
        seen = np.empty((pixels.x.size, self.sigmas.size))
        seen[:, narrow] = self._narrow(pixels, blur, narrow)
        seen[:, wide] = self._wide(pixels, blur, wide)[0]
        return seen

    def slopes(self, pixels: _Pixels, blur: _Blur, amplitudes: Array) -> Array:
        """Return derivatives (P, 2 + 2 n) of the light by the parameters, at fixed amplitudes."""
        narrow, wide = (some[amplitudes[some] > 0] for some in self._by_width(blur))
        slopes = self._wide_slopes(pixels, blur, wide, amplitudes)
        return slopes + self._narrow_slopes(pixels, blur, narrow, amplitudes)

    def _by_width(self, blur: _Blur) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return which Gaussians are blurred by FFT, and which are widened."""
        narrow = self.sigmas < blur.limit
        return np.flatnonzero(narrow), np.flatnonzero(~narrow)

    def _wide(
        self, pixels: _Pixels, blur: _Blur, chosen: NDArray[np.intp]
    ) -> tuple[Array, Array, Array]:
        """Return Gaussians widened by the PSF's covariance (P, k), inverse covariances, terms."""
        xx, xy, yy = self.covariance[:, chosen] + blur.covariance[:, None]
        determinant = xx * yy - xy**2
        inverse = np.array([yy, -xy, xx]) / determinant
        x, y = pixels.x - self.center[0] - blur.mean[0], pixels.y - self.center[1] - blur.mean[1]
        terms = np.stack([x * x, 2 * x * y, y * y], 1)
        peaks = 1 / (2 * np.pi * np.sqrt(determinant))
        return np.exp(-0.5 * (terms @ inverse)) * peaks, inverse, terms

    def _wide_slopes(
        self, pixels: _Pixels, blur: _Blur, chosen: NDArray[np.intp], amplitudes: Array
    ) -> Array:
        gaussians, inverse, terms = self._wide(pixels, blur, chosen)
        gaussians *= amplitudes[chosen]
        x, y = pixels.x - self.center[0] - blur.mean[0], pixels.y - self.center[1] - blur.mean[1]
        sums = gaussians @ inverse.T  # (P, 3)
        slopes = [x * sums[:, 0] + y * sums[:, 1], x * sums[:, 1] + y * sums[:, 2]]
        for k in range(self.families):
            mine = self.family[chosen] == k
            a, b, c = inverse[:, mine]
            for derivative in self.derivatives:
                # dG / dC = G (C^-1 r r^T C^-1 - C^-1) / 2
                d, e, f = derivative[:, chosen[mine]]
                turned = np.array(
                    [
                        a * a * d + 2 * a * b * e + b * b * f,
                        a * b * d + (a * c + b * b) * e + b * c * f,
                        b * b * d + 2 * b * c * e + c * c * f,
                    ]
                )
                trace = a * d + 2 * b * e + c * f
                own = gaussians[:, mine]
                slopes.append(((own @ turned.T * terms).sum(1) - own @ trace) / 2)
        return np.stack(slopes, 1)

    def _narrow(self, pixels: _Pixels, blur: _Blur, chosen: NDArray[np.intp]) -> Array:
        spectra = np.zeros((chosen.size, pixels.box, pixels.box // 2 + 1), complex)
        for members, spectrum, *_ in self._spectra(pixels, blur, chosen):
            spectra[np.searchsorted(chosen, members)] += spectrum
        return pixels.means(spectra)

    def _narrow_slopes(
        self, pixels: _Pixels, blur: _Blur, chosen: NDArray[np.intp], amplitudes: Array
    ) -> Array:
        total = np.zeros((2 + 2 * self.families, pixels.box, pixels.box // 2 + 1), complex)
        for members, spectrum, wx, wy in self._spectra(pixels, blur, chosen):
            spectrum *= amplitudes[members, None, None]
            light = spectrum.sum(0)
            total[:2] += -1j * wx * light, -1j * wy * light
            for k in range(self.families):
                mine = self.family[members] == k
                for j, derivative in enumerate(self.derivatives):
                    xx, xy, yy = np.tensordot(derivative[:, members[mine]], spectrum[mine], 1)
                    total[2 + 2 * k + j] -= 0.5 * (xx * wx**2 + 2 * xy * wx * wy + yy * wy**2)
        return pixels.means(total)

    def _spectra(
        self, pixels: _Pixels, blur: _Blur, chosen: NDArray[np.intp]
    ) -> Iterator[tuple[NDArray[np.intp], Array, Array, Array]]:
        """Yield parts of the transforms of Gaussians in pixels, blurred: members, part, omega.

        What is narrower than a pixel has power above its Nyquist frequency; sampled, it comes back
        at lower ones: such a transform is a sum over three by three orders, each with its omega.
        """
        kernel, period = blur.spectrum(pixels.box), 2 * np.pi
        wx, wy = period * np.fft.rfftfreq(pixels.box), period * np.fft.fftfreq(pixels.box)
        x, y = self.center - pixels.corner - blur.corner
        sharp = chosen[self.minor[chosen] < SHARP]
        for m, n in itertools.product((0, -1, 1), repeat=2):
            members = sharp if m or n else chosen
            if not members.size:
                continue
            vx, vy = wx + period * m, (wy + period * n)[:, None]
            weight = kernel * (np.sinc(vx / period) * np.exp(-1j * vx * x))
            weight *= np.sinc(vy / period) * np.exp(-1j * vy * y)
            xx, xy, yy = self.covariance[:, members, None, None]
            power = np.exp(-0.5 * (xx * vx**2 + 2 * xy * (vx * vy) + yy * vy**2))
            yield members, power * weight, vx, vy


def _best(fit: _Fit) -> _Fit:
    """Return the fit of two families or, if a disc seen edge-on explains far more, of three.

    What is left is summed with each pixel counted to ``HIGH`` sigmas, so that arcs, which lie above
    either model, do not count.
    """
    first = fit.run(ROUND)
    size = math.hypot(*first.ellipticity)
    if size < ELONGATED:
        return first
    found = first.parameters[2:].reshape(-1, 2)
    fits = first, fit.run(np.vstack([found, DISC * first.ellipticity / size]))
    weight = fit.good / (fit.noise**2 + (MODEL_ERROR * first.light) ** 2)
    left = [np.minimum((fit.image - one.model) ** 2 * weight, HIGH**2).sum() for one in fits]
    return fits[int(left[1] < EXPLAINED * left[0])]


class _Fit:
    """The fit of one image: its pixels, and the present state of the model."""

    def __init__(self, image: Array, noise: Array, good: Mask, blur: _Blur, scale: float) -> None:
        self.image, self.noise, self.good, self.blur = image, noise, good, blur
        self.place = _brightest(image, good, SEARCH / scale)
        self.sky = 0.0
        self.model = np.clip(cv2.GaussianBlur(image, (0, 0), 2.0), 0, None)  # for its errors only
        self.everywhere = _Pixels.every(image.shape, self.place, blur)

    def run(self, ellipticities: Array) -> _Fit:
        """Return the fit from a start, when the mask ``arcs`` no longer changes."""
        fit = copy.copy(self)
        n = len(ellipticities)
        fit.parameters = np.concatenate([self.place, ellipticities.ravel()])
        fit.sigmas, fit.family = _widths(self.image.shape, n)
        fit.prior = (
            np.array([*self.place] + [0] * 2 * n),
            np.array([WANDER] * 2 + [ROUNDED] * 2 * n),
        )
        fit.smooth = np.zeros((0, fit.sigmas.size))
        fit._fit(self.good, robust=True)
        fit.arcs = fit._brighter()
        for _ in range(ROUNDS):
            fit._fit(self.good & ~fit.arcs)
            before, fit.arcs = fit.arcs, fit._brighter()
            if np.mean(before ^ fit.arcs) < SETTLED:
                break
        for _ in range(EDGES):  # at last: from the start, they would take the galaxy's own shape
            fit._fit(self.good & ~fit.arcs)
            fit.arcs = fit._brighter(edges=True)
        fit._fit(self.good & ~fit.arcs)
        return fit

    @property
    def ellipticity(self) -> Array:
        """Mean e1, e2 of the light."""
        shares = np.bincount(self.family, self.amplitudes) / max(self.amplitudes.sum(), 1e-300)
        return shares @ self.parameters[2:].reshape(-1, 2)

    @property
    def light(self) -> Array:
        """The galaxy alone (H, W)."""
        return np.clip(self.model - self.sky, 0, None)

    def _brighter(self, edges: bool = False) -> Mask:
        """Return where something is brighter than the galaxy, noise and model error considered."""
        error, sigma = MODEL_ERROR * self.light, self.blur.sigma
        weight = self.good / (self.noise**2 + error**2)
        # Matched filter for point sources. The error of the model does not average out over
        # neighbouring pixels: it is added once more, after the filter.
        signal = cv2.GaussianBlur((self.image - self.model) * weight, (0, 0), sigma)
        passed = cv2.GaussianBlur(weight, (0, 0), sigma)
        power = cv2.GaussianBlur(weight, (0, 0), sigma / math.sqrt(2)) / (4 * np.pi * sigma**2)
        excess = signal / np.sqrt(power + (error * passed) ** 2 + 1e-300)
        y, x = np.indices(excess.shape)
        core = np.hypot(x - self.parameters[0], y - self.parameters[1]) < CORE * sigma
        return _regions(np.where(self.good & ~core, excess, 0.0), edges) & ~core

    def _fit(self, used: Mask, robust: bool = False) -> None:
        """Take Gauss-Newton steps with the pixels ``used``; compute the model everywhere."""
        groups = _groups(used, self.place)
        pixels = _Pixels.of(groups, self.place, self.blur)
        data, variance, light = (
            _means(array, groups) for array in (self.image, self.noise**2, self.light)
        )
        number = np.bincount(groups[used])
        weight = 1 / (variance / number + (MODEL_ERROR * light) ** 2)
        state = self._linear(self.parameters, pixels, data, weight)
        for _ in range(ROBUST if robust else STEPS):
            before = state
            if robust:  # arcs, which lie above the model, count less and less
                excess = np.clip(data - state.model, 0, None) * np.sqrt(weight)
                counted = weight / (1 + (excess / HIGH) ** 2)
                state = self._linear(state.parameters, pixels, data, counted)
            state = self._stepped(state, pixels, data, counted if robust else weight)
            if not robust and before.chi2 - state.chi2 < GAIN:
                break
        self.parameters, self.amplitudes, self.sky = state.parameters, state.amplitudes, state.sky
        families = len(self.parameters) // 2 - 1
        self.smooth = _smoothness(self.amplitudes, self.sigmas, families, BROAD * self.blur.sigma)
        lit = self.amplitudes > 0
        gaussians = _Gaussians(self.parameters, self.sigmas[lit], self.family[lit])
        light = gaussians.seen(self.everywhere, self.blur) @ self.amplitudes[lit]
        self.model = light.reshape(self.image.shape) + self.sky

    def _linear(self, parameters: Array, pixels: _Pixels, data: Array, weight: Array) -> _State:
        """Solve for amplitudes and sky at given parameters."""
        gaussians = _Gaussians(parameters, self.sigmas, self.family)
        columns = gaussians.seen(pixels, self.blur)
        amplitudes, sky = _amplitudes(columns, data, weight, self.smooth)
        model = columns @ amplitudes + sky
        mean, spread = self.prior
        chi2 = weight @ (data - model) ** 2 + (((parameters - mean) / spread) ** 2).sum()
        chi2 += ((self.smooth @ amplitudes) ** 2).sum()
        return _State(parameters, gaussians, columns, amplitudes, sky, model, chi2)

    def _stepped(self, state: _State, pixels: _Pixels, data: Array, weight: Array) -> _State:
        """Return the state after a Gauss-Newton step, shortened until chi2 falls."""
        slopes = state.gaussians.slopes(pixels, self.blur, state.amplitudes)
        lit = state.amplitudes > 0
        columns = np.hstack([slopes, state.columns[:, lit], np.ones((data.size, 1))])
        mean, spread = self.prior
        n = mean.size
        known = np.concatenate([spread**-2, np.zeros(columns.shape[1] - n)])
        scale = np.sqrt(weight @ columns**2 + known)
        weighted = columns.T * weight
        matrix = (weighted @ columns + np.diag(known)) / np.outer(scale, scale)
        matrix[np.diag_indices_from(matrix)] += RIDGE
        right = weighted @ (data - state.model)
        right[:n] += (mean - state.parameters) / spread**2
        step = cho_solve(cho_factor(matrix), right / scale)[:n] / scale[:n]
        for length in (1.0, 0.3, 0.1):
            trial = self._linear(_bounded(state.parameters + length * step), pixels, data, weight)
            if trial.chi2 < state.chi2:
                return trial
        return state


@dataclass(frozen=True, eq=False)
class _State:
    parameters: Array
    gaussians: _Gaussians
    columns: Array  # (P, k)
    amplitudes: Array
    sky: float
    model: Array  # (P,)
    chi2: float


def _amplitudes(columns: Array, data: Array, weight: Array, smooth: Array) -> tuple[Array, float]:
    """Return the amplitudes, not negative, and the sky of least weighted squares.

    The squares of ``smooth`` (m, k) times the amplitudes are added.
    """
    share = weight / weight.sum()
    mean, level = share @ columns, share @ data  # the sky, of any sign, is eliminated
    centred, excess = columns - mean, data - level
    weighted = centred.T * weight
    matrix, right = weighted @ centred + smooth.T @ smooth, weighted @ excess
    scale = np.sqrt(np.diag(matrix))
    scale[scale == 0] = 1.0
    matrix /= np.outer(scale, scale)
    matrix[np.diag_indices_from(matrix)] += RIDGE
    # |L^T a - L^-1 b| has the same minimum as the sum over all pixels
    factor = np.linalg.cholesky(matrix)
    amplitudes = nnls(factor.T, solve_triangular(factor, right / scale, lower=True))[0] / scale
    return amplitudes, float(level - mean @ amplitudes)


def _smoothness(amplitudes: Array, sigmas: Array, families: int, narrowest: float) -> Array:
    """Return the matrix (m, k) of differences that are 1 where amplitudes bend as much as usual.

    Second differences along each family, from the sigma ``narrowest`` on, over ``BEND`` times the
    mean amplitude around there. They steady the light where it is extrapolated under arcs.
    """
    rows = amplitudes.reshape(families, -1)
    n = rows.shape[1]
    if n < len(AROUND) or not amplitudes.any():
        return np.zeros((0, amplitudes.size))
    usual = np.convolve(rows.mean(0), AROUND, "same")
    usual = BEND * np.maximum(usual, FAINT * amplitudes.mean())
    bend = (np.eye(n, k=-1) - 2 * np.eye(n) + np.eye(n, k=1)) / usual[:, None]
    return np.kron(np.eye(families), bend[1:-1][sigmas[: n - 2] > narrowest])


def _bounded(parameters: Array) -> Array:
    """Return parameters with ellipticities below the largest."""
    e = parameters[2:].reshape(-1, 2)
    size = np.maximum(np.hypot(*e.T) / LARGEST, 1.0)
    return np.concatenate([parameters[:2], (e / size[:, None]).ravel()])


def _groups(used: Mask, center: tuple[float, float]) -> NDArray[np.intp]:
    """Return the number of each pixel's group: itself near the galaxy, blocks farther out."""
    rows, columns = np.indices(used.shape)
    near = np.hypot(columns - center[0], rows - center[1]) < INNER
    blocks = used.size + rows // BLOCK * used.shape[1] + columns // BLOCK
    names = np.where(near, rows * used.shape[1] + columns, blocks)
    groups = np.full(used.shape, -1)
    groups[used] = np.unique(names[used], return_inverse=True)[1]
    return groups


def _means(image: Array, groups: NDArray[np.intp]) -> Array:
    used = groups >= 0
    return np.bincount(groups[used], image[used]) / np.bincount(groups[used])


def _regions(excess: Array, edges: bool) -> Mask:
    """Return regions of several pixels above ``HIGH``, or with ``edges`` above ``LOW`` beside."""
    high = (excess > HIGH).view(np.uint8)
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(high, connectivity=8)
    large = statistics[:, cv2.CC_STAT_AREA] >= SMALLEST
    large[0] = False
    bright = large[labels]
    if edges:
        bright |= _grown(bright, BESIDE) & (excess > LOW)
    return _grown(bright, GROWN)


def _grown(mask: Mask, radius: int) -> Mask:
    side = 2 * radius + 1
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return cv2.dilate(mask.view(np.uint8), disk).astype(bool)

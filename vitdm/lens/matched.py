r"""Point masses and strings of them, looked for in what a fitted smooth lens leaves.

A point mass m at s, in units of its squared Einstein radius [arcsec²], deflects by
:math:`m\,a(x - s)` with :math:`a(d) = d / |d|^2`, and to first order changes the image by m times

.. math:: T_s = -\nabla S \cdot a(x - s) / \sigma,

S the source as it is seen, :math:`\sigma` the noise of a pixel: :math:`-\nabla S` convolved with
the PSF is the derivative of the image by the source's position, which the fit has. (a is taken to
be constant over the PSF, and softened at its centre.) What smooth parameters could imitate is taken
out: with Q an orthonormal basis of their derivatives and r the residual in units of the noise,

.. math:: N = T \cdot (r - Q^T Q r), \quad D = |T|^2 - |Q T|^2, \quad
    \hat m = N / D \pm D^{-1/2}, \quad \Delta\chi^2 = N^2 / D:

the matched subspace detector of Scharf & Friedlander (1994, IEEE Trans. Signal Process. 42, 2146).
All sums over pixels are correlations with a or its squares, and so Fourier transforms: one for all
places s. A string is a row of points; N and Q T are linear in it, and :math:`|T|^2` has a kernel of
its own for each length and angle.

The *evidence* of a place unknown, and a mass that is positive, :math:`\propto e^{-m^2/2\tau^2}`, is

.. math:: \ln \left\langle \frac{2}{\sqrt{1 + \tau^2 D}}\, e^{N^2 / 2D'} \Phi(N / \sqrt{D'})
    \right\rangle_s, \quad D' = D + \tau^{-2},

the logarithm of a ratio of likelihoods, and so, to first order, the best score of one image that
there is for such masses (Neyman & Pearson 1933, doi:10.1098/rsta.1933.0009).
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from vitdm.config.images import PLACES, PROFILES, binning
from vitdm.lens.model import Camera

TRUNCATION = 0.2  # arcsec, radius at which clumps are cut
SOFTENING = 0.5  # binned px, of the deflection at a point mass
LENGTHS, ANGLES = (0.7, 1.5), 6  # of strings: arcsec, and how many in half a turn
POINT, STRING = 0.015, 0.04  # tau of point and string, as a share of the lens's squared theta_E
POINTS = 6  # point masses that are taken out one after the other
SURE = 1e-4  # of |T|² must be left, or smooth parameters imitate the mass

#: what is told of each image; ``vitdm.features.definitions`` says how
NAMES = ("point_snr", "point_mass", "point_evidence", "string_mass", "string_evidence")
COMPARED = (1, 3, POINTS)  # numbers of points that a string is compared with
NAMES += tuple(f"string_gain_{k}" for k in COMPARED)


def search_of(camera: Camera, places: int = PLACES) -> Search:
    """Return the search in images of a camera, whose kernels are made but once."""
    return _search_of(camera.size, camera.pixel_scale, camera.offset, places)


@functools.lru_cache(maxsize=8)
def _search_of(size: int, pixel_scale: float, offset: tuple[float, float], places: int) -> Search:
    return Search(Camera(size, pixel_scale, offset=offset), places)


class Search:
    """The perturbers that are looked for in images of a camera; see the module.

    Pixels are binned to about as many ``places`` along a side.
    """

    def __init__(self, camera: Camera, places: int = PLACES) -> None:
        k = binning(camera.size, places)
        self.binning, self.n, step = k, camera.size // k, k * camera.pixel_scale
        self.side = 2 * self.n  # zero padded: no place sees the opposite edge
        x, y = (axis.float() for axis in camera.binned(k).axes())
        self.y, self.x = (grid.flatten() for grid in torch.meshgrid(y, x, indexing="ij"))
        self.reach = self.n * step / 2  # arcsec, from the centre of the lens
        self.soft2 = (SOFTENING * step) ** 2
        d = torch.fft.fftfreq(self.side, 1 / self.side, dtype=torch.float64) * step
        a_y, a_x = torch.meshgrid(d, d, indexing="ij")
        d2 = a_x**2 + a_y**2 + self.soft2
        a = torch.stack([a_x, a_y]) / d2
        self.point = self._spectra(a)
        x = d2.sqrt() / TRUNCATION
        self.clump = self._spectra(a * (1 + x - torch.sqrt(1 + x**2)))
        strings = [
            _string(length / (2 * step), math.pi * i / ANGLES, math.ceil(max(LENGTHS) / step / 4))
            for length in LENGTHS
            for i in range(ANGLES)
        ]  # on every other place along each axis
        self.strings = torch.stack(strings)[:, None]
        places = torch.zeros(len(strings), self.side, self.side, dtype=torch.float64)
        reach = self.strings.shape[-1] // 2
        at = 2 * torch.arange(-reach, reach + 1) % self.side
        places[:, at[:, None], at] = self.strings[:, 0]
        spread = torch.fft.rfft2(places)[:, None] * torch.fft.rfft2(a)
        spread = torch.fft.irfft2(spread, s=(self.side, self.side))
        self.string_squares = torch.stack([self._spectra(b)[1] for b in spread], 1)
        self.strings = self.strings.float()

    def __call__(
        self,
        rows: Tensor,
        source: tuple[int, int],
        theta_E: Tensor,
        center_x: Tensor,
        center_y: Tensor,
    ) -> Tensor:
        """Return the ``NAMES`` (n, names) of images, NaN where no mass could be told.

        ``rows`` (n, 1 + p, size, size) are the residual and the derivatives by the p parameters, in
        units of the noise, of few images at a time; ``source`` tells which of the rows are those by
        the source's x and y; ``theta_E``, ``center_x`` and ``center_y`` (n,) are in arcsec.
        """
        return self.numbers_and_maps(rows, source, theta_E, center_x, center_y, mapped=False)[0]

    def numbers_and_maps(
        self,
        rows: Tensor,
        source: tuple[int, int],
        theta_E: Tensor,
        center_x: Tensor,
        center_y: Tensor,
        mapped: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return the ``NAMES`` as ``__call__`` does, and maps (n, 2, 3, places, places).

        The maps are those of S/N and of D [arcsec⁻⁴], both 0 where nothing could be told, of the
        ``PROFILES``: a point mass, a clump (an isothermal sphere that is cut at ``TRUNCATION``),
        and a string in the direction and of the length that has the largest S/N. Without
        ``mapped`` they are not made, (n, 2, 0, places, places).
        """
        lit, pairs = self._lit(rows, source)
        inside = self.inside(center_x, center_y)
        seen, D = self._seen(lit, pairs, self.point)
        D = torch.where(inside, D, 0.0)
        told = torch.full((len(rows), len(NAMES)), math.nan)
        column = {name: told[:, k] for k, name in enumerate(NAMES)}
        best = _best(seen[:, 0], D, theta_E, POINT)
        column["point_snr"][:], column["point_mass"][:], column["point_evidence"][:] = best
        gains = self._pursue(seen, pairs, D)
        N, D_string = self._string_maps(seen, pairs, inside)
        maps = rows.new_zeros(len(rows), 2, len(PROFILES) if mapped else 0, self.n, self.n)
        if mapped:
            clump, D_clump = self._seen(lit, pairs, self.clump)
            D_clump = torch.where(inside, D_clump, 0.0)
            for k, (some, information) in enumerate(((seen, D), (clump, D_clump))):
                maps[:, 0, k] = _significance(some[:, 0], information).view(-1, self.n, self.n)
                maps[:, 1, k] = information.view(-1, self.n, self.n)
            maps[:, :, 2] = self._best_strings(N, D_string)
        best = _best(N, D_string, theta_E, STRING)
        snr, column["string_mass"][:], column["string_evidence"][:] = best
        for k in COMPARED:
            column[f"string_gain_{k}"][:] = snr**2 - gains[k - 1]
        told[((D > 0).sum(1) == 0) | ((D_string > 0).sum(1) == 0)] = math.nan
        return told, maps

    def inside(self, center_x: Tensor, center_y: Tensor) -> Tensor:
        """Return which places (n, places) are looked at, about the centres (n,) ["] of lenses."""
        distance = torch.hypot(self.x - center_x[:, None], self.y - center_y[:, None])
        return distance <= self.reach

    def maps(self, rows: Tensor, source: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return N and D (n, places, places) of a point mass; see ``__call__``."""
        seen, left = self._seen(*self._lit(rows, source), self.point)
        return tuple(part.view(-1, self.n, self.n) for part in (seen[:, 0], left))

    def _spectra(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return what correlates with a deflection (2, side, side), and with its squares."""
        squares = torch.stack([a[0] ** 2, 2 * a[0] * a[1], a[1] ** 2])
        return tuple(torch.fft.rfft2(part).conj().to(torch.complex64) for part in (a, squares))

    def _forward(self, maps: Tensor) -> Tensor:
        return torch.fft.rfft2(maps, s=(self.side, self.side))

    def _back(self, spectra: Tensor) -> Tensor:
        return torch.fft.irfft2(spectra, s=(self.side, self.side))[..., : self.n, : self.n]

    def _binned(self, maps: Tensor) -> Tensor:
        k = self.binning
        return torch.nn.functional.avg_pool2d(maps, k) * k**2

    def again(
        self, rows: Tensor, source: tuple[int, int], residuals: Tensor, information: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return S/N (k, 2, places, places) of other residuals of a lens, and what is left of them.

        ``rows`` (1 + p, size, size) are those of one image as in ``__call__``, ``residuals``
        (k, size, size) in units of the noise, ``information`` (2, places, places) [arcsec⁻⁴] the D
        of point and clump that the fit of that image has. What smooth parameters imitate is taken
        out of the residuals; S/N is 0 where nothing is known.
        """
        basis, S = self._projected(rows[None])[0, 1:].flatten(1), rows[list(source)]
        flat = residuals.flatten(1)
        left = (flat - (flat @ basis.mT) @ basis).view_as(residuals)
        lit = [self._forward(self._binned((left * part)[:, None])) for part in S]
        snr = [
            _significance(self._back(lit[0] * kernel[0] + lit[1] * kernel[1])[:, 0], D)
            for (kernel, _), D in zip((self.point, self.clump), information, strict=True)
        ]
        return torch.stack(snr, 1), left

    def _projected(self, rows: Tensor) -> Tensor:
        """Return r and Q of images (n, 1 + p, size, size): r is what no smooth parameters imitate.

        ``rows`` are as in ``__call__``, Q an orthonormal basis of the derivatives.
        """
        flat = rows.flatten(2)
        products = (flat @ flat.mT).double()
        scale = products[:, 1:, 1:].diagonal(dim1=1, dim2=2).sqrt().clamp(min=1e-9)
        H = products[:, 1:, 1:] / (scale[:, :, None] * scale[:, None])
        H.diagonal(dim1=1, dim2=2).add_(1e-7)  # two parameters may do the same
        root, _ = torch.linalg.cholesky_ex(H)
        whiten = torch.linalg.solve_triangular(root, torch.diag_embed(1 / scale), upper=False)
        basis = torch.cat([flat[:, :1], whiten.float() @ flat[:, 1:]], 1)
        basis[:, :1] -= (basis[:, :1] @ basis[:, 1:].mT) @ basis[:, 1:]
        return basis.view_as(rows)

    def _lit(self, rows: Tensor, source: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the spectra of r and Q times S (2, n, 1 + p, ...), the sums of S_i S_j.

        The r is what no smooth parameters imitate, S the derivatives by the source's x and y; the
        sums are (n, 3, g, g).
        """
        basis, S = self._projected(rows), rows[:, list(source)]
        lit = torch.stack([self._forward(self._binned(basis * S[:, k, None])) for k in (0, 1)])
        pairs = torch.stack([S[:, 0] ** 2, S[:, 0] * S[:, 1], S[:, 1] ** 2], 1)
        return lit, self._binned(pairs)

    def _seen(
        self, lit: Tensor, pairs: Tensor, profile: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return N and Q T (n, 1 + p, places), and D (n, places), of a profile's ``_spectra``."""
        kernel, squares = profile
        seen = self._back(lit[0] * kernel[0] + lit[1] * kernel[1]).flatten(2)
        whole = self._back((self._forward(pairs) * squares).sum(1)).flatten(1)
        return seen, _sure(whole, (seen[:, 1:] ** 2).sum(1))

    def _string_maps(self, seen: Tensor, pairs: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Return N and D (n, strings) of all strings at all places ``inside`` (n, places)."""
        n, rows, _ = seen.shape
        every = seen.view(-1, 1, self.n, self.n)[..., ::2, ::2]
        reach = self.strings.shape[-1] // 2
        seen = torch.nn.functional.conv2d(every, self.strings, padding=reach)
        seen = seen.view(n, rows, *seen.shape[1:])
        whole = (self._forward(pairs)[:, :, None] * self.string_squares).sum(1)
        D = _sure(self._back(whole)[..., ::2, ::2], (seen[:, 1:] ** 2).sum(1))
        inside = inside.view(n, 1, self.n, self.n)[..., ::2, ::2]
        D = torch.where(inside, D, 0.0)
        return seen[:, 0].flatten(1), D.flatten(1)

    def _best_strings(self, N: Tensor, D: Tensor) -> Tensor:
        """Return S/N and D (n, 2, places, places) of the best string at each place.

        N and D (n, strings x every other place) are as of ``_string_maps``; between those places
        the maps are those of the nearest one.
        """
        N, D = (part.view(len(N), len(self.strings), -1) for part in (N, D))
        snr = torch.where(D > 0, _significance(N, D), -math.inf)
        snr, at = snr.max(1, keepdim=True)
        best = torch.cat([snr.nan_to_num(neginf=0.0), D.gather(1, at)], 1)
        side = -(-self.n // 2)
        best = best.view(-1, 2, side, side).repeat_interleave(2, 2).repeat_interleave(2, 3)
        return best[..., : self.n, : self.n]

    def _pursue(self, seen: Tensor, pairs: Tensor, D: Tensor) -> list[Tensor]:
        """Return what 1 … ``POINTS`` point masses take from chi² (n,).

        Each is put where it gains most, then all masses are measured anew: orthogonal matching
        pursuit (Pati, Rezaiifar & Krishnaprasad 1993, doi:10.1109/ACSSC.1993.342465).
        """
        N, QT, left = seen[:, 0], seen[:, 1:], seen[:, 0]
        columns, places, gains = [], [], []
        for _ in range(POINTS):
            place = _significance(left, D).argmax(1)
            dx, dy = self.x - self.x[place, None], self.y - self.y[place, None]
            a = torch.stack([dx, dy], 1) / (dx**2 + dy**2 + self.soft2)[:, None]
            a = a.view(-1, 2, self.n, self.n)
            T = torch.stack([(pairs[:, :2] * a).sum(1), (pairs[:, 1:] * a).sum(1)], 1)
            product = self._back((self._forward(T) * self.point[0]).sum(1)).flatten(1)
            own = QT.gather(2, place[:, None, None].expand(-1, QT.shape[1], 1))
            columns.append(product - (QT * own).sum(1))
            places.append(place)
            G, at = torch.stack(columns, 1), torch.stack(places, 1)
            H = G.gather(2, at[:, None].expand(-1, len(places), -1)).double()
            H = (H + H.mT) / 2 + 1e-3 * torch.diag_embed(H.diagonal(dim1=1, dim2=2))
            H.diagonal(dim1=1, dim2=2).clamp_(min=1e-9)
            b = N.gather(1, at).double()
            mass = torch.linalg.solve_ex(H, b).result
            gains.append((mass * b).sum(1).float())
            left = N - (mass.float()[:, None] @ G)[:, 0]
        return gains


def _sure(whole: Tensor, imitated: Tensor) -> Tensor:
    """Return D = |T|² - |Q T|², 0 where that is but rounding."""
    left = whole - imitated
    return torch.where(left > SURE * whole, left, 0.0)


def _significance(N: Tensor, D: Tensor) -> Tensor:
    return torch.where(D > 0, N / D.clamp(min=1e-12).sqrt(), 0.0)


def _best(N: Tensor, D: Tensor, theta_E: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return significance, mass [theta_E²] of the best of N and D (n, places), and evidence (n,).

    ``tau`` is in theta_E², too.
    """
    unit = theta_E[:, None] ** 2
    snr, at = _significance(N, D).max(1, keepdim=True)
    mass = snr / D.gather(1, at).clamp(min=1e-12).sqrt() / unit
    wider = D + (tau * unit) ** -2
    z = N / wider.sqrt()
    ratio = math.log(2) - torch.log(tau * unit * wider.sqrt()) + z**2 / 2
    ratio = torch.where(D > 0, ratio + torch.special.log_ndtr(z), -math.inf)
    return snr[:, 0], mass[:, 0], ratio.logsumexp(1) - (D > 0).sum(1).log()


def _string(length: float, angle: float, reach: int) -> Tensor:
    """Return equal masses, 1 in all, along a line of some length [px], between four pixels each."""
    t = (np.arange(100) / 99 - 0.5) * length
    axis = np.arange(-reach, reach + 1)
    columns, rows = (
        np.clip(1 - np.abs(axis - along[:, None]), 0, None)
        for along in (t * math.cos(angle), t * math.sin(angle))
    )
    return torch.from_numpy(rows.T @ columns / len(t))

r"""A smooth lens as a function of its parameters: batched images and their derivatives.

The conventions are those of lenstronomy and of ``simulation.rendering``: a singular isothermal
ellipsoid (SIE) with external shear (SHEAR) about the same centre in front of an elliptical Sérsic
source (SERSIC_ELLIPSE), at the pixel centres, convolved with the PSF: a Gaussian that is cut at
some of its sigmas, or a kernel; a constant sky; on demand elliptical Sérsic profiles for the light
of the lens galaxy, with a centre of their own.

Derivatives are analytic, the chain rule :math:`dI/dp = -\nabla S \cdot d\alpha/dp`. They are short
because the deflection :math:`\alpha` of an isothermal lens has a potential of degree 1, so that its
derivative is :math:`2 \kappa\, t\, t^T`, t the tangential unit vector. In the frame of the axes
(Kormann, Schneider & Bartelmann 1994, A&A 284, 285), with :math:`f^2 = 1 - q^2`,
:math:`\psi^2 = q^2 x^2 + y^2` and :math:`g = \theta_E \sqrt q / f`,

.. math::
    \alpha_x = g \arctan(f x / \psi), \quad \alpha_y = g\, \mathrm{artanh}(f y / \psi), \quad
    2 \kappa = g f / \psi, \\
    d\alpha / dq = \alpha\, (1 / 2q + q / f^2) - g / (f \psi)\, (q x, y / q), \quad
    d\alpha / d\varphi = (-\alpha_y, \alpha_x) + 2 \kappa\, (y, -x)

for a turn of the axes by :math:`\varphi`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from vitdm.lens.parameters import (
    LIGHT_POSITION,
    SKY,
    SOURCE_PROFILE,
    Parameter,
    parameters,
    profiles,
)

FAINTEST = -30.0  # logarithm of the faintest brightness, in units of that at R_sersic
#: ellipticity below which the direction of the axes is lost in rounding
ROUND = {torch.float32: 1e-3, torch.float64: 1e-6}
CACHED = 2**16  # pixels of images whose derivatives stay in the processor's cache
TINY = 1e-4  # arcsec, radius within which a Sérsic profile has no cusp: the limit of lenstronomy


@dataclass(frozen=True)
class Camera:
    """A square of ``size`` pixels of ``pixel_scale`` ["], and the PSF through which it is seen.

    ``offset`` [px] is where the middle of the square lies, as seen from the origin: the middle of
    the image that it was cut from. The PSF is a Gaussian of ``psf_sigma`` [px], cut at a distance
    of ``psf_radius`` [px], or else the rows of a ``kernel``, whose sum is 1.
    """

    size: int
    pixel_scale: float
    psf_sigma: float = 0.0
    psf_radius: int = 0
    offset: tuple[float, float] = (0.0, 0.0)
    kernel: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def of(cls, size: int, pixel_scale: float, fwhm: float, truncation: float) -> Camera:
        """Return the camera with a PSF of ``fwhm`` ["], cut at ``truncation`` of its sigmas."""
        sigma = fwhm / math.sqrt(8 * math.log(2)) / pixel_scale
        return cls(size, pixel_scale, sigma, int(truncation * sigma + 0.5))

    @classmethod
    def with_kernel(cls, size: int, pixel_scale: float, kernel: NDArray) -> Camera:
        """Return the camera with a PSF of any shape, (h, w) of odd or even sides."""
        # the width of the Gaussian that averages noise as much: sum of squares 1 / (4 pi sigma^2)
        sigma = 1 / math.sqrt(4 * math.pi * float((kernel**2).sum()))
        rows = tuple(map(tuple, kernel.tolist()))
        return cls(size, pixel_scale, sigma, kernel=rows)

    def binned(self, k: int) -> Camera:
        """Return the camera that sees the means of k x k pixels, through a Gaussian PSF.

        It samples the light at the centres of its pixels; to a PSF that is no narrower than they
        are, the mean adds the variance of k places in a row, (k² - 1) / 12 [px²].
        """
        if k == 1:
            return self
        sigma = math.sqrt(self.psf_sigma**2 + (k**2 - 1) / 12) / k
        offset = (self.offset[0] / k, self.offset[1] / k)
        return Camera(self.size // k, k * self.pixel_scale, sigma, int(3 * sigma + 0.5), offset)

    @property
    def weights(self) -> list[float]:
        """The weights of a Gaussian PSF along each axis."""
        if not self.psf_radius:
            return [1.0]
        steps = range(-self.psf_radius, self.psf_radius + 1)
        weights = [math.exp(-0.5 * (step / self.psf_sigma) ** 2) for step in steps]
        return [weight / math.fsum(weights) for weight in weights]

    def axes(self, rim: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
        """Return x and y ["] of all columns and rows, with ``rim`` (x, y) more on both sides."""
        return tuple(
            self.pixel_scale * (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 + self.offset[k])
            for k, n in enumerate((self.size + rim[0], self.size + rim[1]))
        )


class SmoothLens:
    """Images of smooth lenses and their derivatives by the rows of ``parameters(lens_light)``.

    Parameters are (n, p) in that order, those that are ``logarithmic`` as their logarithms. Images
    are (n, size, size), in brightness per pixel; amplitudes and sky are per square arcsec.
    ``lens_light`` is the number of profiles of the lens galaxy's light: none, one or two.
    ``core`` ["] softens the cusps of Sérsic profiles. That |e| < 1 is up to the caller.
    """

    def __init__(
        self,
        camera: Camera,
        lens_light: int = 0,
        core: float = TINY,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.camera, self.lens_light, self.core, self.dtype = camera, lens_light, core, dtype
        self.parameters = parameters(lens_light)
        self.names = tuple(row.name for row in self.parameters)
        self._weights, self._buffers = camera.weights, {}
        if camera.kernel is None:
            height = width = 2 * camera.psf_radius + 1
        else:
            kernel = torch.tensor(camera.kernel, dtype=dtype)
            height, width = kernel.shape
        # with the light from beyond the edge; an even kernel sees it at the corners of the pixels
        self._rows, self._columns = camera.size + height - 1, camera.size + width - 1
        # images that are evaluated at once; a kernel's spectra are of the whole
        pixels = camera.size**2 if camera.kernel is None else self._rows * self._columns
        self.chunk = max(1, CACHED // pixels)
        if camera.kernel is not None:
            self._spectrum = torch.fft.rfft2(kernel, s=(self._rows, self._columns))
        x, y = camera.axes((width - 1, height - 1))
        y, x = torch.meshgrid(y, x, indexing="ij")
        self._x, self._y = (grid.reshape(1, -1).to(dtype) for grid in (x, y))

    def columns(self, rows: Sequence[Parameter]) -> list[int]:
        """Return the columns of some parameters."""
        return [self.parameters.index(row) for row in rows]

    def image(self, values: Tensor) -> Tensor:
        """Return the images (n, size, size)."""
        return self._images(values, lens_light=True)

    def derivatives(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (n, size, size) and d image / d parameter (n, p, size, size)."""
        parts = [self.image_and_derivatives(some).clone() for some in values.split(self.chunk)]
        rows = torch.cat(parts)
        return rows[:, 0], rows[:, 1:]

    def image_and_derivatives(self, values: Tensor, columns: Sequence[int] | None = None) -> Tensor:
        """Return the images and their derivatives in one array (n, 1 + p, size, size).

        ``columns`` are those of the parameters to derive by; by default all. The next call of any
        method overwrites the array.
        """
        columns = range(len(self.names)) if columns is None else columns
        return self._evaluate(values, columns, lens_light=True)

    def arcs(self, values: Tensor) -> Tensor:
        """Return the images (n, size, size) of the sources alone, without sky and lens light."""
        values = values.clone()
        values[:, self.columns(SKY)] = 0
        return self._images(values, lens_light=False)

    def _images(self, values: Tensor, lens_light: bool) -> Tensor:
        parts = [
            self._evaluate(some, (), lens_light=lens_light)[:, 0].clone()
            for some in values.split(self.chunk)
        ]
        return torch.cat(parts)

    def _evaluate(self, values: Tensor, columns: Sequence[int], lens_light: bool) -> Tensor:
        """Return the images and their derivatives by some parameters, (n, 1 + k, size, size)."""
        values = values.to(self.dtype)
        p = {name: column[:, None] for name, column in zip(self.names, values.T, strict=True)}
        n_rows = 1 + len(self.names) if columns else 1
        rows = self._buffer("rows", len(values), n_rows, self._x.shape[1])
        dx, dy = self._x - p["center_x"], self._y - p["center_y"]  # all is seen from the mass
        sie = _Sie(p["theta_E"], p["e1"], p["e2"], dx, dy)
        gamma1, gamma2 = p["gamma1"], p["gamma2"]
        alpha_x, alpha_y = sie.deflection()
        # the lens equation: where each ray meets the source plane, from the source's centre
        source = _Sersic(
            dx - alpha_x - gamma1 * dx - gamma2 * dy - p["source_x"],
            dy - alpha_y - gamma2 * dx + gamma1 * dy - p["source_y"],
            *(p[row.name] for row in SOURCE_PROFILE),
            self.core,
        )
        shapes = profiles(self.lens_light * lens_light)
        if shapes:
            u, v = (d - p[row.name] for d, row in zip((dx, dy), LIGHT_POSITION, strict=True))
        lights = [_Sersic(u, v, *(p[row.name] for row in shape), self.core) for shape in shapes]
        torch.add(source.brightness, p["sky"], out=rows[:, 0])
        for light in lights:
            rows[:, 0] += light.brightness
        if columns:
            by = dict(zip(self.names, rows[:, 1:].unbind(1), strict=True))
            # -S . d(position in the source plane) / dp, S the gradient of the source
            S_x, S_y = source.gradient()
            by["theta_E"][:], by["e1"][:], by["e2"][:] = sie.along(S_x, S_y)
            by["gamma1"][:] = S_y * dy - S_x * dx
            by["gamma2"][:] = -S_x * dy - S_y * dx
            torch.neg(S_x, out=by["source_x"])
            torch.neg(S_y, out=by["source_y"])
            source.shape_derivatives([by[row.name] for row in SOURCE_PROFILE])
            by["sky"][:] = 1
            # all moves with the mass: minus the gradient of what is seen
            tangential_x, tangential_y = sie.tangential(S_x, S_y)
            by["center_x"][:] = tangential_x - (1 - gamma1) * S_x + gamma2 * S_y
            by["center_y"][:] = tangential_y - (1 + gamma1) * S_y + gamma2 * S_x
            if lights:
                by["lens_light_x"].zero_(), by["lens_light_y"].zero_()
            for light, shape in zip(lights, shapes, strict=True):
                for axis, gradient in zip("xy", light.gradient(), strict=True):
                    by[f"center_{axis}"] -= gradient
                    by[f"lens_light_{axis}"] -= gradient
                light.shape_derivatives([by[row.name] for row in shape])
        if 0 < len(columns) < len(self.names):
            rows = rows[:, [0, *(1 + column for column in columns)]]
        # the PSF is linear: it blurs images and derivatives alike
        blurred = self._blur(rows.view(-1, self._rows, self._columns))
        return blurred.reshape(len(values), -1, self.camera.size, self.camera.size)

    def _blur(self, images: Tensor) -> Tensor:
        """Convolve images (m, rows, columns) with the PSF, and weigh with the area of a pixel."""
        size, area = self.camera.size, self.camera.pixel_scale**2
        if self.camera.kernel is not None:
            rows, columns = self._rows, self._columns
            spectra = torch.fft.rfft2(images).mul_(area * self._spectrum)
            whole = torch.fft.irfft2(spectra, s=(rows, columns))
            # what wraps around the edge lies before the rest
            return whole[:, rows - size :, columns - size :]
        rows = self._buffer("blurred rows", len(images), size, self._columns)
        blurred = self._buffer("blurred", len(images), size, size)
        for out, axis, scale in ((rows, 1, area), (blurred, 2, 1.0)):
            first, *others = (weight * scale for weight in self._weights)
            torch.mul(images.narrow(axis, 0, size), first, out=out)
            for k, weight in enumerate(others, 1):
                out.add_(images.narrow(axis, k, size), alpha=weight)
            images = out
        return blurred

    def _buffer(self, name: str, *shape: int) -> Tensor:
        """Return memory that is used again: new memory costs more than what is done with it."""
        n = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < n:
            self._buffers[name] = torch.empty(n, dtype=self.dtype)
        return self._buffers[name][:n].view(shape)


class _Sie:
    """The deflection of a singular isothermal ellipsoid at ``x``, ``y`` ["], and its derivatives.

    Vectors are kept in the frame of the major axis until they are asked for.
    """

    def __init__(self, theta_E: Tensor, e1: Tensor, e2: Tensor, x: Tensor, y: Tensor) -> None:
        modulus = torch.hypot(e1, e2).clamp(min=ROUND[x.dtype])
        angle = torch.atan2(e2, e1) / 2  # 0 where there is none
        q = (1 - modulus) / (1 + modulus)
        f = torch.sqrt(1 - q * q)
        self.theta_E, self.modulus, self.angle, self.q, self.f = theta_E, modulus, angle, q, f
        self.x, self.y, self.cos, self.sin = x, y, torch.cos(angle), torch.sin(angle)
        self.major, self.minor = self._turn(x, y)
        self.psi = torch.sqrt((q * self.major) ** 2 + self.minor**2).clamp(min=1e-6)
        self.g = theta_E * torch.sqrt(q) / f
        self.alpha_major = torch.atan(f * self.major / self.psi).mul_(self.g)
        # rounding must not take the argument to 1, which it reaches for q = 0 only
        across = (f * self.minor / self.psi).clamp_(-1 + 1e-6, 1 - 1e-6)
        self.alpha_minor = torch.atanh(across).mul_(self.g)

    def _turn(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the components along the major and the minor axis."""
        return self.cos * x + self.sin * y, self.cos * y - self.sin * x

    def deflection(self) -> tuple[Tensor, Tensor]:
        """Return the components of the deflection along x and y."""
        return (
            self.cos * self.alpha_major - self.sin * self.alpha_minor,
            self.sin * self.alpha_major + self.cos * self.alpha_minor,
        )

    def along(self, S_x: Tensor, S_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return -S · d alpha / d (theta_E, e1, e2) for a gradient S of the source's brightness."""
        q, f = self.q, self.f
        S_major, S_minor = self._turn(S_x, S_y)
        radial = S_major * self.alpha_major + S_minor * self.alpha_minor
        S_major_by, S_minor_by = S_major / self.psi, S_minor / self.psi
        stretch = (q * S_major_by).mul_(self.major).add_((S_minor_by / q).mul_(self.minor))
        by_q = radial * (0.5 / q + q / f**2) - stretch.mul_(self.g / f)
        by_angle = S_minor * self.alpha_major - S_major * self.alpha_minor
        shear = S_major_by.mul_(self.minor).sub_(S_minor_by.mul_(self.major))
        by_angle.add_(shear.mul_(self.g * f))
        # q = (1 - |e|) / (1 + |e|), and twice the angle is that of e
        cos, sin = torch.cos(2 * self.angle), torch.sin(2 * self.angle)
        by_modulus = 2 / (1 + self.modulus) ** 2  # minus that of q
        turned = 0.5 / self.modulus
        return (
            radial / -self.theta_E,
            by_q * (by_modulus * cos) + by_angle * (turned * sin),
            by_q * (by_modulus * sin) - by_angle * (turned * cos),
        )

    def tangential(self, S_x: Tensor, S_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return S · d alpha / d (x, y), 2 kappa (S · t) t."""
        square = (self.x**2 + self.y**2).clamp(min=1e-12)
        strength = (S_y * self.x - S_x * self.y) * (self.g * self.f / self.psi / square)
        return -self.y * strength, self.x * strength


class _Sersic:
    """An elliptical Sérsic profile at ``u``, ``v`` ["] from its centre, and its derivatives."""

    def __init__(
        self,
        u: Tensor,
        v: Tensor,
        e1: Tensor,
        e2: Tensor,
        log_R: Tensor,
        log_n: Tensor,
        log_amp: Tensor,
        core: float,
    ) -> None:
        self.u, self.v, self.e1, self.e2 = u, v, e1, e2
        self.n = torch.exp(log_n)
        self.b = (1.9992 * self.n - 0.3271).clamp(min=1e-5)  # as simulation.light.sersic_b
        self.unit = 1 / (1 - e1**2 - e2**2)
        self.major, self.minor = (1 - e1) * u - e2 * v, (1 + e1) * v - e2 * u
        self.radius2 = (self.major**2).addcmul_(self.minor, self.minor).mul_(self.unit)
        self.square = self.radius2 + core**2
        self.log_ratio = torch.log(self.square).sub_(2 * log_R)  # 2 log(radius / R)
        self.z = torch.exp(self.log_ratio / (2 * self.n))
        # far out, rather nothing at all than numbers too small to be multiplied fast
        exponent = (self.b - self.b * self.z).clamp_(min=FAINTEST)
        self.brightness = torch.exp(exponent.add_(log_amp))
        self.slope = self.brightness * self.z  # -n / b times dI / d log radius

    def gradient(self) -> tuple[Tensor, Tensor]:
        """Return d brightness / d (u, v)."""
        self.by_square = (self.slope / self.square).mul_(-self.b / self.n * self.unit)
        along, across = self.by_square * self.major, self.by_square * self.minor
        return (
            (1 - self.e1) * along - self.e2 * across,
            (1 + self.e1) * across - self.e2 * along,
        )

    def shape_derivatives(self, rows: Sequence[Tensor]) -> None:
        """Write d brightness / d (e1, e2, log R, log n, log amp) to five ``rows`` (n, pixels).

        ``gradient`` has to be called first.
        """
        by_e1, by_e2, by_log_R, by_log_n, by_log_amp = rows
        falling = self.slope * (self.b / self.n)
        by_square = self.by_square
        u, v, major, minor, radius2 = self.u, self.v, self.major, self.minor, self.radius2
        by_e1[:] = (v * minor).sub_(u * major).add_(self.e1 * radius2).mul_(by_square)
        by_e2[:] = (self.e2 * radius2).sub_(v * major).sub_(u * minor).mul_(by_square)
        by_log_R[:] = falling
        torch.sub(self.brightness, self.slope, out=by_log_n)
        by_log_n.mul_(1.9992 * self.n).addcmul_(falling, self.log_ratio, value=0.5)
        by_log_amp[:] = self.brightness

"""What a camera makes of a source: rays through parts of pixels, and the PSF over the pixels.

Loops over the pixels that are fitted and the PSF around them are compiled; they are as fast as
sparse matrices and need none, and faster than Fourier transforms of hundreds of splines.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vitdm.compiled import compiled
from vitdm.lens.free_form.source import Mesh, _along


class Optics:
    """The rays through all that the pixels ``fitted`` (H, W) see through a PSF ``kernel`` (h, w).

    ``samples`` (H, W) tells into how many parts a pixel is divided along each axis. ``x`` and ``y``
    (rays,) ["] are where the rays cross the image plane; ``offset`` (x, y) ["] is where the middle
    of the pixels lies. A ``brightness`` of (rays,) or (k, rays), per square arcsec, becomes
    ``seen(brightness)`` (fitted pixels,) or (k, fitted pixels) per pixel.
    """

    def __init__(
        self,
        fitted: NDArray,
        kernel: NDArray,
        pixel_scale: float,
        samples: NDArray,
        offset: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.kernel, self.area = np.ascontiguousarray(kernel, float), pixel_scale**2
        # light also comes from beyond the edge of the image
        tall, wide = self.kernel.shape
        height, width = fitted.shape
        padded = np.pad(fitted, ((tall, tall), (wide, wide)))
        parts = np.pad(samples, ((tall, tall), (wide, wide)), mode="edge")
        self.row, self.column = np.nonzero(padded)
        anchor = ((wide - 1) // 2, (tall - 1) // 2)
        reach = (self.kernel != 0).astype(np.uint8)
        self.lit = cv2.dilate(padded.astype(np.uint8), reach, anchor=anchor) > 0
        self.slot = np.full(padded.shape, -1, np.int64)
        self.slot[self.lit] = np.arange(self.lit.sum())
        rows, columns = np.nonzero(self.lit)
        parts = parts[self.lit]
        self.first = np.concatenate([[0], np.cumsum(parts**2)])
        self.x, self.y, self.share = (np.empty(self.first[-1]) for _ in range(3))
        # the middle of an even kernel lies between pixels
        middle_x = (width - 1) / 2 + wide - (wide + 1) % 2 / 2
        middle_y = (height - 1) / 2 + tall - (tall + 1) % 2 / 2
        for k in np.unique(parts):
            some = np.flatnonzero(parts == k)
            inside = (np.arange(k) - (k - 1) / 2) / k
            v, u = (grid.ravel() for grid in np.meshgrid(inside, inside, indexing="ij"))
            at = self.first[some][:, None] + np.arange(k * k)
            self.x[at] = (columns[some][:, None] + u - middle_x) * pixel_scale + offset[0]
            self.y[at] = (rows[some][:, None] + v - middle_y) * pixel_scale + offset[1]
            self.share[at] = self.area / (k * k)

    @property
    def reach(self) -> float:
        """The largest distance ["] of a ray from the middle along an axis."""
        return float(max(np.abs(self.x).max(), np.abs(self.y).max()))

    def at_rays(self, image: NDArray) -> NDArray:
        """Return the share of an image's pixels (H, W) that falls to each ray, (rays,)."""
        tall, wide = self.kernel.shape
        pixels = np.pad(image, ((tall, tall), (wide, wide)))[self.lit]
        counts = np.diff(self.first)
        return np.repeat(pixels / counts, counts)

    def seen(self, brightness: NDArray, kernel: NDArray | None = None) -> NDArray:
        """Return what the fitted pixels see of a brightness at the rays, through the PSF.

        Another ``kernel`` (h, w) may be given; it has the shape of the PSF's.
        """
        rows = np.atleast_2d(brightness) * self.share
        pixels = np.add.reduceat(rows, self.first[:-1], axis=1)
        kernel = self.kernel if kernel is None else kernel
        out = _blur(pixels, self.slot, self.row, self.column, kernel)
        return out.reshape(*np.shape(brightness)[:-1], -1)

    def matrix(self, mesh: Mesh, x: NDArray, y: NDArray, weight: NDArray) -> NDArray:
        """Return what the fitted pixels see of each mode, (pixels, modes), times a ``weight``.

        ``x``, ``y`` (rays,) ["] are where the rays meet the source plane, ``weight`` is (pixels,).
        """
        patches, starts, corners = _patches(mesh.layout, x, y, self.share, self.first)
        splines = np.zeros((len(weight), mesh.size))
        pixels = self.slot, self.row, self.column, self.kernel, weight
        _exchange(patches, starts, corners, mesh.n, *pixels, splines, False)
        return mesh.to_modes(splines)

    def pull(self, mesh: Mesh, x: NDArray, y: NDArray, weight: NDArray, rows: NDArray) -> NDArray:
        """Return the derivatives (2, rays) of the sum of ``matrix * rows`` by the rays' x and y."""
        patches, starts, corners = _patches(mesh.layout, x, y, self.share, self.first)
        patches[:] = 0
        pixels = self.slot, self.row, self.column, self.kernel, weight
        _exchange(patches, starts, corners, mesh.n, *pixels, mesh.from_modes(rows), True)
        return _slopes(mesh.layout, x, y, self.share, self.first, patches, starts, corners)


@compiled
def _blur(pixels, slot, row, column, kernel):
    """Return what pixels see of the pixels (k, lit) around them: a convolution, (k, fitted)."""
    height, width = slot.shape
    tall, wide = kernel.shape
    up, left = (tall - 1) // 2, (wide - 1) // 2
    out = np.zeros((pixels.shape[0], row.size))
    for k in range(pixels.shape[0]):
        for i in range(row.size):
            total = 0.0
            for a in range(tall):
                r = row[i] + up - a
                if r < 0 or r >= height:
                    continue
                for b in range(wide):
                    c = column[i] + left - b
                    if 0 <= c < width and slot[r, c] >= 0:
                        total += kernel[a, b] * pixels[k, slot[r, c]]
            out[k, i] = total
    return out


@compiled
def _patches(layout, x, y, share, first):
    """Return, for each pixel, the splines that its rays touch: a small dense patch of weights.

    ``corners`` (pixels, 4) are the first column and row of the mesh in a patch, its width and
    height (0: its rays miss the source); ``starts`` where it begins in the flat ``patches``.
    """
    n, count = int(layout[3]), first.size - 1
    cells = np.empty((x.size, 2), np.int64)
    weights = np.empty((x.size, 2, 3))
    slopes = np.empty(3)
    corners = np.zeros((count, 4), np.int64)
    starts = np.zeros(count + 1, np.int64)
    for p in range(count):
        low_i, low_j, high_i, high_j = n, n, -1, -1
        for k in range(first[p], first[p + 1]):
            i = _along(x[k] - layout[0], layout[2], n, layout[4], weights[k, 0], slopes)
            j = _along(y[k] - layout[1], layout[2], n, layout[4], weights[k, 1], slopes)
            if i == -9 or j == -9:
                cells[k, 0] = -9
                continue
            cells[k, 0], cells[k, 1] = i, j
            low_i, low_j = min(low_i, max(i, 0)), min(low_j, max(j, 0))
            high_i, high_j = max(high_i, min(i + 2, n - 1)), max(high_j, min(j + 2, n - 1))
        if high_i >= low_i and high_j >= low_j:
            corners[p] = low_i, low_j, high_i - low_i + 1, high_j - low_j + 1
        starts[p + 1] = starts[p] + corners[p, 2] * corners[p, 3]
    patches = np.zeros(starts[count])
    for p in range(count):
        low_i, low_j, wide, tall = corners[p]
        for k in range(first[p], first[p + 1]):
            if cells[k, 0] == -9:
                continue
            for b in range(3):
                j = cells[k, 1] + b
                if not 0 <= j < n:
                    continue
                for a in range(3):
                    i = cells[k, 0] + a
                    if 0 <= i < n:
                        at = starts[p] + (j - low_j) * wide + i - low_i
                        patches[at] += share[k] * weights[k, 1, b] * weights[k, 0, a]
    return patches, starts, corners


@compiled
def _exchange(patches, starts, corners, n, slot, row, column, kernel, weight, rows, gather):
    """Add what the fitted pixels see of all patches to ``rows`` (fitted, splines).

    If ``gather``, the other way round: add to each patch the rows of all pixels that see it.
    """
    height, width = slot.shape
    tall, wide = kernel.shape
    up, left = (tall - 1) // 2, (wide - 1) // 2
    for i in range(row.size):
        for a in range(tall):
            r = row[i] + up - a
            if r < 0 or r >= height:
                continue
            for b in range(wide):
                c = column[i] + left - b
                if c < 0 or c >= width:
                    continue
                p = slot[r, c]
                if p < 0 or corners[p, 2] == 0:
                    continue
                strength = kernel[a, b] * weight[i]
                at = starts[p]
                across = corners[p, 2]
                for line in range(corners[p, 3]):
                    to = (corners[p, 1] + line) * n + corners[p, 0]
                    if gather:
                        for k in range(across):
                            patches[at + k] += strength * rows[i, to + k]
                    else:
                        for k in range(across):
                            rows[i, to + k] += strength * patches[at + k]
                    at += across


@compiled
def _slopes(layout, x, y, share, first, patches, starts, corners):
    n = int(layout[3])
    out = np.zeros((2, x.size))
    wx, wy, sx, sy = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    for p in range(first.size - 1):
        if corners[p, 2] == 0:
            continue
        for k in range(first[p], first[p + 1]):
            i = _along(x[k] - layout[0], layout[2], n, layout[4], wx, sx)
            j = _along(y[k] - layout[1], layout[2], n, layout[4], wy, sy)
            if i == -9 or j == -9:
                continue
            for b in range(3):
                if not 0 <= j + b < n:
                    continue
                for a in range(3):
                    if 0 <= i + a < n:
                        at = starts[p] + (j + b - corners[p, 1]) * corners[p, 2]
                        pull = share[k] * patches[at + i + a - corners[p, 0]]
                        out[0, k] += pull * wy[b] * sx[a]
                        out[1, k] += pull * sy[b] * wx[a]
    return out

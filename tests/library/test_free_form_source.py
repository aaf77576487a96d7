"""The spline source, its prior, and what a camera makes of it, against SciPy and direct images."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.interpolate import BSpline
from scipy.signal import fftconvolve
from scipy.special import gamma, kv

from vitdm.lens.free_form.optics import Optics
from vitdm.lens.free_form.source import Mesh, _gram
from vitdm.lens.free_form.view import Scene, View, _binned

MESHES = {
    "even": Mesh((0.05, -0.02), 0.8, 12, focus=3.0, taper=1.0),
    "odd": Mesh((-0.1, 0.3), 0.5, 9, focus=1.0, taper=2.0),
    "uniform": Mesh((0.0, 0.0), 1.3, 8, focus=0.0, taper=0.0),
}
meshes = pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES.keys())


def places(mesh, n=400, seed=0, reach=0.999):
    """Random places in the box, (2, n)."""
    offset = np.random.default_rng(seed).uniform(-reach, reach, (2, n)) * mesh.half_width
    return np.array(mesh.center)[:, None] + offset


def splines(mesh, position, axis, derivative=0):
    """SciPy's splines (places, n) of one axis, in t."""
    offset = (position - mesh.center[axis]) / mesh.half_width
    a = mesh.focus
    t = np.arcsinh(offset * math.sinh(a)) / a if a else offset
    knots = np.linspace(-1, 1, mesh.n + 3)
    each = [BSpline.basis_element(knots[i : i + 4], extrapolate=False) for i in range(mesh.n)]
    values = [(one.derivative(derivative) if derivative else one)(t) for one in each]
    return np.nan_to_num(np.array(values)).T


# --------------------------------------------------------------------------------- brightness


@meshes
def test_brightness_is_the_sum_of_splines_of_scipy(mesh):
    modes = np.random.default_rng(1).standard_normal(mesh.size)
    x, y = places(mesh)
    across, up = splines(mesh, x, 0), splines(mesh, y, 1)
    coefficients = mesh.from_modes(modes).reshape(mesh.n, mesh.n)  # (y, x)
    expected = np.einsum("kj,ji,ki->k", up, coefficients, across)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(mesh.brightness(modes, x, y), expected, atol=1e-12)
    shaped = mesh.brightness(modes, x[:6].reshape(2, 3), y[:6].reshape(2, 3))
    np.testing.assert_allclose(shaped, expected[:6].reshape(2, 3), atol=1e-12)


@meshes
def test_basis_has_the_modes_as_columns(mesh):
    modes = np.random.default_rng(1).standard_normal(mesh.size)
    x, y = places(mesh)
    outside = np.append(x, mesh.center[0]), np.append(y, mesh.center[1] + 1.01 * mesh.half_width)
    basis = mesh.basis(*outside)
    np.testing.assert_allclose(basis @ modes, mesh.brightness(modes, *outside), atol=1e-11)
    assert not basis[-1].any()
    rows = np.random.default_rng(2).standard_normal((3, mesh.size))
    np.testing.assert_allclose(mesh.to_modes(rows) @ modes, rows @ mesh.from_modes(modes))
    several = mesh.from_modes(np.array([modes, 2 * modes]))
    np.testing.assert_allclose(several[1], 2 * mesh.from_modes(modes), rtol=1e-12)


@meshes
def test_gradient_is_that_of_finite_differences(mesh):
    modes = np.random.default_rng(1).standard_normal(mesh.size)
    x, y = places(mesh, reach=0.98)
    step = 1e-6 * mesh.half_width
    value, by_x, by_y = mesh.gradient(modes, x, y)

    def slope(dx, dy):
        ahead, behind = (mesh.brightness(modes, x + s * dx, y + s * dy) for s in (1, -1))
        return (ahead - behind) / (2 * step)

    np.testing.assert_array_equal(value, mesh.brightness(modes, x, y))
    atol = 1e-6 * np.abs(by_x).max()  # a knot may lie between both places
    np.testing.assert_allclose(slope(step, 0), by_x, atol=atol, rtol=1e-5)
    np.testing.assert_allclose(slope(0, step), by_y, atol=atol, rtol=1e-5)


@meshes
def test_nothing_shines_outside_and_the_edge_is_smooth(mesh):
    modes = np.random.default_rng(1).standard_normal(mesh.size)
    offset = np.array([1.0, -1.0, 1.5, -7.0, 1e9]) * mesh.half_width
    inside = np.linspace(-0.5, 0.5, 5) * mesh.half_width
    for dx, dy in ((offset, inside), (inside, offset), (offset, offset)):
        where = mesh.center[0] + dx * (1 + 1e-12), mesh.center[1] + dy * (1 + 1e-12)
        assert not mesh.gradient(modes, *where).any()
    edge = mesh.center[0] + mesh.half_width * (1 - 1e-9), mesh.center[1] + inside[1:2]
    inner = np.abs(mesh.gradient(modes, *places(mesh))).max(1)
    assert (np.abs(mesh.gradient(modes, edge[0] + 0 * edge[1], edge[1])[:, 0]) < 1e-5 * inner).all()


# -------------------------------------------------------------------------------------- prior


@pytest.mark.parametrize("n", [3, 4, 9])
def test_gram_matrices_are_integrals_of_splines(n):
    mesh = Mesh((0.0, 0.0), 1.0, n, focus=0.0)
    points, weights = np.polynomial.legendre.leggauss(4)
    edges = np.linspace(-1, 1, n + 3)
    width = np.diff(edges)[0]
    t = (edges[:-1, None] + width * (points + 1) / 2).ravel()
    weights = np.tile(weights, n + 2) * width / 2
    for derivative, found in enumerate(_gram(n)):
        values = splines(mesh, t, 0, derivative)
        np.testing.assert_allclose(found, values.T * weights @ values, atol=1e-12)


def dense_precision(n, kappa, nu):
    """Q of the splines' coefficients: L (M^-1 L)^nu, L the operator kappa^2 - Laplacian."""
    mass, slope = _gram(n)
    both = np.kron(mass, mass)
    operator = kappa**2 * both + np.kron(slope, mass) + np.kron(mass, slope)
    product = operator.copy()
    for _ in range(nu):
        product = product @ np.linalg.solve(both, operator)
    return product / (4 * math.pi * nu * kappa ** (2 * nu))


@pytest.mark.parametrize("nu", [1, 2])
def test_precision_is_that_of_the_dense_matrices(nu):
    """Also its determinant: the modes are orthonormal."""
    mesh, kappa = Mesh((0.0, 0.0), 1.0, 7, taper=0.0), 5.0
    V = mesh.from_modes(np.eye(mesh.size)).T  # coefficients of each mode
    Q, M = dense_precision(7, kappa, nu), np.kron(_gram(7)[0], _gram(7)[0])
    np.testing.assert_allclose(V.T @ M @ V, np.eye(mesh.size), atol=1e-10)
    precision = mesh.precision(kappa, nu)
    np.testing.assert_allclose(V.T @ Q @ V, np.diag(precision), atol=1e-9 * precision.max())
    difference = np.linalg.slogdet(Q)[1] - np.linalg.slogdet(M)[1]
    assert np.log(precision).sum() == pytest.approx(difference, rel=1e-10)


def matern(distance, kappa, nu):
    """The Matern covariance of variance 1."""
    r = np.maximum(kappa * distance, 1e-9)
    return 2 ** (1 - nu) / gamma(nu) * r**nu * kv(nu, r)


@pytest.mark.parametrize(("kappa", "nu"), [(12.0, 1.0), (15.0, 1.5), (18.0, 2.0)])
def test_far_from_the_edge_the_covariance_is_materns(kappa, nu):
    mesh = Mesh((0.2, 0.1), 2.0, 46, focus=0.0, taper=0.0)
    angle, distance = np.random.default_rng(0).uniform(0, 2 * np.pi, 40), np.linspace(0, 0.35, 40)
    x, y = 0.02 + distance * np.cos(angle), -0.01 + distance * np.sin(angle)  # t, of the middle
    basis = mesh.basis(0.2 + 2 * np.append(0.02, x), 0.1 + 2 * np.append(-0.01, y))
    covariance = basis[1:] / mesh.precision(kappa, nu) @ basis[0]
    np.testing.assert_allclose(covariance, matern(distance, kappa, nu), atol=0.02)
    assert covariance[0] == pytest.approx(1.0, abs=0.02)
    # the length: the correlation at sqrt(8 nu) / kappa is about 0.13
    assert np.interp(math.sqrt(8 * nu) / kappa, distance, covariance) == pytest.approx(
        0.14, abs=0.02
    )


def test_drawn_sources_are_normal_with_that_covariance():
    mesh, rng, kappa = (
        Mesh((0.0, 0.0), 1.0, 30, focus=0.0, taper=0.0),
        np.random.default_rng(3),
        12.0,
    )
    x = np.array([0.0, 0.1])
    basis = mesh.basis(x, np.zeros(2))
    drawn = np.array([basis @ mesh.draw(kappa, 1.0, rng) for _ in range(2000)])
    assert stats.kstest(drawn[:, 0], "norm").pvalue > 0.01
    expected = matern(0.1, kappa, 1.0)  # s.d. of a correlation: (1 - r^2) / sqrt(n)
    found = np.corrcoef(drawn.T)[0, 1]
    assert found == pytest.approx(expected, abs=3 * (1 - expected**2) / math.sqrt(2000) + 0.01)


@pytest.mark.parametrize("taper", [1.0, 3.0])
def test_the_envelope_is_a_power_law_beyond_a_tenth_of_the_box(taper):
    mesh = Mesh((0.1, -0.2), 0.7, 40, focus=2.0, taper=taper)
    angle = np.linspace(0, 2 * np.pi, 24)
    for share in (0.0, 0.05, 0.1, 0.3, 0.6):
        x = 0.1 + share * 0.7 * np.cos(angle)
        y = -0.2 + share * 0.7 * np.sin(angle)
        deviation, flat = (
            np.sqrt((one.basis(x, y) ** 2 / one.precision(12.0, 1.0)).sum(1))
            for one in (mesh, replace(mesh, taper=0.0))
        )
        expected = (1 + (share / 0.1) ** 2) ** (-taper / 2)
        np.testing.assert_allclose(deviation / flat, expected, rtol=0.05)


def test_all_light_of_a_mode_is_found():
    """The integral over the source plane, in arcsec: the box is not scaled."""
    mesh = Mesh((0.3, 0.0), 0.5, 6, focus=1.5, taper=0.0)
    modes = np.random.default_rng(0).standard_normal(mesh.size)
    x = np.linspace(-0.5, 0.5, 801)
    grid = mesh.brightness(modes, *np.meshgrid(0.3 + x, x))
    found = integrate.simpson(integrate.simpson(grid, x=x), x=x)
    points, weights = np.polynomial.legendre.leggauss(20)
    t = np.concatenate([(left + (points + 1) / 8) for left in np.linspace(-1, 0.75, 8)])
    dx = 0.5 * 1.5 * np.cosh(1.5 * t) / math.sinh(1.5) * np.tile(weights, 8) / 8
    uniform = replace(mesh, center=(0.0, 0.0), half_width=1.0, focus=0.0)
    total = dx @ splines(uniform, t, 0)
    expected = total @ mesh.from_modes(modes).reshape(6, 6) @ total
    assert found == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------- optics

SCALE = 0.1


def deflected(x, y):
    """A made-up lens: an isothermal sphere with shear."""
    r = np.hypot(x, y) + 1e-3
    return x - 0.8 * x / r - 0.05 * x, y - 0.8 * y / r + 0.05 * y


def kernel(tall, wide, seed=0):
    """A lopsided kernel with a 0 in it."""
    y, x = np.indices((tall, wide)) - np.array([tall - 1, wide - 1]).reshape(2, 1, 1) / 2
    made = np.exp(-((x - 0.2) ** 2 + 0.5 * (y + 0.3) ** 2 + 0.2 * x * y) / 3)
    made *= np.random.default_rng(seed).uniform(0.5, 1.5, made.shape)
    made[0, 0] *= made.size == 1
    return made / made.sum()


def direct(brightness, shape, psf, samples, offset=(0.0, 0.0)):
    """The whole image by FFT, of parts of pixels that reach beyond its edge.

    Light at x comes to the pixel at x + the kernel's own place from its middle, which lies between
    pixels if it is even: the parts are then as many halves of pixels away.
    """
    pad = max(psf.shape)
    parts = np.pad(samples, pad, mode="edge")
    sides = [n + 2 * pad for n in shape]
    image = np.zeros(sides)
    for k in np.unique(samples):
        axes = []
        for n, side, shift in zip(sides[::-1], psf.shape[::-1], offset, strict=True):
            half = (side - 1) % 2 / 2  # 0.5 if even
            axis = (np.arange(n * k) + 0.5) / k - n / 2 + half
            axes.append(axis * SCALE + shift)
        x, y = np.meshgrid(*axes)
        light = brightness(*deflected(x.ravel(), y.ravel())).reshape(x.shape) * SCALE**2
        light = light.reshape(sides[0], k, sides[1], k).mean((1, 3))
        image = np.where(parts == k, light, image)
    full = fftconvolve(image, psf)  # its pixel (a, b) is that of image + kernel
    up, left = (psf.shape[0] - 1) // 2 + pad, (psf.shape[1] - 1) // 2 + pad
    return full[up : up + shape[0], left : left + shape[1]]


KERNELS = [(5, 5), (4, 4), (7, 3), (1, 1), (4, 5), (2, 9)]
kernels = pytest.mark.parametrize("sides", KERNELS, ids=lambda sides: "{}x{}".format(*sides))


def scenery(shape=(26, 33), seed=0):
    """Fitted pixels, some at the edge; parts of pixels; a mesh and its modes."""
    rng = np.random.default_rng(seed)
    fitted = rng.random(shape) < 0.4
    fitted[0], fitted[:, -1] = True, True
    samples = rng.integers(1, 4, shape)
    mesh = Mesh((0.1, -0.05), 0.9, 11)
    return fitted, samples, mesh, rng.standard_normal(mesh.size)


@kernels
@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.13, -0.04)])
def test_fitted_pixels_see_what_the_whole_image_shows(sides, offset):
    fitted, samples, mesh, modes = scenery()
    psf = kernel(*sides)
    optics = Optics(fitted, psf, SCALE, samples, offset)
    x, y = deflected(optics.x, optics.y)
    expected = direct(lambda u, v: mesh.brightness(modes, u, v), fitted.shape, psf, samples, offset)
    seen, largest = optics.seen(mesh.brightness(modes, x, y)), np.abs(expected).max()
    np.testing.assert_allclose(seen, expected[fitted], atol=1e-12 * largest, rtol=1e-9)
    weight = np.random.default_rng(5).uniform(1, 3, len(seen))
    matrix = optics.matrix(mesh, x, y, weight)
    np.testing.assert_allclose(matrix @ modes, weight * seen, atol=1e-11 * largest)
    both = optics.seen(np.array([mesh.brightness(modes, x, y), np.ones(len(x))]))
    np.testing.assert_array_equal(both[0], seen)
    np.testing.assert_allclose(both[1], SCALE**2, rtol=1e-12)  # also at the edge


def test_matrix_has_what_is_seen_of_each_mode():
    fitted, samples, mesh, _ = scenery(shape=(12, 15))
    optics = Optics(fitted, kernel(3, 4), SCALE, samples)
    x, y = deflected(optics.x, optics.y)
    expected = optics.seen(mesh.basis(x, y).T).T
    matrix = optics.matrix(mesh, x, y, np.ones(len(expected)))
    np.testing.assert_allclose(matrix, expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("sides", [(5, 5), (4, 3)])
def test_pull_is_that_of_finite_differences(sides):
    fitted, samples, mesh, _ = scenery(shape=(10, 12))
    rng = np.random.default_rng(2)
    optics = Optics(fitted, kernel(*sides), SCALE, samples)
    x, y = deflected(optics.x, optics.y)
    weight, rows = rng.uniform(1, 3, fitted.sum()), rng.standard_normal((fitted.sum(), mesh.size))

    def total(dx, dy):
        return float((optics.matrix(mesh, x + dx, y + dy, weight) * rows).sum())

    found, step = optics.pull(mesh, x, y, weight, rows), 1e-6
    for _ in range(3):  # all rays together, in a random direction each
        dx, dy = rng.standard_normal((2, len(x)))
        slope = (total(step * dx, step * dy) - total(-step * dx, -step * dy)) / (2 * step)
        assert float((found * [dx, dy]).sum()) == pytest.approx(slope, rel=1e-5)
    for k in rng.choice(np.flatnonzero(found[0]), 5, replace=False):  # and one alone
        one = step * (np.arange(len(x)) == k)
        slopes = [(total(one, 0) - total(-one, 0)), (total(0, one) - total(0, -one))]
        np.testing.assert_allclose(
            np.array(slopes) / (2 * step), found[:, k], atol=1e-4 * np.abs(found).max()
        )


def test_only_pixels_that_are_seen_have_rays():
    fitted = np.zeros((20, 30), bool)
    fitted[4, 7] = True
    samples = np.full(fitted.shape, 2)
    psf = np.zeros((5, 7))
    psf[1, 2] = psf[4, 6] = 0.5
    optics = Optics(fitted, psf, SCALE, samples)
    assert len(optics.x) == 2 * 4
    # the kernel's (1, 2) is one pixel above and left of its middle (2, 3): light moves that way
    places = sorted({(round(v), round(u)) for u, v in zip(*pixels(optics, fitted), strict=True)})
    assert places == [(2, 4), (5, 8)]
    assert optics.reach == pytest.approx(max(np.abs(optics.x).max(), np.abs(optics.y).max()))
    image = np.zeros(fitted.shape)
    image[5, 8], image[2, 4], image[3, 3] = 3.0, 1.0, 5.0
    np.testing.assert_allclose(np.sort(optics.at_rays(image)), [0.25] * 4 + [0.75] * 4)


def pixels(optics, fitted):
    """Column and row of each ray."""
    height, width = fitted.shape
    return optics.x / SCALE + (width - 1) / 2, optics.y / SCALE + (height - 1) / 2


# --------------------------------------------------------------------------------------- view


def scene(data, noise, psf, good=None, light=None):
    good = np.ones(data.shape, bool) if good is None else good
    light = np.ones((1, *data.shape)) if light is None else light
    still = np.zeros(data.shape)
    return Scene(data, noise, good, psf, SCALE, None, still, light, (0.0, 0.0), 0.1)


@pytest.mark.parametrize("sides", [(5, 5), (4, 4), (3, 6)])
@pytest.mark.parametrize("binning", [2, 3])
def test_blocks_see_the_sum_of_their_pixels(binning, sides):
    """A smooth source, for within a block it is taken as constant; the rays must be in place."""
    shape, k, psf = (38, 47), binning, kernel(*sides)
    width = 0.9

    def blob(x, y):
        return np.exp(-((x - 0.3) ** 2 + (y + 0.2) ** 2) / (2 * width**2)) * (1 + x)

    original = direct_plain(blob, shape, psf)
    view = View(scene(original, np.ones(shape), psf), np.ones(shape, bool), np.ones(shape), k)
    assert view.fitted.shape == (shape[0] // k, shape[1] // k)
    seen = view.optics.seen(blob(view.optics.x, view.optics.y))
    np.testing.assert_allclose(seen, view.data, atol=0.025 * view.data.max())
    image, error = view.image, (seen - view.data).reshape(view.fitted.shape)
    for slope in np.gradient(image):
        shift = (error * slope).sum() / (slope**2).sum() * k
        assert abs(shift) < 0.03  # px
    np.testing.assert_allclose(view.noise, k)
    np.testing.assert_allclose(view.light, k**2)
    assert view.light_sd.tolist() == [1.0]  # the sky


def direct_plain(brightness, shape, psf):
    """As ``direct``, one ray a pixel and no lens."""
    pad = max(psf.shape)
    axes = [
        (np.arange(n + 2 * pad) - (n + 2 * pad - 1) / 2 + (side - 1) % 2 / 2) * SCALE
        for n, side in zip(shape[::-1], psf.shape[::-1], strict=True)
    ]
    full = fftconvolve(brightness(*np.meshgrid(*axes)) * SCALE**2, psf)
    up, left = (psf.shape[0] - 1) // 2 + pad, (psf.shape[1] - 1) // 2 + pad
    return full[up : up + shape[0], left : left + shape[1]]


@pytest.mark.parametrize("side", [3, 4, 7])
@pytest.mark.parametrize("k", [2, 3])
def test_a_binned_kernel_keeps_its_place_and_width(k, side):
    """The mean stays, the variance grows by that of two blocks, and of two pixels if even."""
    psf = kernel(side, side)
    binned = _binned(psf, k)

    def moments(array, scale):
        at = (np.arange(len(array)) - (len(array) - 1) / 2) * scale
        mean = array.sum(0) @ at
        return mean, array.sum(0) @ (at - mean) ** 2

    (mean, variance), (before, narrow) = moments(binned, k), moments(psf, 1)
    assert len(binned) % 2 == 1 and binned.sum() == pytest.approx(1)
    assert mean == pytest.approx(before, abs=1e-12)
    even = (side + 1) % 2 / 4
    assert variance == pytest.approx(narrow + even + (k**2 - 1) / 6, abs=0.2 * k)
    np.testing.assert_array_equal(_binned(psf, 1), psf)


def test_blocks_weigh_their_pixels_by_the_noise():
    rng = np.random.default_rng(0)
    data, noise = rng.standard_normal((2, 24, 25))
    noise = 0.5 + np.abs(noise)
    good, fitted = rng.random((2, 24, 25)) < 0.8
    good[:2, :2] = False
    view = View(scene(data, noise, kernel(3, 3), good), fitted, noise, 2)
    assert not view.fitted[0, 0]
    k = 0
    for row in range(12):
        for column in range(12):
            block = np.s_[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            use = good[block] & fitted[block]
            assert view.fitted[row, column] == use.any()
            if use.any():
                w = noise[block][use] ** -2.0
                assert view.data[k] == pytest.approx(4 * np.average(data[block][use], weights=w))
                assert view.noise[k] == pytest.approx(4 / math.sqrt(w.sum()))
                k += 1
    assert k == len(view.data) == len(view.light)
    three = View(scene(data, noise, kernel(3, 3), good, np.ones((3, 24, 25))), fitted, noise)
    assert three.light_sd.tolist() == [0.1, 0.1, 1.0] and three.light.shape[1] == 3

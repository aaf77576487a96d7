"""The power law with shear and multipoles against lenstronomy, caustics and finite differences."""

import math

import numpy as np
import pytest
import torch
from lenstronomy.LensModel.lens_model import LensModel

from vitdm.errors import InputError
from vitdm.lens.free_form import mass
from vitdm.simulation.rendering import _shoot

ORDERS = (1, 3, 4)


def drawn(seed, **fixed):
    """Random parameters, some of which are fixed."""
    rng = np.random.default_rng(seed)
    modulus, angle = rng.uniform(0, 0.6), rng.uniform(0, 2 * math.pi)
    values = {
        "theta_E": rng.uniform(0.5, 2),
        "e1": modulus * math.cos(angle),
        "e2": modulus * math.sin(angle),
        "slope": rng.uniform(1.2, 2.8),
    }
    values |= dict(
        zip(("center_x", "center_y", "gamma1", "gamma2"), rng.normal(0, 0.1, 4), strict=True)
    )
    values |= dict(zip(mass.NAMES[8:], rng.normal(0, 0.05, 6), strict=True))
    return np.array([(values | fixed)[name] for name in mass.NAMES])


NONE = dict.fromkeys(mass.NAMES[8:], 0.0)
CASES = {f"random{seed}": drawn(seed) for seed in range(8)}
CASES |= {
    "round": drawn(10, e1=0.0, e2=0.0),
    "nearly round": drawn(11, e1=1e-9, e2=-1e-10),
    "isothermal": drawn(12, slope=2.0),
    "shallow": drawn(13, slope=1.2, e1=0.5, e2=0.33),
    "steep": drawn(14, slope=2.8, e1=-0.5, e2=0.33),
    "power law alone": drawn(15, **NONE, gamma1=0.0, gamma2=0.0),
    "no multipoles": drawn(16, **NONE),
    **{f"m = {m}": drawn(17, **NONE | {f"a{m}_x": 0.05, f"a{m}_y": -0.03}) for m in ORDERS},
}
cases = pytest.mark.parametrize("values", CASES.values(), ids=CASES.keys())


def rays(n=300, extent=3.0):
    return np.random.default_rng(0).uniform(-extent, extent, (2, n))


def lenstronomy(values):
    """lenstronomy's model of the same mass, and its arguments."""
    given = dict(zip(mass.NAMES, values.tolist(), strict=True))
    theta_E, center = given["theta_E"], {k: given[k] for k in ("center_x", "center_y")}
    power_law = {k: given[k] for k in ("theta_E", "e1", "e2")} | {"gamma": given["slope"]}
    shear = {k: given[k] for k in ("gamma1", "gamma2")}
    arguments = [
        power_law | center,
        shear | {"ra_0": center["center_x"], "dec_0": center["center_y"]},
    ]
    for m in ORDERS:
        a_x, a_y = given[f"a{m}_x"], given[f"a{m}_y"]
        amplitude = {"a_m": theta_E * math.hypot(a_x, a_y), "phi_m": math.atan2(a_y, a_x) / m}
        arguments.append({"m": m, "r_E": theta_E} | amplitude | center)
    return LensModel(["EPL", "SHEAR", *["MULTIPOLE"] * 3]), arguments


@cases
def test_deflection_is_that_of_lenstronomy(values):
    x, y = rays()
    model, arguments = lenstronomy(values)
    expected = model.alpha(x, y, arguments)
    np.testing.assert_allclose(mass.deflection(values, x, y), expected, rtol=1e-10, atol=1e-11)


@cases
def test_convergence_and_magnification_are_those_of_lenstronomy(values):
    x, y = rays()
    model, arguments = lenstronomy(values)
    kappa, mu = model.kappa(x, y, arguments), model.magnification(x, y, arguments)
    np.testing.assert_allclose(mass.convergence(values, x, y), kappa, rtol=1e-9)
    np.testing.assert_allclose(1 / mass.magnification(values, x, y), 1 / mu, rtol=1e-8, atol=1e-9)


def test_caustics_agrees():
    func = pytest.importorskip("caustics.lenses.func")
    x, y = rays()
    for seed in range(5):
        values = drawn(seed, **NONE, gamma1=0.0, gamma2=0.0)
        theta_E, e1, e2, center_x, center_y, _, _, slope = values[:8]
        f, angle = math.hypot(e1, e2), math.atan2(e2, e1) / 2
        numbers = (center_x, center_y, (1 - f) / (1 + f), angle, theta_E, slope - 1, x, y)
        tensors = [torch.as_tensor(number, dtype=torch.float64) for number in numbers]
        # 200 terms: its default of 18 is not enough for flat lenses
        expected = func.reduced_deflection_angle_epl(*tensors, 200, 1)
        found = mass.deflection(values, x, y)
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-10, atol=1e-12)


@cases
def test_derivatives_are_finite_differences(values):
    x, y = rays()
    alpha, derivatives = mass.deflection_and_derivatives(values, x, y)
    np.testing.assert_allclose(alpha, mass.deflection(values, x, y), rtol=1e-13, atol=1e-14)
    h = 1e-3
    for name, found, unit in zip(mass.NAMES, derivatives, np.eye(len(mass.NAMES)), strict=True):
        # rays far from the centre on the scale of h; the error is of the order h^4
        far = np.hypot(x - values[3], y - values[4]) > 0.3
        plus, minus, plus2, minus2 = (
            mass.deflection(values + k * h * unit, x, y) for k in (1, -1, 2, -2)
        )
        expected = (8 * (plus - minus) - (plus2 - minus2)) / (12 * h)
        scale = np.abs(expected[:, far]).max()
        error = np.abs(found - expected)[:, far].max()
        assert error < 1e-6 * scale, name


def test_isothermal_ellipsoid_is_that_of_the_simulator():
    axis = np.linspace(-2, 2, 40)
    x, y = (a.ravel() for a in np.meshgrid(axis, axis))
    nothing = np.empty(0)
    for e1, e2 in ((0.2, -0.1), (0.0, 0.4), (1e-4, 0.0)):
        values = np.zeros(14)
        values[[0, 1, 2, 5, 6, 7]] = 1.1, e1, e2, 0.03, -0.05, 2.0
        beta = _shoot(axis, axis, (1.1, e1, e2), (0.03, -0.05), *[nothing] * 4).reshape(2, -1)
        np.testing.assert_allclose(
            np.stack([x, y]) - mass.deflection(values, x, y), beta, atol=1e-8
        )


@pytest.mark.parametrize("slope", [1.2, 1.9, 2.0, 2.8])
def test_everything_is_finite_at_the_centre(slope):
    values = drawn(3, slope=slope)
    x, y = values[3] + np.array([0.0, 1e-12, 1e-7]), np.full(3, values[4])
    alpha, derivatives = mass.deflection_and_derivatives(values, x, y)
    maps = mass.convergence(values, x, y), mass.magnification(values, x, y)
    for found in (alpha, derivatives, mass.deflection(values, x, y), *maps):
        assert np.isfinite(found).all()


def test_arrays_that_are_given_are_filled():
    values, (x, y) = drawn(0), rays()
    alpha, derivatives = np.empty((2, x.size)), np.empty((14, 2, x.size))
    found = mass.deflection_and_derivatives(values, x, y, out=(alpha, derivatives))
    assert found[0] is alpha and found[1] is derivatives
    again = np.empty_like(alpha)
    assert mass.deflection(values, x, y, out=again) is again
    np.testing.assert_allclose(again, alpha, rtol=1e-12)


def test_critical_curves_and_caustics_of_a_round_lens_are_circles():
    # alpha = r (theta_E / r)^t: critical where alpha = r and where d alpha / dr = 1
    theta_E, t, center = 1.3, 0.8, np.array([0.2, -0.1])
    values = np.zeros(14)
    values[[0, 3, 4, 7]] = theta_E, *center, 1 + t
    radial = theta_E * (1 - t) ** (1 / t)
    found = zip(mass.critical_curves(values, 3.0), mass.caustics(values, 3.0), strict=True)
    inner, outer = sorted(found, key=lambda pair: np.ptp(pair[0][:, 0]))
    assert all((curve[0] == curve[-1]).all() for curve in (*inner, *outer))
    for curve, radius in (
        (inner[0], radial),
        (inner[1], radial * t / (1 - t)),
        (outer[0], theta_E),
        (outer[1], 0.0),
    ):
        np.testing.assert_allclose(np.hypot(*(curve - center).T), radius, atol=2e-4)


def test_critical_curve_of_an_isothermal_ellipsoid():
    # its convergence is equal to its shear: critical where both are 1/2
    values = np.zeros(14)
    values[[0, 1, 2, 7]] = 1.0, 0.15, 0.1, 2.0
    (curve,) = mass.critical_curves(values, 3.0)
    np.testing.assert_allclose(mass.convergence(values, *curve.T), 0.5, atol=2e-4)


@pytest.mark.parametrize(
    ("name", "value"), [("theta_E", 0.0), ("slope", 3.0), ("e1", 1.0), ("a3_x", math.nan)]
)
def test_values_of_no_lens_are_refused(name, value):
    values = drawn(0)
    values[mass.NAMES.index(name)] = value
    with pytest.raises(InputError, match=rf"mass: {name} = {value}; expected"):
        mass.deflection(values, [0.0], [1.0])


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="3 values; expected 14: theta_E, e1"):
        mass.deflection([1.0, 0.0, 0.0], [0.0], [1.0])
    with pytest.raises(InputError, match=r"x has shape \(1,\), y \(2,\)"):
        mass.deflection(drawn(0), [0.0], [1.0, 2.0])
    with pytest.raises(InputError, match=r"expected float64 of \(2, 1\)"):
        mass.deflection(drawn(0), [0.0], [1.0], out=np.empty((2, 2)))
    with pytest.raises(InputError, match="out: float32"):
        mass.deflection(drawn(0), [0.0], [1.0], out=np.empty((2, 1), np.float32))

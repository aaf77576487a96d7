"""The image of a lens by lenstronomy, called for it as DeepLenseSim calls it."""

from dataclasses import replace

import numpy as np
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel

from vitdm.lens.parameters import parameters
from vitdm.simulation.cosmology import theta_E_point


def arguments(system, population):
    """The lens as lenstronomy's model names and arguments; the masses become angles here."""
    names = ["SIE", "SHEAR"]
    lenses = [
        {"theta_E": system.theta_E_halo, "e1": system.e1, "e2": system.e2},
        {"gamma1": system.gamma1, "gamma2": system.gamma2},
    ]
    if system.slope is not None:
        names[0] = "EPL"
        lenses[0]["gamma"] = system.slope
    if system.multipoles is not None:
        for m, x, y in zip((1, 3, 4), system.multipoles[::2], system.multipoles[1::2], strict=True):
            names.append("MULTIPOLE")
            a, phi = np.hypot(x, y) * system.theta_E_halo, np.arctan2(y, x) / m
            lenses.append({"m": m, "a_m": a, "phi_m": phi, "r_E": system.theta_E_halo})
    theta = theta_E_point(system.masses, population.cosmology)
    for t, x, y in zip(theta, system.x, system.y, strict=True):
        if population.subhalos.profile == "pseudo_jaffe":
            tidal = np.cbrt(system.theta_E * t**2)
            names.append("PJAFFE")
            # total mass: 2 pi sigma0 Ra Rs = pi theta^2; the core Ra is lenstronomy's smallest
            lenses.append({"sigma0": t**2 / (2 * tidal * 1e-8), "Ra": 1e-8, "Rs": tidal})
        else:
            names.append("POINT_MASS")
            lenses.append({"theta_E": t})
        lenses[-1] |= {"center_x": x, "center_y": y}
    return names, lenses


def with_lenstronomy(system, population):
    """The image as DeepLenseSim calls lenstronomy for it: everything made anew."""
    n, scale = population.num_pix, population.instrument.pixel_scale
    start = -(n - 1) / 2 * scale
    data = ImageData(
        image_data=np.zeros((n, n)),
        ra_at_xy_0=start,
        dec_at_xy_0=start,
        transform_pix2angle=np.eye(2) * scale,
    )
    instrument = population.instrument
    psf = PSF(
        "GAUSSIAN", fwhm=instrument.psf_fwhm, truncation=instrument.psf_truncation, pixel_size=scale
    )
    names, lenses = arguments(system, population)
    light = LightModel(["SERSIC_ELLIPSE"])
    image = ImageModel(
        data,
        psf,
        lens_model_class=LensModel(names),
        source_model_class=light,
        lens_light_model_class=light if system.lens_light else None,
        kwargs_numerics={
            "supersampling_factor": instrument.supersampling,
            "supersampling_convolution": instrument.supersampling > 1,
        },
    )
    lens_light = [system.lens_light] if system.lens_light else None
    return image.image(lenses, [system.source], kwargs_lens_light=lens_light)


def with_values(system, values):
    """The simulator's lens with other values of the fit's parameters, logarithms as such."""
    named = {
        row.name: np.exp(value) if row.logarithmic else value
        for row, value in zip(parameters(), values, strict=True)
    }
    halo = {name: named[name] for name in ("e1", "e2", "gamma1", "gamma2")}
    source = {name: named[f"source_{name}"] for name in ("e1", "e2", "R_sersic", "n_sersic", "amp")}
    source |= {"center_x": named["source_x"], "center_y": named["source_y"]}
    center = (named["center_x"], named["center_y"])
    return replace(system, theta_E_halo=named["theta_E"], source=source, center=center, **halo)

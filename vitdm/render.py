"""The forward model: the image of a lens without noise."""

from __future__ import annotations

import functools

import numpy as np
from lenstronomy.Data.imaging_data import ImageData
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel


@functools.lru_cache(maxsize=64)
def _image_model(profiles, lens_light: bool, num_pix: int, pixel_scale, fwhm, truncation):
    start = -(num_pix - 1) / 2 * pixel_scale
    data = ImageData(
        image_data=np.zeros((num_pix, num_pix)),
        ra_at_xy_0=start,
        dec_at_xy_0=start,
        transform_pix2angle=np.eye(2) * pixel_scale,
    )
    psf = PSF("GAUSSIAN", fwhm=fwhm, truncation=truncation, pixel_size=pixel_scale)
    return ImageModel(
        data,
        psf,
        lens_model_class=LensModel(list(profiles)),
        source_model_class=LightModel(["SERSIC_ELLIPSE"]),
        lens_light_model_class=LightModel(["SERSIC_ELLIPSE"]) if lens_light else None,
        kwargs_numerics={"supersampling_factor": 1, "supersampling_convolution": False},
    )


def brightness(system, theta: np.ndarray, population) -> np.ndarray:
    """Return the image (num_pix, num_pix) in counts/s and pixel.

    ``theta`` (n,) are the Einstein radii of the point masses at ``system.x``, ``system.y`` ["].
    """
    instrument = population.instrument
    model = _image_model(
        ("SIE", "SHEAR", *["POINT_MASS"] * len(theta)),
        system.lens_light is not None,
        population.num_pix,
        instrument.pixel_scale,
        instrument.psf_fwhm,
        instrument.psf_truncation,
    )
    lens = [
        {"theta_E": system.theta_E_halo, "e1": system.e1, "e2": system.e2},
        {"gamma1": system.gamma1, "gamma2": system.gamma2},
    ]
    lens += [
        {"theta_E": t, "center_x": x, "center_y": y}
        for t, x, y in zip(theta, system.x, system.y, strict=True)
    ]
    light = [system.lens_light] if system.lens_light else None
    return model.image(lens, [system.source], kwargs_lens_light=light)

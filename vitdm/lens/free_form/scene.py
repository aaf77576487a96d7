"""What a fit needs to know of an image before it starts: noise, PSF, lens galaxy."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vitdm.config.free_form import FreeForm
from vitdm.data.observation import Observation
from vitdm.errors import InputError
from vitdm.lens.free_form.galaxy import Galaxy, fit_galaxy, kernel_of
from vitdm.lens.free_form.view import FREE_LIGHT, Scene
from vitdm.lens.noise import noise_of_the_faint, photon_noise

LEFT_SIGMAS = 0.15, 0.3, 0.6, 1.2  # ", of light that a subtracted galaxy may leave
LEFT_PEAK = 30.0  # of the noise: s.d. of its brightness in the middle
FAINT = 5.0  # S/N of the light of a galaxy below which there is none


def scene_of(observation: Observation, settings: FreeForm) -> Scene:
    """Return the scene of an observation; InputError if its pixel scale is unknown."""
    if observation.pixel_scale is None:
        raise InputError(
            f"{observation.name}: found no pixel_scale; expected arcsec per pixel, above 0"
        )
    if min(observation.shape) < 24:
        found = f"found an image of {observation.shape[0]} x {observation.shape[1]} pixels"
        raise InputError(f"{observation.name}: {found}; expected at least 24 on each side")
    good = ~observation.mask
    if not good.any():
        raise InputError(f"{observation.name}: found no pixel that is not missing")
    if observation.psf is None:
        observation = observation.replace(psf=settings.psf_fwhm)
    noise = noise_map(observation, settings)
    galaxy = fit_galaxy(observation, noise) if settings.lens_light else None
    if galaxy and not _shines(galaxy, noise[good]):
        galaxy = None
    scene = Scene(
        data=np.where(good, observation.data, 0.0).astype(float),
        noise=noise,
        good=good,
        kernel=kernel_of(observation),
        pixel_scale=float(observation.pixel_scale),
        galaxy=None,
        galaxy_light=np.zeros(observation.shape),
        light=np.zeros((0, *observation.shape)),
        center=(0.0, 0.0),
        center_sd=settings.center_offset,
    )
    return with_galaxy(scene, galaxy, settings)


def with_galaxy(scene: Scene, galaxy: Galaxy | None, settings: FreeForm) -> Scene:
    """Return the scene with another fit of the light of its galaxy, or without any."""
    sky = np.full((1, *scene.data.shape), float(np.median(scene.noise[scene.good])))
    if galaxy is None:
        level = _sky(scene) if settings.lens_light else 0.0
        left = _left_over(scene) if settings.light_left else sky[:0]
        return replace(
            scene,
            galaxy=None,
            galaxy_light=np.full(scene.data.shape, level),
            light=np.concatenate([left, sky]),
            center=(0.0, 0.0),
            center_sd=settings.center_offset,
        )
    lit = galaxy.amplitudes > 0
    light = galaxy.components(lit) * galaxy.amplitudes[lit][:, None, None]
    return replace(
        scene,
        galaxy=galaxy,
        galaxy_light=light.sum(0) + galaxy.sky,
        light=np.ascontiguousarray(np.concatenate([light, sky])),  # as if read from a file
        center=galaxy.center,
        center_sd=settings.light_offset,
    )


def _left_over(scene: Scene) -> NDArray:
    """Return round Gaussians about the middle (k, H, W): what a subtracted galaxy may leave."""
    height, width = scene.data.shape
    row, column = np.indices(scene.data.shape)
    squares = (row - (height - 1) / 2) ** 2 + (column - (width - 1) / 2) ** 2
    sigmas = np.array(LEFT_SIGMAS)[:, None, None] / scene.pixel_scale
    noise = float(np.median(scene.noise[scene.good]))
    return LEFT_PEAK / FREE_LIGHT * noise * np.exp(-squares / (2 * sigmas**2))


def _sky(scene: Scene) -> float:
    return float(np.median(scene.data[scene.good]))


def _shines(galaxy: Galaxy, noise: NDArray) -> bool:
    radius = max(galaxy.half_light_radius, galaxy.pixel_scale) / galaxy.pixel_scale
    pixels = np.pi * radius**2 if np.isfinite(radius) else 1.0
    return galaxy.flux / 2 > FAINT * float(np.median(noise)) * np.sqrt(pixels)


def noise_map(observation: Observation, settings: FreeForm) -> NDArray:
    """Return the rms (H, W) of the noise: as given, or of the sky and the photons of the image.

    What is not given is measured: the sky's noise on the fainter half of the pixels, the photon
    noise on the roughness of the brighter ones.
    """
    image, noise, good = observation.data, observation.noise, ~observation.mask
    if isinstance(noise, np.ndarray):
        return np.where(good, noise, np.inf).astype(float)
    filled = np.where(good, image, np.median(image[good])).astype(np.float32)
    sky = float(noise or noise_of_the_faint(filled, settings.noise_lag) or np.std(image[good]))
    if not sky > 0:
        raise InputError(
            f"{observation.name}: found no noise in the image; expected a noise map or number"
        )
    smooth = cv2.GaussianBlur(filled, (0, 0), 1.0)
    above = np.clip(smooth - np.median(smooth[good]), 0, None)
    gain = observation.gain if observation.gain is not None else settings.gain
    if gain is None:
        rough = torch.from_numpy((filled - smooth)[None] / sky)
        bright = torch.from_numpy(above[None] / sky)
        gain = photon_noise(rough, bright, settings.noise_lag).item() * sky
    return np.where(good, np.sqrt(sky**2 + gain * above), np.inf)

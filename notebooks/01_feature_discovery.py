# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Feature discovery
#
# A massive galaxy bends the light of whatever lies behind it. If a second galaxy stands almost
# exactly behind the first, we see it several times, stretched into arcs or closed into a ring. Most
# of the bending mass is dark, so the shape of the arcs is one of the few places where the
# small-scale structure of dark matter can be seen at all. This notebook
#
# 1. says what clumps of dark matter do to an arc,
# 2. looks at the images and at their noise,
# 3. follows one image on its way to the network, and tests that way, on simulated and real skies,
# 4. defines numbers with a physical meaning, *features*, and shows how they are distributed,
# 5. fits a smooth lens to each image, and looks at what it leaves.
#
# Nothing is trained here, and the test split is not looked at: apart from counting the images of
# each split, everything below is measured on the development images, train, valid and opt.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from studies import notebook

out = notebook.start(results, figures, tables, name="01_feature_discovery")

# %%
import json
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import display

from studies import plots, real_lenses, subhalo_distance
from vitdm import config
from vitdm.data import dataset, readers
from vitdm.evaluation import evaluate
from vitdm.features import definitions, morphology
from vitdm.features import measure as features
from vitdm.lens import modelled
from vitdm.preprocess import process as preprocess
from vitdm.simulation.population import table as describe

raw = dataset.Dataset.open(out.results / "dataset")
processed = dataset.Dataset.open(out.results / "processed")
measured = dataset.read_catalog(out.results / "features.csv")
catalog, settings = processed.catalog, out.config.preprocess
development = np.flatnonzero(catalog["split"] != "test")
_, classes = raw.labels("multiclass")
simulated = out.config.data == "simulate"
population = config.load_population(out.config.population) if simulated else None
print(f"{len(catalog)} images of {raw.images.shape[1]} × {raw.images.shape[2]} pixels")

# %% [markdown]
# The images are divided into four splits, each with the same proportion of the classes. **train**
# and **valid** teach the models and stop their training in time, **opt** judges settings, and
# **test** is opened once, in notebook 05.

# %%
# NBVAL_CHECK_OUTPUT
pd.crosstab(catalog["class"], catalog["split"]).loc[classes, list(config.SPLITS)]

# %% [markdown]
# ## 1.1 The physics: what substructure does to an arc
#
# Let $\boldsymbol\theta$ be the direction in which we see a point and $\boldsymbol\beta$ the
# direction in which it would stand without the lens. The two are related by the **lens equation**
#
# $$
# \boldsymbol\beta = \boldsymbol\theta - \boldsymbol\alpha(\boldsymbol\theta), \qquad
# \boldsymbol\alpha = \boldsymbol\alpha_\text{halo} + \sum_i \boldsymbol\alpha_i ,
# $$
#
# where $\boldsymbol\alpha$ is the deflection: one smooth term for the halo, and one for each clump.
# A point of mass $m$ at $\boldsymbol\theta_i$ deflects towards itself by
#
# $$
# \boldsymbol\alpha_i = \theta_{\mathrm E,i}^2\,
# \frac{\boldsymbol\theta - \boldsymbol\theta_i}{|\boldsymbol\theta - \boldsymbol\theta_i|^2},
# \qquad
# \theta_{\mathrm E,i} = \sqrt{\frac{4 G m}{c^2}\,\frac{D_{LS}}{D_L D_S}} \propto \sqrt m .
# $$
#
# Lensing conserves surface brightness: it only moves light about. A clump next to an arc therefore
# shifts the arc locally by about $|\boldsymbol\alpha_i|$, and, because it pulls neighbouring points
# by different amounts, stretches or shrinks it there. Three consequences can be looked for:
#
# - **Local brightness.** A piece of arc that is stretched covers more pixels and is brighter in
#   sum; an image may split, or gain a knot.
# - **Local geometry.** The arc leaves the smooth curve that the halo alone would draw.
# - **Global geometry.** All mass inside the ring adds to the deflection. If clumps come *on top of*
#   the halo, the Einstein radius of the whole grows: the ring gets larger.
#
# **Cold dark matter** makes compact subhalos all over the halo. In a **condensate of axion-like
# particles** with a mass near $10^{-23}$ eV, whose de Broglie wave is as large as a galaxy,
# vortices can form instead. A vortex is modelled as a line of mass; the lighter the particle, the
# longer the line. Its pull acts along the whole line, and far away from it as if it were a point.

# %%
if simulated:
    same = {"id": catalog["id"].iloc[0], "class": classes, "seed": out.config.seed}
    out.figure(
        plots.perturbations(plots.simulated(pd.DataFrame(same), population)), "perturbations"
    )
else:
    print("How these images were made is not known here, so this figure is not drawn.")

# %% [markdown]
# *Above*, the same source behind the same halo, without noise: smooth, and with substructure.
# *Below*, what the substructure changed, in units of the noise of a pixel. Circles are the
# subhalos, their area proportional to the mass; the line is the vortex. A red rim beside a blue one
# is a piece of arc that moved. Two things can be told apart: differences along the whole ring, for
# all mass within it deflects all of it, and finer structure near heavy subhalos that lie on the
# ring. The first kind looks like a slightly different smooth lens; the second does not. The network
# has to find such differences in one noisy image, without the smooth twin to compare with.

# %% [markdown]
# What is drawn for each lens, and from what: halo, shear and source are drawn before the
# substructure, with random numbers of their own, so that they are alike in all classes.

# %%
if simulated:
    priors = describe(population)
    out.table(priors, "population")
    display(priors.style.hide(axis="index"))

# %% [markdown]
# ## 1.2 The images
#
# Each row shows lenses of one class, as the network sees them (section 1.4), from
# its own sky to its own peak.

# %%
chosen = catalog[catalog["split"] == "train"].groupby("class").head(5)["class"]
gallery = [plots.Example(processed.images[row], kind) for row, kind in chosen.items()]
pixel_scale = population.instrument.pixel_scale if simulated else None
out.figure(plots.population_gallery(gallery, pixel_scale), "lens_gallery")

# %% [markdown]
# Within a row the images differ mostly because the source stands at another place behind the lens
# (on the axis it makes a ring, off the axis a long arc with a small counter-image across), and,
# unless the population fixes them, in the size and shape of halo and source. Between
# rows hardly any difference can be told by eye. That is the problem in one picture: the parameters
# nobody asks for move more light than the one we want to know.
#
# ## 1.3 The noise
#
# To decide what is light of the source, we have to know the noise. Sky level and rms are measured
# in each image by sigma clipping: take the median and the rms about it, drop the values that are
# more than $3\sigma$ away, and repeat until nothing changes.

# %%
sample = development[:: max(1, len(development) // 500)]
zero_pixel_fraction = float(np.mean([(raw.images[row] == 0).mean() for row in sample]))
lights = [preprocess.detect(raw.images[row], settings) for row in sample]
outside = [light.residual[light.mask == 0] / light.noise for light in lights]
sky = np.concatenate([pixels[::7] for pixels in outside])
sigma = float(np.median([light.sigma for light in lights]))
out.figure(plots.noise_histogram(sky, sigma), "noise")
print(f"{100 * zero_pixel_fraction:.1f} % of all pixels are exactly 0")

# %% [markdown]
# The histogram holds pixels outside the lensed area, each in units of the rms of its own image, on
# a logarithmic axis; the curve is a Gaussian of that rms. Where the histogram follows the curve the
# measurement is right; what it has more at the bright end are the faint wings of the arcs.
#
# Images of DeepLense's Model I lack the left half: its simulator clips negative values at zero
# before it draws Poisson counts, so that nearly half of all pixels hold the same number, 0. An
# ordinary rms would then be too small by far, and clipping at $3\sigma$ would run away: each round
# removes a part of the one-sided tail and lowers the rms, which removes more. Where a tenth of the
# pixels or more is piled up at the smallest value, the rms is therefore taken from the upper half
# alone, which the clipping left untouched.
#
# The same holds for the rest of the sky. Where a galaxy fills the image and no sky is left, what
# varies from pixel to pixel is noise, and what varies slowly is light: the rms of second
# differences of pixels takes the place of the rms. Where pixel values are rounded and the sky is a
# single grey level, the noise is that of the rounding, and smoothing does not lower it.
#
# ## 1.4 From the raw image to the input of the network
#
# 1. **Smooth** lightly (a Gaussian of one pixel), and measure the noise again: smoothing lowers it,
#    for white noise to $\sigma / (2\sqrt\pi)$.
# 2. **Threshold** at a multiple of that noise and remove single pixels (a morphological opening).
#    What remains is the *lensed area*.
# 3. The **region of interest** begins with the largest outer contour, where an area counts less the
#    farther it is from the image's centre: cutouts are made around lenses, not around their
#    neighbours. If it is an arc, further images of the same source belong to it. Which ones?
#    Lensing conserves surface brightness, so they are not brighter than the arc, and they lie about
#    the same circle. Holes are filled, so that a ring counts as a disk.
# 4. Centre and axes follow from the moments of the flux $F$ above the threshold,
#    $\mu_{pq} = \sum F\,(x - \bar x)^p (y - \bar y)^q$. The weights vanish at the edge of the
#    region, so that a pixel of noise more or less there turns nothing. The major axis has the angle
#    $$\varphi = \tfrac12 \arctan \frac{2\mu_{11}}{\mu_{20} - \mu_{02}} ,$$
#    and of its two directions we take the one with the longer tail (positive third moment); the
#    third moment *across* the axis tells the image from its mirror image. A region whose axes
#    differ by less than a tenth has no orientation, and is flagged (`roi_oriented`).
# 5. **De-rotate**, if so configured: turn the image until that axis lies along $+x$, and mirror it
#    if the tail across points to $-y$.
# 6. **Cut** a square, around the centre of the image or of the region, at the native resolution:
#    resampling would smear the very scales on which subhalos act. (`resize` scales the region to
#    fill the square instead, for images whose pixels are not all alike.)
# 7. **Stretch**: $\operatorname{arcsinh}[(I - I_\mathrm{sky}) / (s\,\sigma)]$ is linear in the
#    noise and logarithmic in the arcs, so that bright and faint parts have similar weight.

# %%
# NBVAL_CHECK_OUTPUT
pd.Series(settings.model_dump(), name="setting").to_frame()

# %%
elongated = (catalog["roi_elongation"].iloc[development] > 1.25).to_numpy()
example = development[np.argmax(elongated)]
image = np.array(raw.images[example])
light = preprocess.detect(image, settings)
square, roi = preprocess.process(image, settings)
out.figure(plots.processing_steps(image, light, roi, square), "processing_steps")
print(
    f"sky {light.sky:.4g}, noise {light.sigma:.4g}, region {roi.area} px², angle {roi.angle:.0f}°"
)

# %% [markdown]
# (a) The raw pixels in units of the noise. (b) The smoothed image; the white contour is the
# threshold. (c) The region of interest, its centre (cross), and its major axis; the arrow points to
# the longer tail. (d) What the network gets. Compare (a) and (d): the stretch brings out the faint
# ends of the arcs, and the cut drops empty sky without touching a pixel of the rest.
#
# How much light does the cut lose? The fraction of the flux of the lensed area that is left inside
# it:

# %%
kept = []
for light in lights:
    flux = light.residual * light.mask
    if flux.sum() > 0:
        kept.append(preprocess.cut(flux, preprocess.roi_of(light), settings).sum() / flux.sum())
print(f"kept: median {100 * np.median(kept):.2f} %, smallest {100 * np.min(kept):.2f} %")
roi_found = float(catalog["roi_found"].iloc[development].mean())
print(f"a region is found in {100 * roi_found:.2f} % of the development images")

# %% [markdown]
# ## 1.5 What must not matter
#
# A lens is the same lens when it is turned, mirrored, moved, dimmed or seen through a little more
# noise. That is a test which needs no truth: change a raw image, process it, and correlate the
# result with what becomes of the unchanged image, pixel by pixel. `vitdm invariance` does so for
# three procedures on the same images:
#
# - **turned**: ours, turned, mirrored and cut around the light,
# - **as it is**: ours, cut around the image's centre, the default of this article,
# - **the precursor's** (`studies.precursor`): a fixed threshold, the first contour found, a
#   minimum-area rectangle with its sides sorted, resized to 88 × 64. Its thresholds are made for
#   images between 0 and 1, so that each image is scaled to that range first.
#
# Images are turned by Lanczos interpolation in steps of 10°; what comes into view at the corners is
# drawn from their own sky, and pixel values that were rounded are rounded again.

# %%
folders = {
    Path(file).stem: f"populations/{Path(file).stem}" for file in out.config.populations.files
}
folders = folders if simulated and folders else {"these images": "."}
tables, summaries = [], {}
for name, folder in folders.items():
    where = out.results / folder / "invariance"
    tables.append(pd.read_csv(where / "invariance.csv", dtype={"id": str}).assign(population=name))
    summaries[name] = json.loads((where / "invariance.json").read_text())
tested = pd.concat(tables, ignore_index=True)
out.figure(plots.invariance(tested[tested["oriented"] == 1]), "invariance")

# %% [markdown]
# Lines are medians over the images that have an orientation, bands hold the central 90 % of them. A
# processing that undoes the rotation stays close to one at every angle; not at one, for every
# resampling smooths the noise, and a processed image is turned once more than its reference. As it
# is, an image comes back to itself after 360°, and after 180° as far as it is symmetric. The
# precursor's crop depends on the angle, and on noisy images it does not find the lens at all: their
# sky lies above its thresholds.

# %%
rows = []
for name, summary in summaries.items():
    for procedure, of in summary["procedures"].items():
        turned = of["rotation"]["oriented"]
        row = {"population": name, "procedure": procedure, "oriented": summary["oriented"]}
        row |= {"rotation": turned["median"], "rotation_p05": turned["p5"]}
        row |= {kind: of[kind]["all"]["median"] for kind in ("mirror", "shift", "noise")}
        row |= {"brightness_min": of["brightness"]["all"]["smallest"]}
        rows.append(row | {f"flux_{key}": of["flux_kept"][key] for key in ("median", "p1")})
tolerated = pd.DataFrame(rows)
out.table(tolerated, "invariance")
tolerated.round(3)

# %% [markdown]
# `oriented` is the fraction of images whose region has an orientation, `rotation` the median
# correlation over these and all angles, `rotation_p05` the 5th percentile; `mirror`, `shift` (15
# px) and `noise` (half a sigma more) are medians over all images, `brightness_min` the *smallest*
# correlation when the image is multiplied by 0.1 to 10. `flux` is the fraction of the detected
# light that is inside the cut, over all rotations: median and 1st percentile. Where the square is
# too small for a lens, as for the wide galaxies of some populations, it is what the crop loses.
#
# Why, then, is de-rotation not always on? It interpolates pixels, and substructure is a matter of
# single pixels. The network can learn from random mirror images instead. Which is better is
# measured, not assumed: it is a switch of the configuration.

# %%
print("de-rotation in this run:", "on" if settings.derotate else "off")

# %% [markdown]
# ## 1.6 On the real sky
#
# Simulated cutouts hold one lens and nothing else. The sky has neighbours, missing pixels,
# gradients and, in space-based images of nearby lenses, a galaxy that fills the whole cutout. If
# real cutouts are there (`real_images` in the configuration; docs/data.md tells where to get the
# ones shown in the article), here is what is found in them.

# %%
place = Path(out.config.real_images) if out.config.real_images else None
real, values = [], []
turned = settings.model_copy(update={"derotate": True, "crop": "roi", "resize": True})
there = sorted(place.rglob("*")) if place and place.is_dir() else []
for name, image in readers.load_images([file for file in there if readers.suffix_of(file.name)]):
    light = preprocess.detect(image, turned)
    roi = preprocess.roi_of(light)
    frame = preprocess.window(image.shape, roi, turned)
    crop = preprocess.process_light(light, roi, turned)
    shown = np.arcsinh(light.residual / (3 * light.noise))
    real.append(plots.RealLens(Path(name).stem.split("_npix")[0], shown, roi, frame, crop))
    values.append(features.measure(image, settings, out.config.features))
if real:
    out.figure(plots.real_lenses(real), "real_lenses")
    print(f"found: {sum(lens.roi.found for lens in real)} of {len(real)}")
else:
    print("No real images here.")

# %% [markdown]
# White is the outline of the region of interest, cyan the square cut around it, with an arrow along
# the major axis to its longer tail; below each image its crop, in which the region fills the frame.
# In the images from space the galaxy outshines the arcs by far, so that the orientation is that of
# the galaxy: a researcher would subtract it first. In the images from the ground most lenses are
# barely resolved, and what matters is that the neighbours, some of them brighter, are left out.

# %% [markdown]
# ## 1.7 Physics features
#
# The network's verdict is a number without a reason. Features are numbers *with* one, measured on
# the raw images in units of the noise or of pixels. Those measured on the image come in two groups;
# a third is that of section 1.8.
#
# **The proposal's** are those that the precursor of this work had in mind: the area of the lensed
# light; at several levels, in percent of the peak and never below the noise, how many separate
# bright regions there are (`n_bright`), and how far the two most distant and the two closest stand
# apart (`max_separation`, `min_separation`). A ring is one region, whatever it surrounds. With
# fewer than two regions there is no distance, and the value is missing: not 0, not −1. Separations
# have a classical meaning: for a singular isothermal lens the two images of a source at $\beta$
# stand at $\theta_\pm = \beta \pm \theta_{\mathrm E}$, so that their separation is
# $2\,\theta_{\mathrm E}$ *wherever the source is*.
#
# **The morphology** is what the field measures on galaxies and arcs: how the light is distributed
# over pixels (`gini`, `m20`), about its centre (`concentration`, `asymmetry`), and along the ring.
# For the last kind a circle is fitted to the light (Taubin 1991). Its centre is *not* that of the
# lens: to first order the images of a source at $\boldsymbol\beta$ lie on a circle of radius
# $\theta_{\mathrm E}$ that is moved along with the source. That is why its radius (`ring_radius`)
# follows $\theta_{\mathrm E}$ more closely than any distance from the image's centre. About this
# circle the light is laid straight:

# %%
rings = {}
for kind in classes:
    of_kind = development[(catalog["class"] == kind).to_numpy()[development]][:50]
    arcs = measured["arc_angle"].iloc[of_kind].fillna(0).to_numpy()
    # the first long arc; where there is none, the longest
    for row in of_kind[np.argsort(-np.minimum(arcs, 120), kind="stable")]:
        light = preprocess.detect(np.array(raw.images[row]), settings)
        if circle := features.fit_circle(light, preprocess.roi_of(light)):
            ring = features.unroll(light, circle)
            rings[plots.NAMES[kind]] = (light.residual / light.noise, circle, ring)
            break
out.figure(plots.unrolled_rings(rings, morphology.SMOOTH_ORDERS + 1), "unrolled_rings")

# %% [markdown]
# (a) The fitted circle, and the annulus that is unrolled. (b) The annulus, azimuth to the right.
# (c) What is left if, at each radius, the azimuthal orders up to 4 are taken away, in units of the
# noise of a pixel: the *residual against a smooth azimuthal model*. (d) The power by azimuthal
# order, over that of noise. A smooth lens has its power at low orders, for ellipticity and shear
# are quadrupoles; a clump acts on a short piece of arc, and a short piece of arc is made of high
# orders. From these come `ring_ellipticity` and `ring_wiggle` (how the ridge of the arc departs
# from an ellipse), `fourier_m`, and `residual_power`, `_peak` and `_slope`.
#
# But look at (c) of the smooth lens: where images merge and arcs end, it has structure at high
# orders as well, by tens of sigma. A model that is merely smooth in azimuth is not a lens. To see
# what a clump does one has to subtract what the *same lens without it* would show, which takes the
# lens equation: section 1.8. These features are the best that can be done without.

# %%
defined = definitions.table(out.config.features, merged=True)
out.table(defined, "features")
print("L:", ", ".join(f"{100 * level:g}" for level in out.config.features.levels))
shown = defined.style.hide(axis="index")
shown.set_properties(**{"text-align": "left", "white-space": "normal"})

# %%
names = definitions.feature_names(out.config.features)
units = {name: definitions.definitions(out.config.features)[name].unit for name in names}
by_class = measured.loc[development, names].assign(**{"class": catalog["class"]})
out.figure(plots.feature_distributions(by_class, units), "feature_distributions")

# %% [markdown]
# One panel a feature, one line a class, each histogram of unit area over the images in which the
# feature exists, without the lowest 5 % and the highest 0.5 % of the values. Where the lines lie on
# one another the feature says nothing by itself. How far each feature alone gets is the subject of
# notebook 02.
#
# **Real lenses beside simulated ones.** A feature can be trusted on the sky only where simulated
# lenses have values like those of real ones. For each population the range that holds 90 % of its
# lenses, and the real values (with their pixels, not ours: lengths differ by the pixel scale).

# %%
compared = ["peak_snr", "gini", "m20", "concentration", "asymmetry", "roi_elongation"]
ranges = {}
for name, folder in folders.items() if real else []:
    simulated_values = dataset.read_catalog(out.results / folder / "features.csv")[compared]
    low, high = simulated_values.quantile(0.05), simulated_values.quantile(0.95)
    ranges[name] = [f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True)]
for lens, value in zip(real, values, strict=True):
    ranges[lens.name] = [f"{value[key]:.2f}" for key in compared]
beside = pd.DataFrame(ranges, index=compared).T.rename_axis("lens").reset_index()
if real:
    out.table(beside, "real_lenses")
    display(beside)

# %% [markdown]
# ## 1.8 What a smooth lens leaves
#
# The features above measure the image. To see what a clump *changed*, one has to know what the
# image would be without it. So a smooth lens is fitted to each image (`vitdm.lens`): a
# singular isothermal ellipsoid with external shear, $\theta_{\mathrm E}, e_1, e_2, \gamma_1,
# \gamma_2$, in front of an elliptical Sérsic source, blurred by the PSF, with a constant sky;
# twelve parameters and the sky, all free, and if the lens galaxy shines, its light. The fit
# minimises $$\chi^2 = \sum_k r_k^2, \qquad r_k = \frac{y_k - m_k}{\sqrt{\sigma^2 + g\,m_k}},$$
# with the noise of the sky $\sigma$ and of the photons ($g$ is their variance per brightness), by
# Levenberg–Marquardt steps. A fit that does not converge is flagged, and nothing of it is used.
#
# What the smooth lens can imitate is gone from the residual $r$, whatever lens and source were.
# What it cannot imitate is left.

# %%
fitted = "lensfit" in out.config.features.groups
if fitted:
    fits = dataset.read_catalog(out.results / "lensfit" / "fits.csv")
    fits = fits.assign(**{"class": catalog["class"]}).iloc[development]
    converged = float((fits["fit_converged"] == 1).mean())
    smooth = fits[fits["class"] == "no_sub"]
    explained = float(((smooth["fit_converged"] == 1) & (smooth["fit_chi2"] < 1.3)).mean())
    print(f"converged: {converged:.1%}; smooth lenses with chi2 / dof < 1.3: {explained:.2%}")
    display(fits["fit_flags"].fillna("no flag").value_counts().head(8).to_frame("images"))

# %%
if fitted and simulated:
    used = fits[fits["fit_converged"] == 1]
    rank = used.groupby("class")["fit_fourth_power"].rank(
        pct=True
    )  # lenses in the middle of their class, and near its upper end
    picked = [
        (kind, (rank[used["class"] == kind] - at).abs().idxmin())
        for kind in classes
        for at in ((0.5, 0.85) if kind != "no_sub" else (0.5,))
    ]
    rows = [row for _, row in picked]
    lenses = plots.simulated(catalog.iloc[rows], population, raw.images[rows])
    maps = np.load(out.results / "lensfit" / "residuals.npy", mmap_mode="r")
    power = used["fit_fourth_power"]
    labels = [f"{plots.NAMES[kind]}\n$S_4$ = {power[row]:.0f}" for kind, row in picked]
    drawn = [
        (label, lens, maps[row]) for label, lens, row in zip(labels, lenses, rows, strict=True)
    ]
    out.figure(plots.residual_maps(drawn), "residual_maps")

# %% [markdown]
# Above, the images; the number is the mean fourth power of the residual, of sums over 3 × 3 pixels,
# 3 for noise alone. In the middle, what the substructure changed, which only the simulator knows,
# with the clumps. Below, what the fit leaves, without any truth. For a smooth lens that is noise.
# With substructure the fit takes away what another smooth lens would do as well (a little more
# mass, a little ellipticity), and leaves the rest: pairs of red and blue where a piece of arc was
# moved. For lenses in the middle of their class the eye finds it hardly; the fourth power does, for
# it weighs a few large residuals more than many small ones.
#
# **The shortcut, measured.** The same fit measures $\theta_{\mathrm E}$ to a few thousandths of an
# arcsecond, and with it what Model I gives away.

# %%
fitted_theta_E = {}
for name, folder in folders.items() if fitted and simulated else []:
    place = out.results / folder
    known = dataset.Dataset.open(place / "dataset").catalog["class"]
    table = dataset.read_catalog(place / "lensfit" / "fits.csv").assign(**{"class": known})
    fitted_theta_E[name] = table[table["fit_converged"] == 1]
main = Path(out.config.population).stem
side_by_side = {name: fitted_theta_E[name] for name in (main, "model_i") if name in fitted_theta_E}
if side_by_side:
    out.figure(plots.einstein_radii(side_by_side), "einstein_radii")
alone = {}
for name, table in side_by_side.items():
    truth = (table["class"] != "no_sub").to_numpy(int)
    for key in ("fit_theta_E", "fit_fourth_power", "fit_point_evidence"):
        answer = evaluate.bootstrap_interval(
            evaluate.weighted_auc, truth, [table[key].to_numpy()], 500, out.config.seed
        )
        alone |= {f"{key}_auc_{name}": answer}
        print("{:10s} {:18s} ROC-AUC {:.3f} ({:.3f} to {:.3f})".format(name, key, *answer))

# %% [markdown]
# Where the classes stand apart, the Einstein radius alone tells them, and a high score is no proof
# that a clump was seen. In the reference run, on `marginal`, it tells nothing, while single numbers
# measured on what the fit leaves, without any training, tell nearly all: the fourth power of the
# residual, and still more the evidence of a point mass, which knows what a point mass does.
#
# **Does it point at the clump?** A high score should come with a place. So we compare where the
# residual peaks with where the most massive subhalo is, in images of the class `cdm` in which that
# one lies within 0.3″ of the ring: others hardly act on the arcs. The catalog knows the single most
# massive subhalo of each image and no other, so that a peak at the second one counts as a miss. *By
# chance* is what the peaks of the other images would do, each of which lies on a ring, too.

# %%
pointed = {}
for name in side_by_side:
    place = out.results / folders[name]
    known = dataset.Dataset.open(place / "dataset").catalog
    if "max_subhalo_mass" in known:
        each = subhalo_distance.distance_to_subhalo(
            known, dataset.read_catalog(place / "lensfit" / "fits.csv")
        )
        pointed[name] = (each, subhalo_distance.found_by_mass(each, subhalo_distance.MASS_BINS))
        display(pointed[name][1].round(2).style.set_caption(name).hide(axis="index"))
if pointed:
    out.figure(plots.subhalo_distance(pointed, subhalo_distance.FOUND), "subhalo_distance")

# %% [markdown]
# Above, each point is an image; below the dashed line the peak is within 0.2″, four pixels, of the
# subhalo. Below, the fraction of the images for which it is, in bins of the mass, with 95 %
# intervals. Where the points lie on the grey lines, the peak tells nothing about the place. Nearly
# all masses are above $10^{9.5}$ solar masses, for of 25 subhalos the most massive one is shown.
# Even then more than half of the peaks lie elsewhere in the reference run: the fit moves mass about
# to take away what it can, other subhalos act too, and the same deflection moves more light where
# the arc is bright. And a peak that is found lies some 0.1″ beside its subhalo rather than on it,
# which is about the Einstein radius of such a point.
#
# **The same fit to real lenses.** Here nothing is known but the pixel scale and the camera. Of the
# cutouts of section 1.6, those of `config/slacs.yaml` are fitted, with the light of the lens galaxy
# in the model. Four fits of each, one simplification less at a time, show what $\chi^2$ is made of.
# *white*: the noise is measured between neighbouring pixels. *shared*: these images are drizzled,
# that is resampled from several exposures; neighbours share noise, and their differences show half
# of it, so it is measured between pixels two apart. *masked*: cosmic rays and neighbouring galaxies
# are left out. *full*: a second Sérsic profile for the lens galaxy, with the same centre.

# %%
slacs = config.load_cutouts("config/slacs.yaml")
known = readers.load_images([file for file in there if file.name in slacs.cutouts])
cutouts = {Path(name).name: image for name, image in known}
real_numbers = {"n_real_fits": len(cutouts)}
if cutouts:
    real_fits, images, fit = real_lenses.fit_cutouts(cutouts, slacs)
    maps = zip(images, *modelled(fit, slacs.lensfit), fit.residual, strict=True)
    told = real_fits[["name", "theta_E", "chi2_full", "flags"]].itertuples(index=False)
    pairs = [plots.RealFit(*row, *shown) for row, shown in zip(told, maps, strict=True)]
    out.figure(plots.real_residuals(pairs), "real_residuals")
    out.table(real_fits, "real_fits")
    display(real_fits.round(4))
    for name in ("chi2_white", "chi2_shared", "chi2_masked", "chi2_full", "chi2_beyond"):
        low, high = real_fits[name].min(), real_fits[name].max()
        real_numbers |= {f"real_{name}_min": low, f"real_{name}_max": high}
    off = (real_fits["theta_E"] / real_fits["theta_E_published"] - 1).abs()
    real_numbers |= {"real_theta_E_off_median": off.median(), "real_theta_E_off_max": off.max()}
    real_numbers |= {"n_real_converged": int(fit.converged.sum())}
    real_numbers |= {"n_real_poor": int(real_fits["flags"].str.contains("poor").sum())}

# %% [markdown]
# Above, the image (grey: not fitted) and the model, on one scale; then the image without the light
# of the lens galaxy, in which the arcs come out; then what is left of everything, in units of the
# noise. Where there is nothing but the fading light of the lens galaxy, `chi2_beyond` is 1.0 to 1.3
# in three lenses; in the other two a second ring or other objects stand there. Yet no fit is good:
# all carry the flag `poor`, and none may be searched for dark clumps, for what is left in the arcs
# would hide them. (`not_finite` tells of the masks, `edge` that the galaxy fills the cutout.) Lens
# by lens, in the reference run:
#
# - **J2238−0754** converges, to the published radius. With one profile it did not: a source as
#   large as the lens posed as its light. What is left is structure in the innermost 0.2 arcsec of
#   the galaxy, and knots in the source.
# - **J0956+5100** converges near the published radius, with a parameter at the limit of what is
#   allowed, and is the worst. An object stands inside the Einstein ring; its light is masked, its
#   mass is not in the model. The arcs have a structure that no Sérsic source gives them: red and
#   blue in stripes along them.
# - **J0728+3835** has the lowest $\chi^2$ and does not converge. The arcs are faint; radius, shear
#   and position of the source can be traded for one another: with other masks, PSF or number of
#   steps the fit stopped between 1.11 and 1.19 arcsec, with nearly the same $\chi^2$. The radius
#   misses the published one by far more than its error.
# - **J0946+1006** converges. It has a second ring, of another source farther away, outside of the
#   first, which the model cannot have; and this is the lens with a dark subhalo on its arc (Vegetti
#   et al. 2010), though here as much is left all along the arc.
# - **J1023+4230** converges. Two compact spots are left, on opposite sides: probably the images of
#   a knot in an extended source.
#
# The errors are those of the curvature of $\chi^2$. They take the model to be right and the noise
# of pixels to be independent; neither is, and they are too small, as the published radii show. The
# width of the PSF is not what is wrong: 0.08 or 0.12 instead of 0.1 arcsec changed $\chi^2$ by
# about a tenth at most. Nor are the radii an independent test: the files tell no pixel scale, and
# the one taken was checked with the published radii; the masks were set by eye, and the second
# profile, its start and the number of steps were chosen, on these five images. What would help is
# a source on a grid of pixels, and a mass with a free slope and companions: more than the smooth
# lens used here.

# %% [markdown]
# ## 1.9 Which lenses? The populations side by side
#
# Everything above is about one population of lenses. What a score on it means depends on what was
# simulated: on how much substructure there is, on the noise, and on whether anything *else* differs
# between the classes. So we set several populations beside one another. Each gallery shows lenses
# with their truth and, below, what the substructure changed, in units of the noise of a pixel; the
# colours mean the same in all of them.

# %%
rows = []
for file in out.config.populations.files if simulated else []:
    other, folder = config.load_population(file), out.results / "populations" / Path(file).stem
    sample = dataset.Dataset.open(folder / "dataset")
    shown, scale = sample.catalog.groupby("class").head(4), other.instrument.pixel_scale
    examples = plots.simulated(shown, other, sample.images[shown.index])
    print(f"{other.name}: {other.description}")
    out.figure(plots.population_gallery(examples, scale), f"gallery_{folder.name}")
    radius = dataset.read_catalog(folder / "features.csv")["ring_radius"]
    answer = folder / "ideal_observer" / "ideal_observer.json"
    limits = json.loads(answer.read_text()) if answer.exists() else {}
    for kind in [name for name in plots.NAMES if name in set(shown["class"]) - {"no_sub"}]:
        there = sample.catalog["class"].isin(["no_sub", kind]) & radius.notna()
        labels = (sample.catalog["class"][there] == kind).to_numpy(int)
        size = evaluate.bootstrap_interval(
            evaluate.weighted_auc, labels, [radius[there].to_numpy()], 500, out.config.seed
        )
        row = {"population": other.name, "class": kind, "auc_size": size._asdict()}
        rows.append(pd.json_normalize(row | limits.get(kind, {}), sep="_"))

# %% [markdown]
# Two questions can be put to each population before any network is trained.
#
# **Is there a shortcut?** Substructure has mass. Put on top of a halo that is the same in every
# image it enlarges the ring, and then the size of the ring alone tells the classes apart, without a
# clump being seen. This is so in DeepLense's Models I to III. In `marginal` and `realistic` the
# halos differ from one another by far more than substructure weighs, and its mean mass is taken out
# of them.
#
# **What could the best classifier do?** The simulator knows each lens without its substructure. So
# we can ask for the signal-to-noise ratio $s$ of the difference between the two images (a *matched
# filter*), and for what remains of it, $s_\text{free}$, when the smooth lens is allowed to adapt:
# its twelve parameters are fitted anew to the perturbed image. And we can score actual noisy images
# as a researcher would who has a perfect smooth model: subtract it, with only the source position
# refitted (*known*) or with all parameters refitted (*free*), and look at $\chi^2$ or at the fourth
# power of what is left. No network is expected to do much better than that on these lenses, and one
# that sees only the image has to learn what a smooth lens looks like first.

# %%
if rows:
    table = pd.concat(rows, ignore_index=True)
    out.table(table, "populations")
    out.figure(plots.populations_compared(table), "populations")
    display(table.round(3))
else:
    print("No populations are set side by side in this run.")

# %% [markdown]
# Points are areas under the ROC curve of one kind of substructure against smooth lenses, with 95 %
# intervals. Where *size alone* lies far from 1/2, the population has a shortcut. The residual
# scores are those of an observer who knows the smooth lens. Where they lie far above 1/2 and size
# does not, a classifier has to see the substructure itself, and can.

# %%
numbers = {
    "n_images": len(catalog),
    **{f"n_{name}": int((catalog["class"] == name).sum()) for name in classes},
    **{f"n_{name}": int((catalog["split"] == name).sum()) for name in config.SPLITS},
    "image_side": raw.images.shape[1],
    "crop_side": processed.images.shape[1],
    "zero_pixel_fraction": zero_pixel_fraction,
    "roi_found_fraction": roi_found,
    "flux_kept_median": float(np.median(kept)),
    "n_invariance_images": int(min(summary["n"] for summary in summaries.values())),
    "n_real_lenses": len(real),
    **real_numbers,
}
for row in tolerated.to_dict("records"):
    own = row["population"] in (Path(out.config.population).stem, "these images")
    for name in ("rotation", "rotation_p05", "mirror", "shift", "noise") if own else ():
        numbers[f"{name}_corr_{row['procedure']}"] = row[name]
for procedure in ("derotated", "plain", "precursor"):
    worst = tolerated[tolerated["procedure"] == procedure].min(numeric_only=True)
    numbers |= {f"{key}_corr_worst_{procedure}": worst[key] for key in ("rotation", "rotation_p05")}
    numbers |= {f"flux_{key}_worst_{procedure}": worst[f"flux_{key}"] for key in ("median", "p1")}
if simulated:
    numbers |= {"pixel_scale": pixel_scale}
for key, answer in alone.items():
    numbers |= dict(zip((key, f"{key}_low", f"{key}_high"), answer, strict=True))
if fitted:
    numbers |= {"fit_converged_fraction": converged, "fit_smooth_explained_fraction": explained}
for name, (each, _) in pointed.items():
    found = subhalo_distance.found_by_mass(each, (0, 99))  # no row without images
    for whole in found.to_dict("records"):
        keys = ("n", "rate", "rate_low", "rate_high", "chance", "distance")
        numbers |= {f"fit_peak_{key}_{name}": whole[key] for key in keys}
for row in table.to_dict("records") if rows else []:
    key = f"{row['population']}_{row['class']}"
    measured = {name: row[name] for name in table.columns[2:] if pd.notna(row[name])}
    numbers |= {f"{name}_{key}": value for name, value in measured.items()}
out.numbers(numbers)
pd.Series(numbers, name="value", dtype=object).to_frame()

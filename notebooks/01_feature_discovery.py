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
# A massive galaxy deflects the light of a source behind it. If the source lies almost exactly
# behind the galaxy, we see it several times, stretched into arcs or closed into a ring. Most of the
# deflecting mass is dark, so the shape of the arcs is one of the few probes of the small-scale
# structure of dark matter. This notebook
#
# 1. describes what clumps of dark matter do to an arc,
# 2. shows the images and measures their noise,
# 3. follows one image through the processing, and tests the processing on simulated and real
#    images,
# 4. defines *features*, numbers with a physical meaning, and shows their distributions,
# 5. fits a smooth lens to each image and examines the residual,
# 6. fits one real lens as well as can be, live (section 1.9).
#
# Nothing is trained here. Apart from the number of images of each split, everything below is
# measured on the development images (train, valid and opt); the test split is not used.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from studies import notebook

out = notebook.start(results, figures, tables, name="01_feature_discovery")

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from studies import config as workflow
from studies.plots.data import feature_distributions, noise_histogram
from studies.plots.lensfit import einstein_radii, real_residuals, residual_maps, subhalo_distance
from studies.plots.populations import perturbations, population_gallery, populations_compared
from studies.plots.processing import invariance, processing_steps, real_lenses, unrolled_rings
from studies.plots.slacs import one_lens
from studies.slacs import Maps
from studies.story import fits, images, populations, slacs
from studies.story.folders import main_population, population_folders
from studies.subhalo_distance import FOUND, MASS_BINS, found_by_mass
from vitdm import preprocess
from vitdm.config import SPLITS, FreeForm
from vitdm.data import dataset, readers
from vitdm.features import definitions, morphology
from vitdm.lens import fit as fit_lens
from vitdm.lens.free_form import FLAGS
from vitdm.simulation import NO_SUB
from vitdm.simulation.population import table as describe

# %%
raw = dataset.Dataset.open(out.results / "dataset")
processed = dataset.Dataset.open(out.results / "processed")
measured = dataset.read_catalog(out.results / "features.csv")
catalog, settings = processed.catalog, out.config.preprocess
development = np.flatnonzero(catalog["split"] != "test")
_, classes = raw.labels("multiclass")
population = populations.population_of(out.config)  # None: images from files
print(f"{len(catalog)} images of {raw.images.shape[1]} × {raw.images.shape[2]} pixels")

# %% [markdown]
# The images are divided into four splits, each with the same proportions of the classes (the name
# of a class says which substructure its lenses have: none, cold dark matter, or an axion vortex).
# **train** and **valid** are used to train models and to stop their training, **opt** to choose
# settings, and **test** once, in notebook 05.

# %%
# NBVAL_CHECK_OUTPUT
pd.crosstab(catalog["class"], catalog["split"]).loc[classes, list(SPLITS)]

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
# $D_L$, $D_S$ and $D_{LS}$ are the distances to lens and source, and between them. The **Einstein
# radius** $\theta_{\mathrm E}$ is that of the ring which a source exactly behind the mass makes.
# Lensing conserves surface brightness: it only moves light. A clump next to an arc therefore shifts
# the arc locally by about $|\boldsymbol\alpha_i|$ and, because neighbouring points are deflected by
# different amounts, stretches or shrinks it there. This has three consequences:
#
# - **Local brightness.** A piece of arc that is stretched covers more pixels and is brighter in
#   sum.
# - **Local geometry.** The arc deviates from the smooth curve that the halo alone would give.
# - **Global geometry.** All mass inside the ring adds to the deflection. If clumps are added *on
#   top of* the halo, the Einstein radius of the whole lens grows and the ring gets larger.

# %% [markdown]
# **Cold dark matter** makes compact subhalos all over the halo. In a **condensate of axion-like
# particles** with a mass near $10^{-23}$ eV, whose de Broglie wave is as large as a galaxy,
# vortices can form instead. A vortex is modelled as a line of mass; the lighter the particle, the
# longer the line. Its pull acts along the whole line, and far away from it as if it were a point.

# %%
if population:
    lens = catalog["id"].iloc[0]
    twins = populations.same_lens(lens, classes, out.config.seed, population)
    out.figure(perturbations(twins), "perturbations")
else:
    print("How these images were made is not known here, so this figure is not drawn.")

# %% [markdown]
# **Figure 1.1.** *Above*, the same source behind the same halo, without noise: smooth, and with
# substructure. *Below*, the difference that the substructure makes, in units of the noise of a
# pixel. Circles are the subhalos, their area proportional to the mass; the line is the vortex. A
# red rim beside a blue one is a piece of arc that moved. There are two kinds of difference: along
# the whole ring, because all mass within it deflects all of it, and finer structure near heavy
# subhalos on the ring. The first kind looks like a slightly different smooth lens; the second does
# not. A network has to find such differences in one noisy image, without the smooth image for
# comparison.

# %% [markdown]
# A *population* is a set of distributions from which lenses are drawn. The table has those of this
# run; in the article they are the population `marginal`. Halo, shear and source are drawn before
# the substructure, with their own random numbers, so that their distributions are the same in all
# classes.

# %%
if population:
    priors = describe(population)
    out.table(priors, "population")
    display(priors.style.hide(axis="index"))

# %% [markdown]
# ## 1.2 The images
#
# **Figure 1.2.** Each row shows lenses of one class, as the network sees them (section 1.4), from
# the sky level to the peak of each image.

# %%
chosen = catalog[catalog["split"] == "train"].groupby("class").head(5)["class"]
gallery = populations.examples(processed.images, chosen)
pixel_scale = population.instrument.pixel_scale if population else None
out.figure(population_gallery(gallery, pixel_scale), "lens_gallery")

# %% [markdown]
# Within a row the images differ mostly by the position of the source: behind the centre of the lens
# it makes a ring, off the centre a long arc with a small counter-image opposite. Size and shape of
# halo and source differ, too, unless the population fixes them. Between rows hardly any difference
# is visible by eye. This is the difficulty of the task: source and halo, which are of no interest
# here, change the image more than the substructure does.
#
# ## 1.3 The noise
#
# To separate the light of the source from noise, the noise has to be known. Sky level and rms are
# measured in each image by sigma clipping: take the median and the rms about it, drop the values
# that are more than $3\sigma$ away, and repeat until nothing changes.

# %%
sample = development[:: max(1, len(development) // 500)]
zero_pixel_fraction = float(np.mean([(raw.images[row] == 0).mean() for row in sample]))
lights = [preprocess.detect(raw.images[row], settings) for row in sample]
outside = [light.residual[light.mask == 0] / light.noise for light in lights]
sky = np.concatenate([pixels[::7] for pixels in outside])
sigma = float(np.median([light.noise for light in lights]))
out.figure(noise_histogram(sky, sigma), "noise")
print(f"{100 * zero_pixel_fraction:.1f} % of all pixels are exactly 0")

# %% [markdown]
# **Figure 1.3.** The histogram shows pixels outside the lensed area, each in units of the rms of
# its own image, on a logarithmic axis; the curve is a Gaussian of that rms. Where the histogram
# follows the curve, the measured rms is right; the excess at the bright end is the faint wings of
# the arcs.
#
# In images of DeepLense's Model I (a public project with three sets of simulated lenses, Models I
# to III) the left half of the histogram is missing: its simulator clips negative values at zero
# before it draws Poisson counts, so that nearly half of all pixels hold the same number, 0. An
# ordinary rms would then be too small by far, and clipping at $3\sigma$ would lower it further in
# each round. Where a tenth of the pixels or more is piled up at the smallest value, the rms is
# therefore taken from the upper half alone, which the clipping left untouched.
#
# Where a galaxy fills the image and no sky is left, the rms of second differences of pixels
# replaces the rms. Where pixel values are rounded and the sky is a single grey level, the noise is
# that of the rounding.

# %% [markdown]
# ## 1.4 From the raw image to the input of the network
#
# An image becomes the input of the network in seven steps.
#
# 1. **Smooth** lightly (a Gaussian of one pixel), and measure the noise again: smoothing lowers it,
#    for white noise to $\sigma / (2\sqrt\pi)$.
# 2. **Threshold** at a multiple of that noise and remove single pixels (a morphological opening).
#    What remains is the *lensed area*.
# 3. The **region of interest** begins with the largest outer contour, where an area counts less the
#    farther it is from the image's centre: cutouts are made around lenses, not around their
#    neighbours. If it is an arc, further images of the same source belong to it: areas that are not
#    brighter than the arc, since lensing conserves surface brightness, and that lie about the same
#    circle. Holes are filled, so that a ring counts as a disk.

# %% [markdown]
# 4. **Centre and axes** follow from the moments of the flux $F$ above the threshold, $\mu_{pq} =
#    \sum F\,(x - \bar x)^p (y - \bar y)^q$. The weights vanish at the edge of the region, so that a
#    pixel of noise more or less there does not change the orientation. The major axis has the angle
#    $$\varphi = \tfrac12 \arctan \frac{2\mu_{11}}{\mu_{20} - \mu_{02}} ,$$ and of its two
#    directions we take the one with the longer tail (positive third moment); the third moment
#    *across* the axis distinguishes the image from its mirror image. A region whose axes differ by
#    less than a tenth has no orientation, and is flagged (`roi_oriented`).
# 5. **De-rotate**, if so configured: turn the image until that axis lies along $+x$, and mirror it
#    if the tail across points to $-y$.
# 6. **Cut** a square, around the centre of the image or of the region, at the native resolution:
#    resampling would smear the very scales on which subhalos act. (With `resize` the region is
#    scaled to fill the square instead, for sets of images with different pixel scales.)
# 7. **Stretch**: $\operatorname{arcsinh}[(I - I_\mathrm{sky}) / (s\,\sigma)]$ is linear in the
#    noise $\sigma$ and logarithmic in the arcs, so that bright and faint parts have similar weight;
#    $s$ is the setting `softening`.

# %%
# NBVAL_CHECK_OUTPUT
pd.Series(settings.model_dump(), name="setting").to_frame()

# %%
elongated = (catalog["roi_elongation"].iloc[development] > 1.25).to_numpy()
example = development[np.argmax(elongated)]
image = np.array(raw.images[example])
light = preprocess.detect(image, settings)
square, roi = preprocess.process(image, settings)
out.figure(processing_steps(image, light, roi, square), "processing_steps")
print(
    f"sky {light.sky:.4g}, noise {light.sigma:.4g}, region {roi.area} px², angle {roi.angle:.0f}°"
)

# %% [markdown]
# **Figure 1.4.** (a) The raw pixels in units of the noise. (b) The smoothed image; the white
# contour is the threshold. (c) The region of interest, its centre (cross), and its major axis; the
# arrow points to the longer tail. (d) The input of the network. The stretch makes faint ends of the
# arcs visible; the cut drops empty sky without changing other pixels.
#
# The fraction of the flux of the lensed area that remains inside the cut:

# %%
kept = images.flux_kept(lights, settings) or [np.nan]  # no light in any image
print(f"kept: median {100 * np.median(kept):.2f} %, smallest {100 * np.min(kept):.2f} %")
roi_found = float(catalog["roi_found"].iloc[development].mean())
print(f"a region is found in {100 * roi_found:.2f} % of the development images")

# %% [markdown]
# ## 1.5 Invariance of the processing
#
# Rotation, mirroring, shift, brightness and a little more noise do not change the class of a lens,
# so they should not change the processed image either. This can be tested without any truth: change
# a raw image, process it, and correlate the result, pixel by pixel, with the equally changed result
# of the original image. `studies.invariance` does so for three procedures on the same images. One
# of them is that of the *precursor*: an earlier public project that applied a Vision Transformer to
# images of lenses, together with simple features of the image and Bayesian optimisation. This work
# continues it.
#
# - **turned**: the procedure of section 1.4 with de-rotation, cut around the light;
# - **as it is**: the same without de-rotation, cut around the image's centre, the default of the
#   article;
# - **the precursor's** (`studies.precursor`): a fixed threshold, the first contour found, and the
#   rectangle of the smallest area about it, cut with its shorter side as the width, resized to 88 ×
#   64 pixels. Its thresholds are made for images between 0 and 1, so that each image is scaled to
#   that range first.
#
# Images are rotated by Lanczos interpolation in steps of 10°; the corners that come into view are
# filled with noise like their own sky, and pixel values that were rounded are rounded again.

# %%
folders = population_folders(out.config, out.results)
tested, summaries = images.invariance_tests(folders)
out.figure(invariance(tested[tested["oriented"] == 1]), "invariance")

# %% [markdown]
# **Figure 1.5** has a panel for each population (section 1.10): the correlation against the angle
# of the rotation. Lines are medians over the images that have an orientation, bands hold the
# central 90 % of them. A processing that undoes the rotation stays close to one at every angle. It
# does not reach one, because every resampling smooths the noise and a rotated image is resampled
# once more than its reference. Without rotation in the processing, an image correlates with itself
# after 360°, and after 180° as far as it is symmetric. The crop of the precursor depends on the
# angle. Where the noise of the sky exceeds its thresholds, it misses the lens (`flux` of 0 below).

# %%
tolerated = images.invariance_table(summaries)
out.table(tolerated, "invariance")
tolerated.round(3)

# %% [markdown]
# `oriented` is the fraction of images whose region has an orientation, `rotation` the median
# correlation over these and all angles, `rotation_p05` the 5th percentile; `mirror`, `shift` (15
# px) and `noise` (half a sigma more) are medians over all images, `brightness_min` is the
# *smallest* correlation when the image is multiplied by 0.1 to 10. `flux` is the fraction of the
# detected light inside the cut, over all rotations: median and 1st percentile. Where the square is
# too small for a lens, as for the wide galaxies of some populations, the rest of the light is lost.
#
# De-rotation interpolates pixels, and substructure changes single pixels. So it can be switched
# off; notebook 03, section 3.7, measures its effect on the score of a network.

# %%
print("de-rotation in this run:", "on" if settings.derotate else "off")

# %% [markdown]
# ## 1.6 Real images
#
# Simulated cutouts contain one lens and nothing else. Real ones contain neighbours, missing pixels,
# gradients and, in space-based images of nearby lenses, a galaxy that fills the whole cutout. The
# processing is shown on real cutouts, if there are any (docs/data.md says where to get those of the
# article).

# %%
turned = settings.model_copy(update={"derotate": True, "crop": "roi", "resize": True})
files = images.real_files(out.config.real_images, without=out.config.slacs.images)
sky_images = list(readers.load_images(files))
real = [images.real_lens(path, image, turned) for path, image in sky_images]
if real:
    out.figure(real_lenses(real), "real_lenses")
    print(f"found: {sum(lens.roi.found for lens in real)} of {len(real)}")
else:
    print("No real images here.")

# %% [markdown]
# **Figure 1.6.** White is the outline of the region of interest, cyan the square cut around it,
# with an arrow along the major axis to its longer tail; below each image its crop, in which the
# region fills the frame. In the images from space the galaxy is far brighter than the arcs, so that
# the orientation is that of the galaxy; one would subtract its light first. In the images from the
# ground most lenses are barely resolved; they test whether neighbours, some of them brighter, are
# left out.

# %% [markdown]
# ## 1.7 Physics features
#
# Features are numbers with a physical meaning, in contrast to the output of a network. They are
# measured on the raw images in units of the noise or of pixels. Those of the image come in two
# groups; a third group, of the lens fit, follows in section 1.8.
#
# **The proposal's features** are those planned for the precursor (section 1.5), in the proposal of
# that project: the area of the lensed light; at several levels, in percent of the peak and never
# below the noise, the number of separate bright regions (`n_bright`), and the distances between the
# two most distant and the two closest (`max_separation`, `min_separation`). A ring is one region,
# whatever it surrounds. With fewer than two regions there is no distance, and the value is missing.
# Separations have a classical meaning: for a singular isothermal lens the two images of a source at
# $\beta$ stand at $\theta_\pm = \beta \pm \theta_{\mathrm E}$, so that their separation is
# $2\,\theta_{\mathrm E}$ *wherever the source is*.

# %% [markdown]
# **The morphology features** are standard measures of galaxies and arcs: how the light is
# distributed over pixels (`gini`, `m20`), about its centre (`concentration`, `asymmetry`), and
# along the ring. For the last kind a circle is fitted to the light (Taubin 1991). Its centre is
# *not* that of the lens: to first order the images of a source at $\boldsymbol\beta$ lie on a
# circle of radius $\theta_{\mathrm E}$ that is moved along with the source. That is why its radius
# (`ring_radius`) follows $\theta_{\mathrm E}$ more closely than any distance from the image's
# centre. The light is unrolled about this circle:

# %%
kinds, arcs = catalog["class"].iloc[development], measured["arc_angle"]
rings = images.unrolled_rings(raw.images, kinds, arcs, settings)
out.figure(unrolled_rings(rings, morphology.SMOOTH_ORDERS + 1), "unrolled_rings")

# %% [markdown]
# **Figure 1.7.** (a) The fitted circle, and the annulus that is unrolled. (b) The annulus, azimuth
# to the right. (c) The residual after subtracting, at each radius, the azimuthal orders up to 4, in
# units of the noise of a pixel: the *residual against a smooth azimuthal model*. (d) The power by
# azimuthal order, over that of noise. A smooth lens has its power at low orders, because
# ellipticity and shear are quadrupoles; a clump changes a short piece of arc, which needs high
# orders. From these come `ring_ellipticity` and `ring_wiggle` (how the ridge of the arc departs
# from an ellipse), `fourier_m`, and `residual_power`, `_peak` and `_slope`.
#
# However, panel (c) of the smooth lens shows structure at high orders as well, by tens of sigma,
# where images merge and arcs end: a model that is smooth in azimuth is not a lens model. To isolate
# the effect of a clump one has to subtract the image of the *same lens without the clump*, for
# which the lens equation must be solved (section 1.8). The features here do without the lens
# equation.
#
# The table defines all features, those of section 1.8 too (`fit_…`). In their names $L$ stands for
# a level in percent, $K$, $S$, $A$ and $B$ for other numbers. A *string* is a straight line of
# mass, a simple vortex.

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
out.figure(feature_distributions(by_class, units), "feature_distributions")

# %% [markdown]
# **Figure 1.8.** One panel a feature, one line a class, each histogram of unit area over the images
# in which the feature exists, without the lowest 5 % and the highest 0.5 % of the values. Where the
# lines coincide, the feature alone does not separate the classes. Notebook 02 measures the class
# separation of each feature.
#
# **Real lenses beside simulated ones.** A feature is useful on real images only where simulated
# lenses have similar values. The table has for each population the range that holds 90 % of its
# lenses, and the values of the real ones (measured in their own pixels: lengths differ by the pixel
# scale).

# %%
compared = ["peak_snr", "gini", "m20", "concentration", "asymmetry", "roi_elongation"]
if real:
    of_images = {lens.name: image for lens, (_, image) in zip(real, sky_images, strict=True)}
    values = images.real_features(of_images, settings, out.config.features)
    beside = images.real_beside_simulated(values, folders, compared)
    out.table(beside, "real_lenses")
    display(beside)

# %% [markdown]
# ## 1.8 The residual of a smooth lens
#
# The features above measure the image. Measuring what a clump *changed* requires the image without
# it. So a smooth lens is fitted to each image (`vitdm.lens`): a singular isothermal ellipsoid
# ($\theta_{\mathrm E}$, ellipticity $e_1, e_2$) with an external shear ($\gamma_1, \gamma_2$, the
# pull of masses around the lens), in front of an elliptical source with a Sérsic profile, blurred
# by the point-spread function (PSF). It has fourteen parameters, a constant sky and, if the lens
# galaxy shines, its light. The fit minimises $$\chi^2 = \sum_k r_k^2, \qquad r_k = \frac{y_k -
# m_k}{\sqrt{\sigma^2 + g\,m_k}},$$ with the image $y$, the model $m$, the noise of the sky $\sigma$
# and that of the photons ($g$ is their variance per brightness), by Levenberg–Marquardt steps. A
# fit that does not converge is flagged, and none of its values is used.
#
# The residual $r$ contains what no smooth lens of this kind can reproduce: noise, and part of the
# effect of substructure.

# %%
fitted, of_fits = "lensfit" in out.config.features.groups, {}
if fitted:
    every = fits.fits_of(out.results).iloc[development]
    used = fits.converged(every)
    converged, explained = len(used) / len(every), fits.smooth_explained(every)
    print(f"converged: {converged:.1%}; smooth lenses with chi2 / dof < 1.3: {explained:.2%}")
    of_fits = {"fit_converged_fraction": converged, "fit_smooth_explained_fraction": explained}
    display(every["fit_flags"].fillna("no flag").value_counts().head(8).to_frame("images"))

# %%
if fitted and population:
    # lenses in the middle of their class and, with substructure, near its upper end
    ranks = {kind: (0.5,) if kind == NO_SUB else (0.5, 0.85) for kind in classes}
    rows = fits.ranked_rows(used, "fit_fourth_power", ranks)
    lenses = populations.drawn_again(raw, rows, population)
    maps = np.load(out.results / "lensfit" / "residuals.npy", mmap_mode="r")
    drawn = fits.labelled_residuals(lenses, used["fit_fourth_power"][rows], maps)
    out.figure(residual_maps(drawn), "residual_maps")

# %% [markdown]
# **Figure 1.9.** Above, the images; $S_4$ is the mean fourth power of sums of the residual over 3 ×
# 3 pixels, in units of the noise of such a sum; noise alone has 3. In the middle, the true change
# by the substructure, with the clumps, known from the simulation. Below, the residual of the fit.
# For a smooth lens it is noise. With substructure the fit absorbs what another smooth lens can
# reproduce (a little more mass, a little ellipticity), and the rest remains: pairs of red and blue
# where a piece of arc was moved. In lenses from the middle of their class this is hard to see by
# eye; the fourth power measures it, because it weighs a few large residuals more than many small
# ones.
#
# **The Einstein radius as a shortcut.** The same fit measures $\theta_{\mathrm E}$ to a few
# thousandths of an arcsecond, and so tests whether the Einstein radius alone separates the classes,
# as in Model I.

# %%
main = main_population(out.config)
shown = [name for name in (main, "model_i") if fitted and population and name in folders]
radii = {name: fits.converged(fits.fits_of(folders[name])) for name in shown}
if radii:
    out.figure(einstein_radii(radii), "einstein_radii")
single = ["fit_theta_E", "fit_fourth_power", "fit_point_evidence"]
alone = fits.separations(radii, single, out.config.seed)
for row in alone.itertuples():
    interval = f"({row.low:.3f} to {row.high:.3f})"
    print(f"{row.population:10s} {row.feature:18s} ROC-AUC {row.value:.3f} {interval}")

# %% [markdown]
# **Figure 1.10.** The distribution of the fitted Einstein radius in each class. Where the classes
# differ, the radius alone separates them, and a high score does not show that a clump was detected.
# In the reference run, on `marginal`, the Einstein radius has no class separation, while single
# measures of the residual, without any training, separate the classes almost completely: the fourth
# power of the residual, and still better the *evidence of a point mass*: how much more probable the
# residual is, averaged over all places, if a point mass deflects light there.
#
# **Localisation.** A detection should come with a position. We compare where the residual peaks
# with where the most massive subhalo is, in images with subhalos whose most massive one lies within
# 0.3″ of the ring, because subhalos elsewhere hardly act on the arcs. The catalog has only the
# single most massive subhalo of each image, so a peak at the second one counts as a miss. The
# column `chance` is the rate with the peaks of other images, which lie on rings, too.

# %%
distances = {name: fits.subhalo_distances(folders[name]) for name in shown}
distances = {name: table for name, table in distances.items() if table is not None}
pointed = {}
for name, table in distances.items():
    pointed[name] = (table, found_by_mass(table, MASS_BINS))
    display(pointed[name][1].round(2).style.set_caption(name).hide(axis="index"))
if pointed:
    out.figure(subhalo_distance(pointed, FOUND), "subhalo_distance")

# %% [markdown]
# **Figure 1.11.** Above, each point is an image; below the dashed line the peak is within 0.2″ of
# the subhalo. Below, the completeness, the fraction of the images for which it is, in bins of the
# mass, with 95 % intervals. Where the points lie on the grey lines, the peak has no information
# about the position. Nearly all masses are above $10^{9.5}$ solar masses, because the most massive
# of 25 subhalos is shown. Even so, many peaks lie elsewhere, about half of those of `marginal` in
# the reference run: the fit moves mass to absorb part of the change, other subhalos act too, and
# the same deflection moves more light where the arc is bright. Peaks that count as detections lie
# some 0.1″ beside their subhalo, which is about the Einstein radius of a point of its mass.

# %% [markdown]
# **The same fit to real lenses.** For real lenses only the pixel scale and the camera are known. Of
# the cutouts of section 1.6, those of `config/slacs.yaml` are fitted, with the light of the lens
# galaxy in the model. Four fits of each, one simplification less at a time, show the contributions
# to $\chi^2$. *white*: the noise is measured between neighbouring pixels. *shared*: these images
# are drizzled, that is resampled from several exposures; neighbours share noise, and their
# differences show half of it, so it is measured between pixels two apart. *masked*: cosmic rays and
# neighbouring galaxies are masked. *full*: a second Sérsic profile for the lens galaxy, with the
# same centre.

# %%
known = workflow.load_cutouts("config/slacs.yaml")
cutouts = fits.known_cutouts(files, known)
real_numbers = {"n_real_lenses": len(real), "n_real_fits": len(cutouts)}
if cutouts:
    real_fits, drawn, of_cutouts = fits.real_fits(cutouts, known)
    real_numbers |= of_cutouts
    out.figure(real_residuals(drawn), "real_residuals")
    out.table(real_fits, "real_fits")
    display(real_fits.round(4))

# %% [markdown]
# **Figure 1.12.** Above, the image (grey: not fitted) and the model, on one scale; then the image
# without the light of the lens galaxy, which shows the arcs; then the residual of the whole model
# in units of the noise. In regions with only the faint outer light of the lens galaxy,
# `chi2_beyond` is near 1 in three lenses; in the other two a second ring or other objects stand
# there. A fit with the flag `poor`, in the reference run each of them, should not be searched for
# dark clumps: the residual of the arcs would hide them. (`not_finite`: pixels were masked; `edge`:
# the galaxy fills the cutout; `bound`: a parameter is at the limit of its range.)

# %% [markdown]
# Lens by lens, in the reference run (the flags say which fits converged):
#
# - **J2238−0754** has the published radius. With one profile for the lens galaxy, a source as large
#   as the lens took the place of its light. The residual has structure in the innermost 0.2 arcsec
#   of the galaxy, and knots in the source.
# - **J0956+5100** has the worst fit, with a radius near the published one. An object stands inside
#   the Einstein ring; its light is masked, its mass is not in the model. The arcs have structure
#   that no Sérsic source reproduces: red and blue stripes along them.
# - **J0728+3835** has the lowest $\chi^2$, and a radius that misses the published one by far more
#   than its error. The arcs are faint; radius, shear and position of the source can be traded for
#   one another at nearly the same $\chi^2$.
# - **J0946+1006** has a second ring, of another source farther away, outside of the first, which
#   the model does not include; and this is the lens with a dark subhalo on its arc (Vegetti et al.
#   2010), though here the residual is equally large all along the arc.
# - **J1023+4230** has two compact residuals, on opposite sides: probably the images of a knot in an
#   extended source.

# %% [markdown]
# The errors are those of the curvature of $\chi^2$. They assume that the model is right and the
# noise of pixels independent; neither holds, and the errors are too small, as the published radii
# show.

# %% [markdown]
# The radii are no independent test either: the pixel scale, which the files lack, was checked with
# the published radii, and masks (by eye), second profile and number of steps were chosen on these
# five images. Better fits need a source of free form and a mass with a free slope; the next section
# has both.

# %% [markdown]
# ## 1.9 A real lens, live
#
# The fit above is made for thousands of simulated lenses. `vitdm.lens.fit` without further settings
# takes another model, for one real lens at a time: the mass is a power law with shear and
# multipoles, the source has a free form (a sum of splines), and the lens galaxy is a sum of
# Gaussians (notebook 06 explains each part, and has the fits of all lenses). It takes some ten
# seconds. The lens is J0946+1006, if its files are there (docs/data.md), else a simulated one of
# the population `hubble`. Change the parameters and run the two cells again: another lens, a fixed
# slope (`slope_sd: 0`), no multipoles (`m3_sd: 0, m4_sd: 0`), a coarser source (`splines: 12`).

# %%
# Try it: another lens, or other settings; then run this cell and the next one again.
lens_name = "J0946+1006"  # one of the folders in data/real/slacs_hst
simulated = 10  # the index of the simulated lens, if that folder is not there
model_settings = {"slope_sd": 0.1, "shear_sd": 0.1, "m3_sd": 0.01, "m4_sd": 0.01}

# %%
observation = slacs.lens_to_fit(out.config, lens_name, simulated)
model = fit_lens(observation, FreeForm(**(out.config.freeform.model_dump() | model_settings)))
out.figure(one_lens(Maps.of(model)), "live_fit")
print(f"{observation.name}: chi2 per pixel {model.chi2:.2f}, of the arcs {model.chi2_arcs:.2f}")
print("flags:", ", ".join(f"{flag} ({FLAGS[flag]})" for flag in model.flags) or "none")
slacs.parameters(model).round(4)

# %% [markdown]
# **Figure 1.13.** (a) The image, (b) the model of the lens galaxy, (c) what is left without it: the
# arcs; (d) their model, with the critical curve, where the magnification is infinite; (e) the
# residual, from −4 to 4 times the noise; pale pixels were not fitted, grey ones are missing; (f)
# the source, with the caustic, the image of the critical curve in the source plane. Structure along
# the arcs in (e) means that the mass or the source lacks something.

# %% [markdown]
# ## 1.10 Comparison of populations
#
# Everything above is about one population of lenses. The meaning of a score depends on what was
# simulated: on the amount of substructure, on the noise, and on whether anything *else* differs
# between the classes. So several populations are compared.
#
# **Figure 1.14** has a gallery for each population: lenses with their true substructure and, below,
# the difference that the substructure makes, in units of the noise of a pixel (of the brightest
# pixel where a population has no noise). Above an image, $N$ is the number of subhalos, $M$ the
# mass of the substructure, $f_\mathrm{sub}$ the fraction of all mass in it, $L$ the length of the
# vortex, $m_a$ the mass of the axion.

# %%
others = populations.populations_shown(out.config)
for name, other in others.items():
    print(f"{other.name}: {other.description}")
    sample = dataset.Dataset.open(folders[name] / "dataset")
    rows = sample.catalog.groupby("class").head(4).index
    lenses = populations.drawn_again(sample, rows, other)
    out.figure(population_gallery(lenses, other.instrument.pixel_scale), f"gallery_{name}")

# %% [markdown]
# Two questions can be answered for each population before any network is trained.
#
# **Is there a shortcut?** Substructure has mass. Added on top of a halo that is the same in every
# image it enlarges the ring, and then the size of the ring alone separates the classes, without any
# clump being detected. DeepLense's Models I to III have this shortcut. In `marginal` and
# `realistic` the halos differ from one another by far more than the mass of the substructure, and
# its mean mass is taken out of them.
#
# **What does the ideal observer reach?** The simulator knows each lens without its substructure. So
# we can compute the signal-to-noise ratio $s$ of the difference between the two images (a *matched
# filter*), and the part $s_\text{free}$ that remains when the smooth lens is allowed to adapt: its
# fourteen parameters are fitted anew to the perturbed image. And we can score noisy images as a
# researcher with a perfect smooth model would: subtract the model, with only the source position
# refitted (*known*) or with all parameters refitted (*free*), and use $\chi^2$ or the fourth power
# of the residual. The matched filter knows the perturbation: no score of the image is better than
# `auc_ideal_known`. The residual scores are no such bounds, because they ignore the form of the
# residual. A network that sees only the image has to learn the smooth lenses first.

# %%
table = populations.population_table(others, folders, out.config.seed)
if others:
    out.table(table, "populations")
    out.figure(populations_compared(table), "populations")
    display(table.round(3))
else:
    print("No populations are set side by side in this run.")

# %% [markdown]
# **Figure 1.15.** Points are areas under the ROC curve of one kind of substructure against smooth
# lenses, with 95 % intervals. Where *size alone* lies far from 1/2, the population has a shortcut.
# The residual scores need the smooth lens, known or fitted. Where they lie far above 1/2 and size
# does not, the classes can be separated, but only by the substructure itself.
#
# ## 1.11 Numbers for the article
#
# The article takes these values, unrounded, by their names.

# %%
of_processing = {"zero_pixel_fraction": zero_pixel_fraction, "roi_found_fraction": roi_found}
of_processing |= {"flux_kept_median": float(np.median(kept))}
of_processing |= {"n_invariance_images": int(min(summary["n"] for summary in summaries.values()))}
out.numbers(
    images.counts(raw, processed),
    {"pixel_scale": pixel_scale} if population else {},
    of_processing,
    images.invariance_numbers(tolerated, main),
    of_fits,
    fits.separation_numbers(alone),
    fits.subhalo_numbers(distances),
    real_numbers,
    populations.population_numbers(table),
)

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
# # 0. Quickstart
#
# A lens, a clump of dark matter in it, and how to find the clump: by a fit, by a search, and by a
# trained classifier. Nothing has to be downloaded, and no other notebook has to be run before. On
# one core it takes about two minutes; the training of section 0.5 is the longest part.
#
# 1. Section 0.1 simulates a lens, 0.2 puts a clump into it and moves it.
# 2. Section 0.3 fits a smooth lens, 0.4 searches what the fit leaves.
# 3. Section 0.5 trains a small classifier, 0.6 asks it, 0.7 has exercises.
#
# The other notebooks, from 01 on, explain the methods and show the results of the article.

# %% tags=["parameters"]
n_train = 300
n_test = 100
epochs = 30
twins = 100

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import display
from sklearn.metrics import roc_auc_score

from vitdm import Observation, ViTClassifier, plots
from vitdm.config import FreeForm, Perturbers
from vitdm.data.simulated import class_of_each
from vitdm.lens import fit, search
from vitdm.lens.free_form.picture import picture as picture_of_fit
from vitdm.lens.perturbers.picture import picture as picture_of_search
from vitdm.lens.perturbers.verdict import answer
from vitdm.simulation import NO_SUB, draw, load_population, observe, render, simulate_one

# %% [markdown]
# ## 0.1 A simulated lens
#
# A *population* describes how lenses are drawn: the masses of their galaxies, their sources, and
# the telescope. In `marginal`, the main one of the article, lenses with and without clumps differ
# in nothing but the clumps. A lens is determined by its number (`index`) and the seed. Its
# *Einstein radius* is that of the ring which a source exactly behind it would make.

# %%
population = load_population("marginal")
scale = population.instrument.pixel_scale  # arcsec
index, seed = 2, 2026
smooth = draw(index, NO_SUB, seed, population)
print(f'Einstein radius {smooth.theta_E:.2f}", pixels of {scale}"')
print(f'source {np.hypot(smooth.source["center_x"], smooth.source["center_y"]):.2f}" off the axis')

# %% [markdown]
# ## 0.2 A clump in the lens
#
# The clump is a point of some mass (in solar masses) at a place x, y (in arcsec from the middle of
# the image, x to the right, y upwards). It deflects light by its squared Einstein radius, which
# grows as the mass, divided by the distance.

# %%
mass = 5e9  # solar masses
x, y = -0.55, 0.95  # arcsec


# %%
def with_clump(mass, x, y):
    """Return the smooth lens with a point mass at (x, y)."""
    return replace(smooth, x=np.array([x]), y=np.array([y]), masses=np.array([mass]))


without = render(smooth, population)  # the image before any noise
half = scale * len(without) / 2


# %%
def panel(axes, image, x, y, **style):
    """Draw an image in units of the brightest pixel, and a cross at the clump."""
    shown = axes.imshow(image / without.max(), origin="lower", extent=[-half, half] * 2, **style)
    axes.figure.colorbar(shown, ax=axes)
    axes.plot(x, y, "x", color="deepskyblue")
    axes.set(xlabel="x [arcsec]", ylabel="y [arcsec]")


def show(mass=mass, x=x, y=y):
    """Draw the lens with the clump, and what the clump changed."""
    clumpy = render(with_clump(mass, x, y), population)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    panel(left, clumpy, x, y, cmap="inferno")
    panel(right, clumpy - without, x, y, cmap="RdBu_r", vmin=-0.3, vmax=0.3)
    plt.show()


# %% [markdown]
# The clump can be moved by sliders where [ipywidgets](https://ipywidgets.readthedocs.io) is
# installed (`pip install ipywidgets`). Elsewhere change the numbers above and run the cells again.

# %%
try:
    from ipywidgets import FloatLogSlider, interact
except ImportError:
    show()
else:
    interact(show, mass=FloatLogSlider(mass, min=7, max=11), x=(-2, 2, 0.05), y=(-2, 2, 0.05))

# %% [markdown]
# **Figure 0.1.** Left: the lens with the clump (cross), in units of the brightest pixel. Right:
# what the clump changed. Lensing only moves light: where one side of the arc gets brighter (red),
# another gets fainter (blue). A clump far from the arcs changes little, even if it is heavy.
#
# ## 0.3 A fit of a smooth lens
#
# Now an image as a telescope would take it: blurred by the point-spread function (PSF), and with
# noise. Like a real observation it comes with the rms of the noise, the PSF and the scale of the
# pixels; mass, source and clump are unknown.

# %%
known = observe(
    index, NO_SUB, seed, population, render=lambda _, p: render(with_clump(mass, x, y), p)
)
known.pop("truth")
observation = Observation(known.pop("image"), name="my lens", **known)
print(f"{observation.shape} pixels; to be estimated or assumed: {observation.unknown or 'nothing'}")

# %% [markdown]
# The model of the fit has no clump. Its mass is one smooth galaxy with an external shear, the pull
# of masses around it; its source has a free form, a sum of splines whose smoothness is determined
# by the data. The fit takes some seconds.

# %%
model = fit(observation, FreeForm(lens_light=False, splines=14, supersampling=2))
display(picture_of_fit(model))

# %% [markdown]
# **Figure 0.2.** Above, the image (twice, since there is no light of the lens galaxy to subtract)
# and the model of the arcs; below, the residual, image minus model, in units of the noise, and the
# source. If the clump is heavy and near an arc, red and blue spots remain in the residual beside
# it, because no smooth lens moves light in this way. A fit is good where the residual is noise:
# then chi2, the mean squared residual, is near 1. The text has the parameters with their errors.
#
# ## 0.4 A search for the clump
#
# Where would a clump explain what the smooth lens cannot? The search answers this for each place,
# while source and smooth mass are free to adapt: the signal-to-noise ratio (S/N) is the most
# probable mass of a clump at this place, divided by its error. How high the S/N gets by chance is
# measured on *twins*, simulated images of this lens without a clump.

# %%
found = search(model, Perturbers(profiles=["point"], detect="point", peaks=1, twins=twins))
display(picture_of_search(found))
peak = found.peaks.iloc[0] if len(found.peaks) else {"x": np.nan, "y": np.nan}
print(answer(found))
print(f"highest peak ({peak['x']:+.2f}, {peak['y']:+.2f}), the clump ({x:+.2f}, {y:+.2f}) arcsec")

# %% [markdown]
# **Figure 0.3.** The map of the S/N (above, right) has its peak, ring 1, near the clump. The map
# below, left, shows which mass would have been seen at each place: small ones only along the bright
# arcs. The histogram shows the *score* of the twins and of this lens: the highest S/N, lowered if
# the whole map is rougher than those of twins. The p-value is the share of twins, the lens
# included, with a score at least as high. The bars (below, right) compare explanations of the peak:
# how much a clump, a spot of light or a more complex smooth mass (multipoles) adds to the logarithm
# of the probability of the image.
#
# ## 0.5 A small classifier
#
# Fit and search concern one lens. A classifier learns from many. Here its input is the image,
# together with *features*: numbers measured on the residual of a fast smooth fit to the image. Half
# of the lenses have no substructure (`no_sub`); the others have some 25 subhalos of cold dark
# matter (`cdm`) or a vortex of axion-like dark matter, a line of mass (`axion`).

# %%
kinds = np.array(class_of_each(n_train + n_test, seed, population))
images = [simulate_one(i, kind, seed, population)[0] for i, kind in enumerate(kinds)]
train, test = np.arange(n_train), np.arange(n_train, n_train + n_test)
pd.Series(kinds).value_counts().to_frame("lenses")

# %%
classifier = ViTClassifier(
    features=True, pixel_scale=scale, random_state=0, train={"epochs": epochs}
)
classifier.fit([images[i] for i in train], kinds[train])
table = classifier.predict_table([images[i] for i in test])
table.head().round(3)

# %% [markdown]
# A row is a test image, with the probability of each class, the most probable class, the quality of
# the fit, what had to be assumed, and a warning if the answer should not be trusted.
#
# The ROC-AUC is the probability that a random lens with clumps gets a higher score than a random
# one without: 1 for a perfect order, 0.5 for guessing.

# %%
score = roc_auc_score(kinds[test] != NO_SUB, 1 - table[f"p_{NO_SUB}"])
print(f"ROC-AUC on {n_test} test images: {score:.3f}")

# %% [markdown]
# ## 0.6 The classifier and the lens with one clump
#
# The same classifier is applied to the lens of section 0.2 and to its smooth counterpart. No
# training image has a single clump as its substructure.

# %%
counterpart = simulate_one(index, NO_SUB, seed, population)[0]
answers = classifier.answer([observation, Observation(counterpart, name="without the clump")])
for page in plots.predictions(answers):
    display(page.figure)

# %% [markdown]
# **Figure 0.4.** A page for each image: the image as it was given, the input of the network, the
# smooth lens, its residual, the S/N of a point mass by place, and the probabilities of the classes.
# The S/N here is that of the fast fit, with a simple source; that of figure 0.3 leaves the source
# free. The same pages are written by `vitdm predict lens.fits --figure pages.html`.
#
# ## 0.7 Exercises
#
# Exercises 1 to 4 take seconds, 5 and 6 minutes.
#
# 1. What is the smallest mass that the search still finds at this place? Lower `mass` step by step
#    and compare with the map of masses in figure 0.3.
# 2. Put the clump far from the arcs (x = 2, y = −2). What happens to the residual, to the S/N and
#    to the mass of the peak?
# 3. Take another lens (`index`). Are clumps easier to find in rings, or in arcs?
# 4. Put a second clump into the lens: a second value of `x`, `y` and `masses` in `with_clump`. Ask
#    for `peaks=2`.
# 5. Train with 100 images (`n_train`), and with 600. Then leave out the features
#    (`features=False`). What does the network learn from the images alone?
# 6. Train on `marginal` and apply the classifier to lenses of `load_population("realistic")`. Do
#    the warnings in the table say that these answers mean nothing?

# %%
# Try it: your own lines.

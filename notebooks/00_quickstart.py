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
# A *population* tells how lenses are drawn: the masses of their galaxies, their sources, and the
# telescope. Eight come with the library; in `marginal`, the one of the article, nothing but clumps
# tells lenses with clumps from others. A lens follows from its number and the seed: other numbers
# are other lenses.

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
# the image, x to the right, y upwards). It deflects light towards itself, by its squared Einstein
# radius over the distance. Change the three numbers and run the cells again.

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
# what the clump changed. Light is only moved: where one side of the arc gets brighter, red, another
# gets fainter, blue. A clump far from the arcs changes nearly nothing, however heavy.
#
# ## 0.3 A fit of a smooth lens
#
# Now a picture as a telescope would take it: with noise, and with what is known of it (the rms of
# the noise, the PSF, the scale of the pixels). In a real image only that is known.

# %%
known = observe(
    index, NO_SUB, seed, population, render=lambda _, p: render(with_clump(mass, x, y), p)
)
known.pop("truth")
observation = Observation(known.pop("image"), name="my lens", **known)
print(f"{observation.shape} pixels; to be estimated or assumed: {observation.unknown or 'nothing'}")

# %% [markdown]
# The fit knows nothing of the clump. Its mass is one smooth galaxy with an external shear; its
# source has no formula, but is made of splines whose smoothness the data choose. It takes some
# seconds.

# %%
model = fit(observation, FreeForm(lens_light=False, splines=14, supersampling=2))
display(picture_of_fit(model))

# %% [markdown]
# **Figure 0.2.** The image, the model of the arcs, the residual in units of the noise, and the
# source. If the clump is heavy and near an arc, red and blue spots stay in the residual beside it:
# no smooth lens can move that light. A fit is good where the residual is noise, with a chi2 per
# pixel near 1; errors of the parameters stand in the text.
#
# ## 0.4 A search for the clump
#
# Where would a clump explain what the smooth lens cannot? The search asks this at each place: the
# most probable mass over its error is the S/N, while source and smooth mass are free to adapt. How
# high the S/N gets by chance is learned from *twins*, images of this very lens without a clump.

# %%
found = search(model, Perturbers(profiles=["point"], detect="point", peaks=1, twins=twins))
display(picture_of_search(found))
peak = found.peaks.iloc[0] if len(found.peaks) else {"x": np.nan, "y": np.nan}
print(answer(found))
print(f"highest peak ({peak['x']:+.2f}, {peak['y']:+.2f}), the clump ({x:+.2f}, {y:+.2f}) arcsec")

# %% [markdown]
# **Figure 0.3.** The map of the S/N (above, right) has its peak, ring 1, near the clump. The map
# below left shows which mass would have been seen where: small ones only along the bright arcs. The
# histogram shows the highest S/N of the twins beside that of this lens. The share of twins that
# score as much is the p-value.
#
# ## 0.5 A classifier in half a minute
#
# A fit and a search look at one lens. A classifier learns from many. Here it sees the images, and
# numbers that are measured on the residual of a fast smooth fit to each (*features*). Half of the
# lenses have no clumps; the others have some 25 subhalos (`cdm`) or a vortex (`axion`).

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
# The table has a row for each test image: the probability of each class, the most probable class,
# and what speaks against the answer: a poor fit, what had to be assumed, a warning in words.
#
# The ROC-AUC is the probability that a random lens with clumps gets a higher score than a random
# one without: 1 for a perfect order, 0.5 for guessing.

# %%
score = roc_auc_score(kinds[test] != NO_SUB, 1 - table[f"p_{NO_SUB}"])
print(f"ROC-AUC on {n_test} test images: {score:.3f}")

# %% [markdown]
# ## 0.6 The classifier and the lens with one clump
#
# The same classifier, asked about the lens of section 0.2 and about its smooth counterpart. Neither
# is from the training population: their substructure is one clump, or none.

# %%
counterpart = simulate_one(index, NO_SUB, seed, population)[0]
answers = classifier.answer([observation, Observation(counterpart, name="without the clump")])
for page in plots.predictions(answers):
    display(page.figure)

# %% [markdown]
# **Figure 0.4.** A page for each image: as it was given, what the network saw, the smooth lens, its
# residual, the S/N of a point mass by place, and the probabilities. The S/N here is that of the
# fast fit, with a simple source; that of figure 0.3 leaves the source free. The same pages are
# written by `vitdm predict lens.fits --figure pages.html`.
#
# ## 0.7 Exercises
#
# 1. Which is the smallest mass that the search still finds at this place? Lower `mass` step by
#    step and compare with the map of masses in figure 0.3.
# 2. Put the clump far from the arcs (x = 2, y = −2). What happens to the residual, to the S/N and
#    to the mass of the peak?
# 3. Take another lens (`index`). Are clumps easier to find in rings, or in arcs?
# 4. Two clumps: give `x`, `y` and `masses` two values each in `with_clump`. Ask for `peaks=2`.
# 5. Train with 100 images, and with 1000. Then leave the features out (`features=False`). What does
#    the network learn from the images alone?
# 6. Train on `marginal` and ask about lenses of `load_population("realistic")`. Do the warnings of
#    the table tell that the answers mean nothing?

# %%
# Try it: your own lines.

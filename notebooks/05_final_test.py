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
# # 5. The final test
#
# Features, comparison runs and optimisation used three of the four splits. The fourth, the **test**
# split, was put aside when the data set was made. This notebook shows the results on it:
#
# 1. the settings found by the optimisation were frozen;
# 2. several networks that differ only in their random seed were trained with these settings on
#    train and opt together, for a number of epochs fixed beforehand;
# 3. on valid, which was not used in this training, each network got its **threshold**, the one with
#    the best balanced accuracy, and its **temperature** (section 5.2);
# 4. each network was applied to each test image once, and the probabilities were saved.
#
# Only `vitdm.evaluation.final_test.evaluate` applies models to the test split, and no step of the
# workflow depends on its outcome. A test that is used for a decision, however small, is biased,
# because the choice that happens to suit *these* images is kept. For the same reason the threshold
# comes from valid. (The features were chosen with the help of valid as well, so that scores on
# valid are slightly too high. This hardly affects the threshold, and does not affect the test.)
#
# The notebook trains nothing.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from studies import notebook

out = notebook.start(results, figures, tables, name="05_final_test")

# %%
import json

import numpy as np
import pandas as pd
from IPython.display import display

from studies.plots import test as final_test_plots
from studies.plots.audit import KINDS, audit
from studies.plots.real_sky import real_sky
from studies.sensitivity import FPR
from studies.story import (
    baselines,
    failures,
    faults,
    final_test,
    headline,
    real_images,
    remedies,
    sensitivity,
    shortcut,
)
from studies.story import kinds as kind_story
from vitdm.data import dataset
from vitdm.evaluation import leakage, metrics
from vitdm.simulation import CLASSES

# %%
folder = out.results / "evaluation"
tested = json.loads((folder / "metrics.json").read_text())
networks = final_test.read_predictions(folder)
ensemble = dataset.read_catalog(folder / "predictions.csv")  # of the networks' probabilities
labels, scores = metrics.binary_scores(ensemble)
classes, threshold = tested["classes"], tested["test_threshold"]  # chosen on valid
print(f"{len(ensemble)} test images, {len(networks)} models, classes: {', '.join(classes)}")

# %%
images = dataset.Dataset.open(out.results / "dataset")
truth = final_test.truth_of(images, ensemble["id"])
kinds = [name for name in CLASSES if name in set(truth["class"])]
measured = final_test.read_features(out.results)
features = measured.loc[ensemble["id"]].reset_index(drop=True)
resampled = out.config.evaluation.bootstrap, out.config.seed  # of the intervals
pd.crosstab(images.catalog["class"], images.catalog["split"]).loc[kinds]

# %% [markdown]
# ## 5.1 What is measured
#
# A model gives each image a **score** $s$, here the probability of substructure of any kind,
# $s = 1 - p(\text{no substructure})$. With a threshold $t$ the score becomes a decision, and two
# rates describe it:
#
# $$
# \mathrm{TPR}(t) = P(s > t \mid \text{substructure}), \qquad
# \mathrm{FPR}(t) = P(s > t \mid \text{no substructure}).
# $$
#
# The true-positive rate is the *completeness* of a search, the false-positive rate the fraction of
# smooth lenses that are flagged; the purity of the flagged sample also depends on how common
# substructure is. As $t$ falls from 1 to 0 both grow from 0 to 1, and the curve they trace is the
# **ROC curve**. The area under it,
#
# $$
# \mathrm{AUC} = \int_0^1 \mathrm{TPR}\;\mathrm d\,\mathrm{FPR}
#              = P(s_+ > s_-) + \tfrac12 P(s_+ = s_-),
# $$
#
# is the probability that a random lens with substructure outscores a random lens without; ties
# count half. It is 1/2 for guessing and 1 for perfect order, and it depends neither on a threshold
# nor on how common substructure is.

# %% [markdown]
# **The ROC-AUC needs scores, not decisions.** With decisions (0 or 1) there is one threshold only.
# The "curve" is two straight lines through the point $(\mathrm{FPR}, \mathrm{TPR})$, and the area
# below them is a triangle and a trapezium:
#
# $$
# \mathrm{AUC}_\text{hard} = \tfrac12\,\mathrm{FPR}\cdot\mathrm{TPR}
#   + \tfrac12\,(1-\mathrm{FPR})(1+\mathrm{TPR})
#   = \frac{\mathrm{TPR} + (1-\mathrm{FPR})}{2},
# $$
#
# which is the **balanced accuracy**: the mean of the fractions right in either class. The ROC-AUC
# of 0.956 of the *precursor*, the earlier public project that this work continues, was computed in
# this way: it is the balanced accuracy of the confusion matrix that it published, as the next cell
# shows. It must be compared with the balanced accuracy below.

# %%
# NBVAL_CHECK_OUTPUT
true_negative, false_positive, false_negative, true_positive = 476, 15, 29, 480
rates = (
    true_positive / (true_positive + false_negative),
    true_negative / (true_negative + false_positive),
)
print(f"the precursor's balanced accuracy: {np.mean(rates):.4f}")

# %% [markdown]
# The same holds for the predictions of this notebook:

# %%
decisions = (scores > threshold).astype(float)
balanced = np.mean([(decisions == labels)[labels == side].mean() for side in (0, 1)])
print(f"area under the curve of decisions {metrics.roc_auc(labels, decisions):.6f}")
print(f"balanced accuracy                 {balanced:.6f}")
print(f"area under the curve of scores    {metrics.roc_auc(labels, scores):.6f}")

# %% [markdown]
# ## 5.2 Results
#
# **Scores are means over the seeds**, so they say what *one* trained network reaches. The
# *ensemble*, which averages the probabilities of all networks first, has a row of its own.
#
# A score is uncertain for two reasons, which are kept apart:
#
# * *Which images were tested.* The interval (low, high) is a 95 % bootstrap interval: the test
#   images are drawn anew with replacement, each class to its own number, and the mean over the
#   seeds is computed again, many times over. All networks are scored on the same resampled images,
#   because an image that is hard for one is hard for all. For the ROC-AUC there is a formula as
#   well, **DeLong's**: the area is a mean over pairs of images, and its variance follows from the
#   fraction of correctly ordered pairs of each image. Both intervals are given; they should agree.
# * *Which random numbers the training used.* The standard deviation between the seeds is the
#   scatter of the score if the training is repeated.

# %% [markdown]
# The **average precision** is the area under precision against recall. Unlike the ROC-AUC it
# depends on how common substructure is, here in half of the images of a balanced test.
#
# **True-positive rates at few false positives** matter most to a survey. At a false-positive rate
# of 0.1 % only a handful of smooth test images may be flagged, so this number depends on the worst
# of them, and its interval is wide.
#
# **Calibration.** Of the images with a score of 0.8, do four of five have substructure? The
# *expected calibration error* is the mean distance of score and fraction, in 15 bins of the score;
# it is not 0 for a perfect model either, as the row "of a perfect model" shows. Networks are
# calibrated with one number, the **temperature** $T$: $p_k \propto \exp(z_k / T)$ with the logits
# $z$, chosen for the smallest cross-entropy on valid. Label smoothing makes a network
# underconfident ($T < 1$). The temperature does not change the order of the images in a two-class
# model, and so changes no other score. The table `predictions` has the ensemble's answer to each
# image.

# %%
table = final_test.results_table(tested)
out.table(table, "results")
out.table(ensemble.drop(columns=["label", "split"]).round(5), "predictions")
table.round(4).astype(object).fillna("")

# %% [markdown]
# ### Baselines and the known-lens bound
#
# Three other scores of the same test images are compared with the networks:
#
# * **gradient boosting** on all features, which learned from the same images as each network: a
#   baseline without a network;
# * the **evidence of a point mass** in the residual of the fitted lens, one feature, without
#   training;
# * the **known-lens bound**, of simulated lenses with noise: the $\chi^2$ of the residual when the
#   *true* smooth lens of each test image, known from the simulation, is subtracted (only the
#   position of the source is fitted). It is no strict limit, because $\chi^2$ ignores the form of
#   the residual.
#
# `gain` is the difference of the ROC-AUC to that of the network. All scores are of the same images,
# so that the scatter which they share cancels; the interval covers test images and seeds. $p$ is
# that of **DeLong's** test of equal areas; it covers the images alone, not the seeds.

# %%
chi2 = baselines.chi2_of_known_lens(out.results, ensemble["id"])
both = baselines.read_baselines(folder)  # of the test, and of the images held out
others = baselines.on_split(both, test=True)
others |= baselines.known_lens(ensemble, chi2, len(networks))
beside = baselines.beside_networks(list(networks.values()), others, *resampled)
out.table(beside, "rivals")
beside.round(4)

# %%
for name, predictions in networks.items():
    print(f"{name}: ROC-AUC {metrics.roc_auc(*metrics.binary_scores(predictions)):.4f}")
if tested["test_auc_seed_sd"] is not None:
    print(f"standard deviation between the seeds: {tested['test_auc_seed_sd']:.4f}")

# %% [markdown]
# ### The ROC curve, and whether the scores are probabilities
#
# **Figure 5.1.** The line is the mean true-positive rate of the models at each false-positive rate,
# the band spans the lowest and the highest of them. Real searches work at the left edge of panel
# (a): lenses with detectable substructure are the minority, so even a small false-positive rate
# would give more false alarms than detections. Panel (b) therefore spreads the low rates over a
# logarithmic axis. It begins at the rate at which a single smooth test image is flagged; the dotted
# lines mark 1 % and 0.1 % false positives. Panel (c) is the **reliability diagram**: the fraction
# of images with substructure against the score, of all networks together, before and after the
# calibration with the temperature. On the diagonal, scores are probabilities.

# %%
print(f"temperatures of the models: {np.round(tested['temperatures'], 3)}")
print(f"thresholds of the models: {np.round(tested['thresholds'], 3)}")
band = metrics.roc_band(list(networks.values()))
curves = final_test.reliability_curves(list(networks.values()), tested["temperatures"])
smooth = int((labels == 0).sum())
out.figure(final_test_plots.roc_curve(band, smooth, curves), "roc_curve")

# %% [markdown]
# **Try it.** A survey asks for the *purity*: of the lenses that are flagged, how many have
# substructure? It depends on how common substructure is, and on the threshold. Half of the test
# images have it; change the fraction to the one that you expect in a survey, or the threshold of
# the score, and run the cell again.

# %%
# Try it: the fraction of lenses with substructure, and the threshold.
my_fraction, my_threshold = 0.05, threshold
flagged = scores > my_threshold
completeness, alarms = (flagged[labels == side].mean() for side in (1, 0))
right, wrongly = my_fraction * completeness, (1 - my_fraction) * alarms
print(f"completeness {completeness:.3f}, false-positive rate {alarms:.4f}")
print(f"purity {right / max(right + wrongly, 1e-12):.3f}")

# %% [markdown]
# ### Class by class
#
# A network with more than two classes says not only *whether* there is substructure but *which*
# kind. The ROC-AUC of a class takes its probability as the score and all other classes as the
# negatives ("one against the rest"); the macro average is the plain mean of these.

# %%
per_class = final_test.per_class_table(tested, ensemble)
out.table(per_class, "per_class")
print(f"macro average: {tested['test_auc_macro']:.4f}")
per_class.round(4)

# %% [markdown]
# **Figure 5.2**, the **confusion matrix**, has a row for each true class and a column for the most
# probable class of the ensemble. Percentages are fractions of the row. Off the diagonal there are
# two kinds of error. Between the substructure classes, substructure was found and assigned to the
# wrong class. In the first row are false alarms, in the first column misses. Their numbers may
# differ from those of section 5.4, which are counted at the threshold from valid.

# %%
counts = metrics.confusion(ensemble)
out.table(counts.rename_axis("true").reset_index(), "confusion")
out.figure(final_test_plots.confusion_matrix(counts), "confusion_matrix")

# %%
# NBVAL_CHECK_OUTPUT
print(counts)

# %% [markdown]
# ### Which kind of substructure?
#
# One class against the rest mixes two questions. Here is the second one alone: a lens has
# substructure; is it CDM subhalos or a vortex? The score is p(cdm) / (p(cdm) + p(axion)). Subhalos
# and vortices differ in mass as well as in form, and the mass alone has a score of its own below.
# So the question is asked again on pairs of lenses, one of either kind, with the same mass in
# substructure (to 12 %), where the mass tells nothing.

# %%
by_kind = kind_story.kind_table(list(networks.values()), truth, *resampled)
by_kind.round(4)

# %% [markdown]
# ## 5.3 How much substructure does it take?
#
# A score over a whole test set is an average over substructure of all masses. With simulated lenses
# the truth is known, and completeness and ROC-AUC can be given by lens property:
#
# * cold dark matter (CDM): the total mass in subhalos; how far the heaviest subhalo is from the
#   ring, near which the arcs are (the catalog has the position of the heaviest one only); in
#   `realistic` the fraction of mass in subhalos, $f_\mathrm{sub}$;
# * axion vortex: its length, and in DeepLense's Model I the mass of the axion, from which the
#   length follows (on a longer vortex the same mass is more spread out);
# * all: the signal-to-noise of the lensed light.
#
# **Figure 5.3.** The bins hold equal numbers of images. *Completeness* is the fraction found at a
# false-positive rate of 1 % of all smooth lenses; *ROC-AUC* compares the images in the bin with all
# smooth ones (for the signal-to-noise, with the smooth ones in the same bin). Test images are shown
# for the population of this run. The other populations are scored by networks that were trained on
# each of them (`config/extended.yaml`, with the features of the fit), on images that were not used
# otherwise.
#
# Published networks on Model I lose their sensitivity below $10^{-2.5}$ of the halo's mass in
# substructure (Alexander et al. 2020). The dashed lines mark this fraction of the mass within the
# Einstein radius, the median of the population.

# %%
bins = sensitivity.sensitivity_bins(out.config, out.results, ensemble, truth, features)
collapse = {}
if len(bins):
    collapse = sensitivity.collapse_masses(out.config, bins, truth["theta_E"].median())
    out.figure(final_test_plots.sensitivity(bins, collapse, FPR), "sensitivity")
    out.table(bins.dropna(axis=1, how="all"), "sensitivity")
else:
    print("These images carry no truth about their substructure, so this part is left out.")

# %% [markdown]
# ## 5.4 The misclassified images
#
# **Figure 5.4** shows the misclassified test images with the highest confidence, class by class, as
# the network sees them, with the ensemble's probability $P$ of substructure. Parts with little
# attention (last block, mean of heads and networks) are darkened. A cross marks the heaviest
# subhalo, a line the vortex; the mass of the substructure or the length of the vortex stands beside
# it.

# %%
wrong = (scores > threshold) != (labels == 1)
print(f"{tested['n_test_errors']} of {tested['n_test']} images are on the wrong side of", end=" ")
print(f"{threshold:.3f}: {tested['n_missed']} misses, {tested['n_false_alarms']} false alarms")
print(pd.crosstab(truth["class"], wrong).to_string())

# %%
worst = dataset.read_catalog(folder / "failures.csv")
processed = dataset.Dataset.open(out.results / "processed")
pictures = processed.images[final_test.rows_of(processed, worst["id"])]
looks = failures.attention(out.results, processed, worst["id"], measured)
scale = failures.pixel_scale(out.results, out.config.preprocess)
out.figure(final_test_plots.failures(pictures, worst, looks, scale), "failures")

# %% [markdown]
# **What do they have in common?** In each class, a logistic regression relates misclassification to
# lens properties: mass, position, noise, source. `odds` is the factor by which the odds of an error
# change if a property grows by one standard deviation and the others stay (1: no change), with a 95
# % interval from resampled images. Masses, lengths and the signal-to-noise enter by their
# logarithm. The regression is tested on errors that it was not fitted to, by its ROC-AUC; 1/2 is
# chance.

# %%
odds, foreseen = failures.odds_of_errors(wrong, truth, features, kinds, out.config.seed)
out.table(odds, "mistakes")
for name, auc in foreseen.items():
    errors = odds.loc[odds["class"] == name, "errors"].iloc[0]
    print(f"{name}: {errors} errors, separated from the rest with ROC-AUC {auc:.3f}")
odds.round(2)

# %% [markdown]
# If misses have lighter substructure, farther from the arcs, in images with more noise, the model
# fails where the image has little information, as any method must. If an unrelated property stands
# out, the model has a systematic weakness. The known-lens bound separates the two: what fraction of
# the lenses that the ensemble missed is found by the $\chi^2$ with the true smooth lens, at the
# same false-positive rate? These can be found in principle. Of the others, the $\chi^2$ alone
# cannot tell.

# %%
visible = failures.missed_but_visible(labels, scores, threshold, chi2)
if visible is not None:
    print(f"with the smooth lens known, {visible:.1%} of the misses are found")

# %% [markdown]
# **Remedies.** Which changes would reduce the errors? Each is judged on images that were not used
# in the training: valid for the final models, and opt for the remedy that needs another training
# (runs of notebook 03, which learned from train alone).
#
# * *averaging the seeds*: errors due to the random numbers of a training average out;
# * *averaging with gradient boosting*, which learned from the same images, with all features: if
#   the two are wrong on different lenses, their mean is better;
# * both of these;
# * *showing more*: all features and the residual map of the fit as input, instead of the selected
#   features.
#
# `gain` is the increase of the ROC-AUC, paired image by image and seed by seed; `errors` are the
# fractions of errors without and with the remedy, each at the threshold with the best balanced
# accuracy on the same images. The rows of the split *test* repeat the first three on the test
# images, which were not used for the judgement. One remedy is part of all results: fits that leave
# more than noise are repeated from many starts, because the worst false alarms on valid were smooth
# lenses whose fit had ended in a local minimum (`docs/benchmarks.md` has the effect).

# %%
held_out = list(final_test.read_predictions(folder, "held_out").values())
on_valid, on_test = (baselines.on_split(both, test=test) for test in (False, True))
tried = {
    "valid": remedies.averages(held_out, on_valid[baselines.BASELINE]),
    "test": remedies.averages(list(networks.values()), on_test[baselines.BASELINE]),
    "opt": remedies.showing_more(out.results, classes),
}
brought = remedies.remedies_table(tried, *resampled)
out.table(brought, "remedies")
brought.round(4)

# %% [markdown]
# The headline score remains that of *one* trained network, which the article compares with others;
# section 5.2 has the ensemble as well. A remedy whose interval on valid lies above 0 should be used
# in searches of real lenses; one whose interval contains 0 has no demonstrated effect.

# %% [markdown]
# ## 5.5 Limits
#
# **One population.** The test images come from the same population as the training images. The test
# does not measure how the model behaves on lenses of another one: with other noise, another
# point-spread function, or light of the lens galaxy. Section 5.7 and notebook 06 measure this.

# %% [markdown]
# **Are there near-duplicates of test images in the training?** Each image is compared with those of
# the other splits in all eight orientations, reduced to 16 × 16 pixels and to their 40 principal
# components, in which noise hardly matters. Distances are in units of the distance between two
# exposures of the same lens, which scatters by some 8 %. Equal files would have a distance of 0.
# **Figure 5.5**: at distances up to 1.25 (dashed line) two images could be of one lens.

# %%
similar = dataset.read_catalog(folder / "neighbours.csv")
closest = similar.loc[similar["distance"].idxmin()]
pair = images.images[final_test.rows_of(images, closest[["id", "nearest"]])]
out.figure(final_test_plots.neighbours(similar, pair, leakage.NEAR), "neighbours")
near = int((similar["distance"] <= leakage.NEAR).sum())
print(f"{near} near-duplicates among {len(similar)} images")
print(similar.groupby("split")["distance"].describe().round(2).to_string())

# %% [markdown]
# **Is there a shortcut?** If substructure is added to a halo that is otherwise the same in every
# image, a lens with substructure has more mass, and its ring is slightly larger:
#
# $$
# \theta_E^2 \propto M_\text{halo}(<\theta_E) + m, \qquad M_\text{halo}(<\theta) \propto \theta
# \quad\Rightarrow\quad
# \frac{\delta\theta_E}{\theta_E} \approx \frac{m}{M_\text{halo}(<\theta_E)} ,
# $$
#
# with $m$ the mass of the substructure within the ring, $m \ll M_\text{halo}$. This follows because
# the mean surface density inside $\theta_E$ is the critical one, and the mass of an isothermal halo
# grows as $\theta$. The Einstein radius alone then separates the classes, without any clump being
# seen, as in DeepLense's Model I. In nature, and in `marginal`, halos scatter by far more than
# substructure adds, and the radius is uninformative.

# %% [markdown]
# **Class separation by size alone.** One measure of size is used alone as the score of the test
# images, larger meaning substructure, without any network. One is `ring_radius`, the radius of the
# circle fitted to the lensed light. The other is the size feature (`ring_radius` or one of the
# separations) with the highest ROC-AUC on the *train and valid* images. Feature and direction are
# fixed before the test. Images without a value of the feature are left out; `measured` is the
# fraction that remains. A ROC-AUC far above 1/2 means that the size of the ring, or what correlates
# with it, separates the classes; the fit of a lens measures $\theta_E$ much better than these
# features (notebook 01, section 1.8).

# %%
development = images.catalog.iloc[images.rows("train", "valid")]
sizes = shortcut.size_scores(measured, development, ensemble)
alone = shortcut.shortcut_table(measured, sizes, ensemble, *resampled)
if sizes:
    display(shortcut.medians(measured, list(alone["feature"]), ensemble).round(2))  # px
else:
    print("The table of features holds no measure of size.")
alone.round(3)

# %% [markdown]
# ## 5.6 What each difference from the precursor changes
#
# Section 5.1 showed how one difference, the ROC-AUC of decisions, changes a published score. This
# section measures the effect of the other differences between the precursor and this work. Some are
# errors of its code, which is public. `studies.audit` re-implements the precursor, its network of
# 307 827 parameters and its training, with a switch for each difference, and trains it on the same
# simulated lenses: as published; with one difference removed; with several removed, one after the
# other. The network and training of this work are there for comparison. The images are those of the
# population `lenses`, which imitates the binary set of DeepLense images that the precursor used;
# its thresholds are made for the values of these images, from 0 to 1. The numbers in brackets are
# those of the table of differences in the article.
#
# `believed` is the score on validation images, `claimed` the score that the row's code computes for
# new images, and `roc_auc` the ROC-AUC on these, with an interval that covers the images. That of
# the gain (over the precursor as published, pair by pair on the same images) also covers the seeds,
# if there are several. With one seed, a gain of a few thousandths is not significant. Removing a
# difference can also lower the score.
#
# **Figure 5.6**: filled, `roc_auc`; open, `claimed`; crosses, `believed`. The dotted line is the
# precursor as published.

# %%
of_audit = {}
rows = faults.audit_rows(out.config, out.results)
if rows is not None:
    out.figure(audit(rows), "audit")
    out.table(rows.assign(kind=rows["kind"].map(KINDS)), "audit")
    of_audit = faults.audit_numbers(rows)
    shown = ["row", "kind", "believed", "claimed", "roc_auc", "low", "high", "gain", "gain_sd"]
    display(rows[shown].round(4))

# %% [markdown]
# ## 5.7 Real images
#
# All lenses so far were simulated with the code of this project. In this section models that were
# trained on simulated lenses are applied to two sets of other images, each with models of its own
# (`studies.real_sky`: a network and gradient boosting, several trainings of each; none is trained
# on a real image):
#
# * **the binary set** of DeepLense, fourteen of its images, seven of either class: simulated too,
#   but by others, with other code. The models learn from our population `lenses`. Pixel scale, PSF,
#   noise and greyscale of `lenses` were measured on *these fourteen images*, so that they are no
#   independent test of the imitation; no model was trained on them. In this set substructure adds
#   mass to a halo that is always the same: with substructure rings have a radius of 21.5 instead of
#   20 pixels. A correct answer may be due to the substructure *or* to the radius.
# * **five lenses of the SLACS survey**, observed with the Hubble Space Telescope, as they were
#   fitted in notebook 01 (`config/slacs.yaml`). Their substructure is unknown, but for J0946+1006,
#   in which a dark subhalo was detected through its gravity (Vegetti et al. 2010). The models learn
#   from `realistic`, and see the features of the fitted lens. That population differs from these
#   images: its pixels have 0.08 instead of 0.04 arcsec, and it has no drizzling, no neighbours and
#   only Sérsic galaxies.

# %% [markdown]
# **Are the predictions reliable?** Only where real lenses look like simulated ones, which can be
# tested. *Each feature*: do real and simulated images (held out from the training) have the same
# distribution? This is the test of Kolmogorov and Smirnov, combined with Fisher's exact test of how
# often the feature is missing; the false-discovery rate is controlled over all features as in
# notebook 02. *All features together*: the **energy distance** of the two samples, each feature
# replaced by its rank (Székely and Rizzo 2013),
#
# $$
# \mathcal E = 2\,\mathrm E|X - Y| - \mathrm E|X - X'| - \mathrm E|Y - Y'| \ge 0,
# $$
#
# which is 0 only if the distributions are the same; $p$ is the share of random relabellings of the
# images with a distance as large. With so few real images only large differences are detected: a
# small $p$ shows that the samples differ, but a large one does not show that they are alike.
#
# **Figure 5.7.** Left: probability of substructure, of simulated images (histogram) and of each
# real one, with the range of the trainings. Right: where each feature of that image stands among
# the simulated ones; dots are beyond all of them, grey is missing, triangles mark features that
# differ. If the samples are alike, this part of the figure looks like noise.

# %%
of_real = {}
answers = real_images.read_answers(out.config, out.results)
if answers is None:
    print("No answers on real images: they are not here (docs/data.md tells where to get them).")
else:
    sets = real_images.by_label(answers)
    out.figure(real_sky(sets, out.config.selection.fdr), "real_sky")
    out.table(answers.table, "real_sky")
    of_real = real_images.real_numbers(answers)
    display(answers.table.round(4).T)
    display(answers.images.round(3))

# %% [markdown]
# **How to read it.** The table has, for each model, the ROC-AUC on simulated images that were held
# out and, where the classes are known, on the real ones. With seven images of either class a
# bootstrap fails: if all pairs are ordered correctly, they are so in each resampling. The interval
# is that of Wilson for as many trials as a class has images. It is conservative, because the
# variance of the area $A$ is at most $A(1 - A)/\min(n_+, n_-)$ (Birnbaum and Klose 1957). The
# number of correct answers at a threshold of one half has the exact interval of Clopper and
# Pearson.

# %% [markdown]
# If no feature separates the images of the *binary set* from those of `lenses`, the imitation is
# good enough for the features that these models use, and the intervals of their scores are valid.
# They are no evidence for real observations, because these images are simulated themselves.
#
# The *SLACS* lenses differ from the simulated ones. Their fits leave larger residuals than almost
# all simulated lenses of `realistic`, because real galaxies are no Sérsic profiles (notebook 01).
# The models must extrapolate, and network and trees do so differently. The prediction for
# J0946+1006 is therefore neither a detection nor a miss, and a small scatter between trainings does
# not make it reliable. **These predictions must not be used**; the two-sample test shows this
# without any label. For reliable predictions the simulation would need sources and lens galaxies
# taken from real images, the PSF and the drizzling of the camera, and neighbours; and the
# two-sample test should find no difference.

# %% [markdown]
# ## 5.8 The project in one picture
#
# **Figure 5.8** has one test lens of each class, its residual after the fit of a smooth lens (from
# −5 to 5 times the noise), and the ROC curve. Simulated lenses are chosen to have nearly the same
# Einstein radius, source position and brightness, so that they differ mainly in their substructure;
# if lenses are fitted, those with substructure are from the half of their class with the larger
# residuals.

# %%
distance, residuals = headline.typical(truth), None
if "lensfit" in out.config.features.groups:
    distance = distance + headline.FAR * ~headline.visible(out.results, truth)
    residuals = np.load(out.results / "lensfit" / "residuals.npy", mmap_mode="r")
places = final_test.rows_of(images, headline.one_of_each(truth, distance, kinds))
lenses, left = images.images[places], None if residuals is None else residuals[places]
auc = f"ROC-AUC\n{tested['test_auc']:.3f}"
out.figure(final_test_plots.headline(lenses, kinds, band, auc, left), "headline")

# %% [markdown]
# ## 5.9 Numbers for the article
#
# The article takes these values, unrounded, by their names.

# %%
trees = others[baselines.BASELINE]
out.numbers(
    final_test.score_numbers(tested),
    final_test.training_numbers(out.config, out.results),
    kind_story.kind_numbers(by_kind),
    baselines.baseline_numbers(beside),
    baselines.macro_numbers(list(networks.values()), trees, *resampled),
    sensitivity.sensitivity_numbers(bins, collapse),
    failures.odds_numbers(odds, foreseen),
    {} if visible is None else {"missed_mendable": visible},
    remedies.remedy_numbers(brought),
    {"n_near_duplicates": near, "nearest_distance": float(similar["distance"].min())},
    shortcut.shortcut_numbers(alone) if out.config.data == "simulate" else {},
    *(of_audit, of_real),
)

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
# # 2. Feature comparison
#
# Notebook 01 defined the features. This notebook measures how well each of them separates lenses
# with substructure from smooth ones, how far they are redundant, what all of them reach *together*
# without any network, and what they add to a network that sees the image.
#
# Features are ranked, and those for the model selected, on the images of the **train** and
# **valid** splits. Classifiers on features alone are trained on train; they and the networks are
# scored on **opt**. The test split is not used. The command `vitdm select` computed all of it; this
# notebook explains and draws the results.
#
# Features come in three groups (notebook 01, sections 1.7 and 1.8):
#
# - *proposal*: areas, bright regions and their separations, as planned in the proposal of the
#   precursor, the earlier project that this work continues;
# - *morphology*: the distribution of the light over the image and along the ring;
# - *lensfit*: the parameters of a smooth lens model fitted to each image, and measures of its
#   residual. A configuration without lens fits lacks this group.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from studies import notebook

out = notebook.start(results, figures, tables, name="02_feature_comparison")

# %%
import json

import pandas as pd

from studies.plots.selection import (
    feature_auc,
    feature_correlation,
    feature_gain,
    feature_importance,
    feature_populations,
)
from studies.plots.style import label_of
from studies.story import features, runs
from studies.story.folders import population_names
from vitdm.evaluation import metrics
from vitdm.evaluation.selection import clusters
from vitdm.simulation import CLASSES, NO_SUB

# %%
folder, settings = out.results / "selection", out.config.selection
ranking = pd.read_csv(folder / "ranking.csv")
choice = json.loads((folder / "selection.json").read_text())
print(f"{len(ranking)} features of {choice['n_images']} images in {', '.join(choice['splits'])}")
print(ranking["group"].value_counts().to_string())

# %% [markdown]
# ## 2.1 Each feature alone
#
# Four measures describe the association of a feature $x$ with the label $y$ (1 with any
# substructure, 0 without). Each uses the images in which the feature exists; `measured` is their
# fraction.
#
# - **ROC-AUC**: the probability that a random lens with substructure has a larger value than a
#   random smooth one, ties counting half, $$A = P(x_1 > x_0) + \tfrac12 P(x_1 = x_0).$$ One half is
#   chance. A feature that gets *smaller* with substructure is as good as one that gets larger, so
#   the table has $\max(A, 1 - A)$, and the direction as a sign. Units and the shape of the
#   distributions do not matter.
# - **Point-biserial correlation**: Pearson's coefficient with a binary variable, $$r = \frac{\bar
#   x_1 - \bar x_0}{s_x} \sqrt{\frac{n_0 n_1}{n^2}},$$ the distance of the two means in units of the
#   scatter. It measures what a linear model can use, and is sensitive to outliers: where $r$ is far
#   below $\rho$, the feature has long tails.
# - **Spearman's** $\rho$: the same for the ranks instead of the values. With a binary variable it
#   is equivalent to $A$ (without ties $\rho = \sqrt{3\,n_0 n_1 / (n^2 - 1)}\,(2A - 1)$), on a scale
#   from −1 to 1.

# %% [markdown]
# - **Mutual information**: how much the feature reduces the uncertainty of the label, $$I = \sum_y
#   \int p(x, y) \ln \frac{p(x, y)}{p(x)\,p(y)}\,\mathrm dx,$$ in nats: 0 if they are independent,
#   $\ln 2 \approx 0.69$ if the feature determines the label of two equally frequent classes. It
#   also measures what the others miss: substructure that makes a feature *more variable*, at the
#   same mean. Densities are not needed, only the distances to the nearest neighbours of the same
#   label (Ross 2014). A missing value counts as one more outcome here, so that an informative
#   absence counts. The estimate scatters about 0 if there is no association, and is cut there.

# %% [markdown]
# **Intervals** hold 95 %. For the first three they are bootstraps: images are drawn again with
# replacement, each class to its own number, and the central 95 % of the statistics kept. The
# direction of $A$ is that of the whole sample, so the interval of a useless feature reaches below
# 1/2. For the mutual information a bootstrap would be badly biased: an image drawn twice is its own
# nearest neighbour, which looks like information. Its interval is from random *halves* of the
# images, drawn without replacement, whose scatter equals that of the whole sample.

# %% [markdown]
# **Significance.** The p-value of a feature is that of the Mann–Whitney test of $A = 1/2$; if it is
# missing in some images, also that of Fisher's exact test of the missing, and the smaller of the
# two is doubled. Among $m$ useless features, $0.05\,m$ would pass a test at the level of 0.05. So
# they are judged together (Benjamini and Hochberg 1995): with the p-values sorted, $p_{(1)} \le
# \dots \le p_{(m)}$, $$q_{(i)} = \min_{j \ge i} \frac{m\,p_{(j)}}{j},$$ and among all features with
# $q \le$ `fdr` at most that fraction is expected to be there by chance. This holds for the whole
# table at once, and for features that depend on one another in the usual, positive way. Sections
# 2.2 and 2.4 explain the columns `cluster` and `kept`.

# %%
shown = ["name", "group", "measured", "roc_auc", "roc_auc_low", "roc_auc_high", "sign"]
shown += ["point_biserial", "spearman", "mutual_information", "q", "significant", "cluster", "kept"]
table = ranking[shown].replace({True: "yes", False: "no"})
out.table(table.assign(sign=ranking["sign"].map({1: "+", -1: "−"})), "feature_ranking")
print(f"significant at a false-discovery rate of {settings.fdr}: {choice['n_significant']}")
table.style.format(precision=3).format("{:.2g}", subset=["q"])

# %% [markdown]
# The intervals of the other measures, for the ten best features:

# %%
ends = [f"{name}{end}" for name in ("point_biserial", "spearman") for end in ("", "_low", "_high")]
ends += [f"mutual_information{end}" for end in ("", "_low", "_high")]
ranking.set_index("name")[ends].head(10).round(3)

# %% [markdown]
# **Figure 2.1** shows the ROC-AUC of each feature with its interval, the best above. The colour is
# the group. Full markers are significant over the whole table, empty ones are not. Markers point to
# the right if substructure makes the feature larger. A full marker whose interval contains 1/2
# means that the values do not separate the classes, but that the feature is missing more often in
# one of them. Below the line are two classifiers that use all features at once (section 2.3),
# scored on images they were not trained with.

# %%
scores = pd.read_csv(folder / "scores.csv")
out.figure(feature_auc(ranking, scores), "feature_auc")
best = ranking.iloc[0]
print(
    f"best: {best['name']}, {best['roc_auc']:.3f} "
    f"({best['roc_auc_low']:.3f} – {best['roc_auc_high']:.3f}), q = {best['q']:.2g}"
)

# %% [markdown]
# Which features lead depends on the population (section 2.5 compares them). In **Model I** of
# DeepLense, a public project with simulated lenses, it is the *Einstein radius* of the fit; of the
# features of the image the *radius of the ring*, then the *separations* at high levels. The reason
# is the lens equation (notebook 01, section 1.7): radius and separations follow $\theta_{\mathrm
# E}$, wherever the source stands. Features of size measure the *mass* of the substructure, not its
# shape: in Model I this mass is added on top of a halo that is the same in every image.
#
# In **`marginal`**, the main population of the article, halos differ from lens to lens, and the
# mean mass of the substructure is taken out of the halo. There the size of the ring is
# uninformative, and features of the image have little class separation: each measures a smooth
# property of the lens, and these have the same distribution in all classes. The measures of the
# *residual* of the fitted lens should lead by far; the parameters of the fit, $\theta_{\mathrm E}$
# among them, should have hardly any class separation. A significant feature need not be useful:
# with thousands of images an AUC of 0.52 is significant, and so are parameters that are missing
# more often where a perturbed lens cannot be fitted.

# %% [markdown]
# ## 2.2 Are the features redundant?
#
# Redundant features have a large Spearman's $\rho$, computed over the images in which both exist.
# Features are merged into clusters, the most similar first, by the distance $1 - |\rho|$ and
# complete linkage: two clusters are joined only if *all* pairs across them are close enough, so
# that any two features of a cluster have $|\rho|$ of at least `selection.correlation`.
#
# **Figure 2.2** has the features in the order of the clustering. Red: they grow together; blue: one
# falls as the other grows; grey: hardly any image has both. Boxes are clusters of two or more; the
# colour of a name is its group, bold names are kept (section 2.4). Features that correlate strongly
# with *one another* need not correlate with the label: much of the variation from image to image is
# due to the position of the source.

# %%
correlation = pd.read_csv(folder / "correlation.csv").set_index("name")
out.figure(feature_correlation(correlation, ranking), "feature_correlation")
sizes = ranking["cluster"].value_counts()
print(f"{len(sizes)} clusters at |rho| >= {settings.correlation}, {(sizes > 1).sum()} of several:")
for cluster in sizes.index[sizes > 1]:
    print("  " + ", ".join(ranking["name"][ranking["cluster"] == cluster]))

# %% [markdown]
# **Try it.** With a lower limit more features count as redundant. Change it and run the cell again:
# which features end up in one cluster with the best of them?

# %%
# Try it: another limit of |rho|.
my_limit = 0.7
my_clusters = pd.Series(clusters(correlation, my_limit))
print(f"{my_clusters.nunique()} clusters at |rho| >= {my_limit}; that of {best['name']}:")
print("  " + ", ".join(my_clusters.index[my_clusters == my_clusters[best["name"]]]))

# %% [markdown]
# ## 2.3 All features together
#
# Two standard classifiers use the whole table. **Gradient boosting** adds up small decision trees;
# it can use combinations of features (for example a separation relative to the radius of the ring),
# and handles missing values by itself. **Logistic regression** weighs standardised features
# linearly; a missing value becomes the median, with an indicator that marks it. Where trees are
# better, a weighted sum does not suffice. The settings are defaults and were not tuned.
#
# Each is trained on `train` with one group of features, with those kept for the model (section
# 2.4), and with all features. The score is the ROC-AUC on `opt`.

# %%
out.table(scores, "feature_scores")
columns = ["model", "features", "n_features", "roc_auc", "roc_auc_low", "roc_auc_high"]
print(f"trained on {scores['n_train'][0]} images, scored on {scores['n_scored'][0]}")
scores[columns].round(3)

# %% [markdown]
# Two groups differ if their intervals are far apart. Overlapping intervals do not show that they
# are equal, because an interval is that of a score, not of a difference of scores.
#
# **Permutation importance** (Breiman 2001): a feature is shuffled from image to image in `valid`,
# which keeps its distribution and removes its relation to the label, and the fall of the ROC-AUC is
# measured. Unlike section 2.1 it judges a feature *beside the others*: one that is useless alone
# can be needed to interpret another. Features of a cluster are shuffled together: each alone would
# seem dispensable.
#
# **Figure 2.3** shows the mean fall over the shufflings. Shuffling a useless feature changes
# nothing on average, so that the fall scatters about 0 by the s.d. of the shufflings; it exceeds
# twice that (the grey bar) in one case of forty. Points right of the bar are full.

# %%
importance = pd.read_csv(folder / "importance.csv")
out.figure(feature_importance(importance, settings.importance_sd), "feature_importance")

# %% [markdown]
# Which classes do the features confuse? Below is the fraction of the images that the trees call
# "substructure" at a false-positive rate of 10 %. For a class of substructure, this is the
# completeness: larger is better.

# %%
predictions = pd.read_csv(folder / "predictions.csv", dtype={"id": str})
truth = (predictions["class"] != NO_SUB).to_numpy().astype(int)
trees = predictions["gradient_boosting"].to_numpy()
called = trees > metrics.threshold_at_fpr(truth, trees, 0.1)
for name in [name for name in CLASSES if name in set(predictions["class"])]:
    part = (predictions["class"] == name).to_numpy()
    print(f"{label_of(name):16s} {called[part].mean():.3f} of {part.sum()}")

# %% [markdown]
# ## 2.4 Which features are kept for the model
#
# The rule, which looks at `train` and `valid` only:

# %%
print(choice["rule"])
print(f"\nfalse-discovery rate {choice['fdr']}, limit {choice['importance_sd']} s.d.")
print(f"kept, {len(choice['features'])} of {choice['n_features']}:", *choice["features"])

# %% [markdown]
# The rule is generous on purpose: a useless feature costs the network a few weights, while a
# missing one cannot be replaced. About one cluster in forty passes by chance through the importance
# alone. The features in `selection.json` are those that every training with `feature_set: selected`
# joins to the image (notebook 03).
#
# ## 2.5 The same features in other populations
#
# How well a feature separates the classes depends on the population. The table has the same
# measures on small samples of other populations (column `n` below); all of their images are used,
# none of them is a training image.
#
# **Figure 2.4** is a table in colours: the ROC-AUC of each feature (row) in each population
# (column), sorted by the first. Bold numbers are significant over their column, with the direction
# of substructure as a sign. A row that is dark in one column and white in another is a *shortcut*:
# in the dark column the feature measures how the images were made, not substructure as such.

# %%
rankings = features.rankings_by_population(out.config, out.results)
if population_names(out.config):
    out.table(features.side_by_side(rankings), "feature_populations")
    out.figure(feature_populations(rankings), "feature_populations")
else:
    print("No other populations in this configuration.")

# %%
for name, one in rankings.items():
    first = one.iloc[0]
    print(
        f"{name:12s} best {first['name']} {first['roc_auc']:.3f} ({first['roc_auc_low']:.3f} – "
        f"{first['roc_auc_high']:.3f}), {one['significant'].sum()} of {len(one)} significant"
    )

# %% [markdown]
# ## 2.6 What do the features add to the network?
#
# The network sees the image from which the features were measured, so in principle they contain
# nothing new. In practice a small network with few images may not learn them. Three kinds of run
# are compared (notebook 03 trains and explains them): with the image alone, with the proposal's
# features beside it, and with the features kept by the rule of section 2.4. The difference of the
# ROC-AUC on `opt`, the mean over $S$ seeds, is
#
# $$
# \Delta = \frac1S \sum_{k=1}^{S} \bigl(A_k^{\,\text{with}} - A_k^{\,\text{without}}\bigr), \qquad
# \sigma^2 \approx \sigma^2_\text{images} + \frac{1}{S}\,\mathrm{var}_k(\Delta_k) .
# $$
#
# Its error is a bootstrap over images and seeds jointly: in each resampling all runs get the same
# images, so that those which are hard for all of them cancel, and $S$ seeds are drawn from the $S$
# there are. A difference is beyond its error if $|\Delta| > 2\sigma$. With two or three seeds the
# scatter between seeds is itself badly known: a difference that only just exceeds its error is a
# hint.
#
# **Figure 2.5** shows $\Delta$ with its 95 % interval, and each seed as a tick below it.

# %%
pairs = {
    "proposal": ("spt_lsa", "spt_lsa_proposal"),
    "selected": ("spt_lsa", "spt_lsa_features"),
    "over_proposal": ("spt_lsa_proposal", "spt_lsa_features"),
}
labels = {"proposal": "proposal's features", "selected": "selected features"}
labels |= {"over_proposal": "selected instead of proposal's"}
differences = runs.differences(pairs, out.config.feature_runs, out.config, out.results)
for key, d in differences.items():
    verdict, ends = "beyond" if d.beyond_error else "not beyond", f"{d.low:+.4f} to {d.high:+.4f}"
    print(f"{labels[key]}: {d.value:+.4f} ± {d.sd:.4f} ({ends}), {verdict} its error")

# %%
if differences:
    out.figure(feature_gain({labels[key]: d for key, d in differences.items()}), "feature_gain")
else:
    print("The configuration has no runs with and without features to compare.")
if differences and out.config.run_seeds == 1:
    print("One seed only: the scatter between trainings is unknown and not in these errors.")

# %% [markdown]
# ## 2.7 Numbers for the article
#
# The article takes these values, unrounded, by their names.

# %%
most = importance["importance"].idxmax()
out.numbers(
    features.selection_numbers(ranking, choice),
    features.best_feature_numbers(ranking),
    features.population_numbers(rankings),
    {"most_important_features": importance.loc[most, "features"]},
    features.classifier_numbers(scores),
    *(runs.difference_numbers(f"features_gain_{key}", d) for key, d in differences.items()),
)

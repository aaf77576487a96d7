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
# Notebook 01 defined the features. Which of them tells lenses with substructure from smooth ones,
# how well, and do they say different things? And how far do all of them get *together*, without any
# network? That last number is the bar which a Vision Transformer has to clear to be worth its cost.
#
# Features are judged one by one on the images of the train and valid splits. The classifier of
# section 2.3 is trained on train and scored on opt. The test split is not touched.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from vitdm import notebook

out = notebook.start(results, figures, tables, name="02_feature_comparison")

# %%
import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier

from vitdm import dataset, evaluate, features, plots

processed = dataset.Dataset.open(out.results / "processed")
measured = dataset.read_catalog(out.results / "features.csv")
assert list(measured["id"]) == list(processed.catalog["id"])
names = features.feature_names(out.config.features)
labels, _ = processed.labels("binary")
known, seed = processed.rows("train", "valid"), out.config.seed
print(f"{len(names)} features of {len(known)} images, {labels[known].mean():.0%} with substructure")

# %% [markdown]
# ## 2.1 Each feature alone
#
# Two measures, neither of which cares about units or about the shape of a distribution:
#
# - **ROC-AUC**: the probability that a random lens with substructure has a larger value than a
#   random smooth one, ties counting half,
#   $$A = P(x_\text{sub} > x_\text{smooth}) + \tfrac12 P(x_\text{sub} = x_\text{smooth}).$$
#   One half is chance. A feature that gets *smaller* with substructure is as good as one that gets
#   larger, so we take $\max(A, 1 - A)$ and remember the direction as a sign.
# - **Spearman's** $\rho$ between the feature and the label, the correlation of the ranks. Between a
#   number and a yes-or-no it says the same as $A$, on a scale from −1 to 1 that depends on the
#   proportion of the classes.
#
# Both use the images in which the feature exists; the column `measured` tells how many these are. A
# separation that exists in half of the images can help with these only. The interval is a
# bootstrap: the images are drawn again with replacement, the AUC is computed for each of these
# samples, and the central 95 % are kept. The direction is that of the whole sample, so that the
# interval of a useless feature reaches below one half.

# %%
rows = []
for name in names:
    values = measured[name].to_numpy()[known]
    there = np.isfinite(values)
    truth, x = labels[known][there], values[there]
    if len(np.unique(truth)) < 2 or len(np.unique(x)) < 2:
        continue  # a feature that never varies has no AUC
    sign = 1 if evaluate.roc_auc(truth, x) >= 0.5 else -1
    auc = evaluate.bootstrap_interval(
        evaluate.weighted_auc, truth, [sign * x], min(500, out.config.final.bootstrap), seed
    )
    rho = pd.Series(x).corr(pd.Series(truth), method="spearman")
    rows.append((name, auc.value, auc.low, auc.high, sign, rho, there.mean()))
columns = ["name", "roc_auc", "low", "high", "sign", "rho", "measured"]
ranking = pd.DataFrame(rows, columns=columns).sort_values("roc_auc", ascending=False)
ranking = ranking.reset_index(drop=True)
out.table(ranking, "feature_ranking")
ranking.round(3)

# %% [markdown]
# What to expect? In DeepLense's Model I the **separations** lead, those at high levels before those
# at low ones, and `ring_radius` follows. The reason is in the lens equation (notebook 01): the two
# images of a source behind an isothermal lens are $2\,\theta_{\mathrm E}$ apart wherever the source
# stands, so that the nuisance which rules all the other features, the unknown source position,
# drops out. Where features of size lead, they see *not the shape of the substructure but its mass*:
# in Model I it comes on top of a halo that is the same in every image, so that any mass added shows
# as a larger Einstein radius.
#
# In `marginal`, in which halos and sources differ as they do in nature and the mean mass of the
# substructure is taken out of the halo, this advantage is gone, and little is left for such simple
# features: each measures a smooth property of the lens, and these are the same in all classes. An
# interval that holds 1/2 says that a feature has nothing to tell by itself.
#
# The **numbers of bright regions**, made to count the knots that subhalos cause, need not say much.
# A lens has two or four images to begin with, how many of them merge depends on the source, and the
# noise splits regions at high levels.

# %%
best = ranking.iloc[0]
print(f"best: {best['name']}, {best['roc_auc']:.3f} ({best['low']:.3f} – {best['high']:.3f})")

# %% [markdown]
# ## 2.2 Do the features say different things?

# %%
frame = measured.loc[known, list(ranking["name"])].assign(substructure=labels[known])
frame = frame[["substructure", *[name for name in names if name in frame]]]
correlation = frame.corr(method="spearman", min_periods=10)
out.figure(plots.feature_correlation(correlation), "feature_correlation")

# %% [markdown]
# Each cell is the rank correlation of two features, over the images in which both exist (white:
# hardly any). The first row and column is the target. Red means that they grow together, blue that
# one falls as the other grows. Strong colour off the diagonal marks features that repeat one
# another: brightness and area both follow the magnification, and neighbouring levels count nearly
# the same regions. The features which correlate most strongly *with one another* need not be those
# that correlate with the target: much of what varies from image to image is the source position.
#
# ## 2.3 All features together
#
# A gradient-boosted ensemble of decision trees takes the whole table at once. It can use what
# single features cannot show: that a separation means one thing at a given ring radius and another
# at the next. It copes with missing values by itself: in each node of a tree, images without the
# feature go to the side where they fit better. The settings are the defaults of scikit-learn but
# for a lower learning rate, and were not tuned.

# %%
train, opt = processed.rows("train"), processed.rows("opt")
table = measured[names].to_numpy()
table = table[:, np.isfinite(table[train]).any(axis=0)]  # a feature that no image has is none
trees = HistGradientBoostingClassifier(learning_rate=0.05, max_iter=200, random_state=seed)
scores = trees.fit(table[train], labels[train]).predict_proba(table[opt])[:, 1]
together = evaluate.bootstrap_interval(
    evaluate.weighted_auc, labels[opt], [scores], out.config.final.bootstrap, seed
)
out.figure(plots.feature_auc(ranking, together), "feature_auc")
print(
    f"all features together: {together.value:.3f} ({together.low:.3f} – {together.high:.3f}),"
    f" trained on {len(train)} images, scored on {len(opt)}"
)

# %% [markdown]
# Each point is one feature with its 95 % interval, the best above; the colour is the direction.
# Points whose interval holds one half (dotted) cannot be told from guessing. The star and the green
# band are the classifier that sees all features, scored on images it was not trained with.
#
# How much the whole exceeds its best part, if it does, is worth a thought. Features that are
# useless *alone* need not be useless *beside others*: brightness, area and elongation tell where
# the source is, and once that is known, what is left of a separation or a radius is due to the
# mass. To see whether it is so, the same classifier is trained on two halves of the table: the
# *sizes* (separations and ring radius), and the rest. If the sizes alone do as well as all, the
# rest adds nothing; the numbers below decide.

# %%
size = np.array(["separation" in name or name == "ring_radius" for name in names])
for label, chosen in (("sizes", size), ("the rest", ~size), ("all", size | ~size)):
    part = measured[np.array(names)[chosen]].to_numpy()
    part = part[:, np.isfinite(part[train]).any(axis=0)]
    parts = trees.fit(part[train], labels[train]).predict_proba(part[opt])[:, 1]
    print(f"{label:8s} ({chosen.sum():2d} features): {evaluate.roc_auc(labels[opt], parts):.3f}")
print(f"gain of all features over the best one: {together.value - best['roc_auc']:+.3f}")

# %% [markdown]
# ## 2.4 Which classes do the features confuse?
#
# The same scores, class by class: the fraction of images that would be called "substructure" if 10
# % of the smooth lenses were. For a class of substructure, larger is better.

# %%
classes = processed.catalog["class"].to_numpy()[opt]
threshold = evaluate.threshold_at_fpr(labels[opt], scores, 0.1)
for name in [name for name in dataset.CLASSES if name in set(classes)]:
    chosen = classes == name
    print(f"{plots.NAMES[name]:16s} {np.mean(scores[chosen] > threshold):.3f} of {chosen.sum()}")

# %%
out.numbers(
    {
        "n_features": len(names),
        "best_feature": best["name"],
        "best_feature_auc": best["roc_auc"],
        "best_feature_auc_low": best["low"],
        "best_feature_auc_high": best["high"],
        "best_feature_rho": best["rho"],
        "features_only_auc": together.value,
        "features_only_auc_low": together.low,
        "features_only_auc_high": together.high,
    }
)

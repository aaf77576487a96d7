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
# # 4. Optimisation
#
# A network has settings that its training does not learn: how fast to learn, how wide, how deep.
# They are usually chosen by hand until the result pleases, which nobody can repeat. Here the
# choice is left to an algorithm with a fixed budget of short trainings: **Bayesian optimisation**.
# Its question is:
#
# > *Given all trials so far, which setting should be tried next?*
#
# Each trial trains on images of the **train** split, keeps the weights of its best epoch on
# **valid**, and is judged by its ROC-AUC on **opt**, images that no training has seen. The test
# split takes no part, so that the choice made here can be tested honestly afterwards (notebook 5).
#
# The notebook searches nothing; it reads the trials of a finished search, explains and draws.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from vitdm import notebook

out = notebook.start(results, figures, tables, name="04_optimisation")

# %%
import json

import numpy as np
import pandas as pd
from scipy import stats

from vitdm import plots, tune

settings = out.config.tune
space = settings.space
folder = out.results / "tune"
trials = pd.read_csv(folder / "trials.csv")
best = json.loads((folder / "best.json").read_text())
minutes = trials["seconds"].sum() / 60
print(f"{len(trials)} trials of at most {settings.epochs} epochs, {minutes:.1f} minutes in all")

# %% [markdown]
# ## 4.1 The space, and why it ends where it ends
#
# * **Learning rate**, the step of the descent. Too low, and it has not arrived when the epochs are
#   over; too high, and it jumps about or collapses to one answer for all images.
# * **Token width** $D$, the numbers a token. Too few cannot hold what has to be kept; parameters
#   and time grow as $D^2$.
# * **Blocks**, the rounds of exchange between tokens. With too few, arcs on opposite sides are
#   never related to each other; many are slow to train in few epochs.
# * **Heads**, the patterns of exchange side by side. With too few, one pattern must do for all;
#   with too many, each has only $D/h$ numbers to work with.
# * **Patch side** $p$, the pixels a token sees across. Small ones make many tokens, and the time
#   of the attention grows as $p^{-4}$; in a large one an arc, a few pixels wide, is lost.
#
# The learning rate is searched on a logarithmic scale, because it acts by its ratio: from 0.001 to
# 0.002 is as large a change as from 0.0001 to 0.0002. Patches must tile the image and the heads
# must divide the width; a combination that does not fit is never proposed. The sizes are limited
# by time: the search, with the rest of the work, is to run on a laptop, and so it asks what is
# best *within a short training*. A larger network may overtake later.
#
# All that is not in the space is held at the values of the configuration, and so is the recipe.

# %%
# NBVAL_CHECK_OUTPUT
for name, entry in space.items():
    if entry.type == "categorical":
        bounds = "one of " + ", ".join(map(str, entry.choices))
    else:
        scale = "logarithmic" if entry.type == "real" and entry.log else "linear"
        bounds = f"{entry.low:g} to {entry.high:g}, {scale}"
    print(f"{plots.setting_name(name):18} {bounds}")

# %% [markdown]
# ## 4.2 How the search decides
#
# **What is minimised** is
#
# $$
# f(\lambda) = \log_{10}\bigl(1 - \mathrm{AUC}(\lambda)\bigr),
# $$
#
# the logarithm of the fraction of pairs of lenses that are put in the wrong order. Near the top
# the AUC itself hardly moves: from 0.98 to 0.99 is a step of 0.01, as from 0.60 to 0.61, yet the
# first halves the mistakes and the second does next to nothing. In $f$ they differ as they should.
# A trial whose loss becomes infinite is kept, counted as failed, and given chance (1/2).
#
# **A Gaussian process** is a probability distribution over functions. It says that the values of
# $f$ at any settings $\lambda_1, \lambda_2, \dots$ are jointly normal, and the more alike the
# closer the settings are:
#
# $$
# \mathrm{cov}\bigl(f(\lambda_i), f(\lambda_j)\bigr) =
# \sigma_f^2\, k(r_{ij}) + \sigma_n^2\,\delta_{ij},
# \quad
# k(r) = \Bigl(1 + \sqrt5\, r + \tfrac53 r^2\Bigr)\, e^{-\sqrt5\, r},
# \quad
# r_{ij}^2 = \sum_d \frac{(\lambda_{id} - \lambda_{jd})^2}{\ell_d^2} .
# $$
#
# This $k$ is the Matérn kernel with $\nu = 5/2$: $f$ is taken to be smooth, but not infinitely so.
# The lengths $\ell_d$ say how far a setting must change before $f$ does, and $\sigma_n$ is the
# noise of a trial; all are fitted to the trials. Conditioned on $n$ trials with values $\mathbf
# f$, the prediction at a new $\lambda$ is again normal. With $\mathbf k$ the covariances of
# $f(\lambda)$ with the trials and $\mathbf K$ those among the trials (and a mean of zero, for
# short),
#
# $$
# \mu(\lambda) = \mathbf k^{\mathsf T} \mathbf K^{-1} \mathbf f, \qquad
# s^2(\lambda) = \sigma_f^2 - \mathbf k^{\mathsf T} \mathbf K^{-1} \mathbf k .
# $$
#
# **The next trial** is put where an *acquisition function* is best. Three are at hand, with $f^*$
# the lowest value so far, $u = (f^* - \mu)/s$, and $\Phi$, $\phi$ the normal distribution and its
# density:
#
# $$
# \begin{aligned}
# \text{expected improvement:}\quad
#   & \mathrm E[\max(f^* - f, 0)] = (f^* - \mu)\,\Phi(u) + s\,\phi(u), \\
# \text{probability of improvement:}\quad & \Phi(u), \\
# \text{lower confidence bound:}\quad & \mu - \kappa s .
# \end{aligned}
# $$
#
# Each trades *exploitation* (where $\mu$ is low) against *exploration* (where $s$ is large) in its
# own way. None is always the best, so `gp_hedge` lets each of them propose a point, draws one of
# the proposals with probabilities $\propto e^{\eta g}$, and credits each with the gain $g$ that
# its proposals have, so far, in the eyes of the model (Brochu, Hoffman and de Freitas 2010,
# [arXiv:1009.5419](https://arxiv.org/abs/1009.5419)). The search here is scikit-optimize's
# `gp_minimize` with this setting.
#
# The first trial is the configuration itself, the following ones are random points, so that the
# process has something to start from; only then does it decide.

# %%
n_random = min(settings.n_initial_points, len(trials) - 1)
print(f"1 start, {n_random} random, {len(trials) - 1 - n_random} chosen by the Gaussian process")

# %% [markdown]
# ## 4.3 The course of the search
#
# **The figure** shows each trial in its order, and the best so far as a line. The axis is $f$,
# upside down, with the ROC-AUC written at it: equal distances are equal ratios of mistakes. If the
# points that the process chose (filled) lie above the random ones (open) on the whole, it has
# learnt something about the space; if the line has long been flat at the end, more trials of this
# kind would hardly bring more.

# %%
out.figure(plots.tune_convergence(trials, settings.n_initial_points), "tune_convergence")

# %%
group = np.digitize(trials["call"], [1, 1 + settings.n_initial_points])
kinds = pd.Series(group).map({0: "start", 1: "random", 2: "Gaussian process"})
summary = trials.groupby(kinds.rename("chosen by"), sort=False)["roc_auc"]
summary.agg(["count", "min", "median", "max"]).round(4)

# %% [markdown]
# **Where it looked.** On the diagonal, how often each value was tried; below it, all pairs of
# settings, with dark points early and light ones late. The star is the best trial. Points on a
# choice or a whole number are spread a little, or they would hide each other. Late points that
# crowd together show where the process expected the best; late ones at the edges show that it was
# still exploring.

# %%
out.figure(plots.tune_evaluations(trials, space), "tune_evaluations")

# %% [markdown]
# ## 4.4 What the trials say about the settings
#
# The process, fitted to all trials, can be asked for its opinion anywhere. The **partial
# dependence** on a setting $\lambda_d$ is its prediction averaged over all other settings,
#
# $$
# \bar\mu_d(\lambda_d) = \frac1M \sum_{m=1}^{M} \mu\bigl(\lambda_d, \lambda^{(m)}_{\neq d}\bigr),
# $$
#
# with random $\lambda^{(m)}$. **In the figure** the diagonal shows this average for one setting,
# all panels on one scale (the dashed line is the best trial); below, for two at a time, with the
# trials as dots and the best as a star. A steep curve means that the setting matters. A flat one
# means that it does not, *or that the few trials do not show it*: this is an estimate from an
# estimate, and an average over settings nobody would use. The best trial may lie where the average
# is poor.

# %%
search = tune.load_result(folder, out.config)
grids = {dimension.name: tune.setting_grid(dimension) for dimension in search.space.dimensions}
names = list(space)
subsets = [(a,) for a in names] + [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
dependence = {s: tune.partial_dependence(search, s, seed=out.config.seed) for s in subsets}
out.figure(plots.tune_objective(dependence, grids, trials, space), "tune_objective")

# %% [markdown]
# The *spread* of a curve, the difference of its highest and its lowest $f$, ranks the settings. A
# spread of 0.3 is a factor of $10^{0.3} = 2$ in the fraction of pairs in the wrong order. It
# belongs to this space: with wider bounds every spread grows.

# %%
spread = pd.Series({name: np.ptp(dependence[(name,)]) for name in names})
spread = spread.sort_values(ascending=False)
spread.rename(plots.setting_name).round(3).to_frame("spread of f")

# %% [markdown]
# ### The learning rate
#
# The setting that everybody asks about deserves a picture of its own, without any model: **all
# trials**, by their learning rate. Crosses are trials that failed or ended below the dotted line,
# having learnt next to nothing. The colour tells another setting, for a bad trial may have been
# bad for another reason than its rate.

# %%
other = next((name for name in ("patch_size", "embed_dim") if name in space), None)
other = other or next(name for name in names[::-1] if name != "learning_rate" or len(names) == 1)
if "learning_rate" not in trials:
    print("The learning rate was not searched: all trials share that of the configuration.")
    trials["learning_rate"] = out.config.train.learning_rate
out.figure(plots.tune_learning_rate(trials, other, space[other]), "tune_learning_rate")

# %%
collapsed = int(((trials["status"] == "ok") & (trials["roc_auc"] < plots.COLLAPSED)).sum())
print(f"{best['failed']} of {len(trials)} trials failed, {collapsed} more ended below the line.")

# %% [markdown]
# ## 4.5 The best, and how much of it is luck

# %%
rows = []
for name, entry in space.items():
    choices = entry.type == "categorical"
    searched = ", ".join(map(str, entry.choices)) if choices else f"{entry.low:g} to {entry.high:g}"
    values = [best["start"][name], best["params"][name]]
    written = [f"{value:.3g}" if entry.type == "real" else str(value) for value in values]
    rows.append((plots.setting_name(name), searched, *written))
table = pd.DataFrame(rows, columns=["parameter", "searched", "start", "best"])
out.table(table, "tune_best")
print(table.to_string(index=False))

# %% [markdown]
# A trial is a noisy measurement: another random start of the training or other images in `opt`
# would have given another number. **The best of $N$ noisy numbers is too good.** If all $N$
# settings were equally good and each measured with the error $\sigma$, the best would on average
# still exceed the truth by
#
# $$
# \Delta \approx \sigma\,\Phi^{-1}\!\left(\frac{N - 3/8}{N + 1/4}\right)
# $$
#
# (Blom 1958, *Statistical Estimates and Transformed Beta-Variables*, Wiley). Where the settings
# differ by more than $\sigma$ the bias is smaller, so this is an upper limit. The search gives no
# repeated measurements from which $\sigma$ could be read, but the images alone contribute (Hanley
# and McNeil 1982,
# [doi:10.1148/radiology.143.1.7063747](https://doi.org/10.1148/radiology.143.1.7063747)), with $A$
# the AUC and $n_+$, $n_-$ the numbers of images with and without substructure,
#
# $$
# \sigma_\text{images}^2 = \frac{A(1-A) + (n_+ - 1)(Q_1 - A^2) + (n_- - 1)(Q_2 - A^2)}{n_+ n_-},
# \quad Q_1 = \frac{A}{2-A}, \quad Q_2 = \frac{2A^2}{1+A} .
# $$
#
# All trials are scored on the same images, so this part is to a good deal common to them and does
# not enter their order; the scatter of the training, unknown here, does. Neither number is more
# than a scale for the difference between the best and the start.
#
# That difference has a second noisy end: the start was measured once, too. If all settings were
# equal, how far ahead of one given trial would the best of $N$ be, in units of the scatter? The
# number below is exceeded by chance in one search of forty. A search that gains less than this has
# shown no gain.

# %%
catalog = pd.read_csv(out.results / "processed" / "catalog.csv")
null = catalog.loc[catalog["split"] == "opt", "class"] == "no_sub"
positive, negative = int((~null).sum()), int(null.sum())
A = best["roc_auc"]
q1, q2 = A / (2 - A), 2 * A**2 / (1 + A)
variance = A * (1 - A) + (positive - 1) * (q1 - A**2) + (negative - 1) * (q2 - A**2)
sigma = np.sqrt(variance / (positive * negative))
ahead = A - best["start_roc_auc"]
N = len(trials)
rank = int((trials["roc_auc"] > best["start_roc_auc"]).sum()) + 1
print(f"best {A:.4f}, start {best['start_roc_auc']:.4f}, difference {ahead:.4f}")
print(f"the start has rank {rank} of {N}")
print(f"sigma of the images alone: {sigma:.4f}")
print(f"bias of the best of {N} equal ones: {stats.norm.ppf((N - 3 / 8) / (N + 1 / 4)):.2f} sigma")
equal = np.random.default_rng(0).normal(size=(100_000, N))
luck = np.quantile(equal.max(axis=1) - equal[:, 0], 0.975)
print(f"the best ahead of the start, one search of forty: {luck:.2f} sigma or more")

# %% [markdown]
# Three more opinions on the best trial, none of which is a test:
#
# * *valid*: the same weights on the validation images. They were chosen there (best epoch), so
#   this score is optimistic as well, though for another reason. How well the orders of the trials
#   on `valid` and on `opt` agree (Spearman's rank correlation) says how far the order can be
#   trusted: at 1 the images do not matter, at 0 the order is noise.
# * *the process*: its prediction for the best settings. If it has found the trials to be noisy, it
#   draws an outstanding one towards its neighbours; if it took them at their word (residual zero),
#   it repeats the measured value and adds no opinion of its own.
# * *the runner-up*: if the second best is as good with quite other settings, the settings do not
#   matter much.

# %%
winner = trials["roc_auc"].idxmax()
ok = trials[trials["status"] == "ok"]
predicted = search.models[-1].predict(search.space.transform(search.x_iters))
residual = np.std(search.func_vals - predicted)
print(f"on opt {A:.4f}, on valid {trials['valid_roc_auc'][winner]:.4f}")
if len(ok) > 2:
    agreement = stats.spearmanr(ok["valid_roc_auc"], ok["roc_auc"]).statistic
    print(f"rank correlation of valid and opt over the trials: {agreement:.2f}")
print(f"predicted by the process {1 - 10 ** predicted[winner]:.4f}, residual {residual:.4f} in f")
trials.nlargest(min(5, N), "roc_auc")[[*names, "roc_auc", "valid_roc_auc"]].round(4)

# %%
if rank == 1:
    print("No trial beat the start: the final models are trained with the configuration itself.")
else:
    print("The final models are trained with the settings of the best trial.")

# %% [markdown]
# Whatever the difference, the ROC-AUC printed here is **not** the result of this work. It was used
# for a choice, it comes from a short training, and on part of the data if the configuration says
# so. The settings go on to notebook 5, where new models are trained with them on train and opt,
# and tested on images that no choice has seen.
#
# ## 4.6 Numbers for the article

# %%
numbers = {
    "tune_calls": N,
    "tune_failed": best["failed"],
    "tune_start_auc": best["start_roc_auc"],
    "tune_best_auc": A,
    "tune_median_auc": trials["roc_auc"].median(),
    "tune_seconds": trials["seconds"].sum(),
    "tune_luck": luck,
    "most_sensitive": spread.index[0],
}
numbers |= {f"best_{name}": value for name, value in best["params"].items()}
out.numbers(numbers)
pd.Series(numbers, dtype=object).to_frame("value")

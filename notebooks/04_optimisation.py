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
from studies import notebook

out = notebook.start(results, figures, tables, name="04_optimisation")

# %%
import json
from pathlib import Path

import numpy as np
import pandas as pd

from studies.plots import tuning as tuning_plots
from studies.plots.words import setting_name
from vitdm.tuning import finished, result
from vitdm.tuning.trials import replay

settings = out.config.tune
space = settings.space
folder = out.results / "tune"
everything, best = finished.load_trials(folder), finished.load_best(folder)
trials = everything[everything["stage"] != "again"]
minutes = best["seconds"] / 60
print(
    f"{len(trials)} trials of at most {settings.epochs} epochs, and {len(everything) - len(trials)}"
)
print(f"to choose among the best: {minutes:.1f} minutes, {settings.parallel} at once")

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
    print(f"{setting_name(name):18} {bounds}")

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
# A trial whose loss becomes infinite, or that crashes, is kept with its reason, counted as failed,
# and given chance (1/2).
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
# noise of a trial. The lengths and $\sigma_f$ are fitted to the trials; the noise is **measured**:
# the first trials are all of one setting, the configuration itself, with several seeds, and the
# standard deviation of their $f$ is $\sigma_n$. Conditioned on $n$ trials with values $\mathbf
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
# After the start comes a *design*, points that are spread evenly over the space, so that the
# process has something to begin with; only then does it decide. Trials that cannot become good need
# not be trained to the end: one whose validation curve is below the median of the points before it
# (after as many epochs) by more than twice the noise ends early, and counts with the score that it
# has by then. The noise is again that of the start. Without it, the plain median rule ended most
# trials here, the best among them: good settings differ by less than their noise. When
# several trials run at once, a point is chosen while others are not known yet; these are then taken
# to come out as the process expects (the *kriging believer* of Ginsbourger, Le Riche and Carraro
# 2010, [doi:10.1007/978-3-642-10701-6_6](https://doi.org/10.1007/978-3-642-10701-6_6)).

# %%
stages = trials["stage"].value_counts()
print(", ".join(f"{n} {tuning_plots.stage_name(stage)}" for stage, n in stages.items()))
if best["noise_sd"] is not None:
    print(f"noise of a trial: {best['noise_sd']:.3f} in f, or {10 ** best['noise_sd'] - 1:.0%} of")
    print("the fraction of pairs in the wrong order")

# %% [markdown]
# ## 4.3 The course of the search
#
# **The figure** shows each trial in its order, and the best so far as a line. The axis is $f$,
# upside down, with the ROC-AUC written at it: equal distances are equal ratios of mistakes. The
# squares are one and the same setting: what separates them is noise, and differences between other
# points that are no larger mean nothing. If the points that the process chose (filled) lie above
# those of the design (open) on the whole, it has learnt something about the space; if the line has
# long been flat at the end, more trials of this kind would hardly bring more.

# %%
out.figure(tuning_plots.tune_convergence(trials, best["noise_sd"]), "tune_convergence")

# %%
kinds = trials["stage"].map(tuning_plots.stage_name).rename("chosen by")
summary = trials.groupby(kinds, sort=False)["score"]
summary.agg(["count", "min", "median", "max"]).round(4)

# %% [markdown]
# **Hopeless trials.** What did it save to end them early, and might one of them have won? The time
# saved is estimated from the epochs that were not run. The second question is answered in section
# 4.7, where the same searches are made with the rule and without.

# %%
spent, saved = best["cpu_seconds"], best["cpu_seconds_saved"]
print(f"{best['stopped']} of {best['calls']} trials ended early, {best['failed']} failed")
print(f"{spent / 60:.1f} minutes of one core spent, {saved / 60:.1f} saved")

# %% [markdown]
# **Where it looked.** On the diagonal, how often each value was tried; below it, all pairs of
# settings, with dark points early and light ones late. The star is the best trial. Points on a
# choice or a whole number are spread a little, or they would hide each other. Late points that
# crowd together show where the process expected the best; late ones at the edges show that it was
# still exploring.

# %%
out.figure(tuning_plots.tune_evaluations(trials, space), "tune_evaluations")

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
search = result.load_result(folder, out.config)
grids = {dimension.name: result.setting_grid(dimension) for dimension in search.space.dimensions}
names = list(space)
subsets = [(a,) for a in names] + [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
dependence = {s: result.partial_dependence(search, s, seed=out.config.seed) for s in subsets}
out.figure(tuning_plots.tune_objective(dependence, grids, trials, space), "tune_objective")

# %% [markdown]
# The *spread* of a curve, the difference of its highest and its lowest $f$, ranks the settings. A
# spread of 0.3 is a factor of $10^{0.3} = 2$ in the fraction of pairs in the wrong order. It
# belongs to this space: with wider bounds every spread grows.

# %%
spread = pd.Series({name: np.ptp(dependence[(name,)]) for name in names})
spread = spread.sort_values(ascending=False)
spread.rename(setting_name).round(3).to_frame("spread of f")

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
out.figure(tuning_plots.tune_learning_rate(trials, other, space[other]), "tune_learning_rate")

# %%
collapsed = int(((trials["status"] != "failed") & (trials["score"] < tuning_plots.COLLAPSED)).sum())
print(f"{best['failed']} of {len(trials)} trials failed, {collapsed} more ended below the line.")

# %% [markdown]
# ## 4.5 The best, and how much of it is luck
#
# A trial is a noisy measurement, and **the best of $N$ noisy numbers is too good**: it won in part
# because its noise happened to be favourable. If all $N$ settings were equally good, the best
# would on average exceed the truth by
#
# $$
# \Delta \approx \sigma_n\,\Phi^{-1}\!\left(\frac{N - 3/8}{N + 1/4}\right)
# $$
#
# (Blom 1958, *Statistical Estimates and Transformed Beta-Variables*, Wiley), two standard
# deviations for thirty trials. The cure is to measure again: the best trials, and the start, are
# **trained anew with fresh seeds**, the same for all, and the one with the best mean minus its
# error is chosen. The start is among them, so that nothing is chosen for the sake of choosing.
#
# **In the figure** triangles are the scores of the search, dots those of the fresh seeds, bars
# their means with errors. All are scored on the same images of `opt`, on which the candidates were
# found: what is common to all trainings on these images (a setting that suits them by chance)
# remains, and so the article's number comes from other images.

# %%
out.figure(tuning_plots.tune_again(best["candidates"], best["params"]), "tune_again")

# %%
again = pd.DataFrame(best["candidates"])
print("in the search, and with fresh seeds (mean, error):")
for k, row in again.iterrows():
    chosen = ", chosen" if row["params"] == best["params"] else ""
    name = "start" if k == 0 else f"trial {k}"
    print(f"{name:8} {row['found']:.4f}  {row['mean']:.4f} ± {row['error']:.4f}{chosen}")
others = again[1:]
bias = float((others["found"] - others["mean"]).mean()) if len(others) else np.nan
print(f"the best trials were found {bias:+.4f} too good on average")

# %%
rows = []
for name, entry in space.items():
    choices = entry.type == "categorical"
    searched = ", ".join(map(str, entry.choices)) if choices else f"{entry.low:g} to {entry.high:g}"
    values = [best["start"][name], best["params"][name]]
    written = [f"{value:.3g}" if entry.type == "real" else str(value) for value in values]
    rows.append((setting_name(name), searched, *written))
table = pd.DataFrame(rows, columns=["parameter", "searched", "start", "best"])
out.table(table, "tune_best")
print(table.to_string(index=False))

# %% [markdown]
# ### What did tuning bring?
#
# The precursor of this work claims that Bayesian optimisation raised its ROC-AUC from 0.85 to 0.91.
# Its log, which it published, tells another story: on equal terms its start scored 0.9005 and its
# best 0.9135, while five trials that were nearly the same scattered by 0.0049. Here start and
# choice are trained alike (the final recipe, all development images, the same seeds) and compared
# **on lenses that no training and no search has seen**, simulated for this; the interval counts
# images and seeds.

# %%
claimed, start_then, best_then, scatter_then = 0.91 - 0.85, 0.9005, 0.9135, 0.0049
print(f"the precursor: claimed {claimed:+.3f}, on equal terms {best_then - start_then:+.3f}")
gain_file = folder / "gain.json"
gain = json.loads(gain_file.read_text())["result"] if gain_file.exists() else None
if gain:
    print(f"start {gain['against_auc']:.4f}, chosen {gain['auc']:.4f} on {gain['n_images']} lenses")
    print(f"gain {gain['gain']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})")
    shown = gain["low"] > 0 or gain["high"] < 0
    print(
        "The interval excludes zero." if shown else "The interval includes zero: no gain is shown."
    )
else:
    print("There are no such lenses with this configuration.")

# %% [markdown]
# ## 4.6 Where training stops to work, and what moved that limit
#
# The proposal found that the precursor's transformer trained only at learning rates between 1e-6
# and 1e-4; above, trials collapsed. Is it so here? The grid below trains a transformer that sees
# the image and what the fitted lens leaves of it, without any feature, at learning rates over four
# decades: with the recipe of this work, and with one of its parts taken away:
#
# * **warm-up**: the rate rises over the first steps, while the gradients are still wild;
# * **clipping**: a gradient longer than 1 is shortened;
# * **pre-norm**: the LayerNorm stands before attention and perceptron, so that the shortcut runs
#   from the first block to the last untouched (*post-norm* puts it after their sum; Xiong et al.
#   2020, [arXiv:2002.04745](https://arxiv.org/abs/2002.04745));
# * **one softmax**: the precursor gave the loss probabilities, of which it took the softmax again.
#
# **In the figure** each panel shows one of these changes (orange) beside the recipe of this work
# (grey). Dots are trainings, lines medians, crosses failures.

# %%
studies = {name: out.results / name / f"{name}.csv" for name in ("searches", "rates")}
for name, path in studies.items():  # of this run; of the article, the committed ones
    if not path.exists() and out.config.publish:
        studies[name] = Path("paper/extended") / f"{name}.csv"
limits, reached = {}, {}
if studies["rates"].exists():
    grid = pd.read_csv(studies["rates"])
    recipes = dict(grid[["recipe", "label"]].drop_duplicates().to_numpy())
    out.figure(tuning_plots.tune_rates(grid, recipes), "tune_rates")
    middle = grid.pivot_table(
        index="recipe", columns="learning_rate", values="score", aggfunc="median", sort=False
    )
    reached = middle.max(axis=1).to_dict()
    works = middle.gt(tuning_plots.COLLAPSED)
    limits = {name: float(row[row].index.max()) for name, row in works.iterrows() if row.any()}
    summary = middle.assign(highest_rate=pd.Series(limits)).rename(index=recipes)
    print(summary.round(3).to_string())
else:
    print("No grid of learning rates was made with this configuration.")

# %% [markdown]
# ## 4.7 Is the Gaussian process worth it?
#
# Random search is simpler and a good deal better than its name (Bergstra and Bengio 2012, JMLR 13,
# 281). Both get the same start, the same design and the same number of calls, on the real network
# with few training images, and each is repeated with other seeds. **The figure** shows the best
# score so far, on average over the searches, with its standard error. As the best of noisy scores
# is too good for all, the table gives what counts: the choice of each search, trained anew with
# fresh seeds (mean over the searches, standard error, difference from random points). A third kind
# of search shows what it costs to run two trials at once. What it would have saved, and lost, to
# end hopeless trials early is told by replaying the searches that ran all of them to their end.

# %%
searched, table = None, None
if studies["searches"].exists():
    searched = pd.read_csv(studies["searches"])
    arms = dict(searched[["arm", "label"]].drop_duplicates().to_numpy())
    calls = searched[searched["stage"] != "again"].copy()
    calls["best_so_far"] = calls.groupby(["arm", "number"])["score"].cummax()
    out.figure(tuning_plots.tune_searches(calls, arms), "tune_searches")
    fresh = searched[searched["stage"] == "again"]
    keys = ["arm", "number", *space]
    points = fresh.groupby(keys, sort=False)["score"].agg(["mean", "sem"]).reset_index()
    points["bound"] = points["mean"] - points["sem"]
    choice = points.loc[points.groupby(["arm", "number"])["bound"].idxmax()]
    choice = choice.pivot(index="number", columns="arm", values="mean")[list(arms)]
    cpu = calls.groupby(["arm", "number"])["cpu_seconds"].sum().groupby("arm").mean()
    top = calls.groupby(["arm", "number"])["score"].max().unstack(0)
    table = pd.DataFrame(
        {
            "best of trials": top.mean(),
            "choice, fresh seeds": choice.mean(),
            "its error": choice.sem(),
            "minus random": choice.sub(choice.get("random", np.nan), axis=0).mean(),
            "error of that": choice.sub(choice.get("random", np.nan), axis=0).sem(),
            "minutes of a core": cpu / 60,
        }
    ).loc[list(arms)]
    out.table(table.rename(index=arms).rename_axis("search").reset_index(), "tune_searches")
    print(table.rename(index=arms).round(4).to_string())
    # would the rule have ended the trial that a search without it found best?
    lost, ended, run = 0, 0, 0
    full = calls[calls["arm"].isin(["process", "random"])]
    for _, one in full.groupby(["arm", "number"]):
        epochs = replay(one, list(space), 0.5, settings.patience)
        winner = one["score"].to_numpy().argmax()
        lost += epochs[winner] < one["epochs"].iloc[winner]
        ended, run = ended + sum(epochs), run + one["epochs"].sum()
    n_replayed = full.groupby(["arm", "number"]).ngroups
    print(f"the rule, replayed: {1 - ended / run:.0%} of the epochs saved, and in {lost} of")
    print(f"{n_replayed} searches the best trial would have ended early")
else:
    print("No searches were compared with this configuration.")

# %% [markdown]
# ## 4.8 What the search leaves open
#
# * *valid* against *opt*: how well the orders of the trials agree on both (Spearman's rank
#   correlation) says how far the order can be trusted: at 1 the images do not matter, at 0 the
#   order is noise.
# * *the runner-up*: if other settings are as good, the settings do not matter much.

# %%
ok = trials[trials["status"] == "ok"]
if len(ok) > 2:
    agreement = ok["valid_roc_auc"].corr(ok["score"], method="spearman")
    print(f"rank correlation of valid and opt over the trials: {agreement:.2f}")
trials.nlargest(min(5, len(trials)), "score")[[*names, "score", "valid_roc_auc"]].round(4)

# %%
if best["params"] == best["start"]:
    print("No trial beat the start: the final models are trained with the configuration itself.")
else:
    print("The final models are trained with the settings of the chosen trial.")

# %% [markdown]
# Whatever the difference, the ROC-AUC printed here is **not** the result of this work. It was used
# for a choice, it comes from a short training, and on part of the data if the configuration says
# so. The settings go on to notebook 5, where new models are trained with them on train and opt,
# and tested on images that no choice has seen.
#
# ## 4.9 Numbers for the article

# %%
start, chosen = again.iloc[0], again[[p == best["params"] for p in again["params"]]].iloc[0]
numbers = {
    "tune_calls": best["calls"],
    "tune_failed": best["failed"],
    "tune_stopped": best["stopped"],
    "tune_noise": best["noise_sd"],
    "tune_start_auc": start["mean"],
    "tune_start_error": start["error"],
    "tune_best_auc": chosen["mean"],
    "tune_best_error": chosen["error"],
    "tune_best_of_trials": best["best_of_trials"],
    "tune_bias": bias,
    "tune_start_kept": best["params"] == best["start"],
    "tune_median_auc": trials["score"].median(),
    "tune_seconds": best["seconds"],
    "tune_cpu_saved": best["cpu_seconds_saved"] / (spent + best["cpu_seconds_saved"]),
    "most_sensitive": spread.index[0],
    "least_sensitive": spread.index[-1],
    "precursor_gain_claimed": claimed,
    "precursor_gain_equal": best_then - start_then,
    "precursor_scatter": scatter_then,
    "precursor_rate": 1e-4,  # the upper end, as the proposal found it
}
numbers |= {f"best_{name}": value for name, value in best["params"].items()}
if gain:
    numbers |= {f"tune_gain{end}": gain[key] for end, key in (("", "gain"), ("_low", "low"))}
    numbers |= {"tune_gain_high": gain["high"], "tune_gain_n": gain["n_images"]}
numbers |= {f"rates_limit_{name}": limit for name, limit in limits.items()}
numbers |= {f"rates_best_{name}": score for name, score in reached.items()}
if limits:
    numbers["rates_highest"] = float(grid["learning_rate"].max())
if table is not None:
    for arm, row in table.iterrows():
        keys = ("choice, fresh seeds", "minus random", "error of that", "minutes of a core")
        for key, short in zip(keys, ("auc", "ahead", "ahead_error", "minutes"), strict=True):
            numbers[f"search_{arm}_{short}"] = row[key]
    numbers["search_seeds"] = len(choice)
    numbers |= {"replay_saved": 1 - ended / run, "replay_lost": lost, "replay_n": n_replayed}
out.numbers(numbers)
pd.Series(numbers, dtype=object).to_frame("value")

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
# Hyperparameters are the settings of a network that its training does not learn: the learning rate,
# the width, the depth. Chosen by hand, they cannot be reproduced. Here they are chosen by
# **Bayesian optimisation** with a fixed budget of short trainings. After each trial it answers one
# question:
#
# > *Given all trials so far, which setting should be tried next?*
#
# Each trial trains on images of the **train** split, keeps the weights of its best epoch on
# **valid**, and is scored by its ROC-AUC on **opt**, images that no training has seen. The test
# split takes no part, so that it remains an unbiased test of the settings chosen here (notebook
# 05).
#
# This notebook reads the trials of a finished search.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from studies import notebook

out = notebook.start(results, figures, tables, name="04_optimisation")

# %%
from studies.plots import tuning as tuning_plots
from studies.plots.words import setting_name
from studies.story import rates, search, searches
from vitdm.tuning import result

# %%
settings = out.config.tune
space, names = settings.space, list(settings.space)
folder = out.results / "tune"
everything, best = result.load_trials(folder), result.load_best(folder)
trials = everything[everything["stage"] != "again"]
minutes = best["seconds"] / 60
print(
    f"{len(trials)} trials of at most {settings.epochs} epochs, and {len(everything) - len(trials)}"
)
print(f"to choose among the best: {minutes:.1f} minutes, {settings.parallel} at once")

# %% [markdown]
# ## 4.1 The search space and its bounds
#
# * **Learning rate**, the step size of the gradient descent. If it is too low, training has not
#   converged after the given epochs; if too high, it diverges or ends in one answer for all images.
# * **Token width** $D$, the dimension of a token. A small one limits what a token can represent;
#   parameters and time grow as $D^2$.
# * **Blocks**, the depth. Few can learn only simple relations between patches; many learn slowly,
#   too slowly for few epochs.
# * **Heads** $h$, attention patterns in parallel. With few, one pattern must serve all purposes;
#   with many, each has only $D/h$ dimensions.
# * **Patch side** $p$, in pixels. Small patches make many tokens, and the time of the attention
#   grows as $p^{-4}$; large ones blur arcs, which are a few pixels wide.
#
# The learning rate is searched on a logarithmic scale, because its ratio matters. Patches must tile
# the image and the number of heads must divide the width; other combinations are never proposed.
# The bounds of the sizes are set by computing time: trainings are short, so that the search also
# runs on a laptop. It finds what is best *within a short training*. All other settings are those of
# the configuration.

# %%
# NBVAL_CHECK_OUTPUT
for name, dimension in space.items():
    print(f"{setting_name(name):18} {search.bounds(dimension)}")

# %% [markdown]
# ## 4.2 How the search decides
#
# **What is minimised** is
#
# $$
# f(\lambda) = \log_{10}\bigl(1 - \mathrm{AUC}(\lambda)\bigr),
# $$
#
# the logarithm of the fraction of pairs of lenses that are put in the wrong order. The AUC itself
# is a poor measure near 1: from 0.98 to 0.99 is a step of 0.01, as from 0.60 to 0.61, but the first
# halves the number of wrong pairs and the second hardly changes it. A trial whose loss becomes
# infinite, or that crashes, is recorded with its reason, counted as failed, and given the AUC of
# chance, 1/2.

# %% [markdown]
# **A Gaussian process** is a probability distribution over functions. The values of $f$ at any
# settings $\lambda_1, \lambda_2, \dots$ are jointly normal, with a correlation that grows as the
# settings get closer:
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
# This $k$ is the Matérn kernel with $\nu = 5/2$, for functions that can be differentiated twice.
# The length scale $\ell_d$ is how far a setting must change before $f$ does, and $\sigma_n$ is the
# noise of a trial. The lengths and $\sigma_f$ are fitted to the trials; the noise is **measured**:
# the first trials all have one setting, that of the configuration, and differ in their seeds, and
# the standard deviation of their $f$ is $\sigma_n$. Conditioned on $n$ trials with values
# $\mathbf f$, the prediction at a new $\lambda$ is again normal. With $\mathbf k$ the covariances
# of $f(\lambda)$ with the trials and $\mathbf K$ those among the trials (for a mean of zero),
#
# $$
# \mu(\lambda) = \mathbf k^{\mathsf T} \mathbf K^{-1} \mathbf f, \qquad
# s^2(\lambda) = \sigma_f^2 - \mathbf k^{\mathsf T} \mathbf K^{-1} \mathbf k .
# $$

# %% [markdown]
# **The next trial** is the setting that optimises an *acquisition function*. Three are common, with
# $f^*$ the lowest value so far, $u = (f^* - \mu)/s$, $\Phi$, $\phi$ the normal distribution and its
# density, and a constant $\kappa$:
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
# Each is a compromise between *exploitation* (where $\mu$ is low) and *exploration* (where $s$ is
# large). None is always the best, so `gp_hedge` takes a proposal from each and draws one of them
# with probabilities $\propto e^{\eta g}$, where $\eta$ is a constant and $g$ adds up the
# predictions of $-f$ for all proposals of that function so far (Brochu, Hoffman and de Freitas
# 2010, [arXiv:1009.5419](https://arxiv.org/abs/1009.5419)). The search here is scikit-optimize's
# `gp_minimize` with this setting.

# %% [markdown]
# **The order of the trials.** The first trials repeat the setting of the configuration (the
# *start*). Then comes a *design*: points spread evenly over the space. The process chooses all
# later trials. When several trials run in parallel, a point is chosen before the results of the
# others are known; the mean of the process takes the place of these results (the *kriging believer*
# of Ginsbourger, Le Riche and Carraro 2010,
# [doi:10.1007/978-3-642-10701-6_6](https://doi.org/10.1007/978-3-642-10701-6_6)).
#
# **Trials ended early.** A trial is ended early if its validation score is clearly worse than those
# of earlier trials after as many epochs: below their median by more than twice the noise of the
# start. It counts with the score that it has reached. Without this margin the rule would end good
# trials as well, which differ by less than the noise.

# %%
stages = trials["stage"].value_counts()
print(", ".join(f"{n} {tuning_plots.stage_name(stage)}" for stage, n in stages.items()))
if best["noise_sd"] is not None:
    print(f"noise of a trial: {best['noise_sd']:.3f} in f, or {10 ** best['noise_sd'] - 1:.0%} of")
    print("the fraction of pairs in the wrong order")

# %% [markdown]
# ## 4.3 The course of the search
#
# **Figure 4.1** shows each trial in its order, and the best so far as a line. The axis is $-f$,
# labelled with the ROC-AUC: equal distances are equal ratios of wrong pairs. The squares are the
# trials of the start, all with the same setting. Their scatter is noise (bar at the left: ± 1
# s.d.), and smaller differences between other points are not significant. If the points that the
# process chose (filled) lie above those of the design (open) on average, the process has learned
# something about the space; if the line is flat towards the end, more trials of this kind would
# bring little.

# %%
out.figure(tuning_plots.tune_convergence(trials, best["noise_sd"]), "tune_convergence")

# %%
kinds = trials["stage"].map(tuning_plots.stage_name).rename("chosen by")
summary = trials.groupby(kinds, sort=False)["score"]
summary.agg(["count", "min", "median", "max"]).round(4)

# %% [markdown]
# Trials ended early save time, which is estimated from the epochs that were not run. Whether the
# rule would have ended the best trial is answered in section 4.7, from searches without it.

# %%
spent, saved = best["cpu_seconds"], best["cpu_seconds_saved"]
print(f"{best['stopped']} of {best['calls']} trials ended early, {best['failed']} failed")
print(f"{spent / 60:.1f} minutes of one core spent, {saved / 60:.1f} saved")

# %% [markdown]
# **Figure 4.2** shows the settings that were tried. On the diagonal, how often each value was
# tried; below it, all pairs of settings, with dark points early and light ones late. The star is
# the best trial. Choices and whole numbers are drawn with a small random shift, so that points do
# not overlap. Late points close together are where the process expected the best values; late ones
# at the edges are exploration.

# %%
out.figure(tuning_plots.tune_evaluations(trials, space), "tune_evaluations")

# %% [markdown]
# ## 4.4 What the trials say about the settings
#
# The Gaussian process, fitted to all trials, predicts $f$ anywhere in the space. The **partial
# dependence** on a setting $\lambda_d$ is its prediction averaged over all other settings,
#
# $$
# \bar\mu_d(\lambda_d) = \frac1M \sum_{m=1}^{M} \mu\bigl(\lambda_d, \lambda^{(m)}_{\neq d}\bigr),
# $$
#
# with random $\lambda^{(m)}$. In **figure 4.3** the diagonal shows this average for one setting,
# all panels on one scale (the dashed line is the best trial); below, for two at a time, with the
# trials as dots and the best as a star. A steep curve means that the setting matters. A flat one
# means that the setting does not matter, *or that the few trials do not show it*: the curve is
# computed from a fitted model, and averages over settings that are far from good ones. The best
# trial may lie where the average is poor.

# %%
process = result.load_result(folder, out.config)
dependence = search.dependences(process, names, out.config.seed)
grids = search.grids(process)
out.figure(tuning_plots.tune_objective(dependence, grids, trials, space), "tune_objective")

# %% [markdown]
# The *spread* of a curve, the difference of its highest and its lowest $f$, ranks the settings. A
# spread of 0.3 is a factor of $10^{0.3} = 2$ in the fraction of pairs in the wrong order. It
# depends on the bounds of the space: with wider ones every spread grows.

# %%
spread = search.spreads(dependence)
spread.rename(setting_name).round(3).to_frame("spread of f")

# %% [markdown]
# **Try it.** The process predicts the score of any settings, tried or not, with an error. Change a
# setting within its bounds (section 4.1) and run the cell again. Far from all trials the prediction
# returns to the mean, and its error grows.

# %%
# Try it: settings of your own; what is not named is as in the best trial.
my_settings = best["params"] | {"learning_rate": 1e-3}
my_point = process.space.transform([[my_settings[name] for name in names]])
(my_f,), (my_error,) = process.models[-1].predict(my_point, return_std=True)
low, high = (1 - 10 ** (my_f + sign * my_error) for sign in (1, -1))
print({name: my_settings[name] for name in names})
print(f"f = {my_f:.2f} ± {my_error:.2f}: a ROC-AUC from {low:.3f} to {high:.3f}")

# %% [markdown]
# ### The learning rate
#
# **Figure 4.4** shows all trials by their learning rate; no model is fitted. Crosses are trials
# that failed, or whose ROC-AUC stayed below the dotted line, close to chance. The colour shows a
# second setting, which may explain why a trial is poor.

# %%
by_rate = trials
if "learning_rate" not in trials:
    print("The learning rate was not searched: all trials share that of the configuration.")
    by_rate = trials.assign(learning_rate=out.config.train.learning_rate)
colour = search.beside_rate(names)
out.figure(tuning_plots.tune_learning_rate(by_rate, colour, space[colour]), "tune_learning_rate")
below = search.collapsed(trials)
print(f"{best['failed']} of {len(trials)} trials failed, {below} more ended below the line.")

# %% [markdown]
# ## 4.5 The best trial, and how much of its score is chance
#
# The score of a trial is a noisy measurement, and **the maximum of $N$ noisy scores is biased
# high**: the noise of the best trial is likely to be favourable. If all $N$ settings were equally
# good, the best would on average exceed the truth by
#
# $$
# \Delta \approx \sigma_n\,\Phi^{-1}\!\left(\frac{N - 3/8}{N + 1/4}\right)
# $$
#
# (Blom 1958, *Statistical Estimates and Transformed Beta-Variables*, Wiley), two standard
# deviations for thirty trials. Therefore the best trials, and the start, are **trained anew with
# new seeds**, the same for all, and the one with the highest mean minus its error is chosen. Since
# the start is among them, a trial must be better than the configuration to replace it.
#
# In **figure 4.5** triangles are the scores of the search, dots those of the new seeds, bars their
# means with errors. All are scored on the images of `opt` on which these trials were found. A
# setting may suit these images by chance, which new seeds do not remove. The article's score
# therefore comes from other images.

# %%
out.figure(tuning_plots.tune_again(best["candidates"], best["params"]), "tune_again")

# %%
again = search.candidates(best)
bias = search.found_too_good(again)
print(f"the ROC-AUC of the best trials is {bias:+.4f} too high in the search, on average")
again[["setting", "found", "mean", "error", "chosen"]].round(4)

# %%
table = search.settings_table(best, space)
out.table(table, "tune_best")
print(table.to_string(index=False))

# %% [markdown]
# ### What did tuning bring?
#
# The *precursor*, the earlier public project that this work continues, reports that Bayesian
# optimisation raised its ROC-AUC from 0.85 to 0.91. In its published log, on equal terms, the start
# has 0.9005 and the best trial 0.9135, and five trials with nearly the same settings scatter by
# 0.0049. So at most 0.013 of the reported gain of 0.06 is due to tuning.
#
# To measure the gain in this work, start and chosen setting are trained in the same way (as the
# final models, on all development images, with the same seeds) and compared **on lenses that no
# training and no search has seen**, simulated for this purpose. The interval covers images and
# seeds.

# %%
precursor = {
    "precursor_gain_claimed": 0.91 - 0.85,
    "precursor_gain_equal": 0.9135 - 0.9005,  # on equal terms
    "precursor_scatter": 0.0049,
    "precursor_rate": 1e-4,  # the highest at which it trained, as its proposal states
}
claimed, equal = precursor["precursor_gain_claimed"], precursor["precursor_gain_equal"]
print(f"gain of the precursor: reported {claimed:+.3f}, on equal terms {equal:+.3f}")

# %%
gain = search.against_start(folder)
if gain:
    print(f"start {gain['against_auc']:.4f}, chosen {gain['auc']:.4f} on {gain['n_images']} lenses")
    print(f"gain {gain['gain']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})")
    clear = gain["low"] > 0 or gain["high"] < 0
    print("The interval excludes zero." if clear else "It includes zero: no gain is shown.")
else:
    print("There are no such lenses with this configuration.")

# %% [markdown]
# ## 4.6 Which learning rates train, and what changes their limit
#
# The proposal of the precursor states that its transformer trained only at learning rates between
# 1e-6 and 1e-4; above, trials collapsed, that is they stayed at chance. The grid below trains a
# transformer that sees the image and the residual of the fitted lens, without any feature, at
# learning rates over four decades: with the training of this work (its *recipe*), and with one part
# of the recipe changed or left out:
#
# * **warm-up**: the rate rises over the first steps, in which gradients are large and erratic;
# * **clipping**: a gradient longer than 1 is shortened;
# * **pre-norm**: the layer normalisation stands before attention and MLP, so that tokens, to which
#   each block adds, pass all blocks without any norm (*post-norm* normalises after each sum; Xiong
#   et al. 2020, [arXiv:2002.04745](https://arxiv.org/abs/2002.04745));
# * **one softmax**: the loss takes the softmax of its input. In the precursor this input was
#   already a softmax.
#
# In **figure 4.6** each panel shows one of these changes (orange) beside the recipe of this work
# (grey). Dots are trainings, lines medians, crosses failures.

# %%
of_rates = {}
grid = rates.rate_trials(out.config, out.results)
if grid is None:
    print("No grid of learning rates was made with this configuration.")
else:
    out.figure(tuning_plots.tune_rates(grid, rates.recipe_labels(grid)), "tune_rates")
    of_rates = rates.rates_numbers(grid)
    print(rates.rates_table(grid).round(3).to_string())

# %% [markdown]
# ## 4.7 Is the Gaussian process worth it?
#
# Random search is simpler, and often nearly as good (Bergstra and Bengio 2012, JMLR 13, 281). Both
# get the same start, the same design and the same number of trials of the same network with few
# training images, and each is repeated with other seeds. **Figure 4.7** shows the best score so
# far: the mean over the searches with its standard error. The maximum of noisy scores is biased
# high for all kinds of search.

# %%
searched = searches.search_trials(out.config, out.results)
if searched is None:
    print("No searches were compared with this configuration.")
else:
    arms, calls = searches.arm_labels(searched), searches.calls_of(searched)
    out.figure(tuning_plots.tune_searches(calls, arms), "tune_searches")

# %% [markdown]
# **The table** does not have this bias: it has the setting that each search chose, trained anew
# with new seeds (mean over the searches, standard error, difference from random points). A third
# kind of search runs two trials at once and shows what this costs. In these searches all trials ran
# to their end. Replaying them with the rule for early ends shows how much time the rule would have
# saved, and how often it would have ended the best trial.

# %%
of_searches = {}
if searched is not None:
    choice = searches.choices(searched, names)
    table = searches.searches_table(searched, choice)
    labelled = table.rename(index=arms)
    out.table(labelled.rename_axis("search").reset_index(), "tune_searches")
    print(labelled.round(4).to_string())
    rule = searches.replayed(searched, names, settings.patience)
    print(f"the rule, replayed: {rule['saved']:.0%} of the epochs saved, and in {rule['lost']} of")
    print(f"{rule['n']} searches the best trial would have ended early")
    of_searches = searches.searches_numbers(table, choice, rule)

# %% [markdown]
# ## 4.8 What the search leaves open
#
# * *valid* against *opt*: Spearman's rank correlation of the trials' scores on the two splits shows
#   how reliable their order is: at 1 it does not depend on the images, at 0 it is noise.
# * *the runners-up*: if other settings are as good, the settings do not matter much.

# %%
ok = trials[trials["status"] == "ok"]
if len(ok) > 2:
    agreement = ok["valid_roc_auc"].corr(ok["score"], method="spearman")
    print(f"rank correlation of valid and opt over the trials: {agreement:.2f}")
if best["params"] == best["start"]:
    print("No trial beat the start: the final models are trained with the configuration itself.")
else:
    print("The final models are trained with the settings of the chosen trial.")
trials.nlargest(5, "score")[[*names, "score", "valid_roc_auc"]].round(4)

# %% [markdown]
# The ROC-AUC of a trial is **not** the result of this work: it was used for a choice, and comes
# from a short training. The final models are trained anew on train and opt; notebook 05 tests them
# on images that no choice has used.
#
# ## 4.9 Numbers for the article
#
# The article takes these values, unrounded, by their names.

# %%
out.numbers(
    search.search_numbers(best, trials, again),
    {"most_sensitive": spread.index[0], "least_sensitive": spread.index[-1]},
    *(search.gain_numbers(gain), precursor, of_rates, of_searches),
)

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
# # 3. The model
#
# A Vision Transformer (ViT, Dosovitskiy et al. 2021) treats an image as a set of patches that
# exchange information. It has no built-in notion of neighbourhood or scale: it has to learn both
# from the images, and usually needs millions of them. Lee, Lee and Song (2021,
# [arXiv:2112.13492](https://arxiv.org/abs/2112.13492)) proposed two changes for small data sets:
# **Shifted Patch Tokenization** (SPT) and **Locality Self-Attention** (LSA). Both can be switched
# on and off in `vitdm/model/vit.py`, so that the effect of each can be measured by itself.
#
# All networks here were trained on the **train** split, stopped by the score on **valid**, and are
# compared on **opt**. The test split is not used. The notebook trains nothing; it reads finished
# runs.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from studies import notebook

out = notebook.start(results, figures, tables, name="03_model")

# %%
import numpy as np
import pandas as pd
from IPython.display import display

from studies.plots.comparison import comparison as draw_comparison
from studies.plots.diagrams import Head, pipeline, spt_lsa
from studies.plots.efficiency import data_efficiency, shortcut_loss, shortcut_table
from studies.plots.maps import maps as draw_maps
from studies.plots.model import attention, position_similarity, training_history
from studies.plots.model import runs as draw_runs
from studies.plots.posterior import posterior as draw_posterior
from studies.plots.where import where as draw_where
from studies.plots.words import setting_name
from studies.story import comparison, efficiency, model, rivals, runs
from studies.story import maps as map_story
from studies.story import posterior as posterior_story
from studies.story import where as where_story
from vitdm.data import dataset
from vitdm.evaluation import metrics
from vitdm.model.runs import load_run

# %%
settings = out.config
data = dataset.Dataset.open(out.results / "processed")
labels, classes = data.labels(settings.task)
side = data.images.shape[-1]
opt = data.rows("opt")
shown = [opt[labels[opt] == k][0] for k in range(len(classes))]
examples = np.array(data.images[shown], dtype=np.float32)
print(f"{side} x {side} pixels, classes: {', '.join(classes)}")

# %% [markdown]
# ## 3.1 From pixels to tokens
#
# The image $\mathbf x$ of $H \times W$ pixels and $C$ channels ($C = 1$, the stretched
# brightness; 3 with the map of section 3.3) is cut into $N = HW/p^2$ square patches of side $p$.
# Each is written as a vector of $C p^2$ numbers and mapped, by one and the same linear map, to a
# **token**: a vector of $D$ numbers that the network can work with. Since the map is the same
# everywhere, a learnt position vector is added to each token, or the network could not tell where a
# patch lies. One more token, the **class token**, comes from no patch. It is where the answer is
# collected.

# %% [markdown]
# ### Shifted Patch Tokenization
#
# A lensed arc does not follow the grid of patches: its edge may run along the border of two
# patches, and then no token contains it. With SPT each token also contains pixels beyond its patch.
# The image is first joined, on the channel axis, by four copies of itself, $\mathbf s^1 \dots
# \mathbf s^4$, moved by half a patch in the four diagonal directions (zeros fill up where the image
# ends):
#
# $$
# \mathrm{SPT}(\mathbf x) = \mathrm{LN}\bigl(\mathcal P\,[\mathbf x,\ \mathbf s^1,\ \mathbf s^2,\
# \mathbf s^3,\ \mathbf s^4]\bigr)\,\mathbf E, \qquad
# \mathbf E \in \mathbb R^{5 C p^2 \times D}.
# $$
#
# $\mathcal P$ cuts and flattens the patches, LN is the layer normalisation (each vector of $5Cp^2$
# numbers gets mean 0 and variance 1, then a learnt scale and offset), $\mathbf E$ is the linear
# map. A token now sees $2p \times 2p$ pixels instead of $p \times p$, its own patch fourfold
# overlapped by pieces of its neighbours. The cost is a five times larger $\mathbf E$; the number of
# tokens stays the same.
#
# Some implementations shift by one pixel, along the axes; here the shifts are those of the paper.
#
# Figure 3.1 shows the shifts, together with the attention of section 3.2.

# %%
patch_size = settings.model.patch_size
n = side // patch_size

# %%
# NBVAL_CHECK_OUTPUT
print(f"{n} x {n} patches of {patch_size} x {patch_size} pixels: {n * n} tokens")
print(f"numbers a token: {patch_size**2} plain, {5 * patch_size**2} with SPT")

# %% [markdown]
# ## 3.2 Attention
#
# In each block the tokens $\mathbf z \in \mathbb R^{(N+1) \times D}$ exchange information. Every
# token $i$ has a query $\mathbf q_i$, every token $j$ a key $\mathbf k_j$ and a value $\mathbf
# v_j$, all three linear maps of the token to $d = D/h$ numbers. Token $i$ receives the mean of all
# values, weighted by how well each key matches its query:
#
# $$
# \mathbf z_i' = \sum_j A_{ij}\,\mathbf v_j, \qquad
# A_{ij} = \frac{\exp(\mathbf q_i \cdot \mathbf k_j / \tau)}
#               {\sum_l \exp(\mathbf q_i \cdot \mathbf k_l / \tau)}, \qquad \tau = \sqrt d .
# $$
#
# In the language of physics, the $A_{ij}$ are Boltzmann weights of the energies $-\mathbf q_i \cdot
# \mathbf k_j$ at the temperature $\tau$: at high temperature all tokens have equal weight, at low
# temperature only the best match counts. This happens $h$ times side by side with different maps
# (the **heads**), so that one head can follow the ring while another compares opposite sides. A
# small two-layer network (MLP) then acts on each token by itself. Both steps add to the token
# instead of replacing it, and each starts from normalised tokens (pre-norm). After the last block
# the class token is mapped to one number for each class (its logit), and the softmax makes
# probabilities of them.

# %% [markdown]
# ### Locality Self-Attention
#
# Two effects keep attention diffuse when images are few. A token resembles itself, so $A_{ii}$
# tends to be large and little weight is left for the others; and the temperature $\sqrt d$ is not
# adapted to the data. LSA addresses both: the diagonal is masked, and the temperature is learnt,
# with one inverse temperature $s$ for each head of each block, which starts at $d^{-1/2}$. With the
# queries and keys as rows of $\mathbf Q$ and $\mathbf K$,
#
# $$
# A = \mathrm{softmax}\bigl(s\,\mathbf Q \mathbf K^{\mathsf T} + \mathbf M\bigr), \qquad
# M_{ij} = \begin{cases} -\infty & i = j \\ 0 & i \ne j \end{cases}, \qquad s = 1/\tau .
# $$
#
# The class token is masked like any other.

# %% [markdown]
# **Figure 3.1** shows both ideas in a trained model, for a lens of the **opt** split. The lens has
# a clear signal: if lenses are fitted, it is at the 90th percentile of the residuals of those with
# substructure. (a) The box is the brightest patch; the dashed box encloses all pixels of the
# original image that its token sees. Around the image are its four shifts, with the box at the same
# place: the pixels in the five boxes make up *one* token. (b) The attention of one head of the
# first block: the head in which tokens have the largest weight on themselves. A row of a matrix is
# a query, a column a key. Above is the attention that the same queries and keys would give without
# LSA, below with it: the diagonal is gone, and the learnt temperature makes the rest sharper if it
# is below $\sqrt d$, more even if above. On the right, the temperature of each head.

# %%
row = shown[-1]
if "lensfit" in settings.features.groups:
    row = model.row_at_rank(out.results, opt[labels[opt] > 0], 0.9)
name = "spt_lsa_features" if "spt_lsa_features" in settings.runs else list(settings.runs)[-1]
lens = model.lens_with_scores(row, name, classes, settings, out.results)

# %%
loaded = {name: load_run(out.results / "runs" / f"{name}_seed0") for name in settings.runs}
of_images = model.images_alone(loaded)
network = model.network_with_both(of_images, settings, side, len(classes))
patch = model.brightest_patch(lens.square, network.settings.patch_size)
stack, values, tokens = model.shifted_tokens(network, lens.square, patch)
similarity, plain, local = model.first_attention(network, tokens)
head = int(plain.diagonal(dim1=1, dim2=2).mean(dim=1).argmax())
matrices = [part[head].numpy() for part in (similarity, plain, local)]
temperatures = model.temperatures(network)
drawn = Head(*matrices, temperature=temperatures[0, head])
parts = (stack.numpy(), patch, values.numpy(), tokens[0].numpy())
has_class = network.settings.pool == "cls"
out.figure(spt_lsa(*parts, drawn, temperatures, has_class), "spt_lsa")

# %% [markdown]
# ### The attention of the class token
#
# **Figure 3.2** shows, for one image of each class (rows), the attention that the class token pays
# to the patches in the last block, where the answer is collected. One column is one head. Each map
# has one value a patch, laid over the extent of the image; the thin contour is the lensed light.
# The unit is uniform attention, $1/N$: a patch at 1 gets the weight of a uniform distribution.
#
# The colour bar spans the range that occurs: where it is close to 1 everywhere, the head is nearly
# uniform, whatever the pattern looks like. Such maps mean little, and so do those of a network that
# scores like chance (section 3.5). Maps show where a head attends, not which information it takes
# from there, nor what earlier blocks have mixed into a token.

# %%
plain = [name for name, run in of_images.items() if not run.settings.model.features]
pair = [name for name in ("spt", "spt_lsa") if name in of_images]
looked_at = pair or (plain or list(of_images))[-1:]
run_labels = {name: settings.runs[name].label for name in loaded}
maps = {run_labels[name]: model.attention_to_patches(loaded[name], examples) for name in looked_at}
out.figure(attention(examples, classes, maps), "attention")
print("drawn:", ", ".join(maps), "(at most four heads each)")
if settings.model.pool == "mean":
    print("pool is 'mean', there is no class token: the mean over all tokens is drawn instead.")

# %% [markdown]
# The table has the same in numbers, over all blocks and heads:
#
# * *weight on itself*: the mean and the largest $A_{ii}$ of any token of these images. With LSA it
#   is **exactly 0**, not merely small: $e^{-\infty} = 0$.
# * *tokens heard*: $\exp(-\sum_j A_{ij} \ln A_{ij})$, averaged over the tokens, the effective
#   number of tokens attended to. Small means sharp.
# * *inverse temperature*: the learnt $s \sqrt d$, range over heads and blocks; 1 is where it
#   started, and where it stays without LSA.

# %%
inside = model.attention_table(of_images, run_labels, examples)
print("weight on itself with LSA:", inside.loc[inside["LSA"], "largest"].max())
inside.round(4)

# %% [markdown]
# **Try it.** Attention does not show what the answer depends on. Hiding a patch does: its pixels
# are set to the level of the sky, and each network that sees the image alone computes the
# probabilities of the classes again. Change the lens or the patch and run the cell again. Is the
# change larger for a piece of the arc than for a piece of the sky?

# %%
# Try it: which lens, and which patch (row and column, from the lower left corner) is hidden.
my_lens, my_patch = 1, (n // 2, n // 2)
my_rows, my_columns = (slice(k * patch_size, (k + 1) * patch_size) for k in my_patch)
hidden = examples[my_lens].copy()
hidden[my_rows, my_columns] = 0  # the sky
for my_run in plain:
    both = loaded[my_run].predict(np.stack([examples[my_lens], hidden]))
    print(run_labels[my_run])
    display(pd.DataFrame(both, ["as it is", "hidden"], classes).round(3))

# %% [markdown]
# ### The learnt positions
#
# Each patch's token has a learnt vector for its position. At the start these vectors are random and
# small, and not similar to one another. If the model uses the neighbourhood, the vectors of patches
# that are near each other, or in the same row or column, become similar.
#
# **Figure 3.3** has one small map for each patch, at the place of the patch: the cosine similarity
# of its position vector to those of all patches (itself, 1 by definition, is grey), as in Fig. 7 of
# Dosovitskiy et al. (2021). Random vectors of $D$ numbers have similarities that scatter by
# $D^{-1/2}$ around 0: similarities within this scatter mean nothing. With few images and short
# trainings most of them are.

# %%
alike = {run_labels[name]: model.position_similarity(loaded[name], side) for name in looked_at}
out.figure(position_similarity(alike), "positions")
for label, similarity in alike.items():
    near, far = model.similarity_by_distance(similarity)
    print(
        f"{label}: mean similarity of neighbours {near:+.3f}, of patches farther apart {far:+.3f}"
    )
width = settings.model.embed_dim
print(f"scatter of random vectors of {width} numbers: {width**-0.5:.3f}")

# %% [markdown]
# ## 3.3 Joining the physics features
#
# The features of notebook 01 can be given to the network as well: those kept by the rule of
# notebook 02 (`feature_set: selected`), one group (`proposal`, the simple features of the image
# that were planned for the earlier project which this work continues; `lensfit`, those of the
# fitted lens), or all. Each is encoded in two ways, by the quantiles of the training images. It is
# standardised by the median and the central 68 %, with an arcsinh that compresses the tails,
# because features of the residual span orders of magnitude. And it is given as its place among
# eight bins, similar to the splits of decision trees (Gorishniy, Rubachev and Babenko 2022,
# [arXiv:2203.05556](https://arxiv.org/abs/2203.05556)). A missing value is marked by an indicator.
# A hidden layer maps both to $D$ numbers, and these are appended to the class token before the last
# linear map (`join: head`). They do not act on the patches. With `join: token` they are a further
# token instead, and every patch can attend to it.

# %% [markdown]
# The fit of a smooth lens (notebook 01) also gives a *map* of the residual. It can join the image
# (`residual`) in two more channels, so that the network can use what the features do not measure:
# $\operatorname{arcsinh} r$ of the residual $r$ in units of the noise, and $\ln(1 + s^2)$, with $s$
# the sum of $r$ over 3 × 3 pixels in units of its own noise. The second is a local $\chi^2$, which
# the network cannot form by itself at its input, because a patch enters through a linear map, which
# has no squares.

# %% [markdown]
# ### The whole pipeline
#
# **Figure 3.4** follows one lens of the **opt** split, that of figure 3.1, through the whole
# pipeline. Blue: the region of interest is found (white), a square is cut (dashed) and stretched
# (notebook 01), and the Vision Transformer makes tokens of its patches (sections 3.1 and 3.2).
# Orange: a smooth lens is fitted to the image, and features are measured on the image and on the
# residual (notebook 01); those that are kept (notebook 02) join the class token. The bars are the
# probabilities that a trained network of this notebook gives to the classes. Green: the search for
# hyperparameters of notebook 04.
#
# The table in the figure shows which split each stage uses. Each column is a stage, in order, each
# row a split. The lower a row, the later its images are used, and the more independent a score on
# them is: the test images are used once, in notebook 05.

# %%
n_features = model.feature_counts(settings, out.results)
lines = ["physics features", f"{n_features['image']} of the image"]
lines += [f"{n_features['fit']} of the fit"] * bool(n_features["fit"])
lines += [f"{n_features['joined']} joined"]
searched = [setting_name(key).partition(" [")[0] for key in settings.tune.space]
counts = data.catalog["split"].value_counts()
out.figure(pipeline(lens, lines, settings.model, searched, counts), "pipeline")
print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in lens.scores.items()))

# %% [markdown]
# ## 3.4 Training
#
# The loss is the cross-entropy of the classes with label smoothing $\epsilon$: the target is $1 -
# \epsilon + \epsilon/K$ for the true one of the $K$ classes and $\epsilon/K$ for the others, which
# limits the confidence in images that are already classified correctly. The optimiser is AdamW; the
# learning rate rises linearly, then falls to zero along a cosine; if `flips` is on, images are
# mirrored at random. A mirrored lens is as likely as the original. Only in a population whose halo
# and source have a fixed orientation, as in DeepLense's Model I, mirrored images lie slightly
# outside the distribution. These are the settings of model and training:

# %%
# NBVAL_CHECK_OUTPUT
for section in (settings.model, settings.train):
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        print(f"{key:16} {value!s:8} {field.description or ''}".rstrip())

# %% [markdown]
# A *run* is a network with one choice of the switches, trained once for each seed. **Figure 3.5**
# shows all runs, one colour a run and one line a seed: (a) the mean loss of the training images in
# each epoch, (b) the ROC-AUC on the validation images after it. The dot is the epoch with the best
# validation score, whose weights are kept. A loss that keeps falling while the validation score
# stays constant is over-fitting; a plateau at the start, with a score near 1/2, is the time before
# the network has learned anything.

# %%
trained = runs.trained_runs(settings, out.results)
out.figure(training_history(runs.histories(settings, out.results)), "training_history")

# %% [markdown]
# ## 3.5 Comparison of the runs
#
# All runs share the images, the settings of the training and the seeds; they differ in the switches
# only. The score is the ROC-AUC of any substructure against none on the **opt** images.
#
# **Figure 3.6** has one row a run, a point for each seed and a bar at their mean. Points within a
# row differ only in the random numbers of the training.

# %%
out.figure(draw_runs(trained), "runs")

# %% [markdown]
# The standard deviation `sd` is taken over the seeds (empty with one seed). `seconds` is the mean
# time of a training on the machine that did it, `parameters` counts the numbers that are learnt.

# %%
table = runs.run_table(trained, loaded)
out.table(table, "runs")
table.round({"roc_auc": 4, "sd": 4, "seconds": 1})

# %% [markdown]
# ### Differences and their errors
#
# Two runs are compared by the difference $\Delta$ of their ROC-AUC, averaged over $S$ seeds, pair
# by pair, as in notebook 02, section 2.6. Its variance is $\sigma^2 = \sigma_\text{images}^2 +
# \mathrm{var}_k(\Delta_k) / S$.
#
# $\sigma_\text{images}$ says how much $\Delta$ depends on *which images* happen to be in `opt`: the
# standard deviation of $\Delta$ when these images are drawn anew with replacement, each class to
# its own number (paired bootstrap: both runs and all seeds use the same draw, so that the effect of
# images that are hard for all of them cancels). The second term says how much it depends on the
# *random numbers* of the training; each resampling draws the seeds anew as well. With a single seed
# this term is unknown, and the error below is too small.
#
# A difference is called "beyond twice its error" if $|\Delta| > 2\sigma$. Where the second term
# dominates, chance alone does this in three comparisons of ten with two seeds, in two of ten with
# three, and in one of twenty with many. A difference just beyond twice its error is a hint, not
# evidence; the same holds for a single such difference among several comparisons.

# %%
pairs = {
    "spt": ("plain", "spt"),
    "lsa": ("plain", "lsa"),
    "spt_lsa": ("plain", "spt_lsa"),
    "features": ("spt_lsa", "spt_lsa_features"),
    "lensfit": ("spt_lsa", "spt_lsa_lensfit"),
    "residual": ("spt_lsa", "spt_lsa_residual"),
}
differences, gains = runs.differences(pairs, loaded, settings, out.results), {}
for key, (without, with_) in pairs.items():
    if key not in differences:
        print(f"{with_} against {without}: not among the runs of this configuration")

# %%
for key, difference in differences.items():
    gains |= {f"gain_{key}": difference.value, f"gain_{key}_sd": difference.sd}
    verdict = "beyond" if difference.beyond_error else "not beyond"
    without, with_ = pairs[key]
    value = f"{difference.value:+.4f} ± {difference.sd:.4f}"
    print(f"{run_labels[with_]} against {run_labels[without]}: {value}, {verdict} twice its error")
if settings.run_seeds == 1 and differences:
    print("One seed only: the scatter between trainings is unknown and not in these errors.")

# %% [markdown]
# These results are limited in three ways. Networks that stay at chance cannot show what SPT and LSA
# are worth; section 3.7 compares them where images alone suffice. The published gains of SPT and
# LSA were measured on photographs of many classes; lensed arcs are smooth, few and always in the
# middle, so the gains need not carry over. And all runs share one learning rate and one number of
# epochs, which is a disadvantage for a network that would need another rate. Section 3.7 chooses
# the rate for each network.

# %% [markdown]
# ## 3.6 Score against the number of training images
#
# Images of real lenses are few, so it matters how many a model needs. Each curve below is one kind
# of input to the same network, trained on more and more images of lenses that were simulated for
# this comparison: the image; with the proposal's features; with the residual of the smooth lens, as
# a map or as features; with all of them. Beside the networks are gradient-boosted trees on the
# features only, and single untrained numbers of the fit. Each training makes at least `min_steps`
# steps.
#
# **Figure 3.7**, a column a population, any substructure against none above, the mean over the
# classes below: points are means over the seeds, bands reach from the lowest seed to the highest.
# (Each seed draws other images, except at the largest number, which is all of them.) The vertical
# axis is logarithmic in 1 − AUC, the probability that a pair of lenses is put in the wrong order,
# and ends at 0.9999. If the results of the larger grid (`config/extended.yaml`) are there, they are
# drawn, and open marks are the means of this run. Stars are published results on Model I, open if
# the network was trained from scratch.

# %%
(curves, other), of_curves = efficiency.efficiency_curves(settings, out.results), {}
published = pd.read_csv("paper/published.csv")
if len(curves):
    model_labels = efficiency.model_labels(curves)
    several = efficiency.with_several_sizes(curves)
    figure = data_efficiency(several, model_labels, other, published)
    out.figure(figure, "data_efficiency")

# %%
if len(curves):
    scores = efficiency.efficiency_table(curves)
    out.table(scores, "data_efficiency")
    of_curves |= efficiency.efficiency_numbers(curves, scores)
    of_curves |= efficiency.numbers_of_this_run(curves if other is None else other)
    of_curves |= {"efficiency_extended": other is not None}
    of_curves |= {"published_scratch_macro": efficiency.published_from_scratch(published)}
    display(scores.round(4))

# %% [markdown]
# ### Does the network add to the trees?
#
# Gradient boosting sees the features only; the network sees them too, and image and residual map
# besides. If image and map contain more than the features, trees and network together should be
# better than the trees alone. Below, on the same **opt** images, is the ROC-AUC of the trees (all
# features, notebook 02), of the network that sees everything, and of the mean of their log-odds,
# with the difference to the trees and its error as in section 3.5.

# %%
together = {}
if "spt_lsa_all" in loaded:
    networks = runs.predictions_of("spt_lsa_all", settings, out.results)
    trees = runs.trees_as_tables(networks, out.results)
    both = runs.mean_of_log_odds(trees, networks)
    for name, tables in {"trees": trees, "network": networks, "together": both}.items():
        together[f"{name}_opt_auc"] = runs.mean_auc(tables)
        print(f"{name:9} {together[f'{name}_opt_auc']:.4f}")
    difference = metrics.paired_difference(
        trees, both, settings.evaluation.bootstrap, settings.seed
    )
    together |= {"gain_together": difference.value, "gain_together_sd": difference.sd}
    print(f"together over trees alone: {difference.value:+.4f} ± {difference.sd:.4f}")
    together |= runs.trees_numbers(out.results)

# %% [markdown]
# ### The loss of each model without the shortcut
#
# In Model I substructure is put on top of a halo that is the same in every image, so that the
# Einstein radius alone separates the classes (notebook 01, section 1.8). `model_i_sizes` is Model I
# with halos of many sizes, from which the mean mass of the substructure is taken out: the radius is
# uninformative there, all else is as in Model I. Models trained on Model I are scored on both.
#
# **Figure 3.8**: filled, scored on Model I; open, the same models scored where the size is
# uninformative; crosses, models trained there. The difference between filled and open is due to the
# size of the ring. The difference between open and cross is what the models could have learned from
# the substructure.

# %%
of_loss = {}
if {"model_i", "model_i_sizes"} <= set(curves.get("population", [])):
    loss = shortcut_table(curves, "model_i", "model_i_sizes")
    loss = loss.dropna(subset="roc_auc_there")  # what was scored on both
    out.figure(shortcut_loss(loss, model_labels), "shortcut_loss")
    of_loss = efficiency.shortcut_numbers(loss)
    out.table(loss.assign(label=loss["model"].map(model_labels)), "shortcut_loss")
    display(loss.round(4))

# %% [markdown]
# ## 3.7 Models on equal terms
#
# The runs of section 3.5 share the settings of the training and differ in their cost. Here each
# model gets the same: the same images of Model I, from which images alone can learn the three
# classes; the same number of learning rates to try, scored on images set aside for that; a number
# of epochs that makes the trainings cost about the same time of one core (a faster model sees the
# images more often); and the same number of seeds. A `stem` puts convolutions before the patches,
# so that neighbouring pixels are combined before there are tokens; with a linear head in place of
# the transformer it is a small ResNet. One row has SPT and LSA as the widespread library
# vit-pytorch implements them: shifts of one pixel along the axes, one temperature for all heads.
#
# **Figure 3.9**: (left) the mean of the ROC-AUCs of the three classes on images that were used
# neither for training nor for the choice of the rate, a point a seed; (right) the same on the
# images used for that choice, against the cost of the training up to then. **The table** has the
# differences, pair by pair on the same images and seeds, with 95 % intervals that cover images and
# seeds, as in section 3.5.

# %%
fair, equal_terms = comparison.comparison_folder(settings, out.results), {}
if fair:
    trials = pd.read_csv(fair / "comparison.csv")
    epochs = pd.read_csv(fair / "comparison_history.csv")
    out.figure(draw_comparison(trials, epochs), "comparison")
    fair_differences = pd.read_csv(fair / "comparison_gains.csv")
    means = comparison.comparison_table(trials, fair_differences)
    out.table(means, "comparison")
    display(means.round(4))
    equal_terms = comparison.comparison_numbers(means, fair_differences)

# %% [markdown]
# ## 3.8 The DeepLense benchmark, repaired
#
# The benchmark (`docs/benchmark.md`) has Models I to III of the DeepLense project as published, and
# *repaired*: with noise, halos of many sizes, from whose mass that of the substructure is taken
# out, vortices at any place, and sources drawn for each lens. Any model can be added to this table
# with one function. **The table** has small models trained here, means over their seeds with 95 %
# intervals over images and seeds, beside the score of the true Einstein radius alone.

# %%
benchmark, of_benchmark = rivals.benchmark_table(settings, out.results), {}
if benchmark is not None:
    out.table(benchmark, "benchmark")
    display(benchmark.round(4))
    of_benchmark = rivals.benchmark_numbers(benchmark)

# %% [markdown]
# ## 3.9 Maps of perturbers as images
#
# Trees use the numbers of a lens fit. A network can use its residual in the form of *maps*, all on
# one grid: at each place the signal-to-noise ratio (S/N) that a point mass, a clump or a string (a
# straight line of mass) would have there; the smallest mass that could be seen; and the residual.
# In the populations `realistic` and `hubble` many small subhalos perturb a lens, and none of them
# stands out, so that the sum over the map matters. The transformer sees small patches of these
# maps; a small convolutional network (CNN) sees the same maps; gradient boosting sees all features,
# and the maps summarised by peaks, quantiles, moments and power spectra. The evidence of a point
# mass needs no training. All are trained on the same lenses, with learning rates chosen on others.
#
# **Figure 3.10**: (left) the ROC-AUC on lenses that were used for nothing else, with 95 % intervals
# (networks blue, trees green, untrained grey), and the bound of an ideal observer who knows the
# perturbation (red); (right) against the number of training lenses. **The table** has the
# differences, pair by pair, and whether the best learning rate lay at the end of those tried
# (`at_end`).

# %%
mapped, of_maps = map_story.maps_folder(settings, out.results), {}
if mapped:
    map_scores = pd.read_csv(mapped / "maps.csv")
    map_gains = pd.read_csv(mapped / "maps_gains.csv")
    out.figure(draw_maps(map_scores), "maps")
    map_table = map_story.maps_table(map_scores, map_gains)
    out.table(map_table, "maps")
    display(map_table.round(4))
    of_maps = map_story.maps_numbers(map_scores, map_gains)

# %% [markdown]
# ## 3.10 How much is in subhalos
#
# A score says whether there are subhalos. The nature of dark matter shows in the fraction of the
# mass that is in them. A network on the same maps learns the *posterior* of the fraction
# $f_\mathrm{sub}$ and of the mass of the heaviest subhalo, for the prior of the population: its
# outputs are the weights, means and covariances of Gaussians, cut at the bounds of the prior, and
# its training maximises the log density at the true values of the training lenses (neural posterior
# estimation). If lenses share one $f_\mathrm{sub}$, the posterior of each, divided by the prior, is
# a likelihood, and the product of these likelihoods combines many lenses. Groups are lenses of
# nearly the same $f_\mathrm{sub}$.
#
# **Figure 3.11**: (left) posterior mean against truth, of single lenses and of the largest groups;
# (middle) the share of lenses whose truth has at most some rank in its posterior, less that rank
# (TARP: of both properties together, Lemos et al. 2023): curves in the grey band are calibrated;
# (right) posterior standard deviation by the number of lenses. **The table** has the standard
# deviation (sigma), bias and coverage, for all lenses and for those with $f_\mathrm{sub} \geq 1$ %
# (`rich`).

# %%
inferred, of_posterior = posterior_story.posterior_folder(settings, out.results), {}
if inferred:
    posteriors = pd.read_csv(inferred / "posterior.csv")
    lenses, groups = (
        pd.read_csv(inferred / f"posterior_{name}.csv") for name in ("lenses", "groups")
    )
    out.figure(draw_posterior(lenses, groups), "posterior")
    posterior_table = posterior_story.posterior_table(posteriors)
    out.table(posterior_table, "posterior")
    display(posterior_table.round(4))
    of_posterior = posterior_story.posterior_numbers(posteriors)

# %% [markdown]
# ## 3.11 Where the subhalos are
#
# A score of a lens does not tell where its subhalos lie. Here each token of a transformer answers
# for the places of its own patch: with which probability is there a subhalo of at least
# $10^{8.5}$ solar masses within 0.16″? The peaks of this map are compared with the true subhalos,
# and so are those of the map of S/N itself, for which nothing is learned. A peak finds a subhalo
# if it lies within 0.25″ of it. The thresholds allow one false peak a lens on average, lenses
# without substructure included. A network also learns that subhalos of this population lie within
# 2″ of the middle. What that is worth alone is shown by the peaks of S/N within 2″.
#
# **Figure 3.12**: (left) the fraction of the subhalos that is found, by mass; dashed: what the
# peaks of another lens find, by chance; (right) for some lenses with massive subhalos (circles:
# from $10^9$ and $10^{8.5}$ solar masses on) the S/N of the search and the answer of the network.

# %%
placed, of_places = where_story.where_folder(settings, out.results), {}
if placed:
    places, place_maps = where_story.read_where(placed)
    out.figure(draw_where(places, place_maps, *where_story.drawn(places)), "where")
    out.table(places, "where")
    display(places.round(3))
    of_places = where_story.where_numbers(places)

# %% [markdown]
# ## 3.12 Numbers for the article
#
# The article takes these values, unrounded, by their names.

# %%
n_joined = n_features["joined"]
of_model = {"n_joined_features": n_joined, "run_seeds": settings.run_seeds}
of_model |= {"n_parameters": model.n_parameters(settings, side, len(classes), n_joined)}
of_model |= {"images_per_second": trained["images_per_second"].median()}
out.numbers(
    *(of_model, runs.run_numbers(table), gains, of_curves, together, of_loss),
    *(equal_terms, of_benchmark, of_maps, of_posterior, of_places),
)

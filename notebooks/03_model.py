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
# exchange information. It knows nothing of neighbourhood or scale beforehand: it has to learn both
# from the images, and usually needs millions of them. Lee, Lee and Song (2021,
# [arXiv:2112.13492](https://arxiv.org/abs/2112.13492)) proposed two changes for small data sets:
# **Shifted Patch Tokenization** (SPT) and **Locality Self-Attention** (LSA). Both are switches of
# `vitdm/model.py`, so that each can be judged by itself.
#
# This notebook explains the model, looks inside trained ones, and compares them. All of them
# learnt from the images of the **train** split, stopped by the score on **valid**, and are
# compared on **opt**. The test split stays closed. The notebook trains nothing; it reads finished
# runs.

# %% tags=["parameters"]
results = "results/smoke"
figures = "results/smoke/figures"
tables = "results/smoke/tables"

# %%
from studies import notebook

out = notebook.start(results, figures, tables, name="03_model")

# %%
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy import special

from studies.plots import comparison as comparison_plots
from studies.plots import diagrams
from studies.plots import efficiency as efficiency_plots
from studies.plots import model as model_plots
from studies.plots.words import setting_name
from vitdm import config, preprocess
from vitdm.data import dataset
from vitdm.evaluation import metrics
from vitdm.features import selected
from vitdm.lens import fit as fit_lens
from vitdm.lens import modelled
from vitdm.model import vit as model
from vitdm.model.networks import new_network
from vitdm.model.runs import load_run
from vitdm.simulation import NO_SUB

settings = out.config
data = dataset.Dataset.open(out.results / "processed")
labels, classes = data.labels(settings.task)
side = data.images.shape[-1]
opt = data.rows("opt")
shown = [opt[labels[opt] == k][0] for k in range(len(classes))]
examples = np.array(data.images[shown], dtype=np.float32)
print(f"{side} x {side} pixels, classes: {', '.join(classes)}")

# %% [markdown]
# ## Where the model stands
#
# **The figure** follows one lens of the **opt** split through the whole work. Blue: the region of
# interest is found (white), a square is cut (dashed) and stretched (notebook 1), and the Vision
# Transformer makes tokens of its patches (sections 3.1 and 3.2). Orange: a smooth lens is fitted to
# the image, and features are measured on the image and on what the fit leaves (notebook 1); those
# that are kept (notebook 2) join the class token (section 3.3). The bars are the probabilities that
# a run of this comparison gives to the classes. Green: the search of notebook 4.
#
# The table is the rule by which all of it goes. Each column is a stage, in the order of their
# doing, each row a split. The lower a row, the later its images are seen, and the more a score on
# them is worth; the test images are seen once, in notebook 5. The lens shown has a plain trace in
# its residual: among those with substructure it stands at the upper tenth.

# %%
raw = dataset.Dataset.open(out.results / "dataset")
row, smooth, residual = shown[-1], None, None
if "lensfit" in settings.features.groups:
    fits = dataset.read_catalog(out.results / "lensfit" / "fits.csv")
    power = fits["fit_fourth_power"].where(fits["fit_converged"] == 1)[opt[labels[opt] > 0]]
    row = (power.rank(pct=True) - 0.9).abs().idxmin()
    camera = json.loads((out.results / "lensfit" / "provenance.json").read_text())["camera"]
    known = config.LensFit(**camera["lensfit"])
    fit = fit_lens(raw.images[[row]], camera["pixel_scale"], known)
    smooth, residual = modelled(fit, known)[0][0], fit.residual[0]
image = np.array(raw.images[row])
square, roi = preprocess.process(image, settings.preprocess)
frame = preprocess.window(image.shape, roi, settings.preprocess)
name = "spt_lsa_features" if "spt_lsa_features" in settings.runs else list(settings.runs)[-1]
scored = pd.read_csv(out.results / f"runs/{name}_seed0/predictions.csv", dtype={"id": str})
scores = scored.set_index("id").loc[raw.catalog["id"][row], [f"p_{kind}" for kind in classes]]
lens = diagrams.Lens(
    image, roi, frame, square, smooth, residual, dict(zip(classes, scores, strict=True))
)
choice = out.results / "selection" / "selection.json"
groups = selected.feature_groups(settings.features)
joined = selected.joined_features(settings.model, settings.features, choice)
n_joined = len(groups if joined is None else joined) if settings.model.features else 0
n_fit = sum(group == "lensfit" for group in groups.values())
lines = [f"{len(groups) - n_fit} of the image"] + [f"{n_fit} of the fit"] * bool(n_fit)
searched = [setting_name(key).partition(" [")[0] for key in settings.tune.space]
counts = raw.catalog["split"].value_counts()
lines = ["physics features", *lines, f"{n_joined} joined"]
out.figure(diagrams.pipeline(lens, lines, settings.model, searched, counts), "pipeline")
print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in lens.scores.items()))

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
#
# ### Shifted Patch Tokenization
#
# A lensed arc does not respect the grid: its edge may run along the border of two patches, and
# then no token sees it. SPT gives each token a look over its borders. The image is first joined,
# on the channel axis, by four copies of itself, $\mathbf s^1 \dots \mathbf s^4$, moved by half a
# patch in the four diagonal directions (zeros fill up where the image ends):
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
# overlapped by pieces of its neighbours. The price is a five times larger $\mathbf E$, and nothing
# else: the number of tokens stays the same.
#
# Copies of this idea that circulate shift by a single pixel, or along the axes. Here it is as
# published: diagonal, and by half a patch.
#
# What that looks like is drawn in section 3.2, together with the attention.

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
# token $i$ asks a question (query $\mathbf q_i$), offers a label (key $\mathbf k_j$) and a content
# (value $\mathbf v_j$), all three linear maps of itself to $d = D/h$ numbers. It then receives the
# mean of all contents, weighted by how well each label answers its question:
#
# $$
# \mathbf z_i' = \sum_j A_{ij}\,\mathbf v_j, \qquad
# A_{ij} = \frac{\exp(\mathbf q_i \cdot \mathbf k_j / \tau)}
#               {\sum_l \exp(\mathbf q_i \cdot \mathbf k_l / \tau)}, \qquad \tau = \sqrt d .
# $$
#
# A physicist may read $A_{ij}$ as Boltzmann weights of the energies $-\mathbf q_i \cdot \mathbf
# k_j$ at the temperature $\tau$: hot means that all tokens are heard alike, cold that only the
# best match is. This happens $h$ times side by side with different maps (the **heads**), so that
# one head can follow the ring while another compares opposite sides. A small two-layer network
# then acts on each token by itself. Both steps add to the token instead of replacing it, and each
# starts from normalised tokens (pre-norm). After the last block the class token is mapped to one
# number (logit) a class, and the softmax makes probabilities of them.
#
# ### Locality Self-Attention
#
# Two things keep attention diffuse when images are few. A token resembles itself, so $A_{ii}$
# tends to be large and little weight is left for the others; and the temperature $\sqrt d$ is a
# guess. LSA removes both: the diagonal is masked, and the temperature becomes a learnt number,
#
# $$
# A = \mathrm{softmax}\bigl(s_h\,\mathbf Q \mathbf K^{\mathsf T} + \mathbf M\bigr), \qquad
# M_{ij} = \begin{cases} -\infty & i = j \\ 0 & i \ne j \end{cases}, \qquad
# s_h = 1/\tau_h,\quad s_h^{(0)} = d^{-1/2},
# $$
#
# one $s_h$ for each head of each block. The class token is masked like any other.
#
# **The figure** shows both ideas at work on the lens of the first figure, in a trained model.
# (a) The box is the brightest patch; the dashed box encloses all pixels of the original image that
# its token sees. Around the image are its four shifts, with the box at the same place: what lies in
# the five boxes are the numbers of which *one* token is made. (b) The first block, of its heads the
# one in which tokens would hear themselves most. A row of a matrix is a token that asks, a column
# one that is asked. Above, the attention that the same similarities would give without LSA, below
# with it: the diagonal is gone, and the learnt temperature makes the rest sharper if it is below
# $\sqrt d$, more even if above. Right, that temperature of each head.

# %%
runs = {name: load_run(out.results / "runs" / f"{name}_seed0") for name in settings.runs}
one_channel = {
    name: run
    for name, run in runs.items()
    if not run.settings.model.residual and run.model.joins != "token"
}
both = [
    run.model for run in one_channel.values() if run.model.settings.spt and run.model.settings.lsa
]
if not both:  # nothing to look into: a model that has not learnt
    switched = settings.model.model_copy(update={"spt": True, "lsa": True, "features": False})
    both = [new_network(switched, side, len(classes), 0)]
network = both[0].eval()
p, first = network.settings.patch_size, network.blocks[0]
stack = model.shift_patches(torch.from_numpy(square)[None, None], p)[0]
light = square.reshape(side // p, p, side // p, p).mean(axis=(1, 3))
brightest = tuple(int(k) for k in np.unravel_index(light.argmax(), light.shape))
corner = [slice(k * p, (k + 1) * p) for k in brightest]
root = (network.settings.embed_dim // network.settings.num_heads) ** 0.5
with torch.inference_mode():
    values = network.embed.norm(stack[:, corner[0], corner[1]].flatten())
    tokens = network.tokens(stack[None, :1])
    seen = first.norm1(tokens) if first.pre else tokens
    likeness, local = first.attention.similarity(seen)[0], first.attention.weights(seen)[0]
    plain = (likeness / root).softmax(dim=-1)
    scales = torch.stack([block.attention.scales().flatten() for block in network.blocks])
temperatures = 1 / (scales * root).numpy()
head = int(plain.diagonal(dim1=1, dim2=2).mean(dim=1).argmax())
matrices = (part[head].numpy() for part in (likeness, plain, local))
drawn = diagrams.Head(*matrices, temperature=temperatures[0, head])
parts = (stack.numpy(), brightest, values.numpy(), tokens[0].numpy())
has_class = network.settings.pool == "cls"
out.figure(diagrams.spt_lsa(*parts, drawn, temperatures, has_class), "spt_lsa")

# %% [markdown]
# ### Where the class token looks
#
# **The figure** shows, for one image of each class (rows), the attention that the class token pays
# to the patches in the last block: what is collected for the answer. One column is one head. Each
# map has one value a patch, laid over the extent of the image; the thin contour is the lensed
# light. The unit is even attention, $1/N$: a patch at 1 gets what it would get if the token did
# not choose.
#
# Mind the numbers at the colour bar, which spans the range that occurs: close to 1 everywhere, the
# head hardly chooses, however lively the pattern looks. And read such maps with caution. They show
# where a head looks, neither what it takes from there nor what the other blocks have already mixed
# into a token.

# %%
images_only = [name for name, run in one_channel.items() if not run.settings.model.features]
pair = [name for name in ("spt", "spt_lsa") if name in one_channel]
looked_at = pair or (images_only or list(one_channel))[-1:]


def weights(run, images):
    """Return the attention of each block, (images, heads, tokens, tokens)."""
    with torch.inference_mode():
        return run.model.attention(torch.from_numpy(images)[:, None])


def over_patches(run, images):
    """Return the last block's attention to the patches, (images, heads, n, n)."""
    last, chosen = weights(run, images)[-1], run.settings.model
    paid = last[:, :, 0, 1:] if chosen.pool == "cls" else last.mean(dim=2)
    return paid.unflatten(-1, (side // chosen.patch_size,) * 2).numpy()


maps = {settings.runs[name].label: over_patches(runs[name], examples) for name in looked_at}
out.figure(model_plots.attention(examples, classes, maps), "attention")
print("drawn:", ", ".join(maps), "(at most four heads each)")
if settings.model.pool == "mean":
    print("pool is 'mean', there is no class token: the mean over all tokens is drawn instead.")

# %% [markdown]
# The same in numbers, over all blocks and heads:
#
# * *weight on itself*: the mean and the largest $A_{ii}$ of any token of these images. With LSA it
#   is **exactly 0**, not merely small: $e^{-\infty} = 0$.
# * *tokens heard*: $\exp(-\sum_j A_{ij} \ln A_{ij})$ averaged over the tokens, the number of
#   tokens among which the attention would be spread if it were even. Small means sharp.
# * *inverse temperature*: the learnt $s_h \sqrt d$, range over heads and blocks; 1 is where it
#   started, and where it stays without LSA.

# %%
rows = []
for name, run in one_channel.items():
    every = weights(run, examples)
    itself = torch.cat([w.diagonal(dim1=-2, dim2=-1).flatten() for w in every])
    heard = torch.cat([torch.special.entr(w).sum(dim=-1).exp().flatten() for w in every])
    scale = [1.0]
    if run.settings.model.lsa:
        root = (run.settings.model.embed_dim // run.settings.model.num_heads) ** 0.5
        scale = [root * s for b in run.model.blocks for s in b.attention.scale.flatten().tolist()]
    label, lsa = settings.runs[name].label, run.settings.model.lsa
    rows.append((label, lsa, itself.mean(), itself.max(), heard.mean(), min(scale), max(scale)))
columns = ["run", "LSA", "weight on itself", "largest", "tokens heard"]
columns += ["inverse temperature (low)", "(high)"]
inside = pd.DataFrame(rows, columns=columns)
inside = inside.astype({name: float for name in columns[2:]})
print("weight on itself with LSA:", inside.loc[inside["LSA"], "largest"].max())
inside.round(4)

# %% [markdown]
# ### What the positions have become
#
# Each patch's token was given a learnt vector that tells where it lies. At the start these vectors
# are random and small, so none is like another. If the model makes use of the neighbourhood, the
# vectors of patches that are near each other, or in the same row or column, become alike.
#
# **The figure** has one small map for each patch, at the place of the patch: the cosine similarity
# of its position vector to those of all patches (itself, 1 by definition, is grey), as in
# figure 7 of Dosovitskiy et al. (2021). Random vectors of $D$ numbers have similarities that
# scatter by $D^{-1/2}$ around 0: colours within that mean nothing, and few images and short
# trainings leave much of it.

# %%


def similarity(run):
    """Return the cosine similarity of the positions of all pairs of patches, (n, n, n, n)."""
    chosen, n = run.settings.model, side // run.settings.model.patch_size
    patches = run.model.position[0, int(chosen.pool == "cls") :][: n * n].detach()
    unit = torch.nn.functional.normalize(patches, dim=1)
    return (unit @ unit.T).view(n, n, n, n).numpy()


alike = {settings.runs[name].label: similarity(runs[name]) for name in looked_at}
out.figure(model_plots.position_similarity(alike), "positions")
for label, values in alike.items():
    place = np.stack(np.indices(values.shape[:2]), axis=-1).reshape(-1, 2)
    apart = np.abs(place[:, None] - place).sum(axis=-1)  # rows and columns between two patches
    pairs = values.reshape(apart.shape)
    near, far = pairs[apart == 1].mean(), pairs[apart > 1].mean()
    print(
        f"{label}: mean similarity of neighbours {near:+.3f}, of patches farther apart {far:+.3f}"
    )
width = settings.model.embed_dim
print(f"scatter of random vectors of {width} numbers: {width**-0.5:.3f}")

# %% [markdown]
# ## 3.3 Joining the physics features
#
# The features of notebook 1 can be given to the network as well: those kept by notebook 2's rule
# (`feature_set: selected`), the proposal's, or all. Each is encoded by the quantiles of the
# training images: standardised by the median and the central 68 %, with an arcsinh that draws in
# the tails, for what a lens fit leaves spans orders of magnitude; and, as trees do, by its place
# among eight bins (Gorishniy, Rubachev and Babenko 2022,
# [arXiv:2203.05556](https://arxiv.org/abs/2203.05556)). One that is missing is marked by an
# indicator. A hidden layer turns all that into $D$ numbers, and these are appended to the class
# token before the last linear map (`join: head`). The images take no notice of them. With `join:
# token` they are a further token instead, and every patch can attend to it.
#
# The smooth lens that is fitted to each image (notebook 1) leaves a *map*, too. It can join the
# image (`residual`) in two more channels, so that the network may find what the features do not
# measure: $\operatorname{arcsinh} r$ of the residual $r$ in units of the noise, and
# $\ln(1 + s^2)$, $s$ being the sum of $r$ over 3 × 3 pixels in units of its own noise. The second
# is a local $\chi^2$: a patch enters the network through a linear map, and no linear map can make a
# square.
#
# ## 3.4 Training
#
# The loss is the cross-entropy of the classes with label smoothing $\epsilon$: the target is $1 -
# \epsilon + \epsilon/K$ for the true one of the $K$ classes and $\epsilon/K$ for the others, which
# keeps the network from becoming ever more certain of images that it has already got right. AdamW
# descends; the learning rate rises linearly, then falls to zero along a cosine; if `flips` is on,
# images are mirrored at random. That is a symmetry of the sky; only in a population whose halo and
# source have a fixed orientation, as in Model I, mirrored images are slightly foreign. The
# configuration:

# %%
# NBVAL_CHECK_OUTPUT
for section in (settings.model, settings.train):
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        print(f"{key:16} {value!s:8} {field.description or ''}".rstrip())

# %% [markdown]
# **The figure** shows all runs, one colour a run and one line a seed: (a) the mean loss of the
# training images in each epoch, (b) the ROC-AUC on the validation images after it. The dot is the
# epoch with the best validation score, whose weights are kept. A loss that keeps falling while the
# validation score stands still is over-fitting; a plateau at the start, with a score near 1/2, is
# the time that the network needs to discover *that* there is something to see.

# %%
trained, histories, predictions = [], [], {}
for name, override in settings.runs.items():
    for seed in range(settings.run_seeds):
        folder = out.results / "runs" / f"{name}_seed{seed}"
        identity = {"run": name, "label": override.label, "seed": seed}
        told = [json.loads((folder / file).read_text()) for file in ("metrics.json", "run.json")]
        trained.append(identity | told[0] | told[1].get("training", {}))
        histories.append(pd.read_csv(folder / "history.csv").assign(**identity))
        predictions[name, seed] = pd.read_csv(folder / "predictions.csv", dtype={"id": str})
trained = pd.DataFrame(trained)
out.figure(model_plots.training_history(pd.concat(histories)), "training_history")

# %% [markdown]
# ## 3.5 Which idea helps?
#
# All runs share the images, the recipe and the seeds; they differ in the switches only. The score
# is the ROC-AUC of "any substructure" against none on the **opt** images: the probability that a
# random lens with substructure outscores a random lens without.
#
# **The figure** has one row a run, a point for each seed and a bar at their mean. The spread of
# the points within a row is what the random start of the training does by itself.

# %%
out.figure(model_plots.runs(trained), "runs")

# %% [markdown]
# The standard deviation `sd` is taken over the seeds (empty with one seed). `seconds` is the mean
# time of a training on the machine that did it, `parameters` counts the numbers that are learnt.

# %%
by_run = trained.groupby("run", sort=False)
switch = {True: "yes", False: "no"}
table = pd.DataFrame(
    {
        "label": [settings.runs[name].label for name in runs],
        "SPT": [switch[run.settings.model.spt] for run in runs.values()],
        "LSA": [switch[run.settings.model.lsa] for run in runs.values()],
        "features": [
            run.settings.model.feature_set if run.settings.model.features else "no"
            for run in runs.values()
        ],
        "residual": [switch[run.settings.model.residual] for run in runs.values()],
        "parameters": by_run["parameters"].first().to_numpy(),
        "roc_auc": by_run["roc_auc"].mean().to_numpy(),
        "sd": by_run["roc_auc"].std().to_numpy(),
        "seconds": by_run["seconds"].mean().to_numpy(),
    },
    index=list(runs),
)
out.table(table, "runs")
table.round({"roc_auc": 4, "sd": 4, "seconds": 1})

# %% [markdown]
# ### Differences and their errors
#
# Two runs are compared by the difference of their ROC-AUC, averaged over the seeds, pair by pair:
#
# $$
# \Delta = \frac1S \sum_{k=1}^{S} \bigl(\mathrm{AUC}_k^{\,\text{with}} -
# \mathrm{AUC}_k^{\,\text{without}}\bigr), \qquad
# \sigma^2 = \sigma_\text{images}^2 + \frac{1}{S}\,\mathrm{var}_k(\Delta_k) .
# $$
#
# $\sigma_\text{images}$ says how much $\Delta$ depends on *which images* happen to be in `opt`:
# the standard deviation of $\Delta$ when these images are drawn anew with replacement, each class
# to its own number (paired bootstrap: both runs and all seeds see the same draw, so that images
# which are hard for all of them cancel). The second term says how much it depends on the *random
# numbers* of the training; each resampling draws the seeds anew as well. It exists only with two or
# more seeds; with a single seed it is unknown, and the error below is then too small. Where the
# second term dominates it rests on $S - 1$ degrees of freedom.
#
# A difference is called "beyond twice its error" if $|\Delta| > 2\sigma$. With two seeds chance
# alone exceeds twice the error in three comparisons of ten, with many in one of twenty. A
# difference that only just does is a hint, not evidence, and so is a single one among several.

# %%
pairs = {
    "gain_spt": ("plain", "spt", "SPT alone"),
    "gain_lsa": ("plain", "lsa", "LSA alone"),
    "gain_spt_lsa": ("plain", "spt_lsa", "SPT and LSA"),
    "gain_features": ("spt_lsa", "spt_lsa_features", "selected features, beside SPT and LSA"),
    "gain_lensfit": ("spt_lsa", "spt_lsa_lensfit", "lens-fit features, beside SPT and LSA"),
    "gain_residual": ("spt_lsa", "spt_lsa_residual", "residual map, beside SPT and LSA"),
}
numbers = {}
seeds = range(settings.run_seeds)
for key, (without, with_, text) in pairs.items():
    if without not in runs or with_ not in runs:
        print(f"{text}: not among the runs of this configuration")
        continue
    tables = ([predictions[name, k] for k in seeds] for name in (without, with_))
    gain = metrics.paired_difference(*tables, settings.evaluation.bootstrap, settings.seed)
    numbers |= {key: gain.value, f"{key}_sd": gain.sd}
    verdict = "beyond" if gain.beyond_error else "not beyond"
    print(f"{text}: {gain.value:+.4f} ± {gain.sd:.4f}, {verdict} twice its error")
if settings.run_seeds == 1 and numbers:
    print("One seed only: the scatter between trainings is unknown and not in these errors.")

# %% [markdown]
# The lines above are the verdict, whichever way it goes. Two remarks on how far it reaches. The
# published gains of SPT and LSA were measured on photographs of many classes; lensed arcs are
# smooth, few and always in the middle, so no gain *has* to carry over. And all runs share one
# learning rate and one number of epochs: an idea that would need another rate to shine is put at a
# disadvantage here. The optimisation (notebook 4) looks at that for one choice of the switches.

# %% [markdown]
# ## 3.6 How many images does it take?
#
# Images of lenses are few, and this is where knowledge of physics should pay. Each curve below is
# one kind of input to the same network, trained on more and more images of lenses that were
# simulated for this alone: the image; with the features of the proposal; with what the smooth lens
# leaves, as a map or as features; with all of them. Beside the networks stand gradient-boosted
# trees that see the features only, and single numbers of the fit that learn nothing at all.
# However few the images, each training makes at least `min_steps` steps.
#
# **The figure**: points are means over the seeds (each draws other images, but for the largest
# number, which is all of them), bands reach from the lowest seed to the highest. The vertical axis
# is logarithmic in 1 − AUC, the probability that a pair of lenses is put in the wrong order, and
# ends at 0.9999. The larger grid of `config/extended.yaml` is drawn if it is at hand; this run's
# own means are then the open marks. Stars are published results on Model I with 90 000 images,
# open if the network was trained from scratch.

# %%
curves, other, loss = pd.DataFrame(), None, None
if settings.efficiency.curves:
    own = pd.read_csv(out.results / "efficiency/all/efficiency.csv")
    extended = Path("paper/extended/efficiency.csv")
    larger = settings.publish and extended.exists()
    curves, other = (pd.read_csv(extended), own) if larger else (own, None)
    for scored in (curves, own):  # networks on images alone have a sample of their own
        for column in ("population", "scored_on"):
            scored[column] = scored[column].str.removesuffix("_images")
    labels = dict(zip(curves["model"], curves["label"], strict=True))
    labels = {name: text.replace("ViT + SPT + LSA", "ViT: image") for name, text in labels.items()}
    labels |= {
        "fit_point_evidence": "untrained: evidence of a point mass",
        "fit_fourth_power": "untrained: 4th power of the residual",
        "fit_theta_E": r"untrained: fitted $\theta_\mathrm{E}$",
    }
    trained = curves[curves["n_train"] > 0].groupby("population")["n_train"].nunique()
    several = trained.index[trained > min(1, trained.max() - 1)]  # one number is no curve
    shown = curves[curves["population"].isin(several)]
    published = pd.read_csv("paper/published.csv")
    out.figure(efficiency_plots.data_efficiency(shown, labels, other, published), "data_efficiency")

# %%
if len(curves):
    own_scores = curves[curves["population"] == curves["scored_on"]]
    by_size = own_scores.groupby(["population", "model", "n_train"], sort=False)
    scores = by_size[["roc_auc", "macro_roc_auc"]].agg(["mean", "std"])
    scores.columns = ["roc_auc", "roc_auc_sd", "macro_roc_auc", "macro_roc_auc_sd"]
    scores = scores.reset_index().assign(seeds=by_size.size().to_numpy())
    out.table(scores, "data_efficiency")
    display(scores.round(4))

# %% [markdown]
# ### Does the network know what the trees do not?
#
# Gradient boosting sees the features only; the network sees them too, and image and residual map
# besides. If there were more to see, the two should be better together than the trees alone.
# Below, on the same **opt** images, is the ROC-AUC of the trees (all features, notebook 2), of the
# network that sees everything, and of the mean of their log-odds, with the gain over the trees and
# its error as in section 3.5.

# %%
if "spt_lsa_all" in runs:
    trees = pd.read_csv(out.results / "selection" / "predictions.csv", dtype={"id": str})
    score = trees.set_index("id")["gradient_boosting"]
    networks = [predictions["spt_lsa_all", k] for k in seeds]
    alone = [table.assign(**{f"p_{NO_SUB}": 1 - table["id"].map(score)}) for table in networks]
    together = []
    for pair in zip(alone, networks, strict=True):
        odds = [special.logit(table[f"p_{NO_SUB}"].clip(1e-6, 1 - 1e-6)) for table in pair]
        together.append(pair[1].assign(**{f"p_{NO_SUB}": special.expit(np.mean(odds, axis=0))}))
    for name, these in (("trees", alone), ("network", networks), ("together", together)):
        found = np.mean([metrics.roc_auc(t["label"] > 0, 1 - t[f"p_{NO_SUB}"]) for t in these])
        numbers[f"{name}_opt_auc"] = float(found)
        print(f"{name:9} {found:.4f}")
    gain = metrics.paired_difference(alone, together, settings.evaluation.bootstrap, settings.seed)
    numbers |= {"gain_together": gain.value, "gain_together_sd": gain.sd}
    scored = pd.read_csv(out.results / "selection" / "scores.csv").set_index(["model", "features"])
    for features in ("lensfit", "selected"):
        found = scored.loc[("gradient boosting", features), "roc_auc"]
        numbers[f"trees_{features}_opt_auc"] = found
        print(f"trees on the features {features}: {found:.4f}")
    print(f"together over trees alone: {gain.value:+.4f} ± {gain.sd:.4f}")

# %% [markdown]
# ### What each model loses when the size of the ring tells nothing
#
# In Model I substructure is put on top of a halo that is the same in every image, so that the
# Einstein radius gives it away (notebook 1). `model_i_sizes` is Model I with halos of many sizes,
# from which the mean mass of the substructure is taken out: the radius means nothing there, all
# else is as in Model I. Models trained on Model I are scored on both.
#
# **The figure**: filled, scored on Model I; open, the same models scored where the size tells
# nothing; crosses, models trained there. What lies between filled and open was knowledge of the
# size; what lies between open and cross could have been learnt from the substructure itself.

# %%
if {"model_i", "model_i_sizes"} <= set(curves.get("population", [])):
    loss = efficiency_plots.shortcut_table(curves, "model_i", "model_i_sizes")
    loss = loss.dropna(subset="roc_auc_there")  # what was scored on both
    out.figure(efficiency_plots.shortcut_loss(loss, labels), "shortcut_loss")
    out.table(loss.assign(label=loss["model"].map(labels)), "shortcut_loss")
    display(loss.round(4))

# %% [markdown]
# ## 3.7 Models on equal terms
#
# The runs of section 3.5 share one recipe, and take the time that they take. Here each model gets
# the same: the same images of Model I, from which images alone can learn the three classes; the
# same number of learning rates to try, scored on images set aside for that; epochs in a number that
# makes the trainings cost about the same time of one core (a faster model sees the images more
# often); and the same number of seeds. Convolutions before the patches (`stem`) see neighbourhoods
# before there are tokens; with a linear head in the place of the transformer they are a small
# ResNet. One row has SPT and LSA as the widespread library vit-pytorch reads them: shifts of one
# pixel along the axes, one temperature for all heads.
#
# **The figure**: (left) the mean of the three ROC-AUCs on images that neither trained nor chose,
# a point a seed; (right) the same on the images that choose, against what the training had cost by
# then. **The table** has the gains, pair by pair on the same images and seeds, with 95 % intervals
# that cover images and seeds, as in section 3.5.

# %%
fair = next(
    (
        folder
        for folder, known in (
            (Path("paper/extended"), settings.publish),
            (out.results / "compare/all", bool(settings.compare.rows)),
        )
        if known and (folder / "comparison.csv").exists()
    ),
    None,
)
if fair:
    trials = pd.read_csv(fair / "comparison.csv")
    epochs = pd.read_csv(fair / "comparison_history.csv")
    out.figure(comparison_plots.comparison(trials, epochs), "comparison")
    gains = pd.read_csv(fair / "comparison_gains.csv")
    final = trials[trials["kind"] == "final"]
    means = final.groupby("row", sort=False).agg(
        label=("label", "first"),
        learning_rate=("learning_rate", "first"),
        epochs=("epochs", "first"),
        parameters=("parameters", "first"),
        cpu_seconds=("cpu_seconds", "mean"),
        roc_auc=("roc_auc", "mean"),
        macro_roc_auc=("macro_roc_auc", "mean"),
        sd=("macro_roc_auc", "std"),
    )
    macro = gains[gains["score"] == "macro_roc_auc"].set_index("row")
    means = means.join(macro[["against", "gain", "low", "high"]])
    means["against"] = means["against"].map(means["label"])
    out.table(means, "comparison")
    display(means.round(4))
    for row in gains.to_dict("records"):
        numbers |= {
            f"fair_{row['row']}_{row['score']}_gain{end}": row[key]
            for end, key in (("", "gain"), ("_low", "low"), ("_high", "high"))
        }
    for name, row in means.iterrows():
        numbers |= {f"fair_{name}_auc": row["roc_auc"], f"fair_{name}_macro": row["macro_roc_auc"]}
        numbers |= {f"fair_{name}_macro_sd": row["sd"], f"fair_{name}_seconds": row["cpu_seconds"]}

# %% [markdown]
# ## 3.8 Numbers for the article

# %%
configured = new_network(settings.model, side, len(classes), n_joined)
numbers |= {
    "n_parameters": sum(p.numel() for p in configured.parameters()),
    "n_joined_features": n_joined,
    "run_seeds": settings.run_seeds,
    "best_run": by_run["roc_auc"].mean().idxmax(),
    "images_per_second": trained["images_per_second"].median(),
}
for row in [] if curves.empty else scores.itertuples():
    key = f"efficiency_{row.population}_{row.model}_{row.n_train}"
    numbers |= {f"{key}_auc": row.roc_auc, f"{key}_sd": row.roc_auc_sd}
    numbers |= {f"{key}_macro": row.macro_roc_auc, f"{key}_macro_sd": row.macro_roc_auc_sd}
if len(curves):
    scratch = published.query("population == 'model_i' and pretrained == 'no'")
    numbers |= {"published_scratch_macro": scratch["macro_roc_auc"].max()}
    taken = own_scores.dropna(subset="seconds").groupby(["population", "model", "n_train"])
    for (population, name, n), seconds in taken["seconds"].mean().items():
        numbers |= {f"efficiency_{population}_{name}_{n}_seconds": seconds}
for row in [] if loss is None else loss.to_dict("records"):
    numbers |= {
        f"shortcut_{row['model']}_{score}_{kind}": row[f"{score}_{kind}"]
        for score in ("roc_auc", "macro_roc_auc")
        for kind in ("here", "there", "learnt")
        if np.isfinite(row[f"{score}_{kind}"])
    }
if loss is not None:
    numbers["shortcut_n_train"] = int(loss["n_train"].max())
if len(curves):
    numbers |= {"efficiency_n_scored": int(curves["n_scored"].max())}
    numbers |= {"efficiency_seeds": int(scores["seeds"].max())}
    numbers |= {"efficiency_extended": other is not None}
numbers |= {f"run_{name}_auc": table.loc[name, "roc_auc"] for name in runs}
numbers |= {f"run_{name}_sd": table.loc[name, "sd"] for name in runs}
out.numbers(numbers)
pd.Series(numbers, dtype=object).to_frame("value")

"""Models on equal terms (notebook 03)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from studies.plots.efficiency import _auc_axis, _wrong
from studies.plots.style import WIDTH

_DASHES = ("-", "--", ":")
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7")
_COLOURS += ("#8C6D31", "#56B4E9", "#777777", "#000000", "#7B3294", "#A6761D", "#117733")


def comparison(trials: pd.DataFrame, history: pd.DataFrame) -> plt.Figure:
    """Draw the mean ROC-AUC of three classes: of each row of the comparison, and against its cost.

    ``trials`` and ``history`` as from ``compare.merge_rows``. Left, on the images that score: a
    point a seed, a bar their mean. Right, on the images that choose, after each epoch: the mean
    over the seeds against the seconds of the processor that the training had taken. Both axes are
    logarithmic in 1 - AUC. A row without epochs (gradient boosting) is a mark at its whole cost.
    """
    final = trials[trials["kind"] == "final"].dropna(subset="macro_roc_auc")
    names = list(dict.fromkeys(final["row"]))
    looks = {
        name: (_COLOURS[k % len(_COLOURS)], _DASHES[k // len(_COLOURS) % len(_DASHES)])
        for k, name in enumerate(names)
    }
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 1.2 + 0.22 * len(names)), layout="constrained", width_ratios=(1, 1.25)
    )
    for place, name in enumerate(names):
        scores = final.loc[final["row"] == name, "macro_roc_auc"]
        colour, dash = looks[name]
        left.plot(_wrong(scores), [place] * len(scores), "o", ms=4, mew=0, alpha=0.7, color=colour)
        left.plot([_wrong(scores.mean())] * 2, [place - 0.3, place + 0.3], color=colour, lw=2)
        part = history[history["row"] == name]
        if part["valid_macro_roc_auc"].notna().any():
            mean = part.groupby("epoch")[["valid_macro_roc_auc", "cpu_seconds"]].mean()
            right.plot(
                mean["cpu_seconds"], _wrong(mean["valid_macro_roc_auc"]), dash, color=colour, lw=1.2
            )
        else:
            seconds = final.loc[final["row"] == name, "cpu_seconds"].mean()
            right.plot(seconds, _wrong(scores.mean()), "P", color=colour, ms=6)
    smallest = _wrong(final["macro_roc_auc"]).min()
    labels = final.drop_duplicates("row")["label"]
    _auc_axis([right], smallest)
    ticks = right.get_yticks(), [text.get_text() for text in right.get_yticklabels()]
    left.set_xscale("log")
    low, high = _wrong(final["macro_roc_auc"]).max() * 1.3, smallest * 0.75
    shown = [(at, text) for at, text in zip(*ticks, strict=True) if high < at < low]
    shown = shown[:: 2 if len(shown) > 5 else 1]  # more would overlap
    left.set_xticks(*zip(*shown, strict=True) if shown else ([], []))
    left.set_xlim(low, high)
    left.minorticks_off()
    left.set_yticks(range(len(names)), labels)
    left.set(ylim=(len(names) - 0.5, -0.5), xlabel="ROC-AUC, mean of 3 classes")
    for text, name in zip(left.get_yticklabels(), names, strict=True):
        text.set_color(looks[name][0])
    left.grid(axis="x", lw=0.4, color="0.9")
    left.set_axisbelow(True)
    left.tick_params(axis="y", length=0)
    right.set(xlabel="training, seconds of one core", ylabel="ROC-AUC on the choosing images")
    return figure

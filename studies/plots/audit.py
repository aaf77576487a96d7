"""The precursor, fault by fault (notebook 05)."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd

from studies.plots.style import WIDTH

KINDS = {
    "as it was": "",
    "alone": "alone",
    "cumulative": "with those above",
    "ours": "our recipe",
}
HEADS = {"alone": "fixed alone", "cumulative": "fixed with those above", "ours": "our recipe"}


def audit(table: pd.DataFrame) -> plt.Figure:
    """Draw the rows of ``audit.train_rows``: what each would have claimed, and what is true.

    A filled point is the ROC-AUC on images that were not learnt from, with its 95 % interval; an
    open diamond the number that the row would have reported as its ROC-AUC, where it is another; a
    cross what it would have shown for validation. The dotted line is the precursor as it was.
    """
    rows, places, place = table.to_dict("records"), [], -1.0
    for before, row in zip([None, *rows], rows, strict=False):
        place += 1.0 if before is None or before["kind"] == row["kind"] else 2.1
        places.append(place)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.0 + 0.17 * place), layout="constrained")
    axes.axvline(rows[0]["roc_auc"], color="0.6", lw=0.8, ls=":", zorder=0)
    headed = set()
    for y, row in zip(places, rows, strict=True):
        claimed, believed = row["claimed"], row["believed"]
        axes.plot([claimed, row["roc_auc"]], [y, y], color="0.8", lw=1, zorder=1)
        axes.plot(believed, y, "x", color="0.45", ms=4.5, mew=1.1, zorder=2)
        if abs(claimed - row["roc_auc"]) > 1e-9:
            axes.plot(claimed, y, "D", mfc="white", mec="#D55E00", ms=4.5, mew=1.2, zorder=3)
        axes.plot([row["low"], row["high"]], [y, y], color="#0072B2", lw=1.6, zorder=4)
        axes.plot(row["roc_auc"], y, "o", color="#0072B2", ms=4.5, mew=0, zorder=5)
        if row["kind"] not in headed and row["kind"] in HEADS:
            style = {"fontsize": 8, "style": "italic", "color": "0.3", "va": "center"}
            transform = axes.get_yaxis_transform()
            axes.text(0.0, y - 1.0, f" {HEADS[row['kind']]}", transform=transform, **style)
        headed.add(row["kind"])
    axes.plot([], [], "o", color="#0072B2", ms=4.5, mew=0, label="ROC-AUC, 95 % interval")
    axes.plot([], [], "D", mfc="white", mec="#D55E00", ms=4.5, mew=1.2, label="claimed")
    axes.plot([], [], "x", color="0.45", ms=4.5, mew=1.1, label="shown for validation")
    axes.set_yticks(places, [row["row"] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", lw=0.4, color="0.9")
    axes.set_axisbelow(True)
    axes.set(ylim=(place + 0.7, -0.7), xlabel="area under the ROC curve, true or claimed")
    figure.legend(loc="outside upper center", ncols=3)
    return figure

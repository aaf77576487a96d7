"""The audit: the precursor's recipe, each fault a switch that does what it says."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SETTINGS
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from test_efficiency import sample
from torch import nn
from torch.nn import functional

from studies import audit
from studies import config as workflow
from studies.config import Faults
from studies.plots import audit as audit_plots
from vitdm.errors import InputError
from vitdm.evaluation.metrics import roc_auc

AS_IT_WAS = Faults()
IMAGES = torch.rand(6, 1, 88, 64, generator=torch.Generator().manual_seed(0))
FEATURES = torch.rand(6, 13, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


def network(*mended, **sizes):
    torch.manual_seed(0)
    return audit.Network(AS_IT_WAS.fixed(mended), **sizes).eval()


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


# ------------------------------------------------------------------------------------- network


def test_both_published_networks_have_their_numbers_of_parameters():
    assert parameters(network()) == 307_827  # the first
    assert parameters(network(width=512, heads=16, hidden=64, layers=2)) == 4_260_099  # the best


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("norm_after_projection", 2 * 320 - 2 * 128),  # LayerNorm of 5 x 8 x 8 values, not of 128
        ("post_norm", 2 * 128),  # a LayerNorm after the last block
        ("one_temperature", 8 - 1 - 3 * 128),  # a scale each head; no biases of q, k and v
        ("flattened", -88 * 128 * 16),  # one token of 89
    ],
)
def test_what_mending_costs(name, difference):
    assert parameters(network(name)) - parameters(network()) == difference


def test_tokens_are_normed_after_their_projection():
    tokens = network().embed(IMAGES)
    assert tokens.shape == (6, 88, 128)
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(6, 88), atol=1e-5, rtol=0)
    assert network("norm_after_projection").embed(IMAGES).mean(dim=-1).abs().max() > 1e-2


def test_the_temperature_divides_what_the_queries_are_made_of():
    layer = network().blocks[0].attention
    tokens = torch.randn(2, 89, 128, generator=torch.Generator().manual_seed(2))
    layer.temperature.data.fill_(2.5)
    q, k, v = functional.linear(
        tokens, layer.attention.in_proj_weight, layer.attention.in_proj_bias
    ).chunk(3, dim=-1)
    bias = layer.attention.in_proj_bias[:128]
    q = (q - bias) / 2.5 + bias  # W (x / T) + b
    q, k, v = (part.unflatten(-1, (8, 16)).transpose(1, 2) for part in (q, k, v))
    logits = (q @ k.transpose(-2, -1) / 4).masked_fill(torch.eye(89, dtype=torch.bool), -math.inf)
    mixed = (logits.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(tokens), layer.attention.out_proj(mixed), atol=1e-5, rtol=1e-4)


def test_norms_come_after_the_shortcuts_or_before():
    tokens = torch.randn(2, 89, 128, generator=torch.Generator().manual_seed(2))
    after, before = network().blocks[0], network("post_norm").blocks[0]
    torch.testing.assert_close(after(tokens).mean(dim=-1), torch.zeros(2, 89), atol=1e-5, rtol=0)
    for part in (before.attention.attention.out_proj, before.mlp[-1]):
        nn.init.zeros_(part.weight), nn.init.zeros_(part.bias)
    torch.testing.assert_close(before(tokens), tokens)


def test_the_head_reads_all_tokens_or_the_class_token():
    for mended, reads in ((), True), (("flattened",), False):
        model = network(*mended)
        model.blocks = nn.Identity()
        model.norm = nn.Identity()
        gradient = torch.autograd.grad(model(IMAGES, FEATURES).sum(), model.position)[0]
        assert bool(gradient[0, 1:].any()) == reads and gradient[0, 0].any()


# ---------------------------------------------------------------------------- loss and report


def test_the_loss_of_probabilities_has_a_floor():
    perfect = torch.where(functional.one_hot(LABELS, 2) > 0, 50.0, -50.0)
    found = audit.loss_of(perfect, LABELS, AS_IT_WAS).item()
    assert found == pytest.approx(0.3133, abs=1e-4) == math.log1p(math.exp(-1))
    mended = AS_IT_WAS.fixed(["softmax_in_loss"])
    assert audit.loss_of(perfect, LABELS, mended).item() == pytest.approx(0, abs=1e-6)


def test_a_confident_error_has_hardly_a_gradient():
    gradients = []
    for faults in (AS_IT_WAS, AS_IT_WAS.fixed(["softmax_in_loss"])):
        logits = torch.tensor([[4.25, -4.25]], requires_grad=True)
        audit.loss_of(logits, torch.tensor([1]), faults).backward()
        gradients.append(logits.grad.abs().max().item())
    assert gradients[0] < 1e-3 and gradients[1] > 0.999


def test_the_claim_is_the_balanced_accuracy():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    scores = np.clip(0.5 + 0.2 * (2 * labels - 1) + rng.normal(0, 0.3, 200), 0, 1)
    hard = audit.claim(labels, scores, AS_IT_WAS)
    assert hard == pytest.approx(balanced_accuracy_score(labels, scores > 0.5))
    soft = audit.claim(labels, scores, AS_IT_WAS.fixed(["hard_labels"]))
    assert soft == roc_auc_score(labels, scores) > hard


def test_the_published_headline_is_one():
    labels = np.repeat([0, 0, 1, 1], [476, 15, 29, 480])
    decided = np.repeat([0.0, 1.0, 0.0, 1.0], [476, 15, 29, 480])
    assert audit.claim(labels, decided, AS_IT_WAS) == pytest.approx(0.95624, abs=5e-6)


def test_validation_shows_the_mean_of_batches():
    labels = torch.tensor([0, 1] * 32 + [0] * 64 + [0, 1] * 10)
    logits = torch.stack([torch.zeros(148), labels - 0.5], dim=1)
    logits[:32, 1] *= -1  # half of the first batch is wrong; the second has one class only
    assert audit.shown(logits, labels, AS_IT_WAS) == pytest.approx((0.5 + 1) / 2)
    mended = AS_IT_WAS.fixed(["validation_on_training"])
    expected = balanced_accuracy_score(labels, logits[:, 1] > 0)
    assert audit.shown(logits, labels, mended) == pytest.approx(expected)


# ------------------------------------------------------------------------------------ training

EASY = workflow.Audit(epochs=30, learning_rate=3e-3)


def easy(seed):
    """Twenty-four images of noise whose first feature tells the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(24) % 2
    features = torch.randn(24, 13, generator=generator)
    features[:, 0] = 4.0 * labels - 2
    return torch.rand(24, 1, 88, 64, generator=generator), features, labels


def test_a_training_learns_and_is_repeatable():
    long, few = (EASY.model_copy(update={"epochs": n, "learning_rate": 1e-2}) for n in (60, 2))
    found = audit.learn(easy(0), easy(1), AS_IT_WAS, long, 0)
    score = audit.logits_of(found.model, *easy(2)[:2])[:, 1]
    assert roc_auc(easy(2)[2].numpy(), score.numpy()) > 0.95
    logits = [
        audit.logits_of(audit.learn(easy(0), easy(1), AS_IT_WAS, few, seed).model, *easy(2)[:2])
        for seed in (0, 0, 1)
    ]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=0)
    assert not torch.equal(logits[0], logits[2])


def test_shuffling_changes_a_training():
    few = EASY.model_copy(update={"epochs": 2})
    found = []
    for names in ((), ("unshuffled",)):
        arrays = tuple(torch.cat([array] * 4) for array in easy(0))  # two batches
        found.append(audit.learn(arrays, easy(1), AS_IT_WAS.fixed(names), few, 0).train_loss)
    assert found[0] != found[1]


def test_only_a_mended_training_stops():
    wrong = (*easy(1)[:2], 1 - easy(1)[2])  # the better it learns, the worse this gets
    assert audit.learn(easy(0), wrong, AS_IT_WAS, EASY, 0).epochs == 30
    stops = AS_IT_WAS.fixed(["never_stops"])
    assert audit.learn(easy(0), wrong, stops, EASY, 0).epochs == 30  # it looks at what it learns
    stops = stops.fixed(["validation_on_training"])
    found = audit.learn(easy(0), wrong, stops, EASY, 0)
    assert found.epochs < 30
    kept = audit.loss_of(audit.logits_of(found.model, *wrong[:2]), wrong[2], stops).item()
    assert kept < 0.72  # the weights of the best epoch, not of the last


def test_gaps_get_the_mean_and_an_indicator():
    table = pd.DataFrame({"area": [1.0, 2, 3], "dmax_low": [1.0, np.nan, 9], "dmin_low": [5.0] * 3})
    found = audit.filled(table, np.array([0, 1]))
    np.testing.assert_array_equal(found, [[1, 1, 5, 0], [2, 1, 5, 1], [3, 9, 5, 0]])
    assert audit.filled(table.fillna(-1.0), np.array([0])).shape == (3, 3)


# ---------------------------------------------------------------------------------------- rows

STEPS = {"scores": ["hard_labels"], "logits": ["softmax_in_loss"], "crop": ["upright_cut"]}
CHOSEN = {
    "population": "lenses",
    "n_train": 40,
    "n_valid": 20,
    "n_scored": 60,
    "epochs": 1,
    "seeds": 2,
    "steps": STEPS,
    "ours": [
        {"label": "ViT", "model": {"features": False}},
        {"label": "lens fit", "model": {"feature_set": "lensfit"}, "train": {"epochs": 6}},
    ],
}
CONTENT = SETTINGS | {"features": {"groups": ["proposal", "morphology", "lensfit"]}}


def settings_of(**changes):
    return workflow.build(CONTENT | {"audit": CHOSEN | changes})


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    place = tmp_path_factory.mktemp("audit")
    (place / "toys").mkdir()
    sample(place / "toys", shortcut=True, seed=0)
    shutil.copytree(place / "toys/processed", place / "toys/dataset")
    audit.train_rows(place / "toys", settings_of(), place / "table")
    return place


def test_rows_mend_alone_then_one_after_the_other():
    rows = audit.rows_of(settings_of().audit)
    off = [[name for name, on in row.faults if not on] for row in rows if row.faults]
    names = [names[0] for names in STEPS.values()]
    alone = [[name] for name in names]
    assert [sorted(found) for found in off] == [[], *alone, sorted(names[:2]), sorted(names)]
    assert [row.label for row in rows if row.kind == "ours"] == ["ViT", "lens fit"]


def test_the_table_tells_claim_and_truth(measured):
    table = pd.read_csv(measured / "table/audit.csv")
    assert list(table["kind"]) == ["as it was"] + ["alone"] * 3 + ["cumulative"] * 2 + ["ours"] * 2
    assert (table["seeds"] == 2).all() and table["roc_auc"].between(
        table["low"], table["high"]
    ).all()
    first, scores = table.iloc[0], table.iloc[1]
    assert first["claimed"] == first["balanced_accuracy"] and np.isnan(first["gain"])
    # mending the report changes the report alone
    assert scores["roc_auc"] == first["roc_auc"] == scores["claimed"] and scores["gain"] == 0
    np.testing.assert_allclose(table["gain"][1:], table["roc_auc"][1:] - first["roc_auc"])
    assert np.isclose(table["claimed"], table["roc_auc"], atol=1e-12).sum() == 5
    assert table["roc_auc"].iloc[-1] > 0.8  # a feature of the toys tells the class
    told = json.loads((measured / "table/audit.json").read_text())
    assert told["rule"] == "audit" and told["cpu_seconds"] > 0


def test_the_figure_has_a_row_each(measured):
    table = pd.read_csv(measured / "table/audit.csv")
    axes = audit_plots.audit(table).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == list(table["row"])
    points = [line for line in axes.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in points] == list(table["roc_auc"])
    claims = [line for line in axes.lines if line.get_marker() == "D" and len(line.get_xdata())]
    assert len(claims) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": {}}, r"audit\.steps: found none; expected at least one"),
        ({"steps": {"a": ["softmax"]}}, r"audit\.steps: found 'softmax'; expected some of hard_l"),
        ({"steps": {"a": ["flattened"], "b": ["flattened"]}}, "found 'flattened' twice"),
        ({"ours": [{"label": "x", "model": {"dept": 3}}]}, r"audit\.ours\.0\.model\.dept: unknown"),
        ({"ours": [{"label": "x"}]}, r"audit\.ours\.0: found feature_set 'selected'"),
    ],
)
def test_a_wrong_audit_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        settings_of(**changes)


def test_too_few_images_are_refused(measured, tmp_path):
    with pytest.raises(InputError, match="found 60 images in split train; expected at least .* 70"):
        audit.train_rows(measured / "toys", settings_of(n_train=50), tmp_path / "x")
    assert not (tmp_path / "x").exists()

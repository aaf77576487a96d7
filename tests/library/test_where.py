"""A transformer that answers for each place, and how its peaks are compared with subhalos."""

import numpy as np
import pandas as pd
import pytest
import torch

from vitdm.config import Model, Train
from vitdm.errors import InputError
from vitdm.evaluation import places
from vitdm.model.networks import symmetries
from vitdm.model.training import Batches
from vitdm.model.where import PlaceViT, learn_where, where

TINY = {"patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "features": False}


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_each_token_answers_for_its_own_patch(pool):
    torch.manual_seed(0)
    model = Model(**TINY, pool=pool, spt=False)
    network = PlaceViT(model, (12, 8), 0, 3, rate=0.1).eval()
    torch.nn.init.normal_(network.head.weight)
    images = torch.randn(2, 3, 12, 8)
    with torch.no_grad():
        answers = network(images)
        tokens = network.tokens(images)
        for block in network.blocks:
            tokens = block(tokens)
        tokens = network.norm(tokens)[:, (pool == "cls") :]
        assert answers.shape == (2, 12, 8) and tokens.shape[1] == 6
        for row in range(12):
            for column in range(8):
                token = tokens[:, row // 4 * 2 + column // 4]
                k = row % 4 * 4 + column % 4
                expected = token @ network.head.weight[k] + network.head.bias[k]
                torch.testing.assert_close(answers[:, row, column], expected)


def test_an_untrained_network_answers_with_the_share_of_places():
    network = PlaceViT(Model(**TINY), 8, 0, 1, rate=0.03)
    answer = where(network, torch.zeros(1, 1, 8, 8))
    assert answer.mean().item() == pytest.approx(0.03, rel=0.1)


def test_maps_of_places_turn_with_their_images():
    images = torch.randn(40, 1, 6, 6)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40)
    batches = Batches((images, images[:, 0], labels), 8, generator, flips=True, turns=True)
    turned = 0
    for seen, maps, rows in batches:
        torch.testing.assert_close(seen[:, 0], maps)
        turned += (seen != images[rows]).flatten(1).any(dim=1).sum().item()
    assert turned > 20
    torch.testing.assert_close(batches.arrays[1], images[:, 0])  # those that are kept stay


def spots(n, seed):
    """Noise with one bright place in each of n images, and where it is: beside, to the left."""
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.3, (n, 1, 12, 12)).astype(np.float32)
    marked = np.zeros((n, 12, 12), bool)
    row, column = rng.integers(0, 12, (2, n))
    images[np.arange(n), 0, row, column] += 4
    marked[np.arange(n), row, column] = True
    features = torch.empty(n, 0)
    return torch.from_numpy(images), features, torch.from_numpy(marked)


@pytest.fixture(scope="module")
def learnt():
    train = Train(epochs=8, batch_size=32, learning_rate=1e-2, turns=True)
    return learn_where(spots(600, 0), spots(100, 1), Model(**TINY, spt=False), train)


def test_it_learns_where_something_is(learnt):
    images, _, marked = spots(200, 2)
    for average in (False, True):
        answers = where(learnt.model, images, average)
        assert answers.shape == (200, 12, 12)
        highest = answers.flatten(1).argmax(dim=1)
        truth = marked.flatten(1).int().argmax(dim=1)
        assert (highest == truth).float().mean() > 0.95
    best = learnt.history["valid_log_probability"].max()
    alone = marked.float().mean().item()
    guess = alone * np.log(alone) + (1 - alone) * np.log(1 - alone)
    assert best > guess / 2


def test_the_mean_over_views_is_that_of_views_turned_back(learnt):
    images = spots(5, 3)[0]
    expected = torch.zeros(5, 12, 12)
    for k, view in enumerate(symmetries(images)):
        answers = where(learnt.model, view)
        back = answers.flip([[], [1], [2], [1, 2]][k % 4])
        expected += back.transpose(1, 2) if k >= 4 else back
    torch.testing.assert_close(where(learnt.model, images, average=True), expected / 8)


def test_what_it_cannot_learn_is_refused():
    images, _, marked = spots(8, 0)
    for nothing in (marked & False, marked | True):
        with pytest.raises(InputError, match="where: found subhalos at .* but not everywhere"):
            learn_where((images, torch.empty(8, 0), nothing), None, Model(**TINY), Train())
    with pytest.raises(InputError, match="model.architecture: found 'cnn'; expected 'vit'"):
        model = Model(**TINY, architecture="cnn")
        learn_where((images, torch.empty(8, 0), marked), None, model, Train())
    with pytest.raises(InputError, match="model.features: found 2 features; expected none"):
        learn_where((images, torch.zeros(8, 2), marked), None, Model(**TINY), Train())


# --------------------------------------------------------------------------------------- peaks

AXIS = np.arange(9) - 4.0


def test_peaks_are_local_maxima_apart_from_each_other():
    maps = np.zeros((2, 9, 9))
    maps[0, 1, 2], maps[0, 1, 4], maps[0, 7, 7] = 3.0, 2.0, 1.0
    found = places.peaks(maps, AXIS, 0.5)
    assert found.to_numpy().tolist() == [[0, -2, -3, 3], [0, 0, -3, 2], [0, 3, 3, 1]]
    assert places.peaks(maps, AXIS, 2.5)["height"].tolist() == [3, 1]
    assert places.peaks(maps, AXIS, 0.5, most=1)["height"].tolist() == [3]
    # what is farther away is no peak, nor does it hide one
    maps[0, 7, 6] = 0.5
    assert places.peaks(maps, AXIS, 0.5, within=4.0)["height"].tolist() == [3, 2, 0.5]


def test_a_peak_is_right_near_a_subhalo_of_its_own_lens():
    columns = ["lens", "x", "y", "height"]
    rows = [[0, 0, 0, 5.0], [0, 2, 0, 4.0], [0, 0.2, 0, 3.0], [1, 0, 0, 9.0]]
    found = pd.DataFrame(rows, columns=columns)
    subhalos = pd.DataFrame([[0, 0.1, 0], [0, 3, 0], [2, 0, 0]], columns=columns[:3])
    right, heights = places.matched(found, subhalos, 0.25)
    assert right.tolist() == [True, False, True, False]
    assert heights.tolist() == [5.0, -np.inf, -np.inf]


def test_the_threshold_leaves_so_many_false_peaks_a_lens():
    rng = np.random.default_rng(0)
    wrong = pd.DataFrame({"lens": rng.integers(0, 50, 200), "height": rng.normal(size=200)})
    for weights in (np.ones(50, int), rng.integers(0, 3, 50)):
        above = places.threshold(wrong, weights, 1.5)
        count = weights[wrong["lens"]]
        total = count[wrong["height"] > above].sum()
        assert total <= 1.5 * weights.sum() < total + count[wrong["height"] == above].sum()
    assert places.threshold(wrong, np.ones(50, int), 5.0) == -np.inf

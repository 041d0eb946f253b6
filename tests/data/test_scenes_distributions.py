"""The distributions that scenes claim for their targets, against the targets."""

import math

import pytest
import torch

from sfumato.data import Scenes

COUNT = 24


@pytest.fixture(scope="module")
def pixels():
    """Entries of all pixels of many scenes, (…, N)."""
    scenes = Scenes(COUNT, (40, 56))
    samples = [scenes[i] for i in range(COUNT)]
    keys = ("classes", "class_probs", "depth", "depth_true", "depth_sigma", "depth_valid")
    return {key: torch.cat([s[key].flatten(-2) for s in samples], -1) for key in keys}


def test_probabilities_add_up(pixels):
    probs = pixels["class_probs"]
    torch.testing.assert_close(probs.sum(0), torch.ones(probs.shape[1]))
    assert (probs >= 0).all()
    drawn = probs.gather(0, pixels["classes"][None])
    assert (drawn > 0).all()
    ambiguous = probs.amax(0) < 1
    assert 0.02 < ambiguous.float().mean() < 0.4


def test_labels_occur_as_often_as_their_distribution_says(pixels):
    kinds, which, counts = pixels["class_probs"].unique(dim=1, return_inverse=True, return_counts=True)
    assert kinds.shape[1] >= 8 + 3 - 1  # certain ones, and three ambiguous materials
    for probs, (number, count) in zip(kinds.T, enumerate(counts.tolist())):
        observed = torch.bincount(pixels["classes"][which == number], minlength=8) / count
        assert ((observed - probs).abs() <= 4.5 * (probs * (1 - probs) / count).sqrt()).all()


def test_labels_of_neighbors_are_independent():
    scenes = Scenes(8, (40, 56))
    products = []
    for i in range(8):
        sample = scenes[i]
        mean = (sample["class_probs"] * torch.arange(8)[:, None, None]).sum(0)
        left, right = (sample["classes"] - mean)[:, :-1], (sample["classes"] - mean)[:, 1:]
        ambiguous = sample["class_probs"].amax(0) < 1
        products.append((left * right)[ambiguous[:, :-1] & ambiguous[:, 1:]])
    products = torch.cat(products)
    assert products.mean().abs() < 4.5 * products.std() / math.sqrt(len(products))


def test_depth_noise_has_the_stated_sigma(pixels):
    valid = pixels["depth_valid"]
    sigma = pixels["depth_sigma"][0][valid]
    residual = (pixels["depth"] / pixels["depth_true"])[0][valid].log() / sigma
    order = sigma.argsort()
    assert sigma.min() > 0
    assert sigma[order[-len(order) // 20]] > 3 * sigma[order[len(order) // 20]]  # worth learning
    for part in residual[order].chunk(8):  # from the most to the least precise
        assert part.mean().abs() < 5 / math.sqrt(len(part))
        assert part.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * len(part)))


def test_sigma_grows_with_distance(pixels):
    sure = (pixels["class_probs"][3] == 1) & pixels["depth_valid"]  # brick and plaster
    sigma, depth = pixels["depth_sigma"][0][sure], pixels["depth_true"][0][sure]
    assert torch.corrcoef(torch.stack([sigma, depth]))[0, 1] > 0.5


def test_the_sky_has_no_depth(pixels):
    sky = ~pixels["depth_valid"]
    assert sky.any()
    for key in ("depth", "depth_true", "depth_sigma"):
        assert (pixels[key][0][sky] == 0).all()
    assert (pixels["class_probs"][0][sky] == 1).all()

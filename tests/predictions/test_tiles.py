"""Tiled predictions equal those of one pass away from borders of tiles, and are mixtures where tiles overlap."""

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError
from sfumato.likelihoods import Categorical, Gaussian
from sfumato.methods import DeepEnsemble, Deterministic, MCDropout
from sfumato.models import UNet
from sfumato.predictions import predict, predict_tiled
from sfumato.testing import check_prediction


def near(channels):
    """Looks 2 pixels far."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, channels, 3, padding=1))


@pytest.mark.parametrize("likelihood", [Categorical(4), Gaussian()])
@pytest.mark.parametrize("size", [(50, 67), (16, 16), (9, 70), (1, 1)])
def test_the_same_numbers_as_one_pass(likelihood, size):
    method = DeepEnsemble([near(likelihood.channels), near(likelihood.channels)])
    image = torch.rand(2, 3, *size)
    whole = predict(method, image, likelihood=likelihood)
    tiled = predict_tiled(method, image, likelihood=likelihood, tile=(24, 20), overlap=8)
    check_prediction(tiled)
    for part in ("total", "aleatoric", "epistemic", "best"):
        assert torch.allclose(getattr(tiled, part).float(), getattr(whole, part).float(), atol=1e-5), part


def test_a_pooling_network_agrees_away_from_borders_where_its_grid_fits():
    torch.manual_seed(0)
    net = UNet(3, widths=(4, 8), dropout=0.0).eval()
    image = torch.rand(1, 3, 160, 160)
    whole = predict(Deterministic(net), image, likelihood=Categorical(3))
    tiled = predict_tiled(Deterministic(net), image, likelihood=Categorical(3), tile=(128, 128), overlap=96)
    assert torch.allclose(tiled.probs, whole.probs, atol=1e-5)


class Place(nn.Module):
    """Says 0 in a tile that holds the image's left border, which is black, and 1 in others."""

    def forward(self, image):
        left = (image[:, :1, :, :1] == 0).any(2, keepdim=True)
        value = (~left).float().expand(len(image), 1, *image.shape[-2:])
        return torch.cat([value, torch.full_like(value, -3.0)], 1)


def test_tiles_that_disagree_raise_the_epistemic_part():
    image = torch.ones(1, 3, 8, 28)
    image[..., 0] = 0
    tiled = predict_tiled(Deterministic(Place()), image, likelihood=Gaussian(), tile=(8, 16), overlap=4)
    assert tiled.epistemic[0, 0, 13].item() == pytest.approx(0.25, abs=0.1)  # the middle of the overlap
    assert tiled.epistemic[0, 0, 2].item() == 0
    assert torch.allclose(tiled.aleatoric, torch.tensor(-6.0).exp())


def test_draws_depend_on_the_generator_alone():
    net = UNet(3, widths=(4, 8), dropout=0.5)
    image = torch.rand(1, 3, 40, 40)

    def tiled(seed):
        generator = torch.Generator().manual_seed(seed)
        return predict_tiled(MCDropout(net, 3), image, likelihood=Categorical(3), tile=(24, 24), overlap=8,
                             generator=generator).probs  # fmt: skip

    assert torch.equal(tiled(0), tiled(0))
    assert not torch.equal(tiled(0), tiled(1))


def test_what_is_no_image_goes_to_every_tile():
    class Scaled(nn.Module):
        def forward(self, image, factor):
            return image[:, :2] * factor

    image = torch.rand(1, 3, 30, 30)
    tiled = predict_tiled(
        Deterministic(Scaled()), image, torch.tensor(2.0), likelihood=Gaussian(), tile=(16, 16), overlap=4
    )
    assert torch.allclose(tiled.mean, 2 * image[:, :1], atol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "choices", "message"),
    [
        ((torch.rand(1, 3, 8, 8),), {"tile": (8, 8), "overlap": 8}, r"tile is \(8, 8\) and overlap 8"),
        ((torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9)), {}, "expected images .* of one size"),
        ((), {}, "expected images"),
    ],
)
def test_refused(inputs, choices, message):
    with pytest.raises(ConfigError, match=message):
        predict_tiled(Deterministic(near(3)), *inputs, likelihood=Categorical(3), **choices)


def test_outputs_of_another_size_are_refused():
    net = nn.Conv2d(3, 3, 1, stride=2)
    with pytest.raises(ConfigError, match=r"a tile of \(8, 8\) gave a prediction of \(4, 4\)"):
        predict_tiled(Deterministic(net), torch.rand(1, 3, 8, 8), likelihood=Categorical(3))


class NovelTiles:
    """Gives the image as output, and its first channel as the novelty score."""

    stochastic, gives_novelty = False, True

    def draws_and_novelty(self, image, generator=None):
        return iter([image[None]]), image[:, 0]


@pytest.mark.parametrize("likelihood", [Categorical(4), Gaussian(dims=2)])
def test_novelty_scores_are_put_together(likelihood):
    image = torch.rand(2, 4, 30, 40)
    tiled = predict_tiled(NovelTiles(), image, likelihood=likelihood, tile=(24, 20), overlap=8)
    assert torch.allclose(tiled.novelty, image[:, 0], atol=1e-6)


def test_one_value_per_image_is_refused():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match="one value for each image"):
        predict_tiled(Deterministic(net), torch.rand(1, 3, 8, 8), likelihood=Categorical(3), tile=(8, 8), overlap=4)

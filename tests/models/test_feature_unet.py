from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.models import EfficientUNet, FeatureUNet
from sfumato.models.feature_unet import IMAGENET_MEAN, IMAGENET_STD, feature_maps


class Encoder(nn.Module):
    """Features at strides 2, 4 and 8, with batch normalization."""

    def __init__(self, returned=list) -> None:
        super().__init__()
        self.returned = returned
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in ((3, 4), (4, 8), (8, 16))
        )

    def forward(self, x: Tensor) -> object:
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return self.returned(found)


@dataclass
class Backbone:
    feature_maps: tuple[Tensor, ...]


FORMS = {
    "list": list,
    "dict": lambda maps: OrderedDict((str(i), value) for i, value in enumerate(maps)),
    "transformers": lambda maps: Backbone(tuple(maps)),
    "smp, the image first": lambda maps: [torch.zeros(1, 3, maps[0].shape[-2] * 2, maps[0].shape[-1] * 2), *maps],
    "smp, features without channels": lambda maps: [maps[0][:, :0], *maps],
    "coarse first": lambda maps: maps[::-1],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_pyramid_is_the_same_network(form):
    torch.manual_seed(0)
    plain = FeatureUNet(5, Encoder()).eval()
    torch.manual_seed(0)
    other = FeatureUNet(5, Encoder(FORMS[form])).eval()
    image = torch.rand(1, 3, 24, 40)
    assert other.strides == (2, 4, 8)
    with torch.no_grad():
        torch.testing.assert_close(other(image), plain(image))


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_size(height, width):
    network = FeatureUNet(2, Encoder()).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, height, width)).shape == (1, 2, height, width)


def test_a_pyramid_without_stride_2_and_with_a_step_of_4():
    class Coarse(Encoder):
        def forward(self, x):
            maps = super().forward(x)
            return [maps[1], nn.functional.avg_pool2d(maps[2], 2)]

    network = FeatureUNet(2, Coarse()).eval()
    assert network.strides == (4, 16)
    with torch.no_grad():
        assert network(torch.rand(2, 3, 17, 33)).shape == (2, 2, 17, 33)


def test_every_parameter_learns():
    network = FeatureUNet(2, Encoder())
    network(torch.rand(2, 3, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_normalization_is_that_of_the_encoder():
    described = Encoder()
    described.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    assert FeatureUNet(2, described).input_normalization == {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    assert FeatureUNet(2, Encoder()).input_normalization == {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    assert FeatureUNet(2, Encoder(), mean=(0, 0, 0), std=(1, 1, 1)).input_normalization["std"] == (1, 1, 1)


def test_frozen_statistics_stay_and_slow_ones_move_less():
    image = torch.rand(4, 3, 32, 32)
    moved = {}
    for kind in ("train", "slow", "frozen"):
        torch.manual_seed(0)
        network = FeatureUNet(2, Encoder(), batch_norm=kind).train()
        network(image)
        norm = network.encoder.blocks[0][1]
        moved[kind] = float(norm.running_mean.abs().max())
        assert norm.training == (kind != "frozen")
        assert network.decoder[0].project[1].training
    assert moved["train"] > moved["slow"] > moved["frozen"] == 0


class Flat(nn.Module):
    def forward(self, x):
        return [x[..., ::4, ::4], x[..., ::4, ::4]]


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such layer\nmore")


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (Flat(), "returns no feature pyramid: .* 32 × 32, 32 × 32, expected"),
        (nn.Identity(), "its features are none"),
        (nn.Conv2d(3, 4, 3, 2, 1), "its features are 64 × 64, expected at least two"),
        (Broken(), "encoder Broken failed on an image of 128 × 128 pixels: RuntimeError: no such layer"),
    ],
)
def test_an_encoder_without_a_pyramid_is_refused(encoder, message):
    with pytest.raises(ConfigError, match=message):
        FeatureUNet(2, encoder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"widths": (8,)}, "widths is .* expected 2 numbers"), ({"batch_norm": "off"}, "expected train, slow or frozen")],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        FeatureUNet(2, Encoder(), **arguments)


def test_a_tensor_alone_is_one_feature():
    assert len(feature_maps(torch.zeros(1, 2, 3, 4))) == 1


def test_efficient_unet_has_imagenet_weights_and_random_ones():
    pretrained, random = EfficientUNet(3).eval(), EfficientUNet(3, pretrained=False)
    assert pretrained.strides == (2, 4, 8, 16, 32)
    assert (pretrained.encoder_rate, random.encoder_rate) == (0.2, 1.0)
    assert pretrained.input_normalization["mean"] == (127 / 255,) * 3
    # Trained filters of the first layer are far from the small random ones.
    first, drawn = (network.encoder.stem[0].weight.std() for network in (pretrained, random))
    assert first > 2 * drawn
    with torch.no_grad():
        assert pretrained(torch.rand(1, 3, 33, 47)).shape == (1, 3, 33, 47)
    assert 3.3e6 < sum(p.numel() for p in pretrained.parameters()) < 3.6e6

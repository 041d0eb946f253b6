"""Encoders of other libraries below the decoder of FeatureUNet, as in docs/pretrained.md, with random weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from interop.networks import smp, timm, transformers  # there torchvision is made importable
from sfumato import Categorical, MCDropout, predict
from sfumato.errors import ConfigError
from sfumato.models import FeatureUNet


def timm_resnet() -> nn.Module:
    return timm.create_model("resnet18", features_only=True, pretrained=False)


def torchvision_resnet() -> nn.Module:
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(resnet18(), {f"layer{number}": str(number) for number in (1, 2, 3, 4)})


def smp_resnet() -> nn.Module:
    return smp.encoders.get_encoder("resnet18", weights=None)


def smp_transformer() -> nn.Module:
    return smp.encoders.get_encoder("mit_b0", weights=None)


def transformers_convnext() -> nn.Module:
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], out_indices=[1, 2, 3, 4])
    return transformers.ConvNextBackbone(config)


STRIDES: dict[Callable[[], nn.Module], tuple[int, ...]] = {
    timm_resnet: (2, 4, 8, 16, 32),
    torchvision_resnet: (4, 8, 16, 32),
    smp_resnet: (2, 4, 8, 16, 32),
    smp_transformer: (4, 8, 16, 32),
    transformers_convnext: (4, 8, 16, 32),
}


@pytest.mark.parametrize("make", STRIDES, ids=lambda make: make.__name__)
def test_encoder(make):
    torch.manual_seed(0)
    network = FeatureUNet(5, make())
    assert network.strides == STRIDES[make]
    network(torch.rand(2, 3, 64, 96)).square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    prediction = predict(MCDropout(network.eval(), samples=3), torch.rand(1, 3, 50, 70), likelihood=Categorical(5))
    assert prediction.probs.shape == (1, 5, 50, 70)
    assert float(prediction.epistemic.mean()) > 0


def test_normalization_of_timm():
    encoder = timm.create_model("tf_mobilenetv3_small_minimal_100", features_only=True, pretrained=False)
    assert FeatureUNet(5, encoder).input_normalization["mean"] == (0.5, 0.5, 0.5)


def test_an_encoder_without_a_pyramid():
    with pytest.raises(ConfigError, match=r"returns no feature pyramid: .* With timm, pass features_only=True"):
        FeatureUNet(5, timm.create_model("resnet18", pretrained=False))

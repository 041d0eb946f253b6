from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfumato.models import UNet


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_any_size(height, width):
    network = UNet(2, widths=(4, 6, 8)).eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, height, width)).shape == (1, 2, height, width)


def test_padding_leaves_the_rest_alone():
    """Only what lies within reach of the border may notice that the image was cut at a size that needs padding."""
    network = UNet(2, widths=(4, 6)).eval()
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole, cut = network(image), network(image[..., :62])
    torch.testing.assert_close(whole[..., :30], cut[..., :30])


def test_size_of_the_default():
    network = UNet(11)
    assert 0.9e6 < sum(p.numel() for p in network.parameters()) < 1.1e6
    assert isinstance(network.head, nn.Conv2d)
    assert network.head.kernel_size == (1, 1)


def test_every_parameter_learns_and_gray_images_work():
    network = UNet(2, widths=(4, 6, 8), in_channels=1)
    network(torch.rand(2, 1, 32, 32)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_dropout_is_central():
    active = [name for name, m in UNet(2).named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    assert active == ["encoder.4.1", "decoder.2.block.2", "decoder.3.block.2", "center"]
    assert not any(isinstance(m, nn.Dropout) and m.p > 0 for m in UNet(2, dropout=0.0).modules())


def test_one_width_is_refused():
    with pytest.raises(ValueError, match="at least 2 levels"):
        UNet(2, widths=(8,))

"""Networks that give one vector for each image."""

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError
from sfumato.models import EfficientPoseNet, PoseNet


@pytest.mark.parametrize("size", [(32, 32), (47, 61), (8, 200)])
def test_any_size_gives_one_vector(size):
    assert PoseNet(28, widths=(4, 8, 8)).eval()(torch.rand(2, 3, *size)).shape == (2, 28)


def test_dropout_and_places_in_the_image():
    network = PoseNet(6, widths=(4, 8), grid=2).eval()
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(network(image), network(image))
    assert not torch.allclose(network(image), network(image.flip(-1)))
    network.train()
    assert not torch.allclose(network(image), network(image))


def test_encoders_of_other_people():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

        def forward(self, image):
            fine = self.fine(image)
            return {"fine": fine, "coarse": self.coarse(fine)}

    network = PoseNet(5, Encoder(), mean=(0.5,) * 3, std=(0.2,) * 3)
    assert (network.stride, network.encoder_rate) == (4, 0.2)
    assert network.input_normalization == {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    assert network(torch.rand(1, 3, 10, 10)).shape == (1, 5)
    with pytest.raises(ConfigError, match="no features"):
        PoseNet(5, nn.Identity())
    with pytest.raises(ConfigError, match="at least 1"):
        PoseNet(5, grid=0)


def test_the_pretrained_encoder():
    pytest.importorskip("efficientnet_lite_pytorch")
    network = EfficientPoseNet(28, pretrained=False).eval()
    assert network.stride == 32
    assert network(torch.rand(1, 3, 33, 40)).shape == (1, 28)

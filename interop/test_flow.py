"""Networks of optical flow from ptlflow, with random weights: vectors in pixels from two pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import interop.networks  # noqa: F401  declares the operators that torchvision needs
from sfumato.likelihoods import L1
from sfumato.methods import DeepEnsemble, Deterministic, MCDropout, TestTimeAugmentation, inject_dropout
from sfumato.predictions import predict
from sfumato.testing import check_method

ptlflow = pytest.importorskip("ptlflow")
NAMES = ("raft_small", "neuflow")
PAIR = torch.rand(2, 2, 3, 128, 128, generator=torch.Generator().manual_seed(0)).unbind()
LIKELIHOOD = L1(2, "px")


class FlowOf(nn.Module):
    """A network of ptlflow as one that takes two images and returns vectors (B, 2, H, W) in pixels.

    Args:
        name: Its name in ptlflow.
        seed: Seed of its random weights.
    """

    predicts_in_units = True

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network = ptlflow.get_model(name)

    def forward(self, image: Tensor, next: Tensor) -> Tensor:
        """The vectors of the last iteration."""
        return self.network({"images": torch.stack([image, next], 1)})["flows"][:, 0]


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


def test_one_pass(name):
    method = Deterministic(FlowOf(name).eval())
    if name != "neuflow":  # it keeps tensors of its last images, which do not move with it to another device
        check_method(method, *PAIR, likelihood=LIKELIHOOD)
    found = predict(method, *PAIR, likelihood=LIKELIHOOD)
    assert found.mean.shape == (2, 2, 128, 128)


def test_ensemble(name):
    method = DeepEnsemble([FlowOf(name, seed).eval() for seed in range(2)])
    assert (predict(method, *PAIR, likelihood=LIKELIHOOD).epistemic > 0).any()


def test_mirrored_pairs(name):
    method = TestTimeAugmentation(FlowOf(name).eval(), along_x=(0,), along_y=(1,))
    there = predict(method, *PAIR, likelihood=LIKELIHOOD).mean
    back = predict(method, *(each.flip(-1) for each in PAIR), likelihood=LIKELIHOOD).mean
    sign = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    torch.testing.assert_close(back, sign * there.flip(-1), atol=1e-2, rtol=1e-2)


def test_dropout_that_is_put_in():
    network = FlowOf("neuflow").eval()
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    dropout = inject_dropout(network, where=layers[0].replace(".", r"\."), p=0.3)
    method = MCDropout(network, 2, chunk=1)
    found = predict(method, *PAIR, likelihood=LIKELIHOOD, generator=torch.Generator().manual_seed(0))
    assert (found.epistemic > 0).any()
    dropout.remove()
    with pytest.raises(ValueError, match="no dropout with p > 0"):
        predict(method, *PAIR, likelihood=LIKELIHOOD)

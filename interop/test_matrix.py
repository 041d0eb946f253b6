"""Every method on many public networks. Where a method cannot be used, its error says so and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interop.networks import CLASSES, NETWORKS, built
from sfumato.likelihoods import Categorical
from sfumato.methods import (
    SWAG,
    DeepEnsemble,
    Deterministic,
    FeatureDensity,
    LastLayerLaplace,
    MCDropout,
    TestTimeAugmentation,
    inject_dropout,
)
from sfumato.methods._replay.record import NotRecordable
from sfumato.testing import check_method

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
LIKELIHOOD = Categorical(CLASSES)
TARGET = torch.randint(CLASSES, (2, 64, 64), generator=torch.Generator().manual_seed(1))
BATCHES = [((IMAGES,), TARGET, torch.ones(2, 64, 64, dtype=torch.bool))]

# Networks without dropout, and the blocks of their decoders behind which it is put.
DROPLESS = {
    "smp U-Net": r"decoder\.blocks\.\d+",
    "smp Segformer": r"decoder\.fuse_stage",
    "torchvision LR-ASPP": r"network\.classifier\.cbr",
    "transformers UPerNet": r"network\.decode_head\.fpn_bottleneck",
}
DEEP = ("smp Segformer", "transformers SegFormer", "transformers UPerNet", "timm ConvNeXt, own head")


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def drawn(method: MCDropout) -> Tensor:
    return torch.cat(list(method.draws(IMAGES, generator=torch.Generator().manual_seed(0))))


def test_deterministic(name):
    network = built(name)
    check_method(Deterministic(network), IMAGES, likelihood=LIKELIHOOD)


def test_mc_dropout(name, monkeypatch):
    network = built(name)
    method = MCDropout(network, 3, chunk=1)  # one draw at a time is what is recorded
    if name in DROPLESS:
        with pytest.raises(ValueError, match="no dropout with p > 0"):
            drawn(method)
        dropout = inject_dropout(network, where=DROPLESS[name], p=0.2)
    check_method(method, IMAGES, likelihood=LIKELIHOOD)
    draws, plan = drawn(method), method.plan(IMAGES)
    print(f"{name}: {plan}")
    assert plan.startswith("replayed: ")
    assert (draws.std(0) > 0).flatten(1).any(1).all()

    def unrecorded(_run):
        raise NotRecordable("asked not to")

    with monkeypatch.context() as patch:
        patch.setattr("sfumato.methods.mc_dropout.record", unrecorded)
        with pytest.warns(UserWarning, match="asked not to"):
            torch.testing.assert_close(drawn(method), draws)
    for chunk in (2, None):  # None: all at once, if the network allows it
        torch.testing.assert_close(drawn(MCDropout(network, 3, chunk=chunk)), draws, atol=1e-4, rtol=1e-4)
    if name in DROPLESS:
        dropout.remove()
        with pytest.raises(ValueError, match="no dropout with p > 0"):
            drawn(method)


@pytest.mark.parametrize("name", DEEP)
def test_stochastic_depth(name):
    network = built(name)
    method = MCDropout(network, 3, stochastic_depth=True)
    check_method(method, IMAGES, likelihood=LIKELIHOOD)
    assert method.plan(IMAGES).startswith("replayed: ")
    if name in DROPLESS:
        with pytest.raises(ValueError, match=r"stochastic_depth=True\) activates its \d+ modules"):
            drawn(MCDropout(network, 3))


def test_attention_drops_too():
    """DPT drops attention weights. In evaluation mode the attention function receives a probability of 0."""
    network = built("transformers DPT")
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert drawn(MCDropout(network, 3)).std(0).max() > 0


def test_ensemble(name):
    members = [built(name) for _ in range(2)]
    for index, member in enumerate(members):
        torch.manual_seed(index)
        for parameter in member.parameters():
            nn.init.normal_(parameter, std=0.05)
    check_method(DeepEnsemble(members), IMAGES, likelihood=LIKELIHOOD)
    first, second = DeepEnsemble(members).draws(IMAGES)
    assert not torch.equal(first, second)


def test_time_augmentation(name):
    network = built(name)
    method = TestTimeAugmentation(network, ("none", "horizontal", "both"))
    check_method(method, IMAGES, likelihood=LIKELIHOOD)


def test_swag(name):
    network = built(name)
    generator = torch.Generator().manual_seed(0)
    snapshots = [
        {key: value + 0.05 * value.std() * torch.randn(value.shape, generator=generator) for key, value in weights}
        for weights in [[(k, p.detach()) for k, p in network.named_parameters() if p.numel() > 1]] * 3
    ]
    rest = {key: p.detach() for key, p in network.named_parameters() if p.numel() == 1}
    method = SWAG.of(network, [rest | snapshot for snapshot in snapshots], [(IMAGES,)], rank=2, samples=2)
    check_method(method, IMAGES, likelihood=LIKELIHOOD)


def last(network: nn.Module) -> nn.Conv2d:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)][-1]


def test_feature_density(name):
    network = built(name)
    method = FeatureDensity.fit(network, last(network), BATCHES, CLASSES)
    check_method(method, IMAGES, likelihood=LIKELIHOOD)
    output, density = method.look(IMAGES)
    assert torch.equal(output, next(Deterministic(network).draws(IMAGES))[0])
    assert density.shape == (2, 64, 64)
    assert density.isfinite().all()
    assert (density <= method.peak + 1e-3).all()


# A head of 3 × 3, two heads whose logits are added, and masks that queries weigh.
NOT_LAST = {
    "smp U-Net": "expected a 1 × 1 convolution",
    "torchvision LR-ASPP": "is not what .* does last",
    "transformers Mask2Former": "expected a 1 × 1 convolution",
}


def test_laplace(name):
    network = built(name)
    heads = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.out_channels == CLASSES]
    head = heads[-1] if heads else last(network)
    if name in NOT_LAST:
        with pytest.raises(ValueError, match=NOT_LAST[name]):
            LastLayerLaplace.fit(network, head, BATCHES, LIKELIHOOD.nll)
        return
    method = LastLayerLaplace.fit(network, head, BATCHES, LIKELIHOOD.nll, samples=3)
    check_method(method, IMAGES, likelihood=LIKELIHOOD)

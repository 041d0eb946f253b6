"""Methods that convert a network, or carry variances through it, on every network that users bring."""

from __future__ import annotations

import pytest
import torch

from interop.networks import NETWORKS, built
from interop.test_matrix import DROPLESS, IMAGES, LIKELIHOOD
from sfumato.methods import (
    BatchEnsemble,
    MCDropout,
    MultiHead,
    VariancePropagation,
    Variational,
    inject_concrete_dropout,
    inject_dropout,
    kl_divergence,
    make_batch_ensemble,
    make_multi_head,
    make_variational,
)
from sfumato.testing import check_method

# The last convolution is not all there is: another head's logits are added, or masks weighed by queries.
BESIDE = ("torchvision LR-ASPP", "transformers Mask2Former")
# Layer normalization after a dropout has no rule by which variance passes it.
IMPASSABLE = ("transformers DPT", "transformers Mask2Former")


@pytest.mark.parametrize("name", NETWORKS)
def test_variance_propagation(name):
    network = built(name)
    method = VariancePropagation(network, 3)
    if name in IMPASSABLE:
        with pytest.raises(ValueError, match=r"cannot be propagated through layer_norm: use MCDropout"):
            method.moments(IMAGES)
        return
    if name in DROPLESS:
        with pytest.raises(ValueError, match="no dropout with p > 0"):
            method.moments(IMAGES)
        inject_dropout(network, 0.2, DROPLESS[name])
    check_method(method, IMAGES, likelihood=LIKELIHOOD, network=network, random=False)
    assert method.moments(IMAGES)[1].max() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_variational(name):
    network = built(name).eval()
    with torch.no_grad():
        before = network(IMAGES)
    attached = make_variational(network)
    assert kl_divergence(network).isfinite()
    check_method(Variational(network, 2), IMAGES, likelihood=LIKELIHOOD, network=network)
    attached.remove()
    with torch.no_grad():
        assert torch.equal(network(IMAGES), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_concrete_dropout(name):
    network = built(name).eval()
    with torch.no_grad():
        before = network(IMAGES)
    attached = inject_concrete_dropout(network, 0.1)
    check_method(MCDropout(network, 2), IMAGES, likelihood=LIKELIHOOD, network=network)
    attached.remove()
    with torch.no_grad():
        assert torch.equal(network(IMAGES), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_ensemble(name):
    network = built(name).train()
    make_batch_ensemble(network, 2)
    network(torch.cat([IMAGES, IMAGES])).square().mean().backward()
    factors = [p for key, p in network.named_parameters() if ".rank_one." in key and p.grad is not None]
    assert all(bool((p.grad.norm(dim=1) > 0).all()) for p in factors[-2:])  # of both members, in the last layer
    check_method(BatchEnsemble(network), IMAGES, likelihood=LIKELIHOOD, network=network, random=False)
    first, second = next(BatchEnsemble(network).draws(IMAGES))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", NETWORKS)
def test_multi_head(name):
    network = built(name)
    head = [key for key, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)][-1]
    make_multi_head(network, head, 3)
    if name in BESIDE:
        with pytest.raises(ValueError, match=r"adds what the heads have not seen; .* take make_batch_ensemble"):
            next(MultiHead(network).draws(IMAGES))
        return
    check_method(MultiHead(network), IMAGES, likelihood=LIKELIHOOD, network=network, random=False)
    first, second, _ = next(MultiHead(network).draws(IMAGES))
    assert not torch.equal(first, second)

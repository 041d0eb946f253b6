"""Methods that convert a network, or propagate variances through it, on many public networks."""

from __future__ import annotations

import re

import pytest
import torch

from interop.networks import NETWORKS, built
from interop.test_matrix import BATCHES, DROPLESS, IMAGES, LIKELIHOOD
from sfumato.methods import (
    BatchEnsemble,
    Deterministic,
    LatentDraws,
    MCDropout,
    MultiHead,
    VariancePropagation,
    Variational,
    inject_concrete_dropout,
    inject_dropout,
    kl_divergence,
    latent_elbo,
    make_batch_ensemble,
    make_latent,
    make_multi_head,
    make_variational,
)
from sfumato.testing import check_method

# More than the last convolution makes the output: another head's logits are added, or queries weigh masks.
BESIDE = ("torchvision LR-ASPP", "transformers Mask2Former")
# There is no rule for the variance after a layer normalization.
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
        inject_dropout(network, where=DROPLESS[name], p=0.2)
    check_method(method, IMAGES, likelihood=LIKELIHOOD)
    assert method.moments(IMAGES)[1].max() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_variational(name):
    network = built(name).eval()
    with torch.no_grad():
        before = network(IMAGES)
    conversion = make_variational(network)
    assert kl_divergence(network).isfinite()
    check_method(Variational(network, 2), IMAGES, likelihood=LIKELIHOOD)
    conversion.remove()
    with torch.no_grad():
        assert torch.equal(network(IMAGES), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_concrete_dropout(name):
    network = built(name).eval()
    with torch.no_grad():
        before = network(IMAGES)
    conversion = inject_concrete_dropout(network, p=0.1)
    check_method(MCDropout(network, 2), IMAGES, likelihood=LIKELIHOOD)
    conversion.remove()
    with torch.no_grad():
        assert torch.equal(network(IMAGES), before)


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_ensemble(name):
    network = built(name).train()
    make_batch_ensemble(network, members=2)
    network(torch.cat([IMAGES, IMAGES])).square().mean().backward()
    factors = [p for key, p in network.named_parameters() if ".rank_one." in key and p.grad is not None]
    assert all(bool((p.grad.norm(dim=1) > 0).all()) for p in factors[-2:])  # of both members, in the last layer
    check_method(BatchEnsemble(network), IMAGES, likelihood=LIKELIHOOD)
    first, second = next(BatchEnsemble(network).draws(IMAGES))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", NETWORKS)
def test_multi_head(name):
    network = built(name)
    head = [key for key, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)][-1]
    make_multi_head(network, where=re.escape(head), members=3)
    if name in BESIDE:
        with pytest.raises(ValueError, match=r"adds what the heads have not read.* use make_batch_ensemble"):
            next(MultiHead(network).draws(IMAGES))
        return
    check_method(MultiHead(network), IMAGES, likelihood=LIKELIHOOD)
    first, second, _ = next(MultiHead(network).draws(IMAGES))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", NETWORKS)
def test_latent(name):
    network = built(name)
    conversion = make_latent(network)
    (inputs, target, valid), *_ = BATCHES
    assert latent_elbo(network, inputs, target, valid, LIKELIHOOD.nll).isfinite().all()
    check_method(LatentDraws(network, 2), IMAGES, likelihood=LIKELIHOOD)
    conversion.remove()
    check_method(Deterministic(network), IMAGES, likelihood=LIKELIHOOD)

"""Methods that convert a network, or carry variances through it, on every network that users bring."""

from __future__ import annotations

import pytest
import torch

from interop.networks import NETWORKS, built
from interop.test_matrix import DROPLESS, IMAGES, LIKELIHOOD
from sfumato.methods import (
    MCDropout,
    VariancePropagation,
    Variational,
    inject_concrete_dropout,
    inject_dropout,
    kl_divergence,
    make_variational,
)
from sfumato.testing import check_method

# Layer normalisation after a dropout has no rule by which variance passes it.
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

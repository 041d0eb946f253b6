"""The cross-entropy by both of its ways."""

import pytest
import torch

from sfumato.likelihoods import Categorical


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def loss_and_slope(logits, target, valid):
    logits = logits.clone().requires_grad_()
    loss = Categorical(logits.shape[1]).nll(logits, target, valid)
    loss.sum().backward()
    return loss.detach(), logits.grad


def case():
    torch.manual_seed(0)
    logits, target, valid = torch.randn(2, 4, 5, 6), torch.randint(4, (2, 5, 6)), torch.rand(2, 5, 6) < 0.7
    return logits, target.where(valid, 255), valid


def test_the_deterministic_loss_is_the_same(request):
    usual = loss_and_slope(*case())
    request.getfixturevalue("deterministic")
    other = loss_and_slope(*case())
    for one, two in zip(usual, other):
        torch.testing.assert_close(one, two)
    assert not usual[0][~case()[2]].any()
    assert not other[1].movedim(1, -1)[~case()[2]].any()

"""Train on probabilities of classes in the place of classes."""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.contracts import Loss

SOFT = "_soft"
"""The sample entry ``KEY_soft`` holds the probabilities (K, *event) of the classes ``KEY``."""


def expected(nll: Loss) -> Loss:
    """The loss under a distribution over the classes: ``Σ_k t_k · nll(f, k)``.

    Its minimum over p is at ``p = t`` for the negative log likelihood ``−log p_k``.

    Args:
        nll: The loss of an output, classes (B, *event) and a mask.

    Returns:
        The loss of an output, probabilities (B, K, *event) and a mask.

    >>> from torch.nn.functional import cross_entropy
    >>> loss = expected(lambda output, target, valid: cross_entropy(output, target, reduction="none"))
    >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.25, 0.75]]), torch.tensor([True]))  # log(1 + 1/e) + 0.75
    tensor([1.0633])
    """

    def loss(output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        terms = [
            probability.where(valid, 0) * nll(output, torch.full_like(probability, k, dtype=torch.int64), valid)
            for k, probability in enumerate(target.unbind(1))
        ]
        return torch.stack(terms).sum(0)

    return loss

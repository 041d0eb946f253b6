"""Classes: a distribution over class probabilities, which the network predicts in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sfumato.likelihoods.class_likelihood import ClassLikelihood, check_weight
from sfumato.predictions import ClassMoments, entropy

BLOCK = 1 << 17  # numbers that are computed together


@dataclass(frozen=True)
class Dirichlet(ClassLikelihood):
    """``p ~ Dirichlet(α)`` with ``α = 1 + softplus(f)``. The evidence ``α − 1`` counts similar training pixels.

    One pass gives both parts in closed form. With ``S = Σ α`` the mean probabilities are ``α / S``, the aleatoric part
    is the mean entropy ``−Σ α_k/S (ψ(α_k + 1) − ψ(S + 1))``, and the epistemic part is the rest of the total.

    Args:
        classes: Number K ≥ 2 of classes and of output channels.
        regularization: Weight ≥ 0 of the divergence that removes evidence for wrong classes. Default 0.05.

    Raises:
        ConfigError: If ``classes`` is less than 2 or the weight is negative.

    Source: Sensoy et al. (2018), "Evidential deep learning to quantify classification uncertainty", eq. 4 and 5. The
    closed form of the mean entropy is that of Malinin and Gales (2018).
    Pitfall: The loss, not the data, determines the amount of evidence. So the epistemic part orders pixels, but its
    size means little (Bengs et al. 2022). The paper raises ``regularization`` during training; here it is constant.

    >>> Dirichlet(2).moments(torch.zeros(1, 2)).prediction().probs
    tensor([[0.5000, 0.5000]])
    """

    regularization: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weight("regularization", self.regularization)

    @property
    def channels(self) -> int:
        """K."""
        return self.classes

    def nll(self, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        """``E_p[−log p_y] = ψ(S) − ψ(α_y)`` and the weighted divergence (B, *event), 0 where not valid."""
        index = target.where(valid, 0).unsqueeze(1)
        alpha = 1 + softplus(output.where(valid.unsqueeze(1), 0.0))
        surprise = torch.digamma(alpha.sum(1)) - torch.digamma(alpha.gather(1, index).squeeze(1))
        wrong = alpha.scatter(1, index, 1.0)  # the evidence for the true class is kept
        return (surprise + self.regularization * _from_uniform(wrong)).where(valid, 0.0)

    def probabilities(self, output: Tensor) -> Tensor:
        """The mean probabilities ``α / S`` (B, K, *event), with a gradient."""
        alpha = 1 + softplus(output)
        return alpha / alpha.sum(1, keepdim=True)

    def moments(self, output: Tensor) -> ClassMoments:
        """The mean probabilities, and the mean entropy of probabilities drawn from the Dirichlet distribution."""
        flat = output.reshape(*output.shape[:2], -1)
        # In blocks, so that intermediate results stay in the cache. A compiler makes one loop of all.
        pixels = max(1, BLOCK // output.shape[1])
        blocks = (flat,) if torch.compiler.is_compiling() else flat.split(pixels, 2)
        probs, entropies = (torch.cat(parts, -1) for parts in zip(*map(_mean_distribution, blocks), strict=True))
        return ClassMoments(1, probs.view(output.shape), entropies.view(len(output), *output.shape[2:]))


def _mean_distribution(output: Tensor) -> tuple[Tensor, Tensor]:
    """Mean probabilities (B, K, N) and mean entropy (B, N)."""
    alpha = 1 + softplus(output)
    total = alpha.sum(1, keepdim=True)
    probs = alpha / total
    mean_entropy = (probs * (_digamma(total + 1) - _digamma(alpha + 1))).sum(1)
    # Rounding must not make it larger than the entropy of the mean probabilities.
    return probs, torch.minimum(mean_entropy, entropy(probs))


def _digamma(x: Tensor) -> Tensor:
    """``ψ(x)`` for x ≥ 2 to single precision, faster than torch's own on a CPU, which is not vectorized.

    ``ψ(x) = ψ(x + 2) − 1/x − 1/(x + 1)``, and ψ(w + ½) in powers of 1/w², whose next term is less than 2e-7 there.
    """
    w = x + 1.5
    z = w.square().reciprocal()
    series = w.log() + z * (1 / 24 - z * (7 / 960 - z * (31 / 8064)))
    return series - (2 * x + 1) / (x * (x + 1))


def _from_uniform(alpha: Tensor) -> Tensor:
    """Kullback–Leibler divergence (B, *event) of Dirichlet(α) from the uniform distribution over the simplex."""
    total, classes = alpha.sum(1), torch.tensor(float(alpha.shape[1]), device=alpha.device)
    slope = ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(total)[:, None])).sum(1)
    return torch.lgamma(total) - torch.lgamma(alpha).sum(1) - torch.lgamma(classes) + slope

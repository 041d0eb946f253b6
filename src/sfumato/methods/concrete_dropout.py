"""Dropout whose probabilities are learned."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.methods.attachment import Attachment, Posterior, attach, fan_in, posteriors

TEMPERATURE = 0.1  # of the relaxation; that of the source
DROPPED = {nn.Linear: F.dropout, nn.Conv1d: F.dropout1d, nn.Conv2d: F.dropout2d, nn.Conv3d: F.dropout3d}


class Rate(Posterior):
    """The probability, as a logit, that an input feature of a layer is dropped."""

    def __init__(self, layer: nn.Module, p: float, prior: float) -> None:
        super().__init__()
        self.precision = fan_in(layer) / prior**2
        self.logit = nn.Parameter(layer.get_parameter("weight").new_tensor(math.log(p / (1 - p))))

    def kl(self, layer: nn.Module) -> Tensor:
        """Up to a constant, ``‖W‖² / (2 σ₀² (1 − p)) − F H(p)``, for F input features that are dropped or kept."""
        p = self.logit.sigmoid()
        squares = layer.get_parameter("weight").square().sum()
        entropy = F.softplus(self.logit) - p * self.logit  # −p log p − (1 − p) log(1 − p)
        features = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
        return self.precision * squares / (2 * (1 - p)) - features * entropy  # pyright: ignore[reportOperatorIssue]


def inject_concrete_dropout(
    network: nn.Module,
    p: float = 0.1,
    *,
    prior: float = 1.0,
    where: str | type | tuple[type, ...] = nn.Conv2d,
) -> Attachment:
    r"""Put dropout before layers of a network, in place, each with a probability that training learns.

    While training, masks are relaxed so that the loss has a gradient with respect to p:
    ``z = sigmoid((logit p + logit u) / 0.1)`` with u uniform, and features become ``x (1 − z) / (1 − p)``. Whole
    feature maps are dropped before convolutions, single features before linear layers. Add
    ``kl_divergence(network) / N`` to the mean loss, and no weight decay, which the prior is. In evaluation mode it is
    dropout like any other: off, and forced_dropout under :class:`MCDropout` with p as learned, which is how to predict with it.

    Args:
        network: its code stays as it is; its state gets entries named ``….posterior.logit``.
        p: probability in (0, 1) to begin with.
        prior: weights are a priori ``N(0, prior² / fan-in)``; above 0.
        where: a regular expression that matches the whole names of modules, or types of modules. Of them, convolutions
            and linear layers get dropout; subclasses do not.

    Returns:
        What was done, to undo it with ``remove()``.

    Raises:
        ValueError: if ``p`` is not in (0, 1), ``prior`` not above 0, no such layer is meant, or one has been given
            something to learn before.

    Source: Gal, Hron and Kendall (2017), "Concrete dropout".
    Pitfall: with as many pixels as a data set has, the regularizer weighs little and p falls wherever dropout does not
    help the fit: look at :func:`dropout_rates`. Keep it from the image itself with ``where``, and set the network's own
    dropout to 0.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> rates = inject_concrete_dropout(net, 0.2, where="2")
    >>> {name: round(rate, 3) for name, rate in dropout_rates(net).items()}
    {'2': 0.2}
    """
    if not 0 < p < 1 or prior <= 0:
        raise ValueError(f"p is {p} and prior {prior}, expected p in (0, 1) and prior above 0")
    return attach(
        network,
        where,
        tuple(DROPPED),
        lambda layer: Rate(layer, p, prior),
        lambda layer: layer.register_forward_pre_hook(_drop, with_kwargs=True),
    )


def dropout_rates(network: nn.Module) -> dict[str, float]:
    """The probability that each layer with concrete dropout has learned, by the layer's name."""
    return {
        name: posterior.logit.sigmoid().item()
        for name, _, posterior in posteriors(network)
        if isinstance(posterior, Rate)
    }


def _drop(layer: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    """The arguments with features of the first dropped."""
    logit = layer.get_submodule("posterior").get_parameter("logit")
    x, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
    if layer.training:
        dropped = _relaxed(layer, x, logit)
    elif torch.compiler.is_compiling():  # a graph has no dropout in evaluation mode, and cannot look at p
        return None
    else:
        dropped = DROPPED[type(layer)](x, logit.detach().sigmoid().item(), False)
    return (dropped, *rest), {key: value for key, value in kwargs.items() if key != "input"}


def _relaxed(layer: nn.Module, x: Tensor, logit: Tensor) -> Tensor:
    trailing = layer.get_parameter("weight").ndim - 2  # dimensions behind the channels
    shape = x.shape[: x.ndim - trailing] + (1,) * trailing
    uniform = torch.rand(shape, device=x.device).clamp(1e-7, 1 - 1e-7)
    kept = (-(logit + uniform.logit()) / TEMPERATURE).sigmoid()  # 1 − z
    return x * (kept * (1 + logit.exp())).to(x.dtype)  # 1 / (1 − p) = 1 + exp(logit p)

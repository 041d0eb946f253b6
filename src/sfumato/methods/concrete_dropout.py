"""Dropout whose probabilities are learned."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import ConfigError
from sfumato.methods import mc_dropout
from sfumato.methods.conversion import Conversion, Where, add_children, disable_dropout, input_features
from sfumato.methods.posterior import NAME, Posterior, fan_in, kl_divergence, posteriors
from sfumato.methods.training import MethodTraining

TEMPERATURE = 0.1  # of the relaxed masks, as in the source
DROPOUTS: dict[type[nn.Module], Callable[[Tensor, float, bool], Tensor]] = {
    nn.Linear: F.dropout,
    nn.Conv1d: F.dropout1d,
    nn.Conv2d: F.dropout2d,
    nn.Conv3d: F.dropout3d,
}


class Rate(Posterior):
    """The probability, as a logit, that an input feature of a layer is dropped."""

    logit: nn.Parameter

    def __init__(self, layer: nn.Module, p: float, prior: float) -> None:
        super().__init__()
        self.precision = fan_in(layer) / prior**2
        self.logit = nn.Parameter(layer.get_parameter("weight").new_tensor(math.log(p / (1 - p))))

    def kl(self, layer: nn.Module) -> Tensor:
        """``‖W‖² / (2 σ₀² (1 − p)) − F H(p)`` up to a constant, for F input features that are dropped or kept."""
        p = self.logit.sigmoid()
        squares = layer.get_parameter("weight").square().sum()
        entropy = F.softplus(self.logit) - p * self.logit  # −p log p − (1 − p) log(1 − p)
        return self.precision * squares / (2 * (1 - p)) - input_features(layer) * entropy


def inject_concrete_dropout(
    network: nn.Module, *, where: Where = nn.Conv2d, p: float = 0.1, prior: float = 1.0
) -> Conversion:
    r"""Put dropout before layers of a network, in place. Training learns the probability of each layer.

    ``z = sigmoid((logit p + logit u) / 0.1)`` with u uniform; features become ``x (1 − z) / (1 − p)``. These relaxed
    masks are used in training mode, so that the loss has a gradient with respect to p. Whole feature maps are dropped
    before convolutions, single features before linear layers. Add ``kl_divergence(network) / N`` to the mean loss and
    use no weight decay, which the prior replaces. In evaluation mode it is ordinary dropout with the learned p:
    inactive, and active under :class:`MCDropout`, which makes the predictions.

    Args:
        network: Any module. Its code stays as it is. Its state gets entries named ``….posterior.logit``.
        where: A regular expression that matches the whole names of modules, or types of modules. Of them, convolutions
            and linear layers get dropout; subclasses do not. Default: all 2-d convolutions.
        p: Probability in (0, 1) at the start of training. Default 0.1.
        prior: Weights are a priori ``N(0, prior² / fan-in)``. Above 0. Default 1.

    Returns:
        What was done. Its ``remove()`` takes the dropout away again.

    Raises:
        ConfigError: If ``p`` is not in (0, 1), ``prior`` is not above 0, no such layer is selected, or a layer has a
            learned distribution already.

    Source: Gal, Hron and Kendall (2017), "Concrete dropout".
    Pitfall: A data set has many pixels, so the regularizer weighs little, and p falls wherever dropout does not help
    the fit: look at :func:`dropout_rates`. Do not drop the channels of the image (use ``where``), and set the network's
    own dropout to 0.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> conversion = inject_concrete_dropout(net, where="2", p=0.2)
    >>> {name: round(rate, 3) for name, rate in dropout_rates(net).items()}
    {'2': 0.2}
    """
    if not 0 < p < 1 or prior <= 0:
        raise ConfigError(f"p is {p} and prior {prior}, expected p in (0, 1) and prior above 0")
    return add_children(
        network,
        where,
        NAME,
        lambda layer: Rate(layer, p, prior),
        lambda layer: [layer.register_forward_pre_hook(_drop, with_kwargs=True)],
    )


def dropout_rates(network: nn.Module) -> dict[str, float]:
    """The probability that each layer with concrete dropout has learned, by the layer's name."""
    return {
        name: posterior.logit.sigmoid().item()
        for name, _, posterior in posteriors(network)
        if isinstance(posterior, Rate)
    }


def _drop(
    layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]] | None:
    """The arguments, with features of the first one dropped."""
    logit = layer.get_submodule(NAME).get_parameter("logit")
    x, rest = (args[0], args[1:]) if args else (kwargs["input"], ())
    if layer.training:
        dropped = _relaxed(layer, x, logit)
    elif torch.compiler.is_compiling():  # a graph has no dropout in evaluation mode, and cannot read p
        return None
    else:
        dropped = DROPOUTS[type(layer)](x, logit.detach().sigmoid().item(), False)
    return (dropped, *rest), {key: value for key, value in kwargs.items() if key != "input"}


def _relaxed(layer: nn.Module, x: Tensor, logit: Tensor) -> Tensor:
    trailing = layer.get_parameter("weight").ndim - 2  # dimensions behind the channels
    shape = x.shape[: x.ndim - trailing] + (1,) * trailing
    uniform = torch.rand(shape, device=x.device).clamp(1e-7, 1 - 1e-7)
    kept = (-(logit + uniform.logit()) / TEMPERATURE).sigmoid()  # 1 − z
    return x * (kept * (1 + logit.exp())).to(x.dtype)  # 1 / (1 − p) = 1 + exp(logit p)


def _attach(network: nn.Module, members: int) -> None:
    """Concrete dropout before every convolution except those that read the image, whose colors are not features."""
    modules = network.named_modules()
    names = [re.escape(name) for name, m in modules if isinstance(m, nn.Conv2d) and m.in_channels > 3]
    if not names:
        raise ConfigError(
            "concrete-dropout drops what convolutions with more than 3 input channels read, and the network has none: "
            "choose another method"
        )
    disable_dropout(network)
    inject_concrete_dropout(network, where="|".join(names))


TRAINING = MethodTraining(mc_dropout.build, attach=_attach, penalty=kl_divergence)

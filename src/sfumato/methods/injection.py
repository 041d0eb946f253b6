"""Dropout for networks that were built without it."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import ConfigError
from sfumato.methods.conversion import Conversion, Where, chosen


def inject_dropout(network: nn.Module, *, where: Where = nn.Conv2d, p: float = 0.1) -> Conversion:
    r"""Put dropout behind modules of a network, in place.

    Whole feature maps of outputs (B, C, H, W) are dropped, as by ``nn.Dropout2d``. Of other outputs single features are
    dropped. The dropout follows the module's mode: it is active in training mode, inactive in evaluation mode, and
    active under :class:`MCDropout`.

    Args:
        network: Any module. Its code stays as it is.
        where: A regular expression that matches the whole names of modules, as in ``r"decoder\.\d+"``, or types of
            modules. Default: all 2-d convolutions.
        p: Probability in (0, 1) that a feature is dropped. Default 0.1.

    Returns:
        What was done. Its ``remove()`` takes the dropout away again.

    Raises:
        ConfigError: If ``p`` is not in (0, 1), or no module is selected. Later, when the network is called, if a
            selected module does not return a tensor.

    Source: Gal and Ghahramani (2016).
    Pitfall: A network that was not trained with this dropout loses accuracy by it, and its spread means little. Train
    it further, or keep ``p`` small and look at the calibration. A type selects the last layer too, whose outputs should
    not be dropped: select by names then.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))
    >>> inject_dropout(net, where="1", p=0.2).modules
    ('1',)
    """
    if not 0 < p < 1:
        raise ConfigError(f"p is {p}, expected the probability that a feature is dropped, in (0, 1)")
    named = chosen(network, where)
    handles = [module.register_forward_hook(partial(_drop, name, p)) for name, module in named]
    return Conversion(tuple(name for name, _ in named), tuple(handle.remove for handle in handles))


def _drop(name: str, p: float, module: nn.Module, inputs: tuple[object, ...], output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"module {name} returns a {type(output).__name__}, and dropout can only follow modules that return a "
            "tensor: take it away with remove(), and name a module inside"
        )
    dropout = F.dropout2d if output.ndim == 4 else F.dropout
    return dropout(output, p, module.training)

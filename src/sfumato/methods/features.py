"""What one layer of a network reads, and which layer makes the output."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from sfumato.contracts import Inputs
from sfumato.errors import ConfigError
from sfumato.methods.base import evaluating, tensor

Resize = Callable[[Tensor], Tensor]
INTERPOLATIONS: tuple[tuple[str, bool | None], ...] = (
    ("bilinear", False),
    ("bilinear", True),
    ("nearest", None),
    ("bicubic", False),
)


def layer_name(network: nn.Module, layer: str | nn.Module) -> str:
    """The name of a layer in a network.

    Args:
        network: Any module.
        layer: One of its modules, or the name of one.

    Raises:
        ConfigError: If the network has no such module.
    """
    for name, module in network.named_modules():
        if (name if isinstance(layer, str) else module) == layer:
            return name
    names = ", ".join(name for name, _ in list(network.named_modules())[1:13])
    raise ConfigError(f"{type(network).__name__} has no module {layer!s}: its modules are {names}")


def last_layer(network: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Conv2d,)) -> str:
    """The name of the last layer of these types, in the order in which the network declares its modules.

    Raises:
        ConfigError: If there is none.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, kinds) and name]
    if not names:
        known = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"{type(network).__name__} has no {known}: name the layer")
    return names[-1]


def output_layer(network: nn.Module, inputs: Inputs) -> str:
    """The name of the convolution that makes the output of the network, up to an interpolation to another size.

    Args:
        network: Any module that returns one tensor (B, C, H, W).
        inputs: The inputs of one batch. The network is run a few times.

    Raises:
        ConfigError: If no convolution does.
    """
    called: list[str] = []
    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)]
    handles = [layer.register_forward_hook(lambda *_, name=name: called.append(name)) for name, layer in layers]
    try:
        with evaluating(network):
            channels = tensor(network(*inputs)).shape[1]
    finally:
        for handle in handles:
            handle.remove()
    for name in dict.fromkeys(reversed(called)):
        if network.get_parameter(f"{name}.weight").shape[0] == channels:
            try:
                split_at(network, name, inputs)
            except ConfigError:
                continue
            return name
    raise ConfigError(
        f"{type(network).__name__} does not end with a convolution, so its last layer cannot be found: use the method "
        "from Python and name the layer, or choose another method"
    )


def read_by(network: nn.Module, layer: str, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """From one pass: the features that a layer reads, what it returns, and what the network returns.

    Args:
        network: Any module that returns one tensor.
        layer: The name of the layer.
        inputs: The inputs of one batch.

    Raises:
        ConfigError: If the layer is not called, or the network does not return a tensor.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_: nn.Module, read: tuple[Tensor, ...], returned: Tensor) -> None:
        seen.append((read[0], returned))

    handle = network.get_submodule(layer).register_forward_hook(look)
    try:
        with evaluating(network):
            output = tensor(network(*inputs))
    finally:
        handle.remove()
    if not seen:
        raise ConfigError(f"{type(network).__name__} does not call its module {layer!r}: name a layer that it calls")
    return *seen[-1], output


def split_at(network: nn.Module, head: str, inputs: Inputs) -> tuple[Tensor, Tensor, Resize]:
    """What the last layer reads (B, F, h, w), the network's output (B, C, H, W), and the map from h × w to H × W.

    The map interpolates, or cuts off the last rows and columns, which were padded. An output (B, C) has one vector for
    each image; then h and w are 1 and the map drops them.

    Args:
        network: Any module that returns one tensor.
        head: The name of its last layer. Only an interpolation to another size, or a cut, may follow it.
        inputs: The inputs of one batch.

    Raises:
        ConfigError: If something else follows the layer.
    """
    features, returned, output = read_by(network, head, inputs)
    if returned is output:
        return features, output, lambda maps: maps
    if output.ndim == 2:  # one vector for each image
        if returned.shape[2:] == (1, 1) and torch.equal(returned.flatten(1), output):
            return features, output, lambda maps: maps.flatten(1)
        raise ConfigError(
            f"{head!r} is not what {type(network).__name__} does last, before it drops the dimensions of the image: "
            "average the features before this layer, not after it, or name another layer"
        )
    if returned.shape[:2] == output.shape[:2] and torch.equal(_cut(returned, output), output):
        return features, output, lambda maps: _cut(maps, output)
    if returned.shape[:2] == output.shape[:2] and returned.shape != output.shape:
        for mode, aligned in INTERPOLATIONS:
            resize = partial(interpolate, size=output.shape[-2:], mode=mode, align_corners=aligned)
            if torch.allclose(resize(returned), output, rtol=1e-3, atol=1e-3 * float(output.abs().max())):
                return features, output, resize
    raise ConfigError(
        f"{head!r} is not what {type(network).__name__} does last: its output is changed after it, by more than an "
        "interpolation. Move what follows to before it, or name another layer"
    )


def _cut(maps: Tensor, like: Tensor) -> Tensor:
    return maps[..., : like.shape[-2], : like.shape[-1]]

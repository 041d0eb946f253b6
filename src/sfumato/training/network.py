"""The network of a plan: built by class path, fed raw images, kept as safetensors."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sfumato.contracts import Likelihood
from sfumato.likelihoods import Joint
from sfumato.methods import Heads
from sfumato.storage import atomic_write
from sfumato.training.plan import Plan
from sfumato.training.recipes import METHODS


class Normalized(nn.Module):
    """A network that takes images (B, 3, H, W) in [0, 1], whatever range the inner network was made for."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Output (B, C, H, W) of the inner network."""
        return self.network((image - self.mean) / self.std)


def _class(path: str) -> type[nn.Module]:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"no network {path!r} ({error}): give the class path of an nn.Module, such as sfumato.models.UNet"
        ) from error
    return found


def build(plan: Plan, likelihood: Likelihood, start: Path | None = None) -> Normalized:
    """A fresh network for the plan, with the weights of ``start`` if given, and what its method learns beside them.

    Of several tasks it is called with their output channels by name, and returns a dict by name.

    Raises:
        ValueError: if there is no such class, it does not take these arguments, or ``start`` is of another network.
    """
    given: dict[str, Any] = dict(plan.network_args or {})
    heads: Any = likelihood.heads if isinstance(likelihood, Joint) else likelihood.channels
    channels = sum(heads.values()) if isinstance(likelihood, Joint) else heads
    arguments = {k: channels if v == "CHANNELS" else v for k, v in given.items()}
    positional = () if "CHANNELS" in given.values() else (heads,)
    try:
        network = _class(plan.network)(*positional, **arguments)
    except TypeError as error:
        call = ", ".join([*map(str, positional), *(f"{k}={v!r}" for k, v in arguments.items())])
        raise ValueError(
            f"{plan.network}({call}) failed: {error}. Name the argument that takes the number of output channels "
            'with the value "CHANNELS" in network_args'
        ) from error
    if isinstance(likelihood, Joint):
        network = Heads(network, likelihood.heads, likelihood.homoscedastic_tasks, plan.log_variance)
    normalized = Normalized(network, plan.mean, plan.std)
    if start is not None:
        borrow_weights(normalized, start)
    if (attach := METHODS[plan.method].attach) is not None:
        attach(normalized, plan.members)
    return normalized


def save_weights(network: nn.Module, path: Path) -> None:
    """Parameters and buffers as safetensors, whole or not at all."""
    with atomic_write(path) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, part)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: the run has not finished; `sfumato fit --resume` goes on with it"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is cut off or not safetensors ({error}): fit the run again with --resume") from error


def borrow_weights(network: nn.Module, path: Path) -> None:
    """Take all weights of another run's network but those of the last layer's further output channels.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, or of another kind of network.
    """
    found = _read(path)
    for name, ours in network.state_dict().items():
        theirs = found.get(name)
        shape = None if theirs is None else tuple(theirs.shape)
        if theirs is None or theirs.shape[1:] != ours.shape[1:] or theirs.shape[:1] > ours.shape[:1]:
            raise ValueError(f"{path} cannot be started from: its {name} is {shape}, the network's {tuple(ours.shape)}")
        ours[tuple(map(slice, theirs.shape))] = theirs


def load_weights(network: nn.Module, path: Path) -> None:
    """Read what :func:`save_weights` wrote into a network of the same kind.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is cut off, or of another network.
    """
    state = _read(path)
    expected = network.state_dict()
    wrong = [
        f"{key} is {tuple(state[key].shape) if key in state else 'missing'}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key not in state or state[key].shape != value.shape
    ] + [f"{key} is unknown" for key in state.keys() - expected.keys()]
    if wrong:
        raise ValueError(
            f"{path} holds another network than the plan beside it: {wrong[0]} (and {len(wrong) - 1} more). "
            "Restore the plan.yaml that it was trained with"
        )
    network.load_state_dict(state)

"""The network of a plan: built from its name, given normalized inputs, stored as safetensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sfumato import registry
from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError, MissingFileError, PluginError, RunError
from sfumato.likelihoods import Joint
from sfumato.methods import Heads
from sfumato.runs.plan import Plan
from sfumato.storage import read_tensors, write_tensors

DEFAULT_NETWORK, DEFAULT_JOINT_NETWORK = "unet", "joint-unet"


class Normalized(nn.Module):
    """A network that takes its inputs as they are, images in [0, 1]. Images are normalized before the inner network.

    ``x ↦ (x − mean) / std`` for each input that has a mean.

    Args:
        network: The inner network.
        inputs: Names of its inputs, in order.
        normalization: For each input that is normalized, ``mean`` and ``std`` for each channel.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: tuple[str, ...] = ("image",),
        normalization: Mapping[str, Mapping[str, tuple[float, ...]]] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.inputs = network, inputs
        self.normalized = tuple(name for name in inputs if name in (normalization or {}))
        for name in self.normalized:
            for kind, numbers in (normalization or {})[name].items():
                self.register_buffer(f"{name}_{kind}", torch.tensor(numbers).reshape(-1, 1, 1))

    @property
    def stride(self) -> int:
        """The number that the inner network wants heights and widths to be multiples of, if it says so. Default 1."""
        return int(getattr(self.network, "stride", 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output of the inner network."""
        if len(inputs) != len(self.inputs):
            raise ConfigError(
                f"the network got {len(inputs)} inputs, expected {len(self.inputs)}: {', '.join(self.inputs)}"
            )
        return self.network(*(self._normalize(name, value) for name, value in zip(self.inputs, inputs)))

    def _normalize(self, name: str, value: Tensor) -> Tensor:
        if name not in self.normalized:
            return value
        return (value - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std")


def build_network(plan: Plan, likelihood: Likelihood[object]) -> Normalized:
    """A fresh network for the plan, with the weights it starts from and what its method learns beside them.

    A network of several tasks is called with the output channels of each, and returns a dict of outputs.

    Raises:
        ConfigError: If it does not take these arguments.
        PluginError: If there is no such network.
        RunError: If the weights to start from are of another network.
    """
    config, joint = plan.config, likelihood if isinstance(likelihood, Joint) else None
    heads = likelihood.channels if joint is None else joint.heads
    channels = likelihood.channels if joint is None else sum(joint.heads.values())
    arguments = {key: channels if value == "CHANNELS" else value for key, value in config.network_args.items()}
    positional = () if "CHANNELS" in config.network_args.values() else (heads,)
    name = config.network or (DEFAULT_NETWORK if joint is None else DEFAULT_JOINT_NETWORK)
    try:
        network = network_class(name, plan.trust)(*positional, **arguments)
    except TypeError as error:
        call = ", ".join([*map(str, positional), *(f"{key}={value!r}" for key, value in arguments.items())])
        raise ConfigError(
            f"{name}({call}) failed: {error}. Name the argument that takes the number of output channels "
            'with the value "CHANNELS" in network_args'
        ) from error
    if not isinstance(network, nn.Module):
        raise PluginError(f"{name} returned a {type(network).__name__}, expected an nn.Module")
    if joint is not None:
        network = Heads(network, joint.heads, joint.homoscedastic_tasks, config.log_variance)
    normalized = Normalized(network, plan.facts.inputs, plan.facts.normalization)
    if config.init_from:
        borrow_weights(normalized, weights_path(Path(config.init_from), 0))
    if (attach := plan.training.attach) is not None:
        attach(normalized, config.members)
    return normalized


def network_class(name: str, trust: registry.Trust = registry.NO_TRUST) -> Callable[..., nn.Module]:
    """The class, or a registered function, that makes a network.

    Raises:
        PluginError: If there is no such name, or a class path does not lead to an ``nn.Module``.
        UntrustedCodeError: If it is a class path outside this package that is not trusted.
    """
    found = registry.load("models", name, trust)
    registered = name in registry.names("models")
    inside = str(getattr(found, "__module__", "")).startswith("sfumato.")
    if not ((isinstance(found, type) and issubclass(found, nn.Module)) or (callable(found) and (registered or inside))):
        raise PluginError(f"{name} is no nn.Module but a {type(found).__name__}: give the class path of a network")
    return cast(Callable[..., nn.Module], found)


def weights_path(folder: Path, member: int) -> Path:
    """The file with the averaged weights of a member."""
    return folder / f"weights-{member}.safetensors"


def save_weights(network: nn.Module, path: Path) -> None:
    """Write parameters and buffers as safetensors.

    Raises:
        NotFiniteError: If one of them is not finite.
    """
    write_tensors(path, network.state_dict())


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingFileError(
            f"{path} does not exist: the run has not finished; `sfumato fit --resume` goes on with it"
        )
    return read_tensors(path, error=RunError, advice="fit the run again with --resume")[0]


def borrow_weights(network: nn.Module, path: Path) -> None:
    """Take all weights of another run's network, except for output channels of the last layer that it lacks.

    Raises:
        MissingFileError: If there is no such file.
        RunError: If it is cut off, or of another network.
    """
    found = _read(path)
    for name, ours in network.state_dict().items():
        theirs = found.get(name)
        shape = None if theirs is None else tuple(theirs.shape)
        if theirs is None or theirs.shape[1:] != ours.shape[1:] or theirs.shape[:1] > ours.shape[:1]:
            raise RunError(
                f"training cannot start from {path}: its {name} is {shape}, the network's {tuple(ours.shape)}"
            )
        ours[tuple(map(slice, theirs.shape))] = theirs


def load_weights(network: nn.Module, path: Path) -> None:
    """Read what :func:`save_weights` wrote into a network of the same kind.

    Raises:
        MissingFileError: If there is no such file.
        RunError: If it is cut off, or of another network.
    """
    state = _read(path)
    expected = network.state_dict()
    wrong = [
        f"{key} is {tuple(state[key].shape) if key in state else 'missing'}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key not in state or state[key].shape != value.shape
    ] + [f"{key} is unknown" for key in state.keys() - expected.keys()]
    if wrong:
        raise RunError(
            f"{path} holds another network than the plan beside it: {wrong[0]} (and {len(wrong) - 1} more). "
            "Restore the plan.yaml that it was trained with"
        )
    network.load_state_dict(state)

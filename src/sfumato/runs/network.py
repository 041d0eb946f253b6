"""The network of a plan: built from its name, given normalized inputs, stored as safetensors."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast, get_type_hints

import torch
from torch import Tensor, nn

from sfumato import registry
from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError, MissingFileError, PluginError, RunError, SfumatoError, out_of_memory
from sfumato.likelihoods import Joint
from sfumato.methods import Heads
from sfumato.methods.output import output_map
from sfumato.models.padding import padded
from sfumato.runs.checkpoint import start_from_checkpoint
from sfumato.runs.config import Config
from sfumato.runs.plan import FILE, Plan
from sfumato.sections import one_line
from sfumato.storage import check_finite, read_tensors, write_tensors

DEFAULT_NETWORK, DEFAULT_JOINT_NETWORK = "unet", "joint-unet"


class Normalized(nn.Module):
    """A network that takes its inputs as they are, images in [0, 1] of any size, and returns one tensor of that size.

    Images are normalized before the inner network: ``x ↦ (x − mean) / std`` for each input that has a mean. Maps are
    padded to the sizes that the inner network takes, by repeating the last row and column, and its output is cut to
    the size of the input. A smaller output is enlarged bilinearly.

    Args:
        network: The inner network.
        inputs: Names of its inputs, in order.
        normalization: For each input that is normalized, ``mean`` and ``std`` for each channel.
        stride: What heights and widths of its inputs must be multiples of, if it does not pad them itself. Default 1.
        key: Name, or position, of the entry of its output that is used. Empty if it returns one tensor.
        takes_dict: Whether it takes one dict of its inputs by name. Default False.

    Raises:
        ConfigError: When called, if the number of inputs is wrong, the inner network fails, or its output has no such
            entry.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: tuple[str, ...] = ("image",),
        normalization: Mapping[str, Mapping[str, tuple[float, ...]]] | None = None,
        stride: int = 1,
        key: str = "",
        takes_dict: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.inputs = network, inputs
        self.padded_to, self.takes_dict = stride, takes_dict
        self.key = None if not key else int(key) if key.lstrip("-").isdigit() else key
        self.normalized = tuple(name for name in inputs if name in (normalization or {}))
        for name in self.normalized:
            for kind, numbers in (normalization or {})[name].items():
                self.register_buffer(f"{name}_{kind}", torch.tensor(numbers).reshape(-1, 1, 1))

    @property
    def stride(self) -> int:
        """What heights and widths are padded to multiples of, here or in the inner network. 1 if they are not."""
        own = getattr(self.network, "stride", 1)
        return math.lcm(self.padded_to, own if isinstance(own, int) else 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The output (B, C, H, W) of the inner network, or (B, C)."""
        if len(inputs) != len(self.inputs):
            raise ConfigError(
                f"the network got {len(inputs)} inputs, expected {len(self.inputs)}: {', '.join(self.inputs)}"
            )
        ready = tuple(self._padded(value) for value in self.normalize(inputs))
        with network_errors(self.network, ready):
            found = self.network(dict(zip(self.inputs, ready))) if self.takes_dict else self.network(*ready)
        output = output_map(found, self.key, ready)
        return output if output.ndim == 2 else _cut(output, inputs)

    def _padded(self, value: Tensor) -> Tensor:
        return value if value.ndim != 4 or self.padded_to == 1 else padded(value, self.padded_to)

    def normalize(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The inputs as the inner network takes them, but for padding."""
        return tuple(self._normalize(name, value) for name, value in zip(self.inputs, inputs))

    def _normalize(self, name: str, value: Tensor) -> Tensor:
        if name not in self.normalized:
            return value
        return (value - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std")


def _cut(output: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """The output at the size of the first map of the inputs, before they were padded."""
    height, width = next((value.shape[-2:] for value in inputs if value.ndim == 4), output.shape[-2:])
    return output if output.shape[-2:] == (height, width) else output[..., :height, :width]


@contextmanager
def network_errors(network: nn.Module, inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """Turn what the code of a network raises into a :class:`ConfigError` of one line."""
    own = network.network if isinstance(network, Heads) else network
    try:
        yield
    except FAILURES as error:
        if isinstance(error, SfumatoError) or out_of_memory(error) or torch.compiler.is_compiling():
            raise
        shapes = ", ".join(" × ".join(map(str, value.shape)) for value in inputs)
        raise ConfigError(
            f"the network {type(own).__name__} failed on inputs of {shapes}: {type(error).__name__}: {one_line(error)}"
        ) from error


FAILURES = (RuntimeError, ValueError, TypeError, AssertionError, LookupError, AttributeError, ArithmeticError)


def build_network(
    plan: Plan,
    likelihood: Likelihood[object],
    made: nn.Module | None = None,
    note: Callable[[str], object] | None = None,
) -> Normalized:
    """A fresh network for the plan, with the weights it starts from and what its method learns beside them.

    A network of several tasks is called with the output channels of each, and returns a dict of outputs.

    Args:
        plan: The plan.
        likelihood: Its likelihood.
        made: The inner network, if it exists already. None to make it by the name in the plan. Default None.
        note: Called with one sentence if only a part of the weights to start from fits. Default None, for nothing.

    Raises:
        ConfigError: If it does not take these arguments.
        DataError: If the checkpoint to start from cannot be read.
        MissingFileError: If there is nothing to start from at the path in the plan.
        PluginError: If there is no such network.
        RunError: If the weights to start from are of another network.
    """
    config, facts, joint = plan.config, plan.facts, likelihood if isinstance(likelihood, Joint) else None
    network = made or _called(plan, likelihood.channels if joint is None else joint.heads)
    if joint is not None:
        if config.output:
            raise ConfigError(f"output is {config.output!r}, but a network of several tasks returns one entry for each")
        network = Heads(network, joint.heads, joint.homoscedastic_tasks, config.log_variance)
    normalized = Normalized(
        network, facts.inputs, facts.normalization, facts.stride, config.output, facts.network_takes_dict
    )
    if config.init_from and (found := _start(normalized, Path(config.init_from))) and note is not None:
        note(found)
    if (attach := plan.training.attach) is not None:
        attach(normalized, config.members)
    return normalized


def _start(network: Normalized, path: Path) -> str:
    """Take the weights of the first network of a run, or of a checkpoint. One sentence about what did not match."""
    if path.is_file():
        return start_from_checkpoint(
            network, path, "network.network." if isinstance(network.network, Heads) else "network."
        )
    if not path.is_dir() or not (path / FILE).is_file():
        raise MissingFileError(
            f"training cannot start from {path}, which is no run and no file with weights: name the folder of a run, "
            "or a checkpoint such as best.pt or model.safetensors"
        )
    borrow_weights(network, weights_path(path, 0))
    return ""


def _called(plan: Plan, heads: int | Mapping[str, int]) -> nn.Module:
    """The network that the plan names, made with the number of its output channels."""
    config = plan.config
    name = _network_name(config, isinstance(heads, int))
    make = network_class(name, plan.trust)
    channels = heads if isinstance(heads, int) else sum(heads.values())
    arguments = {key: channels if value == "CHANNELS" else value for key, value in config.network_args.items()}
    positional: tuple[object, ...] = ()
    if "CHANNELS" not in config.network_args.values():
        known = _parameters(make)
        named = next((each for each in CHANNELS_NAMES if each in (known or ()) and each not in arguments), "")
        if named and isinstance(heads, int):
            arguments[named] = heads
        elif known is None or known:
            positional = (heads,)
    try:
        return _module(make(*positional, **arguments), name)
    except SfumatoError:
        raise
    except Exception as error:  # the code of a network may fail in any way
        if out_of_memory(error):
            raise
        call = ", ".join([*map(str, positional), *(f"{key}={value!r}" for key, value in arguments.items())])
        raise ConfigError(
            f"{name}({call}) failed: {type(error).__name__}: {one_line(error)}. Give its arguments with "
            '--network-args, and the value "CHANNELS" to the one that takes the number of output channels'
        ) from error


CHANNELS_NAMES = ("channels_out", "num_classes", "classes", "n_classes", "out_channels")


def _parameters(make: Callable[..., object]) -> list[str] | None:
    """The names of its parameters. None if they are unknown."""
    try:
        return list(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # a signature cannot be had of everything that can be called
        return None


def network_arguments(config: Config, trust: registry.Trust = registry.NO_TRUST) -> list[str]:
    """The names of the arguments of the network that a configuration names.

    Raises:
        PluginError: If there is no such network.
    """
    return _parameters(network_class(_network_name(config, not config.tasks), trust)) or []


def _network_name(config: Config, one_task: bool) -> str:
    return config.network or (DEFAULT_NETWORK if one_task else DEFAULT_JOINT_NETWORK)


def _module(found: object, name: str) -> nn.Module:
    if not isinstance(found, nn.Module):
        raise PluginError(f"{name} returned a {type(found).__name__}, expected an nn.Module")
    return found


def network_class(name: str, trust: registry.Trust = registry.NO_TRUST) -> Callable[..., nn.Module]:
    """The class, or the function, that makes a network.

    A function says in its annotation that it returns a module. One that the user named in the current folder need not.

    Raises:
        PluginError: If there is no such name, or a class path leads to something else.
        UntrustedCodeError: If it is a class path outside this package that is not trusted.
    """
    found = registry.load("models", name, trust)
    registered = name in registry.names("models") and callable(found)
    if not (registered or _makes_module(found) or (trust.names(name) and _own_function(found))):
        raise PluginError(
            f"{name} is no nn.Module class but a {type(found).__name__}: give the class path of a network, or of a "
            "function whose annotation says that it returns one (in the current folder it needs no annotation)"
        )
    return cast(Callable[..., nn.Module], found)


def _own_function(found: object) -> bool:
    """Whether something is a function of a module in the current folder, without an annotation of what it returns.

    Such a function was written by the user. One of an installed package, such as ``shutil.rmtree``, was not.
    """
    if not inspect.isfunction(found) or "return" in found.__annotations__:
        return False
    file = Path(inspect.getfile(found)).absolute()
    return file.is_relative_to(Path.cwd()) and "site-packages" not in file.parts


def _makes_module(found: object) -> bool:
    """Whether something is a class of modules, or a function that is annotated to return one."""
    if not isinstance(found, type):
        if not inspect.isfunction(found):
            return False
        try:
            found = get_type_hints(found).get("return")
        except Exception:  # annotations may name what does not exist
            return False
    return isinstance(found, type) and issubclass(found, nn.Module)


def weights_path(folder: Path, member: int) -> Path:
    """The file with the averaged weights of a member."""
    return folder / f"weights-{member}.safetensors"


def save_weights(network: nn.Module, path: Path) -> None:
    """Write parameters and buffers as safetensors.

    Raises:
        NotFiniteError: If one of them is not finite.
    """
    state = network.state_dict()
    check_finite(state, f"the weights for {path}")
    write_tensors(path, state)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise MissingFileError(
            f"{path} does not exist: the run has not finished; `sfumato fit --resume` goes on with it"
        )
    state = read_tensors(path, error=RunError, advice="fit the run again with --resume")[0]
    if wrong := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise RunError(f"{path} holds NaN or infinity in {wrong[0]}: its training has diverged, fit the run again")
    return state


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
                f"training cannot start from {path}: its {name} is {'missing' if shape is None else shape}, the "
                f"network's is {tuple(ours.shape)}"
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

"""What a network takes and returns, found by trying it on one sample before training."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError, SfumatoError
from sfumato.likelihoods import Joint
from sfumato.methods.base import evaluating
from sfumato.runs.config import Config, Facts
from sfumato.runs.network import Normalized, build_network, network_errors
from sfumato.runs.plan import Plan

STRIDES = (1, 2, 4, 8, 16, 32, 64, 128, 14, 28)  # powers of two, then the patches of common transformers
LEAST = 96  # side of the smallest images that are tried, pixels
Normalization = Mapping[str, Mapping[str, tuple[float, ...]]]
KNOWN_KEYS = ("out", "logits")  # of torchvision, and of transformers


def probe_network(
    plan: Plan, likelihood: Likelihood[object], inputs: tuple[Tensor, ...], made: nn.Module | None = None
) -> tuple[Plan, tuple[str, ...]]:
    """The plan with what its network needs: the stride of its sizes, the form of its inputs, the entry of its output.

    The network is tried on images whose sides are 1, 2, 4, …, 128 times an odd number, until it takes one.

    Args:
        plan: The plan; its configuration may name the entry of the output.
        likelihood: The likelihood of the plan.
        inputs: The inputs (1, …) of one sample at the size of the crops in training, float.
        made: The network, if it exists already. None to make it by the name in the plan. Default None.

    Returns:
        The plan, and a sentence for each thing that was found and that a person should know.

    Raises:
        ConfigError: If the network takes none of these sizes, or its output is neither a map of the size of its input,
            or of a fraction of it, nor one value per channel and image.
    """
    bare = replace(plan, config=replace(plan.config, output="", init_from="", method="deterministic"))
    bare = replace(bare, facts=replace(plan.facts, stride=1, network_takes_dict=False))
    with torch.random.fork_rng(devices=[]):
        network = build_network(bare, likelihood, made)
    with evaluating(network), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is tried may be what the network does not take
        stride, takes_dict, ready, found = _tried(network, inputs)
    notes = [f"the network takes sizes that are multiples of {stride}: images are padded"] if stride > 1 else []
    if takes_dict:
        notes.append(f"the network takes a dict with {', '.join(plan.facts.inputs)}")
    key, output = "", found
    if not isinstance(likelihood, Joint):
        key = plan.config.output or _key(found)
        if key and not plan.config.output and len(_tensors(found)) > 1:
            notes.append(f"the network returns several things, of which {key!r} is used; --output names another")
        output = _entry(found, key)
    if isinstance(output, Tensor) and (times := _enlargement(output, ready)) > 1:
        notes.append(f"the network's output has 1/{times} of the size of its input: it is enlarged bilinearly")
        stride = math.lcm(stride, times)  # else a pixel of the output would be enlarged to a fraction of pixels
    normalization, more = _own_normalization(network.network, plan.facts)
    scales = {} if getattr(network.network, "predicts_in_units", False) else plan.facts.scales
    facts = replace(
        plan.facts, stride=stride, network_takes_dict=takes_dict, normalization=normalization, scales=scales
    )
    config = replace(plan.config, output=key, encoder_rate=_encoder_rate(network.network, plan.config))
    return replace(plan, config=config, facts=facts), (*notes, *more)


def _own_normalization(network: nn.Module, facts: Facts) -> tuple[Normalization, tuple[str, ...]]:
    """How images are standardized: as the network says, for a pretrained encoder, else as the training images are.

    With a sentence on it, if the network says so.
    """
    own = getattr(network, "input_normalization", None)
    if own is None:
        return facts.normalization, ()
    found = {name: own if len(colors["mean"]) == len(own["mean"]) else colors
             for name, colors in facts.normalization.items()}  # fmt: skip
    numbers = [", ".join(f"{number:.3f}" for number in own[kind]) for kind in ("mean", "std")]
    return found, (f"images are standardized as the encoder expects: mean {numbers[0]}, deviation {numbers[1]}",)


def _encoder_rate(network: nn.Module, config: Config) -> float:
    """The share of the learning rate for the encoder.

    Raises:
        ConfigError: If one is given and the network has no module ``encoder``.
    """
    has_encoder = isinstance(getattr(network, "encoder", None), nn.Module)
    if config.encoder_rate and not has_encoder:
        raise ConfigError(
            f"encoder_rate is {config.encoder_rate}, but {type(network).__name__} has no module named encoder: leave "
            "it out"
        )
    return config.encoder_rate or float(getattr(network, "encoder_rate", 1.0))


def _tried(network: Normalized, inputs: tuple[Tensor, ...]) -> tuple[int, bool, tuple[Tensor, ...], object]:
    """Stride, whether a dict is taken, and inputs and output of the first try that works."""
    first: ConfigError | None = None
    sizes = {stride: ((LEAST // stride) | 1 if stride < LEAST // 2 else 3) * stride for stride in STRIDES}
    tries: list[tuple[int, tuple[Tensor, ...]]] = [
        (stride, _resized(inputs, (side, side + 2 * stride))) for stride, side in sizes.items()
    ]
    for takes_dict in (False, True):
        for stride, ready in [*tries, (1, inputs)]:  # a network may take one size only, that of the crops
            normalized = network.normalize(ready)
            try:
                with network_errors(network.network, normalized):
                    if takes_dict:
                        return stride, True, ready, network.network(dict(zip(network.inputs, normalized)))
                    return stride, False, ready, network.network(*normalized)
            except SfumatoError as error:
                first = ConfigError(str(error)) if takes_dict is False else first
    assert first is not None
    raise first


def _resized(inputs: tuple[Tensor, ...], size: tuple[int, int]) -> tuple[Tensor, ...]:
    """The inputs at another size: maps are repeated or cut."""

    def taken(value: Tensor) -> Tensor:
        rows, columns = (torch.arange(new) % old for new, old in zip(size, value.shape[-2:]))
        return value[..., rows[:, None], columns]

    return tuple(taken(value) if value.ndim == 4 else value for value in inputs)


def _key(found: object) -> str:
    """The entry of an output that is used if nobody names one. Empty for a tensor."""
    if isinstance(found, Tensor):
        return ""
    tensors = _tensors(found)
    known = [key for key in KNOWN_KEYS if key in tensors]
    if known or len(tensors) == 1:
        return [*known, *tensors][0]
    if not tensors:
        raise ConfigError(f"the network returns a {type(found).__name__} without a tensor: return one (B, C, H, W)")
    shapes = ", ".join(f"{key} {tuple(value.shape)}" for key, value in tensors.items())
    raise ConfigError(
        f"the network returns a {type(found).__name__} with {shapes}: name the entry that is used with --output, such "
        f"as --output {next(iter(tensors))}"
    )


def _entry(found: object, key: str) -> object:
    return found if not key or isinstance(found, Tensor) else _entries(found).get(key)


def _tensors(found: object) -> dict[str, Tensor]:
    return {key: value for key, value in _entries(found).items() if isinstance(value, Tensor)}


def _entries(found: object) -> Mapping[str, object]:
    """The entries of a dict, a tuple or a dataclass by name or position."""
    if isinstance(found, Mapping):
        return {str(key): value for key, value in found.items()}
    if isinstance(found, tuple | list):
        return {str(place): value for place, value in enumerate(found)}
    if dataclasses.is_dataclass(found):
        return {each.name: getattr(found, each.name) for each in dataclasses.fields(found)}
    return {}


def _enlargement(output: Tensor, inputs: tuple[Tensor, ...]) -> int:
    """By how much an output is smaller than the maps of the inputs; 1 for the same size, or without maps.

    Raises:
        ConfigError: If it is larger, or no whole fraction.
    """
    size = next((tuple(value.shape[-2:]) for value in inputs if value.ndim == 4), None)
    if size is None or output.ndim != 4 or tuple(output.shape[-2:]) == size:
        return 1
    pairs = list(zip(size, output.shape[-2:]))
    times = max(1, round(pairs[0][0] / pairs[0][1]))
    if times > 1 and all(small in (large // times, -(-large // times)) for large, small in pairs):
        return times
    raise ConfigError(
        f"the network's output has {output.shape[-2]} × {output.shape[-1]} pixels for an input of {size[0]} × "
        f"{size[1]}, expected the same size or a whole fraction of it: pad its convolutions, or resize its output"
    )

"""Read the weights that other programs have written, and find the network that they belong to."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sfumato.errors import DataError, MissingFileError, RunError
from sfumato.sections import one_line
from sfumato.storage import read_tensors

NESTED = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "module")
"""Where checkpoints of common trainers keep the weights."""

COUNTED = "num_batches_tracked"  # of batch normalization; older checkpoints lack it, and prediction does not use it


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file: safetensors, or what ``torch.save`` wrote of a ``state_dict`` or of a dict that holds one.

    Nothing in the file is run: it is read with ``weights_only=True``.

    Args:
        path: A ``.safetensors`` file, or any other ending for torch's own format.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it is damaged, holds anything but tensors and numbers, or no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist: name the file with the trained weights")
    if path.suffix == ".safetensors":
        return read_tensors(path, advice="save it again")[0]
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds code or objects beside tensors, which are not loaded: save the weights alone, as in "
            "torch.save(network.state_dict(), path)"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no whole checkpoint of torch ({one_line(error)}): copy it again") from error
    for candidate in _candidates(found):
        if candidate and all(isinstance(value, Tensor) for value in candidate.values()):
            return {str(name): cast(Tensor, value) for name, value in candidate.items()}
    raise DataError(f"{path} holds no state_dict: save it with torch.save(network.state_dict(), path)")


def _candidates(found: object) -> Iterator[Mapping[object, object]]:
    if isinstance(found, Mapping):
        yield found
        for name in NESTED:
            yield from _candidates(found.get(name))


@dataclass(frozen=True)
class Matched:
    """Weights under the names that a network gives them.

    Args:
        weights: The weights that the network has too, by its names.
        missing: The names of the network that the file lacks.
        shapes: For each weight of another shape, its name and both shapes.
        unused: The names in the file that the network lacks.
    """

    weights: Mapping[str, Tensor]
    missing: tuple[str, ...]
    shapes: tuple[str, ...]
    unused: tuple[str, ...]


def match(found: Mapping[str, Tensor], network: nn.Module) -> Matched:
    """Give weights the names of a network. A prefix such as ``module.`` that one of the two has is found.

    >>> layer = nn.Linear(1, 1)
    >>> match({f"module.{name}": value for name, value in layer.state_dict().items()}, layer).missing
    ()
    """
    wanted = network.state_dict()
    renamed = max(_renamed(found, wanted), key=lambda each: len(each.keys() & wanted.keys()))
    shared = renamed.keys() & wanted.keys()
    wrong = [name for name in wanted if name in shared and renamed[name].shape != wanted[name].shape]
    return Matched(
        {name: renamed[name] for name in wanted if name in shared and name not in wrong},
        tuple(name for name in wanted if name not in shared and not name.endswith(COUNTED)),
        tuple(f"{name} is {tuple(renamed[name].shape)}, expected {tuple(wanted[name].shape)}" for name in wrong),
        tuple(name for name in renamed if name not in shared),
    )


def _renamed(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The weights with each prefix taken away, and with each prefix of the network put before them."""
    yield dict(found)
    for prefix in _prefixes(found):
        yield {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    for prefix in _prefixes(wanted):
        yield {prefix + name: value for name, value in found.items()}


def _prefixes(names: Mapping[str, Tensor]) -> set[str]:
    parts = [name.split(".") for name in names]
    return {".".join(each[:depth]) + "." for each in parts for depth in (1, 2, 3) if len(each) > depth}


def load_checkpoint(network: nn.Module, path: str | Path) -> tuple[str, ...]:
    """Load all weights of a network from a file that another program wrote.

    Args:
        network: The network.
        path: As of :func:`read_checkpoint`.

    Returns:
        The names in the file that the network lacks, such as those of an auxiliary head.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read.
        RunError: If it is of another network. The message names what differs.
    """
    matched = match(read_checkpoint(path), network)
    wrong = [*(f"{name} is missing" for name in matched.missing), *matched.shapes]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise RunError(
            f"{path} holds weights of another network than {type(network).__name__}: {'; '.join(wrong[:3])}{more}. "
            "Check --network and --network-args"
        )
    network.load_state_dict(matched.weights, strict=False)
    return matched.unused

"""Read the weights that other programs have written, and find the network that they belong to."""

from __future__ import annotations

import errno
import pickle
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sfumato.errors import DataError, MissingFileError, RunError, out_of_memory
from sfumato.sections import one_line
from sfumato.storage import check_finite, read_tensors

NESTED = ("state_dict", "model_state_dict", "model", "network", "net", "weights", "module")
"""Where checkpoints of common trainers keep the weights."""

COUNTED = "num_batches_tracked"  # of batch normalization; older checkpoints lack it, and prediction does not use it
DEPTH = 4  # parts of a name, between dots, that a prefix has at most
ENOUGH = 0.5  # the share of a network, or of a file, that must match; ResNet-50 and ResNet-18 share .45 of the smaller
LEAST = 0.1  # the share of a network that must match in any case: else the two weights of one layer would fit anywhere
LISTED = 3  # names that a message lists


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
    except Exception as error:  # bytes that are no checkpoint make torch fail in any way
        if out_of_memory(error) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise
        pickled = isinstance(error, pickle.UnpicklingError)
        if pickled and (named := re.search(r"GLOBAL (\S+)", str(error))):
            raise DataError(
                f"{path} holds code or objects beside tensors ({named[1]}), which are not loaded: save the weights "
                "alone, as in torch.save(network.state_dict(), path)"
            ) from error
        reason = "its pickle holds more than tensors" if pickled else f"{type(error).__name__}: {one_line(error)}"
        raise DataError(
            f"{path} is no whole checkpoint of torch ({reason}): copy it again, or save it with "
            "torch.save(network.state_dict(), path)"
        ) from error
    for candidate in _candidates(found):
        if candidate and all(isinstance(value, Tensor) and _is_plain(value) for value in candidate.values()):
            return {str(name): cast(Tensor, value) for name, value in candidate.items()}
    raise DataError(f"{path} holds no state_dict of plain tensors: save it with torch.save(network.state_dict(), path)")


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_quantized and not value.is_meta


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
        shapes: For each weight of another shape, by its name in the network, the shape in the file and in the network.
        unused: The names in the file that the network lacks.
    """

    weights: Mapping[str, Tensor]
    missing: tuple[str, ...]
    shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unused: tuple[str, ...]


def match(found: Mapping[str, Tensor], network: nn.Module) -> Matched:
    """Give weights the names of a network.

    One prefix of the names in the file, such as ``module.``, is taken away, and one of the network, such as
    ``encoder.``, is put in its place, if more names and shapes are the same then.

    >>> layer = nn.Linear(1, 1)
    >>> match({f"module.{name}": value for name, value in layer.state_dict().items()}, layer).missing
    ()
    """
    wanted = network.state_dict()
    theirs, ours = _prefixes(found, wanted)
    names = {ours + name.removeprefix(theirs): name for name in found if name.startswith(theirs)}
    renamed = {name: found[names[name]] for name in wanted if name in names}
    wrong = [name for name, value in renamed.items() if value.shape != wanted[name].shape]
    used = {names[name] for name in renamed}
    return Matched(
        {name: value for name, value in renamed.items() if name not in wrong},
        tuple(name for name in wanted if name not in renamed and not name.endswith(COUNTED)),
        {name: (tuple(renamed[name].shape), tuple(wanted[name].shape)) for name in wrong},
        tuple(name for name in found if name not in used),
    )


def _prefixes(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, str]:
    """The prefix of the file and that of the network behind which most names and shapes are the same."""
    theirs, ours = _behind(found), _behind(wanted)
    best, chosen = (0, 0), ("", "")
    for old, old_names in theirs:
        for new, new_names in ours:
            if 2 * min(len(old_names), len(new_names)) < best[0]:
                break  # those that follow have even fewer names
            shared = old_names & new_names
            score = len(shared) + sum(found[old + name].shape == wanted[new + name].shape for name in shared)
            best, chosen = max((best, chosen), ((score, -(old + new).count(".")), (old, new)), key=lambda each: each[0])
    return chosen


def _behind(names: Iterable[str]) -> list[tuple[str, set[str]]]:
    """Each prefix of the names, also the empty one, and what follows it; those of most names first."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        for depth in range(min(DEPTH + 1, len(parts))):
            prefix = "".join(f"{part}." for part in parts[:depth])
            found[prefix].add(name.removeprefix(prefix))
    return sorted(found.items(), key=lambda each: -len(each[1]))


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
    wrong = [*(f"{name} is missing" for name in matched.missing), *_differences(matched.shapes)]
    if wrong:
        raise RunError(
            f"{path} holds weights of another network than {type(network).__name__}: {_some(wrong, '; ')}. "
            "Check --network and --network-args"
        )
    network.load_state_dict(matched.weights, strict=False)
    return matched.unused


def start_from_checkpoint(network: nn.Module, path: str | Path, inside: str = "") -> str:
    """Take all weights of a file whose name and shape a network has too. The others stay as they are.

    Args:
        network: The network.
        path: As of :func:`read_checkpoint`.
        inside: The prefix of the names that are expected in the file, such as ``network.``. What the network has beside
            them is taken if the file has it. Default: all.

    Returns:
        One sentence about what did not match. Empty if all did.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If it cannot be read.
        NotFiniteError: If a weight in it is NaN or infinite.
        RunError: If it is of another architecture: fewer than half of the kernels and matrices of the network, and
            fewer than half of those in the file, match; or fewer than a tenth of those of the network. Vectors do not
            count, because those of normalization fit many architectures.
    """
    found, wanted = read_checkpoint(path), network.state_dict()
    matched = match(found, network)
    expected = {name: value for name, value in wanted.items() if name.startswith(inside)}
    missing = [name.removeprefix(inside) for name in matched.missing if name in expected]
    shapes = {name.removeprefix(inside): both for name, both in matched.shapes.items()}
    counts = [
        sum(not name.endswith(COUNTED) for name in names) for names in (matched.weights.keys() & expected, expected)
    ]
    taken = f"{counts[0]} of the {counts[1]} weights of the network"
    if not _enough(matched.weights.keys() & expected.keys(), expected, found):
        wrong = [*_differences(shapes), *(f"{name} is missing" for name in missing)]
        raise RunError(
            f"training cannot start from {path}, which has {taken} with the same name and shape: {_some(wrong, '; ')}. "
            "It is of another architecture: check --network and --network-args"
        )
    check_finite(matched.weights, str(path))
    network.load_state_dict(matched.weights, strict=False)
    parts = {"of another shape": list(shapes), "missing": missing, "in the file but not used": matched.unused}
    described = [f"{len(names)} {what} ({_some(names)})" for what, names in parts.items() if names]
    return f"training starts from {path} with {taken}; {', '.join(described)}" if described else ""


def _enough(taken: Collection[str], expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> bool:
    """Whether so many weights match that a file is of the same architecture as a network, or of a part of it.

    Args:
        taken: The names that match.
        expected: The weights of the network.
        found: Those in the file.
    """
    ours, theirs = _kernels(expected) or set(expected), _kernels(found) or set(found)
    shared = len(ours.intersection(taken))
    return shared >= LEAST * len(ours) and shared >= ENOUGH * min(len(ours), len(theirs)) > 0


def _kernels(weights: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in weights.items() if value.ndim > 1 and value.is_floating_point()}


def _differences(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> list[str]:
    return [f"{name} is {theirs}, expected {ours}" for name, (theirs, ours) in shapes.items()]


def _some(names: Sequence[str], between: str = ", ") -> str:
    """The first names, and how many follow."""
    more = f"{between}{len(names) - LISTED} more" if len(names) > LISTED else ""
    return between.join(names[:LISTED]) + more

"""A digest by which a data set is recognized."""

from __future__ import annotations

import hashlib

from torch import Tensor

from sfumato.data.views import Samples, files_of, names_of
from sfumato.errors import RunError

MOST = 1 << 20  # bytes of each file that are read


def fingerprint(dataset: Samples, inputs: tuple[str, ...]) -> str:
    """Digest of the names of all images and of the content of the first.

    The content is the first 1 MiB of each file of the first image, which all machines read alike. Where images are not
    read from files it is the inputs of the network.

    Args:
        dataset: The data set, which is not empty.
        inputs: The entries that the network takes.
    """
    digest = hashlib.sha256("\n".join(names_of(dataset)).encode(errors="surrogatepass"))
    files = files_of(dataset, 0)
    for path in (each for each in files if each.is_file()):  # reading a pipe would wait forever
        with path.open("rb") as file:
            digest.update(file.read(MOST))
    sample = {} if files else dataset[0]
    for value in (sample.get(name) for name in inputs):
        if isinstance(value, Tensor):
            digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_recognized(dataset: Samples, known: str, inputs: tuple[str, ...], place: str, advice: str) -> None:
    """Check that the training images of a run, if they are files, are those that it was trained on.

    Generated images are not compared, because their last digits may differ on another machine.

    Args:
        dataset: The images that are there now.
        known: The fingerprint of those that the run was trained on.
        inputs: The entries that the network takes.
        place: Where the images lie, for the message.
        advice: What to do, for the message.

    Raises:
        RunError: If they are others.
    """
    if len(dataset) and files_of(dataset, 0) and fingerprint(dataset, inputs) != known:
        raise RunError(f"{place} holds other images than those that the run was trained on: {advice}")

"""``sfumato wrap``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.sections import Json


def wrap(
    *,
    network: str = "",
    data: str = "",
    root: str = "",
    task: str = "",
    weights: Path | None = None,
    network_args: dict[str, Json] | None = None,
    output: str = "",
    normalization: str = "auto",
    likelihood: str = "",
    method: str = "",
    samples: int = 20,
    size: tuple[int, int] = (0, 0),
    out: Path | None = None,
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Make a run of a network that is already trained, without training it.

    Args:
        network: Class path of the network, or of a function whose annotation says that it returns one.
        data: Name of a data set, class path of one, or a folder with sfumato.yaml. Its images are read, not trained on.
        root: Folder where the data set lies.
        task: The entry of a sample that is predicted. Default: the first task of the data.
        weights: Checkpoint of the network, .safetensors or .pt. Default: the weights that it is made with.
        network_args: Arguments of the network as YAML. The value "CHANNELS" stands for the number of output channels.
        output: Entry of the network's output that is used, if it returns several.
        normalization: imagenet, unit ([0, 1]), symmetric ([-1, 1]), bytes ([0, 255]), data (by the training images), or
            auto for the one with which the network fits a few labeled images best. Default auto.
        likelihood: What the output means. Default: categorical for classes, l1 for values.
        method: Name of a method. Default: mc-dropout if the network has dropout, else deterministic.
        samples: Number of draws of a stochastic method. Default 20.
        size: Height and width at which the network sees the first image, pixels. Default: the size of the files.
        out: Folder of the run. Default runs/DATA-NETWORK.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato import training
    from sfumato.registry import Trust
    from sfumato.runs import Config

    for name, given in {"network": network, "data": data}.items():
        if not given:
            raise ConfigError(f"no {name} is named: give it with --{name}")
    config = Config(
        data=data, root=root, task=task, network=network, network_args=network_args or {}, output=output,
        likelihood=likelihood, samples=samples, size=size,
    )  # fmt: skip
    folder = out or Path("runs") / f"{Path(data).name}-{network.rpartition('.')[2]}"
    _, notes = training.wrap(
        config, folder, weights=weights or "", normalization=normalization, method=method, trust=Trust.of(trust),
        progress=not quiet,
    )  # fmt: skip
    for note in notes:
        echo(note)
    echo(f"The run is in {folder}. Next: sfumato calibrate {folder} --trust {network.partition('.')[0]}")

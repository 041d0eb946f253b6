"""``sfumato fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.runs import Config


def fit(
    *,
    out: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    parallel_members: int = 1,
    workers: int = -1,
    cache: str = "auto",
    cache_gb: float = 2.0,
    deterministic: bool = False,
    cuda_graph: bool = False,
    logger: str = "tensorboard",
    trust: str = "",
    quiet: bool = False,
    **config: object,
) -> None:
    """Train a network, or an ensemble of networks, and leave a run: a folder with a plan, weights and logs.

    Args:
        out: Folder of the run. Default runs/DATA-METHOD-LIKELIHOOD, for several tasks runs/DATA-METHOD-WEIGHTING;
            with a fold it ends in -foldK.
        resume: Continue an interrupted training.
        device: auto, cpu, cuda or mps. Default auto.
        devices: Number of processes or GPUs on this node. Default 1.
        num_nodes: Number of nodes. Default 1.
        parallel_members: Members of an ensemble that are trained at the same time, each in its own process. Default 1.
        workers: Processes that read images. Default -1, as many as suit this machine.
        cache: Where decoded images are kept: none, memory, disk or auto. Default auto.
        cache_gb: Memory that may be used for them, GB. Default 2.
        deterministic: Use only algorithms that give the same result every time, which may be slower.
        cuda_graph: Record the passes of the network once and replay them, which is faster where a GPU waits for Python.
        logger: What is written beside metrics.csv: tensorboard, wandb, mlflow, some of them with commas, or csv for
            nothing. Default tensorboard.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
        **config: The choices that make a run, see Config.
    """
    from sfumato import training
    from sfumato.registry import Trust
    from sfumato.runs import Config

    chosen = Config(**config)  # pyright: ignore[reportArgumentType] options.read checks the types
    if chosen.teacher:
        raise ConfigError(f"teacher is {chosen.teacher}: a student is trained by `sfumato distill {chosen.teacher}`")
    plan, train, val = training.make_plan(chosen, trust=Trust.of(trust), device=device, progress=not quiet)
    folder = out or default_folder(plan.config)
    training.fit(
        plan, train, val, folder, resume=resume, device=device, devices=devices, num_nodes=num_nodes,
        parallel_members=parallel_members, progress=not quiet, workers=workers, cache=cache, cache_gb=cache_gb,
        deterministic=deterministic, cuda_graph=cuda_graph, logger=logger,
    )  # fmt: skip
    echo(f"The run is in {folder}. Next: sfumato evaluate {folder}")


def default_folder(config: Config) -> Path:
    """The folder of a run that is given no other."""
    fold = f"-fold{config.fold}" if config.fold >= 0 else ""
    return Path("runs") / f"{Path(config.data).name}-{config.method}-{config.weighting or config.likelihood}{fold}"

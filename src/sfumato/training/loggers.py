"""Where the numbers of a training are written: always ``metrics.csv``, and what other programs show."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from torch import Tensor

from sfumato.errors import ConfigError, MissingDependencyError
from sfumato.runs import Plan
from sfumato.sections import one_line
from sfumato.training.metrics_file import MetricsFile

CSV = "csv"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""The package of each logger beside ``csv``."""


def logger_names(text: str) -> list[str]:
    """The names in a choice such as ``tensorboard,wandb``.

    Raises:
        ConfigError: If there is no such logger.
        MissingDependencyError: If its package is not installed.

    >>> logger_names("csv"), logger_names("tensorboard,csv")
    ([], ['tensorboard'])
    """
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in (CSV, *PACKAGES):
            raise ConfigError(f"there is no logger {name!r}: expected some of {', '.join((CSV, *PACKAGES))}")
        if name != CSV and find_spec(PACKAGES[name]) is None:
            raise MissingDependencyError(f"the logger {name} needs a package: pip install {PACKAGES[name]}")
    return [name for name in names if name != CSV]


def make_loggers(names: str, folder: Path, member: int) -> list[Logger]:
    """The loggers of a network. Those of wandb and mlflow take their server from the environment. Without one,
    mlflow writes into the folder of the run.

    Args:
        names: Names with commas, see :func:`logger_names`.
        folder: The folder of the run.
        member: Number of the network.
    """
    label, place = f"member-{member}", folder / "log"
    found: list[Logger] = [MetricsFile(place / label)]
    for name in logger_names(names):
        if name == "tensorboard":
            found.append(TensorBoardLogger(folder, "log", label, default_hp_metric=False))
        elif name == "wandb":
            found.append(WandbLogger(project="sfumato", name=f"{folder.name}-{label}", save_dir=place))
        else:
            found.append(_mlflow(place.absolute(), f"{folder.name}-{label}"))
    return found


def log_choices(loggers: list[Logger], plan: Plan) -> None:
    """Start the loggers and log the configuration of a plan. In the first process only.

    Raises:
        ConfigError: If a logger cannot start, for example because its server is not reached.
    """
    choices = {name: _plain(value) for name, value in asdict(plan.config).items()}
    for logger in loggers:
        try:
            if isinstance(logger, TensorBoardLogger):
                shown = [f"val_{name}_nll" for name in plan.config.task_names] if plan.config.tasks else ["val_nll"]
                _to_tensorboard(logger, choices, ["train_loss", *shown])
            else:
                logger.log_hyperparams(choices)
        except Exception as error:  # the packages of the loggers may fail in any way
            raise ConfigError(
                f"{type(logger).__name__} cannot start ({type(error).__name__}: {one_line(error)}): set it up, or use "
                "--logger csv"
            ) from error


def close(loggers: list[Logger]) -> None:
    """End what would go on after the training: wandb would log the next network to the same place."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _mlflow(place: Path, name: str) -> MLFlowLogger:
    if server := os.environ.get("MLFLOW_TRACKING_URI"):
        return MLFlowLogger("sfumato", name, server)
    place.mkdir(parents=True, exist_ok=True)
    return MLFlowLogger("sfumato", name, f"sqlite:///{place}/mlflow.db", artifact_location=(place / "mlruns").as_uri())


def log_picture(loggers: Sequence[object], name: str, picture: Tensor, step: int) -> None:
    """Log a picture, uint8 (H, W, 3). In the first process only. ``metrics.csv`` holds none."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture.numpy()], step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id or "", picture.numpy(), f"{name}-{step}.png")


def _to_tensorboard(logger: TensorBoardLogger, choices: Mapping[str, bool | float | str], beside: list[str]) -> None:
    """The choices in the tab HPARAMS, beside the last values of some scalars."""
    from torch.utils.tensorboard.summary import hparams  # imports tensorboard

    for summary in hparams(dict(choices), dict.fromkeys(beside, 0.0)):  # only the names of these are used
        logger.experiment._get_file_writer().add_summary(summary)


def _plain(value: object) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)

"""A run of the default network with random weights, for benchmarks of what comes after training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sfumato.data import Scenes
from sfumato.runs import Config, Facts, Plan, build_network, save_weights, task_and_likelihood, weights_path


def untrained_run(folder: Path, size: tuple[int, int]) -> Path:
    """Make a run of the classes of scenes in a new folder, one pass for each image of ``size``."""
    config = Config(
        task="classes", likelihood="categorical", method="deterministic", members=1, size=size, crop=size,
        precision="32-true",
    )  # fmt: skip
    colors = {"image": {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}}
    task = asdict(Scenes(1).tasks["classes"])
    plan = Plan(config, Facts(normalization=colors, original_size=size, images=8, counts=(1,),
                              task_args={"classes": task}))  # fmt: skip
    folder.mkdir()
    plan.save(folder / "plan.yaml")
    save_weights(build_network(plan, task_and_likelihood(plan)[1]), weights_path(folder, 0))
    return folder

"""The time of an evaluation, divided by the time of its forward passes alone.

    python benchmarks/scale_evaluate.py

Setting: the default network on images of 360 × 480 pixels with 12 classes, MC dropout with 10 samples, one thread. The
images are PNG files, which a worker process decodes. The weights are random.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from sfumato.evaluation import evaluate
from sfumato.methods import MCDropout
from sfumato.runs import Config, Facts, Plan, Run, build_network, save_weights, task_and_likelihood, weights_path
from sfumato.tasks import Semantic

SIZE, CLASSES, SAMPLES = (360, 480), 12, 10


class Files:
    """Images and class maps in PNG files.

    Args:
        folder: Where the files are written.
        images: How many there are.
    """

    inputs = ("image",)

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.names = folder, [f"{number:03d}" for number in range(images)]
        self.tasks = {"classes": Semantic(tuple(map(str, range(CLASSES))), ((0, 0, 0),) * CLASSES)}
        random = np.random.default_rng(0)
        for name in self.names:
            blocks = random.integers(0, 256, (45, 60, 3), np.uint8)
            Image.fromarray(blocks).resize(SIZE[::-1]).save(folder / f"{name}-image.png")
            labels = random.integers(0, CLASSES, (45, 60), np.uint8)
            Image.fromarray(labels).resize(SIZE[::-1], Image.Resampling.NEAREST).save(folder / f"{name}-classes.png")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self.names[index]
        image, classes = (
            torch.from_numpy(np.array(Image.open(self.folder / f"{name}-{kind}.png"))) for kind in ("image", "classes")
        )
        valid = torch.ones(SIZE, dtype=torch.bool)
        return {"name": name, "image": image.permute(2, 0, 1), "classes": classes.long(), "classes_valid": valid}


def make_run(folder: Path, task: Semantic) -> Run:
    """A run of the default network with random weights."""
    config = Config(
        task="classes", likelihood="categorical", members=1, samples=SAMPLES, size=SIZE, crop=SIZE, epochs=1
    )
    normalization = {"image": {"mean": (0.5,) * 3, "std": (0.25,) * 3}}
    facts = Facts(
        original_size=SIZE, images=1, normalization=normalization,
        task_args={"classes": {"names": list(task.names), "palette": [list(color) for color in task.palette]}},
    )  # fmt: skip
    plan = Plan(config, facts)
    plan.save(folder / "plan.yaml")
    torch.manual_seed(0)
    save_weights(build_network(plan, task_and_likelihood(plan)[1]), weights_path(folder, 0))
    return Run.open(folder)


def evaluate_overhead(images: int = 6, ood: bool = False) -> dict[str, float]:
    """Seconds of an evaluation and of its forward passes alone, and their ratio.

    ``evaluate_overhead`` is the ratio of wall times, which needs a machine that does nothing else.
    ``evaluate_overhead_cpu`` is the ratio of processor times of the main process, with the forward passes inside the
    evaluation as the divisor, so that other processes disturb both alike.

    Args:
        images: Number of images.
        ood: Whether the same images are also given as a data set out of distribution, so that twice as many are
            predicted.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = Files(Path(folder), images)
            run = make_run(Path(folder), data.tasks["classes"])
            one = Subset(data, [0])
            evaluate(run, one, device="cpu", samples=1, progress=False, workers=1)  # imports what it needs
            inputs = [run.prepare(*run.inputs_of(data[index])) for index in range(images)]
            start = time.perf_counter()
            with torch.no_grad():
                for each in inputs * (1 + ood):
                    for _ in run.method().draws(*each, generator=torch.Generator().manual_seed(0)):
                        pass
            forward = time.perf_counter() - start
            start, cpu = time.perf_counter(), time.process_time()
            with timed_draws() as inside:
                evaluate(run, data, ood=data if ood else None, device="cpu", progress=False, workers=1)
            whole, cpu = time.perf_counter() - start, time.process_time() - cpu
    finally:
        torch.set_num_threads(threads)
    return {
        "forward_s": forward,
        "evaluate_s": whole,
        "evaluate_overhead": whole / forward,
        "evaluate_overhead_cpu": cpu / inside[0],
    }


@contextmanager
def timed_draws() -> Iterator[list[float]]:
    """A list whose only entry becomes the processor seconds that are spent in the draws of MC dropout."""
    draws, seconds = MCDropout.draws, [0.0]

    def timed(self: MCDropout, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        chunks = draws(self, *inputs, generator=generator)
        while True:
            start = time.process_time()
            chunk = next(chunks, None)
            seconds[0] += time.process_time() - start
            if chunk is None:
                return
            yield chunk

    MCDropout.draws = timed
    try:
        yield seconds
    finally:
        MCDropout.draws = draws


if __name__ == "__main__":
    print(json.dumps({"plain": evaluate_overhead(), "with ood": evaluate_overhead(4, ood=True)}, indent=2))

"""Depth without labels: a network that sees one image learns from the right view of a stereo pair.

    python recipes/selfsup.py --scenes 512 --epochs 16

The right view, warped by the predicted depth, must look like the image. No depth label is read. The standard deviation
learns the photometric error, and a student of the network learns one in meters. Both are compared with the errors of
depth on other scenes, which have labels: a score says how much of the error is left in the most certain half of the
pixels.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import sfumato
from sfumato.data import Scenes
from sfumato.distillation import distill

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--scenes", type=int, default=512, help="number of training scenes")
parser.add_argument("--epochs", type=int, default=16)
parser.add_argument("--size", type=int, nargs=2, default=(96, 128), help="height and width, pixels")
options = parser.parse_args()

size = tuple(options.size)
train, val = Scenes(options.scenes, size=size, seed=0, views=True), Scenes(20, size=size, seed=1)


def scores(run):
    """The mean relative error of all pixels, and of the half with the smallest σ / depth."""
    errors, spreads = [], []
    for sample in (val[index] for index in range(len(val))):
        found, valid = run.predict(*run.inputs_of(sample)), sample["depth_valid"]
        true = sample["depth_true"][0]
        errors.append(((found.mean[0, 0] - true).abs() / true)[valid])
        spreads.append((found.std[0, 0] / found.mean[0, 0])[valid])
    errors, spreads = torch.cat(errors), torch.cat(spreads)
    half = spreads.argsort()[: len(spreads) // 2]
    return f"relative error {errors.mean():.3f}, in the certain half {errors[half].mean():.3f}"


with tempfile.TemporaryDirectory() as folder:
    run = sfumato.fit(
        (train, None), task="depth", objective="reprojection", method="deterministic", epochs=options.epochs,
        network_args={"dropout": 0.0}, out=Path(folder) / "run", progress=False,
    )  # fmt: skip
    student = distill(
        run, train, None, Path(folder) / "student", likelihood="self-laplace", seed=1, progress=False
    )  # fmt: skip
    print(f"Repr, the photometric error: {scores(run)}")
    print(f"Self, a student:             {scores(student)}")

"""Optical flow: a network learns from generated pairs and gives each vector an ellipse.

    python recipes/flow.py --scenes 2000 --epochs 3

It is printed how large the errors are in all pixels and in the most certain half, how many true vectors end inside
their 90 % ellipse, and how well the predicted covariance and the forward–backward error find errors of more than 3 px.
The picture flow.png shows vectors and ellipses of the first scene.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image

import sfumato
from sfumato.data import Scenes
from sfumato.geometry import forward_backward_error
from sfumato.metrics import VectorScores
from sfumato.predictions import ValuePrediction
from sfumato.report import draw_vectors

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--scenes", type=int, default=2000, help="number of training scenes")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--size", type=int, nargs=2, default=(96, 128), help="height and width, pixels")
options = parser.parse_args()

size, views = tuple(options.size), ("next",)
train = Scenes(options.scenes, size=size, seed=0, views=views, varied=True)
val = Scenes(20, size=size, seed=1, views=views, varied=True)

with tempfile.TemporaryDirectory() as folder:
    run = sfumato.fit(
        (train, None), task="flow", network="light-flow", likelihood="laplace-full", method="mc-dropout",
        epochs=options.epochs, learning_rate=2e-3, out=Path(folder) / "run", progress=False,
    )  # fmt: skip

learned, checked, errors, spreads = VectorScores(), VectorScores(), [], []
for sample in (val[index] for index in range(len(val))):
    first, second, flow = (sample[name][None] for name in ("image", "next", "flow"))
    seen = sample["flow_valid"][None]
    there, back = run.predict(first, second), run.predict(second, first)
    apart = forward_backward_error(there.mean, back.mean)[:, None].expand_as(flow).square()
    learned.update(there, flow, seen)
    checked.update(ValuePrediction(there.mean, apart, torch.zeros_like(apart), "px"), flow, seen)
    errors.append((there.mean - flow).norm(dim=1)[seen])
    spreads.append(there.total.sqrt()[seen])
errors, spreads = torch.cat(errors), torch.cat(spreads)
half = spreads.argsort()[: len(spreads) // 2]
print(f"Error of the vectors: {errors.mean():.2f} px, in the certain half {errors[half].mean():.2f} px")
scores, others = learned.compute(), checked.compute()
print(f"{scores['ellipse90']:.0%} of the true vectors end inside their 90 % ellipse")
print(f"Errors above 3 px are found with an AUROC of {scores['far_auroc']:.3f} by the predicted covariance in one "
      f"prediction, and {others['far_auroc']:.3f} by the forward–backward error of two")  # fmt: skip

sample = val[0]
prediction = run.predict(sample["image"][None], sample["next"][None])
Image.fromarray(draw_vectors(prediction)).save("flow.png")
print("Vectors and ellipses: flow.png")

"""Stereo: a network learns from generated pairs, says where it is unsure, and gives depth with an interval.

    python recipes/stereo.py --scenes 2000 --epochs 3

The network gives a distribution over disparities to each pixel. It is printed how large the errors are in all pixels
and in the most certain half; how large σ is on repeated patterns, which match in many places, and elsewhere; how often
the 90 % interval of depth holds the true depth; and on which pixels the disparity of one pixel depends most.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import sfumato
from sfumato.data import Scenes
from sfumato.geometry import disparity_to_depth, gradient_saliency

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--scenes", type=int, default=2000, help="number of training scenes")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--size", type=int, nargs=2, default=(96, 128), help="height and width, pixels")
options = parser.parse_args()

size, views = tuple(options.size), ("right",)
train = Scenes(options.scenes, size=size, seed=0, views=views, varied=True)
val = Scenes(20, size=size, seed=1, views=views, varied=True)

with tempfile.TemporaryDirectory() as folder:
    run = sfumato.fit(
        (train, None), task="disparity", network="light-stereo", likelihood="planes", method="mc-dropout",
        epochs=options.epochs, out=Path(folder) / "run", progress=False,
    )  # fmt: skip

errors, spreads, repeated, inside = [], [], [], []
for sample in (val[index] for index in range(len(val))):
    found, seen = run.predict(sample["image"][None], sample["right"][None]), sample["disparity_valid"]
    errors.append((found.mean[0, 0] - sample["disparity"][0]).abs()[seen])
    spreads.append(found.std[0, 0][seen])
    repeated.append((sample["texture"] == 2)[seen])
    across = (torch.linalg.inv(sample["world_from_camera"]) @ sample["world_from_right"])[0, 3]
    depth, true = disparity_to_depth(found, sample["intrinsics"][None], across), sample["depth_true"][0]
    inside.append(((depth.near[0, 0] <= true) & (true <= depth.far[0, 0]))[seen])
errors, spreads, repeated, inside = (torch.cat(each) for each in (errors, spreads, repeated, inside))
half = spreads.argsort()[: len(spreads) // 2]
print(f"Error of the disparity: {errors.mean():.2f} px, in the certain half {errors[half].mean():.2f} px")
print(f"Mean σ: {spreads[~repeated].mean():.2f} px, on repeated patterns {spreads[repeated].mean():.2f} px")
print(f"The 90 % interval of depth holds {inside.float().mean():.0%} of the true depths")

network, sample = run.networks[0], val[0]
point = (size[0] // 2, size[1] // 2)
maps = gradient_saliency(
    lambda left, right: run.likelihood.moments(network(left, right)).mean,
    sample["image"][None], sample["right"][None], point,
)  # fmt: skip
place = [divmod(int(each.argmax()), size[1]) for each in maps]
print(f"The disparity at {point} depends most on pixel {place[0]} of the left and {place[1]} of the right view")

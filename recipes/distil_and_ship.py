"""From a trained ensemble to one ONNX file and a picture: train, distil, calibrate, export, run without torch.

    python recipes/distil_and_ship.py --out shipped

Three networks learn to label generated scenes; a student learns to say in one pass what they say together; it is
calibrated, exported with everything inside its graph, and the file is run by onnxruntime on a scene with objects that
none of them has seen.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from sfumato.data import Scenes
from sfumato.serving import Bundle, export
from sfumato.training import Plan, calibrate, derive, distil, evaluate, fit, subset

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path, default=Path("shipped"))
parser.add_argument("--scenes", type=int, default=256)
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--size", type=int, nargs=2, default=(96, 128))
options = parser.parse_args()
size = tuple(options.size)
train, held, val = (Scenes(count, size=size, seed=seed) for seed, count in enumerate((options.scenes, 16, 16)))
task = train.tasks["classes"]

# The teacher: three networks, each trained from its own random weights.
plan = Plan(
    data="scenes", task="classes", task_args=vars(task), likelihood="categorical", method="ensemble", members=3,
    original_size=size, epochs=options.epochs, network_args={"dropout": 0.1},
)  # fmt: skip
plan = derive(subset(train, task), task, plan, train.augmentation)
teacher = fit(plan, train, None, options.out / "teacher", progress=False, resume=True)

# The student: the same network with one more output channel, which learns the teacher's epistemic part.
student = distil(teacher, train, None, options.out / "student", progress=False, resume=True)
found = evaluate(student, val, progress=False)
ours, theirs, near = found.scores.compute(), found.teacher.compute(), found.fidelity.compute()
for name in ("miou", "nll", "error_auroc"):
    print(f"{name:12s} teacher {float(theirs[name]):.3f}  student {float(ours[name]):.3f}")
print(f"rank correlation of their epistemic parts {float(near['spearman_epistemic']):.3f}")

# One file: normalization, network, calibration and the split into parts.
student = calibrate(student, held, progress=False)
path = options.out / "student.onnx"
print(f"exported, within {max(export(student, path).values()):.1g} of the run")

# Elsewhere, with onnxruntime and numpy alone:
bundle = Bundle(path)
sample = Scenes(1, size=size, seed=2, novel=True)[0]
image = (sample["image"].numpy() * 255).astype(np.uint8)
maps = bundle(image[None])

# A picture: the image, the label, and how unsure the student is of it in all, by the world's fault and by its own.
label = np.array(bundle.metadata["palette"], np.uint8)[maps["label"][0]]
parts = [maps[name][0] / np.log(len(bundle.metadata["classes"])) for name in ("total", "aleatoric", "epistemic")]
heat = [(matplotlib.colormaps["inferno"](np.sqrt(part.clip(0, 1)))[..., :3] * 255).astype(np.uint8) for part in parts]
Image.fromarray(np.hstack([image.transpose(1, 2, 0), label, *heat])).save(options.out / "student.png")
print(f"{path} and {options.out / 'student.png'}: image, label, total, aleatoric, epistemic")

"""From an ensemble to one ONNX file and a picture: train, distill, calibrate, export, run without torch.

    python recipes/distill_and_ship.py --out shipped

Three networks learn to label generated scenes. A student learns to predict in one pass what they predict together. It
is calibrated and exported, and onnxruntime runs the file on a scene with objects that no network has seen.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

import sfumato
from sfumato.data import Scenes
from sfumato.distillation import distill
from sfumato.evaluation import calibrate, evaluate
from sfumato.serving import Bundle, export

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--out", type=Path, default=Path("shipped"), help="folder of the runs, the file and the picture")
parser.add_argument("--scenes", type=int, default=256, help="number of training scenes")
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--size", type=int, nargs=2, default=(96, 128), help="height and width, pixels")
options = parser.parse_args()
size = tuple(options.size)
train, held_out, val = (Scenes(count, size=size, seed=seed) for seed, count in enumerate((options.scenes, 16, 16)))

# The teacher: three networks, each trained from its own random weights.
teacher = sfumato.fit(
    (train, None), task="classes", likelihood="categorical", method="ensemble", members=3, epochs=options.epochs,
    network_args={"dropout": 0.1}, out=options.out / "teacher", resume=True, progress=False,
)  # fmt: skip

# The student: the same network with one more output channel, which learns the teacher's epistemic part.
student = distill(teacher, train, None, options.out / "student", resume=True, progress=False)
found = evaluate(student, val, progress=False)
assert found is not None
scores, of_teacher = found.tasks["classes"].scores, found.tasks["classes"].teacher
assert of_teacher is not None
for name in ("miou", "nll", "error_auroc"):
    print(f"{name:12s} teacher {of_teacher.scores[name].value:.3f}  student {scores[name].value:.3f}")
print(f"rank correlation of their epistemic parts {scores['spearman_epistemic'].value:.3f}")

# One file: normalization, network, calibration and the split into parts.
student, report = calibrate(student, held_out, progress=False)
print(report.text)
path = options.out / "student.onnx"
print(f"exported, within {max(export(student, path).values()):.1g} of the run")

# Elsewhere, with onnxruntime and numpy alone:
bundle = Bundle(path)
sample = Scenes(1, size=size, seed=2, novel=True)[0]
image = (torch.as_tensor(sample["image"]).numpy() * 255).astype(np.uint8)
maps = bundle(image[None])

# A picture: the image, the label, and the total, aleatoric and epistemic uncertainty.
palette, names = bundle.metadata["task_args"]["palette"], bundle.metadata["classes"]
label = np.array(palette, np.uint8)[maps["label"][0]]
parts = [maps[name][0] / np.log(len(names)) for name in ("total", "aleatoric", "epistemic")]
heat = [(matplotlib.colormaps["inferno"](np.sqrt(part.clip(0, 1)))[..., :3] * 255).astype(np.uint8) for part in parts]
Image.fromarray(np.hstack([image.transpose(1, 2, 0), label, *heat])).save(options.out / "student.png")
print(f"{path} and {options.out / 'student.png'}: image, label, total, aleatoric, epistemic")

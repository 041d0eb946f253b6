"""Is the noise that a network learns the noise that is there? Generated scenes know, so ask them.

    python recipes/truth.py --scenes 512 --epochs 24

Depth targets of a scene carry noise whose σ depends on the material and the distance, and the sample holds that σ.
A network that is trained on the noisy depth alone, with a Gaussian likelihood, learns it. The benchmark of the same
name measures more of this, on more data.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from scipy.stats import spearmanr

from sfumato import predict
from sfumato.data import Scenes
from sfumato.training import Plan, derive, fit, subset

parser = argparse.ArgumentParser()
parser.add_argument("--scenes", type=int, default=512)
parser.add_argument("--epochs", type=int, default=24)
parser.add_argument("--size", type=int, nargs=2, default=(64, 96))
options = parser.parse_args()

size = tuple(options.size)
train, val = Scenes(options.scenes, size=size, seed=0), Scenes(20, size=size, seed=1)
task = train.tasks["depth"]
plan = Plan(
    data="scenes", task="depth", task_args=vars(task), likelihood="gaussian", method="deterministic", members=1,
    original_size=size, epochs=options.epochs, network_args={"dropout": 0.0},
)  # fmt: skip

with tempfile.TemporaryDirectory() as folder:
    run = fit(derive(subset(train, task), task, plan, train.augmentation), train, val, Path(folder) / "run")

learned, true = [], []
for sample in (val[index] for index in range(len(val))):
    law = predict(run.method(), sample["image"][None], likelihood=run.likelihood)
    # The likelihood is normal in log depth; this turns the moments of depth back into its σ.
    sigma = torch.log1p(law.aleatoric[0] / law.mean[0, 0].square()).sqrt()
    learned.append(sigma[sample["depth_valid"]])
    true.append(sample["depth_sigma"][0][sample["depth_valid"]])

learned, true = torch.cat(learned), torch.cat(true)
print(f"learned against true σ of log depth, {len(true)} pixels: "
      f"Spearman {spearmanr(learned, true).statistic:.3f}, median ratio {(learned / true).median():.3f}")  # fmt: skip

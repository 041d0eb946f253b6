"""Is the noise that a network learns the noise that is in the data? Generated scenes hold the true noise.

    python recipes/truth.py --scenes 512 --epochs 24

The depth targets of a scene have noise whose σ depends on the material and the distance, and each sample holds that σ.
A network that is trained on the noisy depth alone, with a Gaussian likelihood, learns it. The benchmark of the same
name measures more of this, on more data.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from scipy.stats import spearmanr

import sfumato
from sfumato.data import Scenes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--scenes", type=int, default=512, help="number of training scenes")
parser.add_argument("--epochs", type=int, default=24)
parser.add_argument("--size", type=int, nargs=2, default=(64, 96), help="height and width, pixels")
options = parser.parse_args()

size = tuple(options.size)
train, val = Scenes(options.scenes, size=size, seed=0), Scenes(20, size=size, seed=1)
with tempfile.TemporaryDirectory() as folder:
    run = sfumato.fit(
        (train, val), task="depth", likelihood="gaussian", method="deterministic", epochs=options.epochs,
        network_args={"dropout": 0.0}, out=Path(folder) / "run", progress=False,
    )  # fmt: skip

learned, true = [], []
for sample in (val[index] for index in range(len(val))):
    prediction, valid = run.predict(*run.inputs_of(sample)), sample["depth_valid"]
    # The likelihood is normal in log depth. This computes its σ from the moments of depth.
    sigma = torch.log1p(prediction.aleatoric[0] / prediction.mean[0, 0].square()).sqrt()
    learned.append(sigma[valid])
    true.append(sample["depth_sigma"][0][valid])

learned, true = torch.cat(learned), torch.cat(true)
print(f"learned against true σ of log depth, {len(true)} pixels: "
      f"Spearman {spearmanr(learned, true).statistic:.3f}, median ratio {(learned / true).median():.3f}")  # fmt: skip

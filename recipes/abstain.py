"""Accept only pixels whose share of errors stays within a budget, with a stated probability.

    python recipes/abstain.py --scenes 512 --epochs 12 --risk 0.05

A network learns the classes of generated scenes. On scenes that it has not seen, the largest threshold of its
uncertainty is found for which a test says: with probability 0.9, at most a share ``--risk`` of an image's accepted
pixels is wrong on average. Other scenes show what that gives. `sfumato decide abstain` does the same for the files of
a run.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import sfumato
from sfumato.data import Scenes
from sfumato.decisions import Abstention

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--scenes", type=int, default=512, help="number of training scenes")
parser.add_argument("--epochs", type=int, default=12)
parser.add_argument("--size", type=int, nargs=2, default=(48, 64), help="height and width, pixels")
parser.add_argument("--held", type=int, default=200, help="number of scenes to fit on, and of those to try it on")
parser.add_argument("--risk", type=float, default=0.05)
options = parser.parse_args()

size = tuple(options.size)
train, held, others = (Scenes(n, size=size, seed=seed) for seed, n in enumerate((options.scenes, *2 * [options.held])))
with tempfile.TemporaryDirectory() as folder:
    run = sfumato.fit(
        (train, None), task="classes", method="mc-dropout", samples=5, epochs=options.epochs,
        network_args={"dropout": 0.2}, out=Path(folder) / "run", progress=False,
    )  # fmt: skip


def predicted(scenes):
    """Prediction, target and mask of each scene."""
    for index in range(len(scenes)):
        sample = scenes[index]
        found = run.predict(*run.inputs_of(sample), index=index)
        yield found, sample["classes"][None], sample["classes_valid"][None]


try:
    abstain = Abstention.fit(predicted(held), options.risk, delta=0.1)
except sfumato.errors.DataError as problem:
    raise SystemExit(f"nothing can be promised: {problem}") from None
print(f"fitted on {abstain.images} scenes: {abstain.text()}")

shares, risks, before = [], [], []
for prediction, target, valid in predicted(others):
    accepted, wrong = abstain(prediction) & valid, prediction.label != target
    shares.append(accepted[valid].double().mean())
    before.append(wrong[valid].double().mean())
    if accepted.any():
        risks.append(wrong[accepted].double().mean())
print(f"on {len(others)} others: {torch.stack(shares).mean():.1%} of the pixels accepted, "
      f"risk {torch.stack(risks).mean():.4f}, {torch.stack(before).mean():.4f} without abstaining")  # fmt: skip

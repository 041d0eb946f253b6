"""Uncertainty for a network that is already trained, by somebody else's training loop.

    python recipes/wrap.py --steps 400

A plain PyTorch loop trains a network on generated scenes and saves its weights. Then `sfumato.wrap` makes a run of it:
its input range is found, it is calibrated on held-out images, and the density of its features says which pixels show
unseen objects. `benchmarks/wrap.md` does the same with a network with dropout on CamVid.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader

import sfumato
from sfumato.data import Scenes
from sfumato.training import fit_post_hoc

SIZE = (48, 64)


# Somebody else's network and training: images in [0, 255], class ids, cross-entropy. Nothing of sfumato.
def make(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=2, dilation=2), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=4, dilation=4), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, classes, 1),
    )  # fmt: skip


def train_plainly(data: Scenes, steps: int, weights: Path) -> None:
    network = make(8)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    batches = DataLoader(data, 8, shuffle=True)
    for step in range(steps):
        if step % len(batches) == 0:
            stream = iter(batches)
        batch = next(stream)
        logits = interpolate(network(255 * batch["image"]), SIZE, mode="bilinear")
        loss = cross_entropy(logits, batch["classes"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save({"state_dict": network.state_dict()}, weights)
    print(f"trained by a plain loop: loss {loss.item():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="number of training steps, of 8 scenes each")
    options = parser.parse_args()
    torch.manual_seed(0)
    train, val, unseen = Scenes(128, size=SIZE), Scenes(16, size=SIZE, seed=1), Scenes(8, size=SIZE, seed=2, novel=True)
    folder = Path("runs/wrapped")
    folder.parent.mkdir(exist_ok=True)
    weights = folder.with_name("wrapped-best.pt")
    train_plainly(train, options.steps, weights)

    # From here on: a run. Its output at half of the size is enlarged, and the range [0, 255] is found.
    run = sfumato.wrap("wrap.make", (train, val), weights=weights, task="classes", out=folder, progress=False)
    print(run.calibrate(val, progress=False).text)
    run = run.calibrated_copy()

    prediction = run.predict(val[0]["image"][None])
    print(f"one image: mean entropy {prediction.total.mean():.3f} nats, epistemic {prediction.epistemic.mean():.3f}")

    # Features that differ from those of the training images: no training, one pass.
    density = fit_post_hoc(run, "feature-density", folder.with_name("wrapped-density"), train, progress=False)
    novelty = {True: [], False: []}
    for sample in (unseen[index] for index in range(len(unseen))):
        found = density.predict(sample["image"][None]).novelty[0]
        for novel in novelty:
            novelty[novel].append(found[sample["novel"] == novel])
    known, novel = (torch.cat(novelty[which]) for which in (False, True))
    later = (novel[:, None] > known[torch.randperm(len(known))[:2000]]).float().mean()
    print(f"feature density: an unseen object has a larger novelty than a known pixel in {100 * later:.0f} % of pairs")


if __name__ == "__main__":
    main()

"""Your own network and your own training loop: what sfumato adds is a loss, a prediction and a score.

    python recipes/own_network.py --steps 400

A small network with dropout learns to label generated scenes. Then it predicts the uncertainty of each pixel, in two
parts.
"""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader

from sfumato import ClassScores, LogitNormal, MCDropout, predict
from sfumato.data import Scenes

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=400, help="number of training steps, of 8 scenes each")
options = parser.parse_args()
torch.manual_seed(0)

# The likelihood gives the number of channels that the network must have: a logit and its scale for each class.
train, val = Scenes(128, size=(48, 64), seed=0), Scenes(16, size=(48, 64), seed=1)
names = train.tasks["classes"].names
likelihood = LogitNormal(len(names))

network = nn.Sequential(
    nn.Conv2d(3, 32, 5, stride=2, padding=2), nn.BatchNorm2d(32), nn.ReLU(inplace=True),
    nn.Conv2d(32, 64, 3, padding=2, dilation=2), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
    nn.Conv2d(64, 64, 3, padding=4, dilation=4), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.Dropout2d(0.2),
    nn.Conv2d(64, likelihood.channels, 1), nn.Upsample(scale_factor=2, mode="bilinear"),
)  # fmt: skip

# The loss: a negative log likelihood for each pixel, 0 where the class is not known.
optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
batches = DataLoader(train, 8, shuffle=True)
for step in range(options.steps):
    if step % len(batches) == 0:
        stream = iter(batches)
    batch = next(stream)
    loss = likelihood.nll(network(batch["image"]), batch["classes"], batch["classes_valid"]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step:4d}  nll {loss:.3f}")

# The prediction: 20 draws of dropout, aggregated one by one. Only the layers after the dropout are computed 20 times.
method, scores = MCDropout(network, samples=20), ClassScores(len(names))
for batch in DataLoader(val, 4):
    prediction = predict(method, batch["image"], likelihood=likelihood, generator=torch.Generator().manual_seed(0))
    scores.update(prediction, batch["classes"], batch["classes_valid"])

found = scores.compute()
print({name: round(float(found[name]), 3) for name in ("miou", "nll", "ece", "error_auroc")})
print(f"mean uncertainty of the last images, nats: total {prediction.total.mean():.3f} = "
      f"aleatoric {prediction.aleatoric.mean():.3f} + epistemic {prediction.epistemic.mean():.3f}")  # fmt: skip

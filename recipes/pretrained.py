"""Fine-tune a pretrained encoder, with uncertainty. First by name, then with an encoder of your own.

    pip install 'sfumato[all]'
    python recipes/pretrained.py --images 64 --epochs 15

Two networks of the same form are trained on few images: one whose encoder was trained on ImageNet, and one from random
weights. Then any module that returns a feature pyramid becomes the encoder of a `FeatureUNet`.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

import sfumato
from sfumato import Categorical, MCDropout, predict
from sfumato.data import Scenes
from sfumato.models import FeatureUNet

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--images", type=int, default=64, help="number of training images")
parser.add_argument("--epochs", type=int, default=15)
parser.add_argument("--size", type=int, nargs=2, default=(64, 96), help="height and width, pixels")
options = parser.parse_args()
size = tuple(options.size)
train, val = Scenes(options.images, size=size, seed=0), Scenes(20, size=size, seed=1)

# By name: `sfumato fit --network efficient-unet` does the same. The encoder learns with a fifth of the learning rate.
with tempfile.TemporaryDirectory() as folder:
    for pretrained in (True, False):
        run = sfumato.fit(
            (train, val), task="classes", network="efficient-unet", network_args={"pretrained": pretrained},
            learning_rate=0.002, epochs=options.epochs, batch=4, out=Path(folder) / f"{pretrained}", progress=False,
        )  # fmt: skip
        found = run.evaluate(val, progress=False).tasks["classes"].scores
        start = "ImageNet weights" if pretrained else "random weights"
        print(f"from {start}:", ", ".join(f"{name} {found[name].value:.3f}" for name in ("miou", "nll", "error_auroc")))


# An encoder of your own. Those of timm (features_only=True), torchvision, segmentation_models_pytorch and transformers
# return such a pyramid already.
class Encoder(nn.Module):
    """Features at a half and at a quarter of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU())

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The features, fine to coarse."""
        fine = self.fine(image)
        return [fine, self.coarse(fine)]


network = FeatureUNet(8, Encoder(), batch_norm="frozen").eval()
prediction = predict(MCDropout(network, samples=10), val[0]["image"][None], likelihood=Categorical(8))
print(f"strides {network.strides}; images are standardized by {network.input_normalization['mean']}; "
      f"epistemic {prediction.epistemic.mean():.3f} nats before any training")  # fmt: skip

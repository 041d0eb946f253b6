"""A network that somebody trained with a loop of their own: plain PyTorch, no other library for training.

    python benchmarks/plain_torch.py FOLDER --out best.pt

FOLDER holds CamVid in the layout of the SegNet tutorial: images in `train` and `test`, and labels of the same names in
`trainannot` and `testannot`, with 11 for void. The network is a small U-Net with dropout in its center. Images are
standardized as for ImageNet. The checkpoint is written as `nn.DataParallel` leaves it, with `module.` before each name.
`wrap.py` takes it from there. The last line printed is the mean IoU on `test`.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

CLASSES, VOID = 11, 11
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


class Frames(Dataset):
    """Standardized images (3, H, W) float32 and labels (H, W) int64, in memory."""

    def __init__(self, folder, split):
        self.paths = sorted(Path(folder, split).glob("*.png"))
        self.images = [np.asarray(Image.open(path).convert("RGB")) for path in self.paths]
        self.labels = [np.array(Image.open(Path(folder, f"{split}annot", path.name))) for path in self.paths]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        image = (self.images[index] / np.float32(255) - MEAN) / STD
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(self.labels[index]).long()


def block(inputs, outputs, dropout=0.0, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Dropout2d(dropout),
    )  # fmt: skip


def enlarged(small, large):
    return F.interpolate(small, size=large.shape[-2:], mode="bilinear", align_corners=False)


class Net(nn.Module):
    """A U-Net: images (B, 3, H, W) to logits (B, 11, H, W)."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([block(3, 24, stride=2), block(24, 48), block(48, 96, 0.3)])
        self.center = block(96, 128, 0.3)
        self.up = nn.ModuleList([block(128 + 96, 64, 0.3), block(64 + 48, 32), block(32 + 24, 24)])
        self.head = nn.Conv2d(24, CLASSES, 1)

    def forward(self, image):
        """Logits of the size of the images."""
        x, skips = image, []
        for down in self.down:
            skips.append(down(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.center(x)
        for up, skip in zip(self.up, reversed(skips)):
            x = up(torch.cat([enlarged(x, skip), skip], 1))
        return enlarged(self.head(x), image)


def mean_iou(network, frames):
    counts = torch.zeros(CLASSES, CLASSES, dtype=torch.long)
    network.eval()
    with torch.no_grad():
        for image, label in DataLoader(frames, 4):
            predicted, valid = network(image).argmax(1), label != VOID
            pairs = label[valid] * CLASSES + predicted[valid]
            counts += torch.bincount(pairs, minlength=CLASSES**2).view(CLASSES, CLASSES)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    return (counts.diagonal() / union.clamp_min(1))[union > 0].mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--out", default="best.pt")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    torch.manual_seed(0)
    frames, network = Frames(options.folder, "train"), Net()
    loader = DataLoader(frames, 4, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, options.epochs * len(loader))
    start = time.time()
    for epoch in range(options.epochs):
        network.train()
        losses = []
        for image, label in loader:
            if torch.rand(()) < 0.5:
                image, label = image.flip(-1), label.flip(-1)
            loss = F.cross_entropy(network(image), label, ignore_index=VOID)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, {time.time() - start:.0f} s", flush=True)
        state = {f"module.{name}": value for name, value in network.state_dict().items()}
        torch.save({"epoch": epoch + 1, "state_dict": state}, options.out)
    print(f"mean IoU {mean_iou(network, Frames(options.folder, 'test')):.4f}")


if __name__ == "__main__":
    main()

"""Does variance propagation find the standard deviation of MC dropout in a trained U-Net?

    OMP_NUM_THREADS=1 python benchmarks/propagation.py

Trains a small U-Net on Scenes for some 2 minutes of one core and compares the standard deviation of each logit with
that of many dropout masks: for the fitted propagation, for the rules of independent elements, and for few masks. Times
are processor times over that of one plain forward pass. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from sfumato.data import Scenes
from sfumato.data.scenes import shift
from sfumato.methods import Deterministic, MCDropout, VariancePropagation
from sfumato.models import UNet

SIZE, WIDTHS, DROPOUT, BATCH, RATE = (48, 64), (8, 16, 32, 48), 0.2, 8, 3e-3
FITTED, MASKS, KNOWN = 16, 50, 400  # images and masks of the fit; masks of the standard deviation compared with
RANKS, FEW = (0, 1, 2, 4), (4, 8, 20)
Moments = tuple[Tensor, Tensor]


def images(count: int, seed: int, *keys: str) -> list[Tensor]:
    """Entries of Scenes, each as one batch."""
    scenes = Scenes(count, size=SIZE, seed=seed)
    samples = [scenes[index] for index in range(count)]
    return [torch.stack([torch.as_tensor(sample[key]) for sample in samples]) for key in keys]


def trained(steps: int, count: int, seed: int) -> UNet:
    """A U-Net for the classes of Scenes."""
    torch.manual_seed(seed)
    image, classes, valid = images(count, 0, "image", "classes", "classes_valid")
    network = UNet(int(classes.max()) + 1, WIDTHS, dropout=DROPOUT)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for _ in range(steps):
        index, flipped = torch.randint(count, (BATCH,)), [-1] if torch.rand(()) < 0.5 else []
        x, y, known = (entry[index].flip(flipped) for entry in (image, classes, valid))
        loss = F.cross_entropy(network(x), y, reduction="none")[known].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network


def sampled(network: UNet, x: Tensor, masks: int, seed: int) -> Moments:
    """Mean and variance over dropout masks."""
    method = MCDropout(network, masks)
    draws = torch.cat(list(method.draws(x, generator=torch.Generator().manual_seed(seed))))
    return draws.mean(0), draws.var(0)


def compared(found: Moments, known: Moments) -> dict[str, float]:
    """Standard deviations of single logits, and of pixels: the root of the variance summed over the logits."""
    sd, wanted = found[1].sqrt(), known[1].sqrt()
    spearman: Any = spearmanr(sd.flatten().numpy(), wanted.flatten().numpy())
    pixel, pixel_wanted = found[1].sum(1).sqrt(), known[1].sum(1).sqrt()
    return {
        "std_ratio_median": (sd / wanted).median().item(),
        "std_within_20_percent": (pixel / pixel_wanted - 1).abs().lt(0.2).float().mean().item(),
        "std_within_20_percent_of_logits": (sd / wanted - 1).abs().lt(0.2).float().mean().item(),
        "spearman": float(spearman.statistic),
        "mean_error_in_std": ((found[0] - known[0]).abs() / wanted).mean().item(),
    }


def passes(network: UNet, x: Tensor, work: Callable[[Tensor], object], repeats: int = 15) -> float:
    """How many plain passes the work takes, for one image: the median of the ratios."""
    plain, ratios = Deterministic(network), []
    for _ in range(repeats):
        start = time.process_time()
        list(plain.draws(x))
        middle = time.process_time()
        work(x)
        ratios.append((time.process_time() - middle) / (middle - start))
    return median(ratios)


def compare_all(network: UNet, x: Tensor, seed: int) -> dict[str, dict[str, float]]:
    """One row for each method and each kind of image."""
    (fitted,) = images(FITTED, 0, "image")
    methods = {"independent": VariancePropagation(network)}
    for rank in RANKS:
        methods[f"rank {rank}"] = VariancePropagation.fit(network, [(fitted,)], masks=MASKS, rank=rank, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    kinds = {"scenes": x} | {
        kind: torch.stack([shift(image, kind, 3, generator=generator) for image in x])
        for kind in ("darkness", "blur", "noise")
    }
    rows: dict[str, dict[str, float]] = {}
    large = F.interpolate(x[:1], scale_factor=4)  # timed at a size at which operations, not their calls, take the time
    for kind, shown in kinds.items():
        known = sampled(network, shown, KNOWN, seed + 1)
        for name, method in methods.items():
            rows[f"{kind}, {name}"] = compared(method.moments(shown), known)
        for masks in FEW:
            rows[f"{kind}, {masks} masks"] = compared(sampled(network, shown, masks, seed + 2), known)
    for name, method in methods.items():
        rows[f"scenes, {name}"]["passes"] = passes(network, large, method.moments)
    for masks in FEW:
        rows[f"scenes, {masks} masks"]["passes"] = passes(network, large, lambda x, n=masks: sampled(network, x, n, 0))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500, help="steps of training, of 8 images each")
    parser.add_argument("--train", type=int, default=256, help="scenes to train on")
    parser.add_argument("--shown", type=int, default=8, help="scenes to compare on")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    network = trained(options.steps, options.train, options.seed)
    (x,) = images(options.shown, 5, "image")
    rows = compare_all(network, x, options.seed)
    for name, row in rows.items():
        print(f"{name:24}", {key: round(value, 3) for key, value in row.items()}, flush=True)
    result = dict(rows["scenes, rank 2"])
    result |= {f"{key}_independent": value for key, value in rows["scenes, independent"].items()}
    result |= {"seed": options.seed, "steps": options.steps}
    (Path(__file__).parent / "results" / "propagation.json").write_text(
        json.dumps(result | {"rows": rows}, indent=1) + "\n"
    )
    print(json.dumps(result))


if __name__ == "__main__":
    main()

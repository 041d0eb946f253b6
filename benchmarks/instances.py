"""Instances from predicted vectors: their quality, and their time relative to one pass of the default U-Net.

    python benchmarks/instances.py                # 10 scenes of 360 × 480, one thread, processor time; minutes
    python benchmarks/instances.py --images 3     # a quick look, which writes no result

Vectors and classes are the true ones, and noise is added to the vectors. find_instances is compared with OPTICS and
HDBSCAN on 1000 votes drawn at random. Their minimum is ten votes, and the other arguments are the defaults of
scikit-learn. OPTICS is also run with clusters at one radius, that of find_instances. Then each pixel gets the nearest
mean, as in find_instances. OPTICS takes seconds for an image, so it is run with two kinds of noise only. The last line
is JSON, also in results/instances.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from sklearn.cluster import HDBSCAN, OPTICS
from torch import Tensor

from sfumato.contracts import Sample
from sfumato.data import Scenes
from sfumato.instances import Instances, PanopticMaps, find_instances
from sfumato.metrics import InstanceScores, PanopticScores
from sfumato.models import UNet
from sfumato.predictions import ClassPrediction, ValuePrediction

SIZE, K, THINGS, VOTES = (360, 480), 8, Scenes.things, 1000
# name: (standard deviation, px; correlation length of the noise, px; factor on the vectors)
NOISE = {
    "true vectors": (0, 0, 1.0),
    "independent, 3 px": (3, 0, 1.0),
    "independent, 8 px": (8, 0, 1.0),
    "smooth, 3 px": (3, 6, 1.0),
    "smooth, 8 px": (8, 6, 1.0),
    "a fifth too short, 1 px": (1, 0, 0.8),
}
OPTICS_NOISE = ("true vectors", "smooth, 3 px")
Decoder = Callable[[ValuePrediction, ClassPrediction], list[Instances]]


def entry(sample: Sample, key: str) -> Tensor:
    """An entry of a sample."""
    found = sample[key]
    assert isinstance(found, Tensor)
    return found


def target(sample: Sample) -> PanopticMaps:
    """True classes and ids. Each instance has one class, and pixels without an instance have no class of things."""
    probs, ids = entry(sample, "class_probs"), entry(sample, "instances")
    stuff = [c for c in range(K) if c not in THINGS]
    kind = torch.tensor(stuff)[probs[stuff].argmax(0)]
    for n in ids.unique()[1:].tolist():
        kind[ids == n] = THINGS[int(probs[list(THINGS)][:, ids == n].sum(1).argmax())]
    return PanopticMaps(kind[None], ids[None])


def noisy(centers: Tensor, ids: Tensor, sigma: float, length: float, factor: float, seed: int) -> ValuePrediction:
    """Vectors (1, 2, H, W) with noise of 0.5 to 1.5 times ``sigma`` for each instance, and with that variance."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(centers.shape)
    if length:
        noise = np.stack([gaussian_filter(plane, length) for plane in noise])
        noise /= noise.std()
    scale = torch.from_numpy(sigma * rng.uniform(0.5, 1.5, int(ids.max()) + 1)).float()[ids[0]]
    mean = factor * centers + scale * torch.from_numpy(noise).float()
    return ValuePrediction(mean[None], scale.square().expand(1, 2, -1, -1), torch.zeros(1, 2, *SIZE), "px")


def clustered(cluster: Callable[[np.ndarray], np.ndarray]) -> Decoder:
    """Instances by another clustering of a part of the votes."""

    def decode(vectors: ValuePrediction, classes: ClassPrediction) -> list[Instances]:
        label = classes.label[0]
        y, x = torch.isin(label, torch.tensor(THINGS)).nonzero(as_tuple=True)
        votes = torch.stack([x, y], 1) + vectors.mean[0, :, y, x].T
        some = votes[torch.randperm(len(votes), generator=torch.Generator().manual_seed(0))[:VOTES]]
        found = torch.from_numpy(cluster(some.numpy()))
        means = torch.stack([some[found == n].mean(0) for n in range(int(found.max()) + 1)] or [torch.zeros(2)])
        present, owner = torch.cdist(votes, means).argmin(1).unique(return_inverse=True)
        ids = torch.zeros_like(label)
        ids[y, x] = owner + 1
        kinds = torch.stack([label[ids == n + 1].mode().values for n in range(len(present))])
        ones = torch.ones(len(present))
        return [Instances(ids, kinds, ones, means[present], ones, 0 * ones)]

    return decode


DECODERS: dict[str, Decoder] = {
    "find_instances": lambda vectors, classes: find_instances(vectors, classes, THINGS),
    "HDBSCAN": clustered(lambda votes: HDBSCAN(min_cluster_size=10, copy=True).fit_predict(votes)),
    "OPTICS, 6 px": clustered(
        lambda votes: OPTICS(min_samples=10, max_eps=6, cluster_method="dbscan").fit_predict(votes)
    ),
    "OPTICS, ξ": clustered(lambda votes: OPTICS(min_samples=10).fit_predict(votes)),
}


def measured(decode: Decoder, samples: list[Sample], noise: tuple[float, float, float]) -> dict[str, Any]:
    """Scores over all images, and the median processor time of an image, seconds."""
    panoptic, scores, seconds = PanopticScores(K, THINGS), InstanceScores(K, THINGS), []
    for seed, sample in enumerate(samples):
        known = target(sample)
        probs = torch.nn.functional.one_hot(known.classes, K).permute(0, 3, 1, 2).float()
        classes = ClassPrediction(probs, torch.zeros(1, *SIZE))
        vectors = noisy(entry(sample, "centers"), known.ids, *noise, seed)
        start = time.process_time()
        found = decode(vectors, classes)
        seconds.append(time.process_time() - start)
        everywhere = torch.ones_like(known.ids, dtype=torch.bool)
        panoptic.update(PanopticMaps.of(found, known.classes), known, everywhere)
        scores.update(found, known, everywhere)
    one, two = panoptic.compute(), scores.compute()
    kept = {"pq_things": one["pq_things"]} | {n: two[n] for n in ("ap", "ap50", "center_error", "center_spearman")}
    counts = {n: int(two[n]) for n in ("instances", "predicted_instances")}
    numbers = {n: None if v.isnan() else round(float(v), 4) for n, v in kept.items()}
    return numbers | counts | {"seconds": statistics.median(seconds)}


def pass_seconds(repeats: int = 5) -> float:
    """Median processor time of the default U-Net on one image."""
    network, image, seconds = UNet(K).eval(), torch.rand(1, 3, *SIZE), []
    for _ in range(repeats + 1):
        start = time.process_time()
        with torch.inference_mode():
            network(image)
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10)
    images = parser.parse_args().images
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "divide by zero", RuntimeWarning)  # from OPTICS, where votes coincide
    scenes = Scenes(images, SIZE, seed=1)
    samples = [scenes[i] for i in range(images)]
    unet = pass_seconds()
    rows = []
    for name, decode in DECODERS.items():
        for noise, numbers in NOISE.items():
            if "OPTICS" in name and noise not in OPTICS_NOISE:
                continue
            rows.append({"vectors": noise, "decoder": name, **measured(decode, samples, numbers)})
            rows[-1]["passes"] = round(rows[-1].pop("seconds") / unet, 3)
            print(rows[-1], flush=True)
    kit = {name: version(name) for name in ("torch", "scikit-learn")}
    result = {"images": images, "size": SIZE, "votes": VOTES, "unet_seconds": round(unet, 3), **kit, "rows": rows}
    print(json.dumps(result))
    if images == parser.get_default("images"):
        path = Path(__file__).parent / "results" / "instances.json"
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

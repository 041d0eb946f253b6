"""Frames of a video, merged along optical flow: what one pass for each frame is worth against many passes.

    python benchmarks/video.py --run RUN --camvid DIR                      # CamVid val as a video, and generated scenes
    python benchmarks/video.py --run RUN --camvid DIR --only camvid --frames 100

RUN is the folder of a run of ``sfumato fit --data camvid`` with dropout. DIR holds ``val`` and ``valannot``, 101
consecutive frames at 15 Hz. The rows are predicted side by side, frame by frame. Times hold prediction, flow and
merging; ``ratio`` is the time divided by that of one pass without dropout, in the same process. The scenes are pairs of
frames with exact flow, and need a run of ``sfumato fit --data scenes`` (``--scenes-run``). The parts of the result that
are not computed stay as they were. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jobs import HERE, absolute
from torch import Tensor

from sfumato.contracts import Method, Sample
from sfumato.data import CamVid, Scenes
from sfumato.geometry import FlowFunction, dis_flow, follow, pixel_grid
from sfumato.methods import Deterministic, MCDropout
from sfumato.metrics import ClassScores, TemporalScores
from sfumato.predictions import ClassPrediction, TemporalAggregation, mixed
from sfumato.runs import Run, predict_seen
from sfumato.runs.sizes import Scaling
from sfumato.targets import Image

RESULT = HERE / "results" / "video.json"
MEMORY = 0.8
SHOWN = ("miou", "temporal_consistency", "label_flicker", "uncertainty_flicker", "error_auroc", "aurc", "ause", "nll",
         "ece", "error_auroc_epistemic", "followed")  # fmt: skip
Merge = Callable[[Tensor, ClassPrediction], ClassPrediction]


@dataclass
class MovingAverage:
    """The mixture with the prediction of the last frame at the same pixels, without flow."""

    last: ClassPrediction | None = None
    weight: float = 0.0

    def __call__(self, image: Tensor, prediction: ClassPrediction) -> ClassPrediction:
        """The prediction of the next frame."""
        del image
        kept = MEMORY * self.weight
        if self.last is not None:
            prediction = mixed(prediction, self.last, torch.full_like(prediction.aleatoric, kept / (kept + 1)))
        self.last, self.weight = prediction, kept + 1
        return prediction


@dataclass
class Way:
    """One row: how frames are predicted and merged, and what was counted.

    Args:
        method: The method.
        passes: Passes of the network for each frame.
        merge: What merges frames. None for frames by themselves.
    """

    method: Method
    passes: int
    merge: Merge | None = None
    scores: ClassScores = field(default_factory=lambda: ClassScores(2))
    steady: TemporalScores = field(default_factory=TemporalScores)
    took: list[float] = field(default_factory=list)
    last: ClassPrediction | None = None

    def predict(self, run: Run, image: Tensor, index: int) -> ClassPrediction:
        """The prediction of a frame at its original size, timed."""
        start = time.perf_counter()
        found, scaling = predict_seen(run, self.method, [image], index=index)
        assert isinstance(found, ClassPrediction)
        assert found.image is not None
        if self.merge is not None:
            found = self.merge(found.image, found)
        self.took.append(1000 * (time.perf_counter() - start))
        return self.original(run, found, scaling)

    @staticmethod
    def original(run: Run, found: ClassPrediction, scaling: Scaling) -> ClassPrediction:
        """A prediction at the original size."""
        return scaling.prediction(found, {run.config.task: run.single_task})

    def row(self, plain: float) -> dict[str, Any]:
        """The scores with intervals by frame, and the time."""
        known = {**self.scores.compute(), **self.steady.compute()}
        ends = self.scores.intervals()
        found: dict[str, Any] = {name: _rounded(float(known[name])) for name in SHOWN if name in known}
        found["aurc_interval"] = [_rounded(end) for end in ends["aurc"]]
        ms = statistics.median(self.took)
        return {**found, "passes": self.passes, "ms": round(ms, 1), "ratio": round(ms / plain, 2)}


def _rounded(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None


def ways_of(run: Run, merging: Callable[[], Merge]) -> dict[str, Way]:
    """The rows for a run."""
    network = run.networks[0]

    def dropout(passes: int) -> MCDropout:
        return MCDropout(network, passes)

    plain = Deterministic(network)
    found = {
        "one pass": Way(plain, 1),
        "one pass, moving average": Way(plain, 1, MovingAverage()),
        "one pass, merged": Way(plain, 1, merging()),
        "dropout, 1 pass": Way(dropout(1), 1),
        "dropout, 1 pass, merged": Way(dropout(1), 1, merging()),
        "dropout, 2 passes, merged": Way(dropout(2), 2, merging()),
        "dropout, 5 passes": Way(dropout(5), 5),
        "dropout, 20 passes": Way(dropout(20), 20),
    }
    for way in found.values():
        way.scores, way.steady = ClassScores.for_task(run.single_task), TemporalScores.for_task(run.single_task)
    return found


def table(ways: Mapping[str, Way]) -> dict[str, dict[str, Any]]:
    """All rows."""
    plain = statistics.median(ways["one pass"].took)
    return {name: way.row(plain) for name, way in ways.items()}


@torch.no_grad()
def camvid(run: Run, root: Path, frames: int) -> Iterator[dict[str, Any]]:
    """CamVid val as a video. What is known so far comes after every 20 frames and at the end."""
    data = CamVid(root, "val")
    ways = ways_of(run, lambda: TemporalAggregation(memory=MEMORY))
    for memory in (0.5, 0.9):
        merge = TemporalAggregation(memory=memory)
        ways[f"one pass, merged, memory {memory}"] = way = Way(ways["one pass"].method, 1, merge)
        way.scores, way.steady = ClassScores.for_task(run.single_task), TemporalScores.for_task(run.single_task)
    flows, last = [], None
    for index in range(min(frames, len(data))):
        sample = data[index]
        image = Image().to_float(tensor(sample, "image")[None])
        target, valid = (tensor(sample, name)[None] for name in ("classes", "classes_valid"))
        start = time.perf_counter()
        pixels, trust = (None, None) if last is None else follow(image, last)
        flows.append(1000 * (time.perf_counter() - start))
        for way in ways.values():
            found = way.predict(run, tensor(sample, "image")[None], index)
            way.scores.update(found, target, valid)
            if way.last is not None and pixels is not None and trust is not None:
                way.steady.update(found, way.last, pixels, trust > 0.5)
            way.last = found
        last = image
        if index + 1 == min(frames, len(data)) or not (index + 1) % 20:
            ms = round(statistics.median(flows), 1)
            yield {"frames": index + 1, "follow_ms_at_original_size": ms, "rows": table(ways)}


@torch.no_grad()
def scenes(run: Run, count: int) -> dict[str, Any]:
    """Pairs of frames of generated scenes. The labels are of ``image``; ``next`` is taken for the frame before it."""
    data = Scenes(count, seed=1_000_003, views=("next",))
    known: dict[str, FlowFunction] = {"exact": dis_flow}  # set for each scene
    exact = ways_of(run, lambda: _Pair(lambda first, second: known["exact"](first, second)))
    classical = ways_of(run, lambda: _Pair(dis_flow))
    ways = {name: way for name, way in exact.items() if "average" not in name}
    ways |= {f"{name} by DIS": way for name, way in classical.items() if "merged" in name}
    for index in range(count):
        sample = data[index]
        image, other = tensor(sample, "image")[None], tensor(sample, "next")[None]
        there, back = tensor(sample, "flow")[None], tensor(sample, "flow_back")[None]
        known["exact"] = lambda first, second, image=image, there=there, back=back: (
            there if torch.equal(first, image) else back
        )
        pixels = there + pixel_grid((there.shape[-2], there.shape[-1]), there)
        followed = tensor(sample, "flow_valid")[None]
        for way in ways.values():
            if isinstance(way.merge, _Pair):
                way.merge.restart()
            before = way.predict(run, other, 2 * index + 1)
            found = way.predict(run, image, 2 * index)
            way.took.pop(-2)  # the first frame of a pair has nothing to merge
            way.scores.update(found, tensor(sample, "classes")[None], tensor(sample, "classes_valid")[None])
            way.steady.update(found, before, pixels, followed)
    return {"pairs": count, "rows": table(ways)}


class _Pair(TemporalAggregation[ClassPrediction]):
    """The aggregation of pairs, with the usual memory."""

    def __init__(self, flow: FlowFunction) -> None:
        super().__init__(flow, MEMORY)


def tensor(sample: Sample, name: str) -> Tensor:
    """A tensor of a sample."""
    value = sample[name]
    assert isinstance(value, Tensor)
    return value


def write(path: Path, part: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Write a part of the result beside the others."""
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[part] = found
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")
    return known


def about(run: Run) -> dict[str, Any]:
    """What was measured, and where."""
    config = run.config
    return {
        "run": run.folder.name, "network": config.network, "size": list(config.size), "seed": config.seed,
        "max_time": config.max_time, "epochs": config.epochs, "torch": torch.__version__,
        "python": platform.python_version(), "threads": torch.get_num_threads(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=absolute, help="folder of a run on CamVid with dropout")
    parser.add_argument("--camvid", type=absolute, help="folder that holds val and valannot")
    parser.add_argument("--scenes-run", type=absolute, help="folder of a run on scenes with dropout")
    parser.add_argument("--only", choices=("camvid", "scenes"), help="one of the two parts")
    parser.add_argument("--frames", type=int, default=101, help="frames of CamVid")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of scenes")
    parser.add_argument("--part", default="camvid", help="name of the part of the result that CamVid gets")
    parser.add_argument("--out", type=absolute, default=RESULT, help="file of the result")
    args = parser.parse_args()
    found: dict[str, Any] = {}
    if args.only != "scenes" and args.run and args.camvid:
        run = Run.open(args.run)
        for part in camvid(run, args.camvid, args.frames):
            found = write(args.out, args.part, {"about": about(run), **part})
    if args.only != "camvid" and args.scenes_run:
        run = Run.open(args.scenes_run)
        found = write(args.out, "scenes", {"about": about(run), **scenes(run, args.pairs)})
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Stereo without learning on the Middlebury pairs: OpenCV's SGBM, and a census volume with its scores of certainty.

    python benchmarks/stereo_baselines.py --data DIR [--rounds 5]

``--data`` is the folder ``middlebury``. It needs ``sfumato[geometry]``. Times are processor seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stereo_scores import mean_of, scores

from sfumato import geometry
from sfumato.data import Middlebury

RESULT = Path(__file__).parent / "results" / "stereo_baselines.json"
PLANES = 64
Pair = tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def middlebury(folder: Path) -> Iterator[Pair]:
    """Name, left and right view (H, W, 3) uint8, disparity (H, W) px, and where it is known, of the eight pairs."""
    data = Middlebury(folder)
    for index in range(len(data)):
        sample: Any = data[index]
        left, right = (sample[name].permute(1, 2, 0).numpy() for name in ("image", "right"))
        yield sample["name"], left, right, sample["disparity"][0].numpy(), sample["disparity_valid"].numpy()


def sgbm(left: np.ndarray, right: np.ndarray, checked: bool = False, planes: int = PLANES) -> np.ndarray:
    """OpenCV's semi-global matching (H, W) px; NaN where it finds nothing. The left border is padded.

    ``checked`` leaves out matches that differ between the views, are not unique, or are speckles.
    """
    import cv2

    checks = (1, 63, 10, 100, 2) if checked else ()
    matcher = cv2.StereoSGBM.create(0, planes, 5, 8 * 3 * 25, 32 * 3 * 25, *checks)
    views = [cv2.copyMakeBorder(view, 0, 0, planes, 0, cv2.BORDER_REPLICATE) for view in (left, right)]
    found = matcher.compute(*views)[:, planes:].astype(np.float32) / 16
    return np.where(found > 0, found, np.nan)


def filled(disparity: np.ndarray) -> np.ndarray:
    """The disparity with each hole filled from the nearest pixel to its left, at the border from the right."""
    out = disparity.copy()
    for row in out:
        good = np.flatnonzero(~np.isnan(row))
        if not good.size:
            row[:] = 0
            continue
        before = np.searchsorted(good, np.arange(len(row)), side="right") - 1
        row[:] = row[good[np.maximum(before, 0)]]
    return out


def sgbm_right(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The disparity of the right view: that of the mirrored pair."""
    return filled(sgbm(right[:, ::-1].copy(), left[:, ::-1].copy()))[:, ::-1].copy()


def as_views(left: np.ndarray, right: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Both views (1, 3, H, W) in [0, 1]."""
    one, two = (torch.from_numpy(view.copy()).permute(2, 0, 1)[None].float() / 255 for view in (left, right))
    return one, two


def score_sgbm(pair: Pair, checked: bool = False) -> dict[str, float]:
    _, left, right, truth, known = pair
    raw = sgbm(left, right, checked)
    found, other = filled(raw), sgbm_right(left, right)
    difference = geometry.view_difference(*(torch.from_numpy(d)[None, None] for d in (found, other)))[0].numpy()
    density = float((~np.isnan(raw)).mean())
    return {"density": density, **scores(found, truth, known, {"left_right": difference})}


def score_census(pair: Pair) -> dict[str, float]:
    _, left, right, truth, known = pair
    costs = geometry.census_costs(*as_views(left, right), PLANES)
    found = geometry.cheapest(costs)
    other = geometry.cheapest(geometry.right_costs(costs))
    maps = {
        "peak_ratio": geometry.peak_ratio(costs),
        "mass_outside": geometry.mass_outside(costs),
        "margin": geometry.narrow_margin(costs),
        "left_right": geometry.view_difference(found, other),
    }
    return scores(found[0, 0].numpy(), truth, known, {name: value[0].numpy() for name, value in maps.items()})


def seconds_of(pairs: list[Pair], rounds: int) -> dict[str, float]:
    """Median processor seconds for a pair."""
    took: dict[str, list[float]] = {"sgbm": [], "census": []}
    for _ in range(rounds):
        for _, left, right, *_ in pairs:
            for name, work in (
                ("sgbm", lambda left, right: filled(sgbm(left, right))),
                (
                    "census",
                    lambda left, right: geometry.cheapest(geometry.census_costs(*as_views(left, right), PLANES)),
                ),
            ):
                start = time.process_time()
                work(left, right)
                took[name].append(time.process_time() - start)
    return {name: round(statistics.median(times), 4) for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    pairs = list(middlebury(options.data))
    result: dict[str, Any] = {"opencv": cv2.__version__, "pairs": len(pairs)}
    for name, score in (
        ("sgbm", score_sgbm),
        ("sgbm_checked", lambda pair: score_sgbm(pair, True)),
        ("census", score_census),
    ):
        rows = {pair[0]: score(pair) for pair in pairs}
        result[name] = mean_of(list(rows.values())) | {
            "epe_by_pair": {pair: round(row["epe"], 3) for pair, row in rows.items()},
            "bad1_by_pair": {pair: round(row["bad1"], 4) for pair, row in rows.items()},
        }
    result["cpu_seconds"] = seconds_of(pairs, options.rounds)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

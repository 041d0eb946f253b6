"""What do decisions by expected cost save on CamVid, and which pixels should a person look at first?

    python benchmarks/decisions.py --camvid DIR --run RUN [--run RUN …]

Each run is one seed of a network of the 11 classes that draws several times, such as

    sfumato fit --data camvid --root DIR --network efficient-unet --method mc-dropout --out RUN

Every second image of the first half of val fits a temperature in memory; the folder of the run is not changed. The
second half is decided on at the original size. Then a person looks at a share of the pixels, or of squares of 20 × 20
pixels, and takes the best action for their true classes. Several orders say where to look first. The last line is JSON,
and results/decisions.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sfumato.calibration import Temperature
from sfumato.data import DatasetView
from sfumato.decisions import Costs
from sfumato.decisions.of_run import Pass, seen
from sfumato.evaluation import dataset_for
from sfumato.evaluation.evaluate import selected
from sfumato.evaluation.held import HeldPredictions
from sfumato.runs import Run

HERE = Path(__file__).parent
BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
SIDE = 20  # of a square, pixels of the original size
ASK, AGREE = 0.5, 1e-6  # price of asking; below this value of looking again all draws choose the same action
# What a vehicle does about what a pixel shows: pass over it as if nothing was there, slow down, or brake.
HARMLESS, SOLID, TRAFFIC, PEOPLE = (0.0, 0.3, 1.0), (2.0, 0.0, 0.5), (10.0, 1.0, 0.0), (50.0, 5.0, 0.0)
KINDS = {"car": TRAFFIC, "pedestrian": PEOPLE, "bicyclist": PEOPLE} | dict.fromkeys(("pole", "fence", "sign"), SOLID)


def costs_of(names: tuple[str, ...], ask: bool) -> Costs:
    """The costs of the classes. With ``ask`` a person may be asked about a pixel for a fixed price."""
    columns = [next((kind for key, kind in KINDS.items() if key in name.lower()), HARMLESS) for name in names]
    rows = torch.tensor(columns).T
    actions = ("pass", "slow", "brake")
    if ask:
        rows, actions = torch.cat([rows, torch.full((1, len(names)), ASK)]), (*actions, "ask")
    return Costs(actions, rows)


@dataclass
class Kept:
    """Numbers of labeled pixels (N,), or means over the labeled pixels of squares."""

    now: Tensor  # cost of the action with the least expected cost
    reviewed: Tensor  # cost of the best action for the true class
    weight: Tensor  # number of labeled pixels
    orders: dict[str, Tensor]

    @classmethod
    def join(cls, parts: list[Kept]) -> Kept:
        """Those of all images."""
        orders = {name: torch.cat([part.orders[name] for part in parts]) for name in parts[0].orders}
        now, reviewed, weight = (torch.cat([getattr(p, n) for p in parts]) for n in ("now", "reviewed", "weight"))
        return cls(now, reviewed, weight, orders)


def of_image(costs: Costs, found: Any) -> dict[str, Kept]:
    """What is kept of an image, by pixels and by squares."""
    probs, valid = found.prediction.probs, found.valid[0]
    target = found.target[0].where(valid, 0)
    action, expected = costs.best(probs)
    ideal = costs.matrix.amin(0)  # of each class
    now, reviewed = costs.realized(action[0], target), ideal[target]
    maps = {
        "regret": expected[0] - torch.einsum("k,khw->hw", ideal, probs[0]),
        "evpi": found.look[0],
        "entropy": found.prediction.total[0],
        "mutual information": found.prediction.epistemic[0],
        "random": torch.rand(valid.shape, generator=torch.Generator().manual_seed(0)),
        "oracle": now - reviewed,
    }
    pixels = Kept(now[valid], reviewed[valid], torch.ones(int(valid.sum())),
                  {name: each[valid] for name, each in maps.items()})  # fmt: skip
    share = square_means(valid.float())
    known = share > 0

    def of_squares(values: Tensor) -> Tensor:
        return (square_means(values * valid) / share)[known]

    squares = Kept(of_squares(now), of_squares(reviewed), share[known] * SIDE**2,
                   {name: of_squares(each) for name, each in maps.items()})  # fmt: skip
    return {"pixels": pixels, "squares": squares}


def square_means(values: Tensor) -> Tensor:
    return avg_pool2d(values.float()[None, None], SIDE, SIDE)[0, 0].flatten()


def curve(kept: Kept, order: str) -> list[float]:
    """Mean cost per pixel for each budget, a share of the pixels, when those with the largest score are reviewed."""
    place = kept.orders[order].argsort(descending=True)
    weight = kept.weight[place].double()
    saved = (weight * (kept.now - kept.reviewed)[place]).cumsum(0)
    seen_share, total = weight.cumsum(0) / weight.sum(), float((weight * kept.now[place]).sum())
    at = torch.searchsorted(seen_share, torch.tensor(BUDGETS, dtype=torch.float64)).clamp_max(len(saved) - 1)
    return [(total - float(saved[i])) / float(weight.sum()) for i in at]


def scored(folder: Path, camvid: str, samples: int | None, every: int) -> dict[str, Any]:
    """All numbers of one run."""
    run = Run.open(folder)
    names = run.single_task.names  # pyright: ignore[reportAttributeAccessIssue] of classes
    halves = [dataset_for(run, root=camvid, split=split) for split in ("val[:50%]", "val[50%:]")]
    first, second = (DatasetView(each, range(0, len(each), step)) for each, step in zip(halves, (2 * every, every)))
    plain = replace(run, calibrator=None)
    held = HeldPredictions(plain, selected(plain, first), samples, 0, False, True)
    temperature = Temperature.fit(cast("Any", held.of(range(len(held)))))
    found: dict[str, Any] = {"temperature": float(temperature.temperature)}
    costs, asking = costs_of(names, False), costs_of(names, True)
    sums: dict[str, list[dict[str, float]]] = {"raw": [], "calibrated": []}
    kept: list[dict[str, Kept]] = []
    for raw in seen(Pass(plain, samples), costs, second):
        calibrated = replace(raw, prediction=temperature(raw.prediction))
        for kind, image in (("raw", raw), ("calibrated", calibrated)):
            sums[kind].append(automation(costs, asking, image))
        kept.append(of_image(costs, calibrated))
    for kind, rows in sums.items():
        found[kind] = {key: mean(row[key] for row in rows) for key in rows[0]}
    for unit in ("pixels", "squares"):
        whole = Kept.join([each[unit] for each in kept])
        found[unit] = {order: curve(whole, order) for order in whole.orders}
    return found | {"images": len(second), "draws": samples or run.config.samples}


def automation(costs: Costs, asking: Costs, image: Any) -> dict[str, float]:
    """Mean costs of one image without review: by the label, by the probabilities, and with asking as an action.

    And shares of its pixels: where draws agree about the action, and where people are passed over.
    """
    valid, target, probs = image.valid, image.target[image.valid], image.prediction.probs
    certain, action, asked = costs.matrix.argmin(0)[probs.argmax(1)], costs.best(probs)[0], asking.best(probs)[0]
    asks = asked[valid] == len(costs.actions)
    paid, agree = costs.realized(action[valid], target), image.look[valid] < AGREE
    people, missed = (costs.matrix[0, target] == PEOPLE[0]), paid == PEOPLE[0]
    return {
        "certain": float(costs.realized(certain[valid], target).double().mean()),
        "expected": float(costs.realized(action[valid], target).double().mean()),
        "asking": float(asking.realized(asked[valid], target).double().mean()),
        "asked_share": float(asks.double().mean()),
        "cost_of_people": float((paid * people).double().mean()),
        "agreeing_draws": float(agree.double().mean()),
        "missed_people": float(missed.double().mean()),
        "missed_people_agreeing": float((missed & agree).double().mean()),
        "perfect": float(costs.matrix.amin(0)[target].double().mean()),
    }


def spread(values: list[Any]) -> Any:
    """Mean and standard deviation over runs, entry by entry."""
    if isinstance(values[0], dict):
        return {key: spread([each[key] for each in values]) for key in values[0]}
    if isinstance(values[0], list):
        return [spread(list(column)) for column in zip(*values, strict=True)]
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", required=True)
    parser.add_argument("--run", type=Path, action="append", required=True)
    parser.add_argument("--samples", type=int, default=None)
    parser.add_argument("--every", type=int, default=1, help="1 for all images of the second half, 2 for half of them")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "decisions.json")
    options = parser.parse_args()
    rows = []
    for folder in options.run:
        rows.append(scored(folder, options.camvid, options.samples, options.every))
        print(folder.name, json.dumps(rows[-1]), flush=True)
    result = {"runs": len(rows), "budgets": BUDGETS, **spread(rows)}
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

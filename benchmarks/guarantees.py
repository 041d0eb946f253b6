"""Do the limits of conformal sets, abstention, flags and the stream test hold, and how much do they cost?

    python benchmarks/guarantees.py                     # trains a small network first
    python benchmarks/guarantees.py --tiny              # a try: few scenes, few splits, an untrained network

One network learns the classes of generated scenes (48 × 64 pixels, MC dropout). It predicts 3,000 other scenes once,
500 scenes with objects of unknown classes, and 300 textures; the predictions are kept with the run. Then 300 times,
scenes are drawn at random to fit on, and each limit is compared with what happens on all the others. A limit that holds
with probability 1 − δ may fail in a share δ of the splits. The last line is JSON, and results/guarantees.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from scipy.stats import binom
from torch import Tensor

import sfumato
from sfumato.calibration.conformal import THRESHOLDS, _below
from sfumato.calibration.risk import controlled, images_needed, p_values
from sfumato.data import Scenes, Textures
from sfumato.decisions import Abstention, Drift, OutlierFlag, benjamini_hochberg, exceedances, image_scores
from sfumato.decisions.thresholds import Row, chosen
from sfumato.errors import DataError
from sfumato.metrics import histogram
from sfumato.runs import Run

HERE = Path(__file__).parent
SIZE, SIDE = (48, 64), 9
DELTA, LEVEL, RATE = 0.1, 0.95, 0.05
BUDGETS = {"pixel": 0.05, "region": 0.05, "image": 0.14}
MORE = {"image": 5}  # times as many scenes to fit on, because an image accepts all or nothing
FALSE_ALARM, STREAM = 0.1, 200


@dataclass
class Known:
    """What is kept of the predicted scenes: losses of sets (n, 2048), rows of each unit, scores, and errors."""

    losses: Tensor
    sizes: Tensor
    rows: dict[str, list[Row]]
    scores: dict[str, Tensor]


def network(folder: Path, tiny: bool) -> Run:
    """A small network, trained on 512 scenes."""
    if not (folder / "weights-0.safetensors").exists():
        train, val = Scenes(16 if tiny else 512, SIZE, seed=11), Scenes(8, SIZE, seed=12)
        sfumato.fit(
            (train, val), task="classes", likelihood="categorical", method="mc-dropout", samples=5, batch=16,
            out=folder, epochs=1 if tiny else 12, network_args={"widths": [16, 32, 48], "dropout": 0.2}, progress=False,
            workers=0, device="cpu", precision="32-true",
        )  # fmt: skip
    return Run.open(folder)


def predicted(run: Run, scenes: Scenes | Textures, detailed: bool) -> Known:
    """Predict every scene once."""
    losses, sizes, scores = [], [], {"epistemic": [], "local": [], "error": []}
    rows: dict[str, list[Row]] = {unit: [] for unit in BUDGETS}
    rules = {unit: Abstention(torch.zeros(1), budget, DELTA, unit) for unit, budget in BUDGETS.items()}
    for index in range(len(scenes)):
        sample = scenes[index]
        found = run.predict(*run.inputs_of(sample), index=index)
        scores["epistemic"].append(image_scores(found, "epistemic"))
        scores["local"].append(image_scores(found, "epistemic", SIDE))
        if not detailed:
            continue
        target, valid = sample["classes"][None], sample["classes_valid"][None]
        scores["error"].append((found.label != target)[valid].double().mean()[None])
        for unit, rule in rules.items():
            rows[unit] += rule.rows(found, target, valid)
        own = found.probs.gather(1, target.where(valid, 0)[:, None])[:, 0].masked_fill(found.label == target, 1)
        losses.append(_below(own[valid]).float())
        reached = (found.probs.movedim(1, -1)[valid][None] >= THRESHOLDS[::32].view(-1, 1, 1)).sum(-1).clamp_min(1)
        sizes.append(reached.double().mean(1))
    empty = torch.zeros(0)
    return Known(
        torch.stack(losses) if losses else empty, torch.stack(sizes) if sizes else empty, rows,
        {name: torch.cat(each) for name, each in scores.items() if each},
    )  # fmt: skip


@cache
def hoeffding_bentkus(average: float, risk: float, images: int) -> float:
    """The p-value that knows the mean only."""
    if average >= risk:
        return 1.0
    entropy = (average * math.log(average / risk) if average else 0) + (1 - average) * math.log(
        (1 - average) / (1 - risk)
    )
    return min(math.exp(-images * entropy), math.e * float(binom.cdf(math.ceil(images * average - 1e-9), images, risk)))


def certified(p: Callable[[float], float], least: float) -> float:
    """The smallest risk that a test certifies with probability 1 − δ, by bisection."""
    low, high = least, 1.0
    for _ in range(22):
        middle = (low + high) / 2
        low, high = (low, middle) if p(middle) <= DELTA else (middle, high)
    return high


class Packed:
    """Rows of all scenes in tensors, so that one threshold is read off all of them at once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        width, last = max(len(row.keys) for row in rows), histogram.KEYS
        self.keys = torch.full((len(rows), width), last)
        self.accepted, self.wrong = torch.zeros(2, len(rows), width, dtype=torch.float64)
        for place, row in enumerate(rows):
            size = len(row.keys)
            self.keys[place, :size] = row.keys
            self.accepted[place, :size], self.wrong[place, :size] = row.accepted, row.wrong
        self.total = torch.stack([row.accepted[-1] for row in rows])

    def at(self, key: int, images: Tensor) -> tuple[float, float]:
        """Mean share of accepted pixels of some images, and mean risk of those with any."""
        place = torch.searchsorted(self.keys, torch.full((len(self.keys), 1), key), right=True) - 1
        accepted, wrong = (
            each.gather(1, place.clamp_min(0))[:, 0].where(place[:, 0] >= 0, 0)[images]
            for each in (self.accepted, self.wrong)
        )
        some = accepted > 0
        risk = float((wrong[some] / accepted[some]).mean()) if bool(some.any()) else 0.0
        return float((accepted / self.total[images]).mean()), risk


def tally(rows: Sequence[dict[str, float]], nominal: float, delta: float) -> dict[str, Any]:
    """Means over splits. With ``delta``, how many splits exceed the nominal risk, and how many may."""
    kept = [row for row in rows if "risk" in row]
    found: dict[str, Any] = {"nominal": nominal, "delta": delta, "splits": len(rows), "refused": len(rows) - len(kept)}
    found |= {name: mean(row[name] for row in kept) for name in (kept[0] if kept else {})}
    if kept and delta:
        found |= {"violations": sum(row["risk"] > nominal for row in kept),
                  "allowed": int(binom.ppf(0.999, len(rows), delta))}  # fmt: skip
    elif kept:
        spread = torch.tensor([row["risk"] for row in kept]).double().std() / math.sqrt(len(kept))
        found["standard_error"] = float(spread)
    return found


def sets(known: Known, fit: Tensor, other: Tensor, how: str) -> dict[str, float]:
    """Realized risk and mean size of sets of classes."""
    losses = known.losses[fit]
    if how == "hoeffding-bentkus":
        means = losses.double().mean(0).tolist()  # they never rise, so neither do the p-values
        place = bisect_left(means, True, key=lambda each: hoeffding_bentkus(each, 1 - LEVEL, len(fit)) <= DELTA)
    else:
        place = controlled(losses, 1 - LEVEL, DELTA if how == "betting" else 0)
    size = float(known.sizes[other][:, place // 32].mean())
    return {"risk": float(known.losses[other, place].double().mean()), "size": size}


def abstained(known: Known, packed: Packed, unit: str, fit: Tensor, other: Tensor) -> dict[str, float]:
    """Realized risk and coverage of an abstention; empty if it is refused."""
    try:
        key, _ = chosen([known.rows[unit][i] for i in fit.tolist()], BUDGETS[unit], DELTA)
    except DataError:
        return {}
    coverage, risk = packed.at(key, other)
    return {"risk": risk, "coverage": coverage}


def naive(packed: Packed, budget: float, fit: Tensor, other: Tensor) -> dict[str, float]:
    """The largest threshold whose risk on the held-out images is within the budget, without any test."""
    low, high = 0, histogram.KEYS - 1
    if packed.at(high, fit)[1] > budget:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if packed.at(middle, fit)[1] <= budget else (low, middle)
        high = low
    coverage, risk = packed.at(high, other)
    return {"risk": risk, "coverage": coverage}


def flagged(scores: Tensor, outside: dict[str, Tensor], threshold: float, other: Tensor) -> dict[str, float]:
    """The share of other scenes above a threshold, and of images out of distribution."""
    found = {f"found, {name}": float((each > threshold).double().mean()) for name, each in outside.items()}
    return {"risk": float((scores[other] > threshold).double().mean()), **found}


def discovered(scores: Tensor, outside: Tensor, fit: Tensor, other: Tensor) -> dict[str, float]:
    """False share of what Benjamini and Hochberg's rule selects among 80 other scenes and 20 textures."""
    flag = OutlierFlag.fit(scores[fit], RATE, DELTA)
    mixed = torch.cat([scores[other[:80]], outside[torch.randperm(len(outside))[:20]]])
    chosen_ones = benjamini_hochberg(flag.p_values(mixed), 0.1)
    count = max(1, int(chosen_ones.sum()))
    return {"risk": int(chosen_ones[:80].sum()) / count, "found": int(chosen_ones[80:].sum()) / 20}


def streams(scores: Tensor, outside: Tensor, fit: Tensor, other: Tensor) -> tuple[bool, int | None]:
    """Whether a stream of other scenes gave a false alarm, and after how many textures there was an alarm then."""
    drift = Drift(scores[fit].tolist(), FALSE_ALARM)
    for score in scores[other[:STREAM]].tolist():
        drift.update(score)
    if drift.alarm is not None:
        return True, None
    for count, score in enumerate(outside[torch.randperm(len(outside))][:STREAM].tolist(), start=1):
        drift.update(score)
        if drift.alarm is not None:
            return False, count
    return False, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=HERE.parent / "runs")
    parser.add_argument("--splits", type=int, default=300)
    parser.add_argument("--tiny", action="store_true", help="a try, which writes no results")
    options = parser.parse_args()
    splits, count, outside, fit_on = (6, 260, 60, 120) if options.tiny else (options.splits, 3000, 500, 200)
    start = time.perf_counter()
    run = network(options.runs / ("guarantees-tiny" if options.tiny else "guarantees"), options.tiny)
    print(f"{time.perf_counter() - start:.0f} s: trained", flush=True)
    file = run.folder / "predictions.pt"
    if not file.exists():
        known = predicted(run, Scenes(count, SIZE, seed=21), detailed=True)
        sets = {"unknown objects": Scenes(outside, SIZE, seed=22, novel=True), "textures": Textures(300, SIZE, seed=23)}
        torch.save((known, {name: predicted(run, each, detailed=False).scores for name, each in sets.items()}), file)
    known, others = torch.load(file, weights_only=False)
    print(f"{time.perf_counter() - start:.0f} s: predicted", flush=True)
    result = measured(known, others, splits, fit_on)
    if not options.tiny:
        (HERE / "results" / "guarantees.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def measured(known: Known, others: dict[str, dict[str, Tensor]], splits: int, fit_on: int) -> dict[str, Any]:
    """All comparisons over random splits."""
    count = len(known.losses)
    packed = {unit: Packed(rows) for unit, rows in known.rows.items()}
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    found: dict[str, list[dict[str, float]]] = {}
    alarms, delays, start = [], [], time.perf_counter()
    for split in range(splits):
        order = torch.randperm(count, generator=generator)
        fit, other = order[:fit_on], order[fit_on:]
        for how in ("expected", "betting", "hoeffding-bentkus"):
            found.setdefault(f"sets, {how}", []).append(sets(known, fit, other, how))
        for unit, budget in BUDGETS.items():
            many = min(MORE.get(unit, 1) * fit_on, count // 2)
            row = abstained(known, packed[unit], unit, order[:many], order[many:])
            found.setdefault(f"abstain, {unit}", []).append(row)
            row = naive(packed[unit], budget, order[:many], order[many:])
            found.setdefault(f"abstain, {unit}, without a test", []).append(row)
        for name in ("epistemic", "local"):
            scores, outside = known.scores[name], {key: each[name] for key, each in others.items()}
            thresholds = OutlierFlag.fit(scores[fit], RATE, DELTA).threshold, float(scores[fit].quantile(1 - RATE))
            for ending, threshold in zip(("", ", plain quantile"), thresholds):
                row = flagged(scores, outside, threshold, other)
                found.setdefault(f"flag, {name}{ending}", []).append(row)
        scores, textures = known.scores["epistemic"], others["textures"]["epistemic"]
        found.setdefault("Benjamini-Hochberg", []).append(discovered(scores, textures, fit, other))
        false, delay = streams(scores, textures, fit, other)
        alarms.append(false)
        delays += [] if false else [delay]
        if split % 50 == 0:
            print(f"split {split}: {time.perf_counter() - start:.0f} s", flush=True)
    nominal = {"sets": round(1 - LEVEL, 4), "flag": RATE, "Benjamini-Hochberg": 0.1}
    nominal |= {f"abstain, {unit}": budget for unit, budget in BUDGETS.items()}
    table = {}
    for name, rows in found.items():
        expected = name in ("sets, expected", "Benjamini-Hochberg")
        limit = next(each for start, each in nominal.items() if name.startswith(start))
        table[name] = tally(rows, limit, 0 if expected else DELTA)
    reached = [each for each in delays if each is not None]
    table["stream"] = {
        "nominal": FALSE_ALARM, "splits": splits, "violations": sum(alarms),
        "allowed": int(binom.ppf(0.999, splits, FALSE_ALARM)), "found": len(reached) / max(1, len(delays)),
        "median_images_to_alarm": float(torch.tensor(reached).double().median()) if reached else None,
    }  # fmt: skip
    return {
        "scenes": count, "others": {name: len(each["local"]) for name, each in others.items()}, "fitted_on": fit_on,
        "error_of_all_pixels": float(known.scores["error"].mean()), "guarantees": table, **bounds(known, splits),
        "images_needed": {f"{risk}": {f"{delta}": {
            "betting": images_needed(risk, delta),
            "hoeffding-bentkus": math.ceil(math.log(delta) / math.log1p(-risk) - 1e-9),
            "flag": next(n for n in range(1, 10_000) if exceedances(n, risk, delta) is not None),
        } for delta in (0.05, 0.1)} for risk in (0.02, 0.05, 0.1)},
    }  # fmt: skip


def bounds(known: Known, splits: int) -> dict[str, Any]:
    """The smallest certified risk of the most probable classes and of sets, by both bounds, for numbers of images."""
    average = known.losses.double().mean(0)
    places = {"most probable class": 0, "sets with risk 0.02": int((average <= 0.02).int().argmax())}
    found: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(1)
    for name, place in places.items():
        for images in (50, 100, 200, 500):
            if images > len(known.losses):
                continue
            rows = []
            for _ in range(min(splits, 100)):
                own = known.losses[torch.randperm(len(known.losses), generator=generator)[:images], place].double()
                least = float(own.mean())
                rows.append((
                    certified(lambda risk, own=own: float(p_values(own[:, None], risk, DELTA)), least),
                    certified(lambda risk, least=least, images=images: hoeffding_bentkus(least, risk, images), least),
                ))  # fmt: skip
            ours, theirs = mean(row[0] for row in rows), mean(row[1] for row in rows)
            true = float(average[place])
            found[f"{name}, {images} images"] = {
                "true_risk": true, "betting": ours, "hoeffding_bentkus": theirs, "ratio": ours / theirs,
                "below_true": sum(row[0] < true for row in rows), "draws": len(rows),
            }  # fmt: skip
    return {"bounds": found, "bound_ratio": mean(row["ratio"] for row in found.values())}


if __name__ == "__main__":
    main()

"""Whether the defaults of `sfumato fit` suit short and long trainings on two data sets.

    python benchmarks/defaults.py --camvid DIR --out runs/defaults     # resumes; about an hour on two cores
    python benchmarks/defaults.py --camvid DIR --only sizes     # crops of whole images, or images at half the size

Each row changes one default. All trainings of a column see the same number of images. Scores are of val, at its
original size, with the seed 0. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import sfumato

RESULT = Path(__file__).parent / "results" / "defaults.json"
DATA: dict[str, dict[str, Any]] = {
    "scenes": {"data": "scenes", "size": (64, 96), "limit": 256},
    "camvid": {"data": "camvid", "size": (120, 160)},
}
EPOCHS = {"sizes": {"camvid": 16}, "short": {"scenes": 10, "camvid": 7}, "long": {"scenes": 47, "camvid": 33}}
"""Passes over the data: 720 steps, 320 and 1,500."""

SIZES: dict[str, dict[str, Any]] = {"native": {"size": (0, 0)}, "half": {"size": (180, 240)}}
ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "learning_rate 0.001": {"learning_rate": 1e-3},
    "learning_rate 0.01": {"learning_rate": 1e-2},
    "batch 4": {"batch": 4},
    "batch 16": {"batch": 16},
    "weight_decay 0": {"weight_decay": 0.0},
    "weight_decay 0.01": {"weight_decay": 1e-2},
    "ema 0": {"ema": 0.0},
    "ema 0.999": {"ema": 0.999},
    "no zoom": {"scale": (1.0, 1.0)},
    "zoom 0.5 to 2": {"scale": (0.5, 2.0)},
    "no color": {"color": 1e-9},
}
GENERATED = ("no zoom", "zoom 0.5 to 2", "no color")  # scenes declare that they are neither zoomed nor recolored


def score(name: str, length: str, change: dict[str, Any], root: Path, folder: Path) -> dict[str, float]:
    """Train one run, unless it is there, and score it."""
    choices: dict[str, Any] = DATA[name] | ({"root": str(root)} if name == "camvid" else {}) | change
    if (folder / "weights-0.safetensors").exists():
        run = sfumato.Run.open(folder)
    else:
        run = sfumato.fit(
            **choices, method="deterministic", epochs=EPOCHS[length][name], out=folder, progress=False, resume=True
        )
    found = run.evaluate(progress=False).tasks["classes"].scores
    return {key: round(found[key].value, 4) for key in ("miou", "nll")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--only", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for length in options.only:
        for name in EPOCHS[length]:
            table = found.setdefault(f"{name}_{length}", {})
            for row, change in (SIZES if length == "sizes" else ROWS).items():
                if row in table or (name == "scenes" and row in GENERATED):
                    continue
                folder = options.out / f"{name}-{length}-{row.replace(' ', '-')}"
                table[row] = score(name, length, change, options.camvid, folder)
                print(name, length, row, table[row], flush=True)
                RESULT.write_text(json.dumps(found | {"torch": torch.__version__, "seed": 0}, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Do independent implementations give the same numbers? netcal 1.4 for calibration errors, scipy for the temperature.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 netcal==1.4.* torchmetrics safetensors pillow
    PYTHONPATH=src peers/bin/python benchmarks/agreement.py
    PYTHONPATH=src peers/bin/python benchmarks/agreement.py --dump FILE.npz   # of ground_truth and predictions

The temperature is fitted on half of the pixels, and the other half is scored. Without a dump the pixels are generated:
200,000 pixels of 6 classes. Their true distribution is that of the same logits divided by 1.7. The temperature that
netcal fits is reported too: with the versions above it stayed at its initial value, 1. scores.py compares with
torch-uncertainty and torchmetrics, the tests with scikit-learn and torchmetrics. The last line is JSON, also in
results/agreement.json.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from netcal.metrics import ECE, MCE
from netcal.scaling import TemperatureScaling
from scipy.optimize import minimize_scalar
from torch import Tensor

from sfumato.calibration import Temperature
from sfumato.metrics import ClassScores
from sfumato.predictions import ClassPrediction, entropy


def generated(pixels: int = 200_000, classes: int = 6, temperature: float = 1.7) -> tuple[Tensor, Tensor]:
    """Overconfident probabilities (N, K), and classes (N,) drawn from the true distribution."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(pixels, classes, generator=generator)
    true = torch.softmax(logits / temperature, 1)
    return torch.softmax(logits, 1), torch.multinomial(true, 1, generator=generator)[:, 0]


def image(probs: Tensor) -> ClassPrediction:
    """Pixels (N, K) as rows of 100."""
    maps = probs.T.unflatten(1, (-1, 100))[None]
    return ClassPrediction(maps, entropy(maps))


def compared(probs: Tensor, target: Tensor) -> dict[str, float]:
    """Every number of both packages, and their largest difference."""
    half = len(target) // 2
    everywhere = torch.ones(1, half // 100, 100, dtype=torch.bool)
    ours = Temperature.fit([(image(probs[:half]), target[:half].view_as(everywhere), everywhere)])
    theirs = TemperatureScaling()
    theirs.fit(probs[:half].numpy(), target[:half].numpy())
    logs = probs[:half].double().clamp_min(1e-35).log()
    exact = minimize_scalar(
        lambda t: float(torch.nn.functional.cross_entropy(logs / t, target[:half])), bounds=(0.05, 20), method="bounded"
    )
    rest, known = probs[half:], target[half:]
    found: dict[str, float] = {
        "temperature": float(ours.temperature),
        "scipy_temperature": float(exact.x),
    }
    for name, prediction in (("", image(rest)), ("calibrated_", ours(image(rest)))):
        scores = ClassScores(probs.shape[1])
        scores.update(prediction, known.view_as(everywhere), everywhere)
        numbers = scores.compute()
        flat = prediction.probs[0].flatten(1).T.numpy()
        for kind, measure in (("ece", ECE(15)), ("mce", MCE(15))):
            found[f"{name}{kind}"] = float(numbers[kind])
            found[f"netcal_{name}{kind}"] = float(measure.measure(flat, known.numpy()))
    errors = [name for name in found if f"netcal_{name}" in found]
    return found | {
        "largest_difference_of_errors": max(abs(found[n] - found[f"netcal_{n}"]) for n in errors),
        "difference_of_temperatures": abs(found["temperature"] - found["scipy_temperature"]),
        "netcal_temperature": 1 / float(np.ravel(theirs.temperature)[0]),  # netcal multiplies by it
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", type=Path)
    dump = parser.parse_args().dump
    if dump:
        with np.load(dump) as file:
            probs, target = (torch.from_numpy(file[name]) for name in ("predictions", "ground_truth"))
    else:
        probs, target = generated()
    result: dict[str, Any] = {"data": dump.stem if dump else "generated", "netcal": version("netcal")}
    result |= {name: float(f"{value:.6g}") for name, value in compared(probs.float(), target.long()).items()}
    for name, value in result.items():
        print(f"{name:28s} {value}")
    (Path(__file__).parent / "results" / "agreement.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

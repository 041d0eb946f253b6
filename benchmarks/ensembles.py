"""Is an ensemble faster if its members are computed in one call, or trained at the same time?

    python benchmarks/ensembles.py

Five networks one after the other, as DeepEnsemble computes them, are compared with one call of torch.func.vmap over
their stacked weights: the default U-Net and a thin one, images of several sizes. Then `sfumato fit --members 2` on
generated scenes trains its members one after the other with all cores, or with `--parallel-members 2` both at the same
time with half of the cores each. The two ways alternate. Times are wall times, so no other program may run; results are
medians of ratios. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sfumato.methods import DeepEnsemble
from sfumato.models import UNet

HERE = Path(__file__).parent
MEMBERS = 5
THIN = (4, 8)
CASES = {"64x64": (1, 64, 64), "180x240": (1, 180, 240), "360x480": (1, 360, 480), "4x180x240": (4, 180, 240)}
FIT = ["--size=[120,160]", "--epochs=4", "--limit=200", "--method=ensemble", "--members=2", "--quiet"]


def stacked(members: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    """All members in one call: (M, B, C, H, W)."""
    parameters, buffers = stack_module_state(members)
    skeleton = deepcopy(members[0]).to("meta")

    def one(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(skeleton, weights, (image,))

    return lambda image: vmap(one, in_dims=(0, None))(parameters | buffers, image)


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def forward(widths: tuple[int, ...], shape: tuple[int, int, int], repeats: int) -> float:
    """The time of members one after the other divided by that of stacked members."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    members: list[nn.Module] = []
    for seed in range(MEMBERS):
        torch.manual_seed(seed)
        members.append(UNet(11, widths=widths).to(device).eval())
    batch, height, width = shape
    image = torch.rand(batch, 3, height, width, device=device)
    method, together = DeepEnsemble(members), stacked(members)
    with torch.no_grad():
        expected = torch.cat(list(method.draws(image)))
        torch.testing.assert_close(together(image), expected, rtol=1e-3, atol=1e-3)
        ratios = [seconds(lambda: list(method.draws(image))) / seconds(lambda: together(image)) for _ in range(repeats)]
    return median(ratios)


def trained(parallel_members: int, folder: Path) -> float:
    """Seconds of a training."""
    shutil.rmtree(folder, ignore_errors=True)
    options = [*FIT, f"--parallel-members={parallel_members}", f"--out={folder}"]
    command = [sys.executable, "-m", "sfumato", "fit", *options]
    return seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="number of timed predictions")
    parser.add_argument("--fits", type=int, default=3, help="number of timed pairs of trainings")
    options = parser.parse_args()
    result: dict[str, float] = {"members": MEMBERS, "threads": torch.get_num_threads(), "cores": os.cpu_count() or 0}
    for name, shape in CASES.items():
        for kind, widths in {"unet": (16, 32, 64, 96, 144), "thin": THIN}.items():
            key = f"{kind}_{name}_stacked_speedup"
            result[key] = round(forward(widths, shape, options.repeats), 3)
            print(key, result[key], flush=True)
    with tempfile.TemporaryDirectory() as root:
        pairs = [(trained(1, Path(root) / "run"), trained(2, Path(root) / "run")) for _ in range(options.fits)]
    if pairs:
        result["at_once_speedup"] = round(median(one / two for one, two in pairs), 3)
        result["at_once_fits"] = len(pairs)
    (HERE / "results" / "ensembles.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

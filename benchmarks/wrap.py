"""From a network that somebody trained to calibrated maps with their parts: `sfumato wrap` and torch-uncertainty 0.13.

    python -m venv peers
    peers/bin/pip install torch==2.13.0 torch-uncertainty==0.13.* 'lightning<2.7' scikit-learn rich timm pillow
    peers/bin/pip install --no-deps torchvision==0.28.*
    OMP_NUM_THREADS=1 python benchmarks/wrap.py --camvid DIR --peer peers/bin/python

CamVid at 180 × 240: `mine/train` has its training images, `mine/val` every other frame of the first half of its val,
`mine/test` every other frame of the second half. plain_torch.py trains on `mine/train`, unless `best.pt` lies in
--work. Then three ways lead to maps of `mine/test`: the commands of wrap_sfumato.sh, wrap_sfumato.py, and
wrap_torch_uncertainty.py. Each has MC dropout with 10 draws, and a temperature fitted on `mine/val`. They alternate,
each in processes and a folder of its own. Seconds are processor times of all its processes, imports included, because
other work on the machine changes wall times; medians over the rounds. Lines are those of the files that a user writes,
without blank lines, comments and docstrings.

The maps of the last round are scored here, by one function for all. The scores before calibration are those of the same
files without the line that calibrates. The last line is JSON, also in benchmarks/results/wrap.json.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tokenize
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
import plain_torch
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

HERE, SIZE, PARTS = Path(__file__).parent, (180, 240), ("total", "aleatoric", "epistemic")

# With a CPU-only torch, the compiled operators of torchvision do not load. The import of torch-uncertainty needs two of
# them by name and calls none.
PEER = """
import runpy, torch
for operator in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, operator):
        torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float iou) -> Tensor")
runpy.run_path("script", run_name="__main__")
"""

# For each way: what runs the file, the files that a user writes, and the start of the line that calibrates.
WAYS = {
    "": (["sh", "-e", "script"], ("wrap_sfumato.sh", "wrap_sfumato.yaml"), "sfumato calibrate"),
    "_python": ([sys.executable, "script"], ("wrap_sfumato.py", "wrap_sfumato.yaml"), "run.calibrate"),
    "_torch_uncertainty": (["PEER", "-c", PEER], ("wrap_torch_uncertainty.py",), "scaler.fit"),
}


def prepared(camvid: Path, folder: Path) -> None:
    """Write the images and labels at the size of the network."""
    val = sorted((camvid / "val").glob("*.png"))
    half = len(val) // 2
    parts = {"train": sorted((camvid / "train").glob("*.png")), "val": val[:half:2], "test": val[half::2]}
    for part, paths in parts.items():
        for kind, resampling in (("", Image.Resampling.BILINEAR), ("annot", Image.Resampling.NEAREST)):
            (folder / f"{part}{kind}").mkdir(parents=True)
            for path in paths:
                image = Image.open(path.parent.with_name(path.parent.name + kind) / path.name)
                image.resize((SIZE[1], SIZE[0]), resampling).save(folder / f"{part}{kind}" / path.name)
    shutil.copy(HERE / "wrap_sfumato.yaml", folder / "sfumato.yaml")


def lines(path: Path) -> int:
    """Lines that are neither blank nor of comments or docstrings."""
    text = path.read_text()
    if path.suffix != ".py":
        return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in text.splitlines())
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    found = {
        row
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in ignored
        for row in range(token.start[0], token.end[0] + 1)
    }
    first = ast.parse(text).body[0]
    docstring = range(first.lineno, (first.end_lineno or 0) + 1) if ast.get_docstring(ast.parse(text)) else range(0)
    return len(found - set(docstring))


def run(way: str, work: Path, folder: Path, peer: str, calibrated: bool = True) -> tuple[float, float]:
    """Processor and wall seconds of one way, which leaves its maps in the folder.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    command, files, calibrates = WAYS[way]
    script = (HERE / files[0]).read_text().splitlines()
    kept = [line for line in script if calibrated or not line.startswith(calibrates)]
    assert len(script) - len(kept) == (not calibrated)
    folder.mkdir(parents=True)
    (folder / "script").write_text("\n".join(kept) + "\n")
    (folder / "mine").symlink_to(work / "mine")
    shutil.copy(HERE / "plain_torch.py", folder)
    shutil.copy(work / "best.pt", folder)
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [peer if part == "PEER" else part for part in command]
    with (folder / "log.txt").open("w") as log:
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PATH": paths}, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, (folder / "log.txt").read_text())
    return usage.ru_utime + usage.ru_stime, wall


def maps_of(folder: Path, name: str) -> dict[str, Tensor]:
    """The maps of an image, without a batch dimension."""
    stored = folder / "maps" / f"{name}.safetensors"
    if stored.exists():
        return {key: value[0] for key, value in load_file(stored).items()}
    return torch.load(stored.with_suffix(".pt"), weights_only=True)


def scored(folder: Path, mine: Path) -> dict[str, float]:
    """NLL in nats, ECE over 15 bins, accuracy and the means of the parts, over all labeled pixels of the images."""
    nll, right, confidence, parts = [], [], [], []
    for path in sorted((mine / "test").glob("*.png")):
        label = torch.from_numpy(np.array(Image.open(mine / "testannot" / path.name))).long()
        maps, valid = maps_of(folder, path.stem), label != plain_torch.VOID
        probs = maps["probs"][:, valid].double()
        nll.append(-probs.gather(0, label[valid][None])[0].clamp_min(1e-12).log())
        confidence.append(probs.amax(0))
        right.append((probs.argmax(0) == label[valid]).double())
        parts.append(torch.stack([maps[part][valid] for part in PARTS]))
    sure, correct, means = torch.cat(confidence), torch.cat(right), torch.cat(parts, 1).double().mean(1)
    bins = (sure * 15).long().clamp_max(14)
    sums = torch.zeros(2, 15, dtype=torch.double).index_add_(1, bins, torch.stack([sure, correct]))
    ece = (sums[0] - sums[1]).abs().sum() / len(sure)
    named = dict(zip((f"{part}_mean" for part in PARTS), means.tolist()))
    return {"nll": float(torch.cat(nll).mean()), "ece": float(ece), "accuracy": float(correct.mean()), **named}


def peer_versions(peer: str) -> dict[str, str]:
    code = (
        "from importlib.metadata import version as v; import json; "
        "print(json.dumps({n.replace('-', '_'): v(n) for n in ('torch-uncertainty', 'lightning', 'torchvision')}))"
    )
    return json.loads(subprocess.run([peer, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--peer", required=True, help="Python with torch-uncertainty")
    parser.add_argument("--work", type=Path, default=Path("runs/wrap-benchmark"), help="folder of images and weights")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    work, peer = chosen.work.absolute(), str(Path(chosen.peer).absolute())
    if not (work / "mine").exists():
        prepared(chosen.camvid, work / "mine")
    if not (work / "best.pt").exists():
        subprocess.run([sys.executable, HERE / "plain_torch.py", work / "mine", "--out", work / "best.pt"], check=True)
    state = torch.load(work / "best.pt", weights_only=True)
    network = plain_torch.Net()
    network.load_state_dict({name.removeprefix("module."): value for name, value in state["state_dict"].items()})
    result: dict[str, object] = {
        "epochs": state["epoch"],
        "miou": round(plain_torch.mean_iou(network, plain_torch.Frames(work / "mine", "test")), 4),
        "images": {part: len(list((work / "mine" / part).glob("*.png"))) for part in ("train", "val", "test")},
        "size": SIZE,
        "draws": 10,
        "clock": "process",
        "rounds": chosen.rounds,
        "torch": torch.__version__,
        "sfumato": version("sfumato"),
        **peer_versions(peer),
    }
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(chosen.rounds):
            for way in WAYS:
                seconds[way].append(run(way, work, Path(temporary, f"{number}{way}"), peer))
                print(
                    f"round {number + 1}{way}: {seconds[way][-1][0]:.1f} s, wall {seconds[way][-1][1]:.1f} s",
                    flush=True,
                )
        for way, (_, files, _) in WAYS.items():
            found = scored(Path(temporary, f"{chosen.rounds - 1}{way}"), work / "mine")
            result[f"seconds{way}"] = round(median(each[0] for each in seconds[way]), 2)
            result[f"seconds_all{way}"] = [round(each[0], 2) for each in seconds[way]]
            result[f"wall_seconds{way}"] = round(median(each[1] for each in seconds[way]), 1)
            result[f"lines{way}"] = sum(lines(HERE / file) for file in files)
            result |= {f"{name}{way}": round(value, 5) for name, value in found.items()}
            if way == "_python":
                continue  # as the commands, but for the seeds of the draws
            before = Path(temporary, f"before{way}")
            run(way, work, before, peer, calibrated=False)
            result |= {f"{name}_before{way}": round(scored(before, work / "mine")[name], 5) for name in ("nll", "ece")}
    for name, value in result.items():
        print(f"{name:40s} {value}")
    (HERE / "results" / "wrap.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

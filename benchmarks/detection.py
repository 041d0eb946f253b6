r"""Boxes with distributions: what they are worth, calibrated against not, and fusion against suppression.

    python benchmarks/detection.py pack --bccd DIR --packed DIR         # BCCD at 240 × 320, in the format of COCO
    python benchmarks/detection.py --packed DIR --runs DIR --device cuda --jobs 8 --seconds 60 --cuda-graph
    python benchmarks/detection.py --packed DIR --runs DIR --tiny       # a try on a CPU
    python benchmarks/detection.py --packed DIR --runs DIR --data bccd --rows deterministic,dropout,aleatoric,both \
        --seeds 1 --shrink 2 --batch 4 --samples 5 --seconds 330                    # one seed on a CPU, half an hour

Data: BCCD in its own split, and 1000 scenes of 144 × 192 (120 each to calibrate and to score). All networks are
``efficient-unet`` with the same time. Rows: ``deterministic`` (one learned deviation for all edges, one pass),
``dropout`` (the same network, 20 passes), ``aleatoric`` (a Laplace distribution of each distance, one pass), ``both``
(the same, 20 passes), ``ensemble`` (three such networks, those of the seed and of the next two of five), ``energy``
(trained by the energy score, one pass). ``val`` calibrates: its first half the boxes, its second half the bounds.
``test`` is scored. Variants: ``intersection``, ``bayes`` and ``suppress`` are the fusions, ``isotonic`` and ``linear``
the calibrations of ``intersection``. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from jobs import Job, absolute, run_jobs
from members import gather_members, weights_of
from PIL import Image
from processes import pool
from torch import Tensor

from sfumato.boxes import FUSIONS, BoxBounds, BoxCalibrator, Boxes, find_boxes
from sfumato.boxes.calibrate import needed_factors
from sfumato.contracts import Method, Sample
from sfumato.data import BCCD, COCO, Scenes
from sfumato.methods import DeepEnsemble, Deterministic, MCDropout
from sfumato.metrics import BoxScores
from sfumato.predictions import ClassPrediction, ValuePrediction
from sfumato.runs import Run
from sfumato.storage import atomic_write

HERE = Path(__file__).parent
SEEDS, MEMBERS, LEVEL = (0, 1, 2), 3, 0.9
SPLITS = ("train", "val", "test")
SIZES = {"bccd": (240, 320), "scenes": (144, 192)}
SCENES = {"train": (1000, 1), "val": (120, 2), "test": (120, 3)}  # how many, and their seed
NETWORK = ("--network=efficient-unet", '--network-args={"channels_out": "CHANNELS"}')
TINY = ('--network-args={"widths": [8, 16, 24]}', "--limit=16", "--epochs=1", "--batch=4")
FIT: dict[str, tuple[str, ...]] = {
    "l1": ("--likelihood=categorical,l1",),
    "laplace": ("--likelihood=categorical,laplace",),
    "energy": ("--likelihood=categorical,laplace", "--objective=energy"),
}
ROWS = {"deterministic": ("l1", False), "dropout": ("l1", True), "aleatoric": ("laplace", False),
        "both": ("laplace", True), "ensemble": ("laplace", False), "energy": ("energy", False)}  # fmt: skip
CALIBRATIONS = ("isotonic", "linear")


def pack(bccd: Path, packed: Path) -> None:
    """Write BCCD at half its size as WebP, with its boxes in the format of COCO."""
    for split in SPLITS:
        data = BCCD(bccd, split, None)
        write_coco(packed / "bccd", split, data.classes, (half(data[i]) for i in range(len(data))), "WEBP")


def half(sample: Sample) -> tuple[str, Tensor, Tensor]:
    """Name, image at 240 × 320 and boxes of a sample."""
    image, boxes = sample["image"], sample["boxes"]
    assert isinstance(image, Tensor)
    assert isinstance(boxes, Tensor)
    small = torch.nn.functional.interpolate(image[None].float(), SIZES["bccd"], mode="bilinear", antialias=True)[0]
    return str(sample["name"]), small / 255, boxes * torch.tensor([0.5, 0.5, 0.5, 0.5, 1, 1])


def write_coco(
    root: Path, split: str, classes: Sequence[str], samples: Iterator[tuple[str, Tensor, Tensor]], kind: str
) -> None:
    """Write samples as a split in the format of COCO."""
    (root / split).mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, image, boxes) in enumerate(samples):
        file = f"{name}.{kind.lower()}"
        pixels = (image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(root / split / file, kind, quality=88)
        images.append({"id": number, "file_name": file, "height": pixels.shape[0], "width": pixels.shape[1]})
        for left, top, right, bottom, label, crowd in boxes.tolist():
            box = [left, top, right - left, bottom - top]
            annotations.append({"id": len(annotations), "image_id": number, "category_id": int(label), "bbox": box,
                                "area": box[2] * box[3], "iscrowd": int(crowd)})  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    (root / "annotations").mkdir(exist_ok=True)
    known = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(known))


def scene(place: tuple[int, int, int]) -> tuple[str, Tensor, Tensor]:
    """Name, image and boxes of a scene: how many there are, their seed, its number."""
    count, seed, index = place
    sample = Scenes(count, SIZES["scenes"], seed=seed, boxes=True)[index]
    image, boxes = sample["image"], sample["boxes"]
    assert isinstance(image, Tensor)
    assert isinstance(boxes, Tensor)
    return str(sample["name"]), image, boxes


def make_scenes(root: Path, processes: int, tiny: bool) -> None:
    """Generate the scenes once, by several processes."""
    names = Scenes(1).tasks["objects"]
    for split, (count, seed) in SCENES.items():
        if not (root / "annotations" / f"instances_{split}.json").exists():
            places = [(count, seed, index) for index in range(24 if tiny else count)]
            with pool(processes) as workers:
                found = workers.map(scene, places, chunksize=8)
                write_coco(root, split, getattr(names, "names", ())[1:], found, "PNG")


def folder_of(runs: Path, data: str, kind: str, seed: int) -> Path:
    return runs / f"detection-{data}-{kind}-{seed}"


def networks_of(row: str, seed: int) -> list[int]:
    """The seeds of the networks of a row."""
    return list(range(seed, seed + MEMBERS)) if row == "ensemble" else [seed]


def jobs(options: argparse.Namespace) -> list[Job]:
    """Everything that is trained and scored, seed by seed."""
    found: list[Job] = []
    sets, rows = ("bccd",) if options.tiny else tuple(options.data.split(",")), options.rows.split(",")
    for seed in SEEDS[: 1 if options.tiny else options.seeds]:
        wanted = [(ROWS[row][0], number) for row in rows for number in networks_of(row, seed)]
        fits = [fit_job(options, data, *each) for each in dict.fromkeys(wanted) for data in sets]
        known = {job.name for job in found}
        found += [job for job in fits if job.name not in known]
        for row in rows:
            for data in sets:
                needs = tuple(f"fit-{data}-{ROWS[row][0]}-{number}" for number in networks_of(row, seed))
                command = [str(HERE / "detection.py"), "score", f"--packed={options.packed}", f"--runs={options.runs}",
                           f"--device={options.device}", f"--shrink={options.shrink}", f"--samples={options.samples}",
                           f"--only={data},{row},{seed}"]  # fmt: skip
                command += ["--tiny"] * options.tiny
                done = scores_file(options.runs, data, row, seed)
                found.append(Job(f"score-{data}-{row}-{seed}", tuple(command), done, needs))
    return found


def fit_job(options: argparse.Namespace, data: str, kind: str, seed: int) -> Job:
    """The training of one network."""
    out = folder_of(options.runs, data, kind, seed)
    height, width = size_of(data, options.shrink)
    command = ("-m", "sfumato", "fit", "--task=boxes", "--data=coco", f"--root={options.packed / data}", *FIT[kind],
               "--method=mc-dropout", f"--size=[{height},{width}]", f"--crop=[{height},{width}]",
               f"--seed={100 * seed}", f"--out={out}", f"--device={options.device}", "--workers=0", "--cache=memory",
               "--logger=csv", "--quiet", "--resume")  # fmt: skip
    usual = (*NETWORK, f"--batch={options.batch}", "--epochs=200", f"--max-time={options.seconds / 60:.3f}")
    command += TINY if options.tiny else usual
    name = f"fit-{data}-{kind}-{seed}"
    if options.cuda_graph:
        return Job(name, (*command, "--cuda-graph"), weights_of(out), (), command)
    return Job(name, command, weights_of(out))


def size_of(data: str, shrink: int) -> tuple[int, int]:
    """Height and width of the images of a data set."""
    height, width = SIZES[data]
    return height // shrink, width // shrink


def scores_file(runs: Path, data: str, row: str, seed: int) -> Path:
    return runs / f"detection-{data}-{row}-{seed}.json"


def score(options: argparse.Namespace) -> None:
    """Score one row of one data set and seed, in all variants."""
    data, row, seed = options.only.split(",")
    kind, dropout = ROWS[row]
    folder = folder_of(options.runs, data, kind, int(seed))
    if row == "ensemble":
        sources = [folder_of(options.runs, data, kind, number) for number in networks_of(row, int(seed))]
        folder = folder_of(options.runs, data, "ensemble", int(seed))
        gather_members(sources, folder)
    run = Run.open(folder, device=options.device)
    method: Method = Deterministic(run.networks[0])
    if row == "ensemble":
        method = DeepEnsemble(run.networks)
    elif dropout:
        method = MCDropout(run.networks[0], samples=options.samples)
    size, root = size_of(data, options.shrink), options.packed / data
    held, tested = (found_in(run, method, COCO(root, split, size), options.tiny) for split in ("val", "test"))
    result = variants(held, tested, len(run.per_task["objects"].single_task.names) - 1)  # pyright: ignore[reportAttributeAccessIssue]
    with atomic_write(scores_file(options.runs, data, row, int(seed))) as part:
        part.write_text(json.dumps(result))


Found = tuple[dict[str, Boxes], Tensor, tuple[int, int]]
"""The boxes of an image by fusion, its true boxes, and its size."""


def found_in(run: Run, method: Method, data: COCO, tiny: bool) -> list[Found]:
    """The boxes of all images of a split."""
    found = []
    for index in range(8 if tiny else len(data)):
        sample = data[index]
        prediction = run.predict_uncalibrated(method, *run.inputs_of(sample), index=index)
        assert isinstance(prediction, Mapping)
        objects, distances = prediction["objects"], prediction["distances"]
        assert isinstance(objects, ClassPrediction)
        assert isinstance(distances, ValuePrediction)
        true = sample["boxes"]
        assert isinstance(true, Tensor)
        fusions = FUSIONS if data.split == "test" else FUSIONS[:1]  # the others are only scored
        boxes = {fusion: find_boxes(objects, distances, fusion=fusion)[0] for fusion in fusions}
        height, width = objects.event
        found.append((boxes, true, (height, width)))
    return found


def variants(held: list[Found], tested: list[Found], classes: int) -> dict[str, dict[str, float]]:
    """The scores of each fusion and calibration on the tested images."""
    result = {}
    for fusion in FUSIONS:
        result[fusion] = scored([(boxes[fusion], true, size) for boxes, true, size in tested], classes)
    pairs = [(boxes["intersection"], true) for boxes, true, _ in held]
    first, second = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
    for name in CALIBRATIONS:
        try:
            calibrator = BoxCalibrator.fit(first, classes, name)
            bounds = BoxBounds.fit([(calibrator(found), true) for found, true in second], LEVEL)
        except Exception as error:  # too few boxes after a short training: the row says so
            result[name] = {"failed": math.nan}
            print(name, error, flush=True)
            continue
        after = [(calibrator(boxes["intersection"]), true, size) for boxes, true, size in tested]
        shares = [(needed_factors(found, true) <= bounds.factor).double() for found, true, _ in after]
        covered = [float(each.mean()) if len(each) else 1.0 for each in shares]
        result[name] = scored(after, classes) | {"bounds_coverage": mean(covered), "bounds_factor": bounds.factor}
    return result


def scored(found: Sequence[tuple[Boxes, Tensor, tuple[int, int]]], classes: int) -> dict[str, float]:
    """All scores of boxes."""
    scores = BoxScores(classes)
    for boxes, true, size in found:
        scores.update([boxes], [true], size)
    return {name: float(value) for name, value in scores.compute().items()}


def summary(runs: Path) -> dict[str, Any]:
    """Data → row → variant → score → mean, standard deviation over seeds, and the number of seeds."""
    result: dict[str, Any] = {}
    for data in SIZES:
        for row in ROWS:
            each = [
                json.loads(path.read_text()) for seed in SEEDS if (path := scores_file(runs, data, row, seed)).exists()
            ]
            if not each:
                continue
            result.setdefault(data, {})[row] = {"seeds": len(each)} | {
                variant: {name: spread([one[variant].get(name, math.nan) for one in each]) for name in each[0][variant]}
                for variant in each[0]
            }
    return result


def spread(values: Sequence[float | None]) -> list[float | None]:
    """Mean and standard deviation, to four digits; None where there is none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    middle = float(f"{mean(known):.4g}") if known else None
    return [middle, float(f"{stdev(known):.2g}") if len(known) > 1 else None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", default="run", choices=("run", "pack", "score", "summary"))
    parser.add_argument("--bccd", type=absolute)
    parser.add_argument("--packed", type=absolute, required=True)
    parser.add_argument("--runs", type=absolute)
    parser.add_argument("--data", default="bccd,scenes", help="which data, with a comma")
    parser.add_argument("--rows", default=",".join(ROWS), help="which rows, with commas")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many")
    parser.add_argument("--shrink", type=int, default=1, help="what heights and widths are divided by, for a CPU")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--samples", type=int, default=20, help="passes with dropout")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--processes", type=int, default=16, help="processes that generate scenes")
    parser.add_argument("--seconds", type=float, default=60.0, help="time of each training")
    parser.add_argument("--limit", type=float, default=float("inf"), help="time of everything, seconds")
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    if options.action == "pack":
        pack(options.bccd, options.packed)
        return
    if options.action == "score":
        score(options)
        return
    took: dict[str, float] = {}
    if options.action == "run":
        options.runs.mkdir(parents=True, exist_ok=True)
        if not options.tiny and "scenes" in options.data:
            make_scenes(options.packed / "scenes", options.processes, options.tiny)
        took = run_jobs(jobs(options), options.runs / "logs", options.jobs, options.limit)
    kit = {"torch": torch.__version__, "device": options.device, "seconds_per_network": options.seconds,
           "shrink": options.shrink, "samples": options.samples}  # fmt: skip
    result = {**kit, "job_seconds": round(sum(took.values())), "rows": summary(options.runs)}
    with atomic_write(options.runs / "detection.json") as part:
        part.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

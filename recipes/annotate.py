"""One annotation round: choose what to label in a folder of images, read the labels back, and train again.

    python recipes/annotate.py --scenes 12 --pool 24 --budget 60 --epochs 60

A network learns the classes of a few generated scenes. Other scenes are a folder of images without labels. `sfumato
acquire` chooses patches of them and writes files for annotation programs, and the page regions.html, which shows what
was chosen and why. Here the true classes stand for what a person would draw in CVAT. `sfumato acquire --answers` makes
a folder of them, in which all other pixels are not valid, and `sfumato fit` trains on it. As many patches that are
chosen at random are the comparison.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.acquisition import Annotation, Area, Picture
from sfumato.acquisition.cvat import to_cvat
from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.evaluation import Evaluation

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--scenes", type=int, default=12, help="number of labeled scenes")
parser.add_argument("--pool", type=int, default=24, help="number of scenes without labels")
parser.add_argument("--budget", type=int, default=60, help="number of patches to label")
parser.add_argument("--side", type=int, default=16, help="side of a patch, pixels")
parser.add_argument("--epochs", type=int, default=60)
parser.add_argument("--size", type=int, nargs=2, default=(64, 96), help="height and width, pixels")
parser.add_argument("--out", type=Path, help="where everything is kept; default a folder that is deleted")
options = parser.parse_args()
size, keep = tuple(options.size), tempfile.TemporaryDirectory()
out = options.out or Path(keep.name)


def sfumato(*words):
    if main([*words, "--quiet"]):
        raise SystemExit(f"sfumato {words[0]} failed")


def fit(data, name):
    """Train on a folder, and score on scenes that nobody has seen."""
    network = ('--network-args={"dropout": 0.2}', "--samples=5", f"--epochs={options.epochs}")
    sfumato("fit", f"--data={out / data}", *network, f"--out={out / name}", "--logger=csv")
    sfumato("evaluate", str(out / name), f"--data={out / 'labeled'}", "--split=val")
    return Evaluation.load(out / name / "evaluation.json").tasks["classes"].scores["miou"].value


def write(scenes, images, labels=None):
    """Scenes as files, as a person would have them."""
    for folder in (images, labels):
        if folder is not None:
            folder.mkdir(parents=True)
    for sample in (scenes[number] for number in range(len(scenes))):
        pixels = (sample["image"] * 255).round().byte().movedim(0, -1).numpy()
        Image.fromarray(pixels).save(images / f"{sample['name']}.png")
        if labels is not None:
            Image.fromarray(sample["classes"].byte().numpy()).save(labels / f"{sample['name']}.png")


def drawn(table, pool):
    """What a person draws in the chosen patches, as CVAT exports it."""
    pictures = [Picture(f"{name}.png", *size) for name in pool.names]
    found = []
    with table.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            number = pool.names.index(Path(row["image"]).stem)
            left, top, width, height = (int(row[name]) for name in ("left", "top", "width", "height"))
            true = pool[number]["classes"].numpy()
            inside = np.zeros(size, bool)
            inside[top : top + height, left : left + width] = True
            found += [Annotation(number, names[c], Area.of(inside & (true == c))) for c in np.unique(true[inside])]
    return to_cvat(pictures, found, names)


few, pool, val = (Scenes(n, size=size, seed=s) for s, n in ((1, options.scenes), (2, options.pool), (3, 64)))
names = few.tasks["classes"].names
write(few, out / "labeled" / "images", out / "labeled" / "labels")
write(val, out / "labeled" / "val", out / "labeled" / "val-labels")
write(pool, out / "pool")
splits = "splits:\n  train: {images: images, labels: labels}\n  val: {images: val, labels: val-labels}\n"
(out / "labeled" / "sfumato.yaml").write_text(f"{splits}classes: [{', '.join(names)}]\n")

before = fit("labeled", "first")
after = {}
for selector in ("class-stratified", "random"):
    chosen = out / f"chosen-{selector}"
    sfumato("acquire", str(out / "first"), f"--pool={out / 'pool'}", f"--budget={options.budget}",
            f"--side={options.side}", f"--selector={selector}", f"--out={chosen}")  # fmt: skip
    answers = chosen / "annotations.xml"
    answers.write_text(drawn(chosen / "regions.csv", pool))
    sfumato("acquire", str(out / "first"), f"--pool={out / 'pool'}", f"--answers={answers}",
            f"--out={out / f'more-{selector}'}")  # fmt: skip
    after[selector] = fit(f"more-{selector}", f"second-{selector}")
print(f"mIoU on other scenes: {before:.3f} before")
for selector, value in after.items():
    print(f"mIoU on other scenes: {value:.3f} after {options.budget} patches chosen by {selector}")

"""``sfumato acquire``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo
from sfumato.errors import ConfigError

if TYPE_CHECKING:
    from sfumato.acquisition import Query
    from sfumato.contracts import DataSet
    from sfumato.data.views import Samples
    from sfumato.runs import Run


def acquire(
    run: Path,
    pool: str = "",
    budget: int = 0,
    score: str = "entropy",
    unit: str = "patch",
    side: int = 32,
    selector: str = "class-stratified",
    beta: float = 1.0,
    per_image: int = 0,
    similarity: float = 1.0,
    costs: Path | None = None,
    answers: Path | None = None,
    data: str = "",
    root: str = "",
    task: str = "",
    out: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Choose which images, regions or pixels of a pool to label, or read the labels back with --answers.

    Args:
        run: Folder of a run of classes.
        pool: Folder of images.
        budget: How many units to label.
        score: entropy, mutual-information, margin, variation-ratio or evpi. Default entropy.
        unit: What is labeled as a whole: image, patch, superpixel or pixel. Default patch.
        side: Side of a patch, or about that of a superpixel, pixels. Default 32.
        selector: top-k, gumbel, class-stratified, k-center, random or class-stratified-random. Default
            class-stratified, which with entropy is ClaSP PE.
        beta: How little noise gumbel and class-stratified add. Raise it over the rounds from 1 to 100. Default 1.
        per_image: At most so many units of one image. Default 0, no limit.
        similarity: Units whose features have a cosine above this one with a chosen unit are near-duplicates and left
            out, for example 0.98. Default 1, none.
        costs: For evpi, a YAML file with the cost of each action for each class, as of `decide cost`.
        answers: A file with labels: COCO or Label Studio (JSON), CVAT for images (XML). A folder for `fit --data` is
            written, with the training images of the run and the new labels.
        data: Other training data than the run's own, if those have moved.
        root: Folder where that data lies.
        task: Which task, for a run of several.
        out: Folder for coco.json, label-studio.json, cvat.xml, regions.csv and the page regions.html. Default
            RUN/acquire; with --answers RUN/labeled.
        samples: Number of draws of a stochastic method. Default: as in the plan.
        seed: Seed of the draws and of the choice. Default 0.
        device: auto, cpu, cuda or mps. Default auto.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    from sfumato import evaluation
    from sfumato.acquisition import Query
    from sfumato.data.views import subset
    from sfumato.decisions import Costs
    from sfumato.registry import Trust
    from sfumato.runs import Run

    if not pool:
        raise ConfigError("--pool is missing: name a folder of images")
    if answers is not None and budget:
        raise ConfigError("budget is for a choice, and --answers reads labels back: leave one of them out")
    if answers is None and not budget:
        raise ConfigError("--budget is missing: say how many units to label, or read labels with --answers FILE")
    opened = Run.open(run, device=device, trust=Trust.of(trust).naming(data, pool.partition(":")[0]))
    view = opened.select_task(task)
    if view.single_task.kind != "class":
        raise ConfigError(f"{run} predicts values, expected a run of classes, or a task of classes with --task")
    names: tuple[str, ...] = getattr(view.single_task, "names", ())
    known = None if costs is None else Costs.read(costs, names)
    query = Query(score, unit, side, selector, beta, per_image, similarity, known, samples, seed=seed)
    images, train = evaluation.ood_dataset(view, pool), evaluation.dataset_for(view, data, root, "train")
    train = subset(train, view.config.limit)
    if answers is None:
        _choose(view, images, train, budget, query, out or run / "acquire", not quiet)
    else:
        _read(view, images, train, answers, out or run / "labeled")


def _choose(run: Run, pool: DataSet, train: Samples, budget: int, query: Query, folder: Path, progress: bool) -> None:
    from sfumato.acquisition import acquire as selected
    from sfumato.report import write_selection

    found = selected(run, pool, train, budget, query, progress)
    found.write(folder, run.single_task)  # pyright: ignore[reportArgumentType] # a task of classes is Semantic
    write_selection(found, pool, run, query, folder / "regions.html")
    images = len({each.picture for each in found.units})
    share = found.pixels / sum(each.height * each.width for each in found.pictures)
    pixels = f"{found.pixels} pixels ({100 * share:.3g} % of the pool) of {images} images"
    echo(f"{len(found.units)} of {found.pool} units are chosen: {pixels}")
    if len(found.units) < budget:
        echo(f"The other {budget - len(found.units)} would be near-duplicates of these")
    echo(f"{folder} has coco.json, label-studio.json, label-studio.xml, cvat.xml, regions.csv and regions.html")
    echo(f"When they are labeled: sfumato acquire {run.folder} --pool POOL --answers FILE")


def _read(run: Run, pool: DataSet, train: Samples, answers: Path, folder: Path) -> None:
    from sfumato.acquisition import label_maps, pictures_of, read_answers, write_labeled

    task, pictures = run.single_task, pictures_of(pool)
    names: tuple[str, ...] = getattr(task, "names", ())
    found = read_answers(answers, pictures, names)
    maps = label_maps(found, pictures, names)
    images, pixels = write_labeled(folder, task, train, pool, maps)  # pyright: ignore[reportArgumentType] # as above
    new = sum(int((values != 255).sum()) for values in maps.values())
    echo(f"{len(found)} annotations of {len(maps)} images, {new} pixels")
    echo(f"{folder} has {images} images with {pixels} labeled pixels. Next: sfumato fit --data {folder}")

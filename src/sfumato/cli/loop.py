"""``sfumato loop``."""

from __future__ import annotations

from pathlib import Path

from sfumato.cli.console import echo


def loop(
    *,
    out: Path | None = None,
    rounds: int = 4,
    budget: int = 100,
    start: int = 0,
    score: str = "entropy",
    unit: str = "patch",
    side: int = 32,
    selector: str = "class-stratified",
    per_image: int = 0,
    similarity: float = 1.0,
    costs: Path | None = None,
    draws: int | None = None,
    pool_scale: float = 1.0,
    choice_seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    workers: int = -1,
    cuda_graph: bool = False,
    trust: str = "",
    quiet: bool = False,
    **config: object,
) -> None:
    """Try active learning on labeled data: hide the labels, then label a few units, train and choose in turns.

    Args:
        out: Folder of the experiment, with a run for each round. Default runs/loop-DATA-SELECTOR-SCORE.
        rounds: Number of rounds after the first training. Default 4.
        budget: Units that are labeled in each round. Default 100.
        start: Units that are labeled at random before the first training. Default 0, as many as the budget.
        score: entropy, mutual-information, margin, variation-ratio or evpi. Default entropy.
        unit: What is labeled as a whole: image, patch, superpixel or pixel. Default patch.
        side: Side of a patch, or about that of a superpixel, pixels. Default 32.
        selector: top-k, gumbel, class-stratified, k-center, random or class-stratified-random. Default
            class-stratified, which with entropy is ClaSP PE.
        per_image: At most so many units of one image in each round. Default 0, no limit.
        similarity: Units whose features have a cosine above this one with a chosen unit are left out. Default 1, none.
        costs: For evpi, a YAML file with the cost of each action for each class, as of `decide cost`.
        draws: Number of draws of a stochastic method with which the pool is looked at. Default: as `--samples`.
        pool_scale: Look at the pool at this share of the size in training, in (0, 1], to save time. Default 1.
        choice_seed: Seed of what is chosen at random. Default 0.
        resume: Continue an interrupted experiment.
        device: auto, cpu, cuda or mps. Default auto.
        workers: Processes that read images. Default -1, as many as suit this machine.
        cuda_graph: On a GPU: record the passes of the network in training and replay them.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
        **config: The choices that make a run, see Config.
    """
    from sfumato.acquisition import Query, Rounds, run_loop
    from sfumato.data.catalog import load_original
    from sfumato.data.views import tasks_of
    from sfumato.decisions import Costs
    from sfumato.registry import Trust
    from sfumato.runs import Config

    chosen = Config(**config)  # pyright: ignore[reportArgumentType] options.read checks the types
    trusted = Trust.of(trust).naming(*chosen.code_paths())
    pool, val = (load_original(chosen.data, chosen.root, split, chosen.size, trusted, *chosen.held_out)
                 for split in ("train", "val"))  # fmt: skip
    task = chosen.task or "classes"
    known = None if costs is None else Costs.read(costs, getattr(tasks_of(pool).get(task), "names", ()))
    query = Query(
        score, unit, side, selector, per_image=per_image, similarity=similarity, costs=known, samples=draws,
        scale=pool_scale, seed=choice_seed,
    )  # fmt: skip
    folder = out or Path("runs") / f"loop-{Path(chosen.data).name}-{selector}-{score}"
    rows = run_loop(
        chosen, Rounds(rounds, budget, start, query), pool, val, folder, trust=trusted, resume=resume,
        progress=not quiet, device=device, workers=workers, cuda_graph=cuda_graph,
    )  # fmt: skip
    echo("round   units      pixels    share    mIoU  accuracy     NLL")
    for row in rows:
        echo(f"{row['round']:5.0f} {row['units']:7.0f} {row['pixels']:11.0f} {100 * row['share']:7.3g}% "
             f"{row['miou']:7.4f} {row['accuracy']:9.4f} {row['nll']:7.4f}")  # fmt: skip
    echo(f"The runs are in {folder}")

"""Compare a run's uncertainty in the world it knows with that in another."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from sfumato.cli.evaluate import Table
    from sfumato.training import Run

STRIDE = 5  # every fifth pixel each way is enough to draw a histogram; the scores read them all


def other_world(run: Run, name: str, root: str) -> Dataset:
    """The data called ``DATA`` or ``DATA:SPLIT`` at the size the run was trained at, whatever its tasks."""
    from sfumato.data import load

    data, _, split = name.partition(":")
    return load(data, root=root, split=split or "val", size=run.plan.size)


def contrast(
    run: Run, inside: Dataset, name: str, root: str, samples: int | None, progress: bool = True
) -> tuple[Table, dict[str, Any]]:
    """How uncertainty differs between two worlds: scores, and as what JSON can hold, histograms and the world's name.

    In the other world the pixels that its samples call ``novel`` are new, else all of them.
    """
    import torch
    from rich.progress import track

    from sfumato.cli.evaluate import tabulate
    from sfumato.metrics import OODScores
    from sfumato.report import Contrast, parts
    from sfumato.training import predictions

    scores = OODScores()
    seen: dict[bool, dict[str, list[torch.Tensor]]] = {new: {"aleatoric": [], "epistemic": []} for new in (False, True)}
    for dataset, foreign in ((inside, False), (other_world(run, name, root), True)):
        drawn = predictions(run, dataset, samples=samples)
        count = len(dataset)  # pyright: ignore[reportArgumentType]
        for sample, prediction in track(
            drawn, "another world" if foreign else "this world", count, disable=not progress
        ):
            novel = torch.full_like(prediction.total, foreign, dtype=torch.bool)
            if foreign and "novel" in sample:
                novel = sample["novel"][None]
            scores.update(prediction, novel, torch.ones_like(novel))
            for part, maps in seen[foreign].items():
                thin, new = (m[..., ::STRIDE, ::STRIDE] for m in (parts(prediction)[part], novel))
                maps.append(thin[new] if foreign else thin.flatten())
    contrasts = {part: Contrast.of(torch.cat(seen[False][part]), torch.cat(seen[True][part])) for part in seen[False]}
    parts_seen = {part: asdict(each) for part, each in contrasts.items()}
    return tabulate(scores), {"name": name, "root": root, "parts": parts_seen}

"""``sfumato calibrate``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


def calibrate(
    run: Path,
    method: str = "",
    data: str = "",
    root: str = "",
    split: str = "val[:50%]",
    level: float = 0.9,
    delta: float = 0.0,
    of: str = "",
    task: str = "",
    samples: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> None:
    """Put a run's uncertainty right on held-out images; evaluate, predict and report then use what is found.

    Args:
        run: folder that `fit` left.
        method: temperature (the default for classes), class-temperature, vector, local or isotonic; scale (the default
            for values) or quantile; conformal for sets of classes or intervals of values with a guarantee; none to
            undo all.
        data: other data than the run's own.
        root: where that data lies.
        split: which images to fit on; what is evaluated must be others, as in val[50%:].
        level: of conformal, 1 − the risk allowed, as a mean over images.
        delta: of conformal, in how many cases the risk itself may be larger; 0 bounds its expectation.
        of: of conformal, the class whose false negatives are bounded; empty for wrong classes of all kinds.
        task: which one, of a run of several tasks.
        samples: how many outputs MC dropout draws.
        seed: of the draws.
        quiet: show no progress bar.
    """
    from sfumato import training
    from sfumato.cli.evaluate import data_of

    opened = training.Run.open(run).select_task(task)
    if method == "none":
        training.forget(opened)
        print(f"{run} is as it was trained")
        return
    if split.startswith("train") and data in ("", opened.plan.data):
        raise ValueError(f"{run} was trained on these images: calibrate on others, as in --split 'val[:50%]'")
    dataset = data_of(opened, data, root, split)
    common: dict[str, Any] = {"samples": samples, "seed": seed, "progress": not quiet}
    if method == "conformal":
        arguments: dict[str, Any] = {"delta": delta} | ({"of": _class(opened, of)} if of else {})
        found = training.fit_conformal(opened, dataset, level, **common, **arguments).conformal
        print(_promised(found, of))
    else:
        found = training.calibrate(opened, dataset, method, **common).calibrator
        images = f"{len(dataset)} images of {data or opened.plan.data}, {split}"  # pyright: ignore[reportArgumentType]
        print(f"{type(found).__name__} fitted on {images}")
    part = re.fullmatch(r"(.+)\[.*:(\d+%)\]", split)
    rest = f" --split '{part[1]}[{part[2]}:]'" if part else " --split OTHERS"
    print(f"It is kept in {run}. Next, on other images: sfumato evaluate {run}{rest}")


def _class(run: Any, name: str) -> int:
    names = getattr(run.task, "names", ())
    if name not in names:
        raise ValueError(f"there is no class {name!r}: expected one of {', '.join(names) or 'none, values have none'}")
    return names.index(name)


def _promised(found: Any, of: str) -> str:
    risk = f"false negatives of {of}" if of else "pixels missed"
    how = f"with probability {1 - found.delta:.4g} their mean stays" if found.delta else "their mean is expected"
    return (
        f"{type(found).__name__} fitted on {found.images} images: of images like them, {how} at or below "
        f"{1 - found.level:.4g} ({risk}, mean over images)"
    )

"""The splits of the scenes and what each of them holds."""

from __future__ import annotations

from dataclasses import dataclass

from sfumato.data.scenes.shifts import SHIFTS


@dataclass(frozen=True)
class SceneSplit:
    """Arguments of :class:`~sfumato.data.scenes.Scenes` for one split, with the meaning that they have there."""

    count: int
    seed: int
    novel: bool = False
    shift: str | None = None
    severity: int = 0


# Novel shapes and shifts are added to the scenes of val, so that nothing else changes.
SPLITS: dict[str, SceneSplit] = {
    "train": SceneSplit(512, 0),
    "val": SceneSplit(100, 1),
    "novel": SceneSplit(100, 1, novel=True),
    **{f"{shift}-{n}": SceneSplit(100, 1, shift=shift, severity=n) for shift in SHIFTS for n in range(1, 6)},
}

VARIED_SPLITS: dict[str, SceneSplit] = {"train": SceneSplit(2000, 2), "val": SceneSplit(100, 3)}

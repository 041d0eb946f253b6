"""Decisions about images that a service gives: those that ``sfumato decide`` fitted for the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sfumato.decisions import Abstention, OutlierFlag, image_scores
from sfumato.predictions import TaskPrediction
from sfumato.sections import Json

LARGEST = 1e30  # a threshold above which everything is accepted
ABSTENTION, FLAG = "abstention.safetensors", "flag.safetensors"


@dataclass(frozen=True)
class Decisions:
    """What was fitted for a run of one task.

    Args:
        abstention: Which pixels are accepted. Default: not fitted.
        flag: Which images are unusual. Default: not fitted.
    """

    abstention: Abstention | None = None
    flag: OutlierFlag | None = None

    @classmethod
    def beside(cls, path: Path) -> Self:
        """Those in the folder ``decisions`` of a run, or beside an exported file.

        Raises:
            DataError: If a file is damaged.
        """
        folder = (path if path.is_dir() else path.parent) / "decisions"
        abstention, flag = folder / ABSTENTION, folder / FLAG
        return cls(
            Abstention.load(abstention) if abstention.is_file() else None,
            OutlierFlag.load(flag) if flag.is_file() else None,
        )

    def __call__(self, prediction: TaskPrediction) -> dict[str, Json]:
        """What is decided about a prediction of one image.

        Returns:
            ``score``: mean epistemic uncertainty, or the score of the flag. ``p_value`` and ``flagged``: null without a
            flag. ``accepted``: share of the pixels, null without an abstention. ``decision``: flagged, accepted, partly
            accepted or abstained, null if nothing was fitted. ``measure`` and ``threshold`` of the abstention, in nats
            or unit².
        """
        flag, abstention = self.flag, self.abstention
        scores = image_scores(prediction) if flag is None else flag.score(prediction)
        p_value = None if flag is None else float(flag.p_values(scores))
        flagged = None if flag is None else bool(flag(scores))
        accepted = None if abstention is None else float(abstention(prediction).double().mean())
        return {
            "score": float(scores),
            "p_value": p_value,
            "flagged": flagged,
            "accepted": accepted,
            "decision": _word(flagged, accepted),
            "measure": None if abstention is None else abstention.measure,
            "threshold": None if abstention is None else _finite(float(abstention.threshold[0])),
        }


def _word(flagged: bool | None, accepted: float | None) -> str | None:
    if flagged:
        return "flagged"
    if accepted is None:
        return None if flagged is None else "accepted"
    return "accepted" if accepted == 1 else "abstained" if accepted == 0 else "partly accepted"


def _finite(value: float) -> float | None:
    """A threshold; None if it accepts everything."""
    return value if value < LARGEST else None

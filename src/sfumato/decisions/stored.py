"""What `sfumato decide` left for a run, which the report shows and an exported file computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from sfumato.decisions.abstention import Abstention
from sfumato.decisions.costs import Costs
from sfumato.decisions.outliers import OutlierFlag
from sfumato.errors import RunError
from sfumato.predictions import ClassPrediction, ValuePrediction
from sfumato.runs import Run, prediction_state
from sfumato.storage import Stored, load

FOLDER = "decisions"
ABSTENTION, COSTS, FLAG = "abstention.safetensors", "costs.safetensors", "flag.safetensors"
LARGEST_UINT8 = 256  # actions whose numbers fit into uint8


@dataclass(frozen=True)
class Decisions:
    """The decisions of a run of one task.

    Args:
        abstention: What is accepted. None if nothing was fitted.
        costs: The costs of actions. None without them.
        flag: Which images are unusual. None if nothing was fitted.
        outdated: Files that were left out, because the run has been trained or calibrated since.
    """

    abstention: Abstention | None = None
    costs: Costs | None = None
    flag: OutlierFlag | None = None
    outdated: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: Run) -> Self:
        """The decisions in the folder ``decisions`` of a run.

        Args:
            run: The run as one of its tasks.

        Raises:
            RunError: If a file is cut off or holds something else.
        """
        return cls.in_folder(run.folder, prediction_state(run), run.prefix)

    @classmethod
    def in_folder(cls, folder: Path, state: str, prefix: str = "") -> Self:
        """The decisions in the folder ``decisions`` of a folder.

        Args:
            folder: The folder of a run, or one that holds an exported file.
            state: The state of the predictions, see :func:`sfumato.runs.prediction_state`.
            prefix: Start of the names of the files, for one of several tasks. Default: none.

        Raises:
            RunError: If a file is cut off or holds something else.
        """
        outdated: list[str] = []
        found: dict[str, Stored] = {}
        kinds: dict[str, tuple[str, type[Stored]]] = {
            "abstention": (ABSTENTION, Abstention),
            "costs": (COSTS, Costs),
            "flag": (FLAG, OutlierFlag),
        }
        for name, (file, kind) in kinds.items():
            path = folder / FOLDER / (prefix + file)
            if not path.exists():
                continue
            one = load((kind,), path, error=RunError, advice="run `sfumato decide` again")
            if getattr(one, "rests_on", state) == state:
                found[name] = one
            else:
                outdated.append(path.name)
        return cls(**found, outdated=tuple(outdated))  # pyright: ignore[reportArgumentType] each kind has its field

    @property
    def for_file(self) -> Self:
        """Those that are arithmetic on the numbers of one pixel, so that a graph can make them for any image size."""
        by_pixel = self.abstention is not None and self.abstention.unit == "pixel"
        return replace(self, abstention=self.abstention if by_pixel else None, flag=None)

    def outputs(self, prediction: ClassPrediction | ValuePrediction, look: Tensor | None = None) -> dict[str, Tensor]:
        """What is decided on each pixel, by name.

        ``accepted`` (B, *event), bool; ``action`` (B, *event), uint8, its number in the order of the costs;
        ``expected_cost`` (B, *event) of that action; and ``look`` (B, *event), the value of looking again, if it is
        given.
        """
        found: dict[str, Tensor] = {}
        if self.abstention is not None:
            found["accepted"] = self.abstention(prediction)
        if self.costs is not None and isinstance(prediction, ClassPrediction):
            action, cost = self.costs.best(prediction.probs)
            kind = torch.uint8 if len(self.costs.actions) <= LARGEST_UINT8 else torch.int32
            found |= {"action": action.to(kind), "expected_cost": cost}
        return found if look is None else found | {"look": look}

    def margins(self, prediction: ClassPrediction | ValuePrediction) -> dict[str, Tensor]:
        """How far the choices of :meth:`outputs` are from another one, by name, as shares of a scale near 1."""
        found: dict[str, Tensor] = {}
        if self.abstention is not None:
            distance = (self.abstention.uncertainty(prediction) - self.abstention.limit).abs()
            found["accepted"] = distance / max(1.0, min(self.abstention.limit, 1e30))
        if self.costs is not None and isinstance(prediction, ClassPrediction):
            first, second = self.costs.expected(prediction.probs).topk(2, 1, largest=False).values.unbind(1)
            found["action"] = (second - first) / self.scale
        return found

    @property
    def scale(self) -> float:
        """The largest cost, at least 1e-12, which differences of costs are compared with."""
        return 1.0 if self.costs is None else max(1e-12, float(self.costs.matrix.abs().max()))

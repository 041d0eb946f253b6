"""A run as one module: raw inputs in; classes or values with all their uncertainties out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from sfumato.decisions import Decisions, Looking
from sfumato.errors import ExportError
from sfumato.methods import Deterministic
from sfumato.predictions import ClassPrediction, ValuePrediction, predict
from sfumato.runs import Run
from sfumato.targets import Image

LARGEST_UINT8 = 256  # classes whose ids fit into uint8


@dataclass(frozen=True)
class Outcome:
    """What a graph computes.

    Args:
        prediction: The calibrated prediction.
        look: The value of looking again (B, *event). None if it is not computed.
        decisions: What is decided. Default: nothing.
    """

    prediction: ClassPrediction | ValuePrediction
    look: Tensor | None = None
    decisions: Decisions = field(default_factory=Decisions)

    @property
    def outputs(self) -> dict[str, Tensor]:
        """All outputs by name: those of :func:`outputs_of`, then those of :meth:`Decisions.outputs`."""
        return outputs_of(self.prediction) | self.decisions.outputs(self.prediction, self.look)

    @property
    def margins(self) -> dict[str, Tensor]:
        """For outputs that are numbers of choices: how much better the choice is than the next one."""
        found = self.decisions.margins(self.prediction)
        if isinstance(self.prediction, ClassPrediction):
            first, second = self.prediction.probs.topk(2, dim=1).values.unbind(1)
            found["label"] = first - second
        return found

    def scale(self, name: str) -> float:
        """What differences of an output are divided by: 1 for classes, the largest value for others."""
        if name in ("expected_cost", "look"):
            return self.decisions.scale
        largest = float(self.outputs[name].abs().max())
        return 1.0 if isinstance(self.prediction, ClassPrediction) else max(largest, 1e-12)


class Graph(nn.Module):
    """Everything between the inputs and a prediction: normalization, members, aggregation and calibration.

    With what ``sfumato decide`` stored for the run, as far as it is arithmetic on one pixel: the mask of accepted
    pixels, and by costs the actions, their expected cost and, if there are several draws, the value of looking again.

    Args:
        run: A run of one task. Its method must not be stochastic, unless ``deterministic`` is True.
        deterministic: Whether a stochastic method is replaced by one pass of the network. The epistemic part is then 0.
            Default False.

    Raises:
        ConfigError: If the run has several tasks.
        ExportError: If the method is stochastic and ``deterministic`` is False.
    """

    def __init__(self, run: Run, deterministic: bool = False) -> None:
        super().__init__()
        self.task = run.single_task
        method = run.method()
        if method.stochastic and not deterministic:
            raise ExportError(
                f"{run.folder} predicts by {run.config.method}, whose random draws a graph cannot make: export an "
                "ensemble or an evidential likelihood, or pass --deterministic for one pass without draws (epistemic "
                "part 0)"
            )
        self.run, self.networks = run, nn.ModuleList(run.networks).eval()
        self.method = Deterministic(run.networks[0]) if method.stochastic else method
        decisions = Decisions.of(run).for_file
        if method.stochastic and decisions.abstention is not None:  # a threshold is of the uncertainty with all draws
            decisions = replace(decisions, abstention=None)
        self.decisions = decisions

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of :class:`Outcome`, for inputs (B, …) at the size that the network sees."""
        return tuple(self.outcome(*inputs).outputs.values())

    def prediction(self, *inputs: Tensor) -> ClassPrediction | ValuePrediction:
        """The calibrated prediction."""
        return self.outcome(*inputs).prediction

    def outcome(self, *inputs: Tensor) -> Outcome:
        """What :meth:`forward` takes apart."""
        prepared = tuple(Image().to_float(value) for value in inputs)
        likelihood: Any = self.run.likelihood
        costs, look = self.decisions.costs, None
        if costs is None:
            drawn = predict(self.method, *prepared, likelihood=likelihood)
        else:
            looked = predict(self.method, *prepared, likelihood=Looking(likelihood, costs))
            drawn, look = looked.prediction, looked.value if looked.prediction.draws > 1 else None
        found = self.run.calibrated(drawn.with_image(prepared[0]))
        return Outcome(cast("ClassPrediction | ValuePrediction", found), look, self.decisions)


def outputs_of(prediction: ClassPrediction | ValuePrediction) -> dict[str, Tensor]:
    """What an exported file gives of a prediction, by name.

    Of classes ``label``, ``probability`` (of the label), ``probs``; of values ``mean``, ``aleatoric_variance`` and
    ``epistemic_variance``, and the correlations of both if the likelihood has them; then ``total``, ``aleatoric``,
    ``epistemic``, and ``novelty`` if the method gives it.
    """
    if isinstance(prediction, ClassPrediction):
        kind = torch.uint8 if prediction.probs.shape[1] <= LARGEST_UINT8 else torch.int32
        found = {
            "label": prediction.label.to(kind),
            "probability": prediction.confidence,
            "probs": prediction.probs,
        }
    else:
        names = ("mean", "aleatoric_variance", "epistemic_variance", "aleatoric_correlation", "epistemic_correlation")
        values = {name: getattr(prediction, name) for name in names}
        found = {name: value.contiguous() for name, value in values.items() if value is not None}
    found |= {"total": prediction.total, "aleatoric": prediction.aleatoric, "epistemic": prediction.epistemic}
    return found if prediction.novelty is None else found | {"novelty": prediction.novelty}

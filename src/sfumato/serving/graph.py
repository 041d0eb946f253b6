"""A run as one module: raw inputs in; classes or values with all their uncertainties out."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from sfumato.errors import ExportError
from sfumato.methods import Deterministic
from sfumato.predictions import ClassPrediction, ValuePrediction, predict
from sfumato.runs import Run
from sfumato.targets import Image

LARGEST_UINT8 = 256  # classes whose ids fit into uint8


class Graph(nn.Module):
    """Everything between the inputs and a prediction: normalization, members, aggregation and calibration.

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

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs named by :func:`outputs_of`, for inputs (B, …) at the size that the network sees."""
        return tuple(outputs_of(self.prediction(*inputs)).values())

    def prediction(self, *inputs: Tensor) -> ClassPrediction | ValuePrediction:
        """The calibrated prediction that :meth:`forward` takes apart."""
        prepared = tuple(Image().to_float(value) for value in inputs)
        drawn = predict(self.method, *prepared, likelihood=self.run.likelihood)
        return cast("ClassPrediction | ValuePrediction", self.run.calibrated(drawn.with_image(prepared[0])))


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

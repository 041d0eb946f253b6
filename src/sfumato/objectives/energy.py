"""The energy score of values as an objective, for likelihoods with a location and a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from sfumato.contracts import Likelihood
from sfumato.errors import ConfigError
from sfumato.likelihoods.joint import Joint
from sfumato.likelihoods.links import split
from sfumato.objectives.base import Losses, TargetsOf
from sfumato.objectives.nll import MultiTaskNLL
from sfumato.objectives.weightings import Weighting


@runtime_checkable
class Sampled(Protocol):
    """A likelihood ``y = location + scale · t`` whose t can be drawn."""

    link: str

    @staticmethod
    def standard_sample(like: Tensor) -> Tensor:
        """Samples of t with the shape of a tensor."""
        ...


class EnergyScore(MultiTaskNLL):
    """The energy score of the values of several tasks, and the negative log likelihood of their classes (``energy``).

    The energy score ``E‖Z − y‖ − ½ E‖Z − Z'‖`` of a predicted distribution is 0 for a sure and exact one. It punishes a
    gross error by its size, while the negative log likelihood of a Gaussian does so by its square. Both have their
    minimum at the true distribution. It replaces the distance ``‖location − y‖`` step by step:
    ``(1 − w) ‖location − y‖ + w · score`` with ``w = min(1, step / steps)``, because a scale can only be learned when
    the location is.

    Args:
        task: The tasks, such as those of boxes.
        likelihood: The likelihood of all tasks. Those of values are ``gaussian`` or ``laplace`` without a link.
        inputs: The sample entries that the network takes, in order.
        weighting: How the losses of classes are weighted. None for the joint negative log likelihood.
        samples: Number of samples of each pixel, ≥ 2. Default 8.
        steps: Number of steps until the score counts alone, ≥ 0. Default 500.

    Raises:
        ConfigError: If the likelihood is that of one task, no part can be sampled, or a number is out of range.

    Source: Harakeh and Waslander (2021), "Estimating and evaluating regression predictive uncertainty in deep object
    detectors"; Gneiting and Raftery (2007).
    """

    step: Tensor

    def __init__(
        self,
        task: TargetsOf,
        likelihood: Likelihood[object],
        inputs: tuple[str, ...] = ("image",),
        weighting: Weighting | None = None,
        samples: int = 8,
        steps: int = 500,
    ) -> None:
        super().__init__(task, likelihood, inputs, weighting)
        if not (isinstance(samples, int) and samples >= 2 and isinstance(steps, int) and steps >= 0):
            raise ConfigError(f"samples is {samples!r} and steps {steps!r}, expected whole numbers ≥ 2 and ≥ 0")
        self.samples, self.steps = samples, steps
        self.joint = cast(Joint, likelihood)
        parts = self.joint.parts.items()
        self.values = tuple(name for name, part in parts if getattr(part, "target", "") == "value")
        for name in self.values:
            part = self.joint.parts[name]
            if not (isinstance(part, Sampled) and part.link == "identity"):
                raise ConfigError(f"the likelihood of {name} is a {type(part).__name__}, expected gaussian or laplace "
                                  "without a link, whose samples have an energy score")  # fmt: skip
        if not self.values:
            raise ConfigError(f"none of the tasks {', '.join(self.joint.parts)} has values: use multi-task")
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, network: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Losses, Losses]:
        """The losses ``nll`` of classes and ``energy_TASK`` of each task of values, and the share w of the score."""
        targets, valids = self.task.target_and_mask(batch)
        output = network(*self.inputs_of(batch)).float()
        share = float((self.step / max(1, self.steps)).clamp(max=1)) if self.steps else 1.0
        if self.training:
            self.step += 1
        classes = {name: batch.get(self.soft[name], each) for name, each in targets.items() if name not in self.values}
        found = {
            f"energy_{name}": self._score(name, output, targets[name], valids[name], share) for name in self.values
        }
        if classes:
            found["nll"], _ = self.weighting(output, classes, {name: valids[name] for name in classes})
        return found, {"energy_share": output.new_tensor(share)}

    def _score(self, name: str, output: Tensor, target: Tensor, valid: Tensor, share: float) -> Tensor:
        """The mean loss of the valid pixels of a task, in spreads of its values."""
        part = cast(Sampled, self.joint.parts[name])
        own = self.joint.output_of(name, output).movedim(1, -1)[valid]
        y = target.movedim(1, -1)[valid]
        location, log_scale = split(own, y.shape[1])
        if not len(y):
            return 0.0 * output.sum()
        drawn = torch.stack([location + log_scale.exp() * part.standard_sample(y) for _ in range(self.samples)])
        apart = (drawn - drawn.roll(1, 0)).norm(dim=2).mean()
        score = (drawn - y).norm(dim=2).mean() - 0.5 * apart
        distance = (location - y).norm(dim=1).mean()
        return ((1 - share) * distance + share * score) / self.joint.scales.get(name, (0.0, 1.0))[1]

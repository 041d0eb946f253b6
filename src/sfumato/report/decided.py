"""What a report shows of the decisions that `sfumato decide` stored for a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sfumato.contracts import Prediction, Sample, Task
from sfumato.data.colors import distinct
from sfumato.decisions import Decisions
from sfumato.predictions import ClassPrediction, ValuePrediction
from sfumato.report.data import Picture
from sfumato.runs import Run, image_key

RED = (217, 64, 38)
UNITS = {"pixel": "pixels", "region": "regions of one predicted class", "image": "images"}


def decision_pictures(decisions: Decisions, prediction: Prediction, image: Tensor) -> dict[str, Picture]:
    """Maps of the decisions on one image, by name: ``abstained``, ``action`` and ``unusual``.

    Args:
        decisions: The decisions of a run.
        prediction: The calibrated prediction of the image, at its original size. Only maps have pictures.
        image: The image (3, H, W) in [0, 1].
    """
    found: dict[str, Picture] = {}
    if not isinstance(prediction, ClassPrediction | ValuePrediction) or not prediction.is_map:
        return found
    if (abstention := decisions.abstention) is not None:
        what = f"The run abstains from {UNITS[abstention.unit]}"
        text = f"{what} where the {_named(abstention.measure)} is {abstention.limit:.3g} or more."
        found["abstained"] = _painted(image, ~abstention(prediction)[0].cpu(), {"abstained": RED}, text)
    if (costs := decisions.costs) is not None and isinstance(prediction, ClassPrediction):
        colors = dict(zip(costs.actions, distinct(len(costs.actions)), strict=True))
        action = costs.best(prediction.probs)[0][0].cpu()
        found["action"] = _painted(image, action + 1, colors, "The action with the least expected cost.")
    if (flag := decisions.flag) is not None and flag.side:
        unusual = flag.flagged_pixels(prediction)[0].cpu()
        square = f"{flag.side} × {flag.side} pixels"
        text = f"Where the mean {_named(flag.measure)} over {square} is above {flag.threshold:.3g}."
        found["unusual"] = _painted(image, unusual, {"unusual": RED}, text)
    return found


def _painted(image: Tensor, numbers: Tensor, colors: Mapping[str, tuple[int, int, int]], text: str) -> Picture:
    """The image in gray, painted where numbers (H, W) are above 0: 1 with the first color, 2 with the second one."""
    gray = image.float().cpu().mean(0, keepdim=True).expand(3, -1, -1)
    table = torch.tensor([(0, 0, 0), *colors.values()], dtype=torch.float32) / 255
    numbers = numbers.long()
    painted = 0.4 * gray + 0.6 * table[numbers].movedim(-1, 0)
    key = {name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in colors.items()}
    return Picture(painted.where(numbers > 0, 0.75 * gray), text, key)


def p_values(run: Run, decisions: Decisions, prediction: Prediction, sample: Sample) -> dict[str, float]:
    """The conformal p-value of an image, under a name that says whether it is flagged.

    Nothing without a flag, and of an image that the flag was fitted on, for which it would not be valid.
    """
    flag = decisions.flag
    if flag is None or image_key(sample, run.facts.inputs) in flag.fitted_on:
        return {}
    score = flag.score(prediction)
    return {f"p-value{' (flagged)' if bool(flag(score)) else ''}": float(flag.p_values(score))}


def decision_texts(decisions: Decisions, task: Task) -> dict[str, str]:
    """What was decided and what it promises, in words, by the name of the decision."""
    found: dict[str, str] = {}
    if (abstention := decisions.abstention) is not None:
        promise, share = abstention.text(getattr(task, "names", ())), f"{100 * abstention.coverage:.3g} %"
        found["abstain"] = (
            f"{promise[:1].upper()}{promise[1:]}. {share} of the pixels of the held-out images are accepted."
        )
    if (costs := decisions.costs) is not None:
        found["cost"] = f"The action with the least expected cost, of {', '.join(costs.actions)}."
    if (flag := decisions.flag) is not None:
        where = f"largest mean {_named(flag.measure)} over {flag.side} × {flag.side} pixels"
        where = where if flag.side else f"mean {_named(flag.measure)}"
        found["flag"] = (
            f"An image is flagged if its {where} is above {flag.threshold:.3g}. At most {flag.rate:.4g} of images like "
            f"the {len(flag.scores)} held-out ones are flagged, with probability {1 - flag.delta:.4g}. The line under "
            "an image has its p-value; images that the flag was fitted on have none."
        )
    if decisions.outdated:
        found["outdated"] = (
            f"{', '.join(decisions.outdated)}: the run was trained or calibrated since, so it is not shown. Run "
            "`sfumato decide` again."
        )
    return found


def _named(measure: str) -> str:
    return {"cost": "expected cost", "novelty": "novelty"}.get(measure, f"{measure} uncertainty")

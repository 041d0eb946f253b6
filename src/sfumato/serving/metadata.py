"""What an exported file says about itself, as JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor

import sfumato
from sfumato.decisions import Decisions
from sfumato.runs import Run, prediction_state, run_state
from sfumato.sections import Json, plain
from sfumato.serving.graph import Outcome
from sfumato.targets import ENTRIES, Image, kind_of

IMAGE_TYPES = ("uint8", "float")
CITATION = "Kendall and Gal (2017), What uncertainties do we need in Bayesian deep learning for computer vision?"


@dataclass(frozen=True)
class InputKind:
    """One input of an exported file.

    Args:
        name: Its name.
        channels: Number of channels; 0 without a channel axis.
        map: Whether it has height and width.
        type: ``uint8`` or ``float32``.
    """

    name: str
    channels: int
    map: bool
    type: str

    def example(self, batch: int, size: tuple[int, int], seed: int) -> Tensor:
        """Random values of this kind."""
        shape = (batch, *([self.channels] if self.channels else []), *(size if self.map else ()))
        values = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        return (values * 255).byte() if self.type == "uint8" else values


def input_kinds(run: Run, image_type: str) -> list[InputKind]:
    """The inputs of a run, in order. ``image_type`` is the type of images: ``uint8`` or ``float``."""
    found: list[InputKind] = []
    for name in run.facts.inputs:
        kind, colors = kind_of(name, ENTRIES), run.facts.normalization.get(name)
        image = colors is not None or kind is None or isinstance(kind, Image)
        channels = len(colors["mean"]) if colors is not None else 3 if kind is None else kind.channels
        type_name = "uint8" if image and image_type == "uint8" else "float32"
        found.append(InputKind(name, channels, kind is None or kind.is_map, type_name))
    return found


def metadata(run: Run, inputs: list[InputKind], multiple: int, outcome: Outcome) -> dict[str, Json]:
    """What a file says about itself.

    Args:
        run: The run of one task.
        inputs: Its inputs.
        multiple: What heights and widths of the inputs must be multiples of.
        outcome: What it computes for some inputs.
    """
    example = outcome.prediction
    config, facts, task = run.config, run.facts, run.single_task
    names: tuple[str, ...] = getattr(task, "names", ())
    unit = str(getattr(task, "unit", ""))
    (height, width), (original_height, original_width) = config.size, facts.original_size
    found: dict[str, object] = {
        "sfumato": sfumato.__version__,
        "task": config.task,
        "task_args": facts.task_args.get(config.task, {}),
        "kind": task.kind,
        "classes": names,
        "unit": "nats" if task.kind == "class" else unit,
        "inputs": [{each.name: getattr(one, each.name) for each in fields(one)} for one in inputs],
        "outputs": list(outcome.outputs),
        "map": example.is_map,
        "multiple": multiple,
        "scale": [height / original_height, width / original_width],
        "draws": example.draws,
        "quantiles": _numbers(getattr(example, "quantiles", None)),
        "likelihood": config.likelihood,
        "method": config.method,
        "members": config.members,
        "network": config.network,
        "calibrator": "" if run.calibrator is None else type(run.calibrator).__name__,
        "conformal": None if run.conformal is None else _stored(run.conformal),
        "decisions": _decisions(outcome.decisions, names),
        "run_state": run_state(run),
        "prediction_state": prediction_state(run),
        "trained_on": {"data": config.data, "images": run.plan.images_used, "fingerprint": facts.fingerprint},
        "citation": CITATION,
    }
    return plain(found)


def _decisions(decisions: Decisions, names: tuple[str, ...]) -> dict[str, object]:
    """What the outputs ``accepted`` and ``action`` mean."""
    found: dict[str, object] = {}
    if (abstention := decisions.abstention) is not None:
        found["abstain"] = _stored(abstention) | {"limit": abstention.limit, "promise": abstention.text(names)}
    if (costs := decisions.costs) is not None:
        found["costs"] = {"actions": costs.actions, "matrix": costs.matrix.tolist()}
    return found


def _stored(conformal: object) -> dict[str, object]:
    """The fields of what was fitted, without the images that they were fitted on."""
    assert is_dataclass(conformal)
    values = {each.name: getattr(conformal, each.name) for each in fields(conformal) if each.name != "fitted_on"}
    return {name: _numbers(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def _numbers(values: Tensor | None) -> list[float] | None:
    return None if values is None else [float(value) for value in values.detach().cpu().flatten()]

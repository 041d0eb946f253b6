"""``sfumato decide``."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfumato.cli.console import echo
from sfumato.errors import ConfigError, similar

if TYPE_CHECKING:
    from sfumato.data.views import Samples
    from sfumato.decisions import Costs
    from sfumato.decisions.of_run import Pass

KINDS = {  # the options that are for some kinds only, each with its default
    "abstain": {
        "risk": 0.05,
        "unit": "pixel",
        "class": "",
        "tolerance": 0.0,
        "costs": None,
        "delta": None,
        "measure": "",
        "maps": False,
    },
    "cost": {"costs": None, "maps": False},
    "flag": {"rate": 0.05, "side": 0, "delta": None, "measure": "", "maps": False},
    "drift": {"delta": None, "measure": ""},
}


def decide(
    kind: str,
    run: Path,
    data: str = "",
    root: str = "",
    split: str = "val[:50%]",
    on: str = "val[50%:]",
    ood: str = "",
    ood_root: str = "",
    risk: float = 0.05,
    delta: float | None = None,
    unit: str = "pixel",
    class_: str = "",
    tolerance: float = 0.0,
    costs: Path | None = None,
    rate: float = 0.05,
    side: int = 0,
    measure: str = "",
    maps: bool = False,
    task: str = "",
    out: Path | None = None,
    samples: int | None = None,
    seed: int = 0,
    device: str = "auto",
    trust: str = "",
    quiet: bool = False,
) -> None:
    """Decide on images: abstain within a risk budget, act by cost, flag unusual images, watch a stream for changes.

    Args:
        kind: abstain, cost, flag or drift.
        run: Folder of a run.
        data: Other data than the run's own.
        root: Folder where that data lies.
        split: Held-out images to fit on; cost needs none. Default val[:50%].
        on: Images to decide on. For drift they come in this order. Default val[50%:].
        ood: Decide on other data instead, as DATA or DATA:SPLIT or a folder of images.
        ood_root: Folder where it lies.
        risk: For abstain, the allowed share of wrong pixels among the accepted ones, as a mean over images; with
            --costs their allowed mean cost. Default 0.05.
        delta: How often the limit may be exceeded. For drift the probability of a false alarm. Default 0.1, drift 0.01.
        unit: For abstain, what is accepted as a whole: pixel, region (of one predicted class) or image. Default pixel.
        class_: For abstain, the class whose missed pixels are limited. Default: errors of all classes.
        tolerance: For abstain, the largest error of a value that is not wrong, in its unit.
        costs: A YAML file with the cost of each action for each class: for cost, and for abstain to limit the cost.
        rate: For flag, the allowed share of flagged images among those like the held-out ones. Default 0.05.
        side: For flag, side of the square whose mean is the score, pixels, odd; then regions are found. Default 0, the
            whole image.
        measure: The uncertainty that is looked at: total, aleatoric, epistemic, or novelty; for drift also error, for
            abstain with --costs also cost, the expected one. Default total for abstain (cost with --costs), else
            epistemic.
        maps: Write a file of maps for each image.
        task: Which task, for a run of several.
        out: Folder for the table KIND.csv, what was fitted, and maps. Default RUN/decisions, where `sfumato report` and
            `sfumato export` find what was fitted.
        samples: Number of draws of a stochastic method. Default: as in the plan.
        seed: Seed of the draws. Default 0.
        device: auto, cpu, cuda or mps. Default auto.
        trust: Class paths outside sfumato that may be imported, with commas; without a value all of them.
        quiet: Show no progress bar.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}{similar(kind, KINDS)}, expected one of {', '.join(KINDS)}")
    _check_options(kind, {
        "risk": risk, "unit": unit, "class": class_, "tolerance": tolerance, "costs": costs, "rate": rate, "side": side,
        "delta": delta, "measure": measure, "maps": maps,
    })  # fmt: skip
    if kind == "cost" and costs is None:
        raise ConfigError("--costs is missing: name a YAML file with the cost of each action for each class")
    if ood_root and not ood:
        raise ConfigError(f"ood_root is {ood_root}, but no --ood is given: add it, or leave this out")
    from sfumato import evaluation
    from sfumato.decisions.of_run import Pass
    from sfumato.registry import Trust
    from sfumato.runs import Run

    opened = Run.open(run, device=device, trust=Trust.of(trust).naming(data, ood.partition(":")[0]))
    view, folder = opened.select_task(task), out or run / "decisions"
    if kind != "cost" and split.startswith("train") and data in ("", view.config.data):
        raise ConfigError(f"{run} was trained on these images: fit on others, as in --split 'val[:50%]'")
    how = Pass(view, samples, seed, not quiet)
    images = evaluation.ood_dataset(view, ood, ood_root) if ood else evaluation.dataset_for(view, data, root, on)
    place = Place(folder, view.prefix, maps)
    names: tuple[str, ...] = getattr(view.single_task, "names", ())
    matrix = None if costs is None else _costs(costs, names)
    if kind == "cost" and matrix is not None:
        _act(how, matrix, images, place)
        return
    held = evaluation.dataset_for(view, data, root, split)
    if kind == "abstain":
        usual = "total" if matrix is None else "cost"
        choices: dict[str, object] = {
            "unit": unit, "measure": measure or usual, "tolerance": tolerance, "costs": matrix,
        }  # fmt: skip
        if class_:
            choices["class_index"] = evaluation.class_index(view, class_)
        _abstain(how, held, images, risk, 0.1 if delta is None else delta, choices, names, place)
    elif kind == "flag":
        _flag(how, held, images, rate, 0.1 if delta is None else delta, measure or "epistemic", side, place)
    else:
        _watch(how, held, images, measure or "epistemic", 0.01 if delta is None else delta, place)


@dataclass(frozen=True)
class Place:
    """Where the files of a decision go. Those of one of several tasks start with its name."""

    folder: Path
    prefix: str
    with_maps: bool

    @property
    def maps(self) -> Path | None:
        """The folder of the maps, or None without them."""
        return self.folder / f"{self.prefix}maps" if self.with_maps else None

    def file(self, name: str) -> Path:
        """The path of a file. The folder is made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / (self.prefix + name)


def _check_options(kind: str, given: dict[str, object]) -> None:
    defaults = {name: default for options in KINDS.values() for name, default in options.items()}
    for name, value in given.items():
        if value != defaults[name] and name not in KINDS[kind]:
            others = [other for other, options in KINDS.items() if name in options]
            raise ConfigError(f"{name} is for `decide {'` and `decide '.join(others)}`: leave it out")


def _abstain(
    how: Pass, held: Samples, images: Samples, risk: float, delta: float, choices: dict[str, object],
    names: tuple[str, ...], place: Place,
) -> None:  # fmt: skip
    from sfumato.decisions import of_run

    fitted = of_run.fit_abstention(how, held, risk, delta, **choices)
    rows = of_run.accepted(how, fitted, images, place.maps)
    fitted.save(place.file("abstention.safetensors"))
    of_run.write_table(rows, place.file("abstain.csv"))
    echo(f"Fitted on {fitted.images} images. For images like these: {fitted.text(names)}")
    found = mean(row.risk for row in rows)
    realized = "" if math.isnan(found) else f", risk {found:.4g}"
    share = mean(row.accepted for row in rows)
    echo(f"On {len(rows)} other images: {100 * share:.3g} % of the pixels are accepted{realized}")
    echo(f"{place.file('abstain.csv')} has a row for each image")


def _costs(path: Path, names: tuple[str, ...]) -> Costs:
    from sfumato.decisions import Costs

    if not names:
        raise ConfigError("costs are of classes, and this run predicts values: name a task of classes with --task")
    return Costs.read(path, names)


def _act(how: Pass, costs: Costs, images: Samples, place: Place) -> None:
    from sfumato.decisions import of_run

    rows = of_run.acted(how, costs, images, place.maps)
    costs.save(place.file("costs.safetensors"))
    of_run.write_table(rows, place.file("cost.csv"))
    shares = ", ".join(f"{name} {100 * mean(row.shares[name] for row in rows):.3g} %" for name in costs.actions)
    echo(f"Actions on {len(rows)} images: {shares}")
    echo(f"Expected cost per pixel: {mean(row.expected for row in rows):.4g}")
    if not math.isnan(real := mean(row.realized for row in rows)):
        plain = mean(row.by_label for row in rows)
        echo(f"Cost by the labels: {real:.4g}; if the most probable class were taken as certain: {plain:.4g}")
    echo(f"Value of looking again before acting: {mean(row.look for row in rows):.4g} per pixel")
    echo(f"{place.file('cost.csv')} has a row for each image")


def _flag(
    how: Pass, held: Samples, images: Samples, rate: float, delta: float, measure: str, side: int, place: Place
) -> None:
    from sfumato.data.views import smallest_regions_of
    from sfumato.decisions import of_run
    from sfumato.metrics import ComponentScores

    fitted = of_run.fit_flag(how, held, rate, delta, measure=measure, side=side)
    components = ComponentScores(*smallest_regions_of(images)) if side else None
    rows = of_run.flagged(how, fitted, images, place.maps, components)
    fitted.save(place.file("flag.safetensors"))
    of_run.write_table(rows, place.file("flag.csv"))
    sure = f"with probability {1 - delta:.4g}"
    echo(f"Fitted on {len(fitted.scores)} images: at most {rate:.4g} of images like these are flagged, {sure}")
    count, found = sum(row.flagged for row in rows), sum(row.discovered for row in rows)
    echo(f"Flagged: {count} of {len(rows)} images, {sum(len(row.regions) for row in rows)} regions")
    matched = components.compute() if components is not None and components.update_called else {}
    if matched and matched["true_components"] > 0:
        known = {name[10:]: float(each) for name, each in matched.items() if name.startswith("component_")}
        text = ", ".join(f"{name} {'–' if math.isnan(each) else f'{each:.3g}'}" for name, each in known.items())
        echo(f"Against the {int(matched['true_components'])} marked regions: {text}")
    echo(f"Benjamini-Hochberg: {found} images, of which at most {rate:.4g} are like the held-out ones on average")
    echo(f"{place.file('flag.csv')} has a row for each image")


def _watch(how: Pass, held: Samples, images: Samples, measure: str, delta: float, place: Place) -> None:
    from sfumato.decisions import of_run

    rows, alarm = of_run.watched(how, held, images, measure, delta)
    of_run.write_table(rows, place.file("drift.csv"))
    if alarm is None:
        largest = max(row.log_capital for row in rows)
        echo(
            f"No change of {measure} in {len(rows)} images: log capital at most {largest:.3g} of {-math.log(delta):.3g}"
        )
    else:
        echo(f"Change of {measure} reported at image {alarm} of {len(rows)}, {rows[alarm - 1].name}")
        echo(f"Without a change this happens with probability {delta:.4g} at most")
    echo(f"{place.file('drift.csv')} has a row for each image")


def mean(values: Iterable[float]) -> float:
    """The mean of the numbers that are known. NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan

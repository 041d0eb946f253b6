"""The plan of a run: every choice that training makes, derived from the data, written down, open to change."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
import yaml
from torch.utils.data import Dataset

from sfumato.contracts import Task
from sfumato.storage import atomic_write
from sfumato.training.recipes import METHODS

PIXELS_ON_CPU = 48_000  # more than this per image and an epoch takes minutes on a few cores
AUGMENTATION = {"scale": (0.75, 1.5), "color": 0.2}  # for photographs; a data set may say otherwise
IMAGES_SEEN = 12_000  # how many images a default run looks at, however many there are


@dataclass(frozen=True)
class Plan:
    """What is trained on what, and how.

    Args:
        data: name of a data set, or a folder with ``sfumato.yaml``.
        root: where the data set lies; empty for data that is generated.
        task: the entry of a sample that is predicted, as ``classes`` or ``depth``; empty for the data's first.
        tasks: entries that one network learns together, as in ``classes,centers,depth``; empty for ``task`` alone.
        task_args: what the task is made of: class names and colors, or the range and unit of depth; of several tasks,
            that of each by name.
        weighting: of several tasks: ``uncertainty`` (the default), ``equal``, ``fixed``, ``uw-so``, ``log1p``, ``dwa``.
        weights: of several tasks, in their order; for ``fixed``.
        log_variance: of several tasks, what the log-variances start from.
        scales: of several tasks, where the values of each lie and how far they spread, behind their link.
        network: class path of the network; called with the number of output channels, then ``network_args``; of several
            tasks with a dict of these numbers, and it returns a dict: ``sfumato.models.JointUNet`` if not given.
        network_args: keyword arguments; ``"CHANNELS"`` as a value stands for the number of output channels.
        likelihood: what the network's output means: ``categorical``, ``logit-normal`` or ``dirichlet`` for classes,
            ``gaussian``, ``laplace`` or ``normal-inverse-gamma`` for depth; empty for the first. Of several tasks one
            for each, as in ``categorical,l1,laplace``.
        method: ``deterministic``, ``mc-dropout``, ``concrete-dropout``, ``variational``, ``swag``, ``ensemble``,
            ``snapshot``, ``batch-ensemble`` or ``multi-head``.
        members: how many networks are trained, each with its own seed, or taken from the cycles of one training
            (``snapshot``), or live in one (``batch-ensemble``, ``multi-head``); 0 for 5 of them, 4 in one, or 1 in
            other methods.
        samples: how many outputs a method draws that draws at random.
        original_size: height and width of the data's first image, pixels.
        size: height and width that images are resized to, pixels, other images by the same factors; 0 0 for the
            native size, halved on a CPU while an image is large.
        crop: height and width that training sees, pixels; 0 0 for the whole image.
        scale: smallest and largest random zoom while training; 0 0 for what suits the data.
        color: strength of random brightness, contrast and saturation while training, in [0, 1]; negative for what
            suits the data.
        mean: of each color over the training images, in [0, 1].
        std: likewise.
        counts: valid pixels of each class in the training images, or of all values; of several tasks of the first.
        images: how many training images there are.
        teacher: folder of the run that this one learns its uncertainty from, as `sfumato distill` sets it.
        init_from: folder of a run whose first network the weights start from; empty for random ones.
        limit: train on so many of the images only, spread evenly over them; 0 for all.
        batch: images a step and device.
        epochs: passes over the training images; 0 for as many as make a run look at 12,000 images.
        learning_rate: the largest of a one-cycle schedule (AdamW).
        weight_decay: of AdamW.
        ema: decay a step of the averaged weights that are kept.
        precision: ``32-true`` or ``bf16-mixed``; empty for the faster of the two here.
        seed: of everything random.
        fingerprint: of the training images' names and the first image's content.
    """

    data: str = "scenes"
    root: str = ""
    task: str = ""
    tasks: str = ""
    task_args: dict[str, Any] | None = None
    network: str = "sfumato.models.UNet"
    network_args: dict[str, Any] | None = None
    likelihood: str = ""
    weighting: str = ""
    weights: tuple[float, ...] = ()
    log_variance: float = 0.0
    scales: dict[str, Any] | None = None
    method: str = "mc-dropout"
    members: int = 0
    samples: int = 20
    original_size: tuple[int, int] = (0, 0)
    size: tuple[int, int] = (0, 0)
    crop: tuple[int, int] = (0, 0)
    scale: tuple[float, float] = (0.0, 0.0)
    color: float = -1.0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    counts: tuple[int, ...] = ()
    images: int = 0
    limit: int = 0
    batch: int = 8
    epochs: int = 0
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    ema: float = 0.99
    precision: str = ""
    seed: int = 0
    fingerprint: str = ""
    teacher: str = ""
    init_from: str = ""

    @property
    def pixels(self) -> int:
        """Pixels of all training images: the data points that share what a method adds to the loss of all of them."""
        return self._seen * self.size[0] * self.size[1]

    @property
    def networks(self) -> int:
        """How many networks are kept: one where the members live in it, else one for each."""
        return 1 if METHODS[self.method].shared else self.members

    def steps(self, processes: int) -> int:
        """Steps of a whole training, shared by so many processes."""
        return self.epochs * max(1, -(-self._seen // processes) // self.batch)

    @property
    def _seen(self) -> int:
        return min(self.limit, self.images) or self.images

    def of(self, name: str) -> Plan:
        """The plan of several tasks, seen as that of one of them."""
        kind = self.likelihood.split(",")[self.tasks.split(",").index(name)].strip()
        rest: Any = {"tasks": "", "weighting": "", "weights": (), "log_variance": 0.0, "scales": None}
        return replace(self, task=name, task_args=(self.task_args or {})[name], likelihood=kind, **rest)

    def save(self, path: Path) -> None:
        """Write as YAML, whole or not at all."""
        with atomic_write(path) as part:
            part.write_text(yaml.safe_dump(_plain(asdict(self)), sort_keys=False))

    def difference(self, other: Plan) -> str:
        """The first three entries that differ, as text; empty where the plans are the same."""
        ours, theirs = _plain(asdict(self)), _plain(asdict(other))
        changed = [name for name in ours if ours[name] != theirs[name]]
        return "; ".join(f"{name} was {ours[name]}, now {theirs[name]}" for name in changed[:3])

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a plan.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is not a plan, or cut off.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: {path.parent} is not a run of `sfumato fit`")
        known = {field.name for field in fields(cls)}
        try:
            entries = yaml.safe_load(path.read_text())
            unknown = set(entries) - known
            if unknown:
                raise ValueError(f"unknown entries {sorted(unknown)}")
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entries.items()}
            return cls(**values)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a whole plan ({_line(error)}): fit the run anew") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def fast_precision() -> str:
    """``bf16-mixed`` where the processor computes in it, else ``32-true``: emulated, it is ten times slower."""
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    has = torch.cpu.get_capabilities()
    return "bf16-mixed" if has.get("avx512_bf16") or has.get("amx_bf16") else "32-true"


def working_size(native: tuple[int, int]) -> tuple[int, int]:
    """The size to train at: the native one, halved on a CPU until an image is small enough."""
    height, width = native
    while not torch.cuda.is_available() and height * width > PIXELS_ON_CPU:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def derive(dataset: Dataset, task: Task, known: Plan, augmentation: Any = None, most: int = 200) -> Plan:
    """Fill in what the data decides: sizes, colors, counts, epochs, precision.

    Args:
        dataset: training images at their working size, each a sample with ``image``.
        task: whose targets are counted.
        known: choices already made; those left at 0 or empty are derived.
        augmentation: ``scale`` and ``color`` that suit the data; None for those that suit photographs.
        most: look at no more than this many images, evenly spread.

    Raises:
        ValueError: if no pixel has a target, which no training can learn from.
    """
    count = len(dataset)  # pyright: ignore[reportArgumentType]
    picked = range(0, count, max(1, count // most))
    pixels, total, squares = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    counts = {name: torch.zeros(1, dtype=torch.int64) for name in task.parts}
    digest = hashlib.sha256()
    for index in picked:
        sample = dataset[index]
        image = sample["image"].double()
        pixels += image[0].numel()
        total += image.sum((1, 2))
        squares += image.square().sum((1, 2))
        for name, each in task.parts.items():
            target, valid = each.target_and_mask(sample)
            values = target.reshape(-1, *target.shape[-2:])[0][valid]
            found = torch.bincount(values) if values.dtype == torch.int64 else torch.tensor([values.numel()])
            counts[name] = _padded_sum(counts[name], found)
        digest.update(str(sample["name"]).encode())
        if index == 0:
            digest.update(image.numpy().tobytes())
    for name, found in counts.items():
        if found.sum() == 0:
            raise ValueError(f"no pixel of {len(picked)} training images has a valid {name}: check the labels")
    mean = total / pixels
    std = (squares / pixels - mean**2).clamp_min(1e-6).sqrt()
    height, width = dataset[0]["image"].shape[-2:]
    seen = known.limit or count
    suits = {**AUGMENTATION, **(augmentation or {})}
    return replace(
        known,
        size=(height, width),
        crop=known.crop if any(known.crop) else (height, width),
        scale=known.scale if any(known.scale) else suits["scale"],
        color=known.color if known.color >= 0 else suits["color"],
        mean=tuple(round(v, 4) for v in mean.tolist()),
        std=tuple(round(v, 4) for v in std.tolist()),
        counts=tuple(next(iter(counts.values())).tolist()),
        images=count,
        epochs=known.epochs or max(1, round(IMAGES_SEEN / seen)),
        precision=known.precision or fast_precision(),
        fingerprint=digest.hexdigest()[:16],
    )


def _padded_sum(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(max(len(a), len(b)), dtype=torch.int64)
    out[: len(a)] += a
    out[: len(b)] += b
    return out

"""The plan of a run: what a person chose, and what follows from the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Self, TypeAlias, TypeVar

import yaml
from sfumato.methods.training import MethodTraining

from sfumato import registry
from sfumato.errors import ConfigError, MissingFileError, RunError
from sfumato.storage import atomic_write

FILE = "plan.yaml"
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True)
class Config:
    """The choices that make a run. What is left empty is filled in from the data before training.

    Args:
        data: Name of a data set, class path of one, or a folder with ``sfumato.yaml``. Default ``scenes``.
        root: Folder where the data set lies. Empty for generated data.
        task: The entry of a sample that is predicted, such as ``classes`` or ``depth``. Empty for the first task of the
            data.
        tasks: Entries that one network learns together, such as ``classes,centers,depth``. Empty for ``task`` alone.
        network: Name or class path of the network. It is called with the number of output channels, then
            ``network_args``; for several tasks with a dict of these numbers. Empty for ``unet``, for several tasks
            ``joint-unet``.
        network_args: Keyword arguments of the network. The value ``"CHANNELS"`` stands for the number of output
            channels.
        likelihood: What the network's output means, such as ``categorical`` or ``gaussian``. Empty for the task's
            default. For several tasks one for each, such as ``categorical,l1,laplace``.
        objective: Name or class path of what training minimizes. Empty for the negative log likelihood, for several
            tasks ``multi-task``.
        objective_args: Keyword arguments of the objective.
        weighting: How the losses of several tasks are weighted: ``uncertainty`` (the default), ``equal``, ``fixed``,
            ``uw-so``, ``log1p`` or ``dwa``.
        weights: Weights of several tasks, in their order, for ``fixed``.
        log_variance: Initial log variance of each of several tasks. Default 0.
        method: Name or class path of the method. Default ``mc-dropout``.
        members: Number of networks that are trained, or that live in one network. 0 for the method's default.
        samples: Number of outputs that a stochastic method draws. Default 20.
        size: Height and width that images are resized to, pixels. 0 0 for the original size, halved on a CPU while an
            image is large.
        crop: Height and width of the crops in training, pixels. 0 0 for the whole image.
        scale: Smallest and largest random zoom in training. 0 0 for what suits the data.
        color: Strength of random brightness, contrast and saturation in training, in [0, 1]. Negative for what suits
            the data.
        limit: Number of training images, evenly spread. 0 for all.
        batch: Images per step and device. Default 8.
        epochs: Passes over the training images. 0 for as many as show the network 12,000 images.
        learning_rate: Largest learning rate of a one-cycle schedule (AdamW). Default 0.003.
        weight_decay: Weight decay of AdamW. Default 0.0001.
        ema: Decay per step of the averaged weights that are kept. Default 0.99.
        precision: ``32-true`` or ``bf16-mixed``. Empty for the faster of the two on this machine.
        seed: Seed of everything random. Default 0.
        teacher: Folder of the run that this one learns from. ``sfumato distill`` sets it.
        init_from: Folder of a run whose weights the network starts from. Empty for random weights.
    """

    data: str = "scenes"
    root: str = ""
    task: str = ""
    tasks: str = ""
    network: str = ""
    network_args: dict[str, Json] = field(default_factory=dict)
    likelihood: str = ""
    objective: str = ""
    objective_args: dict[str, Json] = field(default_factory=dict)
    weighting: str = ""
    weights: tuple[float, ...] = ()
    log_variance: float = 0.0
    method: str = "mc-dropout"
    members: int = 0
    samples: int = 20
    size: tuple[int, int] = (0, 0)
    crop: tuple[int, int] = (0, 0)
    scale: tuple[float, float] = (0.0, 0.0)
    color: float = -1.0
    limit: int = 0
    batch: int = 8
    epochs: int = 0
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    ema: float = 0.99
    precision: str = ""
    seed: int = 0
    teacher: str = ""
    init_from: str = ""

    def __post_init__(self) -> None:
        for name in ("members", "limit", "epochs", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        for name in ("samples", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("size", "crop"):
            if len(getattr(self, name)) != 2 or min(getattr(self, name)) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected height and width in pixels, or 0 0")
        if not self.learning_rate > 0:
            raise ConfigError(f"learning_rate is {self.learning_rate}, expected above 0")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}, expected a decay in [0, 1), such as 0.99")

    @property
    def task_names(self) -> list[str]:
        """The keys of the tasks, one or several.

        Raises:
            ConfigError: If ``tasks`` names one twice or holds an empty name.
        """
        if not self.tasks:
            return [self.task]
        names = [name.strip() for name in self.tasks.split(",")]
        if len(set(names)) != len(names) or not all(names):
            raise ConfigError(f"tasks is {self.tasks!r}, expected names with commas, each once, such as classes,depth")
        return names

    @property
    def likelihood_names(self) -> list[str]:
        """The names of the likelihoods, one for each task.

        Raises:
            ConfigError: If there is not one for each task.
        """
        names = [name.strip() for name in self.likelihood.split(",")]
        if len(names) != len(self.task_names):
            raise ConfigError(
                f"likelihood is {self.likelihood!r}, expected one for each of {','.join(self.task_names)}, with commas"
            )
        return names

    def code_paths(self) -> list[str]:
        """Every name in this configuration that may be a class path."""
        named = [self.data, self.network, self.objective, self.method, *self.likelihood.split(","), *self.task_names]
        return [name for name in named if "." in name]


@dataclass(frozen=True)
class Facts:
    """What follows from the training data. A person does not choose these.

    Args:
        inputs: The sample entries that the network takes, in order.
        normalization: For each input that is an image, ``mean`` and ``std`` of its colors in [0, 1].
        original_size: Height and width of the first image in its file, pixels.
        images: Number of training images.
        counts: Valid pixels of each class in the training images, or of all values; for several tasks of the first.
        fingerprint: Digest of the names of the training images and of the content of the first.
        task_args: For each task, what it is made of: class names and colors, or the range and unit of values.
        scales: For each task with values, center and spread of the training targets behind the likelihood's link.
    """

    inputs: tuple[str, ...] = ("image",)
    normalization: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    original_size: tuple[int, int] = (0, 0)
    images: int = 0
    counts: tuple[int, ...] = ()
    fingerprint: str = ""
    task_args: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Configuration and facts: all that a training depends on.

    Args:
        config: What a person chose.
        facts: What follows from the data.
        trust: Which class paths outside this package may be imported. It is not saved.
    """

    config: Config
    facts: Facts
    trust: registry.Trust = registry.NO_TRUST

    @property
    def training(self) -> MethodTraining:
        """How networks are trained for the method of this plan."""
        found = registry.load("methods", self.config.method, self.trust)
        if not isinstance(found, MethodTraining):
            raise ConfigError(f"method is {self.config.method!r}, a {type(found).__name__}: expected a MethodTraining")
        return found

    @property
    def networks(self) -> int:
        """Number of networks that are stored: one where the members live in it, else one for each member."""
        return 1 if self.training.shared else self.config.members

    @property
    def images_used(self) -> int:
        """Number of images that training uses."""
        return min(self.config.limit, self.facts.images) or self.facts.images

    @property
    def pixels(self) -> int:
        """Number of pixels of all training images. A penalty of all of them together is divided by it."""
        return self.images_used * self.config.size[0] * self.config.size[1]

    def steps(self, processes: int) -> int:
        """Number of steps of a whole training that so many processes share."""
        return self.config.epochs * max(1, -(-self.images_used // processes) // self.config.batch)

    def select_task(self, name: str) -> Plan:
        """The plan of several tasks as that of one of them."""
        kind = self.config.likelihood_names[self.config.task_names.index(name)]
        config = replace(self.config, task=name, tasks="", likelihood=kind, weighting="", weights=(), log_variance=0.0)
        return replace(self, config=config)

    def save(self, path: Path) -> None:
        """Write the plan as YAML with the sections ``config`` and ``facts``."""
        with atomic_write(path) as part:
            part.write_text(yaml.safe_dump(self._sections(), sort_keys=False, allow_unicode=True), encoding="utf-8")

    def difference(self, other: Plan) -> str:
        """The first three entries that differ, as text. Empty if the plans are the same."""
        ours, theirs = ({**s["config"], **s["facts"]} for s in (self._sections(), other._sections()))
        changed = [name for name in ours if ours[name] != theirs[name]]
        return "; ".join(f"{name} was {ours[name]}, now {theirs[name]}" for name in changed[:3])

    def _sections(self) -> dict[str, dict[str, Json]]:
        return {"config": _plain(asdict(self.config)), "facts": _plain(asdict(self.facts))}  # pyright: ignore[reportReturnType]  # _plain keeps a dict a dict

    @classmethod
    def load(cls, path: Path, trust: registry.Trust = registry.NO_TRUST) -> Self:
        """Read a plan.

        Args:
            path: The file ``plan.yaml`` of a run.
            trust: Which class paths outside this package may be imported.

        Raises:
            MissingFileError: If there is no such file.
            RunError: If it is not a plan, or cut off.
        """
        if not path.is_file():
            raise MissingFileError(f"{path} does not exist: {path.parent} is not a run of `sfumato fit`")
        try:
            sections = read_yaml(path)
            if not isinstance(sections, dict) or set(sections) != {"config", "facts"}:
                raise ValueError("expected the two sections config and facts")
            return cls(_section(Config, sections["config"]), _section(Facts, sections["facts"]), trust)
        except (TypeError, ValueError) as error:
            raise RunError(f"{path} is not a whole plan ({_line(error)}): fit the run again") from error


LARGEST_YAML = 1 << 20  # bytes; the plan of a run with 1,000 classes is below 100 kB


class _PlainLoader(yaml.SafeLoader):
    """A loader without aliases, which can make a short file stand for billions of nodes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("it holds an alias (*name), which plans and data descriptions do not use")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Json:
    """The content of a YAML file.

    Raises:
        ValueError: If it is no regular file, is larger than 1 MiB, is not YAML, or holds aliases.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    if path.stat().st_size > LARGEST_YAML:
        raise ValueError(f"it has {path.stat().st_size} bytes, expected at most {LARGEST_YAML}")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_line(error)) from error


S = TypeVar("S", Config, Facts)


def _section(kind: type[S], entries: Json) -> S:
    known = {each.name for each in fields(kind)}
    if not isinstance(entries, dict) or set(entries) - known:
        unknown = sorted(set(entries) - known) if isinstance(entries, dict) else entries
        raise ValueError(f"unknown entries {unknown}")
    return kind(**{name: _typed(kind, name, value) for name, value in entries.items()})


def _typed(kind: type, name: str, value: Json) -> object:
    """A value of a section in the type of its default.

    Raises:
        ValueError: If it has another type.
    """
    default = next(each for each in fields(kind) if each.name == name)
    like = default.default_factory() if callable(default.default_factory) else default.default
    if isinstance(like, tuple) and isinstance(value, list):
        return _tuples(value)
    if isinstance(like, dict) and isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(like):
        raise ValueError(f"{name} is {value!r}, expected a {type(like).__name__}")
    return value


def _tuples(value: object) -> object:
    if isinstance(value, dict):
        return {key: _tuples(each) for key, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _line(error: Exception) -> str:
    return " ".join(str(error).split())

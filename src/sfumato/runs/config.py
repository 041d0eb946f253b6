"""What a person chose for a run, and what follows from its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sfumato.errors import ConfigError
from sfumato.sections import Json

LARGEST_SEED = 2**31 - 1  # seeds of members and images are computed from it, and must fit into 64 bits
LARGEST_LOG_VARIANCE = 20.0
PRECISIONS = ("", "32-true", "bf16-mixed")


@dataclass(frozen=True)
class Config:
    """The choices that make a run. What is left empty is filled in from the data before training.

    Args:
        data: Name of a data set, class path of one, or a folder with ``sfumato.yaml``. Default ``scenes``.
        root: Folder where the data set lies. Empty for generated data.
        fold: Which fold of the training images is left out and validated on, from 0. -1 for none.
        folds: Number of folds that the training images are divided into. 0 for what the data describe.
        task: The entry of a sample that is predicted, such as ``classes`` or ``depth``. ``boxes`` stands for the tasks
            ``objects,distances``. Empty for the first task of the data.
        tasks: Entries that one network learns together, such as ``classes,centers,depth``. Empty for ``task`` alone.
        network: Name or class path of the network. It is called with the number of output channels, then
            ``network_args``; for several tasks with a dict of these numbers. Empty for ``unet``, for several tasks
            ``joint-unet``, for disparity ``light-stereo``, for flow ``light-flow``.
        network_args: Keyword arguments of the network. The value ``"CHANNELS"`` stands for the number of output
            channels.
        output: Name or position of the entry that is used of what the network returns, such as ``logits``. Empty for
            the only one, or for ``out`` or ``logits``.
        likelihood: What the network's output means, such as ``categorical`` or ``gaussian``. Empty for the task's
            default. For several tasks one for each, such as ``categorical,l1,laplace``.
        objective: Name or class path of what training minimizes: for classes also ``weighted-nll``, ``focal``, ``dice``
            or their ``sum``; for frames of a video ``temporal-consistency``; without labels ``reprojection`` and
            ``matching``. Empty for ``nll``, the negative log likelihood, for several tasks ``multi-task``.
        objective_args: Keyword arguments of the objective.
        weighting: How the losses of several tasks are weighted: ``uncertainty`` (the default), ``equal``, ``fixed``,
            ``uw-so``, ``log1p`` or ``dwa``.
        weights: Weights of several tasks, in their order, for ``fixed``.
        log_variance: Initial log variance of each of several tasks. Default 0.
        method: Name or class path of the method. Default ``mc-dropout``.
        members: Number of networks that are trained, or that live in one network. 0 for the method's default.
        samples: Number of outputs that a stochastic method draws. Default 20.
        size: Height and width at which the network sees the first image, pixels. Other images are resized by the same
            factors. Scores and predictions are of the original size. 0 0 for the original size, halved until it has at
            most 4 megapixels.
        crop: Height and width of the random crops in training, pixels. 0 0 for the whole image, or about 48,000 pixels
            of a larger one (524,288 on a GPU).
        scale: Smallest and largest random zoom in training. 0 0 for what suits the data.
        color: Strength of random brightness, contrast and saturation in training, in [0, 1]. Negative for what suits
            the data.
        limit: Number of training images, evenly spread. 0 for all.
        batch: Images per step and device. Default 8.
        epochs: Passes over the training images. 0 for as many as show the network 12,000 images.
        max_time: Time after which training ends, in minutes or as 01:30:00; all networks of an ensemble together. The
            schedule of the learning rate ends with it. Empty for no limit.
        learning_rate: Largest learning rate of a one-cycle schedule (AdamW). Default 0.003.
        encoder_rate: Learning rate of the network's module ``encoder``, as a share of ``learning_rate``. 0 for what the
            network says (0.2 for a pretrained encoder), else 1.
        weight_decay: Weight decay of AdamW. Default 0.0001.
        ema: Decay per step of the averaged weights that are kept. Default 0.99.
        precision: ``32-true`` or ``bf16-mixed``. Empty for the faster of the two on this machine.
        seed: Seed of everything random. Default 0.
        teacher: Folder of the run that this one learns from. ``sfumato distill`` sets it.
        init_from: What the weights of every network start from: the folder of a run, or a checkpoint of any program
            (safetensors, or .pt, .pth or .ckpt without code). Empty for those that the network is made with.
    """

    data: str = "scenes"
    root: str = ""
    fold: int = -1
    folds: int = 0
    task: str = ""
    tasks: str = ""
    network: str = ""
    network_args: dict[str, Json] = field(default_factory=dict)
    output: str = ""
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
    max_time: str = ""
    learning_rate: float = 3e-3
    encoder_rate: float = 0.0
    weight_decay: float = 1e-4
    ema: float = 0.99
    precision: str = ""
    seed: int = 0
    teacher: str = ""
    init_from: str = ""

    def __post_init__(self) -> None:
        for name in ("members", "limit", "epochs", "seed", "weight_decay", "encoder_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if self.fold < -1:
            raise ConfigError(f"fold is {self.fold}, expected the number of a fold, from 0, or -1 for none")
        if self.folds and (self.folds < 2 or self.fold < 0):
            raise ConfigError(
                f"folds is {self.folds} and fold is {self.fold}: expected at least 2 folds, and one of them"
            )
        for name in ("samples", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.seed > LARGEST_SEED:
            raise ConfigError(f"seed is {self.seed}, expected at most {LARGEST_SEED}")
        for name in ("size", "crop"):
            pair = getattr(self, name)
            if len(pair) != 2 or min(pair) < 0 or (min(pair) == 0 < max(pair)):
                raise ConfigError(f"{name} is {getattr(self, name)}, expected height and width in pixels, or 0 0")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate is {self.learning_rate}, expected above 0")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}, expected a decay in [0, 1), such as 0.99")
        if len(self.scale) != 2 or not (0 < self.scale[0] <= self.scale[1] < math.inf or self.scale == (0, 0)):
            raise ConfigError(f"scale is {self.scale}, expected the smallest and the largest zoom, or 0 0")
        _ = self.max_seconds
        if not (math.isfinite(self.log_variance) and abs(self.log_variance) <= LARGEST_LOG_VARIANCE):
            raise ConfigError(f"log_variance is {self.log_variance}, expected at most {LARGEST_LOG_VARIANCE} in size")
        if not all(0 <= weight < math.inf for weight in self.weights):
            raise ConfigError(f"weights is {self.weights}, expected numbers that are 0 or more")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}, expected 32-true or bf16-mixed, or nothing")
        if not -math.inf < self.color <= 1:
            raise ConfigError(f"color is {self.color}, expected a strength in [0, 1], or a negative number")

    @property
    def max_seconds(self) -> float:
        """``max_time`` in seconds; infinite without a limit.

        Raises:
            ConfigError: If it is neither a number of minutes above 0 nor hours, minutes and seconds.

        >>> Config(max_time="10").max_seconds, Config(max_time="01:30:00").max_seconds
        (600.0, 5400.0)
        """
        if not self.max_time:
            return math.inf
        words = self.max_time.split(":")
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            numbers = []
        found = sum(n * unit for n, unit in zip(numbers, (60,) if len(words) == 1 else (3600, 60, 1)))
        if len(numbers) not in (1, 3) or min(numbers) < 0 or not 0 < found < math.inf:
            raise ConfigError(f"max_time is {self.max_time!r}, expected minutes such as 10, or a time such as 00:10:00")
        return found

    @property
    def held_out(self) -> tuple[int, int]:
        """The fold that is left out, and the number of folds."""
        return self.fold, self.folds

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
        stride: What the network's heights and widths must be multiples of, so that inputs are padded. Default 1.
        network_takes_dict: Whether the network takes one dict of its inputs by name. Default False.
    """

    inputs: tuple[str, ...] = ("image",)
    normalization: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    original_size: tuple[int, int] = (0, 0)
    images: int = 0
    counts: tuple[int, ...] = ()
    fingerprint: str = ""
    task_args: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    stride: int = 1
    network_takes_dict: bool = False

    def __post_init__(self) -> None:
        if not self.inputs or self.stride < 1 or min(self.images, *self.counts, *self.original_size) < 0:
            raise ConfigError("facts hold no input, or a number below 0")
        for name, (center, spread) in self.scales.items():
            if not (math.isfinite(center) and 0 < spread < math.inf):
                raise ConfigError(f"the scale of {name} is {center}, {spread}, expected a center and a spread above 0")
        for name, colors in self.normalization.items():
            channels = {kind: len(numbers) for kind, numbers in colors.items()}
            if channels.keys() != {"mean", "std"} or len(set(channels.values())) != 1 or not all(channels.values()):
                raise ConfigError(f"the normalization of {name} has {channels}, expected mean and std of each channel")
            if not (all(map(math.isfinite, colors["mean"])) and all(0 < number < math.inf for number in colors["std"])):
                raise ConfigError(f"the normalization of {name} is {colors}, expected finite numbers and a std above 0")

"""Names of methods, likelihoods, tasks, data sets, objectives, scores and models, and where their code is.

A name is one of three things:

- a built-in name, such as ``mc-dropout``;
- a name that an installed package registers as an entry point of the group ``sfumato.methods``,
  ``sfumato.likelihoods``, ``sfumato.tasks``, ``sfumato.datasets``, ``sfumato.objectives``, ``sfumato.scores``,
  ``sfumato.acquisitions``, ``sfumato.models`` or ``sfumato.calibrators``;
- a class path, such as ``my_package.networks.Net``.

A class path outside this package is imported only if the user trusts it, see :class:`Trust`: a run that somebody else
made may name any code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from sfumato.errors import PluginError, UntrustedCodeError, similar
from sfumato.sections import one_line

BUILT_IN: dict[str, dict[str, str]] = {
    "methods": {
        "deterministic": "sfumato.methods.deterministic:TRAINING",
        "mc-dropout": "sfumato.methods.mc_dropout:TRAINING",
        "concrete-dropout": "sfumato.methods.concrete_dropout:TRAINING",
        "variational": "sfumato.methods.variational:TRAINING",
        "swag": "sfumato.methods.swag:TRAINING",
        "ensemble": "sfumato.methods.ensemble:TRAINING",
        "snapshot": "sfumato.methods.ensemble:SNAPSHOT_TRAINING",
        "randomized-prior": "sfumato.methods.prior:TRAINING",
        "batch-ensemble": "sfumato.methods.batch_ensemble:TRAINING",
        "multi-head": "sfumato.methods.multi_head:TRAINING",
        "laplace": "sfumato.methods.laplace:TRAINING",
        "test-time-augmentation": "sfumato.methods.test_time_augmentation:TRAINING",
        "feature-density": "sfumato.methods.feature_density:TRAINING",
        "variance-propagation": "sfumato.methods.propagation:TRAINING",
        "latent": "sfumato.methods.latent:TRAINING",
    },
    "likelihoods": {
        "categorical": "sfumato.likelihoods:Categorical",
        "logit-normal": "sfumato.likelihoods:LogitNormal",
        "dirichlet": "sfumato.likelihoods:Dirichlet",
        "tempered": "sfumato.likelihoods:Tempered",
        "gaussian": "sfumato.likelihoods:Gaussian",
        "laplace": "sfumato.likelihoods:Laplace",
        "gaussian-full": "sfumato.likelihoods:FullGaussian",
        "laplace-full": "sfumato.likelihoods:FullLaplace",
        "normal-inverse-gamma": "sfumato.likelihoods:NormalInverseGamma",
        "laplace-mixture": "sfumato.likelihoods:LaplaceMixture",
        "l1": "sfumato.likelihoods:L1",
        "planes": "sfumato.likelihoods:Planes",
        "distilled": "sfumato.likelihoods:DistilledClasses",
        "distilled-probs": "sfumato.likelihoods:DistilledProbs",
        "dudes": "sfumato.likelihoods:Dudes",
        "distilled-gaussian": "sfumato.likelihoods:DistilledGaussian",
        "distilled-laplace": "sfumato.likelihoods:DistilledLaplace",
        "distilled-planes": "sfumato.likelihoods:DistilledPlanes",
        "self-laplace": "sfumato.likelihoods:SelfLaplace",
    },
    "tasks": {
        "classes": "sfumato.tasks:Semantic",
        "depth": "sfumato.tasks:Depth",
        "inverse_depth": "sfumato.tasks:InverseDepth",
        "centers": "sfumato.tasks:CenterOffsets",
        "disparity": "sfumato.tasks:Disparity",
        "flow": "sfumato.tasks:Flow",
        "pose": "sfumato.tasks:CameraPose",
        "objects": "sfumato.tasks:BoxObjects",
        "distances": "sfumato.tasks:EdgeDistances",
    },
    "datasets": {
        "scenes": "sfumato.data.scenes:open_scenes",
        "noisy-scenes": "sfumato.data.scenes:open_noisy_scenes",
        "varied-scenes": "sfumato.data.scenes:open_varied_scenes",
        "scene-tour": "sfumato.data.scenes:open_scene_tour",
        "textures": "sfumato.data.textures:open_textures",
        "camvid": "sfumato.data:CamVid",
        "coco": "sfumato.data:COCO",
        "voc": "sfumato.data:PascalVOC",
        "bccd": "sfumato.data:BCCD",
        "yolo": "sfumato.data:YOLO",
        "cityscapes": "sfumato.data:Cityscapes",
        "nyuv2": "sfumato.data:NYUv2",
        "sevenscenes": "sfumato.data:SevenScenes",
        "anomaly-track": "sfumato.data:AnomalyTrack",
        "obstacle-track": "sfumato.data:ObstacleTrack",
        "cambridge": "sfumato.data:CambridgeLandmarks",
        "colmap": "sfumato.data:Colmap",
        "video": "sfumato.data:Video",
        "middlebury": "sfumato.data:Middlebury",
        "middlebury-flow": "sfumato.data:MiddleburyFlow",
        "kitti2012": "sfumato.data:KITTI2012",
        "kitti2015": "sfumato.data:KITTI2015",
        "kitti-raw": "sfumato.data:KITTIRaw",
        "sceneflow": "sfumato.data:SceneFlow",
        "flyingchairs": "sfumato.data:FlyingChairs",
        "sintel": "sfumato.data:Sintel",
    },
    "objectives": {
        "nll": "sfumato.objectives:NLL",
        "multi-task": "sfumato.objectives:MultiTaskNLL",
        "energy": "sfumato.objectives:EnergyScore",
        "weighted-nll": "sfumato.objectives:WeightedNLL",
        "focal": "sfumato.objectives:Focal",
        "dice": "sfumato.objectives:Dice",
        "sum": "sfumato.objectives:LossSum",
        "reprojection": "sfumato.objectives:Reprojection",
        "matching": "sfumato.objectives:Matching",
        "temporal-consistency": "sfumato.objectives:TemporalConsistency",
        "posenet": "sfumato.objectives:PoseNetLoss",
        "posenet-learned": "sfumato.objectives:PoseNetLearned",
        "posenet-geometric": "sfumato.objectives:PoseNetGeometric",
    },
    "scores": {
        "dice": "sfumato.metrics:DiceScore",
        "sensitivity": "sfumato.metrics:Sensitivity",
        "specificity": "sfumato.metrics:Specificity",
        "precision": "sfumato.metrics:PrecisionScore",
        "roc-auc": "sfumato.metrics:RocAuc",
        "pr-auc": "sfumato.metrics:PrAuc",
        "surface-distance": "sfumato.metrics:SurfaceDistance",
        "vectors": "sfumato.metrics:VectorScores",
        "disparity": "sfumato.metrics:DisparityScores",
    },
    "acquisitions": {},
    "models": {
        "unet": "sfumato.models:UNet",
        "efficient-unet": "sfumato.models:EfficientUNet",
        "joint-unet": "sfumato.models:JointUNet",
        "gc-net": "sfumato.models:GCNet",
        "light-stereo": "sfumato.models:LightStereo",
        "light-flow": "sfumato.models:LightFlow",
        "fc-densenet56": "sfumato.models:fc_densenet56",
        "fc-densenet67": "sfumato.models:fc_densenet67",
        "fc-densenet103": "sfumato.models:fc_densenet103",
        "motion-net": "sfumato.models:MotionNet",
        "pose-net": "sfumato.models:PoseNet",
        "efficient-pose-net": "sfumato.models:EfficientPoseNet",
    },
    "calibrators": {
        "temperature": "sfumato.calibration:Temperature",
        "class-temperature": "sfumato.calibration:ClassTemperature",
        "vector": "sfumato.calibration:VectorScaling",
        "local": "sfumato.calibration:LocalTemperature",
        "isotonic": "sfumato.calibration:Isotonic",
        "scale": "sfumato.calibration:VarianceScaling",
        "quantile": "sfumato.calibration:QuantileMap",
    },
}
GROUPS = tuple(BUILT_IN)


@dataclass(frozen=True)
class Trust:
    """Which class paths outside this package may be imported.

    Args:
        everything: Whether every path may be imported. Default False.
        paths: Class paths, or modules whose contents are trusted.

    >>> Trust.of("my_net.Net,other").allows("my_net.Net"), Trust.of("my_net.Net").allows("os.system")
    (True, False)
    """

    everything: bool = False
    paths: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Trust | bool | str | Iterable[str]) -> Trust:
        """From what a user writes: True or ``"all"``, class paths with commas, or an iterable of class paths."""
        if isinstance(given, Trust):
            return given
        if isinstance(given, bool):
            return cls(everything=given)
        words = given.split(",") if isinstance(given, str) else list(given)
        paths = tuple(word.strip() for word in words if word.strip())
        return cls("all" in paths, tuple(path for path in paths if path != "all"))

    def allows(self, path: str) -> bool:
        """Whether a class path may be imported."""
        return self.everything or self.names(path)

    def names(self, path: str) -> bool:
        """Whether the user has named a class path, or a module that it is in."""
        return any(path == known or path.startswith(f"{known}.") for known in self.paths)

    def naming(self, *paths: str) -> Self:
        """The same trust, and those of these names that are class paths, because the user has written them."""
        return type(self)(self.everything, (*self.paths, *(path for path in paths if "." in path)))


NO_TRUST = Trust()


@dataclass(frozen=True)
class Plugin:
    """One name of the registry.

    Args:
        group: One of :data:`GROUPS`.
        name: The name in that group.
        path: ``module:attribute`` of its code.
        package: The installed package that registers it.
        error: Why it cannot be used; empty if it can.
    """

    group: str
    name: str
    path: str
    package: str
    error: str = ""


@cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=f"sfumato.{group}"))


def names(group: str) -> list[str]:
    """All names of a group, the built-in ones first."""
    return list(dict.fromkeys([*BUILT_IN[group], *sorted(entry.name for entry in _entry_points(group))]))


def load(group: str, name: str, trust: Trust = NO_TRUST) -> object:
    """The object that a name of a group, or a class path, stands for.

    Args:
        group: One of :data:`GROUPS`.
        name: A built-in name, the name of an entry point, or a class path with a dot in it.
        trust: Which class paths outside this package may be imported. Default: none.

    Raises:
        PluginError: If there is no such name, two plug-ins have it, or its code fails to import.
        UntrustedCodeError: If it is a class path outside this package that is not trusted.
    """
    found = [entry for entry in _entry_points(group) if entry.name == name]
    _one_owner(group, name, found)
    if name in BUILT_IN[group]:
        return _attribute(*BUILT_IN[group][name].split(":"))
    if found:
        return _loaded(found[0], group)
    if "." in name:
        return _class_path(name, trust)
    known = ", ".join(names(group)) or "none"
    raise PluginError(
        f"there is no {name!r}{similar(name, names(group))} among the {group}: expected one of {known}, or a class "
        "path such as my_package.Name"
    )


def plugins() -> list[Plugin]:
    """Every name of every group. Plug-ins are imported, so that a broken one is found."""
    found: list[Plugin] = []
    for group in GROUPS:
        found += [Plugin(group, name, path, "sfumato") for name, path in BUILT_IN[group].items()]
        for entry in _entry_points(group):
            package = entry.dist.name if entry.dist is not None else "unknown"
            try:
                load(group, entry.name)
                problem = ""
            except PluginError as error:
                problem = str(error)
            found.append(Plugin(group, entry.name, entry.value, package, problem))
    return found


def _one_owner(group: str, name: str, found: list[EntryPoint]) -> None:
    owners = ["sfumato"] if name in BUILT_IN[group] else []
    owners += [entry.dist.name if entry.dist is not None else entry.value for entry in found]
    if len(owners) > 1:
        raise PluginError(
            f"{len(owners)} packages register {name!r} among the {group}: {', '.join(owners)}. Uninstall one of "
            "them, or name the class path"
        )


def _loaded(entry: EntryPoint, group: str) -> object:
    try:
        return entry.load()
    except Exception as error:  # a plug-in may fail in any way while it is imported
        package = entry.dist.name if entry.dist is not None else "unknown"
        raise PluginError(
            f"the plug-in {entry.name!r} ({group}, {entry.value}, package {package}) fails to import: "
            f"{type(error).__name__}: {one_line(error)}"
        ) from error


def _class_path(path: str, trust: Trust) -> object:
    module, _, name = path.rpartition(".")
    inside = module == "sfumato" or module.startswith("sfumato.")
    if not inside and not trust.allows(path):
        raise UntrustedCodeError(
            f"{path} is code outside sfumato: name it on this command line, or pass --trust {path} if you know who "
            "wrote it (in Python: trust=...)"
        )
    if trust.names(path):
        _find_in_current_folder(module.partition(".")[0])
    found = _attribute(module, name)
    owner = getattr(found, "__module__", "") or ""
    if inside and not (owner == "sfumato" or owner.startswith("sfumato.")) and not trust.allows(path):
        raise UntrustedCodeError(f"{path} is not code of sfumato but of {owner or 'an unknown module'}: not used")
    if inside and callable(found) and not isinstance(found, type):  # called with the arguments of a plan, it could
        raise PluginError(f"{path} is a function: expected a class, or a name of this group")  # write and delete
    return found


def _find_in_current_folder(module: str) -> None:
    """Let a module that the user has named be imported from the current folder, if it is nowhere else."""
    here = Path.cwd()
    if str(here) in sys.path or not ((here / f"{module}.py").is_file() or (here / module).is_dir()):
        return
    if module not in sys.modules and find_spec(module) is None:
        sys.path.append(str(here))


def _attribute(module: str, name: str) -> object:
    try:
        return getattr(import_module(module), name)
    except Exception as error:  # the imported code may fail in any way
        raise PluginError(
            f"{module}.{name} cannot be imported ({type(error).__name__}: {one_line(error)}): expected a class path "
            "such as my_package.networks.Net, importable from here"
        ) from error

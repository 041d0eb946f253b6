"""From a prediction to the pixels of other pictures: for depth by a camera and its motion, for disparity and flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sfumato import registry, targets
from sfumato.contracts import Inputs
from sfumato.errors import ConfigError, DataError
from sfumato.geometry import (
    camera_from_camera,
    check_intrinsics,
    exp,
    hidden,
    pixel_grid,
    project,
    sample_at,
    transform,
    unproject,
)
from sfumato.objectives.base import NothingToLearnError
from sfumato.objectives.photometric import census_error, photometric_error

Batch = Mapping[str, Tensor]
Mean = Callable[[Inputs], Tensor]
LEAST_PARALLAX = 0.1  # px


@dataclass(frozen=True)
class Seen:
    """Where another picture, a source, shows the points of the image.

    Args:
        source: The source (B, 3, H, W).
        pixels: For each pixel of the image its place in the source (B, 2, H, W), px.
        weight: How far the source is trusted to show the point (B, H, W), in [0, 1]; 0 where it does not.
        disagreement: How much the predictions for both pictures differ (B, H, W), relative to their size, in [0, 1].
            None if the source has no prediction.
    """

    source: Tensor
    pixels: Tensor
    weight: Tensor
    disagreement: Tensor | None = None


class Views(nn.Module):
    """How predictions of one kind say where other pictures show a point.

    Args:
        sources: The entries of a sample that are looked at.
        inputs: The entries that the network takes.
        both: Whether sources have predictions of their own.
    """

    default: ClassVar[tuple[str, ...]]  # the sources that are looked at unless others are named
    smoothness: ClassVar[float]  # usual weight of the roughness
    consistency: ClassVar[float]  # usual weight of the disagreement
    auto_mask: bool = False  # whether points that do not move in the picture are usually left out
    moves: ClassVar[bool]  # whether images may be zoomed and mirrored
    error = staticmethod(photometric_error)

    def __init__(self, sources: tuple[str, ...], inputs: tuple[str, ...], both: bool) -> None:
        super().__init__()
        self.sources, self.inputs, self.both = sources or self.default, inputs, both
        self.further = self.sources
        self.beyond: tuple[int, int] = (0, 0)  # how far a crop may be from the principal point, px

    def seen(self, mean: Tensor, batch: Batch, predict: Mean) -> list[Seen]:
        """Each source as the predicted means (B, D, H, W) place it. ``predict`` gives the means for other inputs."""
        raise NotImplementedError

    def even(self, mean: Tensor) -> Tensor:
        """The predicted means as a map that is even on a plane, divided by its mean size."""
        raise NotImplementedError

    def spread(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The predicted uncertainty (B, H, W): the standard deviation in pixels."""
        del mean
        return variance.sum(1).sqrt()

    def of(self, batch: Batch, name: str) -> Tensor:
        """An entry of a batch.

        Raises:
            DataError: If there is none.
        """
        if name not in batch:
            raise DataError(
                f"the samples have no {name!r}, which the objective reprojection reads: they have "
                f"{', '.join(sorted(batch))}. Choose other sources with --objective-args, or data with this entry"
            )
        return batch[name]


class DepthViews(Views):
    """Depth: a point is where a camera with a known or a learned motion sees it.

    Args:
        poses: ``known`` to read the entries ``world_from_camera`` and ``world_from_SOURCE``; ``learned`` for a small
            network that learns the motion between two pictures. Default ``known``.
    """

    default: ClassVar[tuple[str, ...]] = ("right",)
    smoothness: ClassVar[float] = 1e-3
    consistency: ClassVar[float] = 0.0
    moves: ClassVar[bool] = False  # a zoom or a mirror image is not what the cameras with these poses see

    def __init__(self, sources: tuple[str, ...], inputs: tuple[str, ...], both: bool, poses: str = "known") -> None:
        super().__init__(sources, inputs, both)
        if poses not in ("known", "learned"):
            raise ConfigError(f"poses is {poses!r}, expected known or learned")
        if both and inputs != ("image",):
            raise ConfigError(f"consistency of depth is for networks that take one image, this one takes {inputs}")
        self.pose = registry.load("models", "motion-net")(6) if poses == "learned" else None  # pyright: ignore[reportCallIssue, reportOptionalCall] # a class of networks
        known = ("world_from_camera", *(f"world_from_{name}" for name in self.sources)) if poses == "known" else ()
        self.further = (*self.sources, "intrinsics", *known)
        self.auto_mask = self.sources != ("right",)  # all things stand still between two views at the same time

    def seen(self, mean: Tensor, batch: Batch, predict: Mean) -> list[Seen]:
        """Each source, its points projected by the intrinsics, which are those of all pictures of a sample."""
        intrinsics = self.of(batch, "intrinsics")
        check_intrinsics(intrinsics, (mean.shape[-2], mean.shape[-1]), self.beyond)
        points = unproject(mean, intrinsics)
        motions = {name: self._motion(batch, name).to(mean) for name in self.sources}
        if self.pose is None:
            _check_parallax(mean, intrinsics, motions)
        found = []
        for name, motion in motions.items():
            source = self.of(batch, name)
            pixels, depth = project(transform(points, motion), intrinsics)
            seen = _inside(pixels) & (depth[:, 0] > 0) & ~hidden(pixels.detach(), depth.detach())
            if not self.both:
                found.append(Seen(source, pixels, seen.float()))
                continue
            other, _ = sample_at(predict((source,)), pixels)
            disagreement = ((depth - other).abs() / (depth.abs() + other))[:, 0]
            found.append(Seen(source, pixels, seen * (1 - disagreement.detach()), disagreement))
        return found

    def _motion(self, batch: Batch, name: str) -> Tensor:
        if self.pose is None:
            return camera_from_camera(self.of(batch, "world_from_camera"), self.of(batch, f"world_from_{name}"))
        image, source = self.of(batch, "image"), self.of(batch, name)
        return exp(self.pose(image, source).float())

    def even(self, mean: Tensor) -> Tensor:
        """Inverse depth, which is even on a plane, divided by its mean."""
        return _by_mean(1 / mean)

    def spread(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The standard deviation as a share of the depth."""
        return (variance.sqrt() / mean)[:, 0]


class DisparityViews(Views):
    """Disparity: ``x_right = x − disparity``. The network takes the left and the right image."""

    default: ClassVar[tuple[str, ...]] = ("right",)
    smoothness: ClassVar[float] = 1e-2
    consistency: ClassVar[float] = 0.1
    moves: ClassVar[bool] = True

    def __init__(self, sources: tuple[str, ...], inputs: tuple[str, ...], both: bool) -> None:
        super().__init__(sources, inputs, both)
        _check_pair(self, "disparity")

    def seen(self, mean: Tensor, batch: Batch, predict: Mean) -> list[Seen]:
        """The right image. Its own disparity is found in the mirror image of the pair, which exchanges the views."""
        image, source = (self.of(batch, name) for name in self.inputs)
        pixels = pixel_grid((mean.shape[-2], mean.shape[-1]), mean) - torch.cat([mean, torch.zeros_like(mean)], 1)
        inside = _inside(pixels)
        if not self.both:
            return [Seen(source, pixels, inside.float())]
        other = sample_at(predict((source.flip(-1), image.flip(-1))).flip(-1), pixels)[0]
        return [_checked(source, pixels, inside, mean, other)]

    def even(self, mean: Tensor) -> Tensor:
        """The disparity divided by its mean."""
        return _by_mean(mean)


class FlowViews(Views):
    """Optical flow: ``(x, y) + flow`` is the place of a point in the next picture. The network takes both pictures."""

    default: ClassVar[tuple[str, ...]] = ("next",)
    smoothness: ClassVar[float] = 1e-2
    consistency: ClassVar[float] = 0.05
    moves: ClassVar[bool] = True
    error = staticmethod(census_error)

    def __init__(self, sources: tuple[str, ...], inputs: tuple[str, ...], both: bool) -> None:
        super().__init__(sources, inputs, both)
        _check_pair(self, "flow")

    def seen(self, mean: Tensor, batch: Batch, predict: Mean) -> list[Seen]:
        """The next picture. The flow back is found by giving the network the two pictures in the other order."""
        image, source = (self.of(batch, name) for name in self.inputs)
        pixels = pixel_grid((mean.shape[-2], mean.shape[-1]), mean) + mean
        inside = _inside(pixels)
        if not self.both:
            return [Seen(source, pixels, inside.float())]
        back = sample_at(predict((source, image)), pixels)[0]
        return [_checked(source, pixels, inside, mean, -back)]

    def even(self, mean: Tensor) -> Tensor:
        """The flow divided by its mean length and 1 px, so that a still camera divides by no zero."""
        return mean / (mean.square().sum(1, keepdim=True).add(1e-6).sqrt().mean((2, 3), keepdim=True) + 1)


def views_of(
    kind: object,
    sources: tuple[str, ...],
    inputs: tuple[str, ...],
    consistency: float | None,
    arguments: dict[str, str],
) -> tuple[Views, float]:
    """The views for targets of a kind, and the weight of the disagreement.

    Raises:
        ConfigError: If there are none for this kind, or the arguments do not fit it.
    """
    made = next((made for known, made in KINDS if isinstance(kind, known)), None)
    if made is None:
        raise ConfigError("the objective reprojection is for depth, disparity or flow")
    weight = made.consistency if consistency is None else consistency
    try:
        return made(sources, inputs, weight > 0, **arguments), weight
    except TypeError as error:
        raise ConfigError(f"{', '.join(arguments)} is for depth: leave it out of --objective-args") from error


KINDS: tuple[tuple[type[targets.EntryKind], type[Views]], ...] = (
    (targets.Depth, DepthViews), (targets.Disparity, DisparityViews), (targets.VectorMap, FlowViews),
)  # fmt: skip


def _check_pair(views: Views, what: str) -> None:
    if len(views.inputs) != 2 or views.sources != views.inputs[1:]:
        raise ConfigError(
            f"reprojection by {what} is for a network that takes an image and {views.default[0]}, and has no other "
            f"source: inputs are {', '.join(views.inputs)}, sources {', '.join(views.sources)}"
        )


def _check_parallax(depth: Tensor, intrinsics: Tensor, motions: Mapping[str, Tensor]) -> None:
    """Refuse a batch in which no camera moves to another place: what it sees does not depend on depth."""
    focal = intrinsics[:, 0, 0] / depth.detach().flatten(1).amin(1)
    most = torch.stack([focal * motion[:, :3, 3].norm(dim=1) for motion in motions.values()]).max()
    if float(most) < LEAST_PARALLAX:
        raise NothingToLearnError(
            f"the cameras of {', '.join(motions)} turn but do not move in this batch (parallax of at most "
            f"{float(most):.2g} px): depth cannot be learned from that. Use frames that are further apart"
        )


def _inside(pixels: Tensor) -> Tensor:
    """Whether pixels lie inside of pictures of the same size (B, H, W)."""
    last = pixels.new_tensor([pixels.shape[-1] - 1, pixels.shape[-2] - 1]).view(1, 2, 1, 1)
    return ((pixels >= 0) & (pixels <= last)).all(1)


def _by_mean(values: Tensor) -> Tensor:
    return values / values.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)


def _checked(source: Tensor, pixels: Tensor, inside: Tensor, there: Tensor, back: Tensor) -> Seen:
    """A source whose prediction must lead back: where it does not, the source does not show the point.

    A check that would leave out more than half of an image says that the prediction is not right yet. There it is not
    used.

    Source: Sundaram, Brox and Keutzer (2010) for the bound.
    """
    length = there.square().sum(1) + back.square().sum(1)
    away = (there - back).square().sum(1)
    kept = inside & (away < 0.01 * length + 0.5)
    useful = 2 * kept.sum((1, 2)) >= inside.sum((1, 2))
    weight = kept.where(useful[:, None, None], inside)
    disagreement = (away + 1e-6).sqrt() / (there.norm(dim=1) + back.norm(dim=1) + 1)
    return Seen(source, pixels, weight.float(), disagreement)

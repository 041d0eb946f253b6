"""Predictions of a video: those of the last frames are warped by optical flow and merged with the present one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.geometry import FlowFunction, dis_flow, follow, sample_at
from sfumato.predictions.joint import AnyPrediction, JointPrediction, TaskPrediction
from sfumato.predictions.mixture import mixed

P = TypeVar("P", bound=AnyPrediction)


@dataclass(frozen=True)
class _Past(Generic[P]):
    """What is known after a frame: the frame, its merged prediction, and the weight of its pixels (B, 1, H, W)."""

    image: Tensor
    prediction: P
    weight: Tensor


class TemporalAggregation(Generic[P]):
    """The aggregation of the draws of several frames of a video, over any method.

    The moments of the last frame are warped to the present one by optical flow and merged with those of its own draws.
    One pass for each frame thus gives an epistemic part: the disagreement of the passes that saw the same point. The
    present frame has the weight 1, the past ``memory · trust · n``, where n is the weight of the pixel in the last
    frame and ``trust`` says how far the flow can be trusted, see :func:`sfumato.geometry.follow`. After many frames
    that can be followed the present one has the share ``1 − memory``. Where flow fails nothing is merged.

    Call it with one frame after another. It keeps one frame and one prediction.

    Args:
        flow: The optical flow between two frames. Default: OpenCV's DIS (``pip install 'sfumato[geometry]'``).
        memory: How much of the weight of the past is kept from frame to frame, in [0, 1]. 0 is no aggregation, 1 the
            mean over all frames. Default 0.8.
        cut: The least mean trust of a frame, in [0, 1]. Below it the video was cut, and the aggregation starts again.
            It also does where the size changes. Default 0.1.

    Attributes:
        frames: Number of frames since the start or the last cut.

    Raises:
        ConfigError: If ``memory`` or ``cut`` is not in [0, 1].

    Source: Huang et al. (2018), "Efficient uncertainty estimation for semantic segmentation in videos", for warped
    means of probabilities. Here all moments are warped, so that the parts of the uncertainty add up.
    Pitfall: Draws of a deterministic network differ between frames only by what the frames show. What changes its
    predictions for the same point is counted as epistemic then. A value that changes with the motion of the camera, as
    depth does, is merged as if it did not.

    >>> from sfumato.predictions import ValuePrediction
    >>> still = lambda first, second: torch.zeros(1, 2, 1, 2)
    >>> aggregation = TemporalAggregation(flow=still, memory=1.0)
    >>> for mean in (1.0, 3.0):
    ...     draw = ValuePrediction(torch.full((1, 1, 1, 2), mean), torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    ...     found = aggregation(torch.zeros(1, 3, 1, 2), draw)
    >>> found.mean[0, 0, 0, 0].item(), found.epistemic[0, 0, 0].item(), found.total[0, 0, 0].item()
    (2.0, 1.0, 2.0)
    """

    def __init__(self, flow: FlowFunction = dis_flow, memory: float = 0.8, cut: float = 0.1) -> None:
        for name, value in (("memory", memory), ("cut", cut)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}, expected a number in [0, 1]")
        self.flow, self.memory, self.cut = flow, memory, cut
        self.frames, self._past = 0, cast("_Past[P] | None", None)

    def restart(self) -> None:
        """Forget the past frames, as before another video."""
        self.frames, self._past = 0, None

    @torch.no_grad()
    def __call__(self, image: Tensor, prediction: P) -> P:
        """The prediction of a frame, merged with those of the frames before it.

        Args:
            image: The frame (B, 3, H, W), float in [0, 1]. B videos may run side by side; a restart is that of all.
            prediction: Its prediction by any method, a map (B, …, H, W), before calibration.

        Raises:
            ConfigError: If the prediction is no map.
            DataError: If the flow is not usable, or predictions change in kind.
        """
        if not all(part.is_map for part in _parts(prediction)):
            raise ConfigError("frames are merged pixel by pixel, and this prediction is one value for each image")
        past, weight = self._past, torch.ones_like(image[:, :1])
        if past is not None and past.image.shape == image.shape:
            pixels, trust = follow(image, past.image, self.flow)
            if float(trust.mean()) >= self.cut:
                kept = self.memory * trust[:, None] * sample_at(past.weight, pixels)[0]
                warped = past.prediction.resampled(lambda maps: sample_at(maps, pixels)[0])
                prediction = mixed(prediction, cast(P, warped), (kept / (kept + 1))[:, 0])
                weight = weight + kept
            else:
                self.frames = 0
        else:
            self.frames = 0
        self.frames += 1
        self._past = _Past(image, prediction, weight)
        return prediction


def _parts(prediction: AnyPrediction) -> list[TaskPrediction]:
    return list(prediction.parts.values()) if isinstance(prediction, JointPrediction) else [prediction]

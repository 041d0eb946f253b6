"""Frames of a video whose poses are known from their neighbors in the training data."""

from __future__ import annotations

from sfumato.data.catalog import load_original
from sfumato.data.posed import REACH, SHARE, frames_between
from sfumato.data.views import Samples, names_of
from sfumato.errors import SfumatoError
from sfumato.runs import Run


def leaking_poses(run: Run, dataset: Samples) -> str:
    """A sentence if frames lie between training frames of the run, so that scores of poses are those of a leak.

    Empty if they do not, if the run is not of poses, or if its training data are not there.
    """
    if all(getattr(view.single_task.target, "movable", True) for view in run.per_task.values()):
        return ""
    config = run.config
    try:
        train = load_original(config.data, config.root, "train", None, run.plan.trust, *config.held_out)
    except SfumatoError:
        return ""
    between = frames_between(names_of(train), names_of(dataset))
    if len(between) <= SHARE * len(dataset):
        return ""
    return (
        f"leakage: {len(between)} of {len(dataset)} images, such as {between[0]}, are training images or lie between "
        f"training images of the same video, at most {REACH} frames away. These scores are those of memory: evaluate "
        "on another block or another video"
    )

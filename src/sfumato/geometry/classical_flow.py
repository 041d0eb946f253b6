"""Optical flow without a network, and how sure it is: what a network has to be better than."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sfumato.errors import ConfigError, DataError, MissingDependencyError
from sfumato.geometry.project import pixel_grid
from sfumato.geometry.warp import sample_at

PRESETS = ("ultrafast", "fast", "medium")
SMALLEST = 16  # side of the smallest images that OpenCV's method takes, pixels
GRAY = (0.299, 0.587, 0.114)


def dis_flow(image: Tensor, later: Tensor, preset: str = "medium") -> Tensor:
    """Optical flow by dense inverse search, from OpenCV. Needs ``pip install 'sfumato[geometry]'``.

    Args:
        image: Images (B, 3, H, W), float in [0, 1], at least 16 × 16 pixels.
        later: The later pictures, of the same shape.
        preset: ``ultrafast``, ``fast`` or ``medium``. Default ``medium``.

    Returns:
        Vectors (B, 2, H, W) from ``image`` to ``later``, px, float32 on the device of the images.

    Raises:
        MissingDependencyError: If OpenCV is not installed.
        ConfigError: If the preset is unknown.
        DataError: If the images differ in shape, are too small, or not finite.

    Source: Kroeger et al. (2016), "Fast optical flow using dense inverse search".
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset is {preset!r}, expected one of {', '.join(PRESETS)}")
    if image.shape != later.shape or image.ndim != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < SMALLEST:
        raise DataError(
            f"the two images have shapes {tuple(image.shape)} and {tuple(later.shape)}: expected twice (B, 3, H, W) of "
            f"the same size, at least {SMALLEST} × {SMALLEST} pixels"
        )
    if not bool((image.isfinite() & later.isfinite()).all()):
        raise DataError("an image holds NaN or infinity: expected colors in [0, 1]")
    try:
        import cv2
    except ImportError as error:
        raise MissingDependencyError("flow without a network needs OpenCV: pip install 'sfumato[geometry]'") from error
    method = cv2.DISOpticalFlow.create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))
    pairs = zip(_gray(image), _gray(later), strict=True)
    found = np.stack([method.calc(first, second, None) for first, second in pairs])  # pyright: ignore[reportArgumentType, reportCallIssue] None means a new array
    return torch.from_numpy(found).movedim(-1, 1).contiguous().to(image.device)


def forward_backward_error(flow: Tensor, back: Tensor) -> Tensor:
    """How far a point ends from where it began, after the flow to the later picture and the flow back (B, H, W), px.

    It is large where one of the two is wrong, and where the later picture does not show the point.

    Args:
        flow: Vectors (B, 2, H, W) from the first picture to the later one, px.
        back: Vectors (B, 2, H, W) from the later picture to the first one, px. Beyond the border they are those of the
            nearest pixel.

    >>> right = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    >>> forward_backward_error(right, -right).max().item()
    0.0
    """
    places = flow + pixel_grid((flow.shape[-2], flow.shape[-1]), flow)
    return (flow + sample_at(back, places)[0]).norm(dim=1)


def _gray(images: Tensor) -> np.ndarray:
    """Brightness (B, H, W) of images (B, 3, H, W) in [0, 1], uint8."""
    weights = torch.tensor(GRAY, device=images.device).view(1, 3, 1, 1)
    gray = (images.float() * weights).sum(1) * 255
    return gray.round().clamp(0, 255).byte().cpu().numpy()

"""Where the last frame of a video shows each pixel of the next one, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from sfumato.errors import DataError
from sfumato.geometry.classical_flow import dis_flow
from sfumato.geometry.project import pixel_grid
from sfumato.geometry.warp import sample_at

FlowFunction = Callable[[Tensor, Tensor], Tensor]
"""Two pictures (B, 3, H, W) in [0, 1] to the vectors (B, 2, H, W) from the first to the second, px."""

COLOR = 0.1  # a difference of colors at which the trust falls to 1/e: several times the noise of a camera
SLACK, SLOPE = 0.5, 0.01  # px² and 1; how far there and back may miss the start, by Sundaram et al. (2010)


def follow(image: Tensor, earlier: Tensor, flow: FlowFunction = dis_flow) -> tuple[Tensor, Tensor]:
    """Follow the pixels of a frame back to an earlier one.

    The trust is ``inside · exp(−e² / (0.01 (|there|² + |back|²) + 0.5)) · exp(−(c / 0.1)²)``: ``e`` is the distance in
    pixels between a pixel and the end of the way there and back, and ``c`` the mean difference of the colors around
    both ends (3 × 3 pixels). So it falls where one picture hides what the other shows, where flow is wrong, and where
    brightness changes.

    Args:
        image: Frames (B, 3, H, W), float in [0, 1].
        earlier: The earlier frames, of the same shape.
        flow: The optical flow between two pictures. It is called for both directions. Default: OpenCV's DIS.

    Returns:
        Where the earlier frame shows each pixel (B, 2, H, W), as (x, y), px; and the trust (B, H, W) in [0, 1], which
        is 0 outside of the earlier frame.

    Raises:
        DataError: If the frames differ in shape, or the flow has another shape or is not finite.

    Source: Sundaram, Brox and Keutzer (2010) for the bound of the check there and back.
    Pitfall: On surfaces of one color a wrong flow is trusted.

    >>> still = torch.rand(1, 3, 4, 6)
    >>> pixels, trust = follow(still, still, lambda first, second: torch.zeros(1, 2, 4, 6))
    >>> pixels[0, :, 2, 5].tolist(), trust.min().item()
    ([5.0, 2.0], 1.0)
    """
    if image.shape != earlier.shape or image.ndim != 4:
        raise DataError(
            f"two frames have shapes {tuple(image.shape)} and {tuple(earlier.shape)}: expected twice (B, 3, H, W)"
        )
    there, back = (_checked(flow(*pair), image) for pair in ((image, earlier), (earlier, image)))
    pixels = there + pixel_grid((image.shape[-2], image.shape[-1]), there)
    back, inside = sample_at(back, pixels)
    missed = (there + back).square().sum(1)
    bound = SLOPE * (there.square().sum(1) + back.square().sum(1)) + SLACK
    change = (sample_at(earlier, pixels)[0] - image).abs().mean(1, keepdim=True)
    around = avg_pool2d(pad(change, (1, 1, 1, 1), mode="replicate"), 3, 1)[:, 0]
    return pixels, inside * torch.exp(-missed / bound - (around / COLOR).square())


def _checked(vectors: Tensor, image: Tensor) -> Tensor:
    expected = (len(image), 2, *image.shape[-2:])
    if tuple(vectors.shape) != expected or not bool(vectors.isfinite().all()):
        raise DataError(f"the flow has the shape {tuple(vectors.shape)}, or NaN: expected finite vectors {expected}")
    return vectors.to(image)

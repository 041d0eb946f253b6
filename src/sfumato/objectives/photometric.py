"""How much two images differ at each pixel, and how rough a map is where the image is not."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad, unfold

C1, C2 = 0.01**2, 0.03**2
SSIM_SHARE = 0.85
CENSUS_WINDOW = 7


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of images (B, C, H, W) in [0, 1] at each pixel and channel, in [−1, 1].

    The window is the mean of 3 × 3 pixels, and images are continued by their mirror image.

    Source: Wang et al. (2004); Godard et al. (2019), "Digging into self-supervised monocular depth estimation", for the
    window.
    Pitfall: Most libraries use a Gaussian window of 11 × 11 pixels and give other values.
    """
    means = [_window(value) for value in (one, other, one * one, other * other, one * other)]
    a, b, aa, bb, ab = means
    numerator = (2 * a * b + C1) * (2 * (ab - a * b) + C2)
    denominator = (a * a + b * b + C1) * ((aa - a * a) + (bb - b * b) + C2)
    return numerator / denominator


def _window(value: Tensor) -> Tensor:
    return avg_pool2d(pad(value, (1, 1, 1, 1), mode="reflect"), 3, 1)


def photometric_error(one: Tensor, other: Tensor) -> Tensor:
    """``0.85 · clamp((1 − SSIM) / 2, 0, 1) + 0.15 · |difference|``, averaged over channels.

    Args:
        one: Images (B, C, H, W) in [0, 1], of at least 2 × 2 pixels.
        other: Images of the same shape.

    Returns:
        Errors (B, H, W) in [0, 1].

    Source: Godard et al. (2019).

    >>> photometric_error(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))[0, 0, 0]  # SSIM is almost 0
    tensor(0.5750)
    """
    structure = ((1 - ssim(one, other)) / 2).clamp(0, 1)
    return (SSIM_SHARE * structure + (1 - SSIM_SHARE) * (one - other).abs()).mean(1)


def census_error(one: Tensor, other: Tensor) -> Tensor:
    """How much the signs of differences to the neighbors differ: the census transform with soft signs.

    A change of brightness of the whole image changes it little. A neighbor is one of 7 × 7 pixels.

    Args:
        one: Images (B, C, H, W) in [0, 1], of at least 4 × 4 pixels.
        other: Images of the same shape.

    Returns:
        Errors (B, H, W) in [0, 1).

    Source: Meister, Hur and Roth (2018), "UnFlow", §3.2; Zabih and Woodfill (1994) for the transform.
    """
    return census_difference(census_signs(one), census_signs(other))


def census_difference(one: Tensor, other: Tensor) -> Tensor:
    """The difference (B, H, W) in [0, 1) of the soft signs (B, 48, H, W) of two images."""
    square = (one - other).square()
    return (square / (0.1 + square)).mean(1)


def census_signs(image: Tensor) -> Tensor:
    """Soft signs (B, 48, H, W) of the differences between the neighbors of a pixel and the pixel, in gray."""
    gray, reach = image.mean(1, keepdim=True), CENSUS_WINDOW // 2
    around = unfold(pad(gray, (reach,) * 4, mode="reflect"), CENSUS_WINDOW)
    around = around.reshape(len(gray), -1, *gray.shape[-2:])
    away = 255 * (torch.cat([around[:, : around.shape[1] // 2], around[:, around.shape[1] // 2 + 1 :]], 1) - gray)
    return away / (0.81 + away.square()).sqrt()


def roughness(values: Tensor, image: Tensor) -> Tensor:
    """``mean |∂x v| e^{−|∂x I|} + mean |∂y v| e^{−|∂y I|}``: how rough a map is, less so at edges of the image.

    Args:
        values: Maps (B, D, H, W).
        image: Images (B, C, H, W) in [0, 1].

    Returns:
        One number.

    Source: Godard et al. (2017), "Unsupervised monocular depth estimation with left-right consistency".
    Pitfall: It falls with the size of the values. Divide them by their mean before, else a network makes them small.
    """
    total = values.new_zeros(())
    for axis in (-1, -2):
        edges = image.diff(dim=axis).abs().mean(1, keepdim=True)
        total = total + (values.diff(dim=axis).abs() * (-edges).exp()).mean()
    return total

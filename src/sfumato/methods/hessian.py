"""Second derivatives of a loss with respect to the weights of a last layer that is linear."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sfumato.contracts import Loss
from sfumato.errors import ConfigError, ResourceError, out_of_memory

STRUCTURES = ("full", "diagonal")


def bytes_needed(head: nn.Conv2d, structure: str, pixels: int = 0) -> int:
    """The memory in bytes that the fit of a posterior over the weights of this layer needs.

    ``4 · 8 · P²`` with P = C (F + 1): the sum, the part of one batch, the eigenvectors and the factor, in float64. For
    the diagonal it is ``4 · 8 · P``. For the N pixels of an image there are ``8 · N · (2 (F + 1) + 8 C)`` more: its
    features, and the second derivatives of one channel at a time with what their computation keeps.
    """
    features, channels = head.in_channels + 1, head.out_channels
    weights = channels * features
    return 4 * 8 * (weights**2 if structure == "full" else weights) + 8 * pixels * (2 * features + 8 * channels)


def require_memory(head: nn.Conv2d, structure: str, limit: int, pixels: int = 0) -> None:
    """Check the memory that a fit needs, see :func:`bytes_needed`.

    Raises:
        ResourceError: If it is more than ``limit`` bytes.
    """
    size = bytes_needed(head, structure, pixels)
    if size <= limit:
        return
    advice = "use structure='diagonal'" if structure == "full" else "use smaller crops"
    raise ResourceError(
        f"the {structure} posterior of the last layer needs about {size / 2**30:.1f} GiB: it has "
        f"{head.out_channels * (head.in_channels + 1)} weights ({head.out_channels} channels of {head.in_channels} "
        f"features each) and reads {pixels} pixels at a time. The limit is {limit / 2**30:.1f} GiB: {advice}, or raise "
        "memory_limit"
    )


def hessian(features: Tensor, output: Tensor, target: Tensor, valid: Tensor, nll: Loss, structure: str) -> Tensor:
    """``Σ_n (φ φᵀ) ⊗ Λ`` over the pixels of a batch, in float64: (P, P) with channels fastest, or its diagonal (P,).

    Args:
        features: φ (B, F, H, W) or (B, F), what the layer reads. A 1 is appended for the bias.
        output: (B, C, H, W) or (B, C).
        target: As ``nll`` takes it; for several tasks a mapping by task.
        valid: (B, H, W) bool.
        nll: The loss of each pixel (B, H, W).
        structure: One of :data:`STRUCTURES`.

    Raises:
        ConfigError: If the loss cannot be differentiated twice.
    """
    full = structure == "full"
    count, channels = features.shape[1] + 1, output.shape[1]
    total = features.new_zeros(*((count, channels) * (2 if full else 1)), dtype=torch.float64)
    for image in range(len(features)):  # one at a time, because the second derivatives are C maps for each channel
        one = slice(image, image + 1)
        phi = (
            torch.cat([features[image], torch.ones_like(features[image, :1])]).reshape(count, -1).double()
        )  # (F + 1, N)
        rows = _second_derivatives(nll, output[one], *tree_map(lambda maps: maps[one], (target, valid)))  # noqa: B023
        for c, row in enumerate(rows):  # one channel at a time, because all are C² maps
            if not full:
                total[:, c] += phi.square() @ row[c]
                continue
            for d in range(c, channels):
                total[:, c, :, d] += (phi * row[d]) @ phi.T
    if not full:
        return total.flatten()
    for c in range(channels):
        for d in range(c):
            total[:, c, :, d] = total[:, d, :, c]
    return total.view(count * channels, -1)


def _second_derivatives(nll: Loss, output: Tensor, target: Tensor, valid: Tensor) -> Iterator[Tensor]:
    """For each channel the derivatives (C, N) of its slope with respect to the outputs of the same pixel."""
    with torch.enable_grad():
        output = output.detach().requires_grad_()
        (slope,) = torch.autograd.grad(nll(output, target, valid).sum(), output, create_graph=True)
    for c in range(output.shape[1]):
        try:
            with torch.enable_grad():
                (row,) = torch.autograd.grad(slope[:, c].sum(), output, retain_graph=True)
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise ConfigError(
                f"the loss cannot be differentiated twice ({error}): use Categorical or Gaussian"
            ) from error
        yield row[0].reshape(row.shape[1], -1).double()

"""Test-time augmentation: the network looks at mirror images too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sfumato.methods.deterministic import evaluating, tensor

FLIPS = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}


@dataclass(frozen=True)
class TestTimeAugmentation:
    """One draw for each way of mirroring the images; each output is mirrored back, exactly.

    Args:
        network: any module that returns one tensor (B, C, H, W) of its inputs' size.
        flips: of ``none``, ``horizontal``, ``vertical`` and ``both``.
        along_x: output channels that hold the x-component of a vector (of flow, of a center): mirroring from left to
            right turns their sign.
        along_y: likewise for y and upside down.

    Raises:
        ValueError: if there is no mirror, or an unknown one.

    Source: Wang et al. (2019), "Aleatoric uncertainty estimation with test-time augmentation".
    Pitfall: how much the outputs differ says how far the network is from being symmetric. It is neither the world's
    part of the doubt nor the network's, though it is counted as epistemic; do not mirror what has a side (a road that
    is driven on the right, text).
    """

    __test__ = False  # for pytest, which takes the name for a test

    network: nn.Module
    flips: Sequence[str] = ("none", "horizontal")
    along_x: Sequence[int] = ()
    along_y: Sequence[int] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.flips) - set(FLIPS))
        if unknown or not self.flips:
            raise ValueError(f"flips are {list(self.flips)}, expected some of {list(FLIPS)}")

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """An output (1, B, C, H, W) for each mirror; ``generator`` is not used. Inputs of 4 dimensions are mirrored."""
        for name in self.flips:
            dims = FLIPS[name]

            def mirrored(leaf: Any, dims: tuple[int, ...] = dims) -> Any:
                return leaf.flip(dims) if isinstance(leaf, Tensor) and leaf.ndim == 4 and dims else leaf

            with evaluating(self.network):
                output = mirrored(tensor(self.network(*tree_map(mirrored, inputs))))
            sign = torch.ones(output.shape[1], dtype=output.dtype, device=output.device)
            for channels, dim in ((self.along_x, -1), (self.along_y, -2)):
                if dim in dims:
                    sign[list(channels)] *= -1
            yield (output * sign[:, None, None])[None]

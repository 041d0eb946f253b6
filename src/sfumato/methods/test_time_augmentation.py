"""Test-time augmentation: the network also sees mirrored images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from sfumato.contracts import Batch, Likelihood
from sfumato.errors import ConfigError
from sfumato.methods.base import BaseMethod, evaluating, tensor
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, only, peeked

FLIPS = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}


class TestTimeAugmentation(BaseMethod):
    """One draw for each way of mirroring the images. Each output is mirrored back.

    Args:
        network: Any module that returns one tensor (B, C, H, W) of the size of its inputs.
        flips: Some of ``none``, ``horizontal``, ``vertical`` and ``both``. Default: ``none`` and ``horizontal``.
        along_x: The output channels that hold the x-component of a vector (flow, the direction to a center). A
            horizontal flip changes their sign. Default: none.
        along_y: The output channels that hold the y-component of a vector. A vertical flip changes their sign. Default:
            none.

    Raises:
        ConfigError: If there is no flip, or an unknown one.

    Source: Wang et al. (2019), "Aleatoric uncertainty estimation with test-time augmentation".
    Pitfall: The spread says how much the network's output changes under mirroring. It is counted as epistemic, but it
    is neither the noise of the data nor the uncertainty of the weights. Do not mirror images in which left and right
    differ (traffic that drives on the right, text, stereo pairs).
    """

    __test__ = False  # so that pytest does not take the class for a test

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        flips: Sequence[str] = ("none", "horizontal"),
        along_x: Sequence[int] = (),
        along_y: Sequence[int] = (),
    ) -> None:
        super().__init__()
        unknown = sorted(set(flips) - set(FLIPS))
        if unknown or not flips:
            raise ConfigError(f"flips are {list(flips)}, expected some of {list(FLIPS)}")
        self.network, self.flips = network, tuple(flips)
        self.along_x, self.along_y = tuple(along_x), tuple(along_y)

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """An output (1, B, C, H, W) for each flip. The generator is not used. Inputs of 4 dimensions are mirrored."""
        for name in self.flips:
            dims = FLIPS[name]

            def mirrored(leaf: object, dims: tuple[int, ...] = dims) -> object:
                return leaf.flip(dims) if isinstance(leaf, Tensor) and leaf.ndim == 4 and dims else leaf

            with evaluating(self.network):
                output = tensor(mirrored(tensor(self.network(*tree_map(mirrored, inputs)))))
            sign = torch.ones(output.shape[1], dtype=output.dtype, device=output.device)
            for channels, dim in ((self.along_x, -1), (self.along_y, -2)):
                if dim in dims:
                    sign[list(channels)] *= -1
            yield (output * sign.view(-1, *(1,) * (output.ndim - 2)))[None]

    def extra_repr(self) -> str:
        """The type of the network and the flips."""
        return f"{super().extra_repr()}, flips={self.flips}"


def _fit(network: nn.Module, batches: Iterable[Batch], likelihood: Likelihood, samples: int) -> dict[str, Tensor]:
    """Check with the first batch that a mirrored image is still an image of the task. There is nothing to fit."""
    (inputs, target, _), _ = peeked(batches)
    if len(inputs) > 1:
        raise ConfigError(
            f"test-time-augmentation mirrors one image, and the network takes {len(inputs)} inputs whose geometry a "
            "flip may break: use sfumato.TestTimeAugmentation from Python"
        )
    if target.is_floating_point() and target.shape[1] > 1:
        raise ConfigError(
            f"test-time-augmentation mirrors images, which changes the sign of vector components, and the target has "
            f"{target.shape[1]} values: use sfumato.TestTimeAugmentation(along_x=..., along_y=...) from Python"
        )
    return {}


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> TestTimeAugmentation:
    return TestTimeAugmentation(only(networks))


TRAINING = MethodTraining(_build, fit=_fit, needs_training_data=True)

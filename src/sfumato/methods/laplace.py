"""Last-layer Laplace: a Gaussian over the weights of the last 1 × 1 convolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from sfumato.contracts import Batch, Loss
from sfumato.methods.deterministic import normal
from sfumato.methods.features import read_by

Enlarged = Callable[[Tensor], Tensor]
ENLARGEMENTS: tuple[dict[str, Any], ...] = (
    {"mode": "bilinear", "align_corners": False},
    {"mode": "bilinear", "align_corners": True},
    {"mode": "nearest"},
    {"mode": "bicubic", "align_corners": False},
)


@dataclass(frozen=True)
class LastLayerLaplace:
    """Trained weights up to the last layer; of that, all that the training data leave plausible.

    The posterior is ``N(w, (H + τ I)⁻¹)``, with H the Hessian of the loss, summed over every valid pixel, with respect
    to the weights and biases of the last layer. It is linear in them, so H needs the features and the loss's own
    Hessian at each pixel alone; its size, C (F + 1) squared, does not depend on the number of pixels. Drawing costs one
    pass of the network and T of the last layer. A network may enlarge what its last layer says (bilinear, bicubic,
    nearest): enlarging is linear too, and gives what the last layer would say of the enlarged features.

    Args:
        network: its last operation is ``head``, or the enlargement of what it returns.
        head: its 1 × 1 convolution from F features to C channels, with a bias.
        factor: (C (F + 1), C (F + 1)) whose product with standard normals is a draw of the weights' deviation.
        samples: T ≥ 1, the number of draws.

    Source: MacKay (1992); Daxberger et al. (2021), "Laplace redux".
    Pitfall: pixels of one image are not independent, so the posterior of summed pixels is too narrow; ``temperature``
    widens it. What the layers before do not see, no posterior of the last one can doubt.
    """

    network: nn.Module
    head: nn.Conv2d
    factor: Tensor
    samples: int = 20

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        head: nn.Conv2d,
        batches: Iterable[Batch],
        nll: Loss,
        *,
        prior_precision: float = 1.0,
        temperature: float = 1.0,
        samples: int = 20,
    ) -> Self:
        """Sum the Hessian over training data.

        Args:
            network: trained.
            head: its last layer.
            batches: inputs of the network (a tuple), targets and masks, as ``nll`` takes them.
            nll: of output, target and valid, the loss of each pixel (B, H, W), as of a likelihood; twice differentiable
                and such that a pixel's loss depends on that pixel's output alone.
            prior_precision: τ > 0; what weight decay amounts to.
            temperature: > 0, by which the covariance is multiplied.
            samples: how many draws the method makes.

        Raises:
            ValueError: if ``head`` is no 1 × 1 convolution with a bias, or more than an enlargement follows it, a
                number is not above 0, the loss cannot be differentiated twice, or there is no batch.
        """
        plain = head.kernel_size == head.stride == (1, 1) and head.padding == (0, 0)
        if not plain or head.groups != 1 or head.bias is None:
            raise ValueError(f"head is {head}, expected a 1 × 1 convolution with a bias, one group and stride 1")
        if min(prior_precision, temperature) <= 0:
            raise ValueError(f"prior_precision {prior_precision} and temperature {temperature}: expected above 0")
        total: Tensor | None = None
        for inputs, target, valid in batches:
            features, output, enlarged = _split(network, head, inputs)
            found = _hessian(enlarged(features), _curvature(nll, output, target, valid))
            total = found if total is None else total + found
        if total is None:
            raise ValueError("there is no batch: nothing is known of the last layer")
        values, vectors = torch.linalg.eigh(total)
        # A loss that is not convex may curve down in places; what the data do not hold, the prior does.
        factor = vectors * (temperature / (values.clamp_min(0) + prior_precision)).sqrt()
        return cls(network, head, factor.to(head.weight), samples)

    def draws(self, *inputs: Any, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, H, W): the features once, the last layer with other weights each time."""
        features, _, enlarged = _split(self.network, self.head, inputs)
        bias = self.head.get_parameter("bias").detach()
        for _ in range(self.samples):
            change = self.factor @ normal((len(self.factor),), self.factor, generator)
            change = change.view(-1, self.head.out_channels).T  # (C, F + 1)
            weight = self.head.weight.detach() + change[:, :-1, None, None]
            yield enlarged(conv2d(features, weight, bias + change[:, -1]))[None]


def _split(network: nn.Module, head: nn.Conv2d, inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor, Enlarged]:
    """What ``head`` reads (B, F, h, w), the network's output (B, C, H, W), and what makes h × w maps H × W ones."""
    features, returned, output = read_by(network, head, inputs)
    if returned is output:
        return features, output, lambda maps: maps
    if returned.shape[:2] == output.shape[:2] and returned.shape != output.shape:
        for how in ENLARGEMENTS:
            enlarged = partial(interpolate, size=output.shape[-2:], **how)
            if torch.allclose(enlarged(returned), output, rtol=1e-3, atol=1e-3 * float(output.abs().max())):
                return features, output, enlarged
    raise ValueError(
        f"head {head} is not what {type(network).__name__} does last: its output is changed after it, by more than an "
        "enlargement; move what follows before it, or name another layer"
    )


def _curvature(nll: Loss, output: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Second derivatives (B, C, C, H, W) of each pixel's loss with respect to its output."""
    with torch.enable_grad():
        output = output.detach().requires_grad_()
        loss = nll(output, target, valid).sum()
        (slope,) = torch.autograd.grad(loss, output, create_graph=True)
        try:
            rows = [
                torch.autograd.grad(slope[:, c].sum(), output, retain_graph=True)[0] for c in range(output.shape[1])
            ]
        except RuntimeError as error:
            raise ValueError(
                f"the loss cannot be differentiated twice ({error}): use Categorical or Gaussian"
            ) from error
    return torch.stack(rows, 1)


def _hessian(features: Tensor, curvature: Tensor) -> Tensor:
    """``Σ_n (φ φᵀ) ⊗ Λ`` (C (F + 1), C (F + 1)) in float64, channels fastest."""
    batch, count, channels = len(features), features.shape[1] + 1, curvature.shape[1]
    whole = torch.cat([features, torch.ones_like(features[:, :1])], 1).flatten(2).double()  # (B, F + 1, N)
    found = whole.new_zeros(count, channels, count, channels)
    for image in range(batch):
        phi, bend = whole[image], curvature[image].flatten(2).double()
        for c in range(channels):
            for d in range(c, channels):
                found[:, c, :, d] += (phi * bend[c, d]) @ phi.T
    for c in range(channels):
        for d in range(c):
            found[:, c, :, d] = found[:, d, :, c]
    return found.view(count * channels, -1)

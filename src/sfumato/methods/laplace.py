"""Last-layer Laplace: a Gaussian over the weights of the last 1 × 1 convolution."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from sfumato.contracts import Batch, Likelihood, Loss
from sfumato.errors import ConfigError, NotFiniteError
from sfumato.methods.base import BaseMethod, normal, require_samples
from sfumato.methods.features import layer_name, output_layer, split_at
from sfumato.methods.hessian import STRUCTURES, bytes_needed, hessian, require_memory
from sfumato.methods.training import NO_STATE, MethodTraining, Networks, State, coded_name, decoded_name, only, peeked

MEMORY_LIMIT = 8 * 2**30


class LastLayerLaplace(BaseMethod):
    """Trained weights up to the last layer, and a Gaussian over the weights of the last layer.

    The posterior is ``N(w, (H + τ I)⁻¹)``. H is the Hessian of the loss, summed over every valid pixel, with respect to
    the weights and biases of the last layer. That layer is linear, so H needs only its features and the second
    derivatives of the loss at each pixel. The size of H, C (F + 1) squared, does not depend on the number of pixels.
    Draws cost one pass of the network and T passes of the last layer. After the last layer the network may interpolate
    to another size (bilinear, bicubic, nearest), which is linear too.

    Args:
        network: A network whose last operation is ``head``, or an interpolation of what ``head`` returns.
        head: The 1 × 1 convolution from F features to C channels, with a bias, or its name.
        factor: (P, P) with P = C (F + 1), whose product with standard normal numbers is a draw of the deviation of the
            weights; or (P,), the standard deviations.
        samples: The number T ≥ 1 of draws. Default 20.

    Source: MacKay (1992); Daxberger et al. (2021), "Laplace redux".
    Pitfall: The pixels of one image are not independent, so the posterior from summed pixels is too narrow;
    ``temperature`` widens it. The last layer cannot be uncertain about what the layers before it do not see.
    """

    stochastic = True
    network: nn.Module
    factor: Tensor

    def __init__(self, network: nn.Module, head: str | nn.Module, factor: Tensor, samples: int = 20) -> None:
        super().__init__()
        require_samples(samples)
        self.network, self.samples = network, samples
        self.head = layer_name(network, head)
        self.register_buffer("factor", factor)

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        head: str | nn.Module,
        batches: Iterable[Batch],
        nll: Loss,
        *,
        prior_precision: float = 1.0,
        temperature: float = 1.0,
        samples: int = 20,
        structure: str = "full",
        memory_limit: int = MEMORY_LIMIT,
    ) -> Self:
        """Sum the Hessian over training data.

        Args:
            network: A trained network. It is left as it is.
            head: Its last layer, or the name of it.
            batches: Inputs of the network (a tuple), targets and masks, as ``nll`` takes them.
            nll: The loss (B, H, W) of output, target and mask, as of a likelihood. It is twice differentiable, and the
                loss of a pixel depends only on that pixel's output.
            prior_precision: τ > 0, which corresponds to weight decay. Default 1.
            temperature: A factor > 0 of the covariance. Default 1.
            samples: The number of draws of the method. Default 20.
            structure: ``full`` for all of H, ``diagonal`` for its diagonal, which needs P numbers instead of P² and
                ignores correlations. Default ``full``.
            memory_limit: The largest memory in bytes that the fit may need. Default 8 GiB.

        Raises:
            ConfigError: If ``head`` is not a 1 × 1 convolution with a bias, something other than an interpolation
                follows it, a number is not above 0, the loss cannot be differentiated twice, or there is no batch.
            ResourceError: If the fit would need more memory than ``memory_limit``.
        """
        name = layer_name(network, head)
        layer = _checked(network.get_submodule(name))
        if min(prior_precision, temperature) <= 0:
            raise ConfigError(f"prior_precision {prior_precision} and temperature {temperature}: expected above 0")
        if structure not in STRUCTURES:
            raise ConfigError(f"structure is {structure!r}, expected one of {', '.join(STRUCTURES)}")
        require_memory(layer, structure, memory_limit)
        total: Tensor | None = None
        for inputs, target, valid in batches:
            features, output, resize = split_at(network, name, inputs)
            require_memory(layer, structure, memory_limit, output.shape[2:].numel())
            found = hessian(resize(features), output, target, valid, nll, structure)
            total = found if total is None else total.add_(found)
        if total is None:
            raise ConfigError("there is no batch, so nothing is known of the last layer: give training batches")
        return cls(network, name, _factor(total, prior_precision, temperature).to(layer.weight).contiguous(), samples)

    def draws(self, *inputs: Tensor, generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """T outputs (1, B, C, H, W): the features are computed once, the last layer with other weights each time."""
        features, _, resize = split_at(self.network, self.head, inputs)
        weight = self.network.get_parameter(f"{self.head}.weight").detach()
        bias = self.network.get_parameter(f"{self.head}.bias").detach()
        for _ in range(self.samples):
            noise = normal(self.factor.shape[:1], self.factor, generator)
            change = self.factor @ noise if self.factor.ndim == 2 else self.factor * noise
            change = change.view(-1, len(bias)).T  # (C, F + 1)
            yield resize(conv2d(features, weight + change[:, :-1, None, None], bias + change[:, -1]))[None]


def _checked(head: nn.Module) -> nn.Conv2d:
    sizes = (getattr(head, name, None) for name in ("kernel_size", "stride", "padding", "groups"))
    plain = ((1, 1), (1, 1), (0, 0), 1)
    if not isinstance(head, nn.Conv2d) or tuple(sizes) != plain or head.bias is None:
        raise ConfigError(f"head is {head}, expected a 1 × 1 convolution with a bias, one group and stride 1")
    return head


def _factor(total: Tensor, prior_precision: float, temperature: float) -> Tensor:
    """A square root of the covariance. A loss that is not convex may have negative curvature, which counts as 0."""
    if total.ndim == 1:
        return (temperature / (total.clamp_min(0) + prior_precision)).sqrt()
    try:
        values, vectors = torch.linalg.eigh(total)
    except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage] it is public
        raise NotFiniteError(
            "the curvature of the last layer is not finite or too large: check the weights and the targets"
        ) from error
    return vectors * (temperature / (values.clamp_min(0) + prior_precision)).sqrt()


def _fit(network: nn.Module, batches: Iterable[Batch], likelihood: Likelihood, samples: int) -> dict[str, Tensor]:
    first, batches = peeked(batches)
    name = output_layer(network, first[0])
    layer = _checked(network.get_submodule(name))
    structure = "full"
    if (size := bytes_needed(layer, "full")) > MEMORY_LIMIT:
        structure = "diagonal"
        warnings.warn(
            f"laplace keeps the diagonal of the Hessian only: all of it would need {size / 2**30:.1f} GiB", stacklevel=2
        )
    method = LastLayerLaplace.fit(network, name, batches, likelihood.nll, samples=samples, structure=structure)
    return {"factor": method.factor, "head": coded_name(name)}


def _build(networks: Networks, samples: int, state: State = NO_STATE) -> LastLayerLaplace:
    return LastLayerLaplace(only(networks), decoded_name(state["head"]), state["factor"], samples)


TRAINING = MethodTraining(_build, fit=_fit, needs_training_data=True)

"""Checks that every method and every likelihood passes; run them on your own.

Each raises AssertionError with what was found and what was expected.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sfumato.contracts import Likelihood, Method
from sfumato.predictions import predict


def check_likelihood(likelihood: Likelihood, target: Tensor) -> None:
    """A likelihood's loss, gradient and moments on random outputs.

    Args:
        likelihood: what is checked.
        target: (B, H, W) classes or (B, D, H, W) values, all of which it can take; at least 2 pixels.

    Checks that the loss is finite, 0 with no gradient where not valid whatever stands there, and reaches every
    channel; that a smaller loss can be reached by following its gradient; that the parts of the prediction are finite,
    not negative and add up; that a pixel's prediction depends on its own output alone, and not on the batch.
    """
    size = (target.shape[0], *target.shape[-2:])
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(size[0], likelihood.channels, *size[1:], generator=generator).requires_grad_()
    valid = torch.rand(size, generator=generator) < 0.7
    valid.view(-1)[0], valid.view(-1)[-1] = True, False
    spoilt = target.where(valid if target.ndim == 3 else valid[:, None], 10**6)
    losses = [_seeded(lambda t=t: likelihood.nll(output, t, valid)) for t in (target, spoilt)]
    loss = losses[0]
    _that(loss.shape == size, f"nll has shape {tuple(loss.shape)}, expected {size}")
    _that(bool(loss.isfinite().all()), "nll is not finite")
    _that(bool((loss[~valid] == 0).all()), "nll is not 0 where not valid")
    _that(torch.equal(losses[0], losses[1]), "nll depends on targets that are not valid")
    (slope,) = torch.autograd.grad(loss.sum(), output)
    by_pixel = slope.abs().sum(1)
    _that(bool((by_pixel[~valid] == 0).all()), "the gradient is not 0 where not valid")
    _that(bool((slope.abs().sum((0, 2, 3)) > 0).all()), "the gradient does not reach every channel")
    _that(_descends(likelihood, target, valid, output.detach()), "following the gradient does not lower the loss")
    prediction = likelihood.moments(output.detach()).prediction()
    check_prediction(prediction)
    alone = likelihood.moments(output.detach()[:1]).prediction()
    _near(alone.total, prediction.total[:1], "a prediction depends on the other images of its batch")


def check_method(
    method: Method, *inputs: Any, likelihood: Likelihood, network: nn.Module | None = None, random: bool = True
) -> None:
    """A method's draws and the prediction they fold to.

    Args:
        method: what is checked.
        *inputs: what it takes, at least 2 images each.
        likelihood: reads its outputs.
        network: whose modes, parameters and buffers must stay as they are.
        random: whether its draws depend on the generator.

    Checks that draws have the shape they should and no gradient; that equal generators give equal draws, and others
    others where the method is random; that the parts of the prediction add up; that the network is left as it was.
    """
    before = None if network is None else _state(network)
    first, again, other = (_drawn(method, inputs, seed) for seed in (0, 0, 1))
    _that(first.ndim == 5 and first.shape[2] == likelihood.channels, f"draws have shape {tuple(first.shape)}")
    _that(not first.requires_grad, "draws carry a gradient")
    _that(torch.equal(first, again), "the same generator gives other draws")
    if random:
        _that(not torch.equal(first, other), "another generator gives the same draws")
    check_prediction(predict(method, *inputs, likelihood=likelihood, generator=torch.Generator().manual_seed(0)))
    if network is not None:
        after = _state(network)
        _that(before is not None and before.keys() == after.keys(), "the network has other parameters than before")
        changed = [name for name, value in after.items() if not torch.equal(value, before[name])]  # pyright: ignore
        _that(not changed, f"the network was changed: {changed[:3]}")


def check_prediction(prediction: Any) -> None:
    """Total, aleatoric and epistemic are finite, not negative, and add up."""
    parts = {name: getattr(prediction, name) for name in ("total", "aleatoric", "epistemic")}
    for name, part in parts.items():
        _that(bool(part.isfinite().all()), f"{name} is not finite")
        _that(float(part.min()) >= -1e-6, f"{name} is {float(part.min()):.3g}, expected at least 0")
    _near(parts["aleatoric"] + parts["epistemic"], parts["total"], "aleatoric and epistemic do not add up to total")


def _descends(likelihood: Likelihood, target: Tensor, valid: Tensor, output: Tensor) -> bool:
    output = output.clone().requires_grad_()
    optimizer = torch.optim.Adam([output], lr=0.05)
    losses = []
    for _ in range(60):
        loss = _seeded(lambda: likelihood.nll(output, target, valid).sum())
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[-1] < losses[0]


def _drawn(method: Method, inputs: tuple[Any, ...], seed: int) -> Tensor:
    return torch.cat(list(method.draws(*inputs, generator=torch.Generator().manual_seed(seed))))


def _seeded(work: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return work()


def _state(network: nn.Module) -> dict[str, Tensor]:
    modes = {f"{name} (mode)": torch.tensor(module.training) for name, module in network.named_modules()}
    return modes | {name: value.detach().clone() for name, value in network.state_dict().items()}


def _near(found: Tensor, expected: Tensor, complaint: str) -> None:
    _that(torch.allclose(found, expected, rtol=1e-4, atol=1e-5), complaint)


def _that(holds: bool, complaint: str) -> None:
    if not holds:
        raise AssertionError(complaint)

"""Checks for methods, likelihoods and predictions. Run them on your own, too.

Each check raises AssertionError with what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor, nn

from sfumato.contracts import Likelihood, Method, Prediction
from sfumato.predictions import predict

T = TypeVar("T")


def check_likelihood(likelihood: Likelihood, target: Tensor) -> None:
    """Check the loss, the gradient and the moments of a likelihood on random outputs.

    The loss must be finite, exactly 0 and without gradient where not valid, and its gradient must reach every channel.
    Steps against the gradient must lower the loss. The parts of the prediction must be finite, not negative and add up.
    The prediction of an image must not depend on the other images of the batch.

    Args:
        likelihood: The likelihood that is checked.
        target: (B, *event) int64 classes or (B, D, *event) values that it can take; at least 2 of them in all.

    Raises:
        AssertionError: If a check fails.
    """
    size = (target.shape[0], *target.shape[2 if target.is_floating_point() else 1 :])
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(size[0], likelihood.channels, *size[1:], generator=generator).requires_grad_()
    valid = torch.rand(size, generator=generator) < 0.7
    valid.view(-1)[0], valid.view(-1)[-1] = True, False
    spoilt = target.where(valid[:, None] if target.is_floating_point() else valid, 10**6)
    losses = [_seeded(lambda t=t: likelihood.nll(output, t, valid)) for t in (target, spoilt)]
    loss = losses[0]
    _require(loss.shape == size, f"nll has shape {tuple(loss.shape)}, expected {size}")
    _require(bool(loss.isfinite().all()), "nll is not finite")
    _require(bool((loss[~valid] == 0).all()), "nll is not 0 where not valid")
    _require(torch.equal(losses[0], losses[1]), "nll depends on targets that are not valid")
    (slope,) = torch.autograd.grad(loss.sum(), output)
    _require(bool((slope.abs().sum(1)[~valid] == 0).all()), "the gradient is not 0 where not valid")
    reached = slope.abs().transpose(0, 1).flatten(1).sum(1) > 0
    _require(bool(reached.all()), "the gradient does not reach every channel")
    _require(_descends(likelihood, target, valid, output.detach()), "following the gradient does not lower the loss")
    prediction = likelihood.moments(output.detach()).prediction()
    check_prediction(prediction)
    single = likelihood.moments(output.detach()[:1]).prediction()
    _near(single.total, prediction.total[:1], "a prediction depends on the other images of its batch")


def check_method(method: Method, *inputs: Tensor, likelihood: Likelihood) -> None:
    """Check the draws of a method, and the prediction that they are aggregated into.

    The method must be an ``nn.Module`` that declares ``stochastic`` as a class attribute. Draws must have the shape
    (S, B, C, *event) and no gradient. Equal generators must give equal draws; other generators must give other draws if
    the method is stochastic, and equal draws if not. The parts of the prediction must add up. The method must leave its
    modes, parameters and buffers as they are, and all its tensors must move with ``to``.

    Args:
        method: The method that is checked.
        *inputs: The inputs of its network, with at least 2 images.
        likelihood: A likelihood that reads its outputs.

    Raises:
        AssertionError: If a check fails.
    """
    _require(isinstance(method, nn.Module), f"{type(method).__name__} is not an nn.Module: derive it from BaseMethod")
    assert isinstance(method, nn.Module)  # for the type checker
    stochastic = getattr(type(method), "stochastic", None)
    _require(isinstance(stochastic, bool), f"{type(method).__name__} does not declare stochastic as a class attribute")
    before = _state(method)
    first, again, other = (_drawn(method, inputs, seed) for seed in (0, 0, 1))
    _require(first.ndim >= 3 and first.shape[2] == likelihood.channels, f"draws have shape {tuple(first.shape)}")
    _require(not first.requires_grad, "draws carry a gradient")
    _require(torch.equal(first, again), "the same generator gives other draws")
    if stochastic:
        _require(not torch.equal(first, other), "another generator gives the same draws")
    else:
        _require(torch.equal(first, other), "another generator gives other draws, but stochastic is False")
    if getattr(method, "gives_novelty", False):
        _check_novelty(method, inputs, first)
    check_prediction(predict(method, *inputs, likelihood=likelihood, generator=torch.Generator().manual_seed(0)))
    after = _state(method)
    _require(before.keys() == after.keys(), "the network has other parameters than before")
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    _require(not changed, f"the network was changed: {changed[:3]}")
    check_moves(method)


def check_moves(module: nn.Module) -> None:
    """Check that every tensor that can be reached from a module moves with ``to``.

    Args:
        module: A method, or any other module. A copy of it is moved to torch's meta device.

    Raises:
        AssertionError: If a tensor stays behind.
    """
    moved = deepcopy(module).to("meta")
    left = [path for path, found in _tensors(moved, type(module).__name__, set()) if not found.is_meta]
    _require(not left, f"tensors that do not move with to(): {left[:3]}; register them as buffers")


def check_prediction(prediction: Prediction) -> None:
    """Check that total, aleatoric and epistemic are finite, not negative, and add up.

    Raises:
        AssertionError: If a check fails.
    """
    parts = {name: getattr(prediction, name) for name in ("total", "aleatoric", "epistemic")}
    for name, part in parts.items():
        _require(bool(part.isfinite().all()), f"{name} is not finite")
        _require(float(part.min()) >= -1e-6, f"{name} is {float(part.min()):.3g}, expected at least 0")
    _near(parts["aleatoric"] + parts["epistemic"], parts["total"], "aleatoric and epistemic do not add up to total")


def _check_novelty(method: Method, inputs: tuple[Tensor, ...], draws: Tensor) -> None:
    found, novelty = method.draws_and_novelty(*inputs)  # pyright: ignore[reportAttributeAccessIssue]  # if it has one
    _require(torch.equal(torch.cat(list(found)), draws), "draws_and_novelty gives other draws than draws")
    expected = (draws.shape[1], *draws.shape[3:])
    _require(novelty.shape == expected, f"novelty has shape {tuple(novelty.shape)}, expected {expected}")
    _require(bool(novelty.isfinite().all()) and float(novelty.min()) >= 0, "novelty is not finite, or below 0")


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


def _drawn(method: Method, inputs: tuple[Tensor, ...], seed: int) -> Tensor:
    return torch.cat(list(method.draws(*inputs, generator=torch.Generator().manual_seed(seed))))


def _seeded(work: Callable[[], T]) -> T:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return work()


def _state(module: nn.Module) -> dict[str, Tensor]:
    modes = {f"{name} (mode)": torch.tensor(part.training) for name, part in module.named_modules()}
    return modes | {name: value.detach().clone() for name, value in module.state_dict().items()}


def _tensors(value: object, path: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """All tensors that attributes, dicts, lists, tuples and sets lead to, each with its path."""
    if id(value) in seen or isinstance(value, type | ModuleType):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield path, value
        return
    parts: list[tuple[object, object]] = []
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        parts = list(enumerate(value))
    elif hasattr(value, "__dict__"):
        parts = list(vars(value).items())
    for name, part in parts:
        yield from _tensors(part, f"{path}.{name}", seen)


def _near(found: Tensor, expected: Tensor, complaint: str) -> None:
    _require(torch.allclose(found, expected, rtol=1e-4, atol=1e-5), complaint)


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise AssertionError(complaint)

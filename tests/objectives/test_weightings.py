"""Each weighting by its formula, written out here once more."""

import math

import pytest
import torch
from torch import nn

from sfumato.likelihoods import L1, Categorical, Joint, Laplace
from sfumato.objectives import WEIGHTINGS, weighting

LOSSES = {"a": 2.0, "b": 0.5}


def joint():
    return Joint({"a": L1(), "b": L1()})


def data(losses):
    """Targets whose mean losses, for an output of 0, are these."""
    return {name: torch.full((1, 1, 2, 3), loss) for name, loss in losses.items()}


def masks(**seen):
    return {name: torch.full((1, 2, 3), seen.get(name, True)) for name in LOSSES}


def output(s=(0.0, 0.0)):
    values = [torch.zeros(1, 2, 2, 3), *(torch.full((1, 1, 2, 3), v) for v in s)]
    return torch.cat(values, 1).requires_grad_()


def test_uncertainty_by_hand():
    total, weights = weighting("uncertainty", joint())(output((0.3, -1.0)), data(LOSSES), masks())
    assert float(total.detach()) == pytest.approx(2 * math.exp(-0.3) + 0.15 + 0.5 * math.exp(1.0) - 0.5)
    assert {n: float(w) for n, w in weights.items()} == pytest.approx({"a": math.exp(-0.3), "b": math.exp(1.0)})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("equal", {"a": 1, "b": 1}),
        ("fixed", {"a": 3, "b": 0.25}),
        ("uw-so", {"a": 1 / (1 + math.exp((1 / 0.5 - 1 / 2) / 5)), "b": 1 / (1 + math.exp((1 / 2 - 1 / 0.5) / 5))}),
        ("dwa", {"a": 1, "b": 1}),
        ("log1p", {"a": 0.5, "b": 0.5}),
    ],
)
def test_weights_by_hand(name, expected):
    weigh = weighting(name, joint(), {"a": 3, "b": 0.25} if name == "fixed" else None)
    out = output()
    total, weights = weigh(out, data(LOSSES), masks())
    assert {n: float(w) for n, w in weights.items()} == pytest.approx(expected)
    (slope,) = torch.autograd.grad(total, out)
    # The values feel the weight, and the noise the loss alone: ½ − L at s = 0.
    for place, task in enumerate(LOSSES):
        assert float(slope[:, place].sum()) == pytest.approx(-expected[task])
        assert float(slope[:, 2 + place].sum()) == pytest.approx(0.5 - LOSSES[task])
    if name == "log1p":
        assert float(total.detach()) - 2 * 0.5 * sum(LOSSES.values()) * 1.5 == pytest.approx(2 * math.log(2), abs=1e-5)


def test_dynamic_average_looks_back_two_epochs():
    weigh = weighting("dwa", joint())
    for losses in ({"a": 4.0, "b": 1.0}, {"a": 2.0, "b": 0.9}):
        for _ in range(2):
            weights = weigh(output(), data(losses), masks())[1]
        assert {n: float(w) for n, w in weights.items()} == {"a": 1, "b": 1}
        weigh.end_epoch()
    weights = weigh(output(), data(LOSSES), masks())[1]
    powers = {"a": math.exp(0.5 / 2), "b": math.exp(0.9 / 2)}
    assert {n: float(w) for n, w in weights.items()} == pytest.approx(
        {n: 2 * p / sum(powers.values()) for n, p in powers.items()}
    )


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_task_without_a_target_takes_no_part(name):
    fixed = {"a": 1, "b": 1} if name == "fixed" else None
    weigh = weighting(name, joint(), fixed)
    out = output()
    spoilt = data(LOSSES | {"b": math.nan})
    total, weights = weigh(out, spoilt, masks(b=False))
    assert list(weights) == ["a"]
    total.backward()
    assert bool(total.isfinite())
    assert not out.grad[:, [1, 3]].any(), "a task without a target moved its values or its noise"
    assert out.grad[:, [0, 2]].any()
    assert all((p.grad is None) == (n.endswith("b")) for n, p in weigh.named_parameters())
    out = output()
    total, weights = weigh(out, spoilt, masks(a=False, b=False))
    total.backward()
    assert (float(total.detach()), weights) == (0.0, {})
    assert not out.grad.any()


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_one_task_alone_is_a_case_like_any(name):
    likelihood = Joint({"a": L1()})
    weigh = weighting(name, likelihood, {"a": 2.0} if name == "fixed" else None)
    out = torch.zeros(1, 2, 2, 3, requires_grad=True)
    total, weights = weigh(out, {"a": torch.full((1, 1, 2, 3), 2.0)}, {"a": torch.ones(1, 2, 3, dtype=torch.bool)})
    assert bool(total.isfinite())
    assert list(weights) == ["a"]


@pytest.mark.parametrize("start", [-2.0, 0.0, 5.0])
def test_learned_weights_meet_from_any_start(start):
    s = nn.Parameter(torch.full((2,), start))
    weigh, optimizer = weighting("uncertainty", joint()), torch.optim.Adam([s], lr=0.03)
    for _ in range(800):
        out = torch.cat([torch.zeros(1, 2, 2, 3), s[None, :, None, None].expand(1, 2, 2, 3)], 1)
        total, _ = weigh(out, data(LOSSES), masks())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert s.exp().tolist() == pytest.approx([4.0, 1.0], rel=0.02)


@pytest.mark.parametrize("name", ["uw-so", "dwa", "log1p"])
def test_losses_that_may_be_below_0_are_refused(name):
    with pytest.raises(ValueError, match="Laplace of b has a noise of its own"):
        weighting(name, Joint({"a": Categorical(2), "b": Laplace()}))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("best", None, "expected one of uncertainty"),
        ("fixed", None, "fixed weights of no task"),
        ("fixed", {"a": 1.0}, "one for each of a, b"),
        ("fixed", {"a": 1.0, "b": -1.0}, "at least 0"),
        ("fixed", {"a": 0.0, "b": 0.0}, "not all 0"),
        ("equal", {"a": 1.0, "b": 2.0}, "use fixed"),
    ],
)
def test_weightings_that_make_no_sense_are_refused(name, weights, message):
    with pytest.raises(ValueError, match=message):
        weighting(name, joint(), weights)


def test_temperature_has_to_be_above_0():
    for name in ("uw-so", "dwa"):
        with pytest.raises(ValueError, match="temperature is 0"):
            WEIGHTINGS[name](joint(), 0)

"""The energy score as an objective, and the likelihood of boxes, which integrates to 1."""

import itertools
import math

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError
from sfumato.likelihoods import L1, Categorical, Gaussian, Joint, Laplace, Tempered
from sfumato.objectives import EnergyScore
from sfumato.tasks import BoxObjects, EdgeDistances, MultiTask

TASK = MultiTask({"objects": BoxObjects.of(("a", "b")), "distances": EdgeDistances()})


class Constant(nn.Module):
    """The same output at each pixel, with one parameter for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(channels))

    def forward(self, image):
        return self.values[None, :, None, None].expand(len(image), -1, *image.shape[-2:])


def joint(part, objects=None, spread=10.0):
    return Joint({"objects": objects or Categorical(3), "distances": part}, {"distances": (20.0, spread)})


def batch(deviation=3.0, pixels=64):
    torch.manual_seed(0)
    shape = 2, 1, pixels
    return {
        "image": torch.zeros(2, 3, 1, pixels),
        "objects": torch.randint(0, 3, shape),
        "objects_valid": torch.ones(shape, dtype=torch.bool),
        "distances": 25 + deviation * torch.randn(2, 4, 1, pixels),
        "distances_valid": torch.rand(shape) > 0.2,
    }


@pytest.mark.parametrize("part", [Gaussian(4), Laplace(4)])
def test_location_and_scale_are_learned(part):
    """The minimum of the energy score is near the mean and the standard deviation of the targets."""
    likelihood = joint(part)
    network, data = Constant(likelihood.channels), batch(pixels=100)
    objective = EnergyScore(TASK, likelihood, steps=50)
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    for _ in range(200):
        losses, logs = objective(network, data)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert set(losses) == {"energy_distances", "nll"}
    assert float(logs["energy_share"]) == 1
    with torch.no_grad():
        found = likelihood.moments(network(data["image"])).prediction()["distances"]
    assert found.mean[0, :, 0, 0].tolist() == pytest.approx([25] * 4, abs=0.5)
    assert found.std[0, :, 0, 0].mean().item() == pytest.approx(3, rel=0.2)


def test_it_is_annealed_in_and_counts_only_training_steps():
    likelihood = joint(Gaussian(4))
    network, objective = Constant(likelihood.channels), EnergyScore(TASK, likelihood, steps=4)
    shares = [float(objective(network, batch())[1]["energy_share"]) for _ in range(6)]
    assert shares == [0, 0.25, 0.5, 0.75, 1, 1]
    objective.eval()
    objective(network, batch())
    assert int(objective.step) == 6
    again = EnergyScore(TASK, likelihood, steps=4)
    again.load_state_dict(objective.state_dict())
    assert int(again.step) == 6


def test_first_step_is_the_distance():
    likelihood = joint(Gaussian(4))
    data = batch()
    losses, _ = EnergyScore(TASK, likelihood, steps=10)(Constant(likelihood.channels), data)
    away = (data["distances"] - 20).norm(dim=1)[data["distances_valid"]].mean() / 10
    assert float(losses["energy_distances"].detach()) == pytest.approx(float(away), rel=1e-5)


def test_without_a_valid_pixel():
    likelihood = joint(Gaussian(4))
    data = batch()
    data["distances_valid"] = torch.zeros_like(data["distances_valid"])
    losses, _ = EnergyScore(TASK, likelihood)(Constant(likelihood.channels), data)
    assert float(losses["energy_distances"].detach()) == 0


def test_what_it_refuses():
    for part in (L1(4), Gaussian(4, "log", 1.0, 100.0)):
        with pytest.raises(ConfigError, match="expected gaussian or laplace"):
            EnergyScore(TASK, Joint({"objects": Categorical(3), "distances": part}))
    with pytest.raises(ConfigError, match="has values"):
        EnergyScore(TASK, Joint({"objects": Categorical(3)}))
    with pytest.raises(ConfigError, match="samples is 1"):
        EnergyScore(TASK, joint(Gaussian(4)), samples=1)
    with pytest.raises(ConfigError, match="multi-task is for several tasks"):
        EnergyScore(TASK, Gaussian(4))


@pytest.mark.parametrize("part", [Gaussian, Laplace])
@pytest.mark.parametrize("objects", [Categorical, Tempered])
def test_the_likelihood_of_a_box_integrates_to_one(part, objects):
    """Σ over classes ∫ over four distances of exp(−nll), on a grid; the log variance of the classes is not 0 for the
    tempered likelihood, which is exact for every one."""
    likelihood = Joint({"objects": objects(3), "distances": part(4)}, {"distances": (5.0, 2.0)})
    torch.manual_seed(1)
    scales = torch.tensor([-0.5, 0.0, 0.3, -1.0])
    noise = 0.7 if objects is Tempered else 0.0
    output = torch.cat([torch.randn(3), torch.randn(4), scales, torch.tensor([noise])])[:, None, None]
    steps = 13 if part is Gaussian else 17
    axes = []
    for d in range(4):
        sigma = 2 * math.exp(float(scales[d]))
        middle = 5 + 2 * float(output[3 + d, 0, 0])
        reach = 5.0 if part is Gaussian else 12.0
        # dense near the middle, where a Laplace density has its edge
        t = torch.linspace(-1, 1, steps, dtype=torch.float64)
        axes.append(middle + reach * sigma * t.abs().pow(2.0 if part is Laplace else 1.0) * t.sign())
    weights = [_simpson(axis, part) for axis in axes]
    total = 0.0
    grid = torch.tensor(list(itertools.product(*[axis.tolist() for axis in axes])), dtype=torch.float64)
    weight = torch.tensor(list(itertools.product(*[w.tolist() for w in weights])), dtype=torch.float64).prod(1)
    points = len(grid)
    raw = output.double()[None].expand(1, -1, 1, points)
    for kind in range(3):
        targets = {"objects": torch.full((1, 1, points), kind), "distances": grid.T[None, :, None]}
        valid = torch.ones(1, 1, points, dtype=torch.bool)
        nll = likelihood.nll(raw, targets, dict.fromkeys(targets, valid))
        total += float(((-nll).exp()[0, 0] * weight).sum())
    assert total == pytest.approx(1, abs=0.02)


def _simpson(axis, part):
    """Weights of Simpson's rule along an axis whose places are a smooth function of equal steps."""
    n = len(axis)
    simpson = torch.ones(n, dtype=torch.float64)
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    t = torch.linspace(-1, 1, n, dtype=torch.float64)
    slope = 2 * t.abs() if part is Laplace else torch.ones_like(t)
    reach = (axis[-1] - axis[0]) / 2
    return simpson / 3 * (2 / (n - 1)) * slope * reach

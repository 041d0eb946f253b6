"""Disparity without labels over planes: the softmin of the costs is best, and the truth of scenes costs least."""

import pytest
import torch
from torch import nn

from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import Gaussian, Planes
from sfumato.objectives import Matching
from sfumato.objectives.matching import plane_costs
from sfumato.objectives.photometric import census_error
from sfumato.tasks import Disparity

TASK = Disparity(12)


class Says(nn.Module):
    """A network that says the same whatever it sees."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, *inputs):
        return self.output


@pytest.fixture(scope="module")
def scenes():
    return torch.utils.data.default_collate([Scenes(2, (48, 96), seed=3, views=True)[index] for index in range(2)])


def test_costs_are_those_of_shifted_views(scenes):
    costs = plane_costs(scenes["image"], scenes["right"], 8)
    assert costs.shape == (2, 8, 48, 89)
    shifted = torch.cat([scenes["right"][..., :5], scenes["right"][..., :-5]], -1)  # moved to the right by 5 px
    by_hand = census_error(scenes["image"], shifted)
    assert torch.allclose(costs[:, 5, 4:-4, 8:-4], by_hand[:, 4:-4, 15:-4], atol=1e-5)


def test_the_softmin_of_the_costs_is_best(scenes):
    objective = Matching(TASK, Planes(13), smoothness=0, temperature=0.1)
    costs = plane_costs(scenes["image"], scenes["right"], 13)
    best = torch.zeros(2, 13, 48, 96)
    best[..., 12:] = -costs / 0.1
    network = Says(best)
    losses, _ = objective(network, scenes)
    sum(losses.values()).backward()
    assert network.output.grad.abs().max() < 1e-7  # a stationary point
    least = -0.1 * (-costs / 0.1).logsumexp(1).mean()  # the free energy
    assert float(losses["matching"].detach()) == pytest.approx(float(least), abs=1e-5)
    for other in (0.5 * best, 2 * best, torch.zeros_like(best)):
        assert float(objective(Says(other), scenes)[0]["matching"].detach()) > float(least) + 1e-4


def test_true_disparities_match_better_than_others(scenes):
    objective = Matching(TASK, Planes(13))
    losses = {}
    for shift in (-2, 0, 2):
        place = (scenes["disparity"] + shift).round().clamp(0, 12).long()
        peaks = torch.zeros(2, 13, 48, 96).scatter_(1, place, 20.0)
        losses[shift] = float(objective(Says(peaks), scenes)[0]["matching"].detach())
    assert min(losses, key=losses.get) == 0


def test_choices_and_images_that_do_not_fit(scenes):
    with pytest.raises(ConfigError, match="likelihood planes"):
        Matching(TASK, Gaussian.for_task(TASK))
    with pytest.raises(ConfigError, match="two views"):
        Matching(TASK, Planes(13), ("image",))
    with pytest.raises(ConfigError, match="temperature is 0"):
        Matching(TASK, Planes(13), temperature=0)
    with pytest.raises(DataError, match="96 pixels wide"):
        Matching(Disparity(96), Planes(97))(Says(torch.zeros(2, 97, 48, 96)), scenes)

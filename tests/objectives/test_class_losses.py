"""Losses for classes of very different frequency, against their formulas worked out by hand."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError
from sfumato.likelihoods import L1, Categorical, Dirichlet, DistilledClasses, Joint, LogitNormal, Tempered
from sfumato.methods.latent import TRAINING as LATENT
from sfumato.objectives import Dice, Focal, LossSum, WeightedNLL, build_objective
from sfumato.predictions import ClassMoments
from sfumato.tasks import Semantic

TASK = Semantic(("back", "vessel", "lesion"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
ALL = [Categorical(3), Tempered(3), LogitNormal(3), Dirichlet(3)]


class Constant(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, *inputs):
        return self.output


def logits(*rows):
    """One image of as many pixels in a row, from the probabilities of each pixel."""
    return torch.tensor(rows).log().T[None, :, None, :]


def batch(labels, valid=None):
    mask = [True] * len(labels) if valid is None else valid
    return {
        "image": torch.zeros(1, 3, 1, len(labels)),
        "classes": torch.tensor([[labels]]),
        "classes_valid": torch.tensor([[mask]]),
    }


PROBS = ((0.7, 0.2, 0.1), (0.5, 0.4, 0.1), (0.1, 0.8, 0.1), (0.3, 0.3, 0.4))


def value(objective, labels=(0, 1, 1, 0), valid=(True, True, True, False), probs=PROBS):
    losses, _ = objective(Constant(logits(*probs)), batch(list(labels), list(valid)))
    return {name: float(loss.detach()) for name, loss in losses.items()}


def test_the_weighted_likelihood_is_that_of_the_formula():
    # Counts 60, 20, 20: weights 1, 3, 2 have the mean 0.6 + 0.6 + 0.4 = 1.6.
    found = value(WeightedNLL(TASK, Categorical(3), class_weights=[1, 3, 2], counts=(60, 20, 20)))
    expected = -(math.log(0.7) + 3 * math.log(0.4) + 3 * math.log(0.8)) / 1.6 / 3
    assert found == {"weighted_nll": pytest.approx(expected, rel=1e-5)}
    assert value(LossSum(TASK, Categorical(3), nll=1)) == {
        "nll": pytest.approx(-(math.log(0.7) + math.log(0.4) + math.log(0.8)) / 3, rel=1e-5)
    }


def test_balanced_weights_are_inverse_to_the_counts_and_have_the_mean_one():
    objective = WeightedNLL(TASK, Categorical(3), counts=(900, 90, 10))
    weights = objective.class_weights
    assert (weights * torch.tensor([900.0, 90, 10])).tolist() == pytest.approx([1000 / 3] * 3)
    absent = WeightedNLL(TASK, Categorical(3), counts=(90, 10, 0)).class_weights
    assert absent.isfinite().all()
    assert absent[2] == absent[1]


def test_the_focal_loss_is_that_of_the_formula():
    def term(p, gamma):
        return -((1 - p) ** gamma) * math.log(p)

    for gamma in (0.5, 2.0):
        found = value(Focal(TASK, Categorical(3), gamma=gamma))
        assert found == {"focal": pytest.approx(sum(term(p, gamma) for p in (0.7, 0.4, 0.8)) / 3, rel=1e-4)}
    assert value(Focal(TASK, Categorical(3), gamma=0.0))["focal"] == pytest.approx(
        value(LossSum(TASK, Categorical(3), nll=1))["nll"], rel=1e-5
    )


def test_dice_is_over_the_classes_of_the_batch_and_its_valid_pixels():
    # Class 0: 2 · 0.7 / (1.3 + 1); class 1: 2 · 1.2 / (1.4 + 2); class 2 is not in the batch.
    expected = 1 - (1.4 / 2.3 + 2.4 / 3.4) / 2
    assert value(Dice(TASK, Categorical(3))) == {"dice_loss": pytest.approx(expected, rel=1e-5)}


def test_probabilities_in_the_place_of_labels_give_expected_losses():
    objective = LossSum(TASK, Categorical(3), nll=1, dice=1, class_weights=[1, 3, 2], counts=(60, 20, 20))
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    given = batch([0, 1, 2, 255], [True, True, True, False]) | {"classes_soft": soft.T[None, :, None, :]}
    losses, _ = objective(Constant(logits(*PROBS)), given)
    weights = torch.tensor([1.0, 3.0, 2.0]) / 1.6
    expected = -(soft * weights * torch.tensor(PROBS).log())[:3].sum() / 3
    assert float(losses["weighted_nll"].detach()) == pytest.approx(float(expected), rel=1e-5)
    hits, true, predicted = (soft * torch.tensor(PROBS))[:3].sum(0), soft[:3].sum(0), torch.tensor(PROBS)[:3].sum(0)
    assert float(losses["dice_loss"].detach()) == pytest.approx(float(1 - (2 * hits / (true + predicted)).mean()))
    assert objective.further == ("classes_soft",)


def test_a_sum_has_its_factors():
    found = value(LossSum(TASK, Categorical(3), nll=0.5, dice=2, focal=3))
    assert found["nll"] == pytest.approx(0.5 * value(LossSum(TASK, Categorical(3), nll=1))["nll"])
    assert found["dice_loss"] == pytest.approx(2 * value(Dice(TASK, Categorical(3)))["dice_loss"])
    assert found["focal"] == pytest.approx(3 * value(Focal(TASK, Categorical(3)))["focal"])


@pytest.mark.parametrize("law", ALL, ids=lambda law: type(law).__name__)
def test_every_class_likelihood_trains_with_finite_gradients(law):
    torch.manual_seed(0)
    for scale in (1.0, 200.0):  # at 200 the softmax is 0 or 1
        output = scale * torch.randn(2, law.channels, 4, 5)
        network = Constant(output)
        labels = torch.randint(2, (2, 4, 5))
        valid = torch.rand(2, 4, 5) < 0.7
        labels[~valid] = 255
        given = {"image": torch.zeros(2, 3, 4, 5), "classes": labels, "classes_valid": valid}
        objective = LossSum(TASK, law, nll=1, dice=1, focal=1, gamma=0.5, class_weights="balanced", counts=(8, 2, 0))
        losses, _ = objective(network, given)
        torch.stack(list(losses.values())).sum().backward()
        gradient = network.output.grad
        assert gradient.isfinite().all()
        assert gradient.any()
        assert not gradient[~valid[:, None].expand_as(gradient)].any()


@pytest.mark.parametrize("law", ALL, ids=lambda law: type(law).__name__)
def test_probabilities_are_those_that_are_predicted(law):
    torch.manual_seed(0)
    output = torch.randn(1, law.channels, 3, 3)
    probs = law.probabilities(output.expand(400, -1, -1, -1)).mean(0)  # logit-normal draws noise
    moments: ClassMoments = law.moments(output)
    assert torch.allclose(probs, moments.probs[0], atol=0.02)


@pytest.mark.parametrize("kind", [WeightedNLL, Focal, Dice])
def test_a_batch_without_a_valid_pixel_costs_nothing(kind):
    network = Constant(torch.randn(1, 3, 1, 4))
    losses, _ = kind(TASK, Categorical(3))(network, batch([0, 1, 2, 255], [False] * 4))
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert float(total.detach()) == 0
    assert not network.output.grad.any()


def test_one_class_for_each_image_can_be_trained():
    given = {"classes": torch.tensor([0, 2]), "classes_valid": torch.tensor([True, True]), "image": torch.zeros(2, 3)}
    losses, _ = LossSum(TASK, Categorical(3), nll=1, dice=1)(Constant(torch.zeros(2, 3)), given)
    assert float(losses["dice_loss"].detach()) == pytest.approx(1 - 2 / 3 / (2 / 3 + 1))


@dataclass
class Config:
    objective: str
    objective_args: dict = field(default_factory=dict)
    weighting: str = ""
    weights: tuple = ()


@dataclass
class Facts:
    inputs: tuple = ("image",)
    counts: tuple = (80, 15, 5)


@dataclass
class Method:
    loss: object = None


@dataclass
class Plan:
    config: Config
    facts: Facts = field(default_factory=Facts)
    training: Method = field(default_factory=Method)


def built(name, law=None, loss=None, **arguments):
    return build_objective(Plan(Config(name, arguments), training=Method(loss)), TASK, law or Categorical(3))


def test_objectives_are_built_by_name_with_the_counts_of_the_plan():
    weights = built("weighted-nll").class_weights
    assert (weights * torch.tensor([80.0, 15, 5])).tolist() == pytest.approx([100 / 3] * 3, rel=1e-5)
    assert built("focal", gamma=3.0).gamma == 3
    assert built("dice").factors["dice"] == 1
    assert built("sum", nll=1, dice=0.5).factors == {"nll": 1, "dice": 0.5, "focal": 0}


def test_the_loss_of_a_method_takes_the_weighted_loss():
    def twice(network, inputs, target, valid, loss):
        return 2 * loss(network(*inputs), target, valid).sum() / valid.sum()

    weighted = WeightedNLL(TASK, Categorical(3), counts=(80, 15, 5))
    bound = built("weighted-nll", loss=twice)
    assert value(bound)["weighted_nll"] == pytest.approx(2 * value(weighted)["weighted_nll"])
    both = built("sum", loss=twice, nll=1, focal=3)
    alone = value(LossSum(TASK, Categorical(3), nll=1, focal=3))
    assert value(both) == {"nll_and_focal": pytest.approx(2 * sum(alone.values()))}
    with pytest.raises(ConfigError, match="loss of its own"):
        built("dice", loss=LATENT.loss)


@pytest.mark.parametrize(
    ("name", "law", "arguments", "message"),
    [
        ("dice", L1(), {}, "one task of classes"),
        ("focal", Joint({"classes": Categorical(3)}), {}, "one task of classes"),
        ("dice", DistilledClasses(3), {}, "probabilities with a gradient"),
        ("sum", None, {}, "the sum has no loss"),
        ("sum", None, {"nll": -1}, "nll is -1"),
        ("focal", None, {"gamma": math.nan}, "gamma is nan"),
        ("weighted-nll", None, {"class_weights": [1, 2]}, "expected 3 numbers"),
        ("weighted-nll", None, {"class_weights": [0, 0, 0]}, "no class"),
        ("weighted-nll", None, {"class_weights": "fair"}, "balanced"),
        ("focal", None, {"factor": 3}, "cannot be built with"),
        ("focal", None, {"counts": [1, 2, 3]}, "cannot be built with"),
        ("weighted-nll", None, {"class_weights": 5}, "cannot be built with"),
        ("weighted-nll", None, {"class_weights": {"vessel": 5}}, "expected 3 numbers"),
    ],
)
def test_what_does_not_fit_is_refused(name, law, arguments, message):
    with pytest.raises(ConfigError, match=message):
        built(name, law, **arguments)

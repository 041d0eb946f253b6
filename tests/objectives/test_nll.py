"""Objectives by their formula, and as a plan names them."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError, PluginError, UntrustedCodeError
from sfumato.likelihoods import L1, Categorical, Joint
from sfumato.objectives import NLL, BaseObjective, MultiTaskNLL, build_objective, objective_class, weighting
from sfumato.registry import Trust
from sfumato.tasks import Depth, MultiTask, Semantic

CLASSES = Semantic(("road", "sky"), ((0, 0, 0), (255, 255, 255)))


class Constant(nn.Module):
    """Outputs that do not depend on the image."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, *inputs):
        return self.output


def batch(valid=True):
    labels = torch.tensor([[[0, 1], [1, 1]]])
    return {
        "image": torch.rand(1, 3, 2, 2),
        "classes": labels,
        "classes_valid": torch.tensor([[[True, True], [True, valid]]]),
    }


def test_the_mean_is_over_valid_pixels():
    """Logits (1, 0): class 0 costs log(1 + 1/e) and class 1 costs 1 more."""
    network = Constant(torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2).clone())
    base = float(torch.tensor(1 + torch.e**-1).log())
    for valid, expected in ((True, base + 3 / 4), (False, base + 2 / 3)):
        losses, logs = NLL(CLASSES, Categorical(2))(network, batch(valid))
        assert list(losses) == ["nll"]
        assert float(losses["nll"].detach()) == pytest.approx(expected, abs=1e-6)
        assert logs == {}


def test_a_batch_without_a_valid_pixel_costs_nothing():
    given = batch() | {"classes_valid": torch.zeros(1, 2, 2, dtype=torch.bool)}
    network = Constant(torch.randn(1, 2, 2, 2))
    loss = NLL(CLASSES, Categorical(2))(network, given)[0]["nll"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert not network.output.grad.any()


def test_a_method_may_have_a_loss_of_its_own():
    seen = []

    def loss(network, inputs, target, valid, nll):
        seen.append((len(inputs), target.shape, valid.shape))
        return 2 * nll(network(*inputs), target, valid).mean()

    network = Constant(torch.zeros(1, 2, 2, 2))
    found = NLL(CLASSES, Categorical(2), ("image", "image"), loss=loss)(network, batch())[0]["nll"]
    assert float(found.detach()) == pytest.approx(2 * float(torch.tensor(2.0).log()))
    assert seen == [(2, (1, 2, 2), (1, 2, 2))]


def test_several_tasks_log_weights_and_losses():
    joint = Joint({"classes": Categorical(2), "depth": L1()})
    objective = MultiTaskNLL(
        MultiTask({"classes": CLASSES, "depth": Depth()}), joint, weighting=weighting("equal", joint)
    )
    depth = {"depth": torch.full((1, 1, 2, 2), 3.0), "depth_valid": torch.ones(1, 2, 2, dtype=torch.bool)}
    losses, logs = objective(Constant(torch.zeros(1, joint.channels, 2, 2)), batch() | depth)
    assert float(logs["loss_depth"]) == pytest.approx(3)
    assert float(logs["loss_classes"]) == pytest.approx(float(torch.tensor(2.0).log()))
    assert float(logs["weight_depth"]) == float(logs["weight_classes"]) == 1
    # With s = 0 the terms that fit the noise add the losses once more.
    assert float(losses["nll"].detach()) == pytest.approx(2 * (3 + float(torch.tensor(2.0).log())))


@dataclass
class Choices:
    objective: str = ""
    objective_args: dict = field(default_factory=dict)
    weighting: str = ""
    weights: tuple = ()


@dataclass
class Facts:
    inputs: tuple = ("image",)


@dataclass
class Method:
    loss: object = None


@dataclass
class Plan:
    config: Choices = field(default_factory=Choices)
    facts: Facts = field(default_factory=Facts)
    training: Method = field(default_factory=Method)


class Scaled(BaseObjective):
    def __init__(self, task, likelihood, inputs, factor=1.0):
        super().__init__(task, likelihood, inputs)
        self.factor = factor


def test_the_objective_of_a_plan():
    joint = Joint({"classes": Categorical(2), "depth": L1()})
    several = MultiTask({"classes": CLASSES, "depth": Depth()})
    assert isinstance(build_objective(Plan(), CLASSES, Categorical(2)), NLL)
    assert isinstance(build_objective(Plan(), several, joint), MultiTaskNLL)
    assert Scaled.build(CLASSES, Categorical(2), Plan(Choices(objective_args={"factor": 3.0}))).factor == 3
    with pytest.raises(ConfigError, match="for one task"):
        build_objective(Plan(Choices("nll")), several, joint)
    with pytest.raises(ConfigError, match="loss of its own"):
        build_objective(Plan(training=Method(print)), several, joint)
    with pytest.raises(ConfigError, match="cannot be built with"):
        build_objective(Plan(Choices(objective_args={"factor": 3.0})), CLASSES, Categorical(2))


def test_objectives_by_name():
    assert objective_class("") is NLL
    assert objective_class("", several=True) is MultiTaskNLL
    with pytest.raises(PluginError, match="no 'hope' among the objectives"):
        objective_class("hope")
    with pytest.raises(UntrustedCodeError):
        objective_class("torch.nn.Linear")
    with pytest.raises(ConfigError, match="expected a subclass"):
        objective_class("torch.nn.Linear", trust=Trust.of("torch.nn.Linear"))

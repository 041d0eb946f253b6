"""Probabilities of classes reach training as the expected loss."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sfumato.likelihoods import L1, Categorical, Dirichlet, Joint, LogitNormal, Tempered
from sfumato.likelihoods.soft_targets import expected
from sfumato.objectives import NLL, MultiTaskNLL
from sfumato.tasks import Depth, MultiTask, Semantic

TASK = Semantic(("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)))


def batch(probs, valid=None):
    classes = probs.argmax(1)
    valid = torch.ones_like(classes, dtype=torch.bool) if valid is None else valid
    image = torch.rand(len(probs), 3, *probs.shape[2:])
    return {"image": image, "classes": classes, "classes_valid": valid, "classes_soft": probs}


def test_categorical_is_the_cross_entropy_with_probabilities():
    torch.manual_seed(0)
    output, probs = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5).softmax(1)
    loss, _ = NLL(TASK, Categorical(3))(Fixed(output), batch(probs))
    assert loss["nll"].item() == pytest.approx(float(cross_entropy(output, probs)), rel=1e-6)


@pytest.mark.parametrize("likelihood", [Categorical(3), Dirichlet(3)])
def test_a_sure_target_is_the_class_itself(likelihood):
    output, classes = torch.randn(1, 3, 4, 5), torch.randint(3, (1, 4, 5))
    probs, valid = torch.nn.functional.one_hot(classes, 3).movedim(-1, 1).float(), torch.rand(1, 4, 5) > 0.5
    soft = expected(likelihood.nll)(output, probs.where(valid[:, None], torch.nan), valid)
    assert torch.allclose(soft, likelihood.nll(output, classes, valid))


def test_training_finds_the_probabilities():
    probs = torch.tensor([0.2, 0.3, 0.5]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    network = Fixed(torch.zeros(1, 3, 2, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=10.0)
    for _ in range(100):
        optimizer.zero_grad()
        NLL(TASK, Categorical(3))(network, batch(probs))[0]["nll"].backward()
        optimizer.step()
    assert torch.allclose(network.output.softmax(1), probs, atol=1e-4)


def test_the_loss_of_a_method_gets_the_probabilities_too():
    output, probs = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2).softmax(1)

    def doubled(network, inputs, target, valid, nll):
        return 2 * nll(network(*inputs), target, valid).mean()

    loss, _ = NLL(TASK, Categorical(3), loss=doubled)(Fixed(output), batch(probs))
    assert loss["nll"].item() == pytest.approx(2 * float(cross_entropy(output, probs)), rel=1e-6)


@pytest.mark.parametrize("part", [Categorical(3), Tempered(3), LogitNormal(3), Dirichlet(3)])
def test_several_tasks_learn_from_probabilities_too(part):
    joint = Joint({"classes": part, "depth": L1()})
    task = MultiTask({"classes": TASK, "depth": Depth(1.0, 9.0)})
    output = torch.randn(1, joint.channels, 2, 2)
    other = {"depth": torch.full((1, 1, 2, 2), 3.0), "depth_valid": torch.ones(1, 2, 2) > 0}
    sure = batch(torch.eye(3)[torch.tensor([[[0, 1], [2, 1]]])].movedim(-1, 1)) | other
    hard = {key: value for key, value in sure.items() if key != "classes_soft"}
    losses = []
    for entries in (sure, hard):
        torch.manual_seed(0)
        found, logs = MultiTaskNLL(task, joint)(Fixed(output), entries)
        losses.append((found["nll"].item(), logs["loss_depth"].item()))
    assert losses[0] == pytest.approx(
        losses[1], rel=0.2 if isinstance(part, LogitNormal) else 1e-6
    )  # which draws noise


def test_several_tasks_find_the_probabilities():
    probs = torch.tensor([0.2, 0.3, 0.5]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    network = Fixed(torch.zeros(1, 4, 2, 2))
    objective = MultiTaskNLL(MultiTask({"classes": TASK}), Joint({"classes": Tempered(3)}))
    assert objective.further == ("classes_soft",)
    optimizer = torch.optim.SGD(network.parameters(), lr=5.0)
    for _ in range(300):
        optimizer.zero_grad()
        objective(network, batch(probs))[0]["nll"].backward()
        optimizer.step()
    logits, noise = network.output[:, :3], network.output[:, 3:]
    assert torch.allclose((logits * (-noise).exp()).softmax(1), probs, atol=1e-3)


class Fixed(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, *inputs):
        return self.output

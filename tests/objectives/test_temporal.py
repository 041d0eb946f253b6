"""Two frames of a video: their disagreement by hand, what counts, and a training from the data to a run."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sfumato.data import Scenes
from sfumato.data.loading import collate
from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import Categorical, Dirichlet, Gaussian, LogitNormal
from sfumato.methods.latent import TRAINING as LATENT
from sfumato.objectives import NLL, TemporalConsistency
from sfumato.runs import Config, Run
from sfumato.tasks import Depth, Semantic
from sfumato.training import fit, make_plan

TASK = Semantic(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 0, 255)))
DEPTH = Depth(1.0, 80.0)
SIZE = (6, 8)


class Colors(nn.Module):
    """A network whose output is a linear function of the colors of a pixel."""

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(3, channels, 1)

    def forward(self, image):
        return self.layer(image)


def network(channels=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Colors(channels)


def batch(step=2, noise=0.0):
    """A picture and the next one, in which all moves to the right by whole pixels, with the known flow."""
    wide = torch.rand(2, 3, SIZE[0], SIZE[1] + step, generator=torch.Generator().manual_seed(1))
    found = {
        "image": wide[..., step:],
        "next": wide[..., :-step] + noise,
        "flow": torch.tensor([float(step), 0]).view(1, 2, 1, 1).expand(2, 2, *SIZE),
        "flow_valid": torch.ones(2, *SIZE, dtype=torch.bool),
        "classes": torch.randint(3, (2, *SIZE), generator=torch.Generator().manual_seed(2)),
        "classes_valid": torch.ones(2, *SIZE, dtype=torch.bool),
    }
    found["flow_valid"][..., -step:] = False
    return found


def value(objective, net, data):
    losses, _ = objective(net, data)
    return {name: float(loss.detach()) for name, loss in losses.items()}


def test_a_prediction_that_moves_with_the_picture_costs_nothing_and_any_other_what_the_formula_says():
    objective, net = TemporalConsistency(TASK, Categorical(3), flow="known"), network()
    assert value(objective, net, batch())["consistency"] < 1e-10
    data = batch(noise=0.3)
    here, there = (net(data[name]).softmax(1).detach() for name in ("image", "next"))
    expected = (here[..., :-2] - there[..., 2:]).square().sum(1).mean().item()
    found = value(objective, net, data)
    assert found["consistency"] == pytest.approx(expected, rel=1e-4)
    heavy = TemporalConsistency(TASK, Categorical(3), flow="known", weight=3)
    assert value(heavy, net, data)["consistency"] == pytest.approx(3 * expected, rel=1e-4)
    assert found["nll"] == pytest.approx(value(NLL(TASK, Categorical(3)), net, data)["nll"])


def test_values_are_compared_by_their_variances():
    data = batch(noise=0.3)
    data |= {"depth": torch.full((2, 1, *SIZE), 9.0), "depth_valid": data["classes_valid"]}
    likelihood, net = Gaussian.for_task(DEPTH), network(2)
    here, there = (likelihood.moments(net(data[name])).prediction() for name in ("image", "next"))
    variance = here.variance[..., :-2] + there.variance[..., 2:]
    expected = ((here.mean[..., :-2] - there.mean[..., 2:]).square() / variance).mean().item()
    found = value(TemporalConsistency(DEPTH, likelihood, flow="known"), net, data)["consistency"]
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("likelihood", [Categorical(3), Dirichlet(3), LogitNormal(3)], ids=str)
def test_frames_without_labels_teach_agreement_only(likelihood):
    data = batch(noise=0.3)
    data["classes_valid"] = torch.zeros_like(data["classes_valid"])
    net = network(likelihood.channels)
    losses, _ = TemporalConsistency(TASK, likelihood, flow="known")(net, data)
    assert losses["nll"] == 0
    assert losses["consistency"] > 1e-4
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert net.layer.weight.grad.abs().max() > 0


def test_the_trap_one_class_everywhere_agrees_perfectly():
    net = network()
    nn.init.zeros_(net.layer.weight)
    found = value(TemporalConsistency(TASK, Categorical(3), flow="known"), net, batch(noise=0.3))
    assert found["consistency"] == 0
    assert found["nll"] > 1


def test_opencv_finds_the_flow_of_scenes():
    pytest.importorskip("cv2")
    data = Scenes(2, (48, 64), seed=5, views=("next",))
    samples = collate([data[index] for index in range(2)])
    task = data.tasks["classes"]
    losses, logs = TemporalConsistency(task, Categorical(8))(network(8), samples)
    assert losses["consistency"].isfinite()
    assert 0.2 < logs["followed"] <= 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"flow": "raft"}, "flow is 'raft' to 'next', expected dis, or known to next"),
        ({"flow": "known", "other": "previous"}, "flow is 'known' to 'previous'"),
        ({"weight": -1}, "weight is -1, expected a number of at least 0"),
        ({"inputs": ("image", "right")}, "networks that take one image"),
    ],
)
def test_choices_that_do_not_fit(how, words):
    with pytest.raises(ConfigError, match=words):
        TemporalConsistency(TASK, Categorical(3), **how)


def test_missing_frames_and_methods_with_a_loss_of_their_own_are_refused():
    data = batch()
    del data["next"]
    with pytest.raises(DataError, match=r"no 'next', which the objective temporal-consistency reads"):
        TemporalConsistency(TASK, Categorical(3))(network(), data)
    plan = SimpleNamespace(training=LATENT)
    with pytest.raises(ConfigError, match="loss of its own"):
        TemporalConsistency.build(TASK, Categorical(3), plan)


@pytest.mark.filterwarnings("ignore")  # what Lightning tells developers
def test_a_training_from_the_data_to_a_run(tmp_path):
    config = Config(
        task="classes", objective="temporal-consistency", objective_args={"flow": "known"}, size=(16, 24),
        network_args={"widths": (4, 8)}, epochs=1, batch=2, precision="32-true", method="deterministic",
    )  # fmt: skip
    scenes = Scenes(4, (16, 24))
    plan, train, val = make_plan(config, scenes, None, device="cpu")
    run = fit(plan, train, val, tmp_path / "run", progress=False, device="cpu")
    log = next((tmp_path / "run").rglob("metrics.csv")).read_text()
    assert "train_consistency" in log
    assert isinstance(Run.open(getattr(run, "folder", tmp_path / "run")), Run)

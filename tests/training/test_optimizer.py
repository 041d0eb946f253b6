from __future__ import annotations

import pytest
import torch
from torch import nn

from sfumato.data import Scenes
from sfumato.distillation import student_plan
from sfumato.errors import ConfigError
from sfumato.models import EfficientUNet, FeatureUNet
from sfumato.objectives import build_objective
from sfumato.runs import Config, Run, build_network, task_and_likelihood
from sfumato.training import fit, make_plan
from sfumato.training.module import TrainingModule
from sfumato.training.optimizer import parameter_groups


class Net(FeatureUNet):
    """A small encoder that says how it was trained."""

    def __init__(self, channels_out: int) -> None:
        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)

            def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
                fine = self.fine(image)
                return [fine, self.coarse(fine)]

        super().__init__(channels_out, Encoder(), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


NET = f"{__name__}.Net"


def planned(**choices):
    config = Config(method="deterministic", epochs=1, batch=2, crop=(16, 24), **choices)
    return make_plan(config, Scenes(4, size=(16, 24)), trust="all", network=choices.get("network") and Net(8))


def rates(plan):
    task, likelihood = task_and_likelihood(plan)
    network = Net(likelihood.channels) if plan.config.network == NET else None
    network = build_network(plan, likelihood, network)
    module = TrainingModule(network, build_objective(plan, task, likelihood, plan.trust), plan, 0, {})
    groups = parameter_groups(module, plan)
    encoder = set(network.network.encoder.parameters())
    everything = [p for group in groups for p in group["params"]]
    assert len(everything) == len(set(everything)) == len(list(module.parameters()))
    return [(group["lr"], group["weight_decay"], set(group["params"]) <= encoder) for group in groups]


def test_a_pretrained_encoder_learns_slower_and_normalizes_images_by_itself():
    plan = planned(network=NET)[0]
    assert plan.config.encoder_rate == 0.2
    assert plan.facts.normalization["image"] == {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    assert rates(plan) == [
        (0.003, 1e-4, False), (0.003, 0.0, False), (pytest.approx(0.0006), 1e-4, True),
        (pytest.approx(0.0006), 0.0, True),
    ]  # fmt: skip


def test_a_person_may_choose_the_rate_of_any_encoder():
    assert planned()[0].config.encoder_rate == 1.0
    plan = planned(encoder_rate=0.5)[0]  # the built-in U-Net has an encoder, too
    assert {(rate, encoder) for rate, _, encoder in rates(plan)} == {(0.003, False), (0.0015, True)}
    assert planned(network=NET, encoder_rate=1.0)[0].config.encoder_rate == 1.0


class Plain(nn.Conv2d):
    def __init__(self, channels_out: int) -> None:
        super().__init__(3, channels_out, 1)


def test_a_rate_for_no_encoder_is_refused():
    config = Config(method="deterministic", epochs=1, crop=(16, 24), encoder_rate=0.5, network=f"{__name__}.Plain")
    with pytest.raises(ConfigError, match=r"encoder_rate is 0\.5, but Plain has no module named encoder"):
        make_plan(config, Scenes(2, size=(16, 24)), trust="all", network=Plain(8))


def test_efficient_unet_from_fit_to_a_prediction(tmp_path):
    config = Config(network="efficient-unet", method="mc-dropout", samples=3, epochs=1, batch=2, precision="32-true")
    plan, train, _ = make_plan(config, Scenes(2, size=(32, 48)))
    fit(plan, train, None, tmp_path / "run", progress=False)
    run = Run.open(tmp_path / "run")
    assert isinstance(run.networks[0].network, EfficientUNet)
    assert run.facts.normalization["image"]["mean"] == (127 / 255,) * 3
    prediction = run.predict(torch.rand(1, 3, 32, 48))
    assert prediction.total.shape[-2:] == (32, 48)
    assert float(prediction.epistemic.mean()) > 0
    assert student_plan(run).config.encoder_rate == 0.2
    assert student_plan(run, choices={"network": "unet"}).config.encoder_rate == 0.0  # it decides by itself

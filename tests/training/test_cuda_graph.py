"""CUDA graphs in training: refused elsewhere, and the network is afterwards as it was. Replays run in gpu_check.py."""

import pytest
import torch
from torch import nn

from sfumato.data import Scenes
from sfumato.errors import ConfigError
from sfumato.runs import Config
from sfumato.training import fit, make_plan
from sfumato.training.cuda_graph import CudaGraph, check_cuda_graph


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))


@pytest.fixture
def replays(monkeypatch):
    """Stands for torch's function: it runs the network once, as its warm-up does, and counts replays."""
    count = []

    def graphed(network, inputs, allow_unused_input):
        plain = network.forward
        network(*inputs)
        network.forward = lambda *given: count.append(given) or plain(*given)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", graphed)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: torch.set_rng_state(state))
    return count


def test_recording_changes_neither_statistics_nor_random_numbers(network, replays):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, state = torch.rand(2, 3, 8, 8), torch.get_rng_state()
    CudaGraph(network).record((images,))
    assert not replays
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_only_inputs_of_the_recorded_shapes_are_replayed(network, replays):
    graph = CudaGraph(network)
    graph.record((torch.rand(2, 3, 8, 8),))
    assert network(torch.rand(1, 3, 8, 8)).shape == (1, 4, 6, 6)
    assert not replays
    network(torch.rand(2, 3, 8, 8))
    assert len(replays) == 1
    assert len(replays) == 1
    graph.release()
    network(torch.rand(2, 3, 8, 8))
    assert len(replays) == 1
    assert "forward" not in vars(network)


def test_a_second_pass_of_a_step_is_not_replayed_because_that_would_change_the_gradient_of_the_first(network, replays):
    graph, images = CudaGraph(network), torch.rand(2, 3, 8, 8)
    for step in (1, 2):
        graph.record((images,))
        network(images)
        network(images.flip(3))
        assert len(replays) == step


def test_a_network_that_cannot_be_recorded_is_named(network, replays, monkeypatch):
    def failing(*given, **options):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", failing)
    with pytest.raises(ConfigError, match="Sequential cannot be recorded as a CUDA graph"):
        CudaGraph(network).record((torch.rand(2, 3, 8, 8),))


def test_what_cannot_use_cuda_graphs_is_refused(tmp_path):
    scenes = Scenes(3, size=(16, 24))
    plan, _, _ = make_plan(Config(), scenes, device="cpu")
    with pytest.raises(ConfigError, match="cuda_graph is True, but the device is cpu"):
        fit(plan, scenes, None, tmp_path / "run", device="cpu", cuda_graph=True)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="2 processes"):
        check_cuda_graph("cuda", 2, "deterministic", own_loss=False)
    with pytest.raises(ConfigError, match="loss of the method latent reads more than the output"):
        check_cuda_graph("cuda", 1, "latent", own_loss=True)

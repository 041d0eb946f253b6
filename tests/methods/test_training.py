"""What each method does in training and after it, from a fresh network to the method that is built."""

import copy

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from sfumato import registry
from sfumato.likelihoods import Categorical, Gaussian
from sfumato.methods import BaseMethod, Heads, MethodTraining, VariancePropagation
from sfumato.methods.concrete_dropout import TRAINING as CONCRETE
from sfumato.methods.swag import SNAPSHOTS, swag_rate
from sfumato.models import UNet
from sfumato.testing import check_method

NAMES = registry.names("methods")
ATTACHED = {
    "concrete-dropout", "variational", "swag", "batch-ensemble", "multi-head", "latent", "randomized-prior",
}  # fmt: skip
POST_HOC = {"laplace", "test-time-augmentation", "feature-density", "variance-propagation"}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    """The fit of variance propagation is not what is tested here."""
    monkeypatch.setattr("sfumato.methods._propagation.corrections.STEPS", 2)


def training(name) -> MethodTraining:
    return registry.load("methods", name)


def network(seed=0, channels=4):
    torch.manual_seed(seed)
    return UNet(channels, widths=(4, 8), dropout=0.4)


def batches(count=2):
    random = torch.Generator().manual_seed(0)
    return [
        (
            (torch.rand(2, 3, 9, 10, generator=random),),
            torch.randint(4, (2, 9, 10), generator=random),
            torch.rand(2, 9, 10, generator=random) < 0.8,
        )
        for _ in range(count)
    ]


def built(name, samples=3):
    """The method as training makes it, after steps at random."""
    known = training(name)
    members = min(known.members, 2)
    networks = [network(seed) for seed in range(1 if known.shared else members)]
    state = {}
    for net in networks:
        if known.attach is not None:
            known.attach(net, known.members)
        for step in range(1, 4 * SNAPSHOTS + 1) if known.after is not None else ():
            for parameter in net.parameters():
                parameter.data += 0.01 * torch.randn_like(parameter)
            known.after(net, step, 4 * SNAPSHOTS, members, lambda member: None)
    if known.finish is not None:
        networks = [known.finish(net, (inputs for inputs, _, _ in batches())) for net in networks]
    if known.fit is not None:
        state = load(save(known.fit(networks[0], batches(), Categorical(4), samples)))
    return known.build(networks, samples, state)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_builds_a_method(name):
    known = training(name)
    assert isinstance(known, MethodTraining)
    assert known.post_hoc == (name in POST_HOC)
    assert (known.attach is not None) == (name in ATTACHED)
    method = built(name)
    assert isinstance(method, BaseMethod)
    check_method(method, torch.rand(2, 3, 9, 10), likelihood=Categorical(4))
    if hasattr(method, "samples"):
        assert method.samples == 3


@pytest.mark.parametrize("name", sorted(POST_HOC))
def test_fitting_leaves_the_network_as_it_is(name):
    net = network().train()
    before = copy.deepcopy(net.state_dict())
    known = training(name)
    state = known.fit(net, iter(batches()), Categorical(4), 3)
    known.build([net], 3, state)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(not value.requires_grad for value in state.values())


@pytest.mark.parametrize("name", sorted(ATTACHED))
def test_what_is_attached_is_a_part_of_the_state_of_the_network(name):
    known, nets = training(name), [network(seed) for seed in (0, 1)]
    for net in nets:
        known.attach(net, known.members)
    added = nets[0].state_dict().keys() - network().state_dict().keys()
    assert added
    nets[1].load_state_dict(nets[0].state_dict())
    assert all(torch.equal(nets[1].state_dict()[key], value) for key, value in nets[0].state_dict().items())


def test_the_steps_at_which_swag_takes_snapshots():
    known, net = training("swag"), network()
    known.attach(net, 1)
    taken = []
    for step in range(1, 401):
        before = int(net.swag_state.count)
        known.after(net, step, 400, 1, lambda member: None)
        taken += [step] * (int(net.swag_state.count) - before)
    assert taken == list(range(305, 401, 5))


def test_the_steps_at_which_snapshots_are_kept():
    known, kept = training("snapshot"), []
    for step in range(1, 11):
        known.after(network(), step, 10, 3, lambda member, step=step: kept.append((member, step)))
    assert kept == [(1, 4), (2, 7)]  # cycles end after 10/3 and 20/3 steps; the last one is the network itself


def test_swag_rates():
    rates = [swag_rate(step, 200) for step in range(200)]
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert rates[150:] == pytest.approx([0.1] * 50)
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    with pytest.raises(ValueError, match="at least 80 steps"):
        swag_rate(0, 79)


def test_concrete_dropout_spares_the_image():
    net = network()
    CONCRETE.attach(net, 1)
    layers = {name for name, module in net.named_modules() if "posterior" in module._modules}
    convolutions = {name: module for name, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    assert layers == {name for name, module in convolutions.items() if module.in_channels > 3}
    assert all(module.p == 0 for module in net.modules() if isinstance(module, nn.Dropout))
    with pytest.raises(ValueError, match="the network has none"):
        CONCRETE.attach(nn.Conv2d(3, 2, 1), 1)


def test_several_tasks_have_several_last_layers():
    for name in ("multi-head", "latent"):
        with pytest.raises(ValueError, match="several tasks"):
            training(name).attach(Heads(network(), ("a", "b")), 2)


class TwoHeads(nn.Module):
    """The layer that makes the output is neither the last one declared nor the last one called."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(5, 4, 1), nn.Conv2d(5, 4, 1)

    def forward(self, image):
        x = self.body(image)
        output = self.head(x)
        self.auxiliary(x)
        return nn.functional.interpolate(output, image.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", ["laplace", "feature-density"])
def test_the_layer_that_makes_the_output_is_found(name):
    state = training(name).fit(TwoHeads(), batches(), Categorical(4), 3)
    assert training(name).build([TwoHeads()], 3, state).head == "head"
    with pytest.raises(ValueError, match="does not end with a convolution"):
        training(name).fit(nn.Sequential(TwoHeads(), nn.Tanh()), batches(), Categorical(4), 3)
    with pytest.raises(ValueError, match="no batch of training data"):
        training(name).fit(TwoHeads(), [], Categorical(4), 3)


def test_variance_propagation_is_fitted_to_the_first_images():
    known, net, data = training("variance-propagation"), network(), batches(12)
    state = load(save(known.fit(net, data, Categorical(4), 3)))
    method = known.build([net], 3, state)
    image = data[0][0][0]
    expected = VariancePropagation.fit(net, [inputs for inputs, _, _ in data[:8]]).moments(image)
    assert all(torch.equal(*pair) for pair in zip(method.moments(image), expected, strict=True))
    assert len(method.corrections) > 10


def test_densities_of_values_have_one_class():
    data = [(inputs, torch.rand(2, 1, 9, 10), valid) for inputs, _, valid in batches()]
    state = training("feature-density").fit(network(channels=2), data, Gaussian(), 1)
    assert len(state["means"]) == 1


def test_mirrored_vectors_and_pairs_are_refused():
    ((image,), classes, valid), _ = batches()
    known, vectors = training("test-time-augmentation"), torch.rand(2, 2, 9, 10)
    with pytest.raises(ValueError, match="the target has 2 values"):
        known.fit(network(), [((image,), vectors, valid)], Gaussian(2), 2)
    with pytest.raises(ValueError, match="takes 2 inputs"):
        known.fit(network(), [((image, image), classes, valid)], Categorical(4), 2)

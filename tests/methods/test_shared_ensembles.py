"""Ensembles that share weights are, member by member, the networks that they stand for."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from sfumato.methods import BatchEnsemble, MultiHead, make_batch_ensemble, make_multi_head
from sfumato.models import UNet


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.mix = nn.Linear(6, 6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, image):
        x = self.mix(self.body(image).movedim(1, -1)).movedim(-1, 1)
        return nn.functional.interpolate(self.head(x), scale_factor=2)


def seeded():
    torch.manual_seed(0)
    return Net(), torch.rand(3, 4, 5, 6)


def test_members_are_networks_whose_weights_have_a_factor_of_rank_one():
    plain, images = seeded()
    network = deepcopy(plain)
    make_batch_ensemble(network, members=3)
    (draws,) = BatchEnsemble(network).draws(images)
    assert draws.shape == (3, 3, 2, 10, 12)
    layers = dict(network.named_modules())
    for m in range(3):
        member = deepcopy(plain).eval()
        for name, layer in member.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                enter, leave = layers[name].rank_one.enter[m], layers[name].rank_one.leave[m]
                groups = getattr(layer, "groups", 1)
                own = enter.view(groups, -1).repeat_interleave(len(leave) // groups, 0)  # (out, in / groups)
                with torch.no_grad():
                    layer.weight *= (leave[:, None] * own).view(*layer.weight.shape[:2], *[1] * (layer.weight.ndim - 2))
                    layer.bias *= leave
        assert torch.allclose(draws[m], member(images), atol=1e-5)


def test_a_batch_trains_each_member_on_its_part():
    network, images = seeded()
    make_batch_ensemble(network, members=3)
    network(images)[1].sum().backward()  # the second of three images, and of three members
    touched = network.body[0].rank_one.enter.grad.abs().sum(1) > 0
    assert touched.tolist() == [True, True, True]  # batch normalization mixes the batch while training
    network.zero_grad()
    network.eval()(images)[1].sum().backward()
    for name, parameter in network.named_parameters():
        if "rank_one" in name:
            assert (parameter.grad.abs().sum(1) > 0).tolist() == [False, True, False]


def test_without_spread_members_are_the_network():
    network, images = seeded()
    expected = network.eval()(images)
    make_batch_ensemble(network, members=2, spread=0.0)
    (draws,) = BatchEnsemble(network).draws(images)
    assert torch.allclose(draws, expected.expand(2, -1, -1, -1, -1), atol=1e-6)


def test_its_state_can_be_saved_and_copied():
    network, images = seeded()
    make_batch_ensemble(network, members=2)
    other = Net()
    make_batch_ensemble(other, members=2)
    other.load_state_dict(network.state_dict())
    for copy in (other, deepcopy(network)):
        assert torch.equal(*(torch.cat(list(BatchEnsemble(n).draws(images))) for n in (network, copy)))


def test_each_head_is_a_draw():
    network, images = seeded()
    make_multi_head(network, where="head", members=3)
    (draws,) = MultiHead(network).draws(images)
    heads = network.head.heads
    for m in range(3):
        network.head = heads[m]
        assert torch.allclose(draws[m], network.eval()(images), atol=1e-6)


def test_heads_train_on_their_part():
    network, images = seeded()
    make_multi_head(network, where="head", members=3)
    network.train()(images)[1].sum().backward()
    assert [head.weight.grad.abs().sum().item() > 0 for head in network.head.heads] == [False, True, False]
    assert network.body[0].weight.grad.abs().sum() > 0


def test_the_unet_takes_both():
    image = torch.rand(1, 3, 9, 11)
    network = UNet(3, widths=(4, 8))
    make_multi_head(network, where="head", members=2)
    assert next(MultiHead(network).draws(image)).shape == (2, 1, 3, 9, 11)
    network = UNet(3, widths=(4, 8))
    make_batch_ensemble(network, members=2)
    assert next(BatchEnsemble(network).draws(image)).shape == (2, 1, 3, 9, 11)


def test_refused():
    network, images = seeded()
    with pytest.raises(ValueError, match="members is 1"):
        make_batch_ensemble(network, members=1)
    with pytest.raises(ValueError, match="no module of ReLU"):
        make_batch_ensemble(nn.ReLU())
    with pytest.raises(ValueError, match="convert it with make_batch_ensemble"):
        BatchEnsemble(network)
    with pytest.raises(ValueError, match="give it several with make_multi_head"):
        MultiHead(network)
    with pytest.raises(ValueError, match="members is 1"):
        make_multi_head(network, members=1)
    with pytest.raises(ValueError, match="no module of Net matches 'neck': its modules are body"):
        make_multi_head(network, where="neck")
    with pytest.raises(ValueError, match="no weights to initialize"):
        make_multi_head(network, where=r"body\.2")
    make_multi_head(network, where="head", members=2)
    with pytest.raises(ValueError, match="a batch of 3 cannot be divided among 2 heads"):
        network.train()(images)
    make_batch_ensemble(network, members=2)
    with pytest.raises(ValueError, match="a batch of 3 cannot be divided among 2 members"):
        network(images)
    with pytest.raises(ValueError, match="a _RankOne already"):
        make_batch_ensemble(network, members=2)


def test_heads_beside_which_something_is_added():
    class Beside(Net):
        def forward(self, image):
            return super().forward(image) + nn.functional.interpolate(image, scale_factor=2)[:, :2]

    network = Beside()
    make_multi_head(network, where="head", members=2)
    with pytest.raises(ValueError, match=r"adds what the heads have not read.* use make_batch_ensemble"):
        next(MultiHead(network).draws(torch.rand(3, 4, 5, 6)))

"""Modules that drop by asking for their own mode, as other libraries' do: attention, branches, compiled code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.methods import MCDropout
from sfumato.methods._replay.record import NotRecordable

IMAGE = torch.rand(2, 8, 4, 6, generator=torch.Generator().manual_seed(0))


class DropPath(nn.Module):
    """As timm writes it: a branch is dropped for a whole image, by an in-place draw into fresh memory."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        kept = x.new_empty((len(x),) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.drop_prob)
        return x * kept.div_(1 - self.drop_prob)


class SegformerDropPath(DropPath):
    """As transformers writes it."""

    def forward(self, x):
        if self.drop_prob == 0.0 or not self.training:
            return x
        kept = 1 - self.drop_prob + torch.rand((len(x),) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return x.div(1 - self.drop_prob) * kept.floor_()


def stochastic_depth(x, p, training):
    if not training or p == 0:
        return x
    noise = torch.empty([len(x)] + [1] * (x.ndim - 1), dtype=x.dtype).bernoulli_(1 - p)
    return x * noise.div_(1 - p)


class StochasticDepth(nn.Module):
    """As torchvision writes it: a function that is told the module's mode."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x):
        return stochastic_depth(x, self.p, self.training)


class DropBlock(nn.Module):
    """Dropout of one's own."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x):
        return x * (torch.rand_like(x) > self.p) / (1 - self.p) if self.training else x


class Branches(nn.Module):
    """A residual network, with in-place additions as usual."""

    def __init__(self, drop: nn.Module, blocks: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True)) for _ in range(blocks)
        )
        self.drop, self.head = drop, nn.Conv2d(8, 3, 1)

    def forward(self, x):
        for block in self.blocks:
            branch = self.drop(block(x))
            branch += x
            x = branch
        return self.head(x)


class Attention(nn.Module):
    """The function is told a probability that the module's mode decides; ``fused`` or written out, as libraries do."""

    def __init__(self, keep: str, fused: bool = True) -> None:
        super().__init__()
        self.qkv, self.fused = nn.Linear(8, 24), fused
        if keep == "number":
            self.attention_dropout = 0.4
        else:
            self.attn_drop = nn.Dropout(0.4)

    def forward(self, x):
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        p = self.attention_dropout if hasattr(self, "attention_dropout") else self.attn_drop.p
        p = p if self.training else 0.0
        if self.fused:
            attended = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
        else:
            attended = F.dropout((q @ k.transpose(1, 2)).softmax(-1), p=p, training=self.training) @ v
        return attended.transpose(1, 2).reshape(x.shape)


class Multihead(nn.Module):
    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.attend, self.weights = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True), weights

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        attended = self.attend(tokens, tokens, tokens, need_weights=self.weights)[0]
        return attended.transpose(1, 2).reshape(x.shape)


class Encoder(nn.Module):
    """Torch's own layer, which in evaluation mode would take a path that hides all its dropouts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=True)

    def forward(self, x):
        return self.layer(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class TwoHeads(nn.Module):
    """In training mode it returns more than a tensor: it must not be activated because of its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.dropout = Attention("number"), nn.Dropout2d(0.3)

    def forward(self, x):
        x = self.dropout(F.dropout(self.attention(x), 0.0))
        return (x, x) if self.training else x


def with_depth(drop: nn.Module) -> nn.Module:
    return Branches(nn.Sequential(drop, nn.Dropout(0.2)))


NETWORKS = {
    "own dropout": lambda: Branches(DropBlock(0.3)),
    "attention, number": lambda: Attention("number"),
    "attention, layer": lambda: Attention("layer"),
    "attention written out": lambda: Attention("number", fused=False),
    "multihead": lambda: Multihead(False),
    "multihead with weights": lambda: Multihead(True),
    "encoder layer": Encoder,
    "two heads": TwoHeads,
    "timm's path": lambda: Branches(DropPath(0.5)),
    "transformers' path": lambda: Branches(SegformerDropPath(0.5)),
    "torchvision's depth": lambda: Branches(StochasticDepth(0.5)),
    "path and dropout": lambda: with_depth(DropPath(0.5)),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(1)
    return NETWORKS[request.param]()


def drawn(network: nn.Module, samples: int = 5, chunk: int = 1, seed: int = 0, depth: bool = True) -> Tensor:
    method = MCDropout(network, samples, chunk, depth)
    return torch.cat(list(method.draws(IMAGE, generator=torch.Generator().manual_seed(seed))))


def test_draws_follow_from_the_generator_alone(network):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = drawn(network)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert torch.equal(drawn(network), first)
    assert not torch.equal(drawn(network, seed=1), first)
    assert all(not torch.equal(first[0], other) for other in first[1:])
    torch.testing.assert_close(drawn(network, chunk=3), first)


def test_recorded_draws_are_those_of_the_plain_loop(network, monkeypatch):
    assert MCDropout(network, chunk=1, stochastic_depth=True).plan(IMAGE).startswith("replayed")
    first = drawn(network)

    def refuse(_run):
        raise NotRecordable("asked not to")

    monkeypatch.setattr("sfumato.methods.mc_dropout.record", refuse)
    with pytest.warns(UserWarning, match="asked not to"):
        torch.testing.assert_close(drawn(network), first)


def test_mean_and_spread_are_those_of_training_mode(network):
    """Naive sampling: all that drops is active, batch normalization is not."""
    ours = drawn(network, 400)
    for module in network.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)
    with torch.no_grad():
        outputs = [network(IMAGE) for _ in range(400)]
    naive = torch.stack([output[0] if isinstance(output, tuple) else output for output in outputs])
    error = float(naive.std(0).max()) / 20
    torch.testing.assert_close(ours.mean(0), naive.mean(0), atol=7 * error, rtol=0)
    torch.testing.assert_close(ours.std(0), naive.std(0), atol=7 * error, rtol=0.15)


def test_modes_and_statistics_are_left_as_they_were(network):
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    drawn(network)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("drop", [DropPath, SegformerDropPath, StochasticDepth])
def test_stochastic_depth_is_inactive_unless_requested(drop):
    torch.manual_seed(0)
    network = Branches(drop(0.5))
    with pytest.raises(ValueError, match=r"no dropout with p > 0.*stochastic_depth=True\) activates its 1 modules"):
        drawn(network, depth=False)
    both = with_depth(drop(0.9))
    assert drawn(both, 200, depth=False).std() < drawn(both, 200, depth=True).std()


def test_branches_are_dropped_whole_for_an_image():
    network = nn.Sequential(DropPath(0.5))
    draws = drawn(network, 20) / IMAGE
    assert set(draws.unique().tolist()) == {0.0, 2.0}
    assert (draws.flatten(2).std(-1) == 0).all()
    assert (draws[:, 0] != draws[:, 1]).any()  # each image for itself


def test_a_module_that_holds_parameters_is_not_activated_for_a_number():
    """``p`` may mean anything; only where nothing but dropping can follow from it is the mode changed."""

    class Pooling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p, self.scale = 0.5, nn.Parameter(torch.ones(()))

        def forward(self, x):
            assert not self.training
            return x * self.scale

    assert drawn(nn.Sequential(Pooling(), nn.Dropout(0.5))).std() > 0


def test_drop_paths_take_no_more_runs_of_the_network_than_one():
    network = Branches(DropPath(0.5), blocks=8)
    calls = []
    network.head.register_forward_hook(lambda *_: calls.append(1))
    drawn(network, 4)
    assert len(calls) == 1


class Recurrent(nn.Module):
    """Torch's own recurrent layer, whose dropout between layers no function shows."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8, num_layers=2, dropout=p, batch_first=True)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.lstm(x.flatten(2).transpose(1, 2))[0].mean(1))


class Conditional(nn.Module):
    """A function that is called in training mode only, by a module that does more than drop."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.drop_rate = nn.Conv2d(8, 8, 1), 0.4

    def forward(self, x):
        x = self.layer(x)
        return F.dropout(x, self.drop_rate) if self.training else x


class Passing(Conditional):
    """The same probability, given to a function that is always called."""

    def forward(self, x):
        return F.dropout(self.layer(x), self.drop_rate, self.training)


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (lambda: Recurrent(0.3), "lstm of Recurrent"),
        (lambda: nn.Sequential(nn.Dropout(0.5), Conditional()), "1 of Sequential"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2])
def test_dropout_that_stays_inactive_is_named(network, name, chunk):
    with pytest.warns(UserWarning, match=f"the dropout inside {name} stays inactive, .*: put nn.Dropout in its place"):
        drawn(network(), chunk=chunk)


def test_no_warning_where_all_dropout_is_active(network):
    drawn(network)  # warnings are errors
    drawn(nn.Sequential(Passing(), nn.Dropout(0.5)))
    drawn(Recurrent(0.0))
    drawn(with_depth(DropPath(0.3)), depth=False)


def test_inactive_dropout_is_named_when_the_network_runs_whole(monkeypatch):
    def refuse(_run):
        raise NotRecordable("told not to")

    monkeypatch.setattr("sfumato.methods.mc_dropout.record", refuse)
    with pytest.warns(UserWarning, match="told not to"), pytest.warns(UserWarning, match="inside lstm"):
        drawn(Recurrent(0.3))


def test_keywords():
    class Named(nn.Module):
        def forward(self, x):
            return F.dropout(input=x, p=0.5, training=self.training)

    assert drawn(Named()).std(0).max() > 0


def test_compiled_networks():
    torch.manual_seed(1)
    plain = with_depth(DropPath(0.3)).eval()
    compiled = torch.compile(plain, backend="eager")
    with torch.no_grad():
        compiled(IMAGE)  # what is compiled before must not be used: it has forgotten its dropouts
    torch.testing.assert_close(drawn(compiled), drawn(plain))
    plain.head.compile(backend="eager")
    torch.testing.assert_close(drawn(plain), drawn(compiled))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchscript_is_refused():
    traced = torch.jit.trace(nn.Sequential(nn.Conv2d(8, 3, 1), nn.Dropout()).eval(), IMAGE)
    with pytest.raises(ValueError, match=r"is TorchScript.*give MCDropout the Python module"):
        drawn(nn.Sequential(traced, nn.Dropout()))

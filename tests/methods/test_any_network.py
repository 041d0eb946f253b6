"""Networks of other people: outputs by key, dropout put in and taken out, mirror images."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from sfumato.likelihoods import Categorical
from sfumato.methods import DeepEnsemble, MCDropout, Output, TestTimeAugmentation, inject_dropout
from sfumato.predictions import predict


@dataclass
class Found:
    logits: torch.Tensor
    loss: None = None


Pair = namedtuple("Pair", "coarse fine")


class Wrapped(nn.Module):
    """Small logits, packed as asked."""

    def __init__(self, pack):
        super().__init__()
        self.layer, self.pack = (
            nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout2d(0.5), nn.Conv2d(4, 4, 1)),
            pack,
        )

    def forward(self, image, scale=None):
        x = self.layer(image[..., ::2, ::2])
        return self.pack(x if scale is None else x * scale)


@pytest.mark.parametrize(
    ("pack", "key"),
    [
        (lambda x: {"out": x, "aux": None}, "out"),
        (lambda x: Found(x), "logits"),
        (lambda x: (None, x), 1),
        (lambda x: Pair(None, x), "fine"),
        (lambda x: x, None),
    ],
)
def test_outputs_of_every_kind(pack, key):
    torch.manual_seed(0)
    network = Output(Wrapped(pack), key)
    prediction = predict(MCDropout(network, 3), torch.rand(2, 3, 8, 12), likelihood=Categorical(4))
    assert prediction.probs.shape == (2, 4, 8, 12)
    assert (prediction.epistemic > 0).any()
    assert "replayed" in MCDropout(network, 3, chunk=1).plan(torch.rand(2, 3, 8, 12))


def test_several_inputs():
    network = Output(Wrapped(lambda x: {"out": x}), "out")
    image, scale = torch.rand(2, 3, 8, 12), torch.full((2, 1, 1, 1), 2.0)
    prediction = predict(DeepEnsemble([network, network]), image, scale, likelihood=Categorical(4))
    assert prediction.probs.shape == (2, 4, 8, 12)


class Stereo(nn.Module):
    """Takes a dict of two images and a matrix, as stereo networks do."""

    def __init__(self):
        super().__init__()
        self.layer, self.dropout = nn.Conv2d(6, 4, 1), nn.Dropout2d(0.5)

    def forward(self, batch):
        pair = torch.cat([batch["left"], batch["right"]], 1)[..., ::2, ::2]
        return {"logits": self.layer(self.dropout(pair)) * batch["intrinsics"][:, :1, :1, None]}


def test_inputs_in_a_dict():
    batch = {"intrinsics": torch.rand(2, 3, 3), "left": torch.rand(2, 3, 8, 12), "right": torch.rand(2, 3, 8, 12)}
    prediction = predict(MCDropout(Output(Stereo(), "logits"), 3), batch, likelihood=Categorical(4))
    assert prediction.probs.shape == (2, 4, 8, 12)
    assert (prediction.epistemic > 0).any()


def test_one_value_for_each_image_is_returned_as_it_is():
    network = Wrapped(lambda x: {"out": x.mean((2, 3))}).eval()
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(Output(network, "out")(image), network(image)["out"])


def test_an_output_that_is_no_image_is_refused():
    with pytest.raises(ValueError, match=r"entry 'out' .* has shape \(1, 4, 4\), expected \(B, C, H, W\) or \(B, C\)"):
        Output(Wrapped(lambda x: {"out": x.mean(3)}), "out")(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="none of 1 inputs is an image"):
        Output(nn.Unflatten(0, (1, 4, 4, 4)))(torch.rand(64))


@pytest.mark.parametrize(
    ("pack", "key", "message"),
    [
        (lambda x: {"out": x, "aux": None}, "logits", "no entry 'logits': it is a dict with 'out', 'aux'"),
        (lambda x: (x,), 3, "a tuple of 1: expected a position from 0 to 0"),
        (lambda x: x, "out", r"one tensor \(1, 4, 4, 4\): omit the key"),
        (lambda x: {"out": x, "aux": None}, "aux", "is a NoneType, not a tensor"),
    ],
)
def test_unknown_keys(pack, key, message):
    with pytest.raises(ValueError, match=message):
        Output(Wrapped(pack), key)(torch.rand(1, 3, 8, 8))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), nn.Conv2d(8, 4, 1)
    )


@pytest.mark.parametrize(("where", "names"), [(nn.ReLU, ("1", "2.1")), (r"2\.\d", ("2.0", "2.1")), ("2", ("2",))])
def test_dropout_is_put_in_and_taken_out(where, names):
    network, image = plain().eval(), torch.rand(1, 3, 6, 6)
    before = network(image)
    with pytest.raises(ValueError, match="no dropout"):
        list(MCDropout(network, 2).draws(image))
    dropout = inject_dropout(network, where=where, p=0.4)
    assert dropout.modules == names
    draws = torch.cat(list(MCDropout(network, 4).draws(image)))
    assert (draws.std(0) > 0).any()
    assert torch.equal(network(image), before)  # deterministic in evaluation
    network.train()
    assert not torch.equal(network(image), network(image))  # and active in training
    network.eval()
    dropout.remove()
    with pytest.raises(ValueError, match="no dropout"):
        list(MCDropout(network, 2).draws(image))


def test_injected_dropout_is_replayed():
    network = plain()
    inject_dropout(network, where="2", p=0.4)
    assert MCDropout(network, 4, chunk=1).plan(torch.rand(1, 3, 6, 6)).startswith("replayed: ")


def test_injection_refuses_modules_that_return_no_tensor():
    network = nn.Sequential(Wrapped(lambda x: (x, None)))
    dropout = inject_dropout(network, where="0")
    with pytest.raises(ValueError, match=r"module 0 returns a tuple.*name a module inside"):
        network(torch.rand(1, 3, 8, 8))
    dropout.remove()
    assert isinstance(network(torch.rand(1, 3, 8, 8)), tuple)


def test_injection_refuses():
    with pytest.raises(ValueError, match=r"p is 1.0"):
        inject_dropout(plain(), p=1.0)
    with pytest.raises(ValueError, match=r"matches 'decoder': its modules are 0, 1, 2, 2.0"):
        inject_dropout(plain(), where="decoder")


class Flow(nn.Module):
    """Vectors that point to the right and down by the brightness, as a symmetric network sees them."""

    def forward(self, image):
        gradient = image.roll(1, -1) - image.roll(-1, -1), image.roll(1, -2) - image.roll(-1, -2)
        return torch.cat([g.mean(1, keepdim=True) for g in gradient], 1)


@pytest.mark.parametrize("mirror", ["none", "horizontal", "vertical", "both"])
def test_vectors_are_mirrored_back_exactly(mirror):
    image = torch.rand(2, 3, 5, 7)
    (draw,) = TestTimeAugmentation(Flow(), (mirror,), along_x=(0,), along_y=(1,)).draws(image)
    assert torch.allclose(draw[0], Flow()(image), atol=1e-6)


def test_each_mirror_is_a_draw():
    network = plain()
    draws = list(TestTimeAugmentation(network, ("none", "horizontal", "both")).draws(torch.rand(1, 3, 6, 6)))
    assert len(draws) == 3
    assert not torch.equal(draws[0], draws[1])
    with pytest.raises(ValueError, match="flips are"):
        TestTimeAugmentation(network, ("diagonal",))

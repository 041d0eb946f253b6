from __future__ import annotations

import copy
import math
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato.contracts import Method
from sfumato.methods import MCDropout, mc_dropout
from sfumato.methods._replay import batch_norm
from sfumato.models import UNet

IMAGE = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(network: nn.Module, samples: int = 6, chunk: int | None = 1, seed: int = 0) -> torch.Tensor:
    return torch.cat(list(MCDropout(network, samples, chunk).draws(IMAGE, generator=seeded(seed))))


def head_dropout(dropout: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), dropout, nn.Conv2d(8, 2, 1)
    )


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = F.dropout2d(F.relu(self.a(x)), 0.3, training=self.training)
        return self.b(F.dropout(x, p=0.4, training=self.training, inplace=True))


class Residual(nn.Module):
    """In-place addition onto a branch that no dropout touched, as residual networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x):
        identity = F.dropout(self.a(x))
        out = self.norm(self.b(x))
        out += identity
        return F.relu_(out)


class OverwrittenLater(nn.Module):
    """A tensor that went into a random product is overwritten afterwards, by something that no dropout touched."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        x = self.a(x)
        dropped = x * F.dropout(torch.ones_like(x))
        x.mul_(0.0).add_(3.0)
        return dropped + x


class Patchwork(nn.Module):
    """Views of one buffer, filled piece by piece."""

    def forward(self, x):
        buffer = torch.zeros(len(x), 4, *x.shape[2:])
        first, last = buffer[:, :2], buffer[:, 2:]
        first.copy_(F.dropout(x[:, :2]))
        last.copy_(x[:, :2])
        return buffer.relu()


class Shared(nn.Module):
    """One module called before and after a dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = nn.Conv2d(3, 3, 1), nn.Dropout2d(0.4)

    def forward(self, x):
        return self.layer(self.dropout(self.layer(self.layer(x))))


class Attention(nn.Module):
    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return F.dropout(tokens.transpose(1, 2).reshape(x.shape))


class OwnNoise(nn.Module):
    """Random numbers that the network draws itself."""

    def forward(self, x):
        tokens = x.flatten(2)
        attended = F.scaled_dot_product_attention(tokens, tokens, tokens, dropout_p=0.5).reshape(x.shape)
        return torch.cat([F.dropout(x), attended, torch.rand_like(x)], 1)


class Branching(nn.Module):
    """What it does depends on what was dropped."""

    def forward(self, x):
        x = F.dropout(x)
        return x * 2 if x.sum() > 0 else x


class Escaping(nn.Module):
    def forward(self, x):
        return torch.from_numpy(F.dropout(x).numpy() * 2)


NETWORKS = {
    "unet": lambda: UNet(2, widths=(4, 6, 8)),
    "dropout": lambda: head_dropout(nn.Dropout(0.5)),
    "dropout in place": lambda: head_dropout(nn.Dropout(0.3, inplace=True)),
    "dropout in place on the image": lambda: nn.Sequential(nn.Dropout(0.3, inplace=True), nn.Conv2d(3, 2, 1)),
    "dropout2d": lambda: head_dropout(nn.Dropout2d(0.5)),
    "alpha": lambda: head_dropout(nn.AlphaDropout(0.2)),
    "feature alpha": lambda: head_dropout(nn.FeatureAlphaDropout(0.2)),
    "functional": Functional,
    "residual": Residual,
    "overwritten later": OverwrittenLater,
    "patchwork": Patchwork,
    "shared": Shared,
    "attention": Attention,
}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(1)
    return NETWORKS[request.param]()


@pytest.fixture
def without_recording(monkeypatch):
    def refuse(_run):
        from sfumato.methods._replay.record import NotRecordable

        raise NotRecordable("asked not to")

    def plain(network):
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr("sfumato.methods.mc_dropout.record", refuse)
            return sampled(network)

    return plain


def test_replayed_draws_are_those_of_the_plain_loop(network, without_recording):
    assert MCDropout(network, chunk=1).plan(IMAGE).startswith("replayed")
    draws = sampled(network)
    torch.testing.assert_close(draws, without_recording(network))
    assert (draws[0] != draws[1]).any()


@pytest.mark.parametrize("chunk", [3, 4, 6, 9, None])
def test_draws_do_not_depend_on_the_chunk_size(network, chunk):
    torch.testing.assert_close(sampled(network, chunk=chunk), sampled(network), atol=1e-6, rtol=1e-6)


def test_the_network_and_the_image_are_left_as_they_were(network):
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    image = IMAGE.clone()
    next(MCDropout(network).draws(image))  # abandoned after one draw
    assert all(module.training for module in network.modules())
    assert all((before[key] == value).all() for key, value in network.state_dict().items())
    assert (image == IMAGE).all()


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout])
def test_mean_and_spread_are_those_of_naive_sampling(kind):
    torch.manual_seed(0)
    network = head_dropout(kind(0.4)).eval()
    ours = sampled(network, 2000)
    network[3].train()
    with torch.no_grad():
        naive = torch.stack([network(IMAGE) for _ in range(2000)])
    error = naive.std(0).max() / math.sqrt(2000)
    torch.testing.assert_close(ours.mean(0), naive.mean(0), atol=7 * error.item(), rtol=0)
    torch.testing.assert_close(ours.std(0), naive.std(0), atol=7 * error.item(), rtol=0.05)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.999, 1.0])
def test_masks_drop_with_probability_p_and_keep_the_mean(p):
    image = torch.ones(1, 1, 300, 300)
    (draw,) = MCDropout(nn.Dropout(p), samples=1).draws(image, generator=seeded())
    dropped = (draw == 0).float().mean().item()
    assert dropped == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p)) / 300 + 1e-9)
    assert draw.max() == pytest.approx(1 / (1 - p) if p < 1 else 0)


def test_feature_dropout_drops_whole_maps():
    (draw,) = MCDropout(nn.Dropout2d(0.5), samples=1).draws(torch.ones(8, 16, 3, 3), generator=seeded())
    assert set(draw.mean((-1, -2)).unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize(("module", "shape"), [(nn.Dropout1d(), (64, 5)), (nn.Dropout3d(), (64, 2, 3, 4))])
def test_features_without_a_batch(module, shape):
    (draw,) = MCDropout(module, samples=1).draws(torch.ones(shape), generator=seeded())
    assert set(draw.flatten(2).mean(-1).unique().tolist()) == {0.0, 2.0}


def test_what_no_dropout_touches_runs_once():
    network = head_dropout(nn.Dropout())
    calls = dict.fromkeys(range(len(network)), 0)
    for index, layer in enumerate(network):
        layer.register_forward_hook(lambda *_, index=index: calls.update({index: calls[index] + 1}))
    sampled(network, 10)
    assert calls == dict.fromkeys(calls, 1)
    # scaling and convolutions are done; random bits, view, comparison, product and the last convolution are not
    plan = MCDropout(network).plan(IMAGE)
    assert int(plan.split()[1]) <= 8, plan


def test_an_auxiliary_head_that_nobody_reads_is_not_repeated():
    class WithAuxiliary(nn.Module):
        def __init__(self, used: bool) -> None:
            super().__init__()
            self.main, self.auxiliary = nn.Conv2d(3, 2, 1), nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(20)])
            self.used = used

        def forward(self, x):
            x = F.dropout(x)
            auxiliary = self.auxiliary(x)
            return self.main(x) + (auxiliary.mean() if self.used else 0)

    repeated = [int(MCDropout(WithAuxiliary(used), chunk=1).plan(IMAGE).split()[1]) for used in (False, True)]
    assert repeated[1] >= repeated[0] + 20


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    network = head_dropout(nn.Dropout())
    assert (sampled(network, seed=3) == sampled(network, seed=3)).all()
    assert (sampled(network, seed=3) != sampled(network, seed=4)).any()
    torch.testing.assert_close(sampled(network, 3), sampled(network, 6)[:3])


def test_the_global_generator_serves_when_none_is_given():
    method = MCDropout(head_dropout(nn.Dropout()), 2)
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(torch.cat(list(method.draws(IMAGE))))
    assert (draws[0] == draws[1]).all()


@pytest.mark.parametrize(("build", "reason"), [(Branching, "depends on random numbers"), (Escaping, "out of torch")])
@pytest.mark.parametrize("chunk", [1, 3, 4, None])
def test_a_network_that_cannot_be_recorded_runs_whole_and_warns(build, reason, chunk):
    method = MCDropout(build(), 4, chunk)
    assert method.plan(IMAGE).startswith("plain loop: ")
    with pytest.warns(UserWarning, match=f"whole network for every draw: .*{reason}"):
        draws = torch.cat(list(method.draws(IMAGE, generator=seeded())))
    assert draws.shape == (4, *IMAGE.shape)
    assert (draws[0] != draws[1]).any()


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_random_numbers_of_the_network_itself_stay_random(chunk):
    first, second = sampled(OwnNoise(), 2, chunk).unflatten(2, (3, 3))
    assert (first != second).transpose(0, 1).flatten(1).any(1).all()


def test_fused_attention_without_its_own_dropout_is_computed_once():
    operations = int(MCDropout(Attention(), chunk=1).plan(IMAGE).split()[1])
    assert operations == 3  # random bits, comparison, product


def test_a_network_that_writes_random_numbers_into_its_buffers_runs_whole():
    class Remembering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(()))

        def forward(self, x):
            x = F.dropout(x)
            self.last.copy_(x.sum())
            return x

    assert MCDropout(Remembering()).plan(IMAGE) == "plain loop: it overwrites its own parameters or buffers"


@pytest.mark.parametrize("network", [nn.Conv2d(3, 2, 1), head_dropout(nn.Dropout(0.0))])
def test_a_network_without_dropout_is_refused_with_the_way_out(network):
    with pytest.raises(ValueError, match=r"has no dropout with p > 0.*add nn.Dropout2d.*or use DeepEnsemble"):
        list(MCDropout(network).draws(IMAGE))


def test_state_after_an_exception():
    network = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3), nn.Conv2d(5, 1, 1))
    with pytest.raises(RuntimeError, match="channels"):
        list(MCDropout(network, 4, 2).draws(IMAGE))
    assert all(module.training for module in network.modules())
    assert torch.is_grad_enabled()


def test_gradients_are_neither_recorded_nor_switched_off_for_the_caller():
    for draw in MCDropout(head_dropout(nn.Dropout()), 2).draws(IMAGE):
        assert torch.is_grad_enabled()
        assert not draw.requires_grad


class Noisy(nn.Module):
    """Random numbers of its own, which torch.vmap would make equal in all draws."""

    def forward(self, x):
        return F.dropout(x) + torch.rand_like(x)


def test_noise_of_the_network_itself_is_noticed_without_a_recording():
    assert MCDropout(Noisy()).plan(IMAGE).startswith("replayed")
    draws = sampled(Noisy(), 4, chunk=4)
    assert (draws == sampled(Noisy(), 4)).all()
    assert (draws[0] != draws[1]).all()


def test_small_inputs_are_drawn_together_and_large_ones_one_by_one():
    network = head_dropout(nn.Dropout())
    method = MCDropout(network, 4)
    assert method.plan(torch.rand(1, 3, 128, 128)) == "together: one pass makes all draws, 4"
    assert method.plan(torch.rand(1, 3, 128, 129)).startswith("replayed")
    assert [len(chunk) for chunk in method.draws(torch.rand(1, 3, 128, 128))] == [4]
    assert [len(chunk) for chunk in method.draws(torch.rand(1, 3, 128, 129))] == [1] * 4


def test_a_gpu_draws_together_what_fits_its_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: SimpleNamespace(total_memory=2**33))
    assert mc_dropout._most_pixels(torch.device("cuda", 0)) == 2**21
    assert mc_dropout._most_pixels(torch.device("mps")) == 0


def test_forward_hooks_see_plain_tensors_of_one_draw():
    network, seen = head_dropout(nn.Dropout()), []
    network[3].register_forward_hook(lambda _module, _inputs, output: seen.append(output.numpy().shape))
    with pytest.warns(UserWarning, match="out of torch"):
        list(MCDropout(network, 3).draws(IMAGE))
    assert set(seen) == {(2, 8, 12, 10)}


@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_what_a_network_keeps_for_itself_can_be_read_and_copied(chunk):
    class Keeping(nn.Module):
        def forward(self, x):
            self.kept = F.dropout(x)
            return self.kept * 2

    method = MCDropout(Keeping(), 3, chunk)
    first = next(method.draws(IMAGE, generator=seeded()))[0]
    assert (copy.deepcopy(method).network.kept * 2 == first).all()


def test_what_cannot_be_drawn_together_is_drawn_one_by_one_and_not_tried_again(monkeypatch):
    network, tried = UNet(2, widths=(4, 6, 8)), []

    def short(*_args, **_kwargs):
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "vmap", short)
    method = MCDropout(network, 3)
    with pytest.raises(RuntimeError, match="channels"):  # an error of the caller changes nothing
        list(method.draws(torch.rand(1, 4, 16, 16)))
    for _ in range(2):
        assert (torch.cat(list(method.draws(IMAGE, generator=seeded()))) == sampled(network, 3)).all()
    assert len(tried) == 2


@pytest.mark.parametrize("chunk", [1, None])
def test_every_call_reads_the_image_and_the_network_as_they_are(chunk):
    network = head_dropout(nn.Dropout(0.5))
    method = MCDropout(network, 3, chunk)

    def draws(image=IMAGE):
        return torch.cat(list(method.draws(image, generator=seeded())))

    first = draws()
    assert (draws() == first).all()
    assert (draws(1 - IMAGE) != first).any()
    with torch.no_grad():
        network[4].weight.mul_(2)
        network[4].bias.mul_(2)
    torch.testing.assert_close(draws(), 2 * first)
    network[4].weight = nn.Parameter(torch.zeros_like(network[4].weight))
    assert (draws() == network[4].bias[:, None, None]).all()
    network[4] = nn.Identity()
    assert draws().shape == (3, 2, 8, 12, 10)
    network[3].p = 1.0
    assert (draws() == 0).all()
    method.to(torch.float64)
    assert draws(IMAGE.double()).dtype == torch.float64


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_no_activation_outlives_a_call(chunk):
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.made = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), []

        def forward(self, x):
            x = self.a(x)
            dropped = F.dropout(x)
            self.made += [weakref.ref(x), weakref.ref(dropped)]
            return self.b(dropped)

    method = MCDropout(Watched(), 4, chunk)
    list(method.draws(IMAGE))
    assert len(method.network.made) >= 2
    assert all(made() is None for made in method.network.made)


def test_batch_normalization_of_several_draws_has_the_statistics_and_the_affine_map(monkeypatch):
    network, batches = UNet(2, widths=(4, 6, 8)), []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
    rule = batch_norm._BatchNorm.vmap

    def counted(info, in_dims, *operands):
        result = rule(info, in_dims, *operands)
        batches.append(result[0].shape[:2])
        return result

    monkeypatch.setattr(batch_norm, "_LARGE", 0)
    monkeypatch.setattr(batch_norm._BatchNorm, "vmap", staticmethod(counted))
    torch.testing.assert_close(sampled(network, 3, chunk=3), sampled(network, 3), atol=1e-5, rtol=1e-5)
    assert set(batches) == {(3, 2)}


def test_draws_do_not_share_memory():
    draws = list(MCDropout(head_dropout(nn.Dropout()), 3, chunk=1).draws(IMAGE, generator=seeded()))
    kept = [draw.clone() for draw in draws]
    draws[0].zero_()
    assert all((draw == copy).all() for draw, copy in zip(draws[1:], kept[1:], strict=True))


def test_memory_does_not_grow_with_the_draws():
    """At most a few tensors of the largest size live at a time, however many draws: counted by their storages."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), *[nn.Conv2d(4, 4, 1) for _ in range(12)])
    image = torch.rand(1, 3, 128, 128)
    largest = 4 * 128 * 128 * 4

    def peak(samples):
        highest = 0
        with torch.profiler.profile(profile_memory=True) as profile:
            for _ in MCDropout(network, samples, chunk=1).draws(image):
                pass
        live = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()
                highest = max(highest, live)
        return highest

    few, many = peak(2), peak(12)
    assert few > largest
    assert many <= few + largest / 2


def test_half_precision_and_channels_last():
    network = head_dropout(nn.Dropout()).to(torch.bfloat16).to(memory_format=torch.channels_last)
    (draw,) = MCDropout(network, 1).draws(IMAGE.bfloat16())
    assert draw.dtype == torch.bfloat16


def test_contract():
    assert isinstance(MCDropout(nn.Dropout()), Method)
    with pytest.raises(ValueError, match="samples is 0"):
        MCDropout(nn.Dropout(), samples=0)
    with pytest.raises(ValueError, match="chunk 0"):
        MCDropout(nn.Dropout(), chunk=0)


class MixesImages(nn.Module):
    """Subtracts the mean over the images of a batch, after a dropout."""

    def __init__(self):
        super().__init__()
        self.layer, self.dropout = nn.Conv2d(3, 4, 1), nn.Dropout(0.5)

    def forward(self, image):
        dropped = self.dropout(self.layer(image))
        return dropped - dropped.mean(0)


class ImagesSecond(nn.Module):
    """Drops in tensors whose first dimension is that of pixels."""

    def __init__(self):
        super().__init__()
        self.layer, self.dropout = nn.Linear(3, 4), nn.Dropout(0.5)

    def forward(self, image):
        height, width = image.shape[-2:]
        rows = self.dropout(self.layer(image.flatten(2).permute(2, 0, 1)))
        return rows.permute(1, 2, 0).unflatten(2, (height, width))


@pytest.mark.parametrize("build", [MixesImages, ImagesSecond])
def test_rows_of_a_batch_are_not_used_where_they_would_be_other_draws(build):
    network, images = build().eval(), torch.rand(2, 3, 4, 6)
    together, alone = MCDropout(network, 4), MCDropout(network, 4, chunk=1)
    for _ in range(2):
        found, expected = (
            torch.cat(list(each.draws(images, generator=torch.Generator().manual_seed(3))))
            for each in (together, alone)
        )
        assert torch.allclose(found, expected, atol=1e-6)
    assert together._as_batch is False


def test_small_images_are_rows_of_one_batch_also_in_mixed_precision(monkeypatch):
    monkeypatch.setattr(torch, "vmap", None)  # not called
    network, images = UNet(5, widths=(4, 8)).eval(), torch.rand(2, 3, 16, 16)
    for mixed in (False, True):
        together, alone = MCDropout(network, 4), MCDropout(network, 4, chunk=1)
        with torch.autocast("cpu", torch.bfloat16, mixed):
            assert together.plan(images).startswith("together")
            found, expected = (
                torch.cat(list(each.draws(images, generator=torch.Generator().manual_seed(3))))
                for each in (together, alone)
            )
        assert torch.allclose(found.float(), expected.float(), atol=0.05 if mixed else 1e-5)

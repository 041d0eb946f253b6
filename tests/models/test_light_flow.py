"""The network of optical flow: matching, sizes, precision, and every method of the registry on it."""

import warnings

import pytest
import torch

from sfumato import registry
from sfumato.data import Scenes
from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import FullLaplace
from sfumato.methods import MCDropout, TestTimeAugmentation
from sfumato.models import LightFlow
from sfumato.models.light_flow import SHRINK, Match, correlation, patches, unit_vectors
from sfumato.predictions import predict
from sfumato.runs import Config, Run
from sfumato.testing import check_prediction
from sfumato.training import fit, fit_post_hoc, make_plan

SMALL = {"widths": (8, 16), "width": 8, "radius": 1}
pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning tells developers


def test_correlation_is_the_product_with_the_pixels_around():
    torch.manual_seed(0)
    first, second = torch.randn(2, 2, 5, 6, 7)
    found = correlation(first, second, 2)
    assert found.shape == (2, 25, 6, 7)
    for down, across, y, x in ((-2, 1, 3, 3), (0, 0, 0, 0), (2, -1, 1, 6)):
        product = (first[:, :, y, x] * second[:, :, y + down, x + across]).sum(1)
        assert torch.allclose(found[:, (down + 2) * 5 + across + 2, y, x], product, atol=1e-5)
    assert (found[:, 0, 0, 0] == 0).all()  # beyond the border


def test_vectors_of_length_zero_have_a_gradient():
    features = torch.zeros(1, 4, 3, 3, requires_grad=True)
    unit_vectors(features).sum().backward()
    assert features.grad.isfinite().all()
    assert unit_vectors(torch.ones(1, 4, 1, 1)).norm().item() == pytest.approx(1)


def test_patches_do_not_see_light():
    image = torch.rand(1, 3, 12, 16)
    assert torch.allclose(patches(image, 2), patches(0.5 * image + 0.2, 2), atol=1e-4)
    assert patches(image, 2).shape == (1, 25, 6, 8)
    assert (patches(torch.full((1, 3, 8, 8), 0.5), 2) == 0).all()


def test_offsets_are_those_of_the_shift():
    pattern = torch.rand(1, 3, 20, 26, generator=torch.Generator().manual_seed(0))
    first, second = patches(pattern[..., 2:18, 3:23], 1), patches(pattern[..., 4:20, 2:22], 1)  # (1, −2) px
    match = Match(3)
    inside = (..., slice(4, -4), slice(4, -4))
    found, offset = match(first, second, torch.zeros(1, 2, 16, 20))
    assert found.shape == (1, 49 + 3, 16, 20)
    assert offset[inside].mean((0, 2, 3)).tolist() == pytest.approx([1, -2], abs=0.15)
    known = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 16, 20)
    assert match(first, second, known)[1][inside].abs().max() < 0.2  # what is known already is not found again


@pytest.mark.parametrize("size", [(1, 1), (17, 5), (32, 48), (33, 65)])
def test_any_size(size):
    pair = torch.rand(2, 2, 3, *size)
    for network in (LightFlow(5, **SMALL), LightFlow(5, **SMALL).eval()):
        found = network(*pair)
        assert found.shape == (2, 5, *size)
        assert found.isfinite().all()


def test_along_an_edge_the_match_is_not_sure():
    image = torch.zeros(1, 3, 24, 24)
    image[..., 12:] = 1.0  # a vertical edge: nothing says how far it has moved down
    both = patches(image, 1)
    found, _ = Match(3)(both, both, torch.zeros(1, 2, 24, 24))
    across, down, shared = found[0, -3:, 12, 12].tolist()
    assert down > 3 * across
    assert abs(shared) < 0.1


def test_before_training_it_is_a_matcher():
    whole = torch.nn.functional.interpolate(
        torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0)), (96, 96), mode="bicubic"
    ).clamp(0, 1)
    first, second = whole[..., 16:80, 16:80], whole[..., 12:76, 22:86]  # the scene moves by (−6, 4) px
    torch.manual_seed(0)
    found = LightFlow(4).eval()(first, second)[..., 16:-16, 16:-16]
    truth = torch.tensor([-6.0, 4.0]).view(1, 2, 1, 1)
    assert (found[:, :2] - truth).norm(dim=1).median() < 1
    still = LightFlow(4).eval()(first, first)[:, :2]
    assert still.norm(dim=1).median() < 0.5


def test_the_first_two_outputs_start_as_the_vectors_of_the_finest_level():
    torch.manual_seed(0)
    network = LightFlow(4, **SMALL).eval()
    seen = []
    network.head.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    network(*torch.rand(2, 1, 3, 16, 16))
    ((read, output),) = seen
    assert torch.allclose(output[:, :2], SHRINK * read[:, -2:], atol=1e-5)
    assert (output[:, 2:] == 0).all()
    assert read[:, -2:].abs().max() > 0


def test_vectors_are_exact_in_mixed_precision():
    torch.manual_seed(0)
    network = LightFlow(4, **SMALL).eval()
    with torch.no_grad():
        network.levels[0].step.bias.fill_(9.03)  # about 36 px at full resolution, where bfloat16 has steps of 1/4 px
    pair = torch.rand(2, 1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = network(*pair)
    assert found.dtype == torch.float32
    assert (found[:, :2] * 4 % 1 != 0).any()


@pytest.fixture(scope="module")
def scenes():
    return Scenes(4, size=(16, 24), views=True, inputs=("image", "next"))


def planned(scenes, **choices):
    usual = {"task": "flow", "network": "light-flow", "network_args": SMALL, "epochs": 5, "batch": 4, "samples": 3,
             "likelihood": "laplace-full", "learning_rate": 1e-3}  # fmt: skip
    return make_plan(Config(**usual | choices), scenes, device="cpu")[0]


def test_targets_stay_in_pixels(scenes):
    assert planned(scenes).facts.scales == {}
    assert "flow" in planned(scenes, network=f"{__name__}.Other", network_args={}).facts.scales


class Other(torch.nn.Module):
    """A network that does not say that it predicts in pixels."""

    def __init__(self, channels_out):
        super().__init__()
        self.layer = torch.nn.Conv2d(6, channels_out, 1)

    def forward(self, image, next):
        return self.layer(torch.cat([image, next], 1))


@pytest.mark.parametrize("method", registry.names("methods"))
def test_every_method(method, scenes, tmp_path):
    training = registry.load("methods", method)
    trained = method if training.fit is None else "deterministic"
    if method == "variance-propagation":
        trained = "mc-dropout"
    epochs = 80 if method == "swag" else 5  # it takes 20 snapshots in the last quarter
    run = fit(
        planned(scenes, method=trained, epochs=epochs), scenes, None, tmp_path / "run", progress=False, device="cpu"
    )
    sample = scenes[0]
    if training.fit is not None:
        if method == "test-time-augmentation":
            with pytest.raises(ConfigError, match="the network takes 2 inputs"):
                fit_post_hoc(run, method, tmp_path / "fitted", scenes, progress=False)
            return
        run = fit_post_hoc(run, method, tmp_path / "fitted", scenes, progress=False)
    found = Run.open(run.folder).predict(*run.inputs_of(sample))
    check_prediction(found)
    assert found.covariance.shape == (1, 2, 2, 16, 24)
    assert (torch.linalg.eigvalsh(found.covariance.permute(0, 3, 4, 1, 2)) > 0).all()


def test_mirrored_pairs_give_mirrored_vectors():
    """A mirror image turns dx and the correlation, which are the channels 0 and 4 of a full covariance."""
    torch.manual_seed(0)
    network = LightFlow(5, **SMALL).eval()
    pair = torch.rand(2, 1, 3, 16, 16)
    flips = TestTimeAugmentation(network, ("none", "horizontal"), along_x=(0, 4), along_y=(1, 4))
    there = predict(flips, *pair, likelihood=FullLaplace())
    back = predict(flips, *(each.flip(-1) for each in pair), likelihood=FullLaplace())
    sign = torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
    assert torch.allclose(back.mean, sign * there.mean.flip(-1), atol=1e-4)
    assert torch.allclose(back.covariance[:, 0, 1], -there.covariance[:, 0, 1].flip(-1), atol=1e-3)


def test_masks_change_only_what_follows_the_finest_level():
    torch.manual_seed(0)
    network = LightFlow(5, **SMALL, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predict(MCDropout(network, 4), *torch.rand(2, 1, 3, 16, 16), likelihood=FullLaplace())
    assert found.draws == 4


@pytest.mark.parametrize(("arguments", "message"), [
    ({"channels_out": 1}, "at least the 2 values"), ({"channels_out": 4, "widths": (8,)}, "at least 2 levels"),
])  # fmt: skip
def test_arguments_that_make_no_sense(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LightFlow(**arguments)


def test_pictures_of_different_sizes_are_refused():
    with pytest.raises(DataError, match="expected the same"):
        LightFlow(4, **SMALL)(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 18))

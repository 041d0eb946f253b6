"""Depth, disparity and flow without labels: the truth of generated scenes costs least, and bad data are refused."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sfumato.data import Scenes
from sfumato.data.loading import collate
from sfumato.errors import ConfigError, DataError
from sfumato.likelihoods import Categorical, Gaussian
from sfumato.methods.training import MethodTraining
from sfumato.objectives import Reprojection
from sfumato.objectives.photometric import photometric_error
from sfumato.objectives.views import DepthViews
from sfumato.tasks import Depth, Disparity, Flow, Semantic

DEPTH = Depth(1.0, 80.0)
SIZE = (48, 64)
PAIR = ("image", "right")


@pytest.fixture(scope="module")
def scenes():
    data = Scenes(3, SIZE, seed=5, views=True)
    return collate([data[index] for index in range(3)])


class Says(nn.Module):
    """A network that says the same whatever it sees."""

    def __init__(self, *channels):
        super().__init__()
        self.output = nn.Parameter(torch.cat(channels, 1))

    def forward(self, *inputs):
        return self.output


def says_depth(depth, spread=-4.0):
    return Says(depth.clamp(1, 80).log(), torch.full_like(depth, spread))


def depth_of(batch):
    return batch["depth_true"].where(batch["depth_valid"][:, None], 79.0)


def depth(**how):
    return Reprojection(DEPTH, Gaussian.for_task(DEPTH), **how)


def cost(objective, network, batch):
    losses, logs = objective(network, batch)
    assert all(loss.isfinite() for loss in losses.values())
    return float(losses["photometric"].detach()), logs


@pytest.mark.parametrize("sources", ["right", "next", ("right", "next")])
def test_true_depth_costs_least(scenes, sources):
    objective, true = depth(sources=sources, auto_mask=False), depth_of(scenes)
    best, _ = cost(objective, says_depth(true), scenes)
    for factor in (0.5, 2.0) if sources == "next" else (0.5, 0.8, 1.25, 2.0):  # objects of the video move
        assert cost(objective, says_depth(factor * true), scenes)[0] > best


@pytest.mark.parametrize(
    ("task", "inputs", "truth"), [(Disparity(), PAIR, "disparity"), (Flow(), ("image", "next"), "flow")]
)
def test_true_disparity_and_flow_cost_least(scenes, task, inputs, truth):
    objective = Reprojection(task, Gaussian.for_task(task), inputs, consistency=0)
    true = scenes[truth]
    best, _ = cost(objective, Says(true, torch.zeros_like(true)), scenes)
    for factor in (0.5, 0.8, 1.25):
        assert cost(objective, Says(factor * true, torch.zeros_like(true)), scenes)[0] > best


def test_the_gradient_leads_to_the_depth(scenes):
    """A depth that is a tenth too large everywhere is made smaller, and one that is too small larger."""
    for factor in (0.9, 1.1):
        network = says_depth(factor * depth_of(scenes))
        losses, _ = depth()(network, scenes)
        sum(losses.values()).backward()
        slope = network.output.grad[:, 0][scenes["disparity_valid"]]
        assert slope.isfinite().all()
        assert (slope.sum() > 0) == (factor > 1)


def test_each_pixel_takes_the_source_that_fits_best(scenes):
    """A source of noise beside a good one changes little. The mean over sources would be far from it."""
    true = says_depth(depth_of(scenes))
    noise = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    spoilt = scenes | {"next": noise}
    good, bad = (cost(depth(sources=source, auto_mask=False), true, spoilt)[0] for source in ("right", "next"))
    both, _ = cost(depth(sources=("right", "next"), auto_mask=False), true, spoilt)
    assert both < good + 0.1 * (bad - good)


def test_what_moves_with_the_camera_is_masked(scenes):
    """The upper half of both pictures is the same: it fits best if it is not warped."""
    same = scenes | {"next": scenes["next"].clone()}
    same["next"][:, :, :24] = scenes["image"][:, :, :24]
    seen = {mask: cost(depth(sources="next", auto_mask=mask), says_depth(depth_of(scenes)), same)[1]["seen"]
            for mask in (False, True)}  # fmt: skip
    assert seen[True] < 0.6 < 0.8 < seen[False]


def test_auto_mask_is_for_frames_of_a_video():
    assert depth(sources="next").auto_mask
    assert not depth().auto_mask


def test_consistency_counts_on_small_images_too(scenes):
    """SC-Depth's code returns a constant 0 where fewer than 10,000 pixels are seen."""
    true = depth_of(scenes)
    objective = depth(consistency=1.0)
    losses = {}
    for name, other in (("wrong", 2 * true), ("right", true)):
        network = says_depth(true)
        networks = iter([network.output, torch.cat([other.clamp(1, 80).log(), network.output[:, 1:]], 1)])
        network.forward = lambda *inputs, networks=networks: next(networks)
        found, _ = objective(network, scenes)
        found["consistency"].backward()
        assert network.output.grad.abs().sum() > 0
        losses[name] = float(found["consistency"].detach())
    assert SIZE[0] * SIZE[1] * 3 < 10_000
    assert losses["wrong"] > 0.2 > 0.1 > losses["right"]  # |Z − 2Z| / 3Z = ⅓


def test_left_and_right_must_agree(scenes):
    """Disparities of both views that lead to each other have almost no disagreement, others have."""
    task = Disparity()
    objective = Reprojection(task, Gaussian.for_task(task), PAIR)
    for factor in (1.0, 0.3):
        outputs = iter([scenes["disparity"], factor * scenes["disparity_right"].flip(-1)])
        network = Says(torch.zeros(1, 2, 1, 1))
        network.forward = lambda *inputs, outputs=outputs: torch.cat([(d := next(outputs)), torch.zeros_like(d)], 1)
        losses, logs = objective(network, scenes)
        found = float(losses["consistency"]) / objective.consistency
        assert (found < 0.1) if factor == 1 else (found > 0.2)
        if factor == 1:  # the points that the right camera sees are most of those that are kept
            assert logs["seen"] < 0.99
            assert logs["seen"] > 0.8 * scenes["disparity_valid"].float().mean()


@pytest.mark.parametrize("uncertainty", ["repr", "log"])
def test_the_spread_learns_the_photometric_error(uncertainty):
    """Two gray images have one error F everywhere, and the loss is least where the standard deviation is F."""
    task = Disparity()
    objective = Reprojection(task, Gaussian.for_task(task), PAIR, uncertainty=uncertainty, consistency=0, levels=1)
    batch = {"image": torch.full((1, 3, 8, 8), 0.5), "right": torch.full((1, 3, 8, 8), 0.9)}
    error = photometric_error(batch["image"], batch["right"])[0, 0, 0]
    zero = torch.zeros(1, 1, 8, 8)
    losses = {}
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0):
        found, _ = objective(Says(zero, torch.full_like(zero, float((factor * error).log()))), batch)
        losses[factor] = float(sum(found.values()).detach())
    assert min(losses, key=losses.get) == 1.0
    if uncertainty == "log":
        assert losses[1.0] == pytest.approx(float(1 + error.log()), abs=1e-5)


def test_smoothness_does_not_depend_on_the_scale_of_depth(scenes):
    """Undivided, the roughness of inverse depth is least where everything is far away."""
    networks = [says_depth(factor * depth_of(scenes).clamp(2, 40)) for factor in (0.5, 2)]
    near, far = (float(depth()(network, scenes)[0]["smoothness"].detach()) for network in networks)
    assert near == pytest.approx(far, rel=1e-2)
    assert near > 0


def test_learned_poses_are_parameters_and_learn(scenes):
    objective = depth(sources="next", poses="learned")
    assert set(objective.further) == {"next", "intrinsics"}
    losses, _ = objective(says_depth(depth_of(scenes)), scenes)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.parameters())
    assert sum(p.grad.abs().sum() for p in objective.parameters()) > 0


def test_pixels_that_no_source_shows_do_not_count(scenes):
    """Only the columns that the right camera sees are in the loss, so what others hold changes nothing."""
    task = Disparity()
    objective = Reprojection(task, Gaussian.for_task(task), PAIR, consistency=0, levels=1)
    shift = torch.full((3, 1, *SIZE), 20.0)
    network = Says(shift, torch.zeros_like(shift))
    first, logs = cost(objective, network, scenes)
    assert float(logs["seen"]) == pytest.approx(44 / 64)
    changed = scenes["image"].clone()
    changed[..., :18] = 0  # SSIM reads one column further
    assert cost(objective, network, scenes | {"image": changed})[0] == pytest.approx(first, abs=1e-6)


def test_no_pixel_that_is_seen_is_an_error_and_not_a_loss_of_0(scenes):
    task = Disparity()
    far = torch.full((3, 1, *SIZE), 100.0)
    with pytest.raises(DataError, match="no pixel of this batch is seen"):
        Reprojection(task, Gaussian.for_task(task), PAIR, consistency=0)(Says(far, torch.zeros_like(far)), scenes)


def test_a_static_video_is_refused(scenes):
    still = scenes | {"next": scenes["image"]}
    with pytest.raises(DataError, match="the same in every sample"):
        depth(sources="next", poses="learned")(says_depth(depth_of(scenes)), still)


def test_a_camera_that_only_turns_is_refused(scenes):
    turned = scenes["world_from_next"].clone()
    turned[:, :3, 3] = scenes["world_from_camera"][:, :3, 3]
    with pytest.raises(DataError, match="turn but do not move"):
        depth(sources="next")(says_depth(depth_of(scenes)), scenes | {"world_from_next": turned})
    one = turned.clone()
    one[0] = scenes["world_from_next"][0]  # a part of a batch may turn
    depth(sources="next")(says_depth(depth_of(scenes)), scenes | {"world_from_next": one})


@pytest.mark.parametrize("missing", ["right", "intrinsics", "world_from_camera", "world_from_right"])
def test_missing_entries_are_named(scenes, missing):
    with pytest.raises(DataError, match=f"no '{missing}'"):
        depth()(says_depth(depth_of(scenes)), {key: value for key, value in scenes.items() if key != missing})


def test_intrinsics_of_another_size_are_refused(scenes):
    large = scenes["intrinsics"] * torch.tensor([[4.0], [4.0], [1.0]])
    with pytest.raises(DataError, match="scale the intrinsics"):
        depth()(says_depth(depth_of(scenes)), scenes | {"intrinsics": large})


@pytest.mark.parametrize(
    ("task", "inputs", "how", "words"),
    [
        (Semantic(("a", "b"), ((0, 0, 0), (1, 1, 1))), ("image",), {}, "depth, disparity or flow"),
        (DEPTH, ("image",), {"poses": "guessed"}, "known or learned"),
        (DEPTH, ("image",), {"uncertainty": "none"}, "repr or log"),
        (DEPTH, ("image",), {"levels": 0}, "at least 1 level"),
        (DEPTH, ("image",), {"smoothness": -1.0}, "0 or more"),
        (DEPTH, ("image", "right"), {"consistency": 1.0}, "take one image"),
        (Disparity(), ("image",), {}, "takes an image and right"),
        (Disparity(), PAIR, {"sources": "next"}, "no other source"),
        (Disparity(), PAIR, {"poses": "learned"}, "is for depth"),
    ],
)
def test_choices_that_do_not_fit(task, inputs, how, words):
    likelihood = Categorical(2) if task.kind == "class" else Gaussian.for_task(task)
    with pytest.raises(ConfigError, match=words):
        Reprojection(task, likelihood, inputs, **how)


def test_a_method_with_a_loss_of_its_own_is_refused():
    plan = SimpleNamespace(training=replace(MethodTraining(lambda *given: None), loss=lambda *given: None))
    with pytest.raises(ConfigError, match="needs labels"):
        Reprojection.build(DEPTH, Gaussian.for_task(DEPTH), plan)


def test_even_maps_of_a_plane_are_even():
    """Inverse depth of a plane is linear in the pixels, so its second differences are 0."""
    x = torch.arange(8.0).expand(1, 1, 5, 8)
    even = DepthViews((), ("image",), False).even(1 / (0.1 + 0.02 * x))
    assert even.diff(dim=-1).diff(dim=-1).abs().max() < 1e-5
    assert even.mean() == pytest.approx(1)


def test_points_behind_nearer_ones_do_not_count(scenes):
    """With the true depth, most of what the right camera does not see is left out, and little else."""
    true = depth_of(scenes)
    seen = depth().views.seen(true, scenes, lambda inputs: true)[0].weight
    behind = scenes["disparity_occluded"] & scenes["depth_valid"]
    assert seen[behind].mean() < 0.3
    assert seen[scenes["disparity_valid"]].mean() > 0.9


@pytest.mark.parametrize(
    "how", [{"uncertainty": "log"}, {"smoothness": 1.0}, {"consistency": 0.5}, {"auto_mask": True}, {"levels": 1},
            {"sources": "next"}, {"sources": "next", "poses": "learned"}]
)  # fmt: skip
def test_every_choice_changes_the_loss(scenes, how):
    """MonoProb's code has an option whose loss is overwritten two lines later."""
    network = says_depth(1.2 * depth_of(scenes))
    plain, changed = (sum(depth(**each)(network, scenes)[0].values()).item() for each in ({}, how))
    assert changed != pytest.approx(plain, rel=1e-4)

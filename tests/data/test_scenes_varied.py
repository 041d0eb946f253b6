"""Scenes whose cameras and surfaces vary."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from sfumato.data import Scenes, load
from sfumato.data.scenes import TEXTURES
from sfumato.data.scenes.dataset import photographed
from sfumato.errors import ConfigError
from sfumato.training.job import choose_workers

SIZE = (48, 64)


def mismatch(sample, shift):
    """How much the right view differs from the image if each point is looked for ``shift`` px beside its place."""
    width = sample["right"].shape[2]
    x = torch.arange(width) - sample["disparity"][0] + shift
    low = x.floor().long().clamp(0, width - 2)
    part = (x - low).clamp(0, 1)
    rows = [sample["right"].gather(2, (low + step).expand(3, -1, -1)) for step in (0, 1)]
    error = ((rows[0] * (1 - part) + rows[1] * part) - sample["image"]).abs().mean(0)
    return avg_pool2d(error[None, None], 5, 1, 2)[0, 0]


def test_the_texture_says_where_matching_is_ambiguous():
    """On rich surfaces fewer points look like another one within 20 px than on the others."""
    scenes = Scenes(12, (96, 128), seed=3, views=("right",), varied=True)
    alike = {name: [] for name in TEXTURES}
    for index in range(len(scenes)):
        sample = scenes[index]
        others = torch.stack([mismatch(sample, step / 2) for step in range(-40, 41) if abs(step) > 4]).amin(0)
        for texture, found in enumerate(alike.values()):
            where = sample["disparity_valid"] & (sample["texture"] == texture)
            found.append((others < mismatch(sample, 0) + 0.01)[where].float())
    share = {name: float(torch.cat(found).mean()) for name, found in alike.items()}
    assert share["rich"] + 0.1 < share["repetitive"] < share["poor"]


def test_pictures_have_the_noise_that_they_say():
    gray = {name: torch.full((3, 60, 80), 0.3) for name in ("image", "right")}
    seen = []
    for seed in range(5):
        found = photographed(gray, np.random.default_rng(seed))
        sigma = float(found["noise_sigma"])
        seen.append(sigma)
        for name in gray:
            below_one = found[name][found[name] < 1]
            assert float((below_one - below_one.mean()).std()) == pytest.approx(sigma, rel=0.05)
    assert 0 < min(seen) < max(seen) <= 0.03
    assert found["image"].mean() != found["right"].mean()


def test_the_data_set_of_this_name():
    data = load("varied-scenes", size=SIZE)
    assert (len(data), len(load("varied-scenes", split="val"))) == (2000, 100)
    assert data.tasks["disparity"].maximum == 16
    sample = data.providing(["disparity"])[3]
    assert {"right", "disparity", "noise_sigma"} <= sample.keys()
    assert not {"next", "flow"} & sample.keys()
    again = load("varied-scenes", size=SIZE).providing(["flow"])[3]
    for key in ("image", "depth_true", "intrinsics"):
        assert torch.equal(sample[key], again[key]), key  # the other pictures change nothing of this one
    both = load("varied-scenes", size=SIZE).providing(["flow", "world_from_right", "previous"])[3]
    assert torch.equal(both["right"], sample["right"])
    assert torch.equal(both["next"], again["next"])
    with pytest.raises(ConfigError, match="split of varied-scenes is 'fog-3'"):
        load("varied-scenes", split="fog-3")


def test_measured_disparity_and_flow_have_the_noise_that_they_say():
    residuals, sigmas = {"disparity": [], "flow": []}, []
    plain, data = Scenes(20, SIZE, views=True), Scenes(20, SIZE, views=True, noisy=True)
    for index in range(20):
        sample, exact = data[index], plain[index]
        for key, found in residuals.items():
            assert torch.equal(sample[f"{key}_true"], exact[key])
            sigma, valid = sample[f"{key}_sigma"], sample[f"{key}_valid"]
            assert sigma.shape == exact[key].shape
            found.append(((sample[key] - exact[key]) / sigma)[:, valid].flatten())
        assert torch.equal(sample["disparity_right"], exact["disparity_right"])
        sigmas.append(sample["disparity_sigma"][0][sample["disparity_valid"]])
    sigmas = torch.cat(sigmas)
    assert (float(sigmas.min()), float(sigmas.max())) == pytest.approx((0.4, 2.4))
    for found in map(torch.cat, residuals.values()):
        assert float(found.mean()) == pytest.approx(0, abs=0.02)
        assert float(found.var()) == pytest.approx(1, rel=0.05)
        assert float(found.abs().mean()) == pytest.approx(0.5**0.5, rel=0.02)  # of a normal distribution 0.80
    sample = load("noisy-scenes", split="val", size=SIZE).providing(["flow"])[0]
    assert {"flow_true", "flow_sigma"} <= sample.keys()
    assert "disparity" not in sample
    assert "disparity_sigma" in load("noisy-scenes", size=SIZE).providing(["disparity_sigma"])[0]


@pytest.mark.parametrize(("cores", "workers"), [(2, 0), (4, 2), (16, 8), (64, 8)])
def test_other_processes_make_scenes_where_there_are_cores(monkeypatch, cores, workers):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert choose_workers(Scenes(2, SIZE)) == workers
    assert choose_workers([{"image": torch.zeros(3, 2, 2)}]) == 0
    assert choose_workers(Scenes(2, SIZE), 3) == 3


@pytest.mark.parametrize("size", [(1, 1), (2, 9)])
def test_tiny_pictures(size):
    for index in range(4):
        sample = Scenes(4, size, views=("right", "next", "previous"), varied=True)[index]
        assert all(v.isfinite().all() for v in sample.values() if isinstance(v, torch.Tensor))

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.data import Scenes
from sfumato.data.scenes import SHIFTS, shift


def shifted(kind, severity, image, depth, seed=0):
    return shift(image, kind, severity, depth=depth, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=20)
@given(kind=st.sampled_from(SHIFTS), seed=st.integers(0, 10_000), height=st.integers(1, 12), width=st.integers(1, 80))
def test_worse_is_further_from_clean(kind, seed, height, width):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(3, height, width, generator=generator)
    depth = torch.rand(1, height, width, generator=generator) * 50
    levels = [shifted(kind, severity, image, depth, seed) for severity in range(1, 6)]
    distances = [0.0, *(float((level - image).square().mean()) for level in levels)]
    assert all(level.min() >= 0 and level.max() <= 1 for level in levels)
    slack = 0.02 * distances[-1] if kind == "blur" else 1e-9  # a blur's border repeats, so tiny pictures may waver
    assert all(far >= near - slack for near, far in pairwise(distances))


def test_fog_is_the_textbook_mixture():
    image, depth = torch.tensor([[[0.2, 0.2]]]).expand(3, 1, 2), torch.tensor([[[10.0, float("inf")]]])
    through = torch.exp(torch.tensor(-0.02 * 10))
    found = shift(image, "fog", 1, depth=depth)
    torch.testing.assert_close(found[:, 0, 0], (0.2 * through + 0.85 * (1 - through)).expand(3))
    assert (found[:, 0, 1] > found[:, 0, 0]).all()


def test_noise_is_the_same_only_stronger():
    image = torch.full((3, 4, 4), 0.5)
    one, two = (shifted("noise", severity, image, None) - image for severity in (1, 2))
    torch.testing.assert_close(two, 2 * one)
    assert torch.equal(image, torch.full((3, 4, 4), 0.5))


def test_blur_keeps_flat_pictures_and_the_mean_of_inner_points():
    torch.testing.assert_close(shift(torch.full((3, 9, 50), 0.3), "blur", 5), torch.full((3, 9, 50), 0.3))
    point = torch.zeros(3, 41, 41)
    point[:, 20, 20] = 1
    spread = shift(point, "blur", 3)
    torch.testing.assert_close(spread.sum((1, 2)), torch.ones(3))
    x = torch.arange(41.0) - 20
    assert (spread[0].sum(0) * x**2).sum().sqrt().item() == pytest.approx(0.012 * 41, rel=0.35)


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_shift_changes_images_and_no_target(kind):
    clean = Scenes(1, (16, 96), views=True)[0]
    mild, severe = (Scenes(1, (16, 96), views=True, shift=kind, severity=s)[0] for s in (1, 5))
    for key in ("image", "right", "next"):
        near, far = ((sample[key] - clean[key]).abs().mean() for sample in (mild, severe))
        assert 0 < near < far
        assert severe[key].min() >= 0
        assert severe[key].max() <= 1
    for key in clean.keys() - {"name", "image", "right", "next"}:
        assert torch.equal(clean[key], severe[key]), key


def test_noise_differs_between_views():
    noise = Scenes(1, (24, 32), views=True, shift="noise", severity=1)[0]
    clean = Scenes(1, (24, 32), views=True)[0]
    left, right = ((noise[key] - clean[key]).flatten() for key in ("image", "right"))
    assert torch.corrcoef(torch.stack([left, right]))[0, 1].abs() < 0.1


def test_fog_needs_depth():
    with pytest.raises(ValueError, match="fog without depth"):
        shift(torch.zeros(3, 2, 2), "fog", 1)


@pytest.mark.parametrize(("kind", "severity"), [("snow", 1), ("blur", 0), ("blur", 6)])
def test_unknown_shift(kind, severity):
    with pytest.raises(ValueError, match="expected"):
        shift(torch.zeros(3, 2, 2), kind, severity)

"""Where an earlier frame shows the pixels of a frame, and how far that is trusted."""

import pytest
import torch

from sfumato.data import Scenes
from sfumato.errors import DataError
from sfumato.geometry import dis_flow, follow, sample_at


def moved(seed=0, size=(24, 32), step=3):
    """A frame, the frame before it from which it has moved to the right by whole pixels, and the flow function."""
    wide = torch.rand(1, 3, size[0], size[1] + step, generator=torch.Generator().manual_seed(seed))
    earlier, image = wide[..., step:], wide[..., :-step]

    def flow(first, second):
        sign = -1 if first is image else 1
        return torch.tensor([sign * step, 0.0]).view(1, 2, 1, 1).expand(1, 2, *size)

    return image, earlier, flow


def test_a_shift_is_followed_exactly_and_the_new_border_is_not_trusted():
    image, earlier, flow = moved()
    pixels, trust = follow(image, earlier, flow)
    assert torch.equal(pixels[0, 0, 0], torch.arange(32.0) - 3)
    torch.testing.assert_close(sample_at(earlier, pixels)[0][..., 3:], image[..., 3:])
    assert (trust[..., :3] == 0).all()
    assert trust[..., 4:].min() > 0.999  # the pixel beside the border has the border among its neighbors


def test_a_way_back_that_misses_the_start_is_not_trusted():
    image, earlier, flow = moved()
    _, trust = follow(image, earlier, lambda a, b: flow(a, b) if a is image else flow(a, b) + 4)
    length = 3**2 + 7**2 + 4**2  # there (−3, 0), back (7, 4)
    assert trust[0, 10, 20].item() == pytest.approx(torch.tensor(-32 / (0.01 * length + 0.5)).exp().item(), abs=1e-4)


def test_another_color_is_not_trusted():
    still = torch.full((1, 3, 9, 9), 0.5)
    other = still.clone()
    other[..., :4] = 0.8
    _, trust = follow(still, other, lambda a, b: torch.zeros(1, 2, 9, 9))
    assert trust[0, 4, 0].item() == pytest.approx(torch.tensor(-9.0).exp().item(), rel=1e-3)  # (0.3 / 0.1)²
    assert trust[0, 4, 8].item() == 1


def test_exact_flow_of_scenes_trusts_what_is_seen_and_not_what_is_hidden():
    seen, hidden = [], []
    for index in range(3):
        sample = Scenes(3, (96, 128), seed=1, views=("next",))[index]
        exact = [sample["flow_back"][None], sample["flow"][None]]  # in the order in which they are asked for
        _, trust = follow(sample["next"][None], sample["image"][None], lambda a, b, left=exact: left.pop(0))
        seen.append(trust[0][sample["flow_back_valid"]])
        hidden.append(trust[0][sample["flow_back_occluded"]])
    assert torch.cat(seen).mean() > 0.8
    assert torch.cat(hidden).mean() < 0.4


def test_opencv_follows_a_video_and_not_a_cut():
    pytest.importorskip("cv2")
    first, second = (Scenes(1, (96, 128), seed=seed, views=("next",))[0] for seed in (1, 2))
    assert follow(first["next"][None], first["image"][None], dis_flow)[1].mean() > 0.6
    assert follow(second["image"][None], first["image"][None], dis_flow)[1].mean() < 0.1


@pytest.mark.parametrize(
    "flow", [lambda a, b: torch.zeros(1, 2, 3, 3), lambda a, b: torch.full((1, 2, 4, 6), torch.nan)]
)
def test_a_flow_that_cannot_be_used_is_refused(flow):
    with pytest.raises(DataError, match=r"the flow has the shape .* expected finite vectors \(1, 2, 4, 6\)"):
        follow(torch.zeros(1, 3, 4, 6), torch.zeros(1, 3, 4, 6), flow)
    with pytest.raises(DataError, match="two frames have shapes"):
        follow(torch.zeros(1, 3, 4, 6), torch.zeros(1, 3, 4, 5), flow)

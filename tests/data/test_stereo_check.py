"""Stereo pairs whose views are exchanged."""

import os
from pathlib import Path

import pytest
import torch

from sfumato.data import Scenes, load
from sfumato.data.stereo_check import check_views, negative_share
from sfumato.data.survey import survey
from sfumato.errors import DataError
from sfumato.runs import Config
from sfumato.training import make_plan

REAL = Path(os.environ.get("SFUMATO_DATA", "data")) / "middlebury"


class Exchanged(torch.utils.data.Dataset):
    def __init__(self, whole):
        self.whole, self.tasks, self.names = whole, whole.tasks, whole.names

    def __len__(self):
        return len(self.whole)

    def __getitem__(self, index):
        sample = self.whole[index]
        return sample | {"image": sample["right"], "right": sample["image"]}


@pytest.mark.parametrize("varied", [False, True])
def test_exchanged_views_are_noticed(varied):
    scenes = Scenes(6, (48, 64), seed=7, views=("right",), varied=varied)
    for index in range(6):
        sample = scenes[index]
        assert negative_share(sample["image"], sample["right"]) < 0.2
        assert negative_share(sample["right"], sample["image"]) > 0.8
        check_views(sample)
        with pytest.raises(DataError, match=rf"sample '{sample['name']}' seem to be exchanged"):
            check_views(Exchanged(scenes)[index])


def test_nothing_is_said_without_matches():
    flat, noise = torch.full((3, 48, 64), 0.5), torch.rand(3, 48, 64)
    for left, right in ((flat, flat), (noise, torch.rand(3, 48, 64)), (flat[:, :5, :5], flat[:, :5, :5])):
        assert negative_share(left, right) != negative_share(left, right)  # NaN
    check_views({"image": flat})
    check_views({"image": flat, "right": flat[:, :4]})


@pytest.mark.parametrize("shift", [-6, 3])
@pytest.mark.parametrize("size", [(40, 60), (90, 300)])
def test_a_known_shift(shift, size):
    torch.manual_seed(0)
    wide = torch.rand(3, size[0], size[1] + 100).cumsum(2).sin() * 0.5 + 0.5
    left = wide[..., 50 : 50 + size[1]]
    factor = max(1, size[1] // 60)
    right = wide[..., 50 + shift * factor : 50 + shift * factor + size[1]]  # x_right = x − shift
    assert negative_share(left, right) == (shift < 0)
    assert negative_share((255 * left).byte(), (255 * right).byte()) == (shift < 0)


def test_training_does_not_begin():
    with pytest.raises(DataError, match="Exchange the two views"):
        make_plan(Config(task="disparity", size=(48, 64)), Exchanged(Scenes(2, (48, 64), views=True)))


def test_check_lists_each_such_pair(tmp_path):
    from PIL import Image

    scenes = Scenes(2, (48, 64), views=("right",))
    for index in range(2):
        sample = scenes[index]
        (tmp_path / f"{index}").mkdir()
        for name, key in (("im6", "image"), ("im2", "right")):
            Image.fromarray((255 * sample[key]).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{index}/{name}.png")
    problems = survey("middlebury", tmp_path).problems
    assert len(problems) == 2
    assert all("seem to be exchanged" in line for line in problems)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the Middlebury pairs")
def test_the_real_pairs():
    data = load("middlebury", REAL)
    for index in range(len(data)):
        sample = data[index]
        assert negative_share(sample["image"], sample["right"]) < 0.05
        assert negative_share(sample["right"], sample["image"]) > 0.95

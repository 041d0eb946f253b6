"""From disk to disk the numbers are those of memory, and no window is larger than a tile."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError, DataError, MissingDependencyError, MissingFileError, RunExistsError
from sfumato.likelihoods import Categorical, Gaussian
from sfumato.methods import Deterministic, MCDropout
from sfumato.models import UNet
from sfumato.predictions import predict, predict_streamed, predict_tiled, read_window
from sfumato.testing import check_prediction

zarr = pytest.importorskip("zarr")
WHOLE = slice(None)


def stored(tmp_path, pixels):
    array = zarr.create_array(tmp_path / "image.zarr", shape=pixels.shape, chunks=(3, 16, 16), dtype=pixels.dtype)
    array[:] = pixels
    return array


@pytest.mark.parametrize("likelihood", [Categorical(4), Gaussian(unit="m")])
@pytest.mark.parametrize("size", [(50, 67), (9, 30)])
def test_the_numbers_are_those_of_memory(tmp_path, likelihood, size):
    torch.manual_seed(0)
    method = MCDropout(UNet(likelihood.channels, widths=(4, 8)), 3)
    pixels = torch.rand(3, *size)
    choices = {"likelihood": likelihood, "tile": (24, 20), "overlap": 8}
    generator = torch.Generator().manual_seed(0)
    expected = predict_tiled(method, pixels[None], **choices, generator=generator)
    predict_streamed(method, stored(tmp_path, pixels.numpy()), tmp_path / "out", **choices,
                     generator=torch.Generator().manual_seed(0))  # fmt: skip
    found = read_window(tmp_path / "out", WHOLE, WHOLE)
    check_prediction(found)
    assert found.draws == 3
    for part in ("total", "aleatoric", "epistemic", "best"):
        assert torch.allclose(getattr(found, part), getattr(expected, part), atol=1e-6), part
    window = read_window(tmp_path / "out", slice(3, 8), slice(10, 29))
    assert torch.equal(window.total, found.total[:, 3:8, 10:29])
    if isinstance(likelihood, Gaussian):
        assert found.unit == "m"
    assert {path.name for path in tmp_path.iterdir()} == {"image.zarr", "out"}


class Watched:
    """Notes how much is asked for at once."""

    def __init__(self, pixels):
        self.pixels, self.shape, self.dtype, self.largest = pixels, pixels.shape, pixels.dtype, 0

    def __getitem__(self, where):
        found = self.pixels[where]
        self.largest = max(self.largest, found[0].size)
        return found


def test_any_array_is_read_by_tiles_and_as_one_pass_would(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 4, 3, padding=1))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 70, 60), dtype=np.uint8)
    image = Watched(pixels)
    predict_streamed(
        Deterministic(network), image, tmp_path / "out", likelihood=Categorical(4), tile=(24, 20), overlap=8
    )
    assert image.largest == 24 * 20
    whole = predict(Deterministic(network), torch.from_numpy(pixels)[None] / 255, likelihood=Categorical(4))
    assert torch.allclose(read_window(tmp_path / "out", WHOLE, WHOLE).probs, whole.probs, atol=1e-6)


def test_refused(tmp_path, monkeypatch):
    method, likelihood = Deterministic(nn.Conv2d(3, 4, 1)), Categorical(4)
    image = np.zeros((3, 8, 8), np.float32)
    (tmp_path / "there").mkdir()
    with pytest.raises(RunExistsError, match="there exists: delete it"):
        predict_streamed(method, image, tmp_path / "there", likelihood=likelihood)
    for wrong in (image[0], image.astype(np.int32)):
        with pytest.raises(DataError, match=r"expected \(C, H, W\), uint8 or float"):
            predict_streamed(method, wrong, tmp_path / "out", likelihood=likelihood)
    with pytest.raises(ConfigError, match=r"tile is \(4, 4\) and overlap 128"):
        predict_streamed(method, image, tmp_path / "out", likelihood=likelihood, tile=(4, 4))
    with pytest.raises(MissingFileError, match="out does not exist"):
        read_window(tmp_path / "out", WHOLE, WHOLE)
    with pytest.raises(DataError, match="there holds no prediction"):
        read_window(tmp_path / "there", WHOLE, WHOLE)
    assert {path.name for path in tmp_path.iterdir()} == {"there"}
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'sfumato\[large\]'"):
        predict_streamed(method, image, tmp_path / "out", likelihood=likelihood)

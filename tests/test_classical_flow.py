"""Flow by OpenCV and the forward–backward check on patterns whose motion is known."""

import sys

import pytest
import torch

from sfumato.errors import ConfigError, DataError, MissingDependencyError
from sfumato.geometry import dis_flow, forward_backward_error


def pattern(count=2, side=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, side // 4, side // 4, generator=generator)
    return torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)


def test_a_translation_is_found():
    pytest.importorskip("cv2")
    whole = pattern()
    first, second = whole[..., 8:72, 8:72], whole[..., 6:70, 5:69]  # the scene moves 3 px right and 2 px down
    flow, back = dis_flow(first, second), dis_flow(second, first)
    assert flow.shape == (2, 2, 64, 64)
    inside = flow[..., 12:-12, 12:-12]
    assert inside[:, 0].median().item() == pytest.approx(3, abs=0.1)
    assert inside[:, 1].median().item() == pytest.approx(2, abs=0.1)
    assert forward_backward_error(flow, back)[:, 12:-12, 12:-12].median() < 0.1


def test_the_check_sees_what_is_wrong_and_where():
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0] = 2.0
    back = -flow
    assert forward_backward_error(flow, back).max() < 1e-6
    back[:, 1, 3, 5] = 4.0  # the pixel (5, 3), where the pixel (3, 3) ends
    error = forward_backward_error(flow, back)[0]
    assert error[3, 3].item() == pytest.approx(4)
    assert (error > 1e-6).sum() == 1


def test_it_is_imported_only_when_it_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match=r"sfumato\[geometry\]"):
        dis_flow(*pattern()[:, None])


@pytest.mark.parametrize(("change", "error", "message"), [
    (lambda a: (a, a, "slow"), ConfigError, "expected one of ultrafast"),
    (lambda a: (a, a[..., :-1]), DataError, "of the same size"),
    (lambda a: (a[..., :8, :8], a[..., :8, :8]), DataError, "at least 16"),
    (lambda a: (a, a * torch.nan), DataError, "NaN"),
])  # fmt: skip
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        dis_flow(*change(pattern()))

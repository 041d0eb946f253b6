import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from sfumato.errors import ResourceError
from sfumato.report import save_map, save_maps, save_panel


def test_a_map_keeps_its_scale_whatever_the_values(tmp_path):
    low = save_map(torch.full((20, 30), 0.1), tmp_path / "low.png", "$weird_{name", "nats", (0.0, 1.0))
    high = save_map(torch.full((20, 30), 0.9), tmp_path / "high.png", "total", "nats", (0.0, 1.0))
    dark, light = (np.asarray(Image.open(path).convert("L")).astype(int) for path in (low, high))
    middle = dark.shape[0] // 2, dark.shape[1] // 2
    assert dark[middle] < 60 < 180 < light[middle]


@pytest.mark.parametrize("which", ["class_report", "value_report"])
def test_panels_and_maps_of_any_task(which, request, tmp_path):
    report = request.getfixturevalue(which)
    with Image.open(save_panel(report.images[:2], report.task, tmp_path / "panel.png")) as strip:
        assert strip.width > 3 * strip.height > 0
    save_maps(report.images[0].prediction, report.task, tmp_path, "a")
    assert {"a_label.png", "a_total.png", "a_aleatoric.png", "a_epistemic.png"} <= {
        path.name for path in tmp_path.iterdir()
    }
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    path.write_bytes(b"old")

    def full(self, target, **_):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(ResourceError, match="disk is full"):
        save_map(torch.zeros(2, 2), path, "total", "nats", (0, 1))
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]
    assert path.read_bytes() == b"old"

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.errors import ResourceError
from sfumato.predictions import ValuePrediction
from sfumato.report import Panel, save_figure, save_panel
from sfumato.report.pictures import color_key
from sfumato.report.prediction_figure import GAP, LINE, WIDTH, small_font
from sfumato.tasks import Flow


def test_a_figure_shows_each_map_on_a_scale_of_its_own(tmp_path):
    image = np.full((20, 30, 3), 128, np.uint8)
    dim = np.linspace(0, 0.001, 600, dtype=np.float32).reshape(20, 30)
    panels = [Panel("image", image), Panel("total", 100 * dim, "nats", 0.1), Panel("$epistemic_{", dim, "nats", 0.001)]
    with Image.open(save_figure(panels, tmp_path / "figure.png")) as picture:
        sheet = np.asarray(picture.convert("RGB")).astype(int)
    height = round(WIDTH * 20 / 30)
    parts = [sheet[GAP + LINE :, GAP + n * (WIDTH + GAP) :][:height, :WIDTH] for n in (1, 2)]
    assert np.array_equal(*parts)
    assert parts[1].sum(-1).max() > 600 > 60 > parts[1].sum(-1).min()  # from dark to bright, however small the values


@pytest.mark.parametrize("which", ["class_report", "value_report"])
def test_panels_of_any_task(which, request, tmp_path):
    report = request.getfixturevalue(which)
    with Image.open(save_panel(report.images[:2], report.task, tmp_path / "panel.png")) as strip:
        assert strip.width > 3 * strip.height > 0
    assert not list(tmp_path.glob("*.part"))


def test_a_full_disk_leaves_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    path.write_bytes(b"old")

    def full(self, target, *_, **__):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ResourceError, match="disk is full"):
        save_figure([Panel("total", np.zeros((2, 2)))], path)
    assert [p.name for p in tmp_path.iterdir()] == ["map.png"]
    assert path.read_bytes() == b"old"


def test_a_picture_of_vectors_has_a_disk_of_colors_in_its_corner(tmp_path):
    task = Flow(10.0)
    one = torch.ones(1, 2, 40, 60)
    key = color_key(ValuePrediction(one, one, one, "px"), task, task.display_range)
    gray = np.full((40, 60, 3), 128, np.uint8)
    for panel, colorful in ((Panel("flow", gray, key=key), True), (Panel("flow", gray[:1], key=key), True),
                            (Panel("flow", gray), False)):  # fmt: skip
        save_figure([panel], tmp_path / "figure.png")
        saturation = np.asarray(Image.open(tmp_path / "figure.png").convert("HSV"))[..., 1]
        assert (saturation > 100).any() == colorful


def test_the_font_of_pictures_has_greek_letters_and_arrows():
    font = small_font()
    unknown = bytes(font.getmask("\U0010ffff"))
    assert all(bytes(font.getmask(letter)) != unknown for letter in "σ→↓←↑")

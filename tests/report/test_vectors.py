"""Drawn vectors: places, sizes and directions of lines and ellipses."""

import numpy as np
import pytest
import torch

from sfumato.errors import ConfigError
from sfumato.predictions import ValuePrediction
from sfumato.report.vectors import ARROW, RING, color_wheel, draw_vectors
from sfumato.tasks import Flow


def drawn(variance=(4.0, 4.0), correlation=0.0, flow=(0.0, 0.0), image=None):
    """One vector in the middle of an image of 48 × 48 pixels, each of which is drawn as 20 × 20."""
    ones = torch.ones(1, 2, 48, 48)
    mean, spread = (torch.tensor(each).view(1, 2, 1, 1) * ones for each in (flow, variance))
    found = ValuePrediction(mean, spread, 0 * ones, "px", image=image,
                            aleatoric_correlation=torch.full((1, 1, 48, 48), correlation))  # fmt: skip
    return draw_vectors(found, level=1 - np.exp(-0.5), step=48)  # the ellipse at the distance 1


def places(picture, color):
    """Where a color is, in pixels of the image."""
    y, x = np.nonzero((picture == np.array(color, np.uint8)).all(-1))
    return x / 20 - 0.5, y / 20 - 0.5


def test_an_ellipse_has_the_standard_deviations_as_half_axes():
    x, y = places(drawn(variance=(36.0, 4.0)), RING)
    assert (x.max() - x.min()) / 2 == pytest.approx(6, abs=0.2)
    assert (y.max() - y.min()) / 2 == pytest.approx(2, abs=0.2)
    assert (x.max() + x.min()) / 2 == pytest.approx(24, abs=0.2)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_correlation_turns_the_ellipse(sign):
    x, y = places(drawn(variance=(25.0, 25.0), correlation=0.9 * sign), RING)
    assert np.sign(np.corrcoef(x, y)[0, 1]) == sign


def test_the_ellipse_is_around_the_end_of_the_vector():
    picture = drawn(flow=(12.0, -8.0))
    x, y = places(picture, RING)
    assert ((x.max() + x.min()) / 2, (y.max() + y.min()) / 2) == pytest.approx((36, 16), abs=0.2)
    x, y = places(picture, ARROW)
    assert (x.min(), y.max()) == pytest.approx((24, 24), abs=0.3)


def test_the_image_is_below():
    bright = drawn(image=torch.ones(1, 3, 48, 48))[0, 0]
    dark = drawn(image=torch.zeros(1, 3, 48, 48))[0, 0]
    assert bright[0] > 150 > dark[0]


def test_the_wheel_shows_the_colors_of_the_task():
    task = Flow(7.0)
    wheel = color_wheel(task, 51)
    assert (wheel[0, 0] == 255).all()
    assert (wheel[25, 25] == 255).all()  # no motion is white
    right = task.color(torch.tensor([7.0, 0.0]).view(2, 1, 1))[0, 0].numpy()
    assert (wheel[25, 50] == right).all()


def test_what_cannot_be_drawn_is_refused():
    one = torch.ones(1, 1, 4, 4)
    with pytest.raises(ConfigError, match="expected a map of two values"):
        draw_vectors(ValuePrediction(one, one, one))
    two = torch.ones(1, 2, 4, 4)
    with pytest.raises(ConfigError, match="level is 1"):
        draw_vectors(ValuePrediction(two, two, two), level=1)
    with pytest.raises(ConfigError, match="step is -1"):
        draw_vectors(ValuePrediction(two, two, two), step=-1)

import base64
import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sfumato.errors import ConfigError
from sfumato.predictions import UNCERTAINTIES, ClassPrediction, ValuePrediction
from sfumato.report import display_maps, layers_of, packing, pictures


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


@given(st.floats(1e-6, 1e6), st.lists(st.floats(0, 2), min_size=1, max_size=50))
def test_eight_bits_are_monotone_fine_near_zero_and_end_with_the_scale(end, shares):
    values = torch.tensor(shares, dtype=torch.float64) * end
    back = (packing.byte_codes(values, end).astype(float) / 255) ** 2 * end
    expected = values.clamp(max=end).numpy()
    assert (np.abs(back - expected) <= end * (np.sqrt(expected / end) / 255 + 1 / 255**2)).all()


def test_not_a_number_counts_as_most_uncertain():
    assert packing.byte_codes(torch.tensor([float("nan"), float("inf"), 0.0]), 1.0).tolist() == [255, 255, 0]


def test_parts_of_values_are_standard_deviations_that_add_up_in_squares():
    law = ValuePrediction(torch.zeros(1, 2, 3, 4), torch.rand(1, 2, 3, 4), torch.rand(1, 2, 3, 4), "px", 5)
    shown = display_maps(law)
    torch.testing.assert_close(shown["total"] ** 2, shown["aleatoric"] ** 2 + shown["epistemic"] ** 2)
    target = torch.zeros(2, 3, 4)
    target[0], target[1] = 3, 4
    torch.testing.assert_close(layers_of(law, target).error, torch.full((3, 4), 5.0))
    assert (layers_of(law, target).unit, layers_of(law, target).score) == ("px", "RMSE")


def test_parts_of_classes_are_nats_as_they_are():
    law = ClassPrediction(torch.tensor([0.9, 0.1]).view(1, 2, 1, 1), torch.tensor([[[0.2]]]), 4)
    shown = display_maps(law)
    torch.testing.assert_close(shown["total"], shown["aleatoric"] + shown["epistemic"])
    assert layers_of(law, torch.tensor([[0]])).error.item() == 0
    assert layers_of(law, torch.tensor([[1]])).error.item() == 1


def test_other_things_are_refused():
    with pytest.raises(ConfigError, match="a str cannot be shown"):
        display_maps("text")


def test_packed_pixels_decode_to_what_went_in(value_report):
    shown = value_report.images[0]
    seen = layers_of(shown.prediction, shown.target)
    worst = seen.error[shown.valid].max().item()
    ends = {"total": 8.0, "aleatoric": 7.0, "epistemic": 5.0, "worst": worst}
    packed = packing.pack_image(shown, seen, value_report.task, ends, shown.image.shape[-2:])
    code = pixels(packed["error"]).astype(int)
    assert ((code[..., 2] > 127) == shown.valid.numpy()).all()
    error = (code[..., 0] * 256 + code[..., 1]) / 65535 * worst
    np.testing.assert_allclose(error, seen.error.where(shown.valid, 0).numpy(), atol=worst / 65535)
    for channel, part in enumerate(UNCERTAINTIES):
        back = (pixels(packed["parts"])[..., channel] / 255) ** 2 * ends[part]
        expected = seen.maps[part].clamp(max=ends[part]).numpy()
        np.testing.assert_allclose(back, expected, atol=ends[part] / 200)
    assert (pixels(packed["target"])[..., 3] == shown.valid.numpy() * 255).all()


def test_thinned_pixels_exist_and_the_full_size_changes_nothing():
    values = torch.arange(35).view(5, 7)
    assert (packing.subsample(values, (5, 7)) == values).all()
    assert packing.subsample(values, (1, 1)).item() == 0
    assert set(packing.subsample(values, (3, 4)).flatten().tolist()) <= set(range(35))


def test_scale_is_shared_and_ignores_outliers_and_nothing():
    calm = torch.rand(10_000)
    assert pictures.scale_end([calm, torch.tensor([1e9])]) == pytest.approx(0.99, abs=0.02)
    assert pictures.scale_end([torch.zeros(4)]) == 1.0
    assert pictures.scale_end([]) == 1.0


def test_key_tells_classes_by_name_and_values_by_a_bar(class_report, value_report):
    swatches = pictures.color_key(class_report.images[0].prediction, class_report.task, (0, 1)).swatches
    assert swatches[0] == ("sky", "#9ec8e6")
    assert len(swatches) == 5
    bar = pictures.color_key(value_report.images[0].prediction, value_report.task, (1.0, 9.0))
    assert bar.bar is not None
    assert bar.bar[0].tolist() == value_report.task.color(torch.tensor([[1.0]]))[0, 0].tolist()
    assert (bar.ends, bar.unit) == ((1.0, 9.0), "m")

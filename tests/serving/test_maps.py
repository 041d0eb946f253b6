"""16-bit pictures are read back as they were written."""

import io

import numpy as np
import pytest
from PIL import Image

from sfumato.serving.maps import write_gray


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (37, 53)])
def test_pixels_come_back(size, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, size, dtype=np.uint16)
    pixels.flat[0] = 65535
    file = io.BytesIO()
    write_gray(pixels, file)
    write_gray(pixels, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == file.getvalue()
    with Image.open(file) as picture:
        picture.verify()
    with Image.open(file) as picture:
        assert picture.mode == "I;16"
        assert (np.asarray(picture) == pixels).all()

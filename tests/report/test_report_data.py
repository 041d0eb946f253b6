import pytest
import torch

from sfumato.errors import DataError
from sfumato.predictions import ClassPrediction
from sfumato.report import ReportImage


@pytest.mark.parametrize(("batch", "size"), [(1, (4, 6)), (2, (4, 5))])
def test_an_image_refuses_what_does_not_fit(batch, size):
    prediction = ClassPrediction(torch.full((batch, 2, *size), 0.5), torch.zeros(batch, *size))
    with pytest.raises(DataError, match="a0: image 4×5"):
        ReportImage(
            "a0", torch.zeros(3, 4, 5), prediction, torch.zeros(4, 5, dtype=torch.int64), torch.ones(4, 5).bool()
        )

"""Networks of other libraries as runs, without training."""

from __future__ import annotations

import pytest

import sfumato
from interop.networks import CLASSES, NETWORKS, built
from sfumato.data import Scenes
from sfumato.tasks import Semantic

# One of each library, and those whose outputs are dicts or smaller than the image.
WRAPPED = ["smp U-Net", "torchvision FCN", "transformers SegFormer", "timm ConvNeXt, own head"]


class FewClasses:
    """Scenes with as many classes as the networks have."""

    inputs = ("image",)
    tasks = {"classes": Semantic(tuple(f"class {n}" for n in range(CLASSES)), tuple((n, n, n) for n in range(CLASSES)))}  # noqa: RUF012

    def __init__(self) -> None:
        self.scenes = Scenes(4, size=(64, 64))
        self.names = self.scenes.names

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, object]:
        sample = self.scenes[index]
        kept = {key: sample[key] for key in ("name", "image", "classes", "classes_valid")}
        return {**kept, "classes": sample["classes"] % CLASSES}


@pytest.mark.parametrize("name", [name for name in WRAPPED if name in NETWORKS])
def test_wrapped(name, tmp_path, capsys):
    data, network = FewClasses(), built(name)
    run = sfumato.wrap(getattr(network, "network", network), (data, data), out=tmp_path / "run", progress=False)
    assert "images are normalized as" in capsys.readouterr().out
    prediction = run.predict(data[0]["image"][None], samples=2)
    assert prediction.probs.shape == (1, CLASSES, 64, 64)
    assert run.calibrate(data, progress=False).after["nll"] < 100
    assert run.evaluate(data, device="cpu", workers=0, progress=False, samples=2).images == 4


def test_all_are_there():
    assert set(WRAPPED) <= set(NETWORKS)

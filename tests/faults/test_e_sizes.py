"""Images of any size: trained on crops at their own size, and scored at their original size by one rule."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sfumato.cli import main
from sfumato.data import Folder
from sfumato.data.sizes import CroppedDataset, Region
from sfumato.data.views import entries_of
from sfumato.evaluation import dataset_for
from sfumato.predictions import ClassPrediction
from sfumato.runs import Plan, Predictor, Run, RunBackend

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ["--quiet", "--device=cpu", "--workers=0", "--epochs=2", "--samples=2", "--batch=4",
         '--network-args={"widths": [4, 8], "dropout": 0.2}']  # fmt: skip


def make_folder(root, sizes, count=6):
    """Bright squares on noise, in images whose sizes follow one another."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            label = np.zeros(sizes[number % len(sizes)], np.uint8)
            label[8:20, 8:24] = 1
            image = np.where(label[..., None] > 0, 190, 50) + random.integers(0, 60, (*label.shape, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / split / "images" / f"{number}.png")
            Image.fromarray(label).save(root / split / "labels" / f"{number}.png")
    splits = {name: {"images": f"{name}/images", "labels": f"{name}/labels"} for name in ("train", "val")}
    (root / "sfumato.yaml").write_text(yaml.safe_dump({"splits": splits, "classes": ["ground", "square"]}))
    return root


def accuracy_of_files(run, data, out):
    """The share of right pixels in the files that `sfumato predict` writes, all pixels of all images together."""
    assert main(["predict", str(run), str(data / "val/images"), f"--out={out}", "--quiet", "--device=cpu"]) == 0
    right = pixels = 0
    for path in sorted((data / "val/labels").glob("*.png")):
        target = torch.from_numpy(np.asarray(Image.open(path)).astype(np.int64))
        found = ClassPrediction.load(out / f"{path.stem}.safetensors").label[0]
        assert found.shape == target.shape
        right, pixels = right + int((found == target).sum()), pixels + target.numel()
    return right / pixels


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ([(40, 60)], []),
        ([(40, 60), (60, 40), (52, 52)], []),  # landscape and portrait
        ([(40, 60), (60, 40)], ["--size=20,30"]),
    ],
)
def test_evaluate_and_predict_give_the_same_numbers(tmp_path, sizes, options):
    data, run = make_folder(tmp_path / "data", sizes), tmp_path / "run"
    assert main(["fit", f"--data={data}", "--crop=24x32", f"--out={run}", *QUICK, *options]) == 0
    assert main(["evaluate", str(run), "--quiet", "--device=cpu", "--workers=0"]) == 0
    scored = json.loads((run / "evaluation.json").read_text())
    stored = scored["tasks"]["classes"]["scores"]["accuracy"]
    # Draws depend on the number of the image, which is the same in both commands.
    assert accuracy_of_files(run, data, tmp_path / "out") == pytest.approx(stored["value"], abs=1e-6)


def test_by_default_nothing_is_shrunk(tmp_path, capsys):
    data = make_folder(tmp_path / "data", [(240, 260)], count=2)
    assert main(["fit", f"--data={data}", f"--out={tmp_path / 'run'}", *QUICK, "--epochs=1"]) == 0
    config = Plan.load(tmp_path / "run/plan.yaml").config
    assert (config.size, config.crop) == ((240, 260), (128, 128))
    assert "large" not in capsys.readouterr().err


def test_very_large_images_are_shrunk_with_a_warning(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("sfumato.training.devices.MOST_PIXELS", 1000)
    data = make_folder(tmp_path / "data", [(40, 60)], count=2)
    assert main(["fit", f"--data={data}", f"--out={tmp_path / 'run'}", *QUICK, "--epochs=1"]) == 0
    run = Run.open(tmp_path / "run")
    assert run.config.size == (20, 30)
    assert "the images are large (40 × 60): the network sees them at 20 × 30" in capsys.readouterr().err


def test_calibration_and_conformal_sets_take_images_of_any_size(tmp_path):
    data, run = make_folder(tmp_path / "data", [(40, 60), (60, 40)], count=12), tmp_path / "run"
    assert main(["fit", f"--data={data}", "--size=20,30", f"--out={run}", *QUICK]) == 0
    common = [str(run), "--split=val[:75%]", "--quiet", "--device=cpu"]
    assert main(["calibrate", *common]) == 0
    assert main(["evaluate", str(run), "--split=val[75%:]", "--quiet", "--device=cpu", "--workers=0"]) == 0
    assert main(["evaluate", str(run), "--split=val", "--quiet", "--device=cpu", "--workers=0"]) == 2  # leaks


class Maps:
    """One sample whose pixels are numbered, with intrinsics."""

    inputs, names = ("image",), ["a", "b"]

    def __len__(self):
        return 2

    def __getitem__(self, index):
        height, width = (6, 9) if index == 0 else (3, 4)
        numbers = torch.arange(height * width).reshape(height, width)
        intrinsics = torch.tensor([[5.0, 0, 4.0], [0, 5.0, 3.0], [0, 0, 1]])
        return {"name": "ab"[index], "image": numbers.expand(3, -1, -1).byte(), "classes": numbers,
                "classes_valid": numbers >= 0, "intrinsics": intrinsics}  # fmt: skip


def crops(epoch, size=(4, 5), seed=0):
    data = Maps()
    return [CroppedDataset(data, Region(size, seed), entries_of(data))[number, epoch] for number in range(2)]


def test_a_crop_cuts_all_entries_at_the_same_place():
    places = set()
    for epoch in range(20):
        large, _ = crops(epoch)
        assert large["image"].dtype == torch.uint8
        assert torch.equal(large["image"][0].long(), large["classes"])
        top, left = divmod(int(large["classes"][0, 0]), 9)
        assert torch.equal(large["classes"], Maps()[0]["classes"][top : top + 4, left : left + 5])
        assert bool(large["classes_valid"].all())
        assert large["intrinsics"][:2, 2].tolist() == [4.0 - left, 3.0 - top]
        places.add((top, left))
    assert len(places) > 5
    assert crops(3)[0]["classes"].equal(crops(3)[0]["classes"])


def test_a_small_image_is_mirrored_and_not_valid_beyond_its_border():
    _, small = crops(0)
    assert small["classes"].shape == (4, 5)
    assert small["classes_valid"].sum() == 3 * 4
    assert small["classes"][3].tolist() == [8, 9, 10, 11, 11]


def test_large_images_are_tiled_without_being_asked(monkeypatch, tmp_path):
    data, run = make_folder(tmp_path / "data", [(40, 60)], count=2), tmp_path / "run"
    assert main(["fit", f"--data={data}", f"--out={run}", *QUICK, "--epochs=1"]) == 0
    monkeypatch.setattr("sfumato.predictions.tiles.WHOLE", 1000)
    monkeypatch.setattr("sfumato.predictions.tiles.TILE", 32)
    opened = Run.open(run)
    image = dataset_for(opened)[0]["image"][None]
    torch.testing.assert_close(opened.predict(image).probs, opened.predict(image, tile=32).probs)
    assert not opened.predict(image).probs.equal(opened.predict(image, tile=0).probs)


@pytest.mark.parametrize("factor", [1, 2])
def test_large_images_are_written_in_bands_with_the_same_numbers(tmp_path, factor):
    data, run = make_folder(tmp_path / "data", [(88, 72)], count=2), tmp_path / "run"
    size = f"--size={88 // factor}x{72 // factor}"
    assert main(["fit", f"--data={data}", f"--out={run}", *QUICK, "--epochs=1", size]) == 0
    opened = Run.open(run)
    predictor, image = Predictor(RunBackend(opened)), dataset_for(opened)[0]["image"][None]
    bands = list(predictor.bands(image, tile=16))
    assert [(rows.start, rows.stop) for rows, _ in bands[:2]] == [(0, 12 * factor), (12 * factor, 24 * factor)]
    assert bands[-1][0].stop == 88
    whole = predictor(image, tile=16).prediction
    together = torch.cat([band.prediction.probs for _, band in bands], -2)
    # Two bands that are enlarged one by one differ only at the rows where they meet.
    inner = [row for row in range(88) if factor == 1 or 0 < row % (12 * factor) < 12 * factor - 1]
    torch.testing.assert_close(together[..., inner, :], whole.probs[..., inner, :])


def test_folders_of_mixed_sizes_keep_their_sizes(tmp_path):
    data = Folder(make_folder(tmp_path / "data", [(40, 60), (60, 40)], count=2))
    assert [tuple(data[index]["image"].shape[1:]) for index in range(2)] == [(40, 60), (60, 40)]

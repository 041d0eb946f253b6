"""More processes than images change no number."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sfumato.cli import main
from sfumato.data.loading import loader

pytestmark = pytest.mark.filterwarnings("ignore")
QUIET = ["--device=cpu", "--quiet", "--workers=0"]


def write_data(root, images):
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True)
    for number in range(images):
        labels = np.zeros((16, 24), np.uint8)
        labels[:8, number : number + 8] = 1
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
        Image.fromarray(np.dstack([labels * 200 + number] * 3)).save(root / "images" / f"{number}.png")
    splits = {name: {"images": "images", "labels": "labels"} for name in ("train", "val")}
    (root / "sfumato.yaml").write_text(yaml.safe_dump({"splits": splits, "classes": ["a", "b"]}))
    return str(root)


def test_one_image_on_two_processes_trains_and_scores_as_on_one(tmp_path, capsys):
    data, run = write_data(tmp_path / "data", 1), str(tmp_path / "run")
    words = ["fit", "--data", data, "--out", run, "--epochs=1", "--batch=1", *QUIET, "--method=deterministic",
             '--network-args={"widths": [4, 8]}', "--devices=2"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "sfumato"]
    for each in (words, ["evaluate", run, "--devices=2", "--json", *QUIET]):
        done = subprocess.run([*command, *each], capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr
    assert main(["evaluate", run, "--json", *QUIET]) == 0
    one, two = json.loads(capsys.readouterr().out)["classes"], json.loads(done.stdout.splitlines()[-1])["classes"]
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert two[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"name": str(index), "image": torch.tensor([index])}


def test_no_more_processes_read_images_than_there_are_images():
    batches = loader(Numbers(), 1, workers=50)
    assert batches.num_workers == 2
    assert [batch["name"] for batch in loader(Numbers(), 1)] == [["0"], ["1"]]

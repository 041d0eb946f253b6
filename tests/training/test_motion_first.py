"""Depth and motion are learned from a video without labels, then classes from few labels, from files to a run."""

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.data import Scenes
from sfumato.runs import Plan, Run
from sfumato.runs.network import build_network
from sfumato.runs.resolve import task_and_likelihood

pytestmark = pytest.mark.filterwarnings("ignore")  # what Lightning and torch tell developers
SIZE = (32, 48)
COMMON = ("--method=deterministic", '--network-args={"widths": [4, 8], "dropout": 0.0}', "--batch=2", "--epochs=1",
          "--workers=0", "--device=cpu", "--precision=32-true", "--quiet")  # fmt: skip


def picture(image):
    return Image.fromarray((image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Three frames of each of three scenes, each scene a video of its own, with the camera matrix."""
    root = tmp_path_factory.mktemp("frames")
    data = Scenes(3, SIZE, seed=7, views=("next", "previous"))
    for index in range(3):
        sample, folder = data[index], root / f"scene{index}"
        folder.mkdir()
        for number, view in enumerate(("previous", "image", "next")):
            picture(sample[view]).save(folder / f"frame_{number}.png")
        np.savetxt(folder / "camera-intrinsics.txt", sample["intrinsics"].numpy())
    return root


@pytest.fixture(scope="module")
def motion(frames, tmp_path_factory):
    """A run of depth that learned from the frames."""
    out = tmp_path_factory.mktemp("runs") / "motion"
    learned = '--objective-args={"sources": ["previous", "next"], "poses": "learned"}'
    words = ("--data=video", f"--root={frames}", "--task=depth", "--objective=reprojection", learned, f"--out={out}")
    assert main(["fit", *words, *COMMON]) == 0
    return out


def classes(out, start, common=COMMON):
    return main(["fit", "--data=scenes", "--size=32x48", "--limit=2", f"--init-from={start}", f"--out={out}", *common])


def test_classes_start_from_what_a_video_taught(motion, tmp_path):
    assert classes(tmp_path / "classes", motion) == 0
    before, plan = Run.open(motion).networks[0].state_dict(), Plan.load(tmp_path / "classes" / "plan.yaml")
    started = build_network(plan, task_and_likelihood(plan)[1]).state_dict()
    assert Run.open(tmp_path / "classes").task.key == "classes"
    head = [name for name in before if before[name].shape != started[name].shape]
    assert {name.rpartition(".")[0] for name in head} == {"network.head"}  # all else is what the video taught
    assert all(torch.equal(before[name], started[name]) for name in before if name not in head)


def test_another_network_cannot_start_from_it(motion, tmp_path, capsys):
    assert classes(tmp_path / "classes", motion, [each for each in COMMON if "widths" not in each]) == 2
    assert "training cannot start from" in capsys.readouterr().err

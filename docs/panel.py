"""Draws docs/images/panel.png from the run that `make demo` leaves."""

from pathlib import Path

from torch import Tensor

from sfumato.data import load
from sfumato.evaluation import predict_sample
from sfumato.report import ReportImage, save_panel
from sfumato.runs import Run

HERE = Path(__file__).parent
run = Run.open(HERE.parent / "runs" / "demo")
scenes = load("scenes", split="novel", size=run.config.size)
shown = []
for index in (1, 4):
    sample, prediction = predict_sample(run, scenes, index, samples=20)
    target, valid = run.single_task.target_and_mask(sample)
    image = sample["image"]
    assert isinstance(image, Tensor)
    shown.append(ReportImage(str(sample["name"]), image, prediction, target, valid))
save_panel(shown, run.single_task, HERE / "images" / "panel.png")

"""Draws docs/images/panel.png from the run that `make demo` leaves."""

from pathlib import Path

from sfumato.data import load
from sfumato.report import Shown, panel
from sfumato.training import Run, predicted

HERE = Path(__file__).parent
run = Run.open(HERE.parent / "runs" / "demo")
scenes = load("scenes", split="novel")
shown = []
for index in (1, 4):
    sample, prediction = predicted(run, scenes, index, samples=20)
    shown.append(Shown(sample["name"], sample["image"], prediction, sample["classes"], sample["classes_valid"]))
panel(shown, run.task, HERE / "images" / "panel.png")

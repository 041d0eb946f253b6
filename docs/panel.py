"""Draws docs/images/panel.png: a street of CamVid val and a room of 7-Scenes, by networks of benchmarks/camvid.py.

python docs/panel.py runs/pretrained/camvid-plain-more-ensemble CAMVID FOREIGN
"""

import sys
from pathlib import Path

import torch

from sfumato.data import Pictures, load
from sfumato.data.transforms import tensor
from sfumato.report import ReportImage, save_panel
from sfumato.runs import Run
from sfumato.targets import Image

HERE = Path(__file__).parent
run = Run.open(sys.argv[1])
streets, rooms = load("camvid", sys.argv[2], "val"), Pictures(Path(sys.argv[3]) / "rooms")
shown = []
for dataset, index in ((streets, 40), (rooms, 5)):
    sample = dataset[index]
    image = Image().to_float(tensor(sample, "image"))
    prediction = run.predict(*run.inputs_of(sample))
    if "classes" in sample:
        target, valid = run.single_task.target_and_mask(sample)
    else:
        target, valid = torch.zeros(image.shape[1:], dtype=torch.long), torch.zeros(image.shape[1:], dtype=torch.bool)
    shown.append(ReportImage(str(sample["name"]), image, prediction, target, valid))
save_panel(shown, run.single_task, HERE / "images" / "panel.png")

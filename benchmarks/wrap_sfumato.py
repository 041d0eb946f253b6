"""The same as wrap_sfumato.sh in Python, writing what wrap_torch_uncertainty.py writes. It needs the YAML file too."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

import sfumato

run = sfumato.wrap("plain_torch.Net", "mine", weights="best.pt", samples=10, out="run")
run.calibrate(split="val")
run, folder = run.calibrated_copy(), Path("maps")
folder.mkdir()
for path in sorted(Path("mine/test").glob("*.png")):
    found = run.predict(torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None])
    maps = {name: getattr(found, name)[0] for name in ("probs", "label", "total", "aleatoric", "epistemic")}
    torch.save(maps, folder / f"{path.stem}.pt")

"""What a user of torch-uncertainty writes for calibrated maps with their parts of a network trained by plain_torch.py.

Run by wrap.py in a folder that holds plain_torch.py, best.pt and mine/. The temperature is that of the network without
dropout, and each draw is divided by it: `TemperatureScaler` cannot be fitted on `mc_dropout`, which returns draws as
further images of the batch.
"""

from pathlib import Path

import torch
from plain_torch import VOID, Frames, Net
from torch.utils.data import DataLoader
from torch_uncertainty.methods import mc_dropout
from torch_uncertainty.ood_criteria import EntropyCriterion, MutualInformationCriterion
from torch_uncertainty.post_processing import TemperatureScaler

network = Net()
weights = torch.load("best.pt", weights_only=True)["state_dict"]
network.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
network.eval()
held = [(image, label.masked_fill(label == VOID, -100)) for image, label in Frames("mine", "val")]
scaler = TemperatureScaler(network)
scaler.fit(DataLoader(held, batch_size=8))
model = mc_dropout(scaler, 10, on_batch=False, task="segmentation").eval()
entropy, mutual_information = EntropyCriterion(), MutualInformationCriterion()
frames, folder = Frames("mine", "test"), Path("maps")
folder.mkdir()
for path, (image, _) in zip(frames.paths, frames):
    draws = model(image[None]).softmax(1)
    probs = draws.mean(0)
    pixels = draws.flatten(2).permute(2, 0, 1)
    maps = {
        "probs": probs,
        "label": probs.argmax(0),
        "total": entropy(pixels.mean(1, keepdim=True)).view(probs.shape[1:]),
        "aleatoric": entropy(pixels).view(probs.shape[1:]),
        "epistemic": mutual_information(pixels).view(probs.shape[1:]),
    }
    torch.save(maps, folder / f"{path.stem}.pt")

"""The objective: the right image, warped by the predicted disparity, must look like the left image."""

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from sfumato.objectives import BaseObjective


class Photometric(BaseObjective):
    """``mean |left(x) − right(x − d)|`` with the predicted mean as d. It needs no labels.

    The scale learns the photometric error, so that predictions have an aleatoric part.
    """

    needs_targets = False

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The loss ``photometric``."""
        left, right = self.inputs_of(batch)
        moments = self.likelihood.moments(network(left, right).float())
        disparity, log_scale = moments.mean[:, 0], moments.variance[:, 0].log() / 2
        height, width = disparity.shape[-2:]
        x = torch.arange(width, device=disparity.device) - disparity
        y = torch.arange(height, device=disparity.device)[:, None].expand_as(disparity)
        grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
        warped = grid_sample(right, grid, padding_mode="border", align_corners=True)
        error = (left - warped).abs().mean(1)
        scale = ((log_scale - (error.detach() + 1e-3).log()) ** 2).mean()
        return {"photometric": error.mean(), "scale": 0.1 * scale}, {"error": error.mean().detach()}

"""What the chapters share: pictures of one row, a small network, a training loop, and figures."""

from __future__ import annotations

import re

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn

from sfumato.report.curves import COOL, FADED, INK, WARM, svg
from sfumato.report.figures import STYLE


def curve(x: Tensor) -> Tensor:
    """The true mean."""
    return torch.sin(2 * x)


def noise(x: Tensor) -> Tensor:
    """The true standard deviation: small on the left, large on the right."""
    return 0.05 + 0.35 * torch.sigmoid(4 * x)


def rows(count: int, seed: int, width: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (count, 1, 1, width) whose pixels are numbers in [-2, 2], noisy values of them, and a mask."""
    generator = torch.Generator().manual_seed(seed)
    x = 4 * torch.rand(count, 1, 1, width, generator=generator) - 2
    y = curve(x) + noise(x) * torch.randn(x.shape, generator=generator)
    return x, y, torch.ones(count, 1, width, dtype=torch.bool)


def network(channels: int, seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    """A network that looks at each pixel by itself."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 64, 1), nn.Tanh(), nn.Conv2d(64, 64, 1), nn.Tanh(), nn.Dropout(dropout),
            nn.Conv2d(64, channels, 1),
        )  # fmt: skip


def train(net: nn.Module, nll, data: tuple[Tensor, ...], steps: int = 400) -> nn.Module:
    """Minimize ``nll(output, target, valid)`` over all pixels."""
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    x, y, valid = data
    for _ in range(steps):
        optimizer.zero_grad()
        nll(net(x), y, valid).mean().backward()
        optimizer.step()
        schedule.step()
    return net.eval()


def line(start: float = -3, end: float = 3, count: int = 241) -> Tensor:
    """A picture of one row whose pixels are equally spaced numbers."""
    return torch.linspace(start, end, count).view(1, 1, 1, -1)


def axes(panels: int = 1, width: float = 3.4, height: float = 2.4):
    """A figure with panels side by side."""
    with rc_context(STYLE):
        figure = Figure((width * panels + 0.4, height), layout="constrained")
        return figure, figure.subplots(1, panels, squeeze=False)[0]


def draw(axis, x: Tensor, prediction, title: str = "", parts: bool = False) -> None:
    """The mean and its 90 % band, with the aleatoric part inside it where ``parts`` is set."""
    at, mean, std = x.flatten(), prediction.mean.flatten(), prediction.std.flatten()
    axis.plot(at, curve(at), color=FADED, lw=1.2, ls="--", label="truth")
    axis.plot(at, mean, color=INK, lw=1.6, label="mean")
    axis.fill_between(at, mean - 1.64 * std, mean + 1.64 * std, color=WARM, alpha=0.25, lw=0, label="90 %, total")
    if parts:
        std = prediction.aleatoric_variance.flatten().sqrt()
        ends = mean - 1.64 * std, mean + 1.64 * std
        axis.fill_between(at, *ends, color=COOL, alpha=0.35, lw=0, label="90 %, aleatoric")
    axis.set(xlabel="x", ylim=(-3, 3), title=title)


def chart(figure: Figure, text: str) -> str:
    """A figure as an SVG element, with a text for people who do not see it."""
    found = svg(figure, re.sub(r"\W+", "", text)[:20])
    found = found.replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    return f'<figure class="chart">{found}</figure>'

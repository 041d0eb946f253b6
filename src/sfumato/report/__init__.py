"""What people look at: one self-contained HTML page about a run, and pictures for files."""

from importlib import import_module
from typing import TYPE_CHECKING

from sfumato.report.comparison import save_comparison
from sfumato.report.data import (
    BoxSection,
    OODSection,
    Picture,
    Rejection,
    Reliability,
    ReportData,
    ReportImage,
    Saliency,
)
from sfumato.report.figures import save_panel
from sfumato.report.page import write_page
from sfumato.report.pictures import display_maps, layers_of
from sfumato.report.prediction_figure import Panel, save_figure
from sfumato.report.vectors import color_wheel, draw_vectors

if TYPE_CHECKING:
    from sfumato.report.build import write_report
    from sfumato.report.selection import write_selection

__all__ = [
    "BoxSection",
    "OODSection",
    "Panel",
    "Picture",
    "Rejection",
    "Reliability",
    "ReportData",
    "ReportImage",
    "Saliency",
    "color_wheel",
    "display_maps",
    "draw_vectors",
    "layers_of",
    "save_comparison",
    "save_figure",
    "save_panel",
    "write_page",
    "write_report",
    "write_selection",
]
LATER = {"write_report": "build", "write_selection": "selection"}


def __getattr__(name: str) -> object:
    # On first use, so that pictures of predictions need no evaluation.
    if name not in LATER:
        raise AttributeError(f"module 'sfumato.report' has no attribute {name!r}")
    return getattr(import_module(f"sfumato.report.{LATER[name]}"), name)

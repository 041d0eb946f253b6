"""What people look at: one self-contained HTML page, and pictures for files."""

from sfumato.report.figures import panel, save_best, save_map
from sfumato.report.maps import save_maps, save_sizes
from sfumato.report.page import write
from sfumato.report.pictures import parts, view
from sfumato.report.story import Contrast, Rejection, Reliability, Shift, Shown, Story

__all__ = ["Contrast", "Rejection", "Reliability", "Shift", "Shown", "Story", "panel", "parts", "save_best", "save_map",
           "save_maps", "save_sizes", "view", "write"]  # fmt: skip

"""Boxes: how they are found from predicted maps, fused, matched with true boxes, and calibrated."""

from sfumato.boxes.boxes import Boxes
from sfumato.boxes.calibrate import BoxBounds, BoxCalibrator
from sfumato.boxes.coco_json import coco_document
from sfumato.boxes.detections import fuse_detections
from sfumato.boxes.find import find_boxes
from sfumato.boxes.fuse import FUSIONS
from sfumato.boxes.match import Matches, iou, match_boxes

__all__ = [
    "FUSIONS",
    "BoxBounds",
    "BoxCalibrator",
    "Boxes",
    "Matches",
    "coco_document",
    "find_boxes",
    "fuse_detections",
    "iou",
    "match_boxes",
]

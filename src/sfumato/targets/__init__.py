"""Kinds of sample entries: how each one is resized, warped, flipped, standardized and masked.

A sample is a dict of ``name``, inputs and targets. Each entry has a kind, such as :class:`Image` or :class:`Depth`. The
kind is the only place that knows the layout of its channels and how its values change when its pixels move. Data sets,
augmentation and tasks ask the kind and know no names and no layouts.

Shapes: a map has one value or vector for each pixel, (H, W) or (C, H, W). All other entries belong to the whole image.
"""

from __future__ import annotations

from collections.abc import Mapping

from sfumato.targets.base import EntryKind, Size, Warp, per_image, scaled_size
from sfumato.targets.image_entries import Boxes, ImageValue, Intrinsics, Pose
from sfumato.targets.maps import (
    ClassMap,
    Depth,
    Disparity,
    EdgeDistances,
    Image,
    Instances,
    InverseDepth,
    Mask,
    Normals,
    ScalarMap,
    Stacked,
    VectorMap,
)

__all__ = [
    "ENTRIES",
    "MASK",
    "Boxes",
    "ClassMap",
    "Depth",
    "Disparity",
    "EdgeDistances",
    "EntryKind",
    "Image",
    "ImageValue",
    "Instances",
    "Intrinsics",
    "InverseDepth",
    "Mask",
    "Normals",
    "Pose",
    "ScalarMap",
    "Size",
    "Stacked",
    "VectorMap",
    "Warp",
    "kind_of",
    "per_image",
    "scaled_size",
]

MASK = "_valid"

ENTRIES: dict[str, EntryKind] = {
    "image": Image(partner="right"),
    "right": Image(partner="image"),
    "next": Image(),
    "previous": Image(),
    "classes": ClassMap(),
    "depth": Depth(),
    "inverse_depth": InverseDepth(),
    "disparity": Disparity(partner="disparity_right"),
    "disparity_right": Disparity(partner="disparity"),
    "disparity_occluded": Mask(partner="disparity_right_occluded"),
    "disparity_right_occluded": Mask(partner="disparity_occluded"),
    "flow": VectorMap(),
    "flow_back": VectorMap(),
    "flow_occluded": Mask(),
    "flow_back_occluded": Mask(),
    "centers": VectorMap(),
    "objects": ClassMap(),
    "distances": EdgeDistances(),
    "boxes": Boxes(),
    "normals": Normals(),
    "instances": Instances(),
    "intrinsics": Intrinsics(),
    "pose": ImageValue("m, rad", dims=6, invariant=False),
    "world_from_camera": Pose(),
    "world_from_right": Pose(),
    "world_from_next": Pose(),
    "world_from_previous": Pose(),
}
"""The kinds of the standard names. A data set declares the kinds of other names as its ``entries``."""


def kind_of(name: str, entries: Mapping[str, EntryKind] = ENTRIES) -> EntryKind | None:
    """The kind of an entry, or of the mask of an entry; None if it is unknown.

    >>> kind_of("depth"), kind_of("depth_valid"), kind_of("notes")
    (Depth(partner=''), Mask(partner=''), None)
    """
    if name in entries or not name.endswith(MASK):
        return entries.get(name)
    owner = entries.get(name.removesuffix(MASK))
    if owner is None:
        return None
    partner = owner.partner and owner.partner + MASK
    return Mask(partner=partner) if owner.is_map else ImageValue(dims=0, partner=partner)

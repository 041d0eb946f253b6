"""Instances: how they are found from predicted vectors, and the segments that an image consists of."""

from sfumato.instances.find import find_instances
from sfumato.instances.instances import Instances
from sfumato.instances.panoptic import PanopticMaps
from sfumato.instances.segments import Segments, check_things, overlaps

__all__ = ["Instances", "PanopticMaps", "Segments", "check_things", "find_instances", "overlaps"]

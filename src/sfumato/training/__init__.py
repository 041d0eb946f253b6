"""Training: from a configuration and data to a run."""

from sfumato.training.devices import default_crop, default_size, fast_precision, lightning_devices, quiet_lightning
from sfumato.training.fit import fit
from sfumato.training.folder import check_output_dir, print_rank_zero, warn_rank_zero
from sfumato.training.module import TrainingModule
from sfumato.training.post_hoc import fit_post_hoc, post_hoc_methods
from sfumato.training.prepare import make_plan
from sfumato.training.teacher import teacher_of
from sfumato.training.wrap import wrap

__all__ = [
    "TrainingModule",
    "check_output_dir",
    "default_crop",
    "default_size",
    "fast_precision",
    "fit",
    "fit_post_hoc",
    "lightning_devices",
    "make_plan",
    "post_hoc_methods",
    "print_rank_zero",
    "quiet_lightning",
    "teacher_of",
    "warn_rank_zero",
    "wrap",
]

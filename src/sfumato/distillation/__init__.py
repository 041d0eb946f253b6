"""Distillation: from a run that needs many passes to a student that needs one."""

from sfumato.distillation.dataset import DistillationDataset
from sfumato.distillation.distill import distill, student_plan, students_of
from sfumato.distillation.perturbation import Perturbation
from sfumato.distillation.teacher import Teacher

__all__ = ["DistillationDataset", "Perturbation", "Teacher", "distill", "student_plan", "students_of"]

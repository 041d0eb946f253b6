"""Likelihoods ``p(y | f)``: the meaning of a network's output."""

from sfumato.likelihoods.categorical import Categorical
from sfumato.likelihoods.dirichlet import Dirichlet
from sfumato.likelihoods.distilled import DistilledClasses, DistilledProbs, Dudes
from sfumato.likelihoods.distilled_values import (
    DistilledGaussian,
    DistilledLaplace,
    DistilledPlanes,
    DistilledValues,
    SelfLaplace,
)
from sfumato.likelihoods.full_covariance import FullGaussian, FullLaplace
from sfumato.likelihoods.gaussian import Gaussian
from sfumato.likelihoods.joint import Joint
from sfumato.likelihoods.l1 import L1
from sfumato.likelihoods.laplace import Laplace
from sfumato.likelihoods.laplace_mixture import LaplaceMixture
from sfumato.likelihoods.logit_normal import LogitNormal
from sfumato.likelihoods.normal_inverse_gamma import NormalInverseGamma
from sfumato.likelihoods.planes import Planes
from sfumato.likelihoods.pose_likelihood import PoseLikelihood
from sfumato.likelihoods.standardized import has_location, standardized
from sfumato.likelihoods.tempered import Tempered

__all__ = [
    "L1",
    "Categorical",
    "Dirichlet",
    "DistilledClasses",
    "DistilledGaussian",
    "DistilledLaplace",
    "DistilledPlanes",
    "DistilledProbs",
    "DistilledValues",
    "Dudes",
    "FullGaussian",
    "FullLaplace",
    "Gaussian",
    "Joint",
    "Laplace",
    "LaplaceMixture",
    "LogitNormal",
    "NormalInverseGamma",
    "Planes",
    "PoseLikelihood",
    "SelfLaplace",
    "Tempered",
    "has_location",
    "standardized",
]

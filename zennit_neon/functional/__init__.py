"""The mathematics of NEON: pure functions on tensors, no modules, no hooks, no estimators."""

from .competitors import (
    Contest,
    check_beta,
    coefficients,
    competitor_index,
    contest,
    contrasts,
    evidence,
    min_take_most,
    quotient,
    redistribute,
    scores,
    versus,
)
from .pooling import soft_maximum
from .soft import (
    conserved_coefficients,
    conserved_min_take_most,
    soft_coefficients,
    soft_contest,
    soft_evidence,
    soft_min_take_most,
)

__all__ = [
    "check_beta",
    "scores",
    "evidence",
    "contrasts",
    "competitor_index",
    "min_take_most",
    "Contest",
    "contest",
    "coefficients",
    "versus",
    "quotient",
    "redistribute",
    "soft_maximum",
    "conserved_coefficients",
    "conserved_min_take_most",
    "soft_coefficients",
    "soft_contest",
    "soft_evidence",
    "soft_min_take_most",
]

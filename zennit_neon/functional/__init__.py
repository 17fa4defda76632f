"""The mathematics of NEON: pure functions on tensors, no modules, no hooks, no estimators."""

import warnings
from typing import Any

from .competitors import (
    PooledCompetitors,
    check_beta,
    coefficients,
    competitor_index,
    contrast_coefficients,
    contrasts,
    evidence,
    min_take_most,
    pool_competitors,
    quotient,
    redistribute,
    scores,
    stiffness,
)
from .pooling import soft_maximum
from .soft import (
    conserved_coefficients,
    conserved_min_take_most,
    soft_coefficients,
    soft_evidence,
    soft_min_take_most,
    soft_pool_competitors,
)

__all__ = [
    "check_beta",
    "scores",
    "evidence",
    "contrasts",
    "competitor_index",
    "min_take_most",
    "PooledCompetitors",
    "pool_competitors",
    "coefficients",
    "contrast_coefficients",
    "quotient",
    "redistribute",
    "stiffness",
    "soft_maximum",
    "conserved_coefficients",
    "conserved_min_take_most",
    "soft_coefficients",
    "soft_pool_competitors",
    "soft_evidence",
    "soft_min_take_most",
]

#: Names up to release 0.1.
_RENAMED = {
    "Contest": "PooledCompetitors",
    "contest": "pool_competitors",
    "versus": "contrast_coefficients",
    "soft_contest": "soft_pool_competitors",
}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.{name} is now called {_RENAMED[name]}", DeprecationWarning, stacklevel=2)
    return globals()[_RENAMED[name]]

"""What explains a clustering: the closed form of its head, for the columns of the table as they were given."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..estimators.agreement import check_predictions
from ..estimators.clusterings import neuralize_final_step, neuralized
from ..estimators.columns import encode
from ..utils.arrays import Array, as_numpy
from ..utils.labels import are_labels
from ..utils.tables import Columns
from .closed_form import ClosedFormAttributor

__all__ = ["attributor_of"]


def attributor_of(
    model: Any, X: Any, batch_size: int | None, progress: bool
) -> tuple[ClosedFormAttributor, Array | None]:
    """The closed form of a clustering, behind an encoding of the columns of X where its Pipeline begins with one.

    And which points are noise, if the head stands for labels of them.
    """
    is_estimator = not isinstance(model, nn.Module) and not are_labels(model)
    is_pipeline = is_estimator and hasattr(model, "steps")
    encoded = encode(model, as_numpy(X)) if is_pipeline and len(getattr(X, "shape", ())) == 2 else None
    if encoded is None:
        found = neuralized(model, X, progress=progress)
        table = found.table(X)
        table.check_width(found.head.n_features)
        table.check_names(found.head.feature_names)
        attributor = ClosedFormAttributor(found.head, table, batch_size, progress)
    else:
        encoding, steps = encoded
        table = columns = Columns(X, encoding)
        columns.check_names(getattr(model, "feature_names_in_", None))
        found = neuralize_final_step(model, X, steps, progress)
        attributor = ClosedFormAttributor(found.head, columns, batch_size, progress, columns.aggregate)
    if is_estimator and found.groups is None:
        check_predictions(found.head, table, model)
    return attributor, None if found.groups is None or not found.groups.noise.any() else found.groups.noise

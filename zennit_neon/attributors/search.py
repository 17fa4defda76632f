"""What explains a clustering: the closed form of its head, for the columns of the table as they were given."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..estimators.agreement import check_predictions
from ..estimators.clusterings import neuralize_final_step, neuralized
from ..estimators.columns import encode
from ..utils.arrays import Array
from ..utils.labels import are_labels
from ..utils.tables import Columns, as_table
from .closed_form import ClosedFormAttributor

__all__ = ["attributor_of"]


def attributor_of(
    model: Any, X: Any, batch_size: int | None, progress: bool
) -> tuple[ClosedFormAttributor, Array | None]:
    """The closed form of a clustering, after an encoding of the columns of X if its Pipeline begins with one.

    And which points are noise, if the head is fitted to their labels.
    """
    is_estimator = not isinstance(model, nn.Module) and not are_labels(model)
    table = as_table(X)
    is_pipeline = is_estimator and hasattr(model, "steps")
    encoded = encode(model, table) if is_pipeline and len(getattr(table.X, "shape", ())) == 2 else None
    aggregate = None
    if encoded is None:
        found = neuralized(model, table, progress=progress)
        table = table if found.table is None else found.table
        table.check_numbers()
        table.check_width(found.head.n_features)
        table.check_names(found.head.feature_names)
    else:
        encoding, steps = encoded
        table.check_names(getattr(model, "feature_names_in_", None))
        found = neuralize_final_step(model, table, steps, progress)
        table = columns = Columns(table, encoding)
        aggregate = columns.aggregate
    if is_estimator and found.groups is None:
        check_predictions(found.head, table, model)
    return ClosedFormAttributor(found.head, table, batch_size, progress, aggregate), found.noise

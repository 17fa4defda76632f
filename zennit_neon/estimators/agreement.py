"""Check that a head assigns points as its clustering does, up to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..exceptions import DisagreementError
from ..heads.affine import Affine
from ..heads.base import Head
from ..utils.arrays import Array, as_array, as_numpy, is_sparse
from ..utils.labels import named, positions
from ..utils.model_state import say
from ..utils.sources import rows_of
from ..utils.tables import Table

__all__ = ["check_predictions", "check_same"]

#: Rows that are compared, at most.
ROWS = 1000

#: Numbers of a sparse sample that may be made dense: some transformers treat sparse rows otherwise.
DENSE = 2**24

#: Share of rows that may change their cluster by rounding without a warning.
MOST = 0.01

#: Rounding errors that may add up in a prediction.
ROUNDINGS = 64


def check_predictions(head: Head, table: Table, estimator: Any) -> None:
    """Compare a head with what an estimator predicts, on a sample of the points.

    Raises
    ------
    DisagreementError
        If they give a point to different clusters and rounding does not explain it.
    """
    if not hasattr(estimator, "predict") or len(table.shape) != 2 or not len(table):
        return
    places = _sample(len(table))
    predicted = _predicted(estimator, rows_of(table.X, places), table.holds_text)
    if predicted is None:
        return
    try:
        wanted = positions(predicted, head.labels, head.n_clusters, "predict", predicted.shape)
    except (TypeError, ValueError) as error:
        raise DisagreementError(
            f"{type(estimator).__name__}.predict gives labels that its network does not have ({error}); give the head "
            "that is registered for it labels="
        ) from None
    _compare(head, table.some(places), wanted, places, f"{type(estimator).__name__}.predict")


def check_same(head: Head, table: Table, inner: Head, points: Table) -> None:
    """Compare a head with one after the steps that it takes into account, on a sample of the points."""
    known = np.arange(len(table)) if table.ignored is None else np.flatnonzero(~table.ignored)
    if len(known):
        places = known[_sample(len(known))]
        with torch.no_grad():
            wanted = inner.evidence_layer.scores(inner.rows(points.some(places))).argmax(1)
        _compare(head, table.some(places), wanted, places, "the network after the steps of the Pipeline")


def _predicted(estimator: Any, rows: Any, is_text: bool) -> Array | None:
    """Labels of some rows; None if they are none that the estimator takes, which is then said elsewhere."""
    rows, names = as_numpy(rows), getattr(estimator, "feature_names_in_", None)
    if not is_text and (not is_sparse(rows) or np.prod(rows.shape) <= DENSE):
        # with the names that scikit-learn expects, else it warns
        rows = as_array(rows, "X")
        if names is not None:
            rows = _named(rows, names)
    kinds = [np.float64, np.float32] if getattr(rows, "dtype", None) is not None and rows.dtype.kind == "f" else []
    for part in (*(rows.astype(kind) for kind in kinds), rows):  # KMeans takes no other precision than that of its fit
        try:
            return np.asarray(estimator.predict(part)).reshape(len(rows) if hasattr(rows, "__len__") else -1)
        except Exception:  # whatever it is, there is nothing to compare with
            continue
    return None


def _named(rows: Array, names: Any) -> Any:
    """Rows as the DataFrame that an estimator was fitted on."""
    import pandas

    return pandas.DataFrame(rows, columns=names) if rows.shape[1:] == (len(names),) else rows


def _sample(count: int) -> Array:
    """Places of rows, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, ROWS)).astype(np.int64))


def _compare(head: Head, x: Tensor, wanted: Tensor, places: Array, what: str) -> None:
    """Refuse points that a head gives to other clusters than the wanted ones, by more than rounding."""
    layer = head.evidence_layer
    with torch.no_grad():
        device = next(head.buffers()).device
        scores = layer.prepare(head.rows(x.to(device))).scores
        found = layer.pool_competitors(scores).cluster[:, 0].cpu()
        wrong = (found != wanted).nonzero()[:, 0]
        if not len(wrong):
            return
        pooled = layer.pool_competitors(scores[wrong.to(device)], wanted[wrong].to(device))
        behind = -pooled.evidence[:, 0].double().cpu()
    rounded, wrong = wrong, wrong[behind > _rounding(head, x[wrong])]
    if not len(wrong) and len(rounded) > MOST * len(places):
        say(
            f"{what} gives {len(rounded)} of {len(places)} rows that were looked at to other clusters than exact "
            "distances do: features lie so far from zero that it loses digits; the explanation is that of exact "
            "distances"
        )
    if len(wrong):
        first = int(wrong[0])
        own = [named(part[first : first + 1].cpu(), head.labels)[0] for part in (wanted, found)]
        label, other = (part.item() if isinstance(part, Tensor) else part for part in own)
        raise DisagreementError(
            f"the network that was made of the clustering disagrees with it: {what} gives row {int(places[first])} "
            f"of X to cluster {label!r}, the network to {other!r}; so in {len(wrong)} of {len(places)} rows that were "
            f"looked at{_hint(head)}"
        )


def _hint(head: Head) -> str:
    """What may be the cause."""
    center, root = head.evidence_layer.center, getattr(head.evidence_layer, "root", None)
    if center is None or root is None or not bool((center.abs() * 1e-9 > root.abs().amax(0)).any()):
        return ""
    return ". Features far from zero may be the cause: subtract a constant from them before the clustering is fitted"


def _rounding(head: Head, x: Tensor) -> Tensor:
    """By how much evidence of points may be off when it is computed as the steps and distances stand, (M,)."""
    z, error = x.double(), torch.zeros_like(x, dtype=torch.float64)
    eps = torch.finfo(x.dtype).eps
    for step in head.steps:
        if isinstance(step, Affine):
            size = step.linear.abs()
            moved = z.abs() + error / eps
            error = eps * (moved * size if step.diagonal else moved @ size.t()) + eps * step.offset.abs()
            z = step(z)
        else:
            norm = torch.linalg.vector_norm(
                z, {"l2": 2.0, "l1": 1.0, "max": torch.inf}[step.order], dim=1, keepdim=True
            )
            scale = torch.where(norm == 0, 1, norm)
            z, error = z / scale, (error + eps * z.abs()) / scale
    prototypes = _prototypes(head)
    size = (z**2).sum(1) + float((prototypes**2).sum(1).max())
    diameter = 2 * float(prototypes.abs().amax(0).norm())
    soft = getattr(head, "gamma", None)
    return ROUNDINGS * (eps * size + diameter * error.norm(dim=1) + (eps / soft if soft else 0.0))


def _prototypes(head: Head) -> Tensor:
    """Centroids, support vectors or centers of a head, in the space that was clustered."""
    found = (getattr(head, name, None) for name in ("centroids", "support", "centers"))
    return next((part.double().cpu() for part in found if part is not None), torch.zeros(1, 1, dtype=torch.float64))

"""What :func:`zennit_neon.explain` returns: relevance, evidence and clusters of points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..attributors.base import Attributor, Target
from ..heads.base import Head
from ..heads.questions import leave_out, named_clusters
from ..utils.arrays import Array, as_array
from ..utils.labels import NOISE, place_of
from ..utils.model_state import exact
from ..utils.tables import Table
from .frames import frame_of, mean_by_cluster, shap_of

if TYPE_CHECKING:
    import pandas

    from ..estimators.fidelity import Fidelity

__all__ = ["Explanation"]


@dataclass(repr=False, eq=False)
class Explanation:
    """Relevance of features for cluster assignments, as :func:`explain` returns it.

    Attributes
    ----------
    relevance : ndarray, Tensor or DataFrame, shaped like X
        Typed and indexed like X; sums over features to ``evidence`` where nothing is dissipated (``conserves``).
    evidence : ndarray or Tensor, shape (N,) or (N, ...)
        :math:`f_c` of the explained cluster; positive exactly where a point is assigned to it. With a competitor,
        :math:`h_{ck}`.
    cluster : ndarray or Tensor, shape (N,) or (N, ...)
        The label of the explained cluster of each point; -1 for noise. Of int64, or of objects where labels are names.
    beta : float or None
        Stiffness that was used; None where no pooling was involved.
    feature_names : list of str or None
    n_clusters : int
    labels : tuple
        Of all clusters, in the order of ``summary()``: names or numbers, as the clustering has them.
    """

    relevance: Any
    evidence: Any
    cluster: Any
    beta: float | None
    feature_names: list[str] | None
    n_clusters: int
    labels: tuple[Any, ...]
    _positions: Tensor
    _scores: Tensor | None
    _attributor: Attributor
    _target: Target

    def __repr__(self) -> str:
        beta = "None" if self.beta is None else f"{self.beta:.4g}"
        fidelity = "" if self.fidelity is None else f", fidelity={float(self.fidelity):.3f}"
        return f"Explanation(shape={self.shape}, n_clusters={self.n_clusters}, beta={beta}{fidelity})"

    def __len__(self) -> int:
        return len(self._table)

    @property
    def _table(self) -> Table:
        return self._attributor.table

    @property
    def head(self) -> Head:
        """The clustering that was explained, as a head."""
        return self._attributor.head

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the explained points, (N, d) or (N, d, ...)."""
        return self._table.shape

    @property
    def index(self) -> Any:
        """Names of the points, where they came in a DataFrame of pandas; else None."""
        return self._table.index

    @property
    def data(self) -> Any:
        """The explained points, as they were given."""
        return self._table.X

    @property
    def fidelity(self) -> Fidelity | None:
        """How well the network predicts labels (:class:`~zennit_neon.Fidelity`); None where it is exact."""
        return self.head.fidelity

    @property
    def conserves(self) -> bool:
        """Whether relevance sums to evidence by the rules that were used: nothing is dissipated."""
        return bool(self._attributor.conserves)

    @property
    def positions(self) -> Array:
        """Place of each explained cluster among ``labels``, int64 (N,) or (N, ...); -1 for noise."""
        return self._positions.numpy()

    @property
    def noise(self) -> Any:
        """Which points belong to no cluster, bool (N,) or (N, ...)."""
        return self._table.plain((self._positions == NOISE).to(torch.as_tensor(self.evidence).device))

    def with_noise(self, noise: Any) -> Explanation:
        """The same explanation without that of some points: cluster -1, evidence and relevance NaN.

        Parameters
        ----------
        noise : array of bool, shape (N,), optional
            Which points belong to no cluster. None changes nothing.

        Returns
        -------
        Explanation
        """
        if noise is None:
            return self
        mask = np.array(as_array(noise, "noise"))
        if mask.shape != (len(self),) or mask.dtype != np.bool_:
            raise ValueError(f"noise must be bool of shape ({len(self)},), got {mask.dtype} of {mask.shape}")
        table, own = self._table, self._positions.clone()
        relevance, evidence = (
            part.clone() if isinstance(part, Tensor) else torch.from_numpy(np.array(as_array(part, "relevance")))
            for part in (self.relevance, self.evidence)
        )
        leave_out(mask, relevance, evidence, own)
        return replace(
            self,
            relevance=table.like(relevance),
            evidence=table.plain(evidence),
            cluster=named_clusters(own, self.head, table),
            _positions=own,
        )

    @property
    def competitor(self) -> Any:
        """The label of the competitor that was asked about, if any."""
        place = self._target.competitor
        return None if place is None else self.labels[place]

    @property
    def _asked(self) -> Tensor:
        """Positions of the explained clusters; any for noise."""
        return self._positions.clamp(min=0)

    def _without_noise(self, values: Tensor) -> Tensor:
        """NaN for noise."""
        noise = self._positions == NOISE
        if bool(noise.any()):
            values[noise.to(values.device)] = float("nan")
        return values

    @property
    @exact()
    def arrived(self) -> Any:
        """Share of the evidence that arrived at the input, (N,) or (N, ...): the sum of relevance over the evidence.

        1 up to rounding where nothing is dissipated (``conserves``); through a model, less or more by its rules. NaN
        for noise, and where evidence is 0.
        """
        relevance = torch.as_tensor(
            self.relevance if isinstance(self.relevance, Tensor) else as_array(self.relevance, "values")
        )
        evidence = torch.as_tensor(self.evidence).cpu().double()
        sums = relevance.flatten(1) if evidence.ndim == 1 else relevance.movedim(1, -1)
        share = sums.sum(-1, dtype=torch.float64).cpu() / torch.where(evidence == 0, torch.nan, evidence)
        return self._table.plain(share.to(torch.as_tensor(self.evidence)))

    @property
    @exact()
    def competitors(self) -> Any:
        """Relevance that flowed through each competitor, (N, K) or (N, K, ...) (:math:`R_{ck}` of Eq. 2, paper 1).

        In the order of ``labels``; 0 at the explained cluster itself. Sums to evidence, unless soft pools dissipate;
        neurons then include the constant of the pool, which :meth:`through` leaves out. Computed anew at each call,
        from X as it is then; through a model, from the scores at its head, which are kept.
        """
        found = self._attributor.competitors(self._target, self._asked, self._scores)
        return self._table.plain(self._without_noise(found))

    @exact()
    def through(self, competitor: Any) -> Any:
        """The part of relevance that flowed through one competitor, given by its label; like X (Fig. 4C, paper 2).

        Sums over all competitors to ``relevance``; 0 for points whose explained cluster is the competitor. Through a
        model this takes another pass, which is not possible after pickling.
        """
        k = place_of(competitor, self.head.labels, self.n_clusters, "competitor")
        part = self._attributor.attribute(replace(self._target, through=k), self._asked)
        return self._table.like(self._without_noise(part.relevance))

    def summary(self) -> pandas.DataFrame:
        """Mean relevance of each feature over the points of each cluster: what makes this cluster.

        Returns
        -------
        DataFrame, shape (K, d)
            A cluster of which no point was explained has NaN.
        """
        relevance, cluster = self._rows()
        return mean_by_cluster(relevance, cluster, self.labels, self._columns(relevance.shape[1]))

    def to_frame(self) -> pandas.DataFrame:
        """One row a point: its cluster, its evidence, and the relevance of each feature.

        The first two columns are ``cluster`` and ``evidence``, followed by an underscore if a feature has that name.
        """
        relevance, _ = self._rows()
        numbers = {name: as_array(getattr(self, name), name).ravel() for name in ("cluster", "evidence")}
        return frame_of(relevance, self._columns(relevance.shape[1]), self.index, numbers)

    def to_shap(self) -> Any:
        """A ``shap.Explanation``, so that SHAP's plots can be used (needs the package ``shap``).

        Base values are 0: relevance sums to evidence, with nothing left over. Noise is left out.
        """
        relevance, cluster = self._rows()
        data = as_array(self.data, "values")
        if relevance.shape != data.shape:
            data = np.moveaxis(data, 1, -1).reshape(relevance.shape)
        kept = cluster != NOISE
        return shap_of(relevance[kept], data[kept], self._columns(relevance.shape[1]))

    def _rows(self) -> tuple[Array, Array]:
        """Relevance (M, d) and position of the cluster (M,), one row a point."""
        relevance, cluster = as_array(self.relevance, "values"), self._positions.numpy()
        if cluster.ndim > 1:
            relevance = np.moveaxis(relevance, 1, -1)
        width = int(np.prod(relevance.shape[cluster.ndim :]))
        return relevance.reshape(cluster.size, width), cluster.ravel()

    def _columns(self, width: int) -> list[str]:
        if self.feature_names is not None and len(self.feature_names) == width:
            return self.feature_names
        return [f"x{i}" for i in range(width)]

"""``explain``: why is this point in this cluster? And the :class:`Explanation` it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from zennit.core import Composite

from . import functional
from .attributors.closed_form import ClosedFormAttributor, Question, attributor_of
from .attributors.through_model import ModelAttributor
from .heads.base import Head
from .heads.questions import asked_of, check_fidelity, labels_of, leave_out, named_clusters
from .heads.search import heads_of
from .utils.arrays import Array, as_array
from .utils.labels import NOISE, place_of
from .utils.model_state import exact, unwrapped
from .utils.tables import Table
from .utils.validation import check_feature_names

if TYPE_CHECKING:
    import pandas

    from .estimators.fidelity import Fidelity

__all__ = ["Explanation", "explain"]


@exact()
def explain(
    model: Any,
    X: Any,
    *,
    cluster: Any = None,
    competitor: Any = None,
    beta: float | None = None,
    composite: Composite | None = None,
    feature_names: Sequence[str] | None = None,
    batch_size: int | None = None,
    min_fidelity: float = 0.9,
    progress: bool = False,
) -> Explanation:
    r"""Explain cluster assignments in terms of input features (paper 1, Section II).

    Parameters
    ----------
    model
        Anything that :func:`~zennit_neon.neuralize` takes (a fitted estimator or Pipeline, centroids, labels of X, a
        head), or a ``torch.nn.Module`` that ends in one head, together with ``composite``. The first steps of a
        Pipeline may also work column by column (``OneHotEncoder``, ``SimpleImputer``, ``PowerTransformer``, ...), with
        a ``ColumnTransformer`` or without: relevance of the numbers that they make of a column is summed.
    X : ndarray, Tensor, sparse matrix or table, shape (N, d) or (N, d, ...)
        Points to explain. Every location of (N, d, ...) is a point. Tables are DataFrames of pandas and polars, and
        Arrow tables; their columns have to be those of the fit, by name. They may hold text where a step of the
        Pipeline encodes or drops them. Sparse matrices are never made dense as a whole, but relevance is.
    cluster : label, or sequence of labels, optional
        Explain this cluster for every point (or one for each point); by default the one a point is assigned to. A label
        is what the clustering itself calls the cluster: a name or a number, as ``predict`` gives it.
    competitor : label, optional
        Explain why the cluster *rather than this one*: :math:`h_{ck}` alone, to which relevance then sums. Points
        whose cluster is the competitor itself get 0.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2). By default that of a ``Neon`` composite, else that of the head, else the
        inverse of the mean evidence over X (Eq. 3).
    composite : zennit.core.Composite, optional
        Rules for the layers before the head, where ``model`` has any: ``Neon(EpsilonPlus())`` or any Zennit
        composite, which ``Neon`` is then put around. What it does not look after in the model is warned about.
    feature_names : sequence of str, optional
        By default the columns of a DataFrame, or the names that the estimator was fitted with.
    batch_size : int, optional
        Rows of X at a time, which bounds the memory beyond input and output; by default few enough for the cache.
    min_fidelity : float
        Warn if the head stands for labels and gives back fewer of those that were held out, overall or of any cluster.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Explanation

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what was expected and what came.
    DisagreementError
        If the network gives points to other clusters than the estimator predicts (on up to 1,000 rows of X).
    PrecisionError
        If a feature lies so far from zero that its numbers cannot tell the clusters apart.

    Warns
    -----
    UserWarning
        If relevance passes parts of a model that ``composite`` has no rules for (layers without a rule, additions and
        products in ``forward``, ...), with the name of the module; and if far less or more than the evidence arrives
        at the input (``arrived``) although no rule has biases to lose it to.

    Notes
    -----
    Where ``model`` is a clustering that knows the labels of X (``DBSCAN``) or the labels themselves, noise belongs to
    no cluster: its ``cluster`` is -1, and evidence and relevance are NaN. ``cluster=`` explains such a point all the
    same, unless it has missing values: why (not) that cluster? All other points are explained for the cluster that the
    network gives them to, which is that of their label as often as ``fidelity`` says.

    For the assigned cluster, relevance sums to evidence in every row (with several support vectors a cluster, or soft
    pooling, some of it is dissipated). For another cluster (``cluster=``) it does as
    well, but a competitor that is about as far away as the cluster in question may carry large relevance of both
    signs: its neuron is nearly switched off while it takes its share, and the quotient of both is large. Below
    :math:`|h_{ck}| < \epsilon^{1/3} |f_c|` that share goes to the nearest competitor (:math:`\epsilon` is machine
    precision).

    Examples
    --------
    >>> import numpy as np
    >>> e = explain(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[0.5, 0.0], [2.0, 1.0]]))
    >>> e.cluster
    array([0, 1])
    >>> e.relevance
    array([[2., 0.],
           [4., 0.]])
    >>> e.evidence
    array([2., 4.])
    """
    given, model = model, unwrapped(model)
    if composite is not None and not isinstance(model, nn.Module):
        raise ValueError(f"composite is for torch modules, which have layers; got a {type(model).__name__}")
    is_trunk = composite is not None or (bool(heads_of(model)) and not isinstance(model, Head))
    route: ClosedFormAttributor
    noise = None
    if is_trunk:
        route = trunk = ModelAttributor(given, composite, Table(X), batch_size, progress)
        if competitor is None and trunk.competitor is not None:  # rules know clusters by their positions
            competitor = labels_of(route.head)[place_of(trunk.competitor, None, route.head.n_clusters, "competitor")]
    else:
        route, noise = attributor_of(model, X, batch_size, progress)
    head, table = route.head, route.table
    check_fidelity(head, min_fidelity)
    chosen, rival = asked_of(cluster, competitor, head, route.shape, table.index)
    stiff = functional.check_beta(beta)
    if stiff is not None and head.soft:
        raise ValueError(f"beta is part of a soft clustering, or not needed, and cannot be chosen here; got {beta}")
    stiff = route.beta if stiff is None else stiff
    names = _names(feature_names, table, head, is_trunk)
    if stiff is None and rival is None and len(table) and not head.soft:
        stiff = route.calibrate(keep=chosen is None and not is_trunk)
    question = Question(stiff, rival)
    relevance, evidence, own = route.relevance(question, chosen)
    if noise is not None:
        leave_out(noise if chosen is None else table.ignored, relevance, evidence, own)
    return Explanation(
        relevance=table.like(relevance),
        evidence=table.plain(evidence),
        cluster=named_clusters(own, head, table),
        beta=stiff,
        feature_names=names,
        n_clusters=head.n_clusters,
        labels=labels_of(head),
        _own=own,
        _route=route,
        _question=question,
    )


#: Examples that doctest does not see behind a decorator.
__test__ = {"explain": explain}


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
    _own: Tensor
    _route: ClosedFormAttributor
    _question: Question

    def __repr__(self) -> str:
        shape = self._route.table.shape
        beta = "None" if self.beta is None else f"{self.beta:.4g}"
        fidelity = "" if self.fidelity is None else f", fidelity={float(self.fidelity):.3f}"
        return f"Explanation(shape={shape}, n_clusters={self.n_clusters}, beta={beta}{fidelity})"

    def __len__(self) -> int:
        return len(self._route.table)

    @property
    def data(self) -> Any:
        """The explained points, as they were given."""
        return self._route.table.X

    @property
    def fidelity(self) -> Fidelity | None:
        """How well the network stands for labels (:class:`~zennit_neon.Fidelity`); None where it is exact."""
        return self._route.head.fidelity

    @property
    def conserves(self) -> bool:
        """Whether relevance sums to evidence by the rules that were used: nothing is dissipated."""
        return bool(self._route.conserves)

    @property
    def positions(self) -> Array:
        """Place of each explained cluster among ``labels``, int64 (N,) or (N, ...); -1 for noise."""
        return self._own.numpy()

    @property
    def noise(self) -> Any:
        """Which points belong to no cluster, bool (N,) or (N, ...)."""
        return self._route.table.plain((self._own == NOISE).to(torch.as_tensor(self.evidence).device))

    def with_noise(self, noise: Any) -> Explanation:
        """The same explanation without that of some points: cluster -1, evidence and relevance NaN.

        Parameters
        ----------
        noise : array of bool, shape (N,)
            Which points belong to no cluster.

        Returns
        -------
        Explanation
        """
        mask = np.array(as_array(noise, "noise"))
        if mask.shape != (len(self),) or mask.dtype != np.bool_:
            raise ValueError(f"noise must be bool of shape ({len(self)},), got {mask.dtype} of {mask.shape}")
        table, own = self._route.table, self._own.clone()
        relevance, evidence = (
            part.clone() if isinstance(part, Tensor) else torch.from_numpy(np.array(as_array(part, "relevance")))
            for part in (self.relevance, self.evidence)
        )
        leave_out(mask, relevance, evidence, own)
        return replace(
            self,
            relevance=table.like(relevance),
            evidence=table.plain(evidence),
            cluster=named_clusters(own, self._route.head, table),
            _own=own,
        )

    @property
    def competitor(self) -> Any:
        """The label of the competitor that was asked about, if any."""
        place = self._question.competitor
        return None if place is None else self.labels[place]

    @property
    def _asked(self) -> Tensor:
        """Positions of the explained clusters; any for noise."""
        return self._own.clamp(min=0)

    def _without_noise(self, values: Tensor) -> Tensor:
        """NaN for noise."""
        noise = self._own == NOISE
        if bool(noise.any()):
            values[noise.to(values.device)] = float("nan")
        return values

    @property
    @exact()
    def arrived(self) -> Any:
        """Share of the evidence that arrived at the input, (N,) or (N, ...): the sum of relevance over the evidence.

        1 to rounding where nothing is dissipated (``conserves``); through a model, what its rules have kept. NaN for
        noise, and where evidence is 0.
        """
        relevance = torch.as_tensor(
            self.relevance if isinstance(self.relevance, Tensor) else as_array(self.relevance, "values")
        )
        evidence = torch.as_tensor(self.evidence).cpu().double()
        sums = relevance.flatten(1) if evidence.ndim == 1 else relevance.movedim(1, -1)
        share = sums.sum(-1, dtype=torch.float64).cpu() / torch.where(evidence == 0, torch.nan, evidence)
        return self._route.table.plain(share.to(torch.as_tensor(self.evidence)))

    @property
    @exact()
    def competitors(self) -> Any:
        """Relevance that flowed through each competitor, (N, K) or (N, K, ...) (:math:`R_{ck}` of Eq. 2, paper 1).

        In the order of ``labels``. Sums to evidence, unless soft pools dissipate (then that of neurons with the
        constant of the pool, which :meth:`through` leaves out); 0 at the explained cluster itself. Computed anew at
        each call, from X as it is then; through a model, from the scores at its head, which are kept.
        """
        return self._route.table.plain(self._without_noise(self._route.shares(self._question, self._asked)))

    @exact()
    def through(self, competitor: Any) -> Any:
        """The part of relevance that flowed through one competitor, given by its label; like X (Fig. 4C, paper 2).

        Sums over all competitors to ``relevance``; 0 for points whose explained cluster is the competitor. Through a
        model this is a pass of its own, which an explanation that was pickled cannot make any more.
        """
        k = place_of(competitor, self._route.head.labels, self.n_clusters, "competitor")
        part, _, _ = self._route.relevance(replace(self._question, through=k), self._asked)
        return self._route.table.like(self._without_noise(part))

    def summary(self) -> pandas.DataFrame:
        """Mean relevance of each feature over the points of each cluster: what makes this cluster.

        Returns
        -------
        DataFrame, shape (K, d)
            A cluster of which no point was explained has NaN.
        """
        import pandas

        relevance, cluster = self._rows()
        relevance, cluster = relevance[cluster != NOISE], cluster[cluster != NOISE]
        total = np.zeros((self.n_clusters, relevance.shape[1]))
        np.add.at(total, cluster, relevance)
        count = np.bincount(cluster, minlength=self.n_clusters).astype(float)
        count[count == 0] = np.nan
        index = pandas.Index(list(self.labels), name="cluster", tupleize_cols=False)
        return pandas.DataFrame(total / count[:, None], index=index, columns=self._columns(relevance.shape[1]))

    def to_frame(self) -> pandas.DataFrame:
        """One row a point: its cluster, its evidence, and the relevance of each feature.

        The first two columns are ``cluster`` and ``evidence``, with an underscore behind where a feature has that name.
        """
        import pandas

        relevance, _ = self._rows()
        frame = pandas.DataFrame(relevance, index=self._route.table.index, columns=self._columns(relevance.shape[1]))
        for name in ("evidence", "cluster"):
            values = as_array(getattr(self, name), name).ravel()
            while name in frame.columns:
                name += "_"
            frame.insert(0, name, values)
        return frame

    def to_shap(self) -> Any:
        """A ``shap.Explanation``, so that SHAP's plots can be used (needs the package ``shap``).

        Base values are 0: relevance sums to evidence, with nothing left over. Noise is left out.
        """
        import shap

        relevance, cluster = self._rows()
        data = as_array(self.data, "values")
        if relevance.shape != data.shape:
            data = np.moveaxis(data, 1, -1).reshape(relevance.shape)
        kept = cluster != NOISE
        return shap.Explanation(
            values=relevance[kept],
            base_values=np.zeros(int(kept.sum())),
            data=data[kept],
            feature_names=self._columns(relevance.shape[1]),
        )

    def _rows(self) -> tuple[Array, Array]:
        """Relevance (M, d) and position of the cluster (M,), one row a point."""
        relevance, cluster = as_array(self.relevance, "values"), self._own.numpy()
        if cluster.ndim > 1:
            relevance = np.moveaxis(relevance, 1, -1)
        width = int(np.prod(relevance.shape[cluster.ndim :]))
        return relevance.reshape(cluster.size, width), cluster.ravel()

    def _columns(self, width: int) -> list[str]:
        if self.feature_names is not None and len(self.feature_names) == width:
            return self.feature_names
        return [f"x{i}" for i in range(width)]


def _names(names: Sequence[str] | None, table: Table, head: Head, is_trunk: bool) -> list[str] | None:
    """Names of the features: given, of the table, of the head, or numbered."""
    width = table.shape[1]
    if names is not None:
        return list(check_feature_names(names, width))
    if table.names is not None:
        return table.names
    if head.feature_names is not None and not is_trunk:
        return list(head.feature_names)
    return [f"x{i}" for i in range(width)]

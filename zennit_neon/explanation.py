"""``explain``: why is this point in this cluster? And the :class:`Explanation` it returns."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from zennit.core import Composite

from . import functional
from .arrays import Columns, Table, plain
from .encoding import encode
from .guard import exact, say, unwrapped
from .heads import Head
from .neuralize import behind, neuralize, noise_of
from .routes import Closed, Encoded, Question
from .trunk import Trunk

if TYPE_CHECKING:
    import pandas

    from .surrogate import Fidelity

__all__ = ["explain", "Explanation"]

#: The cluster of points that belong to none, as in scikit-learn.
NOISE = -1


@exact()
def explain(
    model: Any,
    X: Any,
    *,
    cluster: int | Sequence[int] | Tensor | None = None,
    competitor: int | None = None,
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
    X : ndarray, Tensor or DataFrame, shape (N, d) or (N, d, ...)
        Points to explain. Every location of (N, d, ...) is a point. Columns of a DataFrame may hold text where a step
        of the Pipeline encodes or drops them.
    cluster : int or sequence of int, optional
        Explain this cluster for every point (or one for each point); by default the one a point is assigned to.
    competitor : int, optional
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
    same: why (not) that cluster? All other points are explained for the cluster that the network gives them to, which
    is that of their label as often as ``fidelity`` says.

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
    model = unwrapped(model)
    if composite is not None and not isinstance(model, nn.Module):
        raise ValueError(f"composite is for torch modules, which have layers; got a {type(model).__name__}")
    has_head = isinstance(model, nn.Module) and any(isinstance(part, Head) for part in model.modules())
    is_trunk = composite is not None or (has_head and not isinstance(model, Head))
    route: Closed
    if is_trunk:
        route = trunk = Trunk(model, composite, Table(X), batch_size, progress)
        competitor = trunk.competitor if competitor is None else competitor
    else:
        route = _closed(model, X, batch_size, progress)
    head, table = route.head, route.table
    check_fidelity(head, min_fidelity)
    chosen, competitor = asked_of(cluster, competitor, head, route.shape)
    stiff = functional.check_beta(beta)
    if stiff is not None and head.soft:
        raise ValueError(f"beta is part of a soft clustering, or not needed, and can not be chosen here; got {beta}")
    stiff = route.beta if stiff is None else stiff
    names = _names(feature_names, table, head, is_trunk)
    if stiff is None and competitor is None and len(table) and not head.soft:
        stiff = route.calibrate(keep=chosen is None and not is_trunk)
    question = Question(stiff, competitor)
    relevance, evidence, own = route.relevance(question, chosen)
    explanation = Explanation(
        relevance=table.like(relevance),
        evidence=table.plain(evidence),
        cluster=table.plain(own.to(evidence.device)),
        beta=stiff,
        feature_names=names,
        n_clusters=head.n_clusters,
        labels=head.labels,
        _route=route,
        _question=question,
    )
    if chosen is not None or head.fidelity is None or isinstance(model, nn.Module):
        return explanation
    noise = noise_of(model, X)
    return explanation if noise is None else explanation.with_noise(noise)


def _closed(model: Any, X: Any, batch_size: int | None, progress: bool) -> Closed:
    """The closed form of a clustering, behind an encoding of the columns of X where its Pipeline begins with one."""
    is_pipeline = hasattr(model, "steps") and not isinstance(model, nn.Module)  # heads have steps, too
    found = encode(model, plain(X)) if is_pipeline and len(getattr(X, "shape", ())) == 2 else None
    if found is None:
        table = Table(X)
        return Closed(neuralize(model, X, progress=progress), table, batch_size, progress)
    encoding, steps = found
    columns = Columns(X, encoding)
    columns.check_names(getattr(model, "feature_names_in_", None))
    return Encoded(behind(model, X, steps, progress), columns, batch_size, progress)


def check_fidelity(head: Head, least: float) -> None:
    """Warn if a head gives back few of the labels that it stands for."""
    if not isinstance(least, numbers.Real) or not 0 <= least <= 1:
        raise ValueError(f"min_fidelity must be from 0 to 1, got {least!r}")
    complaint = None if head.fidelity is None else head.fidelity.complaint(least, head.labels)
    if complaint is not None:
        say(complaint)


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
    cluster : ndarray or Tensor of int64, shape (N,) or (N, ...)
        The explained cluster of each point; -1 for noise.
    beta : float or None
        Stiffness that was used; None where no pooling was involved.
    feature_names : list of str or None
    n_clusters : int
    labels : tuple or None
        Names of the clusters, where they have any.
    """

    relevance: Any
    evidence: Any
    cluster: Any
    beta: float | None
    feature_names: list[str] | None
    n_clusters: int
    labels: tuple[Any, ...] | None
    _route: Closed
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
    def noise(self) -> Any:
        """Which points belong to no cluster, bool (N,) or (N, ...)."""
        return self.cluster == NOISE

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
        mask = torch.as_tensor(noise if isinstance(noise, Tensor) else np.asarray(noise)).cpu()
        if mask.shape != (len(self),) or mask.dtype != torch.bool:
            raise ValueError(f"noise must be bool of shape ({len(self)},), got {mask.dtype} of {tuple(mask.shape)}")
        table = self._route.table
        where = mask if table.kind == "torch" else mask.numpy()
        parts = (self.relevance, self.evidence, self.cluster)
        copies = [part.clone() if isinstance(part, Tensor) else part.copy() for part in parts]
        for part, value in zip(copies, (float("nan"), float("nan"), NOISE), strict=True):
            part[where] = value
        relevance, evidence, cluster = copies
        return replace(self, relevance=relevance, evidence=evidence, cluster=cluster)

    @property
    def competitor(self) -> int | None:
        """The competitor that was asked about, if any."""
        return self._question.competitor

    @property
    def _own(self) -> Tensor:
        """The explained clusters as a tensor; any for noise."""
        return torch.as_tensor(self.cluster).cpu().clamp(min=0)

    def _without_noise(self, values: Tensor) -> Tensor:
        """NaN for noise."""
        noise = torch.as_tensor(self.noise)
        if bool(noise.any()):
            values[noise] = float("nan")
        return values

    @property
    @exact()
    def arrived(self) -> Any:
        """Share of the evidence that arrived at the input, (N,) or (N, ...): the sum of relevance over the evidence.

        1 to rounding where nothing is dissipated (``conserves``); through a model, what its rules have kept. NaN for
        noise, and where evidence is 0.
        """
        relevance = torch.as_tensor(self.relevance if isinstance(self.relevance, Tensor) else _array(self.relevance))
        evidence = torch.as_tensor(self.evidence).cpu().double()
        sums = relevance.flatten(1) if evidence.ndim == 1 else relevance.movedim(1, -1)
        share = sums.sum(-1, dtype=torch.float64).cpu() / torch.where(evidence == 0, torch.nan, evidence)
        return self._route.table.plain(share.to(torch.as_tensor(self.evidence)))

    @property
    @exact()
    def competitors(self) -> Any:
        """Relevance that flowed through each competitor, (N, K) or (N, K, ...) (:math:`R_{ck}` of Eq. 2, paper 1).

        Sums to evidence; 0 at the explained cluster itself. Computed anew at each call, from X as it is then; through a
        model, from the scores at its head, which are kept.
        """
        return self._route.table.plain(self._without_noise(self._route.shares(self._question, self._own)))

    @exact()
    def through(self, competitor: int) -> Any:
        """The part of relevance that flowed through one competitor, like X (Fig. 4C, paper 2).

        Sums over all competitors to ``relevance``; 0 for points whose explained cluster is the competitor. Through a
        model this is a pass of its own, which an explanation that was pickled cannot make any more.
        """
        k = int(cluster_ids(competitor, "competitor", self._route.head, ()))
        part, _, _ = self._route.relevance(replace(self._question, through=k), self._own)
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
        index = pandas.Index(range(self.n_clusters) if self.labels is None else self.labels, name="cluster")
        return pandas.DataFrame(total / count[:, None], index=index, columns=self._columns(relevance.shape[1]))

    def to_frame(self) -> pandas.DataFrame:
        """One row a point: its cluster, its evidence, and the relevance of each feature.

        The first two columns are ``cluster`` and ``evidence``, with an underscore behind where a feature has that name.
        """
        import pandas

        relevance, cluster = self._rows()
        index = self.relevance.index if self._route.table.kind == "pandas" else None
        frame = pandas.DataFrame(relevance, index=index, columns=self._columns(relevance.shape[1]))
        names = cluster if self.labels is None else np.asarray([*self.labels, NOISE], dtype=object)[cluster]
        for name, values in (("evidence", _array(self.evidence).ravel()), ("cluster", names)):
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
        table = self._route.table
        data = self.data.to_numpy() if table.kind == "pandas" else _array(self.data)
        if relevance.shape != data.shape:
            data = np.moveaxis(data, 1, -1).reshape(relevance.shape)
        kept = cluster != NOISE
        return shap.Explanation(
            values=relevance[kept],
            base_values=np.zeros(int(kept.sum())),
            data=data[kept],
            feature_names=self._columns(relevance.shape[1]),
        )

    def _rows(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Relevance (M, d) and cluster (M,), one row a point."""
        relevance, cluster = _array(self.relevance), _array(self.cluster)
        if cluster.ndim > 1:
            relevance = np.moveaxis(relevance, 1, -1)
        width = int(np.prod(relevance.shape[cluster.ndim :]))
        return relevance.reshape(cluster.size, width), cluster.ravel()

    def _columns(self, width: int) -> list[str]:
        if self.feature_names is not None and len(self.feature_names) == width:
            return self.feature_names
        return [f"x{i}" for i in range(width)]


def _array(values: Any) -> np.ndarray[Any, Any]:
    return np.asarray(plain(values))


def cluster_ids(value: Any, name: str, head: Head, shape: tuple[int, ...]) -> Tensor:
    """Cluster numbers as int64 (``shape``), or ``ValueError`` that names the argument."""
    ids = torch.as_tensor(value if isinstance(value, Tensor) else np.asarray(value))
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise TypeError(f"{name} must be whole numbers, got {value!r}")
    if ids.ndim and ids.shape != shape:
        raise ValueError(f"{name} must be one number, or have shape {shape}, got {tuple(ids.shape)}")
    last = head.n_clusters - 1
    wrong = ids[(ids < 0) | (ids > last)]
    if wrong.numel():
        raise ValueError(
            f"{name}: relevance of cluster {int(wrong.flatten()[0])} was asked for, "
            f"but this head has {last + 1} clusters (0 to {last})"
        )
    return ids.to("cpu", torch.int64).expand(shape)


def asked_of(
    cluster: Any, competitor: int | None, head: Head, shape: tuple[int, ...]
) -> tuple[Tensor | None, int | None]:
    """The clusters to explain (None for the assigned ones) and the competitor, checked against a head."""
    rival = None if competitor is None else int(cluster_ids(competitor, "competitor", head, ()))
    chosen = None if cluster is None else cluster_ids(cluster, "cluster", head, shape)
    if rival is not None and chosen is not None and chosen.numel() and bool((chosen == rival).all()):
        raise ValueError(f"competitor must be another cluster than the explained one, got {rival} for both")
    return chosen, rival


def _names(names: Sequence[str] | None, table: Table, head: Head, is_trunk: bool) -> list[str] | None:
    """Names of the features: given, of the table, of the head, or numbered."""
    width = table.shape[1]
    if names is not None:
        if len(names) != width:
            raise ValueError(f"feature_names has {len(names)} names, but X has {width} features")
        return [str(name) for name in names]
    if table.names is not None:
        return table.names
    if head.feature_names is not None and not is_trunk:
        return list(head.feature_names)
    return [f"x{i}" for i in range(width)]

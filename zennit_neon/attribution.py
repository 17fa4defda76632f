"""Zennit attributors for one cluster or for all clusters at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zennit.attribution import Attributor
from zennit.core import Composite

from .attributors.session import Session, has_neon, session, total
from .caching.rules import UnknownRuleError, sharing
from .composites import Neon
from .heads.base import Head
from .heads.search import find_head
from .utils.labels import place_of
from .utils.model_state import say
from .utils.validation import check_int

__all__ = ["ClusterGradient", "Clusters", "positive_evidence"]

#: Numbers of the input in one pass, by default: two images of 448 x 448 (or more small ones).
PASS_ELEMENTS = 2 * 3 * 448 * 448


def positive_evidence(cluster: int | None = None) -> Callable[[Tensor], Tensor]:
    """Where relevance starts in both papers: the positive part of the evidence, at every location.

    For Zennit's own attributors: ``Gradient(model, Neon(composite))(images, positive_evidence(3))``.

    Parameters
    ----------
    cluster : int, optional
        Column of the evidence; all of them together if not given.

    Returns
    -------
    function
        From evidence (N, K, ...) to the seed of the same shape.
    """

    def seed(evidence: Tensor) -> Tensor:
        positive = evidence.detach().clamp(min=0)
        if cluster is None:
            return positive
        if not 0 <= cluster < evidence.shape[1]:
            raise ValueError(f"cluster must be from 0 to {evidence.shape[1] - 1}, got {cluster}")
        alone = torch.zeros_like(positive)
        alone[:, cluster] = positive[:, cluster]
        return alone

    return seed


class Clusters(tuple[Tensor, Tensor]):
    """Evidence (N, K, ...) and relevance (N, K, ...), as :class:`ClusterGradient` returns them: unpack it.

    Attributes
    ----------
    arrived : Tensor, shape (N, K)
        Share of what was distributed that arrived at the input; NaN where nothing was.
    """

    arrived: Tensor

    def __new__(cls, evidence: Tensor, relevance: Tensor, arrived: Tensor) -> Clusters:
        """Make the pair; ``arrived`` is an attribute of it."""
        pair = super().__new__(cls, (evidence, relevance))
        pair.arrived = arrived
        return pair

    def __getnewargs__(self) -> tuple[Tensor, Tensor, Tensor]:
        """What a copy, or a pickle, is made from."""
        return self[0], self[1], self.arrived


class ClusterGradient(Attributor):
    """Relevance of the input for many clusters at once, as Zennit's ``Gradient`` gives it for one.

    The forward pass, and all that Zennit's rules compute besides it, is done once for all clusters. Each cluster then
    costs about one plain backward pass. The numbers are those of one ``Gradient`` for each cluster, seeded with
    :func:`positive_evidence`.

    Each call works on a twin of the model, which shares its parameters and is in evaluation mode. The model itself is
    left alone, also within a ``with`` statement: hooks see relevance if they are registered before the call. One
    attributor may be called by several threads.

    Parameters
    ----------
    model : torch.nn.Module
        Ends in a neuralised head, as :func:`zennit_neon.vision.cluster_features` makes it.
    composite : zennit.core.Composite, optional
        ``Neon(...)``, or any composite for the trunk, which ``Neon`` is then put around.
    clusters : sequence of labels, optional
        Clusters to explain, in this order; all that the head puts out if not given.
    attr_output : callable or Tensor, optional
        From evidence (N, K, ...) of the chosen clusters to what is distributed for each of them, of the same shape; the
        positive part if not given.
    batch_size : int, optional
        Inputs in one pass, which bounds the memory; by default about two images of 448 x 448.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If the model has not exactly one head, clusters do not exist, the input is not finite, or no rule applies to any
        layer before the head.

    Warns
    -----
    UserWarning
        Once, if the composite has rules, or the model layers, that the passes cannot be shared for; each cluster then
        takes a pass of its own, with Zennit's rules. And if relevance passes parts of the model that the composite has
        no rules for, or far less or more of it arrives than was distributed (see :func:`zennit_neon.explain`).

    Examples
    --------
    >>> import zennit_neon as neon
    >>> from zennit.composites import EpsilonPlus
    >>> trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    >>> head = neon.NeuralizedKMeans(torch.eye(4), beta=1.0)
    >>> with ClusterGradient(nn.Sequential(trunk, head), EpsilonPlus()) as attributor:
    ...     evidence, relevance = attributor(torch.rand(2, 3, 8, 8))
    >>> evidence.shape, relevance.shape
    (torch.Size([2, 4, 6, 6]), torch.Size([2, 4, 3, 8, 8]))
    """

    def __init__(
        self,
        model: nn.Module,
        composite: Composite | None = None,
        clusters: Sequence[Any] | None = None,
        attr_output: Callable[[Tensor], Tensor] | Tensor | None = None,
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ):
        batch_size = None if batch_size is None else check_int(batch_size, "batch_size", 1)
        composite = composite if has_neon(composite) else Neon(composite)
        attr_output = positive_evidence() if attr_output is None else attr_output
        super().__init__(model, composite, attr_output)
        self.clusters = None if clusters is None else _listed(clusters)
        self.batch_size, self.progress = batch_size, progress
        self._warned, self._active = False, True
        self._said: set[str] = set()

    def __enter__(self) -> ClusterGradient:
        """The attributor itself: each call attaches the composite to a twin of the model."""
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        """Nothing to do: rules are attached to twins, for the time of a call."""

    @contextlib.contextmanager
    def _inactive(self) -> Iterator[None]:
        before, self._active = self._active, False
        try:
            yield
        finally:
            self._active = before

    @property
    def inactive(self) -> Callable[[], contextlib.AbstractContextManager[None]]:
        """A context in which the attributor gives plain gradients, as that of Zennit's attributors."""
        return self._inactive

    def forward(self, input: Tensor, attr_output_fn: Callable[[Tensor], Tensor]) -> Clusters:
        """Evidence and relevance of a batch of inputs.

        Parameters
        ----------
        input : Tensor, shape (N, ...)
        attr_output_fn : callable
            See ``attr_output``.

        Returns
        -------
        evidence : Tensor, shape (N, K, ...)
            Of the chosen clusters.
        relevance : Tensor, shape (N, K, ...)
            For each of them, shaped like the input.

        The pair has the share of what was distributed that has arrived, (N, K), as ``arrived``.
        """
        if not isinstance(input, Tensor) or not input.dtype.is_floating_point or input.ndim < 2:
            raise TypeError(f"input must be a floating point tensor (N, ...), got {_describe(input)}")
        size = self.batch_size or max(1, PASS_ELEMENTS // max(1, input[:1].numel()))
        found: list[tuple[Tensor, Tensor]] = []
        with session(self.model, self.composite, self._active, self._said) as running:
            columns, dtype = _columns(running, self.clusters), _dtype_for(input, running.model)
            shape = (len(input), len(columns), *input.shape[1:])
            relevance = torch.empty(shape, dtype=input.dtype, device=input.device)
            with self._bar(len(input) * len(columns)) as bar:
                for start in range(0, max(1, len(input)), size):
                    place = slice(start, start + size)

                    def seed(evidence: Tensor, place: slice = place) -> Tensor:
                        return _seed(attr_output_fn, evidence, place, len(input))

                    x = input[place].detach().to(dtype, copy=input.is_inference())
                    found.append(self._pass(running, x, columns, seed, relevance[place], bar))
            evidence, given = (torch.cat(parts) for parts in zip(*found, strict=True))
            evidence = evidence if dtype == input.dtype else evidence.to(input.dtype)
            sums = _amount(relevance)
            running.conclude(total(sums * given.sign()), total(given.abs()))
        return Clusters(evidence, relevance, sums / torch.where(given == 0, torch.nan, given))

    def _pass(
        self, running: Session, x: Tensor, columns: list[int], seed: Any, out: Tensor, bar: Any
    ) -> tuple[Tensor, Tensor]:
        """Relevance of a few inputs, written to ``out``; returns their evidence, and how much (N, K) is distributed."""
        if not self._warned:
            try:
                assert running.composite is not None
                with sharing(running.model, running.composite):
                    return self._shared_pass(running, x, columns, seed, out, bar)
            except UnknownRuleError as error:
                self._warned = True
                say(
                    f"the passes of all clusters cannot be shared, as {error}; every cluster takes its own pass with "
                    "Zennit's rules"
                )
        if not columns:
            evidence = running(x)[:, columns].detach()
            return evidence, _amount(evidence)
        amounts = []
        for position, column in enumerate(columns):
            x = x.detach().requires_grad_()
            output = running(x)
            evidence = output.detach()[:, columns]
            relevance = seed(evidence)[:, position]
            out[:, position] = _pull(output, x, column, relevance, retain=False)
            amounts.append(_amount(relevance[:, None]))
            bar.update(len(x))
        return evidence, torch.cat(amounts, 1)

    def _shared_pass(
        self, running: Session, x: Tensor, columns: list[int], seed: Any, out: Tensor, bar: Any
    ) -> tuple[Tensor, Tensor]:
        x.requires_grad_()
        output = running(x)
        evidence = output.detach()[:, columns]
        relevance = seed(evidence)
        for position, column in enumerate(columns):
            out[:, position] = _pull(output, x, column, relevance[:, position], retain=True)
            bar.update(len(x))
        return evidence, _amount(relevance)

    def _bar(self, total: int) -> Any:
        from tqdm.auto import tqdm

        return tqdm(total=total, desc="clusters", unit="maps", disable=not self.progress)


def _listed(clusters: Any) -> list[Any]:
    """Labels of clusters in order, or ``TypeError``."""
    if isinstance(clusters, (str, bytes, set, frozenset, dict)) or not hasattr(clusters, "__iter__"):
        raise TypeError(f"clusters must be a list of labels of clusters, got {clusters!r}")
    return list(clusters)


def _columns(running: Session, clusters: list[Any] | None) -> list[int]:
    """Columns of the evidence of the chosen clusters."""
    head = find_head(running.model)
    known = head.clusters.tolist()
    if clusters is None:
        return list(range(len(known)))
    places = [
        check_int(cluster, "clusters")
        if head.labels is None
        else place_of(cluster, head.labels, head.n_clusters, "clusters")
        for cluster in clusters
    ]
    wrong = [cluster for cluster, place in zip(clusters, places, strict=True) if place not in known]
    if wrong:
        labels = known if head.labels is None else [head.labels[place] for place in known]
        raise ValueError(f"clusters must be among {labels}, which the head puts out, got {wrong}")
    return [known.index(place) for place in places]


def _amount(seed: Tensor) -> Tensor:
    """How much is distributed, (N, K), in double precision."""
    return seed.detach()[..., None].flatten(2).sum(2, dtype=torch.float64)


def _dtype_for(input: Tensor, model: nn.Module) -> torch.dtype:
    """The precision in which the model takes an input: its own; heads alone take any but half types."""
    if isinstance(model, Head) and input.dtype not in (torch.float16, torch.bfloat16):
        return input.dtype
    state = (*model.parameters(), *model.buffers())
    return next((part.dtype for part in state if part.dtype.is_floating_point), input.dtype)


def _pull(output: Tensor, x: Tensor, column: int, relevance: Tensor, retain: bool) -> Tensor:
    """Relevance of ``x`` for one column of the output."""
    if not bool(relevance.any()):
        return torch.zeros_like(x)
    seed = torch.zeros_like(output)
    seed[:, column] = relevance
    (pulled,) = torch.autograd.grad(output, x, seed, retain_graph=retain)
    return pulled


def _seed(attr_output_fn: Callable[[Tensor], Tensor], evidence: Tensor, place: slice, total: int) -> Tensor:
    """What is distributed for some of the inputs."""
    seed = attr_output_fn(evidence)
    if seed.shape[:1] == (total,) and len(evidence) != total:  # a tensor for all inputs
        seed = seed[place]
    if seed.shape != evidence.shape:
        raise ValueError(
            f"attr_output must have the shape of the evidence, {tuple(evidence.shape)}, got {tuple(seed.shape)}"
        )
    return seed.to(evidence)


def _describe(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

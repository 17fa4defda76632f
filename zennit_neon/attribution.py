"""Zennit attributors for clusters: one, or all of them in one go."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zennit.attribution import Attributor
from zennit.composites import MixedComposite
from zennit.core import Composite

from .composites import Neon
from .guard import evaluating
from .heads import Head
from .shared import UnknownRuleError, sharing

__all__ = ["ClusterGradient", "positive_evidence"]

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


class ClusterGradient(Attributor):
    """Relevance of the input for many clusters at once, as Zennit's ``Gradient`` gives it for one.

    The forward pass, and all that Zennit's rules compute besides it, is done once for all clusters. Each cluster then
    costs about one plain backward pass. The numbers are those of one ``Gradient`` for each cluster, seeded with
    :func:`positive_evidence`.

    The model is put in evaluation mode for the duration of a call, and is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
        Ends in a neuralised head, as :func:`zennit_neon.vision.cluster_features` makes it.
    composite : zennit.core.Composite, optional
        ``Neon(...)``, or any composite for the trunk, which ``Neon`` is then put around.
    clusters : sequence of int, optional
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
        If the model has not exactly one head, clusters do not exist, or the input is not finite.

    Warns
    -----
    UserWarning
        Once, if the composite has rules, or the model layers, that the passes can not be shared for; each cluster then
        takes a pass of Zennit's own.

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
        clusters: Sequence[int] | None = None,
        attr_output: Callable[[Tensor], Tensor] | Tensor | None = None,
        *,
        batch_size: int | None = None,
        progress: bool = False,
    ):
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        composite = composite if _has_neon(composite) else Neon(composite)
        super().__init__(model, composite, positive_evidence() if attr_output is None else attr_output)
        self.clusters = None if clusters is None else [int(cluster) for cluster in clusters]
        self.batch_size, self.progress = batch_size, progress
        self._warned = False

    def forward(self, input: Tensor, attr_output_fn: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
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
        """
        if not isinstance(input, Tensor) or not input.dtype.is_floating_point or input.ndim < 2:
            raise TypeError(f"input must be a floating point tensor (N, ...), got {_describe(input)}")
        columns = self._columns()
        size = self.batch_size or max(1, PASS_ELEMENTS // max(1, input[:1].numel()))
        relevance = input.new_empty((len(input), len(columns), *input.shape[1:]))
        evidence = []
        with evaluating(self.model), torch.enable_grad(), self._bar(len(input) * len(columns)) as bar:
            for start in range(0, max(1, len(input)), size):
                part = input[start : start + size].detach()

                def seed(found: Tensor, place: slice = slice(start, start + size)) -> Tensor:
                    return _seed(attr_output_fn, found, place, len(input))

                evidence.append(self._pass(part, columns, seed, relevance[start : start + size], bar))
        return torch.cat(evidence), relevance

    def _pass(self, x: Tensor, columns: list[int], seed: Any, out: Tensor, bar: Any) -> Tensor:
        """Relevance of a few inputs, written to ``out``; returns their evidence."""
        if not self._warned:
            try:
                with sharing(self.model, self.composite):
                    return self._shared_pass(x, columns, seed, out, bar)
            except UnknownRuleError as error:
                self._warned = True
                warnings.warn(
                    f"the passes of all clusters can not be shared, as {error}; every cluster takes its own pass with "
                    "Zennit's rules, to the same effect",
                    stacklevel=5,
                )
        if not columns:
            return self.model(x)[:, columns].detach()
        for position, column in enumerate(columns):
            x = x.detach().requires_grad_()
            output = self.model(x)
            evidence = output.detach()[:, columns]
            relevance = seed(evidence)[:, position]
            out[:, position] = _pull(output, x, column, relevance, retain=False)
            bar.update(len(x))
        return evidence

    def _shared_pass(self, x: Tensor, columns: list[int], seed: Any, out: Tensor, bar: Any) -> Tensor:
        x.requires_grad_()
        output = self.model(x)
        evidence = output.detach()[:, columns]
        relevance = seed(evidence)
        for position, column in enumerate(columns):
            out[:, position] = _pull(output, x, column, relevance[:, position], retain=True)
            bar.update(len(x))
        return evidence

    def _columns(self) -> list[int]:
        """Columns of the evidence of the chosen clusters."""
        heads = [module for module in self.model.modules() if isinstance(module, Head)]
        if len(heads) != 1:
            raise ValueError(
                f"model must end in one neuralised head, but this {type(self.model).__name__} has {len(heads)}: "
                "zennit_neon.neuralize(...) makes one from a clustering"
            )
        known = heads[0].clusters.tolist()
        wrong = [cluster for cluster in self.clusters or [] if cluster not in known]
        if wrong:
            raise ValueError(f"clusters must be among {known}, which the head puts out, got {wrong}")
        return [known.index(cluster) for cluster in (known if self.clusters is None else self.clusters)]

    def _bar(self, total: int) -> Any:
        from tqdm.auto import tqdm

        return tqdm(total=total, desc="clusters", unit="maps", disable=not self.progress)


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


def _has_neon(composite: Composite | None) -> bool:
    if isinstance(composite, MixedComposite):
        return any(_has_neon(part) for part in composite.composites)
    return isinstance(composite, Neon)


def _describe(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

"""NEON as a method of Captum, for its tunnels, metrics and plots. No other module of the package imports Captum."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from captum import attr
from captum.log import log_usage
from torch import Tensor, nn
from zennit.core import Composite

from . import functional
from .attributors.base import Target
from .attributors.closed_form import ClosedFormAttributor
from .attributors.session import Session, plain_session, session, total
from .attributors.targets import as_parts, chosen, columns_of, explained, missing
from .attributors.through_model import ZennitAttributor
from .composites import Neon
from .estimators.clusterings import neuralize
from .heads.base import Head
from .heads.search import heads_of
from .instrumentation.twin import Twin
from .utils.model_state import exact, say, unwrapped
from .utils.tables import Table

__all__ = ["NEON", "LayerNEON", "NoiseTunnel"]


class NEON(attr.Attribution):
    r"""Why is each input in this cluster? NEON (paper 1) with the interface of Captum.

    Relevance is that of :func:`~zennit_neon.explain`: in closed form for a clustering, by Zennit's rules for a model
    with layers before it. Each call works on a twin of the model in evaluation mode, which shares its parameters. A
    warning names the parts of the model that the composite has no rules for.

    Parameters
    ----------
    model
        A neuralised head, anything that :func:`~zennit_neon.neuralize` takes without points (a fitted estimator,
        centroids), or a ``torch.nn.Module`` that ends in one head, together with ``composite``.
    composite : zennit.core.Composite, optional
        Rules for the layers before the head, where ``model`` has any: ``Neon(...)``, or any Zennit composite, which
        ``Neon`` is then put around.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2). By default that of the composite, else that of the head, else the inverse
        of the mean evidence over the batch (Eq. 3), with a warning: relevance then depends on what else is in it.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what was expected and what came.

    Examples
    --------
    >>> method = NEON([[0.0, 0.0], [2.0, 0.0]], beta=1.0)
    >>> relevance, delta = method.attribute(torch.tensor([[0.5, 0.0], [2.0, 1.0]]), return_convergence_delta=True)
    >>> relevance
    tensor([[2., 0.],
            [4., 0.]])
    >>> delta
    tensor([0., 0.])
    """

    def __init__(self, model: Any, composite: Composite | None = None, beta: float | None = None):
        given, model = model, unwrapped(model)
        if composite is not None and not isinstance(model, nn.Module):
            raise ValueError(f"composite is for torch modules, which have layers; got a {type(model).__name__}")
        self._composite: Neon | None = None
        if composite is None and (isinstance(model, Head) or not heads_of(model)):
            model = self.head = neuralize(model)
        else:
            trunk = ZennitAttributor(model, composite, Table(torch.empty(0, 1)))  # what it refuses is refused here
            self.head, self._composite = trunk.head, trunk.composite
        state = () if self._composite is None else (*model.parameters(), *model.buffers())
        self._like = next((part for part in state if part.dtype.is_floating_point), None)
        attr.Attribution.__init__(self, model)
        self.model, self.beta = model, functional.check_beta(beta)
        self._given = given if isinstance(given, nn.Module) and unwrapped(given) is model else model
        if self.beta is not None and self.head.soft:
            raise ValueError(f"beta is part of a soft clustering, or not needed, and cannot be chosen; got {beta}")
        self._competitor = None if self._composite is None else self._composite.competitor
        if self._competitor is not None and not 0 <= self._competitor < self.head.n_clusters:
            raise ValueError(f"competitor must be from 0 to {self.head.n_clusters - 1}, got {self._competitor}")
        fidelity = self.head.fidelity
        if fidelity is not None and (complaint := fidelity.complaint(0.9, self.head.labels)) is not None:
            say(complaint)

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: relevance is a share of the evidence, not a sensitivity to the input."""
        return True

    def has_convergence_delta(self) -> bool:
        """True: relevance should sum to the evidence."""
        return True

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
    ) -> Any:
        """Relevance of the inputs for the evidence of one cluster each.

        Parameters
        ----------
        inputs : Tensor or tuple of Tensor, shape (N, ...)
            Floating point. A clustering takes one, a model as many as its ``forward``.
        target : int, sequence of int, Tensor or tuple, optional
            Output of the model, or one for each input; the one of the cluster that each input is assigned to if not
            given. Where outputs have locations (N, K, H, W), a number means the positive evidence at all of them,
            and a tuple (k, y, x), or a list of them, for the evidence at one; either has to be given.
        additional_forward_args : object or tuple, optional
            Further arguments of the model, which get no relevance.
        return_convergence_delta : bool
            Return delta as well.

        Returns
        -------
        relevance : Tensor or tuple of Tensor
            Shaped like ``inputs``.
        delta : Tensor, shape (N,)
            Evidence minus the sum of relevance; 0 to rounding where the rules conserve. Only if asked for.
        """
        parts, further = self._read(inputs, additional_forward_args)
        closed = self._composite is None
        with exact():
            found, amount = self._closed(parts[0], target) if closed else self._by_rules(parts, further, target)
        relevance = found if isinstance(inputs, tuple) else found[0]
        return (relevance, missing(amount, found)) if return_convergence_delta else relevance

    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Evidence minus the sum of ``attributions``, shape (N,); the other arguments as for ``attribute``."""
        with plain_session(self.model) as plain, torch.no_grad():
            output, entered = self._forward(plain, *self._read(inputs, additional_forward_args, cast=True))
            _, amount = self._distributed(output, entered, target)
        return missing(amount, as_parts(attributions, "attributions"))

    def assigned(self, inputs: Tensor | tuple[Tensor, ...], additional_forward_args: Any = None) -> Tensor:
        """Output of the cluster that each input is assigned to, int64 (N,): a target for any method of Captum."""
        with plain_session(self.model) as plain, torch.no_grad():
            output, entered = self._forward(plain, *self._read(inputs, additional_forward_args, cast=True))
            return self._assigned(output.shape, entered)

    def _read(self, inputs: Any, arguments: Any, cast: bool = False) -> tuple[tuple[Tensor, ...], tuple[Any, ...]]:
        """Inputs and additional arguments as tuples, as Captum reads them; on request in the model's precision."""
        parts = as_parts(inputs)
        further = () if arguments is None else arguments if isinstance(arguments, tuple) else (arguments,)
        if self.model is self.head:
            if len(parts) != 1 or further:
                got = f"got {len(parts)} and {len(further)}"
                raise ValueError(f"a clustering alone takes one input and no additional_forward_args, {got}")
            self.head.check_input(parts[0])
        return (tuple(map(self._cast, parts)) if cast else parts), further

    def _closed(self, x: Tensor, target: Any) -> tuple[tuple[Tensor], Tensor]:
        """Relevance of the input of a head in closed form, and what was distributed (N, ...)."""
        head, attributor = self.head, ClosedFormAttributor(self.head, Table(x))
        shape = (len(x), len(head.clusters), *x.shape[2:])
        cluster, place = None, None
        if target is not None:
            column, place = chosen(target, shape)
            cluster = self._clusters(column, x.ndim - 1).cpu().expand(attributor.shape)
        beta, calibration = head.beta if self.beta is None else self.beta, None
        if beta is None and not head.soft and len(x):
            say(
                "beta is not set, so it is estimated from this batch (Eq. 3); call head.calibrate(X), or give beta= to "
                f"{type(self).__name__}, for relevance that does not depend on the batch"
            )
            calibration = attributor.calibrate(keep=target is None)
            beta = calibration.beta
        found = attributor.attribute(Target(beta), cluster, calibration)
        if target is None:
            columns_of(found.cluster, head, shape)
        relevance, evidence = found.relevance, found.evidence
        if evidence.ndim > 1:
            where = explained(evidence, place)
            relevance, evidence = relevance * where.unsqueeze(1), evidence * where
        return (relevance,), evidence

    def _by_rules(
        self, parts: tuple[Tensor, ...], further: tuple[Any, ...], target: Any, tap: Any = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Relevance of the inputs, or of what ``tap`` finds, by Zennit's rules; and what was distributed (N, ...)."""
        composite = Neon() if self._composite is None else self._composite
        beta = composite.beta if self.beta is None else self.beta
        beta = 1.0 if beta is None and not len(parts[0]) else beta  # nothing to estimate it from, or to use it for
        with session(self._given, composite.replaced(beta, self._competitor)) as running:
            leaves = tuple(self._cast(part).clone().requires_grad_() for part in parts)
            further = tuple(x.clone() if isinstance(x, Tensor) and x.is_inference() else x for x in further)
            with contextlib.nullcontext(leaves) if tap is None else tap(running) as sources:
                output, entered = self._forward(running, leaves, further)
                column, amount = self._distributed(output.detach(), entered, target)
                seed = torch.zeros_like(output)
                seed[torch.arange(len(seed)), column] = amount
                found = torch.autograd.grad(output, sources, seed, allow_unused=True) if sources else (None,)
            if tap is not None and any(part is None for part in found):
                raise ValueError("layer must lie between the inputs and the evidence, but no relevance gets there")
            relevance = tuple(torch.zeros_like(x) if r is None else r for x, r in zip(sources, found, strict=True))
            if tap is None:
                whole = missing(amount, ())
                running.conclude(total((whole - missing(amount, relevance)) * whole.sign()), total(whole.abs()))
                return tuple(part.to(x.dtype) for part, x in zip(relevance, parts, strict=True)), amount
        return tuple(part.to(parts[0].dtype) for part in relevance), amount

    def _cast(self, part: Tensor) -> Tensor:
        """An input in the precision of the model."""
        part = part.detach()
        return part if self._like is None else part.to(self._like.dtype)

    def _forward(self, running: Session, parts: tuple[Tensor, ...], further: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Output of the model, and what entered the head."""
        output, entered = running.with_head_input(*parts, *further)
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if shape[:2] != (wanted := (len(parts[0]), len(self.head.clusters))):
            raise ValueError(f"model must end in its head and put out evidence of shape {wanted} (, ...), got {shape}")
        return output, entered

    def _distributed(self, output: Tensor, entered: Tensor, target: Any) -> tuple[Tensor, Tensor]:
        """Column (N,) of each input, and the amount (N, ...) that is distributed at each of its locations."""
        shape = output.shape
        column, place = (self._assigned(shape, entered), None) if target is None else chosen(target, shape)
        column = column.to(output.device)
        evidence = amount = output[torch.arange(len(output)), column]
        if self._competitor is not None:  # evidence against that one alone
            layer, cluster = self.head.evidence_layer, self._clusters(column, evidence.ndim).expand(evidence.shape)
            scores = layer.prepare(self.head.rows(entered)).scores
            amount = (
                layer.contrast_coefficients(scores, self._competitor, cluster.flatten())[1]
                .view(evidence.shape)
                .to(evidence)
            )
        return column, amount if evidence.ndim == 1 else amount * explained(evidence, place)

    def _clusters(self, column: Tensor, ndim: int) -> Tensor:
        """Clusters (N, 1, ...) of outputs (N,)."""
        return self.head.clusters[column.to(self.head.clusters.device)].view(-1, *[1] * (ndim - 1))

    def _assigned(self, shape: tuple[int, ...], entered: Tensor) -> Tensor:
        """Output (N,) of the assigned clusters, of what entered the head."""
        layer = self.head.evidence_layer
        scores = layer.prepare(self.head.rows(entered)).scores
        return columns_of(layer.pool_competitors(scores).cluster[:, 0], self.head, shape)


class LayerNEON(NEON, attr.LayerAttribution):
    """Relevance at a layer of the model, for the evidence of one cluster each.

    Parameters
    ----------
    model, composite, beta
        As for :class:`NEON`. A head alone needs no composite: its own layers have relevance as well.
    layer : torch.nn.Module or str
        Layer of the model, or its name. It has to be run once for each input.

    Examples
    --------
    >>> import zennit_neon as neon
    >>> from zennit.composites import EpsilonPlus
    >>> head = neon.NeuralizedKMeans([[0.0, 0.0], [1.0, 2.0]], beta=1.0)
    >>> model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), head)
    >>> LayerNEON(model, "1", EpsilonPlus()).attribute(torch.rand(3, 4), target=0).shape
    torch.Size([3, 2])
    """

    def __init__(
        self, model: Any, layer: nn.Module | str, composite: Composite | None = None, beta: float | None = None
    ):
        super().__init__(model, composite, beta)
        self.layer, self.device_ids = _layer(self.model, layer), None

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """Relevance at the output of the layer, or with ``attribute_to_layer_input`` at its input.

        A tuple where the layer puts out or takes more than one tensor. Delta is evidence minus the sum of relevance at
        the layer. All else is as for :meth:`NEON.attribute`.
        """

        def tap(running: Session) -> contextlib.AbstractContextManager[list[Tensor]]:
            return _tapped(_counterpart(running.twin, self.model, self.layer), attribute_to_layer_input)

        found, amount = self._by_rules(*self._read(inputs, additional_forward_args), target, tap)
        relevances = found if len(found) > 1 else found[0]
        return (relevances, missing(amount, found)) if return_convergence_delta else relevances


class NoiseTunnel(attr.NoiseTunnel):
    """Captum's ``NoiseTunnel``, with noise that does not change what is explained.

    Without a target, all noisy copies of an input are explained for the cluster that the input itself is assigned to.
    In Captum's own each copy is explained for its own cluster, so that the mean mixes explanations of several.

    Parameters
    ----------
    attribution_method : captum.attr.Attribution
        :class:`NEON`, :class:`LayerNEON`, or another with a method ``assigned(inputs, additional_forward_args)``. Any
        other is run as Captum does.

    Examples
    --------
    >>> tunnel = NoiseTunnel(NEON([[0.0, 0.0], [2.0, 0.0]], beta=1.0))
    >>> tunnel.attribute(torch.tensor([[0.5, 0.0]]), nt_samples=10, stdevs=0.1).shape
    torch.Size([1, 2])
    """

    @log_usage()
    def attribute(self, inputs: Tensor | tuple[Tensor, ...], *args: Any, **kwargs: Any) -> Any:
        """Relevance of noisy copies, as Captum combines it (``nt_type``, ``nt_samples``, ``stdevs``, ...)."""
        if kwargs.get("target") is None and hasattr(self.attribution_method, "assigned"):
            kwargs["target"] = self.attribution_method.assigned(inputs, kwargs.get("additional_forward_args"))
        return super().attribute(inputs, *args, **kwargs)


def _layer(model: nn.Module, layer: Any) -> nn.Module:
    """A module of the model, given itself or by its name."""
    modules = dict(model.named_modules())
    found = modules.get(layer) if isinstance(layer, str) else next((m for m in modules.values() if m is layer), None)
    if found is None:
        given = repr(layer) if isinstance(layer, str) else f"another {type(layer).__name__}"
        raise ValueError(f"layer must be a module of the model or its name, got {given}; names are {[*modules][1:]}")
    return found


def _counterpart(twin: Twin, model: nn.Module, layer: nn.Module) -> nn.Module:
    """A layer in the twin of a model, or what a canonizer has put in its place."""
    found, modules = twin.of(layer), dict(twin.model.named_modules())
    if any(module is found for module in modules.values()):
        return found
    name = next(name for name, module in model.named_modules() if module is layer)
    return modules.get(".".join(part for part in name.split(".") if part != "_orig_mod"), found)


@contextlib.contextmanager
def _tapped(layer: nn.Module, at_input: bool) -> Iterator[list[Tensor]]:
    """The tensors that leave or enter a layer with rules attached, in a list that the next forward pass fills."""
    found: list[Tensor] = []

    def keep(values: Any) -> Any:
        if found:
            raise ValueError("layer must be run once in a forward pass, but it was run again: which of them is meant?")
        parts = values if isinstance(values, tuple) else (values,)
        found.extend(part for part in parts if isinstance(part, Tensor) and part.requires_grad)
        copies = tuple(part.clone() if isinstance(part, Tensor) else part for part in parts)  # some layers overwrite
        return copies if isinstance(values, tuple) else copies[0]

    if at_input:
        handle = layer.register_forward_pre_hook(lambda _, inputs: keep(inputs), prepend=True)
    else:
        handle = layer.register_forward_hook(lambda _, __, output: keep(output))
    with handle:
        yield found

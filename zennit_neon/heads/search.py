"""The neuralised heads of a model."""

from __future__ import annotations

from typing import Any

from torch import nn

from .base import Head

__all__ = ["find_head", "heads_of"]


def heads_of(model: Any) -> dict[str, Head]:
    """All heads of a torch module by their names in it; none of anything else."""
    modules = model.named_modules() if isinstance(model, nn.Module) else ()
    return {name: module for name, module in modules if isinstance(module, Head)}


def find_head(model: Any) -> Head:
    """The head of a model.

    Parameters
    ----------
    model : torch.nn.Module
        A head, or a model that has one.

    Raises
    ------
    TypeError
        If it is no torch module.
    ValueError
        If it has no head, or more than one.

    Examples
    --------
    >>> from zennit_neon import NeuralizedKMeans
    >>> head = NeuralizedKMeans([[0.0], [1.0]])
    >>> find_head(nn.Sequential(nn.ReLU(), head)) is head
    True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    heads = heads_of(model)
    if len(heads) == 1:
        return next(iter(heads.values()))
    if heads:
        found = f"has {len(heads)} ({', '.join(heads)}): explain the part of it that ends in one of them"
    else:
        found = "has none: put zennit_neon.neuralize(...) at its end"
    raise ValueError(f"model must end in one neuralised head, but this {type(model).__name__} {found}")

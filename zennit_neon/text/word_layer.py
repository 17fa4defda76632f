r"""The first layer of a head on words: relevance at the words of a document, never at the whole vocabulary.

The linear units below the pools of a head are :math:`2 v_m \cdot z - v_m \cdot \rho_m`, where :math:`z = s x - t` is
the document in the head's own coordinates: :math:`s` is the scale of a row norm (1 without one), and
:math:`t = s c_0 + c` is subtracted. With coefficients :math:`a` of the units, the midpoint rule (Eq. 4, paper 1) gives

.. math:: R_i = \beta_i - 2 s\, x_i (a v)_i, \qquad
          \beta = a (v \odot \rho) + 2 t \odot a v + (b \rho) \odot (a v) - (b v) \odot (a \rho)

*A bag of words* has a feature for each word, and :math:`\beta_i` also where the word is absent (:math:`x_i = 0`).
*An average* :math:`x = \sum_w x_w \phi_w` of word vectors is another linear layer. Both together have a slot for each
word that occurs, and the midpoint in each slot; pooled over dimensions,

.. math:: R_w = x_w \Big( \sum_i \beta_i - 2 s\, a v \phi_w \Big)

(paper 1, Section VI-A). Either way the product with :math:`a` has low rank, and costs units times non-zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..heads.base import Head
from ..layer.activations import UnitNorm
from ..utils.arrays import Array

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["WordLayer"]

#: Numbers that are gathered at a time (8 MB).
GATHERED = 2**20


class WordLayer:
    """The linear units of a head, in float64, as a function of the words of documents.

    Parameters
    ----------
    head : Head
        Of the space of the documents: words, or dimensions of word vectors.
    vectors : ndarray, shape (V, d), optional
        Vectors of the words, where documents are their averages.

    Raises
    ------
    TypeError
        If the head does not say which linear units it has.
    """

    def __init__(self, head: Head, vectors: Array | None = None):
        layer: Any = head.evidence_layer
        if hasattr(layer, "root"):
            self.center, self.weight, self.root = (_exact(part) for part in (layer.center, layer.weight, layer.root))
            self.bias = np.zeros(len(self.weight))
        elif hasattr(layer, "bias"):  # of logits, by LRP-0: there is neither a center nor a root point
            self.weight, self.bias = _exact(layer.weight) / 2, _exact(layer.bias)
            self.center, self.root = np.zeros(self.weight.shape[1]), np.zeros_like(self.weight)
        else:
            raise TypeError(f"a {type(head).__name__} has no linear units that words could be scored by")
        self.norm = head.norm if isinstance(head.norm, UnitNorm) else None
        self.origin = np.zeros_like(self.center)
        if self.norm is not None and self.norm.origin is not None:
            self.origin = _exact(self.norm.origin)
        self.vectors = vectors
        self._v, self._core = self._factors()
        product = self.weight * self.root
        if vectors is None:
            self._v_root, self._root = np.ascontiguousarray(product.T), np.ascontiguousarray(self.root.T)
        self._fixed = product.sum(1) + 2 * self.weight @ self.center  # the constant part of the units, negative
        self._shift = 2 * self.weight @ self.origin
        self._gram = self.root @ self.weight.T

    def _factors(self) -> tuple[Array, Array | None]:
        """Factors whose product is what units make of a word, (V, P); the core is None where it is the identity."""
        if self.vectors is None:
            return np.ascontiguousarray(self.weight.T), None
        if len(self.weight) > self.vectors.shape[1]:
            return self.vectors, self.weight.T
        return self.vectors @ self.weight.T, None

    def scale(self, X: csr_matrix) -> Array:
        """Scale (N,) of the row norm: the inverse of the norm, or 1 where that is 0."""
        if self.norm is None:
            return np.ones(X.shape[0])
        points = X if self.vectors is None else X @ self.vectors
        norm = _norms(self._image(points), self.norm.order)
        return 1 / np.where(norm == 0, 1, norm)

    def _image(self, points: Any) -> Any:
        """What the norm is taken of: sparse for a sparse argument, unless features mix."""
        assert self.norm is not None
        linear = None if self.norm.linear is None else _exact(self.norm.linear)
        if linear is not None and linear.ndim == 2:
            return points @ linear.T - linear @ self.origin
        if hasattr(points, "multiply"):
            if self.origin.any():
                raise ValueError("a step before the row norm shifts words, so that absent ones would not be 0")
            return points if linear is None else points.multiply(linear).tocsr()
        return (points - self.origin) * (1 if linear is None else linear)

    def units(self, X: csr_matrix, scale: Array) -> Tensor:
        """Linear units (N, P) of documents (N, V)."""
        product = X @ self._v
        product = product if self._core is None else product @ self._core
        product *= 2 * scale[:, None]
        product -= scale[:, None] * self._shift + self._fixed - self.bias
        return torch.from_numpy(product)

    def relevance(self, X: csr_matrix, scale: Array, a: Array, b: Array | None) -> tuple[Array, Array]:
        """Relevance at the non-zeros of documents (N, V), and the sum over the words that are absent (N,).

        Parameters
        ----------
        X : csr_matrix, shape (N, V)
        scale : ndarray, shape (N,)
        a, b : ndarray, shape (N, P)
            From ``spread`` of the evidence layer.
        """
        row = _rows(X)
        pull = _entries(a if self._core is None else a @ self._core.T, self._v, X)
        total = self._total(scale, a, b)
        if self.vectors is not None:
            return X.data * (total[row] - 2 * scale[row] * pull), np.zeros(len(total))
        base = self._base(X, scale, a, b, pull)
        absent = total - np.bincount(row, base, minlength=len(total))
        return base - 2 * scale[row] * X.data * pull, absent

    def absent(self, X: csr_matrix, scale: Array, a: Array, b: Array | None) -> Array:
        """Relevance (V,) of words, summed over those of the documents in which they are absent."""
        pulled, shift_in_bias = a.sum(0) @ self.weight, (scale @ a) @ self.weight
        everywhere = a.sum(0) @ (self.weight * self.root) + 2 * (self.center * pulled + self.origin * shift_in_bias)
        if b is not None:
            both = b.T @ a
            everywhere += (self.root * (both @ self.weight)).sum(0) - (self.weight * (both @ self.root)).sum(0)
        pull = _entries(a, self._v, X)
        base = self._base(X, scale, a, b, pull)
        return everywhere - np.bincount(X.indices, base, minlength=X.shape[1])

    def _base(self, X: csr_matrix, scale: Array, a: Array, b: Array | None, pull: Array) -> Array:
        r""":math:`\beta` at the non-zeros."""
        row = _rows(X)
        base = _entries(a, self._v_root, X)
        base += 2 * (scale[row] * self.origin[X.indices] + self.center[X.indices]) * pull
        if b is not None:
            base += _entries(b, self._root, X) * pull - _entries(b, self._v, X) * _entries(a, self._root, X)
        return base

    def _total(self, scale: Array, a: Array, b: Array | None) -> Array:
        r""":math:`\sum_i \beta_i`, (N,)."""
        total: Array = a @ self._fixed + scale * (a @ self._shift)
        if b is not None:
            total += ((b @ self._gram) * a).sum(1) - ((b @ self._gram.T) * a).sum(1)
        return total


def _exact(tensor: Tensor) -> Array:
    array: Array = tensor.detach().to("cpu", torch.float64).numpy()
    return array


def _norms(points: Any, order: float) -> Array:
    """Norms (N,) of the rows of a dense or sparse matrix."""
    if not hasattr(points, "indptr"):
        return np.linalg.norm(points, order, axis=1)
    row, size = _rows(points), np.abs(points.data)
    if order == np.inf:
        largest = np.zeros(points.shape[0])
        np.maximum.at(largest, row, size)
        return largest
    total: Array = np.bincount(row, size**order, minlength=points.shape[0]) ** (1 / order)
    return total


def _rows(X: csr_matrix) -> Array:
    """Row of each non-zero."""
    return np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))


def _entries(left: Array, right: Array, X: csr_matrix) -> Array:
    """The product of (N, P) with the transpose of (V, P), at the non-zeros of (N, V) alone."""
    row = _rows(X)
    result, size = np.empty(len(row)), max(1, GATHERED // left.shape[1])
    for start in range(0, len(row), size):
        part = slice(start, start + size)
        np.einsum("ij,ij->i", left[row[part]], right[X.indices[part]], out=result[part])
    return result

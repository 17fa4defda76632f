"""Groups of layers, to be used in the layer maps of Zennit composites."""

from __future__ import annotations

from zennit.types import SubclassMeta

from . import layer

__all__ = ["Contrast", "Evidence", "Logits", "Minimum", "SoftMinimum", "SupportPool", "Normalization", "NeonLayer"]


class Contrast(metaclass=SubclassMeta):
    """Detection layers whose neurons compare a cluster with one competitor."""

    __subclass__ = (layer.CentroidContrast, layer.SupportContrast)


class Logits(metaclass=SubclassMeta):
    """Layers that hold the weights of a linear cluster layer; the user's rule for linear layers is theirs."""

    __subclass__ = (layer.LogitContrast, layer.LogitEvidence)


class Minimum(metaclass=SubclassMeta):
    """Pooling layers that take the minimum over competitors."""

    __subclass__ = (layer.MinPool,)


class SoftMinimum(metaclass=SubclassMeta):
    """Pooling layers that take a soft minimum over competitors."""

    __subclass__ = (layer.SoftMinPool,)


class SupportPool(metaclass=SubclassMeta):
    """Pooling layers over the support vectors of a cluster."""

    __subclass__ = (layer.LogMeanExpPool,)


class Evidence(metaclass=SubclassMeta):
    """Layers that compute evidence in one step and have a closed-form rule: any :class:`~layer.EvidenceLayer`."""

    __subclass__ = (layer.EvidenceLayer,)


class Normalization(metaclass=SubclassMeta):
    """Layers whose scale is a constant for propagation."""

    __subclass__ = (layer.UnitNorm,)


class NeonLayer(metaclass=SubclassMeta):
    """Any layer of a neuralised clustering."""

    __subclass__ = (Contrast, Logits, Minimum, SoftMinimum, SupportPool, Evidence, Normalization)

"""Groups of layers."""

import torch
import zennit.types

from zennit_neon import types
from zennit_neon.layer import CentroidContrast, CentroidEvidence, LogitContrast, MinPool, SoftMinPool, UnitNorm
from zennit_neon.layer.support import LogMeanExpPool


def test_groups_hold_their_layers_and_nothing_of_zennit_does():
    eye = torch.eye(2)
    layers = {
        types.Contrast: CentroidContrast(eye[0], eye, eye),
        types.Evidence: CentroidEvidence(eye[0], eye, eye),
        types.Minimum: MinPool(torch.arange(2)),
        types.Normalization: UnitNorm(),
        types.Logits: LogitContrast(eye, eye[0]),
        types.SoftMinimum: SoftMinPool(torch.arange(2)),
        types.SupportPool: LogMeanExpPool([1, 1], 1.0, torch.arange(2)),
    }
    for group, layer in layers.items():
        assert isinstance(layer, group)
        assert isinstance(layer, types.NeonLayer)
        assert sum(isinstance(layer, other) for other in layers) == 1
        for foreign in (zennit.types.Linear, zennit.types.Activation, zennit.types.BatchNorm, zennit.types.AvgPool):
            assert not isinstance(layer, foreign)
    assert not isinstance(torch.nn.Linear(1, 1), types.NeonLayer)

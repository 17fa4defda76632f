"""From a model that returns several tensors to a head, which takes one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..utils.outputs import check_output_name, tensor_of

__all__ = ["Select"]


class Select(nn.Module):
    """One tensor of what a model returns: a ``ModelOutput`` of Hugging Face, a tuple, a dictionary or a dataclass.

    It comes between such a model and a head. Nothing is computed, so relevance passes as it is; no rule is needed.

    Parameters
    ----------
    output : str or int, optional
        Name of the output, or its position. If not given, that is ``last_hidden_state``, or the only tensor.

    Raises
    ------
    ValueError
        In the forward pass, if there is no such output, or several and none is chosen; the message lists them.

    Examples
    --------
    >>> import torch
    >>> Select("pooler_output")({"last_hidden_state": torch.zeros(2, 5, 8), "pooler_output": torch.zeros(2, 8)}).shape
    torch.Size([2, 8])
    """

    def __init__(self, output: str | int | None = None):
        super().__init__()
        self.output = check_output_name(output)

    def forward(self, outputs: Any) -> Tensor:
        """Choose the tensor."""
        return tensor_of(outputs, self.output, "the module before Select")

    def extra_repr(self) -> str:
        """What is chosen."""
        return "" if self.output is None else repr(self.output)

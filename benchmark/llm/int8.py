"""Linear layers and tables of vectors in 8 bits, as they are put in the place of trained ones."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Int8Linear(nn.Module):
    """y = x W^T + b with W in 8 bits, a step an output, and x rounded to 8 bits as it comes, a step a token (ZeroQuant,
    Yao et al., NeurIPS 2022, arXiv:2206.01861).

    torch's dynamic quantisation has one step for all tokens of a pass, so that the scores of a user would depend on who
    stands beside. On other devices than a CPU x is not rounded, and W is put back into x's precision.
    """

    weight: Tensor
    step: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight, step = rounded(layer.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("step", step)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the precision of x."""
        if x.device.type != "cpu":
            weight = (self.weight * self.step.unsqueeze(1)).to(x.dtype)
            return F.linear(x, weight, None if self.bias is None else self.bias.to(x.dtype))
        rows, step = rounded(x.reshape(-1, self.in_features))
        y = torch._int_mm(rows, self.weight.T) * step.unsqueeze(1) * self.step
        y = y if self.bias is None else y + self.bias
        return y.view(*x.shape[:-1], self.out_features).to(x.dtype)


class Int8Embedding(nn.Module):
    """A table of vectors in 8 bits, a step a vector."""

    weight: Tensor
    step: Tensor

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx = table.padding_idx
        weight, step = rounded(table.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("step", step)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., d) float32."""
        return self.weight[ids] * self.step[ids].unsqueeze(-1)


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return (N, d) values in 8 bits, and the (N,) float32 step of each row: its largest value is 127 steps."""
    values = values.float()
    step = (values.abs().amax(1) / 127).clamp(min=1e-12)
    return (values / step.unsqueeze(1)).round().to(torch.int8), step


def replace_layers(model: nn.Module, names: Iterable[str]) -> None:
    """Replace linear layers and tables of vectors of a model, by their names, in place."""
    for name in names:
        parent, layer = model.get_submodule(name.rpartition(".")[0]), model.get_submodule(name)
        assert isinstance(layer, (nn.Linear, nn.Embedding))
        small = Int8Linear(layer) if isinstance(layer, nn.Linear) else Int8Embedding(layer)
        setattr(parent, name.rpartition(".")[2], small)

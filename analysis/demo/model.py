"""The parentheses balancer: a three-layer transformer that says whether a string of parentheses is balanced."""

from __future__ import annotations

from importlib.resources import files

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from analysis.demo.data import PAD, POSITIONS, VOCABULARY

LAYERS, HEADS, D_MODEL, D_MLP, CLASSES = 3, 2, 56, 56, 2
WEIGHTS = "paren_balancer.safetensors"


class Attention(nn.Module):
    """Attention over all positions but padding. Shapes: x [batch, position, d_model], seen [batch, 1, 1, position]."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(D_MODEL, D_MODEL) for _ in range(4))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """The heads' sum. Shapes: [batch, position, d_model]."""
        q, k, v = (linear(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for linear in (self.q, self.k, self.v))
        z = scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return self.o(z.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """One hidden layer of ReLU units. Shapes: [..., d_model] to [..., d_model]."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(D_MODEL, D_MLP), nn.Linear(D_MLP, D_MODEL)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The units' sum. Shapes: [..., d_model]."""
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    """Attention and an MLP, each reading a norm of the residual stream and writing to it."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(D_MODEL), Attention()
        self.ln_2, self.mlp = nn.LayerNorm(D_MODEL), MLP()

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """The residual stream behind the block. Shapes: [batch, position, d_model]."""
        x = x + self.attn(self.ln_1(x), seen)
        return x + self.mlp(self.ln_2(x))


class ParenBalancer(nn.Module):
    """Strings of parentheses to two logits, unbalanced and balanced, read at the start token.

    Shapes: input_ids [batch, position] (at most 42 positions); result [batch, 2].
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(VOCABULARY, D_MODEL), nn.Embedding(POSITIONS, D_MODEL)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.ln_f, self.unembed = nn.LayerNorm(D_MODEL), nn.Linear(D_MODEL, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        """The logits of unbalanced and balanced. Shapes: [batch, 2]."""
        seen = (input_ids != PAD)[:, None, None, :]
        x = self.embed(input_ids) + self.position(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.blocks:
            x = block(x, seen)
        return self.unembed(self.ln_f(x)[:, 0])


def load_balancer() -> ParenBalancer:
    """The trained balancer that ships with the package, in eval mode."""
    model = ParenBalancer()
    model.load_state_dict(load_tensors(files("analysis.demo").joinpath(WEIGHTS).read_bytes()))
    return model.eval()

"""Plain hooks of PyTorch: a pre-hook zeroes what a head gives to the output projection, a hook what an MLP gives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.peers_of.common import Target, load, one_by_one, task


def main() -> None:
    """Measures hooks."""
    given = task()
    model = load(given.folder)
    blocks, width = model.transformer.h, model.config.n_embd // model.config.n_head

    def clean() -> Tensor:
        return model(input_ids=given.ids).logits

    def ablated(target: Target) -> Tensor:
        def without_head(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            z = args[0].clone()
            z[..., target.columns(width)] = 0
            return (z, *args[1:])

        def without_mlp(module: Any, args: Any, output: Tensor) -> Tensor:
            return torch.zeros_like(output)

        block = blocks[target.layer]
        if target.head is None:
            handle = block.mlp.register_forward_hook(without_mlp)
        else:
            handle = block.attn.c_proj.register_forward_pre_hook(without_head)
        try:
            return clean()
        finally:
            handle.remove()

    one_by_one(given, 0.0, clean, ablated)


if __name__ == "__main__":
    main()

"""TransformerLens 4: the bridge over the same model, hooks on `hook_z` and `hook_mlp_out`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge  # type: ignore[import-not-found]
from transformers import AutoTokenizer

from benchmarks.peers_of.common import Target, load, one_by_one, task, timed


def main() -> None:
    """Measures the bridge."""
    given = task()

    parts = {"hf_model": load(given.folder), "tokenizer": AutoTokenizer.from_pretrained(given.folder)}
    taken, bridge = timed(lambda: TransformerBridge.boot_transformers("gpt2", **parts))

    def clean() -> Tensor:
        return bridge(given.ids)

    def ablated(target: Target) -> Tensor:
        def without_head(z: Tensor, hook: Any) -> Tensor:
            z[:, :, target.head] = 0
            return z

        def without_mlp(value: Tensor, hook: Any) -> Tensor:
            return torch.zeros_like(value)

        block = f"blocks.{target.layer}"
        hook = (f"{block}.hook_mlp_out", without_mlp) if target.head is None else (f"{block}.attn.hook_z", without_head)
        return bridge.run_with_hooks(given.ids, fwd_hooks=[hook])

    one_by_one(given, taken, clean, ablated)


if __name__ == "__main__":
    main()

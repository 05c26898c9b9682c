"""pyvene: an IntervenableModel for each target, as its interventions are part of its configuration."""

from __future__ import annotations

import pyvene as pv  # type: ignore[import-not-found]
import torch
from torch import Tensor

from benchmarks.peers_of.common import Target, load, one_by_one, task


def main() -> None:
    """Measures pyvene."""
    given = task()
    model = load(given.folder)
    width = model.config.n_embd // model.config.n_head

    def clean() -> Tensor:
        return model(input_ids=given.ids).logits

    def ablated(target: Target) -> Tensor:
        def without_head(base: Tensor, source: object) -> Tensor:
            z = base.clone()
            z[..., target.columns(width)] = 0
            return z

        def without_mlp(base: Tensor, source: object) -> Tensor:
            return torch.zeros_like(base)

        component, change = ("mlp.output", without_mlp) if target.head is None else ("attn.c_proj.input", without_head)
        wrapped = pv.IntervenableModel([{"component": f"transformer.h[{target.layer}].{component}", "intervention": change}], model=model)
        _, output = wrapped({"input_ids": given.ids})
        return output.logits

    one_by_one(given, 0.0, clean, ablated)


if __name__ == "__main__":
    main()

"""auto-circuit: the model with an edge from everything to everything later, all edges from a target patched with zeros."""

from __future__ import annotations

from typing import Any

import torch
from auto_circuit.utils.graph_utils import patch_mode, patchable_model  # type: ignore[import-not-found]
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig  # type: ignore[import-not-found]
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights  # type: ignore[import-not-found]

from benchmarks.peers_of.common import Target, load, one_by_one, task, timed


def hooked(model: Any) -> HookedTransformer:
    """The model as a HookedTransformer, its weights as they are: `from_pretrained` would ask the hub for the configuration."""
    told = model.config
    cfg = HookedTransformerConfig(
        n_layers=told.n_layer,
        d_model=told.n_embd,
        n_ctx=told.n_positions,
        d_head=told.n_embd // told.n_head,
        n_heads=told.n_head,
        d_vocab=told.vocab_size,
        act_fn=told.activation_function,
        eps=told.layer_norm_epsilon,
        normalization_type="LN",
        use_attn_result=True,
        use_split_qkv_input=True,
        use_hook_mlp_in=True,
    )
    made = HookedTransformer(cfg)
    made.load_and_process_state_dict(
        convert_gpt2_weights(model, cfg), fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return made.eval()


def main() -> None:
    """Measures auto-circuit."""
    given = task()

    plain = load(given.folder)
    taken, model = timed(lambda: patchable_model(hooked(plain), factorized=True, separate_qkv=True))
    zeros = torch.zeros(len(model.srcs), *given.ids.shape, model.cfg.d_model)
    edges_from: dict[str, set[Any]] = {}
    for edge in model.edges:
        edges_from.setdefault(edge.src.name, set()).add(edge)

    def clean() -> Tensor:
        return model(given.ids)

    def ablated(target: Target) -> Tensor:
        name = f"MLP {target.layer}" if target.head is None else f"A{target.layer}.{target.head}"
        with patch_mode(model, zeros, edges_from[name]):
            return model(given.ids)

    one_by_one(given, taken, clean, ablated)


if __name__ == "__main__":
    main()

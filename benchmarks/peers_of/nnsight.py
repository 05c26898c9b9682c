"""nnsight: a trace for each target, which writes zeros in place and saves the logits."""

from __future__ import annotations

from nnsight import NNsight  # type: ignore[import-not-found]
from torch import Tensor

from benchmarks.peers_of.common import Target, load, one_by_one, task, timed


def main() -> None:
    """Measures nnsight."""
    given = task()
    ids = given.ids
    plain = load(given.folder)
    taken, model = timed(lambda: NNsight(plain))
    width = model.config.n_embd // model.config.n_head

    def clean() -> Tensor:
        with model.trace(input_ids=ids):
            logits = model.output.logits.save()
        return logits

    def ablated(target: Target) -> Tensor:
        block = model.transformer.h[target.layer]
        if target.head is None:
            with model.trace(input_ids=ids):
                block.mlp.output[:] = 0
                logits = model.output.logits.save()
        else:
            columns = target.columns(width)
            with model.trace(input_ids=ids):
                block.attn.c_proj.input[..., columns] = 0
                logits = model.output.logits.save()
        return logits

    one_by_one(given, taken, clean, ablated)


if __name__ == "__main__":
    main()

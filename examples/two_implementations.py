"""Are two implementations the same function? Attention written in two ways, and a Llama written from scratch against Hugging Face's.

    pip install -e ".[hf]"
    python examples/two_implementations.py

Tiny models with random weights: what is proved holds for all weights of these shapes. First, several architectures of transformers with
`eager` attention against `sdpa`; in one of them the two really are different functions. Then a Llama in plain PyTorch, with other names and
another structure, against the one of transformers; and three versions of it with a classic mistake each.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from rewrite import Program, trace
from verify import Report, equivalence

try:
    from transformers import AutoConfig, AutoModelForCausalLM, logging
except ImportError:
    raise SystemExit("two_implementations: expected transformers, got none. Install the extra hf: pip install 'tautomer[hf]'.") from None

VOCAB, WIDTH, HIDDEN, LAYERS, HEADS, GROUPS, EPS, THETA = 61, 64, 48, 2, 4, 2, 1e-5, 10_000.0
SIZE = WIDTH // HEADS
PLAIN = {"vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
         "max_position_embeddings": 32, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
LLAMA = {**PLAIN, "num_key_value_heads": GROUPS, "rms_norm_eps": EPS, "rope_theta": THETA}
GPT2 = {"vocab_size": VOCAB, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 32, "use_cache": False}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt2": GPT2, "gpt_neox": PLAIN, "llama": LLAMA, "qwen3": {**LLAMA, "head_dim": SIZE}, "phi": PLAIN, "falcon": PLAIN,
    "falcon, alibi": {**PLAIN, "alibi": True},
}  # fmt: skip
IDS = torch.randint(3, VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))


def from_transformers(kind: str, settings: dict[str, Any], attention: str = "sdpa") -> nn.Module:
    """A model of transformers with random weights, none of them zero or one; the same weights for every `attention`."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind.partition(",")[0], **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    return model


def attention_both_ways(kind: str) -> Report:
    """The report on `eager` against `sdpa`."""
    ours, theirs = (trace(from_transformers(kind, ARCHITECTURES[kind], how), input_ids=IDS) for how in ("sdpa", "eager"))
    return equivalence(ours, theirs)


# A Llama from scratch


class Block(nn.Module):
    """One layer: grouped attention with rotary positions, then a gated MLP, each behind an RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        few = GROUPS * SIZE
        shapes = {"wq": (WIDTH, WIDTH), "wk": (few, WIDTH), "wv": (few, WIDTH), "wo": (WIDTH, WIDTH), "gain_a": (WIDTH,),
                  "gate": (HIDDEN, WIDTH), "up": (HIDDEN, WIDTH), "down": (WIDTH, HIDDEN), "gain_m": (WIDTH,)}  # fmt: skip
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.empty(shape)))


class Llama(nn.Module):
    """A Llama as one would write it from the paper: einsums over groups of heads, rotations of pairs of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.unembed = nn.Parameter(torch.empty(VOCAB, WIDTH)), nn.Parameter(torch.empty(VOCAB, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.gain = nn.Parameter(torch.empty(WIDTH))

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """The logits. Shapes: ids [batch, position], logits [batch, position, token]."""
        x = self.tokens[ids]
        for block in self.blocks:
            x = x + self.attention(block, self.norm(x, block.gain_a))
            y = self.norm(x, block.gain_m)
            gate = F.linear(y, block.gate)
            x = x + F.linear(gate * torch.sigmoid(gate) * F.linear(y, block.up), block.down)
        return {"logits": self.norm(x, self.gain) @ self.unembed.T}

    def norm(self, x: Tensor, gain: Tensor) -> Tensor:
        """x over its root mean square, times a gain. Shapes: [..., d_model]."""
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + EPS) * gain

    def attention(self, block: Block, x: Tensor) -> Tensor:
        """The heads' sum. Shapes: [batch, position, d_model]."""
        q = self.rotate(self.grouped(F.linear(x, block.wq)))
        k = self.rotate(F.linear(x, block.wk).unflatten(-1, (GROUPS, SIZE)))
        v = F.linear(x, block.wv).unflatten(-1, (GROUPS, SIZE))
        scores = torch.einsum("bqghd,bkgd->bghqk", q, k) * SIZE**-0.5
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
        return F.linear(self.flat(torch.einsum("bghqk,bkgd->bqghd", pattern, v)), block.wo)

    def grouped(self, q: Tensor) -> Tensor:
        """Queries by group, then by head of the group. Shapes: [..., d_model] to [..., group, head, d_head]."""
        return q.unflatten(-1, (GROUPS, HEADS // GROUPS, SIZE))

    def flat(self, z: Tensor) -> Tensor:
        """The inverse of `grouped`."""
        return z.flatten(-3)

    def rotate(self, x: Tensor) -> Tensor:
        """Every pair turned by an angle that grows with the position. Shapes: [batch, position, ..., d_head]."""
        a, b = self.pairs(x)
        speed = THETA ** (torch.arange(0, SIZE, 2).float() / SIZE)
        angle = torch.arange(x.shape[1]).float()[:, None] * (1.0 / speed)
        angle = angle.view(x.shape[1], *(1 for _ in x.shape[2:-1]), SIZE // 2)
        return self.unpair(a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """First and second numbers of the pairs: number i of the first half goes with number i of the second."""
        a, b = x.unflatten(-1, (2, -1)).unbind(-2)
        return a, b

    def unpair(self, a: Tensor, b: Tensor) -> Tensor:
        """The inverse of `pairs`."""
        return torch.stack((a, b), -2).flatten(-2)


class Interleaved(Llama):
    """Mistake: neighbours are paired, as in the paper on rotary positions; the weights are for halves."""

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Number 2i goes with number 2i + 1."""
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
        return a, b

    def unpair(self, a: Tensor, b: Tensor) -> Tensor:
        """The inverse of `pairs`."""
        return torch.stack((a, b), -1).flatten(-2)


class EpsOutside(Llama):
    """Mistake: the eps of the norm is added to the root, not under it. Floats hardly show it."""

    def norm(self, x: Tensor, gain: Tensor) -> Tensor:
        """x over its root mean square and a little, times a gain."""
        return x / (torch.sqrt((x * x).mean(-1, keepdim=True)) + EPS) * gain


class Tiled(Llama):
    """Mistake: keys and values are handed out to heads in turn (`repeat`), not in blocks (`repeat_interleave`)."""

    def grouped(self, q: Tensor) -> Tensor:
        """Queries by group, neighbours in different groups."""
        return q.unflatten(-1, (HEADS // GROUPS, GROUPS, SIZE)).transpose(-3, -2)

    def flat(self, z: Tensor) -> Tensor:
        """The inverse of `grouped`."""
        return z.transpose(-3, -2).flatten(-3)


VERSIONS = {"from scratch": Llama, "rotary pairs interleaved": Interleaved, "eps outside the root": EpsOutside, "groups tiled": Tiled}
PARTS = {
    "wq": "self_attn.q_proj", "wk": "self_attn.k_proj", "wv": "self_attn.v_proj", "wo": "self_attn.o_proj", "gain_a": "input_layernorm",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "gain_m": "post_attention_layernorm",
}  # fmt: skip
NAMES = {
    "ids": "input_ids", "tokens": "model.embed_tokens.weight", "unembed": "lm_head.weight", "gain": "model.norm.weight",
    **{f"blocks.{i}.{ours}": f"model.layers.{i}.{theirs}.weight" for i in range(LAYERS) for ours, theirs in PARTS.items()},
}  # fmt: skip


def from_scratch(version: type[Llama], theirs: Program) -> Report:
    """The report on a Llama of ours against the one of transformers, with the same weights under other names."""
    ours = version().eval()
    ours.load_state_dict({name: theirs.tensors[other] for name, other in NAMES.items() if other in theirs.tensors})
    return equivalence(theirs, trace(ours, ids=IDS), match=NAMES)


def table(title: str, reports: dict[str, Report]) -> Table:
    """Verdicts, and for a witness how far apart float64 runs are on it."""
    shown = Table("", "verdict", "witness", "float64 runs differ by", title=title, title_justify="left", box=SIMPLE_HEAD)
    for name, report in reports.items():
        found = report.witness
        shown.add_row(name, report.verdict.value, *((found.how, f"{found.gap.largest:.1e}") if found else ()))
    return shown


def main(arguments: list[str] | None = None) -> dict[str, Report]:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(ARCHITECTURES), default=list(ARCHITECTURES), help="architectures to try")
    chosen = parser.parse_args(arguments).only
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    console = Console(highlight=False)
    both = {}
    for kind in chosen:
        print(f"comparing: {kind} ...", file=sys.stderr, flush=True)
        both[kind] = attention_both_ways(kind)
    console.print(table("eager attention against sdpa, in transformers", both))
    theirs = trace(from_transformers("llama", LLAMA), input_ids=IDS)
    ours = {name: from_scratch(version, theirs) for name, version in VERSIONS.items()}
    console.print(table("a Llama from scratch against the one of transformers, with the same weights", ours))
    return both | ours


if __name__ == "__main__":
    main()

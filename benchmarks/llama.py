"""Llama architectures at real widths, without weights: heads, directions and surrogates on every layer, proved. CPU seconds and memory.

python -m benchmarks.llama [8b|70b|405b] [LAYERS ...]     # each depth in a process of its own, so that peaks are its own
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from passes import direction, heads, surrogate
from rewrite import trace, weightless
from verify import equivalence

SIZES: dict[str, dict[str, int]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "405b": {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128},
}
SHARED: dict[str, Any] = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "use_cache": False}
RANK, SEQUENCE = 64, 4


def transcoder(width: int) -> nn.Module:
    """A low-rank guess at an MLP."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, RANK), nn.ReLU(), nn.Linear(RANK, width)).eval()


def measure(size: str, layers: int) -> None:
    """Traces, rewrites and proves one model, and prints what each took. Units: CPU seconds, GiB."""
    torch.set_num_threads(1)
    marks = [time.process_time()]

    def lap() -> float:
        marks.append(time.process_time())
        return marks[-1] - marks[-2]

    config = LlamaConfig(**{**SHARED, **SIZES[size], "num_hidden_layers": layers})
    with weightless():
        model = LlamaForCausalLM(config).eval()
    lap()
    ids = torch.randint(0, 1000, (1, SEQUENCE), generator=torch.Generator().manual_seed(0))
    program = trace(model, input_ids=ids, dynamic=DYNAMIC)
    traced = lap()
    width = config.hidden_size
    rewritten = program.apply(
        heads.at("model.layers.*.self_attn"),
        direction.at("model.layers.*.self_attn", d=torch.ones(width), name="d"),
        surrogate.at("model.layers.*.mlp", f=transcoder(width)),
    )
    applied = lap()
    report = equivalence(rewritten, seed=0, progress=lambda what: print(f"  {lap():.1f} s, then {what}", flush=True) if LOUD else None)
    proved = time.process_time() - sum((marks[0], traced, applied)) - (marks[1] - marks[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    row = (size, layers, len(rewritten.graph.nodes), traced, applied, proved, traced + applied + proved, peak)
    print("{:>5} {:>7} {:>7} {:>8.1f} {:>8.1f} {:>8.1f} {:>8.1f} {:>8.2f}".format(*row), end="  ")
    print(report.verdict.value, f"2^{report.log2_bound or 0:.1f},", ", ".join(f"{n} {what}" for what, n in report.counts.items()))
    if LOUD or not report.proved:
        print(report)


LOUD, DYNAMIC = "--loud" in sys.argv, "--dynamic" in sys.argv

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    chosen = words[0] if words else "8b"
    depths = [int(word) for word in words[1:]] or [SIZES[chosen]["num_hidden_layers"] // by for by in (8, 4, 2, 1)]
    if len(depths) == 1:
        measure(chosen, depths[0])
    else:
        print(" size  layers   nodes    trace    apply   proof    total      GiB   (CPU seconds)")
        for depth in depths:
            subprocess.run([sys.executable, "-m", "benchmarks.llama", chosen, str(depth)], check=True)

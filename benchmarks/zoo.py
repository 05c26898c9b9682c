"""Sixty architectures, tiny and with random weights: which of them trace, and what is proved of them. Writes docs/zoo.md and docs/ops.md.

python -m benchmarks.zoo [NAME ...] [--keep FOLDER]

All of them take some ten minutes; with names, only these, printed and not written. Rows that lie in FOLDER are not measured again.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from benchmarks.core import core_program
from benchmarks.ops import ops_table
from passes import direction, heads, surrogate
from rewrite import Program, TautomerError, trace
from verify import Report, Verdict, equivalence

DOCS = Path(__file__).parent.parent / "docs"
VOCAB, WIDTH, LAYERS, SEED = 61, 32, 2, 0
Example = dict[str, Any]
Make = Callable[[str], tuple[nn.Module, Example]]  # of the attention implementation

TEXT = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2}
ROUTED = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}


def ids(batch: int = 2, length: int = 7, seed: int = 1) -> Tensor:
    """Random token ids, none of them special. Shapes: [batch, length]."""
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def picture(*shape: int) -> Tensor:
    """Random normal numbers. Shapes: `shape`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def language_model(kind: str, **settings: Any) -> Make:
    """A causal language model of transformers by its model type."""

    def make(attention: str) -> tuple[nn.Module, Example]:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(kind, **{"use_cache": False, **settings})
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention), {"input_ids": ids()}

    return make


def encoder(kind: str, example: Callable[[], Example] | None = None, **settings: Any) -> Make:
    """The bare model of a model type of transformers."""

    def make(attention: str) -> tuple[nn.Module, Example]:
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.for_model(kind, **settings)
        padded = {"input_ids": ids(), "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2])}
        return AutoModel.from_config(config, attn_implementation=attention), padded if example is None else example()

    return make


def plain(make: Callable[[], nn.Module], *shape: int) -> Make:
    """A plain module of one float input called `input`."""
    return lambda _: (make(), {"input": picture(*shape)})


def convolutional() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
SEQ2SEQ = {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
           "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "use_cache": False}  # fmt: skip
PATCHES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
}
PICTURE: Callable[[], Example] = lambda: {"pixel_values": picture(2, 3, 16, 16)}  # noqa: E731
BOTH: Callable[[], Example] = lambda: {"input_ids": ids(), "decoder_input_ids": ids(seed=2)}  # noqa: E731

ZOO: dict[str, Make] = {
    "gpt2": language_model("gpt2", **GPT),
    "gpt_neo": language_model(
        "gpt_neo", hidden_size=WIDTH, num_layers=LAYERS, num_heads=4, attention_types=[[["global", "local"], 1]], vocab_size=VOCAB,
        max_position_embeddings=64, window_size=4,
    ),
    "gptj": language_model("gptj", **GPT, rotary_dim=4),
    "gpt_neox": language_model("gpt_neox", **TEXT),
    "gpt_bigcode": language_model("gpt_bigcode", **GPT),
    "codegen": language_model("codegen", **GPT, rotary_dim=4),
    "llama": language_model("llama", **GROUPED),
    "mistral": language_model("mistral", **GROUPED, sliding_window=4),
    "mixtral": language_model("mixtral", **GROUPED, **ROUTED),
    "qwen2": language_model("qwen2", **GROUPED),
    "qwen3": language_model("qwen3", **GROUPED, head_dim=8),
    "qwen2_moe": language_model("qwen2_moe", **GROUPED, **ROUTED, moe_intermediate_size=16, shared_expert_intermediate_size=16),
    "qwen3_moe": language_model("qwen3_moe", **GROUPED, **ROUTED, head_dim=8, moe_intermediate_size=16),
    "gemma": language_model("gemma", **GROUPED, head_dim=8),
    "gemma2": language_model("gemma2", **GROUPED, head_dim=8, sliding_window=4),
    "gemma3_text": language_model("gemma3_text", **GROUPED, head_dim=8, sliding_window=4),
    "phi": language_model("phi", **TEXT),
    "phi3": language_model("phi3", **GROUPED),
    "olmo": language_model("olmo", **GROUPED),
    "olmo2": language_model("olmo2", **GROUPED),
    "opt": language_model("opt", **TEXT, ffn_dim=48, word_embed_proj_dim=WIDTH),
    "bloom": language_model("bloom", vocab_size=VOCAB, hidden_size=WIDTH, n_layer=LAYERS, n_head=4),
    "falcon": language_model("falcon", **TEXT),
    "falcon_alibi": language_model("falcon", **TEXT, alibi=True),
    "mpt": language_model("mpt", d_model=WIDTH, n_heads=4, n_layers=LAYERS, vocab_size=VOCAB, max_seq_len=64),
    "stablelm": language_model("stablelm", **GROUPED),
    "starcoder2": language_model("starcoder2", **GROUPED),
    "cohere": language_model("cohere", **GROUPED),
    "granite": language_model("granite", **GROUPED),
    "glm": language_model("glm", **GROUPED, head_dim=8),
    "nemotron": language_model("nemotron", **GROUPED),
    "persimmon": language_model("persimmon", **TEXT),
    "gpt_oss": language_model("gpt_oss", **GROUPED, **ROUTED, head_dim=8, sliding_window=4),
    "deepseek_v3": language_model(
        "deepseek_v3", **TEXT, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1, q_lora_rank=16,
        kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, moe_intermediate_size=16, first_k_dense_replace=1,
    ),
    "mamba": language_model("mamba", vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=4),
    "rwkv": language_model("rwkv", vocab_size=VOCAB, hidden_size=WIDTH, attention_hidden_size=WIDTH, num_hidden_layers=LAYERS),
    "recurrent_gemma": language_model("recurrent_gemma", **GROUPED, lru_width=WIDTH, attention_window_size=4, head_dim=8),
    "bert": encoder("bert", **TEXT),
    "roberta": encoder("roberta", **TEXT),
    "distilbert": encoder("distilbert", vocab_size=VOCAB, dim=WIDTH, n_layers=LAYERS, n_heads=4, hidden_dim=48, max_position_embeddings=64),
    "electra": encoder("electra", **TEXT, embedding_size=WIDTH),
    "deberta_v2": encoder("deberta-v2", **TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    "albert": encoder("albert", **TEXT, embedding_size=16),
    "modernbert": encoder("modernbert", **TEXT, local_attention=4),
    "mpnet": encoder("mpnet", **TEXT),
    "xlm": encoder("xlm", vocab_size=VOCAB, emb_dim=WIDTH, n_layers=LAYERS, n_heads=4, max_position_embeddings=64),
    "xlnet": encoder("xlnet", vocab_size=VOCAB, d_model=WIDTH, n_layer=LAYERS, n_head=4, d_inner=48),
    "t5": encoder("t5", BOTH, vocab_size=VOCAB, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=1, num_heads=4, use_cache=False),
    "bart": encoder("bart", BOTH, **SEQ2SEQ),
    "whisper": encoder(
        "whisper", lambda: {"input_features": picture(1, 8, 16), "decoder_input_ids": ids(1)}, **(SEQ2SEQ | {"num_mel_bins": 8}),
        max_source_positions=8, max_target_positions=16,
    ),
    "vit": encoder("vit", PICTURE, **PATCHES),
    "deit": encoder("deit", PICTURE, **PATCHES),
    "dinov2": encoder("dinov2", PICTURE, **PATCHES),
    "clip": encoder("clip_vision_model", PICTURE, **PATCHES),
    "siglip": encoder("siglip_vision_model", PICTURE, **PATCHES),
    "swin": encoder("swin", PICTURE, image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
    "convnext": encoder("convnext", PICTURE, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "wav2vec2": encoder(
        "wav2vec2", lambda: {"input_values": picture(2, 200)}, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=48, conv_dim=[16, 16], conv_kernel=[8, 4], conv_stride=[4, 2], num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    ),
    "mlp": plain(lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)), 4, 6),
    "cnn": plain(convolutional, 2, 3, 8, 8),
    "lstm": plain(lambda: nn.LSTM(6, 8, batch_first=True), 2, 5, 6),
    "transformer_encoder": lambda _: (nn.TransformerEncoderLayer(WIDTH, 4, 48, batch_first=True), {"src": picture(2, 7, WIDTH)}),
}  # fmt: skip


MLP = re.compile(r"(mlp|ffn?|feed_?forward|mixer|DenseReluDense|intermediate|fc\d?)$")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    traced: str
    itself: str = ""
    rewritten: str = ""
    steps: str = ""
    eager: str = ""
    core: str = ""
    checked: int = 0
    seconds: float = 0.0
    ops: dict[str, dict[str, int]] = field(default_factory=dict)  # vocabulary -> op -> nodes

    def text(self) -> str:
        """As a line of Markdown."""
        shown = (self.name, self.traced, self.itself, self.rewritten, self.steps, self.eager, self.core, self.checked or "")
        return f"| {' | '.join(map(str, shown))} | {self.seconds:.2f} |"


def prepared(make: Make, attention: str) -> tuple[nn.Module, Example]:
    """A model in eval mode whose parameters are all moved a little, so that no bias is zero, and its example."""
    torch.manual_seed(SEED)
    try:
        model, example = make(attention)
    except ValueError as error:
        if attention != "sdpa" or "attention implementation" not in str(error):
            raise
        model, example = make("eager")  # it has no other
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=0.05)
    return model.eval(), example


def rewritten(program: Program) -> Program:
    """The program with an MLP as a small random map and the rest, attention in heads, and up to 24 outputs split along a direction."""
    sites = {s.address: s for s in program.sites_by_address.values() if s.kind == "output" and not any(m in s.address for m in ":/#")}
    wide = {}
    for address, site in sites.items():
        value = program.nodes[site.node].meta["val"]
        if value.is_floating_point() and value.dim() >= 2 and isinstance(value.shape[-1], int) and address.count(".") <= 3:
            wide[address] = torch.randn(value.shape[-1], generator=torch.Generator().manual_seed(len(wide)))
    bound = [direction.at(address, d=d) for address, d in list(wide.items())[:24]]
    for address in [a for a in wide if MLP.search(a)] or list(wide):
        with suppress(TautomerError):
            program = program.apply(surrogate.at(address, f=small_map(program, address)))
            break
    for one in (*([heads.at(*sites)] if sites else []), *bound):
        with suppress(TautomerError):  # a model without attention, a module that nothing reads
            program = program.apply(one)
    return program


def small_map(program: Program, address: str) -> nn.Module:
    """A random affine map from what a module reads to what it gives.

    Raises: SiteError for a module whose input is not tapped.
    """
    program.select(f"{address}@in")
    shapes = [program.nodes[program.sites_by_address[a].node].meta["val"].shape[-1] for a in (f"{address}@in", address)]
    torch.manual_seed(SEED)
    return nn.Linear(*map(int, shapes)).eval()


def said(report: Report) -> str:
    """A verdict, with the op without a meaning if there is one, and claims that are not proved."""
    reason = next((r for r in report.reasons if r.startswith("no exact meaning")), "")
    op = reason.removeprefix("no exact meaning: ").partition(" at ")[0]
    claims = sum(c.status != "proved" for c in report.claims)
    where = f" at {report.site}" if report.verdict in (Verdict.DIFFERS, Verdict.REFUTED) else ""
    taken = " roots" if report.assumptions else ""
    return f"{report.verdict.value.lower()}{taken}{f' ({op})' if op else where}{f', {claims} claims not' if claims else ''}"


def checked(report: Report) -> int:
    """How many expressions the float64 self-check compared with torch; -1 if it left one out."""
    return -1 if "too large for that" in report.counts else report.counts.get("expressions whose rules were compared with torch", 0)


def row(name: str, make: Make) -> Row:
    """What becomes of one architecture."""
    model, example = prepared(make, "sdpa")
    try:
        program = trace(model, **example)
    except TautomerError as error:
        return Row(name, f"refused: {str(error).partition(': expected ')[2][:120]}")
    traced = f"{program.header.dynamic}, {program.header.checks.get('outputs', 'unchecked')}"
    split = rewritten(program)
    equivalence(split, seed=SEED)  # once to load what is loaded once
    start = time.process_time()
    after = equivalence(split, seed=SEED)
    seconds = time.process_time() - start
    core, decomposed = _core(make, program)
    ops = {"training IR": vocabulary(program), "core ATen": vocabulary(decomposed)}
    steps = ", ".join(f"{step} {n}" for step, n in Counter(step.name for step in split.steps for _ in step.sites).items())
    itself = equivalence(program, program, seed=SEED)
    compared = sum(checked(report) for report in (itself, after, core) if isinstance(report, Report))
    told = core if isinstance(core, str) else said(core)
    return Row(name, traced, said(itself), said(after), steps, _eager(make, program), told, compared, seconds, ops)


def vocabulary(program: Program | None) -> dict[str, int]:
    """The ops of a program, and how often each occurs."""
    return dict(Counter(str(n.target) for n in program.graph.nodes if isinstance(n.target, torch._ops.OpOverload))) if program else {}


def _eager(make: Make, program: Program) -> str:
    if not any("scaled_dot_product_attention" in str(node.target) for node in program.graph.nodes):
        return "no sdpa"
    try:
        model, example = prepared(make, "eager")
        return said(equivalence(program, trace(model, **example), seed=SEED, assuming=["literals are roots"]))
    except (TautomerError, ValueError, TypeError) as error:
        return f"not run: {str(error)[:60]}"


def _core(make: Make, program: Program) -> tuple[Report | str, Program | None]:
    try:
        model, example = prepared(make, "sdpa")
        decomposed = core_program(model, **example)
    except Exception as error:  # torch's decompositions, not ours
        return f"not run: {type(error).__name__} {str(error)[:60]}".replace("\n", " "), None
    return equivalence(program, decomposed, seed=SEED, assuming=["literals are roots"]), decomposed


HEADER = """# The zoo

Generated by `python -m benchmarks.zoo`: tiny models with random weights (seed 0), traced on one example and compared. An op in brackets has no
exact meaning yet.

- *Traced*: the sizes left free, and the outputs against the model's. *Itself*: the program against itself.
- *Rewritten*: after the *rewrites*: an MLP as a small random map and the rest (surrogate), attention in heads, up to 24 outputs split along a
  direction. *Seconds*: of this proof, float runs included; CPU time on one thread.
- *Eager*: attention by `sdpa` against attention written out (traces of two models). *Core*: against the same model after torch's default
  decompositions to core ATen, attention included. These decompositions multiply q and k by the double next to the root of the scale
  each, and some models divide by a root where `sdpa` multiplies by another one: *proved assuming roots* is with `assuming=["literals are roots"]`
  (the scale of `sdpa` is 1/√d; doubles next to √d and 1/√d are not inverse to each other).
- *Self-check*: how many expressions of *itself*, *rewritten* and *core* were also run by the same rules over float64, and compared with torch.

| architecture | traced | itself | rewritten | rewrites | eager | core | self-check | seconds |
|---|---|---|---|---|---|---|---|---|
"""


def measured(name: str, keep: Path | None) -> Row:
    """The row of an architecture, which may have been kept."""
    file = keep / f"{name}.json" if keep else None
    if file and file.exists():
        return Row(**json.loads(file.read_text()))
    try:
        found = row(name, ZOO[name])
    except Exception as error:
        found = Row(name, f"failed: {type(error).__name__}: {str(error)[:100]}".replace("\n", " "))
    if file:
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(asdict(found)))
    return found


def totals(rows: list[Row]) -> str:
    """The line under the table."""
    traced = sum("bit-identical" in r.traced for r in rows)
    proved = {what: sum(getattr(r, what).startswith("proved") for r in rows) for what in ("rewritten", "eager", "core")}
    asked = {what: sum(bool(getattr(r, what)) and getattr(r, what) != "no sdpa" for r in rows) for what in proved}
    each = ", ".join(f"{what} {n} of {asked[what]}" for what, n in proved.items())
    seconds = statistics.median([r.seconds for r in rows if r.seconds] or [math.nan])
    return f"\n{len(rows)} architectures, {traced} traced bit for bit. Proved: {each}. Median {seconds:.2f} s.\n"


def main() -> None:
    """Prints the rows asked for, or writes the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo")
    parser.add_argument("names", nargs="*", choices=[[], *ZOO])
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = []
    for name in track(asked.names or list(ZOO), disable=bool(asked.names)):
        rows.append(measured(name, asked.keep))
        print(rows[-1].text(), flush=True)
    if not asked.names:
        (DOCS / "zoo.md").write_text(HEADER + "\n".join(r.text() for r in rows) + "\n" + totals(rows), encoding="utf-8")
        (DOCS / "ops.md").write_text(ops_table([r.ops for r in rows]), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Where each pass applies, written from the architectures' configs before it was run: a Skip where a pass applies is a failure."""

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from passes import dictionary, direction, distribute, freeze, gates, heads, inputs, neurons, norm, paths, subspace, surrogate
from rewrite import PassError, Program, trace
from tests.models import HEADS, HIDDEN, WIDTH
from tests.passes.checking import assert_close, draw, logits, proved, sae, traced, transcoder

LLAMA, BERT, GPT2 = "model.layers.*", "bert.encoder.layer.*", "transformer.h.*"

# (pass, architecture, sites) -> how many sites it applies at, or the reason for none; members of the family where there is one
TABLE: dict[tuple[str, str, str], int | str] = {
    ("direction", "gpt2", f"{GPT2}.mlp"): 2,
    ("direction", "gpt2", f"{GPT2}.attn"): 2,
    ("direction", "gpt2", "transformer.wte"): 1,
    ("direction", "gpt2", f"{GPT2}.mlp.c_fc"): "d has shape [32], the site's last axis is 128",
    ("direction", "llama", f"{LLAMA}.self_attn"): 2,
    ("direction", "mixtral", f"{LLAMA}.mlp"): 2,
    ("direction", "bert", f"{BERT}.output"): 2,
    ("subspace", "gpt2", f"{GPT2}"): 2,
    ("subspace", "llama", "lm_head"): "basis has shape [3, 32], the site's last axis is 61",
    ("surrogate", "gpt2", f"{GPT2}.mlp"): 2,
    ("surrogate", "llama", f"{LLAMA}.mlp"): 2,
    ("surrogate", "mixtral", f"{LLAMA}.mlp"): 2,
    ("surrogate", "bert", f"{BERT}.attention.output.dense"): 2,
    ("dictionary", "gpt2", f"{GPT2}"): 2,
    ("dictionary", "llama", f"{LLAMA}"): 2,
    ("dictionary", "mixtral", f"{LLAMA}.mlp"): 2,
    ("dictionary", "bert", "bert.embeddings"): 1,
    ("dictionary", "bert", "bert.encoder.layer.*.intermediate"): f"the dictionary is for width {WIDTH}, the site's last axis is {HIDDEN}",
    ("heads", "gpt2", f"{GPT2}.attn"): 2,
    ("heads", "gpt2", f"{GPT2}.attn.c_proj"): 2,
    ("heads", "gpt2", f"{GPT2}.mlp"): "not from attention",
    ("heads", "gpt2", f"{GPT2}.ln_1"): "not by a linear op",
    ("heads", "llama", f"{LLAMA}.self_attn"): 2,
    ("heads", "llama", f"{LLAMA}.self_attn.o_proj"): 2,
    ("heads", "llama", f"{LLAMA}.self_attn.q_proj"): "not from attention",
    ("heads", "llama", f"{LLAMA}.mlp"): "not from attention",
    ("heads", "mixtral", f"{LLAMA}.self_attn"): 2,
    ("heads", "bert", "**.attention.output.dense"): 2,
    ("heads", "bert", "**.attention.self"): "not by a linear op",
    ("neurons", "gpt2", f"{GPT2}.mlp"): 2,
    ("neurons", "llama", f"{LLAMA}.mlp"): 2,
    ("neurons", "mixtral", f"{LLAMA}.mlp"): "not by a linear op",
    ("neurons", "bert", "bert.encoder.layer.*.output.dense"): 2,
    ("norm", "gpt2", "**.ln_*"): 5,
    ("norm", "llama", "**.*layernorm"): 4,
    ("norm", "llama", "model.norm"): 1,
    ("norm", "mixtral", "model.norm"): 1,
    ("norm", "bert", "**.LayerNorm"): 6,
    ("norm", "gpt2", f"{GPT2}.mlp"): "not by a norm op",
    ("paths", "gpt2", "transformer.h.*.mlp -> transformer.ln_f@in"): 2,
    ("paths", "gpt2", "transformer.wte -> transformer.h.1.ln_2@in"): 1,
    ("paths", "llama", "model.layers.*.self_attn -> model.norm@in"): 2,
    ("paths", "mixtral", "model.layers.*.mlp -> model.norm@in"): 2,
    ("paths", "bert", "bert.encoder.layer.0.output.dense -> bert.encoder.layer.0.output.LayerNorm@in"): 1,
    ("paths", "bert", "bert.encoder.layer.0.output.dense -> bert.encoder.layer.1.output.LayerNorm@in"): "The pass norm opens it",
    ("paths", "gpt2", "transformer.h.0.mlp -> lm_head@in"): "The pass norm opens it",
    ("inputs", "gpt2", "transformer.h.*.mlp -> transformer.ln_f@in"): 1,
    ("inputs", "gpt2", "transformer.h.0.mlp ~> lm_head@in"): 1,
    (
        "inputs",
        "gpt2",
        "transformer.h.0.mlp -> lm_head@in",
    ): "expected a way -> from transformer.h.0.mlp to lm_head@in, got none. Go on with",
    ("inputs", "llama", "model.layers.0.self_attn ~> model.layers.1.mlp@in@[:, -1] ~> model.norm@in"): 1,
    ("inputs", "mixtral", "model.layers.0.mlp -> model.norm@in"): 1,
    ("inputs", "bert", "bert.encoder.layer.0.output ~> bert.encoder.layer.1.attention@in !bert.encoder.layer.1.output"): 1,
    ("gates", "gpt2", f"{GPT2}.mlp"): 2,
    ("gates", "llama", f"{LLAMA}"): 2,
    ("gates", "mixtral", "model.norm"): 1,
    ("gates", "bert", "bert.embeddings"): 1,
    ("gates", "gpt2", "transformer.wte@in"): "floating point",
    ("freeze", "gpt2", f"{GPT2}.attn"): 2,
    ("freeze", "llama", "**.*layernorm"): 4,
    ("freeze", "mixtral", f"{LLAMA}.mlp"): 2,
    ("freeze", "bert", "bert.embeddings"): 1,
    ("freeze", "gpt2", "transformer.wte@in"): "nothing upstream moves",
    ("distribute", "gpt2", "transformer.ln_f@in"): 1,
    ("distribute", "gpt2", f"{GPT2}"): 2,
    ("distribute", "gpt2", "lm_head"): "layer_norm",
    ("distribute", "gpt2", f"{GPT2}.mlp"): "no sum lies before it",
    ("distribute", "llama", "model.norm@in"): 1,
    ("distribute", "llama", "lm_head"): "is not affine",
    ("distribute", "mixtral", "model.norm@in"): 1,
    ("distribute", "bert", "bert.encoder.layer.*.output.LayerNorm@in"): 2,
    ("distribute", "bert", "bert.encoder.layer.*.output"): "layer_norm",
}

BIND: dict[str, Any] = {
    "direction": lambda at: direction.at(at, d=draw(WIDTH)),
    "subspace": lambda at: subspace.at(at, basis=draw(3, WIDTH)),
    "surrogate": lambda at: surrogate.at(at, f=transcoder()),
    "dictionary": lambda at: dictionary.at(at, sae=sae()),
    "heads": heads.at,
    "neurons": neurons.at,
    "norm": norm.at,
    "paths": paths.at,
    "gates": gates.at,
    "freeze": freeze.at,
    "distribute": distribute.at,
    "inputs": lambda at: inputs.at({"c": at}),
}


@pytest.mark.parametrize(("name", "architecture", "where"), TABLE)
def test_table(name: str, architecture: str, where: str) -> None:
    expected, program = TABLE[name, architecture, where], traced(architecture)[2]
    if isinstance(expected, str):
        with pytest.raises(PassError) as caught:
            program.apply(BIND[name](where))
        assert expected in str(caught.value)
        return
    step = program.apply(BIND[name](where)).steps[-1]
    assert (len(step.sites), step.skipped) == (expected, {})


def eager(config: Any, model: Any) -> nn.Module:
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    return model(config).eval()


WIDTHS: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "vocab_size": 61,
}
EAGER: dict[str, tuple[Any, str]] = {
    "gpt2": (
        lambda: eager(GPT2Config(n_embd=WIDTH, n_layer=1, n_head=HEADS, vocab_size=61, n_positions=64), GPT2LMHeadModel),
        "transformer.h.0.attn",
    ),
    "llama": (lambda: eager(LlamaConfig(**WIDTHS, num_key_value_heads=2), LlamaForCausalLM), "model.layers.0.self_attn"),
    "mixtral": (
        lambda: eager(MixtralConfig(**WIDTHS, num_key_value_heads=2, num_local_experts=4), MixtralForCausalLM),
        "model.layers.0.self_attn",
    ),
    "bert": (lambda: eager(BertConfig(**WIDTHS), BertForMaskedLM), "bert.encoder.layer.0.attention.output.dense"),
}


@cache
def traced_eagerly(name: str) -> tuple[nn.Module, dict[str, Tensor], Program]:
    """(model, example, program) with attention written out by hand."""
    model, example = EAGER[name][0](), copy.copy(traced(name)[1])
    return model, example, trace(model, **example)


@pytest.mark.parametrize("name", EAGER)
def test_heads_are_found_in_attention_written_out(name: str) -> None:
    model, example, program = traced_eagerly(name)
    rewritten = program.apply(heads.at(EAGER[name][1]))
    assert rewritten.families[f"{EAGER[name][1]}/head"].size == HEADS
    assert_close(logits(rewritten, example), logits(model, example))
    proved(rewritten)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "bert"])
def test_heads_are_as_many_as_the_config_says(name: str) -> None:
    where = {"gpt2": f"{GPT2}.attn", "bert": "**.attention.output.dense"}.get(name, f"{LLAMA}.self_attn")
    rewritten = traced(name)[2].apply(heads.at(where))
    assert [family.size for family in rewritten.families.values()] == [HEADS, HEADS]


@pytest.mark.parametrize("batch_first", [True, False])
def test_heads_of_torchs_own_attention_which_flattens_its_positions(batch_first: bool) -> None:
    torch.manual_seed(0)
    model, x = Own(batch_first).eval(), draw(2, 5, WIDTH)
    rewritten = trace(model, x).apply(heads.at("attn:0"), gates.at("attn:0/head"))
    assert rewritten.families["attn:0/head"].size == HEADS
    assert_close(rewritten(x), model(x))
    proved(rewritten)
    rewritten.gates["attn:0/head[1]"].g = 0
    size = WIDTH // HEADS
    with torch.no_grad():
        model.attn.out_proj.weight[:, size : 2 * size] = 0
    assert_close(rewritten(x[:, :4]), model(x[:, :4]))


class Own(nn.Module):
    """torch's own attention, then a linear: modules `attn`, `out`."""

    def __init__(self, batch_first: bool):
        super().__init__()
        self.attn, self.out = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attn(x, x, x, need_weights=False)[0])

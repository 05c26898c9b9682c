"""GPT-2, Llama and BERT in plain PyTorch, with names and a structure of their own, against the models of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from rewrite import trace
from verify import Report, equivalence

VOCAB, WIDTH, LAYERS, HIDDEN, LENGTH = 61, 64, 2, 48, 7
HEADS, MORE = 4, 8  # of 16 numbers each, whose root is exact, and of 8, whose root is not: 1 / sqrt(8) is not 8 ** -0.5 in floats


def ids() -> Tensor:
    """Random token ids. Shapes: [batch, position]."""
    return torch.randint(3, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def moved(model: nn.Module) -> nn.Module:
    """The model in eval mode, no parameter zero or one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


def gelu_by_tanh(x: Tensor) -> Tensor:
    """GELU as GPT-2 has it."""
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def standardised(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> Tensor:
    """A layer norm by its moments. Shapes: [..., d_model]."""
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + eps) * gain + bias


def attended(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, count: int) -> Tensor:
    """Attention head by head; `hidden` marks what may not be seen. Shapes: [batch, position, d_model], hidden [position, position]."""
    heads, size = [], q.shape[-1] // count
    for h in range(count):
        own = slice(h * size, (h + 1) * size)
        scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(size)
        scores = scores if hidden is None else scores.masked_fill(hidden, -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., own])
    return torch.cat(heads, -1)


class Weights(nn.Module):
    """Parameters by names with dots, taken from another model."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.held = nn.ParameterDict({name.replace(".", "_"): nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()})

    def of(self, name: str) -> Tensor:
        """One of them."""
        return self.held[name.replace(".", "_")]


class GPT2(Weights):
    """GPT-2: x W + b, learned positions, norms before, one matrix for tokens in and out."""

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """The logits. Shapes: ids [batch, position], logits [batch, position, token]."""
        x = self.of("wte.weight")[ids] + self.of("wpe.weight")[: ids.shape[1]]
        future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        for i in range(LAYERS):
            y = self.norm(x, f"h.{i}.ln_1") @ self.of(f"h.{i}.attn.c_attn.weight") + self.of(f"h.{i}.attn.c_attn.bias")
            z = attended(*y.chunk(3, -1), future, self.heads)
            x = x + z @ self.of(f"h.{i}.attn.c_proj.weight") + self.of(f"h.{i}.attn.c_proj.bias")
            y = gelu_by_tanh(self.norm(x, f"h.{i}.ln_2") @ self.of(f"h.{i}.mlp.c_fc.weight") + self.of(f"h.{i}.mlp.c_fc.bias"))
            x = x + y @ self.of(f"h.{i}.mlp.c_proj.weight") + self.of(f"h.{i}.mlp.c_proj.bias")
        return {"logits": self.norm(x, "ln_f") @ self.of("wte.weight").T}

    def norm(self, x: Tensor, name: str) -> Tensor:
        """A layer norm by its name."""
        return standardised(x, self.of(f"{name}.weight"), self.of(f"{name}.bias"), 1e-5)


class BERT(Weights):
    """BERT's encoder and its pooled first position: W x + b, norms after."""

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """The last states and the pooled one. Shapes: ids [batch, position]."""
        x = self.of("embeddings.word_embeddings.weight")[ids] + self.of("embeddings.position_embeddings.weight")[: ids.shape[1]]
        x = self.norm(x + self.of("embeddings.token_type_embeddings.weight")[0], "embeddings.LayerNorm")
        for i in range(LAYERS):
            at = f"encoder.layer.{i}"
            q, k, v = (self.linear(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
            x = self.norm(
                x + self.linear(attended(q, k, v, None, self.heads), f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm"
            )
            y = nn.functional.gelu(self.linear(x, f"{at}.intermediate.dense"))
            x = self.norm(x + self.linear(y, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        return {"last_hidden_state": x, "pooler_output": torch.tanh(self.linear(x[:, 0], "pooler.dense"))}

    def linear(self, x: Tensor, name: str) -> Tensor:
        """W x + b by its name, as an einsum."""
        return torch.einsum("...i,oi->...o", x, self.of(f"{name}.weight")) + self.of(f"{name}.bias")

    def norm(self, x: Tensor, name: str) -> Tensor:
        """A layer norm by its name."""
        return standardised(x, self.of(f"{name}.weight"), self.of(f"{name}.bias"), 1e-12)


def compared(theirs: nn.Module, ours: type[Weights], prefix: str, heads: int, seed: int) -> Report:
    """The report on a model of transformers against `ours` with the same weights; `prefix` is cut off the names."""
    own = {name.removeprefix(prefix): tensor for name, tensor in theirs.named_parameters()}
    model = ours({name: tuple(tensor.shape) for name, tensor in own.items()}, heads)
    with torch.no_grad():
        for name, tensor in own.items():
            model.of(name).copy_(tensor)
    names = {f"held.{name.removeprefix(prefix).replace('.', '_')}": name for name, _ in theirs.named_parameters()}
    first = trace(theirs, input_ids=ids(), dynamic=False)
    second = trace(model.eval(), ids=ids(), dynamic=False)
    known = {leaf.name for leaf in first.leaves.values()}, {leaf.name for leaf in second.leaves.values()}
    match = {mine: name for mine, name in names.items() if mine in known[1] and name in known[0]}
    return equivalence(first, second, match={**match, "ids": "input_ids"}, seed=seed)


def gpt2(seed: int, heads: int = HEADS) -> Report:
    """GPT-2 against ours."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=heads, n_positions=64, bos_token_id=1, eos_token_id=2, use_cache=False
    )
    return compared(moved(GPT2LMHeadModel(config)), GPT2, "transformer.", heads, seed)


def bert(seed: int) -> Report:
    """BERT against ours."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=HIDDEN,
                        max_position_embeddings=64)  # fmt: skip
    return compared(moved(BertModel(config)), BERT, "", HEADS, seed)


def llama(seed: int) -> Report:
    """Llama against the one of examples/two_implementations.py."""
    from examples.two_implementations import IDS, LLAMA, Llama, from_scratch, from_transformers

    theirs = trace(from_transformers("llama", LLAMA), input_ids=IDS)
    return from_scratch(Llama, theirs)


MODELS: dict[str, Callable[[int], Report]] = {
    "GPT-2": gpt2,
    "GPT-2 with 1 / sqrt(8) for 8 ** -0.5": lambda seed: gpt2(seed, MORE),
    "Llama": llama,
    "BERT": bert,
}

"""Tiny models with random weights that all tests share: each function returns (model in eval mode, example keyword arguments)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Example = dict[str, Any]
Tiny = tuple[nn.Module, Example]

VOCAB, WIDTH, LAYERS, HEADS, KV_HEADS, HIDDEN, POSITIONS = 61, 32, 2, 4, 2, 48, 64
BATCH, SEQUENCE = 2, 7


def token_ids(batch: int = BATCH, sequence: int = SEQUENCE, seed: int = 1) -> Tensor:
    """Random token ids. Shapes: [batch, sequence]."""
    return torch.randint(0, VOCAB, (batch, sequence), generator=torch.Generator().manual_seed(seed))


def right_padded(batch: int = BATCH, sequence: int = SEQUENCE) -> Tensor:
    """An attention mask of ones whose last row ends in two zeros. Shapes: [batch, sequence]."""
    mask = torch.ones(batch, sequence, dtype=torch.int64)
    mask[-1, -2:] = 0
    return mask


def spread(model: nn.Module, seed: int) -> nn.Module:
    """The model in eval mode, every parameter moved a little: no bias is zero and no gain is one, so that none can be dropped unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def gpt2(seed: int = 0) -> Tiny:
    """A two-layer GPT-2: learned positions, fused qkv, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS, bos_token_id=0, eos_token_id=0)
    return spread(GPT2LMHeadModel(config), seed), {"input_ids": token_ids()}


def llama(seed: int = 0) -> Tiny:
    """A two-layer Llama: grouped queries, rotary positions, SwiGLU, RMS norms."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=POSITIONS,
    )
    return spread(LlamaForCausalLM(config), seed), {"input_ids": token_ids()}


def mixtral(seed: int = 0) -> Tiny:
    """A two-layer Mixtral: Llama's attention, four experts of which two are chosen for each token."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(seed)
    config = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=POSITIONS,
    )
    return spread(MixtralForCausalLM(config), seed), {"input_ids": token_ids()}


def bert(seed: int = 0) -> Tiny:
    """A two-layer BERT: post-norm, both directions, a right-padded attention mask."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=POSITIONS,
    )
    return spread(BertForMaskedLM(config), seed), {"input_ids": token_ids(), "attention_mask": right_padded()}


TRANSFORMERS: dict[str, Callable[[], Tiny]] = {"gpt2": gpt2, "llama": llama, "mixtral": mixtral, "bert": bert}


class MLP(nn.Module):
    """Linear, GELU, linear: modules `up`, `act`, `down`."""

    def __init__(self, width: int = WIDTH, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    """A pre-norm residual block around an MLP: modules `norm`, `mlp`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Residual(nn.Module):
    """Blocks on a stream, a final norm and a head: modules `blocks.0`, `blocks.1`, `norm`, `head`."""

    def __init__(self, width: int = WIDTH, layers: int = LAYERS, outputs: int = 5) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Repeated(nn.Module):
    """One layer called twice: modules `layer`, `layer#2`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Passing(nn.Module):
    """A module that returns its input while others read that input too: modules `up`, `same`, `left`, `right`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.up, self.same = nn.Linear(width, width), nn.Identity()
        self.left, self.right = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        return self.left(self.same(y)) + self.right(y)


class Pair(nn.Module):
    """Two inputs, a dict of a tensor and a tuple as output: module `up`."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.up = nn.Linear(width, width)
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.linspace(-1, 1, width))
        self.register_buffer("scale", torch.linspace(1, 2, width), persistent=False)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        up = self.up(a)
        return {"sum": up + b * self.scale, "both": (up, up - self.shift)}


def vectors(seed: int = 1, batch: int = BATCH, sequence: int = SEQUENCE, width: int = WIDTH) -> Tensor:
    """Random activations. Shapes: [batch, sequence, width]."""
    return torch.randn(batch, sequence, width, generator=torch.Generator().manual_seed(seed))


def mlp(seed: int = 0) -> Tiny:
    """An MLP alone."""
    torch.manual_seed(seed)
    return spread(MLP(), seed), {"x": vectors()}


def residual(seed: int = 0) -> Tiny:
    """Two residual MLP blocks, a norm and a head."""
    torch.manual_seed(seed)
    return spread(Residual(), seed), {"x": vectors()}


def repeated(seed: int = 0) -> Tiny:
    """One layer called twice."""
    torch.manual_seed(seed)
    return spread(Repeated(), seed), {"x": vectors()}


def passing(seed: int = 0) -> Tiny:
    """An Identity whose input has other readers."""
    torch.manual_seed(seed)
    return spread(Passing(), seed), {"x": vectors()}


def pair(seed: int = 0) -> Tiny:
    """Two inputs, nested outputs, both sorts of buffer."""
    torch.manual_seed(seed)
    return spread(Pair(), seed), {"a": vectors(1), "b": vectors(2)}


PLAIN: dict[str, Callable[[], Tiny]] = {"mlp": mlp, "residual": residual, "repeated": repeated, "passing": passing, "pair": pair}

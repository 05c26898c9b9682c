"""A small transformer, twelve correct rewrites of it and the classic ways to get one wrong: pairs of modules, no pass needed.

Each variant changes the forward of some modules of a copy; derived constants are written as expressions of the weights.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable

import torch
from torch import Tensor, nn

WIDTH, HEADS, HIDDEN, VOCAB, SEQUENCE, LAYERS = 16, 4, 24, 23, 6, 2
HEAD = WIDTH // HEADS
EPS = 1e-5


class Norm(nn.Module):
    """Layer norm, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(1 + 0.1 * torch.randn(WIDTH)), nn.Parameter(0.1 * torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return standard(x) * self.weight + self.bias


def standard(x: Tensor, eps: float = EPS) -> Tensor:
    """x with mean 0 and variance 1 along its last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)


class Attention(nn.Module):
    """Causal attention with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(join(pattern(self, x) @ heads(self.v(x))))


def heads(x: Tensor) -> Tensor:
    """Shapes: [batch, sequence, width] -> [batch, head, sequence, width of a head]."""
    return x.unflatten(-1, (HEADS, HEAD)).transpose(1, 2)


def join(z: Tensor) -> Tensor:
    """The inverse of `heads`."""
    return z.transpose(1, 2).flatten(-2)


def causal(scores: Tensor, diagonal: int = 0) -> Tensor:
    """The scores with -inf where a position would see a later one."""
    n = scores.shape[-1]
    return scores.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(diagonal), -math.inf)


def pattern(self: Attention, x: Tensor, scale: float = 1 / math.sqrt(HEAD), diagonal: int = 0) -> Tensor:
    """Attention weights. Shapes: [batch, head, sequence, sequence]."""
    return causal(heads(self.q(x)) @ heads(self.k(x)).transpose(-1, -2) * scale, diagonal).softmax(-1)


class MLP(nn.Module):
    """Linear, GELU or ReLU, linear."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(WIDTH, HIDDEN), act, nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act(self.up(x)))


class Block(nn.Module):
    """A pre-norm block."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = Norm(), Attention(), Norm(), MLP(act)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Toy(nn.Module):
    """Embeddings, two blocks (GELU, ReLU), a norm, logits."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, WIDTH), nn.Embedding(SEQUENCE, WIDTH)
        self.blocks = nn.ModuleList(Block(act) for act in (nn.GELU(), nn.ReLU()))
        self.norm, self.head = Norm(), nn.Linear(WIDTH, VOCAB)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(self.norm(x))}

    def block(self, i: int) -> Block:
        """One of the blocks."""
        return self.blocks[i]  # type: ignore[return-value]


def example(seed: int = 1) -> dict[str, Tensor]:
    """Token ids. Shapes: [2, sequence]."""
    return {"ids": torch.randint(0, VOCAB, (2, SEQUENCE), generator=torch.Generator().manual_seed(seed))}


Variant = Callable[[Toy], None]
CORRECT: dict[str, Variant] = {}
BUGS: dict[str, Variant] = {}


def varied(variant: Variant, seed: int = 0) -> Toy:
    """A toy, changed."""
    toy = Toy(seed)
    with torch.no_grad():
        variant(toy)
    return toy.eval()


def correct(function: Variant) -> Variant:
    """Lists a variant that computes the same function."""
    return CORRECT.setdefault(function.__name__, function)


def bug(function: Variant) -> Variant:
    """Lists a variant that does not."""
    return BUGS.setdefault(function.__name__, function)


def put(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Gives one module another forward, called as (module, x)."""
    module.forward = types.MethodType(forward, module)


def own(module: nn.Module, **values: Tensor | nn.Module) -> None:
    """Gives one module buffers or modules of its own."""
    for name, value in values.items():
        module.register_buffer(name, value) if isinstance(value, Tensor) else module.add_module(name, value)


def surrogate(scale: float) -> nn.Sequential:
    """Some f that is nothing like an MLP of the toy."""
    torch.manual_seed(7)
    f = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, WIDTH))
    f[2].weight.data *= scale  # type: ignore[operator]
    return f


# Correct ones


@correct
def c_res(toy: Toy) -> None:
    mlp = toy.block(0).mlp
    own(mlp, f=surrogate(1.0))
    put(mlp, lambda self, x: self.f(x) + (MLP.forward(self, x) - self.f(x)))


@correct
def c_resbig(toy: Toy) -> None:
    mlp = toy.block(0).mlp
    own(mlp, f=surrogate(1e4))
    put(mlp, lambda self, x: self.f(x) + (MLP.forward(self, x) - self.f(x)))


@correct
def c_heads(toy: Toy) -> None:
    put(toy.block(1).attn, sum_of_heads)


def sum_of_heads(self: Attention, x: Tensor, shift: int = 0, bias: bool = True) -> Tensor:
    """Attention as a sum over heads of each one's columns of the output projection."""
    z = pattern(self, x) @ heads(self.v(x))
    total = self.o.bias if bias else torch.zeros(())
    for i in range(HEADS):
        j = (i * HEAD + shift) % WIDTH
        columns = self.o.weight.roll(-j, 1)[:, :HEAD]
        total = total + z[:, i] @ columns.T
    return total


@correct
def c_dir(toy: Toy) -> None:
    mlp = toy.block(1).mlp
    own(mlp, d=torch.randn(WIDTH))

    def forward(self: MLP, x: Tensor) -> Tensor:
        y = MLP.forward(self, x)
        along = (y @ self.d).unsqueeze(-1) * (self.d / (self.d @ self.d))
        return along + (y - along)

    put(mlp, forward)


@correct
def c_fold(toy: Toy) -> None:
    fold(toy, bias=True)


def fold(toy: Toy, bias: bool) -> None:
    """The gain and bias of a norm moved into the linear map that reads it."""
    block = toy.block(0)
    put(block.norm2, lambda self, x: standard(x))
    own(block.mlp, gain=block.norm2)

    def forward(self: MLP, x: Tensor) -> Tensor:
        weight = self.up.weight * self.gain.weight
        shift = self.up.weight @ self.gain.bias + self.up.bias if bias else self.up.bias
        return self.down(self.act(nn.functional.linear(x, weight, shift)))

    put(block.mlp, forward)


@correct
def c_svd(toy: Toy) -> None:
    factored(toy, tail=True)


def factored(toy: Toy, tail: bool) -> None:
    """A linear map as its part of rank 8 and the rest."""
    mlp = toy.block(0).mlp
    u, s, v = torch.linalg.svd(mlp.down.weight.detach())
    own(mlp, u=u[:, :8].contiguous(), s=s[:8].contiguous(), v=v[:8].contiguous())

    def forward(self: MLP, x: Tensor) -> Tensor:
        low = (self.u * self.s) @ self.v
        h = self.act(self.up(x))
        rest = h @ (self.down.weight - low).T if tail else 0.0
        return h @ low.T + rest + self.down.bias

    put(mlp, forward)


@correct
def c_qk(toy: Toy) -> None:
    def forward(self: Attention, x: Tensor) -> Tensor:
        wq, wk = (m.weight.unflatten(0, (HEADS, HEAD)) for m in (self.q, self.k))
        bq, bk = (m.bias.unflatten(0, (HEADS, HEAD)) for m in (self.q, self.k))
        x1 = x.unsqueeze(1)
        both = x1 @ (wq.transpose(-1, -2) @ wk) @ x1.transpose(-1, -2)
        left = torch.einsum("bid,hkd,hk->bhi", x, wq, bk).unsqueeze(-1)
        right = torch.einsum("bjd,hkd,hk->bhj", x, wk, bq).unsqueeze(-2)
        scores = both + left + right + (bq * bk).sum(-1)[:, None, None]
        return self.o(join(causal(scores / math.sqrt(HEAD)).softmax(-1) @ heads(self.v(x))))

    put(toy.block(0).attn, forward)


@correct
def c_ov(toy: Toy) -> None:
    merged_values(toy, transposed=False)


def merged_values(toy: Toy, transposed: bool) -> None:
    """Value and output projections as one map a head; the values' bias passes, as each row of weights sums to one."""

    def forward(self: Attention, x: Tensor) -> Tensor:
        wv, wo = self.v.weight.unflatten(0, (HEADS, HEAD)), self.o.weight.unflatten(1, (HEADS, HEAD)).transpose(0, 1)
        ov = (wo @ wv).transpose(-1, -2) if transposed else wo @ wv
        out = torch.einsum("bhij,bjd,hmd->bim", pattern(self, x), x, ov)
        return out + self.o.weight @ self.v.bias + self.o.bias

    put(toy.block(0).attn, forward)


@correct
def c_paths(toy: Toy) -> None:
    def forward(self: Toy, ids: Tensor) -> dict[str, Tensor]:
        terms = [self.wte(ids), self.wpe(torch.arange(ids.shape[1])).expand(ids.shape[0], -1, -1)]
        for block in self.blocks:
            terms.append(block.attn(block.norm1(sum(reversed(terms)))))
            terms.append(block.mlp(block.norm2(sum(reversed(terms)))))
        x = sum(terms)
        centred = x - x.mean(-1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(-1, keepdim=True) + EPS)
        paths = [(t - t.mean(-1, keepdim=True)) * scale * self.norm.weight @ self.head.weight.T for t in terms]
        return {"logits": sum(paths) + self.head.weight @ self.norm.bias + self.head.bias}

    put(toy, forward)  # type: ignore[arg-type]


@correct
def c_gate(toy: Toy) -> None:
    def forward(self: MLP, x: Tensor) -> Tensor:
        h = self.up(x)
        return self.down((h > 0).float() * h)

    put(toy.block(1).mlp, forward)


@correct
def c_center(toy: Toy) -> None:
    for module, kind in ((toy.block(0).attn, Attention), (toy.block(1).mlp, MLP)):
        put(module, lambda self, x, kind=kind: (lambda y: y - y.mean(-1, keepdim=True))(kind.forward(self, x)))


@correct
def c_shift(toy: Toy) -> None:
    def forward(self: Attention, x: Tensor) -> Tensor:
        q, k = heads(self.q(x)), heads(self.k(x))
        scores = q @ k.transpose(-1, -2) / math.sqrt(HEAD) - q.sum(-1, keepdim=True) * 3
        return self.o(join(causal(scores).softmax(-1) @ heads(self.v(x))))

    put(toy.block(1).attn, forward)


# Wrong ones


@bug
def b_nobias(toy: Toy) -> None:
    put(toy.block(1).attn, lambda self, x: sum_of_heads(self, x, bias=False))


@bug
def b_slice(toy: Toy) -> None:
    put(toy.block(1).attn, lambda self, x: sum_of_heads(self, x, shift=1))


@bug
def b_ov_transposed(toy: Toy) -> None:
    merged_values(toy, transposed=True)


@bug
def b_mask(toy: Toy) -> None:
    put(toy.block(0).attn, lambda self, x: self.o(join(pattern(self, x, diagonal=1) @ heads(self.v(x)))))


@bug
def b_svd_tail(toy: Toy) -> None:
    factored(toy, tail=False)


@bug
def b_beta(toy: Toy) -> None:
    fold(toy, bias=False)


@bug
def b_bessel(toy: Toy) -> None:
    def forward(self: Norm, x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True, unbiased=True) + EPS) * self.weight + self.bias

    put(toy.block(0).norm1, forward)


@bug
def b_stale(toy: Toy) -> None:
    toy.block(1).mlp.up.weight.copy_(Toy(5).block(1).mlp.up.weight)


@bug
def b_dir(toy: Toy) -> None:
    mlp = toy.block(1).mlp
    own(mlp, d=torch.randn(WIDTH), e=torch.randn(WIDTH))

    def forward(self: MLP, x: Tensor) -> Tensor:
        y = MLP.forward(self, x)
        along, other = ((y @ v).unsqueeze(-1) * (v / (v @ v)) for v in (self.d, self.e))
        return along + (y - other)

    put(mlp, forward)


@bug
def b_eps(toy: Toy) -> None:
    put(toy.block(0).norm1, lambda self, x: standard(x, 0.0) * self.weight + self.bias)


def scaled(by: float) -> Variant:
    """A factor that should be one, on an MLP."""
    return lambda toy: put(toy.block(0).mlp, lambda self, x: MLP.forward(self, x) * by)


BUGS |= {"b_1e-4": scaled(1 + 1e-4), "b_1e-6": scaled(1 + 1e-6), "b_1e-8": scaled(1 + 1e-8)}


@bug
def b_tanh(toy: Toy) -> None:
    toy.block(0).mlp.act = nn.GELU(approximate="tanh")


@bug
def b_half(toy: Toy) -> None:
    toy.block(0).mlp.up.weight.copy_(toy.block(0).mlp.up.weight.half())


@bug
def b_scale(toy: Toy) -> None:
    put(toy.block(0).attn, lambda self, x: self.o(join(pattern(self, x, scale=0.50001) @ heads(self.v(x)))))


@bug
def b_elem(toy: Toy) -> None:
    toy.block(0).mlp.up.weight[3, 4] += 1e-3


@bug
def b_dead(toy: Toy) -> None:
    """Another output row for a neuron that never fires on these weights: no float run shows it."""
    mlp = toy.block(1).mlp
    own(mlp, off=torch.randn(WIDTH))

    def forward(self: MLP, x: Tensor) -> Tensor:
        h = self.act(self.up(x))
        return self.down(h) + h[..., :1] * self.off

    put(mlp, forward)


def base(variant: str) -> Variant:
    """What the original is for a variant: the toy, with one neuron dead for b_dead."""

    def original(toy: Toy) -> None:
        if variant == "b_dead":
            toy.block(1).mlp.up.weight[0] = 0.0
            toy.block(1).mlp.up.bias[0] = -1.0

    return original

"""Pairs made to fool the verifier: wrong ones that floats hardly show, right ones that look different."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf, log, nan, prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewrite import Program, Terms, split, trace
from tests.verify.programs import normal
from verify import equivalence
from verify.field import primes_below
from verify.world import CHOICES

RIGHT = frozenset({"proved"})
UNSEEN = frozenset({"proved", "consistent", "differs"})  # right, and need not be derived
WRONG = frozenset({"refuted", "differs", "unknown", "consistent"})
REFUTED = frozenset({"refuted"})

Function = Callable[..., Any]


class Holder(nn.Module):
    """A function as a module: it is called with the parameters, the buffers, then the inputs."""

    def __init__(self, function: Function, weights: tuple[Tensor, ...], buffers: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.function = function
        self.w = nn.ParameterList(nn.Parameter(w.clone()) for w in weights)
        self.held = len(buffers)
        for i, buffer in enumerate(buffers):
            self.register_buffer(f"table{i}", buffer.clone())

    def call(self, *inputs: Tensor) -> Any:
        """The function of all that is held, and of the inputs."""
        return self.function(*self.w, *(getattr(self, f"table{i}") for i in range(self.held)), *inputs)


class One(Holder):
    """With one input."""

    def forward(self, x: Tensor) -> Any:
        return self.call(x)


class Two(Holder):
    """With two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.call(x, y)


@dataclass(frozen=True)
class Case:
    """Two functions of weights, buffers and inputs, and the verdicts that may be given; `hole` says why another one is."""

    name: str
    a: Function
    b: Function
    allowed: frozenset[str]
    inputs: tuple[Tensor, ...] = (normal(3, 4),)
    weights: tuple[Tensor, ...] = ()
    buffers: tuple[Tensor, ...] = ()
    hole: str = ""

    def program(self, function: Function) -> Program:
        """One of the two, traced."""
        module = (One if len(self.inputs) == 1 else Two)(function, self.weights, self.buffers)
        return trace(module.eval(), *self.inputs, dynamic=False)


X, Y = normal(3, 4), normal(3, 4, seed=1)
PAIR = (X, Y)
IDS = torch.tensor([[1, 2, 3]])
EYE = torch.eye(3, 4) > 0


def times_primes(x: Tensor) -> Tensor:
    """x times the primes that residues are taken by."""
    for p in primes_below(6):
        x = x * float(p)
    return x


def every_prime() -> Tensor:
    """All primes that residues may be taken by, each scaled so that their product stays near one."""
    found, size = [], 0.0
    for p in primes_below(CHOICES):
        found.append(p / 2**21 if size > 0 else p / 2**20)
        size += log(found[-1])
    return torch.tensor(found)


def rare(x: Tensor) -> Tensor:
    """Zero on every example, and not for all inputs."""
    return torch.relu(x - 30)


def chosen(x: Tensor, scores: Tensor) -> Tensor:
    """The element of x where the scores are largest."""
    return x.gather(-1, scores.argmax(-1, keepdim=True))


PRIMES = every_prime()

HOLES = (
    Case(
        "every prime",
        lambda x: x + 0,
        lambda x: x + rare(x) * (PRIMES + 0 * x.sum()).prod(0),
        WRONG,
        hole="the bound does not count the size of coefficients, which may vanish modulo every prime",
    ),
    Case("known primes", lambda x: x + 0, lambda x: x + times_primes(rare(x)), WRONG),
    Case(
        "a threshold off by the product of the primes",
        lambda x: (x > 30).float(),
        lambda x: (x > 30 + prod(primes_below(3))).float(),
        WRONG,
    ),
    Case(
        "clamped at the smallest half",
        lambda x: x + 0,
        lambda x: x.clamp(min=-65504.0),
        WRONG,
    ),
    Case(
        "masked by the smallest half",
        lambda x: torch.where(EYE, x, -inf).softmax(-1),
        lambda x: torch.where(EYE, x, -65504.0).softmax(-1),
        WRONG,
    ),
    Case(
        "above, or from",
        lambda x: (x > 0).float(),
        lambda x: (x >= 0).float(),
        WRONG,
    ),
    Case(
        "above, or from, on a plateau",
        lambda x: (torch.relu(x + 30) > 0).float(),
        lambda x: (torch.relu(x + 30) >= 0).float(),
        WRONG,
    ),
    Case(
        "above, or from, for counts",
        lambda x: ((x > 30).long().sum(-1) > 2).float(),
        lambda x: ((x > 30).long().sum(-1) >= 2).float(),
        WRONG,
    ),
    Case(
        "asking for NaN",
        lambda x: x + 0,
        lambda x: torch.where(torch.isnan(torch.log(x + 30)), 5.0, x),
        WRONG,
    ),
    Case(
        "asking for infinity",
        lambda x: x + 0,
        lambda x: torch.where(torch.isinf(torch.log(torch.relu(x + 30))), 5.0, x),
        WRONG,
    ),
    Case(
        "bool plus bool",
        lambda x, y: (x > 30).float() + (y > 30).float(),
        lambda x, y: ((x > 30) + (y > 30)).float(),
        WRONG,
        PAIR,
    ),
    Case(
        "bytes",
        lambda x: x.trunc(),
        lambda x: x.to(torch.int8).float(),
        WRONG,
    ),
    Case(
        "sums of bytes",
        lambda x, y: x.trunc() + y.trunc(),
        lambda x, y: (x.to(torch.int8) + y.to(torch.int8)).float(),
        WRONG,
        PAIR,
    ),
    Case(
        "ids as bytes",
        lambda w, ids: F.embedding(ids, w),
        lambda w, ids: F.embedding(ids.to(torch.uint8).long(), w),
        WRONG,
        (IDS,),
        (normal(258, 4),),
    ),
    Case(
        "a sum of whole numbers",
        lambda x: rare(x).sum(-1),
        lambda x: rare(x).sum(-1, dtype=torch.int64).float(),
        WRONG,
    ),
    Case(
        "copied into whole numbers",
        rare,
        lambda x: torch.zeros(3, 4, dtype=torch.long).copy_(rare(x)).float(),
        WRONG,
    ),
    Case(
        "not of a number",
        lambda x: 1 - 2 * (x > 30).float(),
        lambda x: torch.logical_not((x > 30).long() * 2).float(),
        WRONG,
    ),
    Case(
        "any of numbers",
        lambda x: 1 - (1 - 2 * (x > 30).float()).prod(-1),
        lambda x: ((x > 30).long() * 2).any(-1).float(),
        WRONG,
    ),
    Case(
        "the first of two equal ones",
        lambda x: chosen(x, torch.relu(x + 30)),
        lambda x: chosen(x.flip(-1), torch.relu(x.flip(-1) + 30)),
        WRONG,
    ),
    Case(
        "the first of two equal ones, of two",
        lambda x: chosen(x, torch.relu(x + 30)),
        lambda x: chosen(x.flip(-1), torch.relu(x.flip(-1) + 30)),
        WRONG,
        (normal(3, 2),),
    ),
    Case(
        "beside the undefined",
        lambda x, y: torch.cat([torch.where(x > 30, x, nan), y]),
        lambda x, y: torch.cat([torch.where(x > 30, x + 1, nan), y]),
        WRONG,
        PAIR,
    ),
    Case(
        "signed zeros",
        lambda x: torch.atan2(torch.full((4,), 0.0), x + 30),
        lambda x: torch.atan2(torch.full((4,), -0.0), x + 30),
        WRONG,
    ),
    Case(
        "a position as a truth value",
        lambda x: F.one_hot((x + torch.tensor([30.0, 30, 0, 0])).argmax(-1), 4).float(),
        lambda x: F.one_hot((x + torch.tensor([30.0, 30, 0, 0])).argmax(-1).to(torch.bool).long(), 4).float(),
        WRONG,
    ),
    Case("keys swapped", lambda x, y: {"sum": x + y, "product": x * y}, lambda x, y: {"product": x + y, "sum": x * y}, WRONG, PAIR),
    Case("truth values as numbers", lambda x: x > 0, lambda x: (x > 0).float(), WRONG),
    Case(
        "the smallest half among the largest",
        lambda x: torch.where(EYE, x, -inf).amax(-1),
        lambda x: torch.where(EYE, x, -65504.0).amax(-1),
        WRONG,
    ),
    Case(
        "the smallest half in a sigmoid",
        lambda x: x.sum(-1, keepdim=True).sigmoid() * torch.tensor([1.0, 1, 1, 0]),
        lambda x: (x.sum(-1, keepdim=True) + torch.tensor([0.0, 0, 0, -65504])).sigmoid(),
        WRONG,
    ),
    Case(
        "up to capacity",
        lambda x: x * ((x > 20).long().cumsum(0) < 2),
        lambda x: x * ((x > 20).long().cumsum(0) <= 2),
        WRONG,
    ),
    Case(
        "below or above",
        lambda x: torch.ones_like(x),
        lambda x: (x > 0).float() + (x < 0).float(),
        WRONG,
    ),
    Case(
        "the sign of a whole number",
        lambda x: torch.ones_like(x),
        lambda x: ((x + 1000) / 100).trunc().sign() ** 2,
        WRONG,
    ),
    Case(
        "equal to itself",
        lambda x: x + 0,
        lambda x: torch.where(torch.log(x + 30) == torch.log(x + 30), x, 5.0),
        WRONG,
    ),
    Case(
        "not above",
        lambda x: torch.log(x + 30) <= 0,
        lambda x: ~(torch.log(x + 30) > 0),
        WRONG,
        hole="comparisons of what is undefined are defined",
    ),
    Case(
        "asking for NaN behind a gate",
        lambda x: torch.ones_like(x),
        lambda x: torch.where(torch.isnan(torch.where(x > 30, x, nan)), 1.0, 2.0),
        WRONG,
    ),
    Case(
        "differences of truth values",
        lambda x: (x > 30).float().diff(dim=-1),
        lambda x: (x > 30).diff(dim=-1).float(),
        WRONG,
    ),
    Case(
        "truth values filled with two",
        lambda x: torch.where(x > 40, 2.0, (x > 30).float()),
        lambda x: (x > 30).masked_fill(x > 40, 2).float(),
        WRONG,
    ),
    Case(
        "all of numbers",
        lambda x: (2 * (x > 30).float()).prod(-1),
        lambda x: ((x > 30).long() * 2).all(-1).float(),
        WRONG,
    ),
    Case(
        "running sums of whole numbers",
        lambda x: rare(x).cumsum(-1),
        lambda x: rare(x).cumsum(-1, dtype=torch.int64).float(),
        WRONG,
    ),
    Case(
        "weights as bytes",
        lambda w, x: x @ w.trunc(),
        lambda w, x: x @ w.to(torch.int8).float(),
        WRONG,
        weights=(normal(4, 4),),
    ),
    Case(
        "two at one place",
        lambda s, ids: torch.zeros(1, 1000).scatter(1, ids, s),
        lambda s, ids: torch.zeros(1, 1000).scatter(1, ids.flip(1), s.flip(1)),
        WRONG,
        (IDS * 300,),
        (normal(1, 3),),
    ),
    Case(
        "rounded",
        lambda x: x.floor(),
        lambda x: x.bfloat16().float().floor(),
        WRONG,
        hole="a cast to a shorter type counts as nothing, even before a jump",
    ),
    Case(
        "a weight without a dimension",
        lambda w, x: x * w,
        lambda w, x: w * x,
        RIGHT,
        weights=(torch.tensor(2.0),),
    ),
    Case(
        "a constant without a dimension",
        lambda x: torch.tensor(0.3) * x,
        lambda x: x * torch.tensor(0.3),
        RIGHT,
    ),
    Case(
        "the epsilon of the type",
        lambda x: F.rms_norm(x, (4,)),
        lambda x: F.rms_norm(x, (4,), eps=torch.finfo(torch.float32).eps),
        UNSEEN,
    ),
    Case(
        "the variance of one",
        lambda x: x[:, :1].var(-1),
        lambda x: x[:, :1].var(-1),
        RIGHT | WRONG,
    ),
    Case(
        "the mean of none",
        lambda x: x[:, :0].mean(-1),
        lambda x: x[:, :0].mean(-1),
        RIGHT | WRONG,
    ),
    Case(
        "two dims at once",
        lambda x: x.logsumexp((0, 1)),
        lambda x: x.flatten().logsumexp(0),
        RIGHT | UNSEEN,
    ),
    Case("divided by a prime", lambda x: x / 2097143.0, lambda x: x / 2097143.0, RIGHT),
    Case(
        "the softmax of one number",
        lambda x: x.softmax(0),
        lambda x: x.softmax(0),
        RIGHT,
        (torch.tensor(3.0),),
    ),
    Case(
        "the largest of one number",
        lambda x: x.amax(),
        lambda x: x * 1,
        RIGHT,
        (torch.tensor(3.0),),
    ),
    Case(
        "one number sorted",
        lambda x: x.sort()[0],
        lambda x: x * 1,
        RIGHT,
        (torch.tensor(3.0),),
    ),
    Case(
        "complex inputs",
        lambda x: x * 2,
        lambda x: x + x,
        RIGHT | UNSEEN | {"unknown"},
        (torch.ones(3, 4, dtype=torch.complex64),),
    ),
)


# Wrong pairs that are seen, and right ones that look different

W, V, B = normal(4, 4, seed=2), normal(4, 4, seed=3), normal(4, seed=4)
LOW = torch.finfo(torch.float32).min
BELOW = torch.ones(3, 3, dtype=torch.bool).tril()


def squares(x: Tensor, dim: int = -1) -> Tensor:
    """The mean square."""
    return x.pow(2).mean(dim, keepdim=True)


def turned(x: Tensor) -> Tensor:
    """Rotary positions, by halves swapped."""
    angle = torch.arange(3.0)[:, None] * torch.tensor([1.0, 0.01])
    cosine, sine = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cosine + torch.cat([-x[:, 2:], x[:, :2]], -1) * sine


def turned_apart(x: Tensor) -> Tensor:
    """Rotary positions, half by half."""
    angle = torch.arange(3.0)[:, None] * torch.tensor([1.0, 0.01])
    a, b = x[:, :2], x[:, 2:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def attend(x: Tensor, y: Tensor, **how: Any) -> Tensor:
    """Attention of x to y by torch."""
    return F.scaled_dot_product_attention(x[None], y[None], y[None], **how)[0]


CASES = (
    # wrong
    Case("other bounds", lambda x: F.relu6(x), lambda x: x.clamp(0, 6.5), REFUTED),
    Case("another scale", lambda x, y: attend(x, y), lambda x, y: attend(x, y, scale=0.51), REFUTED, PAIR),
    Case("gelu by tanh", lambda x: F.gelu(x), lambda x: F.gelu(x, approximate="tanh"), REFUTED),
    Case("eps outside", lambda x: x / (squares(x) + 1e-5).sqrt(), lambda x: x / (squares(x).sqrt() + 1e-5), REFUTED),
    Case("biased", lambda x: x.std(-1), lambda x: x.std(-1, unbiased=False), REFUTED),
    Case("remainders", lambda x: (x + 30) % 2, lambda x: torch.fmod(x + 30, 2), WRONG),
    Case("root of a square", lambda x: (x * x).sqrt(), lambda x: x * 1, REFUTED),
    Case(
        "written twice",
        lambda x: torch.zeros(4).index_put((torch.tensor([1, 1, 2]),), x[0, :3], accumulate=True),
        lambda x: torch.zeros(4).index_put((torch.tensor([1, 1, 2]),), x[0, :3]),
        REFUTED,
    ),
    Case("a constant off by an ulp", lambda x: x * torch.tensor(1.0), lambda x: x * torch.tensor(1.0000001), REFUTED),
    Case("a literal off by an ulp", lambda x: x * 1.0, lambda x: x * 1.0000000000000002, WRONG),
    Case("a weight of zeros dropped", lambda w, x: x + w, lambda w, x: x + 0, WRONG, weights=(torch.zeros(4),)),
    Case("a weight of ones dropped", lambda w, x: x * w, lambda w, x: x * 1, WRONG, weights=(torch.ones(4),)),
    Case("other weights", lambda w, v, x: x @ w @ v, lambda w, v, x: x @ v @ w, REFUTED, weights=(W, V)),
    Case("a threshold off by a hair", lambda x: x.abs(), lambda x: torch.where(x > -1e-9, x, -x), WRONG),
    Case(
        "a mask of a billion",
        lambda x, y: attend(x, y, is_causal=True),
        lambda x, y: (x @ y.T / 2 - 1e9 * ~BELOW).softmax(-1) @ y,
        WRONG,
        PAIR,
    ),
    Case("another number beside", lambda x: (x, 3), lambda x: (x, 4), WRONG),
    Case("one input twice", lambda x, y: x - y, lambda x, y: 0 * x, REFUTED, (X, X)),
    # right
    Case(
        "masked twice by the smallest number",
        lambda x, y: attend(x, y, is_causal=True),
        lambda x, y: (torch.where(BELOW, x @ y.T / 2, LOW) + torch.where(BELOW, 0.0, LOW)).softmax(-1) @ y,
        RIGHT | UNSEEN,
        PAIR,
    ),
    Case(
        "places from a plain number",
        lambda x: x.gather(-1, (torch.arange(12.0).view(3, 4) / torch.tensor(4.0)).long()),
        lambda x: x.gather(-1, (torch.arange(12.0).view(3, 4) * torch.tensor(0.25)).floor().long()),
        RIGHT,
    ),
    Case("relu6", lambda x: F.relu6(x), lambda x: x.clamp(0, 6), RIGHT),
    Case("clamped both ways", lambda x: x.clamp(-1, 1), lambda x: x.clamp(max=1).clamp(min=-1), UNSEEN),
    Case("distributed", lambda w, b, x, y: F.linear(x + y, w, b), lambda w, b, x, y: x @ w.T + F.linear(y, w, b), RIGHT, PAIR, (W, B)),
    Case("associated", lambda w, v, x: (x @ w) @ v, lambda w, v, x: x @ (w @ v), RIGHT, weights=(W, V)),
    Case("head by head", lambda w, v, x: x @ w @ v, lambda w, v, x: x @ w[:, :2] @ v[:2] + x @ w[:, 2:] @ v[2:], RIGHT, weights=(W, V)),
    Case("shifted", lambda x: x.softmax(-1), lambda x: (x - x.amax(-1, keepdim=True)).softmax(-1), RIGHT),
    Case("softmax by exp", lambda x: x.softmax(-1), lambda x: x.exp() / x.exp().sum(-1, keepdim=True), UNSEEN),
    Case("log softmax", lambda x: x.log_softmax(-1), lambda x: x - x.logsumexp(-1, keepdim=True), RIGHT),
    Case("sigmoid by tanh", lambda x: x.sigmoid(), lambda x: 0.5 * (1 + torch.tanh(x / 2)), RIGHT),
    Case("sigmoid by exp", lambda x: x.sigmoid(), lambda x: 1 / (1 + (-x).exp()), UNSEEN),
    Case("gelu by erf", lambda x: F.gelu(x), lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)), UNSEEN),
    Case("relu scaled", lambda x: (3 * x).relu(), lambda x: 3 * x.relu(), UNSEEN),
    Case("abs of a product", lambda x, y: (x * y).abs(), lambda x, y: x.abs() * y.abs(), RIGHT, PAIR),
    Case("larger and smaller", lambda x, y: torch.maximum(x, y) + torch.minimum(x, y), lambda x, y: x + y, RIGHT, PAIR),
    Case("largest of three", lambda x: x.amax(-1), lambda x: x.max(-1).values, UNSEEN),
    Case(
        "layer norm by moments",
        lambda x: F.layer_norm(x, (4,)),
        lambda x: (x - x.mean(-1, True)) * (squares(x) - x.mean(-1, True) ** 2 + 1e-5).rsqrt(),
        RIGHT,
    ),
    Case("layer norm shifted", lambda x: F.layer_norm(x, (4,)), lambda x: F.layer_norm(x + 3, (4,)), RIGHT),
    Case("exp of a sum", lambda x, y: (x + y).exp(), lambda x, y: x.exp() * y.exp(), UNSEEN, PAIR),
    Case("sine and cosine", lambda x: x.sin() ** 2 + x.cos() ** 2, lambda x: torch.ones_like(x), UNSEEN),
    Case("softplus", lambda x: F.softplus(x), lambda x: x.exp().log1p(), UNSEEN),
    Case("a third", lambda x: x / 3, lambda x: x * (1 / 3), UNSEEN),
    Case("variance by moments", lambda x: x.var(-1), lambda x: ((x * x).sum(-1) - x.sum(-1) ** 2 / 4) / 3, RIGHT),
    Case(
        "causal", lambda x, y: attend(x, y, is_causal=True), lambda x, y: torch.where(BELOW, x @ y.T / 2, LOW).softmax(-1) @ y, RIGHT, PAIR
    ),
    Case(
        "nothing to attend to", lambda x: torch.where(torch.zeros(3, 4) > 0, x, LOW).softmax(-1), lambda x: torch.full((3, 4), 0.25), RIGHT
    ),
    Case("rotary", turned, turned_apart, RIGHT),
    Case(
        "linear biases",
        lambda x: (x @ x.T - torch.arange(3.0).flip(0)).softmax(-1),
        lambda x: (x @ x.T + torch.arange(3.0)).softmax(-1),
        RIGHT,
    ),
    Case("not both", lambda x, y: ~((x > 0) & (y > 0)), lambda x, y: (x <= 0) | (y <= 0), RIGHT, PAIR),
    Case("sorted after shuffling", lambda x: x.sort(-1).values, lambda x: x.flip(-1).sort(-1).values, UNSEEN),
    Case("lowest of the negatives", lambda x: x.argmax(-1), lambda x: (-x).argmin(-1), UNSEEN),
    Case(
        "one at the largest",
        lambda x: F.one_hot(x.argmax(-1), 4).float(),
        lambda x: torch.zeros(3, 4).scatter(1, x.argmax(-1, True), 1.0),
        RIGHT,
    ),
    Case(
        "ids masked",
        lambda w, ids: w[ids] * (ids != 0)[..., None],
        lambda w, ids: w[ids].masked_fill((ids == 0)[..., None], 0),
        RIGHT,
        (IDS,),
        (W,),
    ),
    Case(
        "ids all zero", lambda w, ids: w[torch.zeros_like(ids)], lambda w, ids: w[torch.zeros(1, 3, dtype=torch.long)], UNSEEN, (IDS,), (W,)
    ),
    # odd shapes and types
    Case("one number", lambda x: x.sum(), lambda x: x.sum(0).sum(), RIGHT),
    Case("no numbers", lambda x: x * 2, lambda x: x + x, RIGHT, (torch.zeros(0, 3),)),
    Case("one of one", lambda x: x.softmax(-1), lambda x: torch.ones_like(x), RIGHT, (normal(1, 1),)),
    Case("without a dimension", lambda x: x.cumsum(0), lambda x: x * 1, RIGHT, (torch.tensor(3.0),)),
    Case("halves of numbers", lambda x: x * 2, lambda x: x + x, RIGHT, (X.bfloat16(),)),
    Case("positions", lambda x: x.argmax(-1), lambda x: x.argmax(-1), RIGHT),
    Case("a nest of outputs", lambda x: [x, (x, {"k": x * 2})], lambda x: [x * 1, (x, {"k": x + x})], RIGHT),
    Case("a batch of none", lambda w, x: F.conv1d(x, w), lambda w, x: F.conv1d(x, w), RIGHT, (torch.zeros(0, 4, 5),), (normal(2, 4, 3),)),
)


def parameters() -> Iterator[Any]:
    """The table as pytest has it: what the verifier is known to get wrong is expected to fail."""
    for case in (*CASES, *HOLES):
        yield pytest.param(case, id=case.name, marks=[pytest.mark.xfail(strict=True, reason=case.hole)] if case.hole else [])


@pytest.mark.parametrize("case", parameters())
def test_the_verdict_is_one_of_those_allowed(case: Case) -> None:
    report = equivalence(case.program(case.a), case.program(case.b), seed=0)
    assert report.verdict.value.lower() in case.allowed, str(report)


@split
def bent(y: Tensor, *, d: Tensor) -> Terms:
    """Not the value where it is large."""
    return Terms(y + torch.relu(y - 60) * d, rest=y * 0)


class Residual(nn.Module):
    """One part that a pass can be put at."""

    def __init__(self) -> None:
        super().__init__()
        self.part = One(lambda x: x * 2, (), ())

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) + x


def test_constants_of_one_name_and_other_numbers_are_told_apart() -> None:
    program = trace(Residual().eval(), X, dynamic=False)
    one, other = (program.apply(bent.at("part", d=torch.full((4,), number))) for number in (1.0, 2.0))
    assert equivalence(one, other, seed=0).verdict.value.lower() in WRONG

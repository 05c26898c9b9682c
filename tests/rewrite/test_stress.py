"""Odd models and odd orders: an edit, a gate or a path gives what the same change made by hand gives, whatever came before it."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from passes import direction, gates, heads, neurons, paths, surrogate
from rewrite import Program, Terms, load, split, trace
from rewrite.errors import PassError, SiteError, TautomerError
from tests.models import gpt2
from verify.liveness import liveness

WIDTH = 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return model().eval()


class MLP(nn.Module):
    """Linear, ReLU, linear: modules `up`, `down`."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Half(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


class Stream(nn.Module):
    """A residual stream with one MLP, halved, and a readout: modules `mlp`, `mid`, `out`."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.mid, self.out = MLP(), Half(), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.mid(x + self.mlp(x)))


@pytest.fixture(scope="module")
def stream() -> tuple[Any, Tensor, Program]:
    """(model, input, program)"""
    model, x = seeded(Stream), draw(2, WIDTH, seed=1)
    return model, x, trace(model, x)


@pytest.fixture(scope="module")
def small_gpt2() -> tuple[Any, dict[str, Any], Program]:
    """(model, example, program)"""
    model, example = gpt2()
    return model, example, trace(model, **example)


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------------ odd models


class Plus(nn.Module):
    """`linear(x) + expand(b)`, which is no linear op with a bias when the shapes are these."""

    def __init__(self, out: int, size: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.weight, self.bias, self.shape = nn.Parameter(torch.randn(out, WIDTH, dtype=dtype)), nn.Parameter(torch.randn(size)), shape

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + self.bias.expand(self.shape)


PLUS = {
    "one row": (lambda: Plus(3, 3, (5, 3)), (WIDTH,)),
    "a new axis": (lambda: Plus(3, 3, (2, 2, 3)), (2, WIDTH)),
    "one column": (lambda: Plus(1, 5, (2, 5)), (2, WIDTH)),
    "two dtypes": (lambda: Plus(3, 3, (2, 3), torch.bfloat16), (2, WIDTH)),
}


@pytest.mark.parametrize("name", PLUS)
def test_a_sum_with_an_expanded_vector(name: str) -> None:
    make, shape = PLUS[name]
    model = seeded(make)
    x = draw(*shape, seed=1).to(model.weight.dtype)  # type: ignore[arg-type]
    with torch.no_grad():
        found, wanted = trace(model, x, dynamic=False)(x), model(x)
    assert found.shape == wanted.shape
    close(found, wanted)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.lin(a) * 2 + b * b


class OneForTwo(nn.Module):
    """Gives one tensor for two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = Mixed()

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x, x)


@pytest.mark.parametrize("argument", ["a", "b"])
def test_one_tensor_given_for_two_arguments(argument: str) -> None:
    model: Any = seeded(OneForTwo)
    x = draw(2, WIDTH)
    with torch.no_grad(), pytest.raises(SiteError, match="the same tensor as mix@in:"):
        trace(model, x).run({}, x, edit={f"mix@in:{argument}": 0.0})


class TwiceOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.lin(x)
        return y, y


def test_one_tensor_returned_twice() -> None:
    model, x = seeded(TwiceOut), draw(2, WIDTH)
    with torch.no_grad(), pytest.raises(SiteError, match="the same tensor as :1"):
        trace(model, x).run({}, x, edit={":0": 0.0})


class Doubled(nn.Module):
    """Returns a value that depends on a parameter alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, self.weight * 2


def test_writing_to_an_output_changes_no_later_run() -> None:
    model, x = seeded(Doubled), draw(2, WIDTH)
    program = trace(model, x)
    with torch.no_grad():
        program(x)[1].zero_()
        close(program(x)[1], model(x)[1])


class EditArgument(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)

    def forward(self, edit_0: Tensor) -> Tensor:
        return self.lin(edit_0)


def test_an_argument_called_like_an_edit() -> None:
    model, x = seeded(EditArgument), draw(2, WIDTH)
    with torch.no_grad():
        found, _ = trace(model, x).run({}, x, edit={"lin": 0.0})
    close(found, torch.zeros(2, WIDTH))


def test_a_recurrent_model_is_saved(tmp_path: Path) -> None:
    model, x = seeded(lambda: nn.Sequential(nn.LSTM(WIDTH, WIDTH, batch_first=True))), draw(2, 3, WIDTH)
    program = trace(model, x)
    program.save(tmp_path / "lstm")
    with torch.no_grad():
        close(load(tmp_path / "lstm")(x)[0], model(x)[0])


# ------------------------------------------------------------------------------------------------ odd models, edited everywhere


class Twice(nn.Module):
    """Calls one module three times."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin(torch.relu(self.lin(self.lin(x))))


class Inner(nn.Module):
    """Returns a value twice, nothing, and its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, None, Tensor]:
        y = self.lin(x)
        return y, y, None, x


class Tuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = Inner(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, unused: Tensor | None = None) -> dict[str, Any]:
        a, b, none, c = self.inner(x)
        return {"out": self.out(a) + 2 * b + 3 * c, "none": none, "x": x, "scalar": a.sum(), "again": x}


class Named(nn.Module):
    """Modules called like ops, in dicts, with dashes, dots and digits."""

    def __init__(self) -> None:
        super().__init__()
        names = ["a-b", "1", "add", "relu", "x#2", "s/t", "z[0]", "*", "a b", "self", "p:q", "@in"]
        self.d = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names})
        self.input, self.output, self.graph = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.d.values():
            x = module(x)
        return self.graph(self.output(self.input(x)))


class Tied(nn.Module):
    """A module under two names, and a weight of two modules."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.b, self.c.weight = self.a, self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x)))


class Identities(nn.Module):
    """Modules that hand on what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.drop, self.none, self.lin = nn.Identity(), nn.Dropout(), nn.Sequential(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.lin(self.none(self.drop(self.one(x)))) + 7 * x, self.one(x)


class Fixed(nn.Module):
    """Returns parameters and buffers themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.weight = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(3))
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("lost", torch.randn(3), persistent=False)

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        return self.lin(x), self.weight, self.kept, self.lost


class Ids(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, WIDTH)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed(ids), ids + 1


def norm_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)).to(dtype)


ODD: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "one module three times": (Twice, lambda: draw(2, WIDTH)),
    "tuples and dicts": (Tuples, lambda: draw(2, WIDTH)),
    "names": (Named, lambda: draw(2, WIDTH)),
    "tied": (Tied, lambda: draw(2, WIDTH)),
    "identities": (Identities, lambda: draw(2, WIDTH)),
    "fixed outputs": (Fixed, lambda: draw(2, WIDTH)),
    "ids alone": (Ids, lambda: torch.tensor([[1, 2, 0]])),
    "strides": (norm_model, lambda: draw(WIDTH, 2).t()),
    "expanded": (norm_model, lambda: draw(1, WIDTH).expand(3, WIDTH)),
    "no rows": (norm_model, lambda: draw(0, WIDTH)),
    "one axis": (norm_model, lambda: draw(WIDTH)),
    "float64": (lambda: norm_model(torch.float64), lambda: draw(2, WIDTH).double()),
    "bfloat16": (lambda: norm_model(torch.bfloat16), lambda: draw(2, WIDTH).bfloat16()),
}


def changed(y: Tensor) -> Tensor:
    return 0.5 * y + 1 if y.is_floating_point() else y


def leaves(value: Any) -> list[Any]:
    return pytree.tree_leaves(value)


def by_hook(model: nn.Module, x: Tensor, path: str, call: int, before: bool) -> Any:
    """The model's output with the first input, or the (first) output, of one call of a module changed."""
    calls = 0

    def enter(_: nn.Module, args: tuple[Any, ...]) -> Any:
        nonlocal calls
        calls += 1
        return (changed(args[0]), *args[1:]) if before and calls == call else None

    def leave(_: nn.Module, args: Any, result: Any) -> Any:
        if before or calls != call:
            return None
        return (changed(result[0]), *result[1:]) if isinstance(result, tuple) else changed(result)

    module = model.get_submodule(path)
    handles = [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with torch.no_grad():
            return model(x)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", ODD)
def test_odd_models_edited_at_every_module(name: str, tmp_path: Path) -> None:
    make, given = ODD[name]
    model, x = seeded(make), given()
    program = trace(model, x)
    program.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved")
    with torch.no_grad():
        assert_same(program(x), model(x))
        assert_same(loaded(x), model(x))
    for path, _ in model.named_modules():
        for call in (1, 2, 3):
            for before in (True, False):
                address = path + (f"#{call}" if call > 1 else "") + ("@in" if before else "")
                if path and address in program.sites_by_address:
                    with torch.no_grad():
                        found, _ = (loaded if before else program).run({}, x, edit={address: changed})
                    assert_same(found, by_hook(model, x, path, call, before))


def assert_same(found: Any, wanted: Any) -> None:
    for one, other in zip(leaves(found), leaves(wanted), strict=True):
        if one is None:
            assert other is None
        else:
            torch.testing.assert_close(one, other, atol=1e-5, rtol=2e-2 if one.dtype == torch.bfloat16 else 1e-4)


# ------------------------------------------------------------------------------------------------ orders


def gated_paths(stream: tuple[Any, Tensor, Program], at: str, late: bool) -> tuple[Tensor, Tensor]:
    """(found, wanted) with a path of a direction closed and `at` gated at a half, the gate made before or after the path."""
    model, x, program = stream
    d, path = draw(WIDTH, seed=2), "mlp/direction -> out@in"
    split_first, on_path, gated = direction.at("mlp", d=d), [paths.at(path), gates.at(path)], gates.at(at)
    rewritten = program.apply(split_first, *([*on_path, gated] if late else [gated, *on_path]))
    rewritten.gates[path].g = 0.0
    rewritten.gates[at].g = 0.5
    with torch.no_grad():
        y = model.mlp(x)
        rest = y - (y @ d)[:, None] * d / (d @ d)
        without = x + rest if at == "mlp/direction" else 0.5 * (x + rest)
        return rewritten(x), model.out(model.mid(without))


def test_a_gate_on_the_way_of_a_path_comes_first(stream: Any) -> None:
    with pytest.raises(PassError, match="Apply this first, then the path"):
        gated_paths(stream, "mid@in", late=True)


@pytest.mark.parametrize(("at", "late"), [("mlp/direction", False), ("mlp/direction", True), ("mid@in", False)])
def test_a_path_and_a_gate_on_its_way_in_either_order(stream: Any, at: str, late: bool) -> None:
    close(*gated_paths(stream, at, late))


def test_a_term_and_its_path_edited_together(stream: Any) -> None:
    model, x, program = stream
    d, path = draw(WIDTH, seed=2), "mlp/direction -> out@in"
    rewritten = program.apply(direction.at("mlp", d=d), paths.at(path))
    with torch.no_grad():
        y = model.mlp(x)
        found, _ = rewritten.run({}, x, edit={"mlp/direction": 0.0, path: 0.0})
        close(found, model.out(model.mid(x + y - (y @ d)[:, None] * d / (d @ d))))


@pytest.mark.parametrize("late", [False, True])
def test_a_surrogate_and_a_gate_at_the_input_in_either_order(stream: Any, late: bool) -> None:
    model, x, program = stream
    f = seeded(lambda: nn.Linear(WIDTH, WIDTH)).requires_grad_(False)
    in_place, gated = surrogate.at("mlp", f=f), gates.at("mlp@in")
    rewritten = program.apply(*((in_place, gated) if late else (gated, in_place)), gates.at("mlp/surrogate.rest"))
    rewritten.gates["mlp@in"].g = 0.0
    rewritten.gates["mlp/surrogate.rest"].g = 0.0
    with torch.no_grad():
        close(rewritten(x), model.out(model.mid(x + f(torch.zeros_like(x)))))


@pytest.mark.parametrize(("law", "at"), [(heads, "transformer.h.0.attn"), (neurons, "transformer.h.0.mlp")])
def test_an_op_split_twice(small_gpt2: Any, law: Any, at: str) -> None:
    _, example, program = small_gpt2
    try:
        twice = program.apply(law.at(at, name="one"), law.at(at, name="two"))
    except TautomerError:
        return
    with torch.no_grad():
        edited, _ = twice.run(example, edit={f"{at}/two[0]": 0.0})
        moved = not torch.allclose(edited.logits, program(**example).logits)
    assert liveness(twice, [f"{at}/two[0]"])[0].alive == moved
    assert moved


def test_the_path_of_a_term_inside_a_term_is_alive(stream: Any) -> None:
    _, x, program = stream
    path = "mlp/one/two -> out@in"
    rewritten = program.apply(
        direction.at("mlp", d=draw(WIDTH, seed=2), name="one"), direction.at("mlp/one", d=draw(WIDTH, seed=3), name="two"), paths.at(path)
    )
    with torch.no_grad():
        assert not torch.allclose(rewritten.run({}, x, edit={path: 0.0})[0], program(x))
    assert liveness(rewritten, [path], seed=0)[0].alive


class Two(nn.Module):
    """Two halving modules; `both` also returns what is between them."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.first, self.second, self.both = MLP(), MLP(), both

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.first(x)
        return (self.second(y), y) if self.both else (self.second(y),)


@pytest.mark.parametrize("both", [True, False])
def test_an_output_stays_what_it_is_when_its_readers_input_is_gated(both: bool) -> None:
    model: Any = seeded(lambda: Two(both))
    x = draw(2, WIDTH)
    program = trace(model, x).apply(gates.at("second@in"))
    program.gates["second@in"].g = 0.0
    with torch.no_grad():
        close(program.values(["first"], x)["first"], model.first(x))


@pytest.mark.parametrize("both", [True, False])
def test_an_output_is_patched_before_its_reader_loses_a_direction(both: bool) -> None:
    model: Any = seeded(lambda: Two(both))
    x, d, patch = draw(2, WIDTH), draw(WIDTH, seed=2), draw(2, WIDTH, seed=3)
    program = trace(model, x).apply(direction.at("second@in", d=d))
    with torch.no_grad():
        found, _ = program.run({}, x, edit={"first": patch, "second@in/direction": 0.0})
        close(found[0], model.second(patch - (patch @ d)[:, None] * d / (d @ d)))


@split
def by_length(y: Tensor) -> Terms:
    """Terms that depend on a size."""
    return Terms(y / 2, rest=y / 2) if y.shape[1] == 7 else Terms(y / 4, rest=y * 0.75)


def test_applying_a_pass_leaves_the_program_as_it_was(tmp_path: Path) -> None:
    model, example = gpt2()
    program = trace(model, **example)
    shape = str(program.nodes["input_ids"].meta["val"].shape)
    with suppress(TautomerError):
        program.apply(by_length.at("transformer.h.0.mlp"))
    assert str(program.nodes["input_ids"].meta["val"].shape) == shape
    program.save(tmp_path / "gpt2")
    load(tmp_path / "gpt2")(example["input_ids"][:, :5])


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x.masked_fill(x > 0, -torch.inf)).softmax(-1)


def test_a_gate_on_a_masked_value_is_refused_or_right() -> None:
    x = torch.tensor([[-1.0, 1.0, -2.0]])
    program = trace(seeded(Masked), x)
    with suppress(TautomerError):
        program = program.apply(gates.at("scores"))
        program.gates["scores"].g = 0.0
    assert not program(x).isnan().any()


# ------------------------------------------------------------------------------------------------ members and misuse


@pytest.fixture(scope="module")
def split_heads(small_gpt2: Any) -> tuple[dict[str, Any], Program]:
    _, example, program = small_gpt2
    return example, program.apply(heads.at("transformer.h.0.attn"), gates.at("transformer.h.0.attn/head", "transformer.h.0.mlp"))


HEAD = "transformer.h.0.attn/head"


def test_a_member_is_read_after_its_edit(split_heads: Any) -> None:
    example, program = split_heads
    with torch.no_grad():
        _, read = program.run(example, edit={f"{HEAD}[1]": 0.0}, read=[f"{HEAD}[1]"])
    assert not read[f"{HEAD}[1]"].any()


def test_several_members_are_edited_as_they_are_read(split_heads: Any) -> None:
    example, program = split_heads
    value, two = torch.ones(2, 7, 32), f"{HEAD}[0,1]"
    with torch.no_grad():
        before = program.values([HEAD, two], **example)
        _, read = program.run(example, edit={two: value}, read=[HEAD])
    close(read[HEAD], before[HEAD] - before[two] + value)


def test_a_member_named_twice_counts_once(split_heads: Any) -> None:
    example, program = split_heads
    with torch.no_grad():
        found = program.values([f"{HEAD}[0,0]", f"{HEAD}[0]"], **example)
    close(found[f"{HEAD}[0,0]"], found[f"{HEAD}[0]"])


@pytest.mark.parametrize(
    "address", [f"{HEAD}[2:2]", f"{HEAD}[2:2]@act", f"{HEAD}[0:4:0]", f"{HEAD}[-]", f"{HEAD}@[-]", f"{HEAD}@[5]", f"{HEAD}@[0,0,0,0]"]
)
def test_addresses_that_pick_nothing(split_heads: Any, address: str) -> None:
    example, program = split_heads
    with pytest.raises(TautomerError):
        program.values([address], **example)


@pytest.mark.parametrize("value", [None, "zero", [0.0] * 32, 1j, lambda y: None])
def test_edits_that_are_no_values(split_heads: Any, value: Any) -> None:
    example, program = split_heads
    with pytest.raises(TautomerError):
        program.run(example, edit={"transformer.h.1.mlp": value})


@pytest.mark.parametrize(
    ("address", "value"),
    [
        ("transformer.h.0.mlp", torch.ones(5)),
        ("transformer.h.0.mlp", torch.ones(3, 2, 7, 32)),
        ("transformer.h.0.mlp", None),
        (f"{HEAD}[0:2]", torch.ones(3)),
    ],
)
def test_numbers_that_do_not_fit_a_gate(split_heads: Any, address: str, value: Any) -> None:
    example, program = split_heads
    gate = program.gates[address]

    def set_and_run() -> None:
        gate.g = value
        program(**example)

    try:
        with pytest.raises(TautomerError):
            set_and_run()
    finally:
        gate.g = 1.0


@pytest.mark.parametrize("bound", [direction.at("mlp", d=["one"] * WIDTH), direction.at("mlp", d=3.0), paths.at("mlp -> mlp")])
def test_passes_bound_to_what_they_cannot_use(stream: Any, bound: Any) -> None:
    with pytest.raises(TautomerError):
        stream[2].apply(bound)

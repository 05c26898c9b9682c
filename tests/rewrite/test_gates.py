"""Gates: numbers that are set, not code that is traced again."""

import pytest
import torch

from passes import direction, gates, heads
from rewrite import InputError, SiteError

TERM, FAMILY = "transformer.h.0.mlp/t", "transformer.h.0.attn/head"


@pytest.fixture
def gated(traced):
    model, example, program = traced("gpt2")
    passes = (direction.at("transformer.h.0.mlp", d=torch.ones(32), name="t"), heads.at("transformer.h.0.attn"), gates.at(TERM, FAMILY))
    return model, example, program.apply(*passes)


def test_open_gates_change_nothing(gated) -> None:
    model, example, program = gated
    torch.testing.assert_close(program(**example).logits, model(**example).logits)
    assert all(gate.open for gate in program.gates.values())
    program.gates[TERM].r = 1e6 * torch.ones(32)
    torch.testing.assert_close(program(**example).logits, model(**example).logits)


def test_steering_adds_a_reference(gated) -> None:
    _, example, program = gated
    r = torch.randn(32)
    program.gates[TERM].r, program.gates[TERM].h = r, 0.5
    expected = program.origin.run(example, edit={"transformer.h.0.mlp": lambda y: y + 0.5 * r})[0].logits
    torch.testing.assert_close(program(**example).logits, expected)


def test_patching_puts_a_reference_in_place(gated) -> None:
    _, example, program = gated
    other = {"input_ids": example["input_ids"].flip(0)}
    reference = program.values(TERM, **other)[TERM].detach()
    program.gates[TERM].g, program.gates[TERM].h, program.gates[TERM].r = 0, 1, reference
    torch.testing.assert_close(program.values(TERM, **example)[TERM], reference)


def test_members_are_entries_of_their_familys_gate(gated) -> None:
    _, example, program = gated
    program.gates[f"{FAMILY}[1]"].g = 0
    assert program.gates[FAMILY].g.tolist() == [1, 0, 1, 1]
    closed = program(**example).logits
    program.gates[FAMILY].reset()
    torch.testing.assert_close(closed, program.run(example, edit={f"{FAMILY}[1]": 0.0})[0].logits)
    program.gates[f"{FAMILY}[0,2]"].g = torch.tensor([0.5, 0.25])
    assert program.gates[FAMILY].g.tolist() == [0.5, 1, 0.25, 1]


def test_gradients_flow_to_gates(gated) -> None:
    _, example, program = gated
    g = torch.ones(4, requires_grad=True)
    program.gates[FAMILY].g = g
    program(**example).logits.square().sum().backward()
    assert g.grad is not None
    assert torch.count_nonzero(g.grad) == 4


@pytest.mark.parametrize(
    ("address", "which", "value", "error", "message"),
    [
        (TERM, "g", float("inf"), InputError, r"expected finite numbers, got inf or nan"),
        (TERM, "r", torch.ones(32).double(), InputError, r"expected torch\.float32, got torch\.float64"),
        (FAMILY, "g", torch.ones(3), InputError, r"expected one number or 4, one per member, got shape \[3\]"),
        (f"{FAMILY}[1]", "r", 1.0, InputError, r"expected the reference of the whole family, got one for a member"),
        (f"{FAMILY}[7]", "g", 0.0, SiteError, r"expected a member from 0 to 3, got 7"),
        (
            "transformer.h.0.mlp/tt",
            "g",
            0.0,
            SiteError,
            r"no gate at 'transformer\.h\.0\.mlp/tt' among 2\. Nearest: 'transformer\.h\.0\.mlp/t'",
        ),
        ("transformer.h.1.mlp", "g", 0.0, SiteError, r"no gate at 'transformer\.h\.1\.mlp' among 2\."),
    ],
)
def test_what_cannot_be_set(gated, address: str, which: str, value, error: type[Exception], message: str) -> None:
    _, _, program = gated
    with pytest.raises(error, match=message):
        setattr(program.gates[address], which, value)


def test_gates_of_one_run_leave_the_programs_own_alone(gated) -> None:
    _, example, program = gated
    closed = program.run(example, gates={f"{FAMILY}[1]": 0.0})[0].logits
    torch.testing.assert_close(closed, program.run(example, edit={f"{FAMILY}[1]": 0.0})[0].logits)
    assert all(gate.open for gate in program.gates.values())
    r = torch.randn(32)
    steered = program.run(example, gates={TERM: {"h": 0.5, "r": r}})[0].logits
    torch.testing.assert_close(steered, program.origin.run(example, edit={"transformer.h.0.mlp": lambda y: y + 0.5 * r})[0].logits)
    with pytest.raises(InputError, match=r"gate 'transformer\.h\.0\.mlp/t': expected values of g, h or r, got one of 'gg'"):
        program.run(example, gates={TERM: {"gg": 0.0}})


def test_a_gate_for_each_example(gated) -> None:
    _, example, program = gated
    batch = len(example["input_ids"])
    g = torch.ones(batch, 1, 4)
    g[0, 0, 2] = 0
    mixed = program.run(example, gates={FAMILY: g, TERM: torch.ones(batch, 1, 1)})[0].logits
    torch.testing.assert_close(mixed[0], program.run(example, gates={f"{FAMILY}[2]": 0.0})[0].logits[0])
    torch.testing.assert_close(mixed[1:], program(**example).logits[1:])


def test_gradients_for_each_example_and_member(gated) -> None:
    _, example, program = gated
    g = torch.ones(len(example["input_ids"]), 1, 4, requires_grad=True)
    logits = program.run(example, gates={FAMILY: g})[0].logits
    (slopes,) = torch.autograd.grad(logits[0].square().sum(), g)
    assert torch.count_nonzero(slopes[0]) == 4
    assert torch.count_nonzero(slopes[1:]) == 0


def test_gates_for_each_example_are_saved_and_reset(gated, tmp_path) -> None:
    from rewrite import load

    _, example, program = gated
    g = torch.rand(len(example["input_ids"]), 1, 4)
    program.gates[FAMILY].g = g
    program.save(tmp_path / "p")
    torch.testing.assert_close(load(tmp_path / "p")(**example).logits, program(**example).logits)
    assert torch.equal(program.gates[f"{FAMILY}[1]"].g, g[..., [1]])
    program.gates[FAMILY].reset()
    assert program.gates[FAMILY].open

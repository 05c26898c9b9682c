"""Recurrent ops, written out step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from verify.algebra import Algebra
from verify.rules.elementwise import sigmoid
from verify.rules.movement import moved
from verify.rules.ring import linear
from verify.rules.table import Table
from verify.value import Field, Value

aten = torch.ops.aten
State = tuple[Field, ...]
Cell = Callable[[Algebra, Field, Field, State], State]  # (of the input, of the state, state) -> the next state, output first


def tanh(a: Algebra, x: Value) -> Field:
    """tanh x."""
    return a.oracle("tanh", x, odd=True)


def parts(x: Field, count: int) -> list[Field]:
    """x cut along its last axis into equal parts."""
    size = x.shape[-1] // count
    return [x.each(lambda t, i=i: t.narrow(-1, i * size, size)) for i in range(count)]


def lstm_step(a: Algebra, x: Field, h: Field, state: State) -> State:
    """c' = f c + i g, h' = o tanh c'."""
    i, f, g, o = parts(a.add(x, h), 4)
    cell = a.add(a.mul(sigmoid(a, f), state[1]), a.mul(sigmoid(a, i), tanh(a, g)))
    return a.mul(sigmoid(a, o), tanh(a, cell)), cell


def gru_step(a: Algebra, x: Field, h: Field, state: State) -> State:
    """n = tanh(x_n + r h_n), h' = n + z (h - n)."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = parts(x, 3), parts(h, 3)
    n = tanh(a, a.add(x_n, a.mul(sigmoid(a, a.add(x_r, h_r)), h_n)))
    return (a.add(n, a.mul(sigmoid(a, a.add(x_z, h_z)), a.sub(state[0], n))),)


def simple_step(function: Callable[[Algebra, Value], Field]) -> Cell:
    """h' = f(x + h)."""
    return lambda a, x, h, state: (function(a, a.add(x, h)),)


def run(
    a: Algebra, cell: Cell, x: Value, first: Sequence[Value], params: Sequence[Value], has_biases: bool, layers: int, dropout: float,
    train: bool, bidirectional: bool, batch_first: bool,
) -> tuple[Field, ...]:  # fmt: skip
    """The outputs at each step, then the last state of every layer and direction, stacked."""
    if dropout and train:
        a.refuse("dropout between layers")
    ways, each = 1 + bidirectional, 4 if has_biases else 2
    if len(params) != layers * ways * each:
        a.refuse("a projection of the state")
    sequence = a.field(x)
    sequence = sequence.each(lambda t: t.transpose(0, 1)) if batch_first and len(sequence.shape) == 3 else sequence
    start = [a.field(v) for v in first]
    last: list[State] = []
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            k = layer * ways + way
            w_in, w_state, *biases = params[k * each : (k + 1) * each]
            read = linear(a, sequence, w_in, biases[0] if biases else None)
            state: State = tuple(v.each(lambda t, k=k: t[k]) for v in start)
            steps = range(sequence.shape[0])
            found: dict[int, Field] = {}
            for step in reversed(steps) if way else steps:
                gates = linear(a, state[0], w_state, biases[1] if biases else None)
                state = cell(a, read.each(lambda t, step=step: t[step]), gates, state)
                found[step] = state[0]
            outputs.append(moved(a, torch.stack, [found[step] for step in steps]))
            last.append(state)
        sequence = outputs[0] if ways == 1 else moved(a, torch.cat, outputs, -1)
    result = sequence.each(lambda t: t.transpose(0, 1)) if batch_first and len(sequence.shape) == 3 else sequence
    return (result, *(moved(a, torch.stack, list(states)) for states in zip(*last, strict=True)))


def lstm(a: Algebra, x: Value, first: Sequence[Value], params: Sequence[Value], *how: Any) -> tuple[Field, ...]:
    """aten.lstm.input."""
    return run(a, lstm_step, x, first, params, *how)


def of_one_state(cell: Cell) -> Callable[..., tuple[Field, ...]]:
    """The rule of gru.input, rnn_tanh.input, rnn_relu.input."""
    return lambda a, x, first, params, *how: run(a, cell, x, [first], params, *how)


def one_step(cell: Cell) -> Callable[..., Any]:
    """The rule of a cell: one step of a layer."""

    def rule(a: Algebra, x: Value, state: Any, w_in: Value, w_state: Value, b_in: Value = None, b_state: Value = None) -> Any:
        before = [a.field(v) for v in (state if isinstance(state, (list, tuple)) else [state])]
        after = cell(a, linear(a, x, w_in, b_in), linear(a, before[0], w_state, b_state), tuple(before))
        return after[0] if len(after) == 1 else after

    return rule


SIMPLE = {"rnn_tanh": simple_step(tanh), "rnn_relu": simple_step(lambda a, x: a.positive(x))}

TABLE: Table = {
    aten.lstm.input: lstm,
    aten.gru.input: of_one_state(gru_step),
    **{getattr(aten, name).input: of_one_state(cell) for name, cell in SIMPLE.items()},
    **{getattr(aten, f"{name}_cell").default: one_step(cell) for name, cell in SIMPLE.items()},
    aten.lstm_cell.default: one_step(lstm_step),
    aten.gru_cell.default: one_step(gru_step),
}

"""Capturing: from a plain PyTorch function and the shapes of its inputs to a functional ATen graph.

Shapes stay symbolic (the program's own symbols), in-place writes become functional, tensors that the function merely closes over
become named constants: nothing is baked.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from rewrite.errors import PassError

aten = torch.ops.aten
READINGS = (aten.item.default, aten._local_scalar_dense.default)
NO_OPS = (aten.lift_fresh_copy.default, aten.lift_fresh.default)


@dataclass(frozen=True, eq=False)
class Captured:
    """A functional graph: `inputs` placeholders in calling order, then one placeholder per constant; flat tensor outputs."""

    graph: fx.Graph
    inputs: tuple[fx.Node, ...]
    constants: dict[fx.Node, Tensor] = field(default_factory=dict)
    guards: tuple[str, ...] = ()  # relations between shapes that the function branched on

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The flat outputs: nodes, or None."""
        return tuple(self.graph.output_node().args[0])  # type: ignore[arg-type]


@contextmanager
def quiet_log() -> Iterator[None]:
    """Keeps torch from logging a traceback for every op that does not fit: the error says it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def capture(function: Callable[..., Sequence[Any]], values: Sequence[Any], mode: FakeTensorMode, what: str) -> Captured:
    """The graph of `function(*values)`, where `values` are fake tensors of `mode` (or numbers, kept as they are).

    Raises: PassError when the function does something that has no functional graph; `what` names it in the message.
    """
    functional = dispatch_functionalize(lambda *given: list(function(*given)), FunctionalTensorMode(pre_dispatch=True, export=True))
    with mode:  # one object given twice would be one input: the last
        values = [v.detach() if isinstance(v, Tensor) and any(v is u for u in values[:i]) else v for i, v in enumerate(values)]
    environment = mode.shape_env
    before = len(environment.guards) if environment is not None else 0
    sizes = dict(environment.replacements) if environment is not None else {}
    ranges = dict(environment.var_to_range) if environment is not None else {}
    try:
        with warnings.catch_warnings(), quiet_log(), torch.no_grad():
            warnings.simplefilter("ignore")
            module = make_fx(functional, tracing_mode="symbolic", pre_dispatch=True, _allow_non_fake_inputs=True)(*values)
    except PassError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        raise PassError(f"{what}: expected a function of its tensors' values that torch can capture, got {reason}") from error
    if environment is not None and dict(environment.replacements) != sizes:
        found = _unfix(environment, sizes, ranges, before)
        raise PassError(
            f"{what}: expected a function for all sizes, got one that fixes {found}. Ask no sizes, or trace with dynamic=False."
        )
    read = [node for node in module.graph.nodes if node.target in READINGS]
    if read:
        raise PassError(f"{what}: expected a function of its tensors' values that torch can capture, got one that calls .item().")
    guards = tuple(str(guard.expr) for guard in environment.guards[before:]) if environment is not None else ()
    return _tidy(module, what, guards)


def _unfix(environment: ShapeEnv, sizes: Mapping[Any, Any], ranges: Mapping[Any, Any], guards: int) -> str:
    """What a function fixed of the sizes, after taking it back: the program that it is applied to shares them."""
    fixed = {name: size for name, size in environment.replacements.items() if sizes.get(name) != size}
    for table, old in ((environment.replacements, sizes), (environment.var_to_range, ranges)):
        table.clear()
        table.update(old)
    del environment.guards[guards:]
    environment._replacements_version_counter += 1  # sizes remember what they were replaced by
    environment._update_version_counter()
    return ", ".join(f"{name} = {size}" for name, size in fixed.items())


def _tidy(module: fx.GraphModule, what: str, guards: tuple[str, ...]) -> Captured:
    graph = module.graph
    inputs = tuple(node for node in graph.nodes if node.op == "placeholder")
    constants: dict[fx.Node, Tensor] = {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = getattr(module, str(node.target))
            if isinstance(value, FakeTensor) or not isinstance(value, Tensor):
                raise PassError(f"{what}: expected constants that are real tensors, got {type(value).__name__}. Pass it as an argument.")
            with graph.inserting_before(graph.find_nodes(op="placeholder")[-1].next if inputs else next(iter(graph.nodes))):
                constant = graph.placeholder(f"constant_{len(constants)}")
            constant.meta["val"] = node.meta.get("val", value)
            constants[constant] = value
            _merge(graph, node, constant)
        elif node.op == "call_function":
            _check(node, what)
            if node.target in NO_OPS:
                _merge(graph, node, node.args[0])
            elif node.target is aten.view.default:
                node.target = aten.reshape.default  # strides seen here need not be those of a later run
    _drop_dead(graph)
    return Captured(graph, inputs, constants, guards)


def _check(node: fx.Node, what: str) -> None:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        if target._schema.is_mutable:
            raise PassError(f"{what}: expected functional ops, got {target}. Write it without changing a tensor in place.")
        if torch.Tag.nondeterministic_seeded in target.tags:
            raise PassError(f"{what}: expected a deterministic function, got {target}. Draw random numbers outside and pass them in.")
    elif getattr(target, "__module__", "") not in ("_operator", "math", "torch", "torch.sym_ops") or "grad_enabled" in str(target):
        raise PassError(f"{what}: expected ATen ops, got {target}. Gradient modes and custom calls cannot be captured.")


def _merge(graph: fx.Graph, node: fx.Node, into: Any) -> None:
    node.replace_all_uses_with(into)
    graph.erase_node(node)


def _drop_dead(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)


def fake_mode(graph: fx.Graph) -> FakeTensorMode:
    """The fake tensor mode that a program's shapes live in."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            return value.fake_mode
    raise PassError("program: expected shapes on its nodes, got none. Trace or load it again.")


def value_key(value: Any) -> tuple[Any, ...]:
    """What a captured graph depends on of one input: its symbolic shape and strides, dtype and device."""
    if not isinstance(value, Tensor):
        return (str(value),)
    key = value.__dict__.get("_tautomer_key")  # printing symbols is slow, and a fake value is asked about again and again
    if key is None:
        key = (str(tuple(value.shape)), str(value.stride()), value.dtype, str(value.device))
        value._tautomer_key = key  # type: ignore[attr-defined]
    return key

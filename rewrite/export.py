"""Exporting: a program for tools that know nothing of us, as a `.pt2` that plain torch runs, or as a torch.fx module."""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymIntArgument,
    TensorArgument,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_flatten

from rewrite.call import bind
from rewrite.capture import fake_mode
from rewrite.errors import FileError, PassError
from rewrite.program import Program
from rewrite.records import GateRecord, Leaf
from rewrite.run import prune
from rewrite.save import write_whole
from rewrite.trees import plain_spec

aten = torch.ops.aten
GATES = "gates.json"


@dataclass
class Lifted:
    """A program's live graph with its leaves, and gates as (buffer of g, buffer of h * r) by address."""

    graph: fx.Graph
    leaves: dict[str, Leaf]
    tensors: dict[str, Tensor]
    gates: dict[str, dict[str, str]] = field(default_factory=dict)


def lifted(program: Program) -> Lifted:
    """What the outputs need, every input kept, with each gate as two buffers: the factor, and the reference that is added."""
    inputs = [program.nodes[name] for name, leaf in program.leaves.items() if leaf.kind == "input"]
    graph, originals = prune(program.graph, program.outputs, keep=inputs)
    made = Lifted(graph, {node.name: program.leaves[node.name] for node in originals}, dict(program.tensors))
    for address, record in program.gate_records.items():
        _name_gate(program, made, address, record)
    return made


def _name_gate(program: Program, made: Lifted, address: str, record: GateRecord) -> None:
    """Turns the leaves of a gate into `gate__...` and `ref__...`: h and r, which only occur as their product, become one buffer."""
    node_of = {leaf.name: name for name, leaf in made.leaves.items()}
    if record.g not in node_of:
        return
    nodes = {node.name: node for node in made.graph.nodes}
    taken = {leaf.name for leaf in made.leaves.values()}
    safe = re.sub(r"[^0-9A-Za-z]", "_", address)
    factor, added = (_unused(f"{kind}__{safe}", taken) for kind in ("gate", "ref"))
    product = _product(nodes[node_of[record.h]], nodes[node_of[record.r]])
    with made.graph.inserting_before(nodes[node_of[record.h]]):
        reference = made.graph.placeholder(_unused(re.sub(r"\W", "_", added), set(nodes)))
    reference.target, reference.meta = reference.name, dict(product.meta)
    value = _evaluate(product, {node_of[record.h]: program.tensors[record.h], node_of[record.r]: program.tensors[record.r]})
    reference.meta["val"] = fake_mode(program.graph).from_tensor(value, static_shapes=True)
    product.replace_all_uses_with(reference)
    for name in (record.h, record.r):
        _erase_back(made.graph, nodes[node_of[name]])
        del made.leaves[node_of[name]]
    gate = nodes[node_of[record.g]]  # it may have been set to a tensor of another shape
    gate.meta = {**gate.meta, "val": fake_mode(program.graph).from_tensor(program.tensors[record.g].detach(), static_shapes=True)}
    made.leaves[gate.name] = Leaf("gate", factor)
    made.leaves[reference.name] = Leaf("gate", added)
    made.tensors |= {factor: program.tensors[record.g].detach().clone(), added: value.detach()}  # to be set without setting ours
    made.gates[address] = {"g": factor, "r": added}


def _product(h: fx.Node, r: fx.Node) -> fx.Node:
    """The node h * r, where h may have been reshaped to meet the members' axis."""
    reached = {h}
    for node in h.graph.nodes:
        if node.target is aten.mul.Tensor and r in node.args and any(arg in reached for arg in node.args):
            return node
        if node.target in (aten.reshape.default, aten.view.default, aten.unsqueeze.default) and node.args[0] in reached:
            reached.add(node)
    raise PassError("export: expected gates of the form g * t + h * r, got another one. Use the pass gates.")


def _evaluate(node: Any, values: dict[str, Tensor]) -> Any:
    if isinstance(node, list | tuple):
        return type(node)(_evaluate(item, values) for item in node)
    if not isinstance(node, fx.Node):
        return node
    if node.name in values:
        return values[node.name]
    with torch.no_grad():
        return node.target(*_evaluate(node.args, values), **node.kwargs)  # type: ignore[operator]


def _erase_back(graph: fx.Graph, leaf: fx.Node) -> None:
    """Erases a placeholder and what is computed from it alone, all of it unread."""
    for user in list(leaf.users):
        _erase_back(graph, user)
    graph.erase_node(leaf)


def _unused(name: str, taken: set[str]) -> str:
    number, found = 1, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found


# ---------------------------------------------------------------------------------------------------------------- .pt2


def export(program: Program, path: str | os.PathLike[str], *, gates: Literal["buffers", "inputs"] = "buffers") -> None:
    """Writes a `.pt2`: outputs are plain dicts and tuples, gates are named buffers at their values (or inputs), listed in `gates.json`.

    Raises: FileError if the file cannot be written, PassError for gates that have no place in it.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise FileError(f"export to {target}: expected a name that ends in .pt2, got {target.name!r}. torch opens no other.")
    if gates not in ("buffers", "inputs"):
        raise PassError(f"export: expected gates='buffers' or 'inputs', got {gates!r}.")
    made = lifted(program)
    exported = exported_program(program, made, gates)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_whole(target, lambda partial: _write(exported, partial, {GATES: json.dumps(made.gates)}))
    except (OSError, RuntimeError) as error:  # torch's writer tells of a full disk by the latter
        text = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise FileError(f"export to {target}: expected a place to write to, got: {text}. Choose another one.") from None


def _write(exported: ExportedProgram, path: Path, extra: dict[str, str]) -> None:
    with path.open("wb") as file:  # given a path, torch names the archive's root after it
        torch.export.save(exported, file, extra_files=extra)


def exported_program(program: Program, made: Lifted, gates: str) -> ExportedProgram:
    """The program as torch.export's own type, tensors by reference."""
    specs, state, constants = _input_specs(made, gates)
    outputs = [OutputSpec(OutputKind.USER_OUTPUT, _argument(value), None) for value in made.graph.output_node().args[0]]  # type: ignore[union-attr]
    in_spec = program.calling.in_spec
    args, kwargs = program.example
    copies = _copies(program, made)
    if copies:
        kwargs = {**kwargs, **copies}
        in_spec = tree_flatten((args, kwargs))[1]
    if gates == "inputs":
        kwargs = {**kwargs, **{leaf.name: made.tensors[leaf.name] for leaf in made.leaves.values() if leaf.kind == "gate"}}
        _move_gates_behind_inputs(made)
        specs, state, constants = _input_specs(made, gates)
        in_spec = tree_flatten((args, kwargs))[1]
    signature = ModuleCallSignature(
        inputs=[],
        outputs=[],
        in_spec=in_spec,
        out_spec=plain_spec(program.calling.out_spec),
        forward_arg_names=list(program.calling.parameters[: len(args)]) + list(kwargs),
    )
    return ExportedProgram(
        root=nn.Module(),
        graph=made.graph,
        graph_signature=ExportGraphSignature(specs, outputs),
        state_dict=state,
        range_constraints=_ranges(program, made.graph),
        module_call_graph=[ModuleCallEntry("", signature)],
        example_inputs=(args, kwargs),
        constants=constants,
    )


def _copies(program: Program, made: Lifted) -> dict[str, Any]:
    """The copies of inputs as arguments of their own, `input_ids__name`, at the example's values."""
    values = bind(program, *program.example)
    taken = {leaf.name for leaf in made.leaves.values()} | set(program.calling.parameters)
    return {
        _unused(re.sub(r"\W", "_", leaf.name.replace("@", "__")), taken): values[node]
        for node, leaf in program.leaves.items()
        if leaf.copy_of
    }


def _move_gates_behind_inputs(made: Lifted) -> None:
    """Makes gate placeholders the last inputs."""
    nodes = {node.name: node for node in made.graph.nodes}
    last = [node for node in made.graph.nodes if node.op == "placeholder"][-1]
    for name in [name for name, leaf in made.leaves.items() if leaf.kind == "gate"]:
        last.append(nodes[name])
        last = nodes[name]


def _input_specs(made: Lifted, gates: str) -> tuple[list[InputSpec], dict[str, Tensor], dict[str, Any]]:
    specs: list[InputSpec] = []
    state: dict[str, Tensor] = {}
    constants: dict[str, Any] = {}
    for node in made.graph.nodes:
        if node.op != "placeholder":
            continue
        leaf = made.leaves[node.name]
        tensor = made.tensors.get(leaf.name)
        if leaf.kind == "input" or (leaf.kind == "gate" and gates == "inputs"):
            specs.append(InputSpec(InputKind.USER_INPUT, _argument(node), None))
        elif leaf.kind == "parameter":
            specs.append(InputSpec(InputKind.PARAMETER, TensorArgument(node.name), leaf.name))
            state[leaf.name] = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)  # type: ignore[arg-type]
        elif leaf.kind == "constant":
            name = _unused(re.sub(r"\W", "_", leaf.name), set(constants))
            specs.append(InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), name))
            constants[name] = tensor.detach()  # type: ignore[union-attr]
        else:
            persistent = leaf.kind == "gate" or leaf.persistent
            specs.append(InputSpec(InputKind.BUFFER, TensorArgument(node.name), leaf.name, persistent))
            (state if persistent else constants)[leaf.name] = made.tensors[leaf.name]
    return specs, state, constants


def _argument(value: Any) -> Any:
    if not isinstance(value, fx.Node):
        return ConstantArgument(name="", value=value)
    like = value.meta.get("val")
    if isinstance(like, Tensor):
        return TensorArgument(value.name)
    return SymIntArgument(value.name) if isinstance(like, torch.SymInt) else ConstantArgument(name=value.name, value=like)


def _ranges(program: Program, graph: fx.Graph) -> dict[Any, Any]:
    environment = fake_mode(program.graph).shape_env
    found: dict[Any, Any] = {}
    for node in graph.nodes:
        like = node.meta.get("val")
        if node.op == "placeholder" and isinstance(like, Tensor) and isinstance(environment, ShapeEnv):
            symbols = [symbol for size in like.shape if isinstance(size, torch.SymInt) for symbol in size.node.expr.free_symbols]
            found.update({symbol: environment.var_to_range[symbol] for symbol in symbols})
    return found


# ---------------------------------------------------------------------------------------------------------------- torch.fx


def to_graph_module(program: Program) -> fx.GraphModule:
    """The program as a torch.fx module: flat inputs and outputs, tensors as attributes (gates as `gate__...` and `ref__...` buffers)."""
    made = lifted(program)
    root, graph, image = nn.Module(), fx.Graph(), {}
    names = set(dir(root))
    for node in made.graph.nodes:
        leaf = made.leaves.get(node.name)
        if node.op == "placeholder" and leaf is not None and leaf.kind != "input":
            name = _unused(re.sub(r"\W", "_", leaf.name), names)
            names.add(name)
            tensor = made.tensors[leaf.name]
            root.register_parameter(name, tensor) if isinstance(tensor, nn.Parameter) else root.register_buffer(name, tensor)
            image[node] = graph.get_attr(name)
        elif node.op != "output":
            image[node] = graph.node_copy(node, lambda n: image[n])
    graph.output(fx.map_arg(made.graph.output_node().args[0], lambda n: image[n]))
    return fx.GraphModule(root, graph)

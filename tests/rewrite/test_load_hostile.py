"""Graphs that nobody should run: a clear error, nothing executed, no memory or time eaten."""

import copy
import os
from pathlib import Path

import pytest
import torch

from rewrite import FileError
from rewrite.allowed import ATEN, op
from tests.models import WIDTH
from tests.rewrite.spoiling import Change, Record, appended, first, node, record_of, ref, refused, spoilt, write

OPS = [
    "os.system",
    "builtins.eval",
    "aten.relu_.default",
    "aten.add_.Tensor",
    "aten.add.out",
    "aten.copy_.default",
    "aten.rand.default",
    "aten.bernoulli.default",
    "aten.randn_like.default",
    "aten.from_file.default",
    "aten.set_.source_Tensor",
    "aten._reshape_alias.default",
    "prims.add.default",
    "operator.attrgetter",
    "operator.methodcaller",
    "operator.setitem",
    "torch.load",
    "torch.sym_constrain_range",
    "aten.add.__class__",
    "aten.__class__.default",
    "aten.no_such_op.default",
    "aten.add.NoSuchOverload",
    "aten.add",
    "",
    "a" * 10**6,
]


@pytest.mark.parametrize("name", OPS, ids=lambda name: name[:40])
def test_ops_outside_the_list(folder: Path, name: str) -> None:
    record = record_of(folder)
    first(record)["op"] = name
    write(folder, record)
    refused(folder, r"op '.*': expected (an op of ATen|an op of the allow-list|an overload|a functional)")


def test_no_op_of_the_list_writes_or_draws() -> None:
    for base in ATEN:
        for overload in getattr(torch.ops.aten, base).overloads() if hasattr(torch.ops.aten, base) else ():
            try:
                found = op(f"aten.{base}.{overload}")
            except FileError:
                continue
            assert not found._schema.is_mutable
            assert not any(argument.alias_info and argument.alias_info.is_write for argument in found._schema.arguments)


def powers(sign: str) -> list[Record]:
    """A number that squares itself forty times."""
    start = node("n0", "operator.mul", 2**40, 2**20)
    return [start, *(node(f"n{i}", f"operator.{sign}", ref(f"n{i - 1}"), ref(f"n{i - 1}")) for i in range(1, 40))]


def formula(other: str) -> list[Record]:
    """A size whose formula is multiplied by another, `f` for itself, forty times."""
    size = [
        node("b", "aten.sym_size.int", ref("x"), 0),
        node("q", "aten.sym_size.int", ref("x"), 1),
        node("f0", "operator.add", ref("b"), ref("q")),
    ]
    for i in range(1, 40):
        size += [node(f"g{i}", "operator.add", ref(f"f{i - 1}"), i), node(f"f{i}", "operator.mul", ref(f"g{i}"), ref(other.format(i - 1)))]
    return size


GRAPHS: dict[str, Change] = {
    "a name twice": (lambda r: r["program"]["graph"]["nodes"].append(copy.deepcopy(first(r))), "a node name of its own"),
    "a name that is code": (lambda r: first(r).update(name="x = __import__('os')"), "a node name of its own"),
    "a keyword as name": (lambda r: first(r).update(name="import"), "a node name of its own"),
    "an argument name that is code": (lambda r: first(r).update(kwargs={"a=print(1), b": 1}), "argument names"),
    "arguments that are no table": (lambda r: first(r).update(kwargs=[1]), "kwargs: expected dict"),
    "a reference to nobody": (lambda r: first(r).update(args=[ref("nobody")]), "a node that comes before"),
    "a reference forward": (lambda r: first(r).update(args=[ref(r["program"]["graph"]["nodes"][-1]["name"])]), "a node that comes before"),
    "a cycle": (lambda r: first(r).update(args=[ref(first(r)["name"])]), "a node that comes before"),
    "a reference that is no name": (lambda r: first(r).update(args=[{"node": ["x"]}]), "a node that comes before"),
    "an unknown literal": (lambda r: first(r).update(args=[{"pickle": "gASV"}]), "a literal or a tagged value"),
    "a literal of two tags": (lambda r: first(r).update(args=[{"float": "inf", "node": "x"}]), "a literal or a tagged value"),
    "a float that is code": (lambda r: first(r).update(args=[{"float": "exit()"}]), "a literal or a tagged value"),
    "another device": (lambda r: first(r).update(args=[{"device": "cuda"}]), "a literal or a tagged value"),
    "a huge number": (lambda r: first(r).update(args=[10**400]), "numbers up to 2\\^40"),
    "a placeholder after ops": (lambda r: r["program"]["graph"]["nodes"].append({"name": "late", "scope": 0}), "placeholders before ops"),
    "placeholders in another order": (
        lambda r: r["program"]["graph"]["nodes"].insert(0, r["program"]["graph"]["nodes"].pop(1)),
        "in the order of the leaves",
    ),
    "leaves in another order": (lambda r: r["program"]["leaves"].reverse(), "leaves in the order parameter, buffer"),
    "a leaf too few": (lambda r: r["program"]["leaves"].pop(0), "a leaf for each placeholder"),
    "a leaf name twice": (
        lambda r: r["program"]["leaves"][1].__setitem__(2, r["program"]["leaves"][0][2]),
        "leaves with names of their own",
    ),
    "a scope that is not there": (lambda r: first(r).update(scope=10**6), "a known scope"),
    "an op that does not fit": (lambda r: first(r, "aten.linear").update(args=[ref("x"), ref("x")]), "arguments that fit its op"),
    "an output too many": (lambda r: r["program"]["graph"]["outputs"].append(ref("x")), "as many inputs and outputs"),
    "pieces of a tensor": (appended(node("p", "operator.getitem", ref("x"), 0)), "one piece of a result"),
    "text as a number": (appended(node("t", "operator.mul", "a", 2**40)), "arithmetic on numbers"),
    "text as a format": (appended(node("t", "operator.mod", "%99999999999d", 1)), "arithmetic on numbers"),
    "lists as numbers": (appended(node("t", "operator.mul", [1], 2**40)), "arithmetic on numbers"),
    "a tower of powers": (appended(node("t", "operator.pow", 2**40, 2**40)), "an exponent of 0 to 8"),
    "numbers that square": (appended(*powers("mul")), "numbers up to 2\\^63"),
    "numbers that add up": (appended(*powers("add")), "numbers up to 2\\^63"),
    "a formula that squares": (appended(*formula("f{}")), "sizes of at most 256 operations|numbers up to 2\\^63"),
    "a formula that grows": (appended(*formula("q")), "sizes of at most 256 operations|numbers up to 2\\^63"),
    "a giant constant": (appended(node("g", "aten.full.default", [2**40, 2**20], 1.0)), "at most 64 dimensions and 2\\^48 elements"),
    "a giant dimension": (appended(node("g", "aten.full.default", [2**41], 1.0)), "numbers up to 2\\^40|sizes of 0 to 2\\^40"),
    "many dimensions": (appended(node("g", "aten.full.default", [1] * 1000, 1.0)), "at most 64 dimensions"),
    "many pieces": (appended(node("g", "aten.full.default", [2**40], 1.0), node("u", "aten.unbind.int", ref("g"))), "at most 65536 pieces"),
    "many small pieces": (
        appended(node("g", "aten.full.default", [2**40], 1.0), node("u", "aten.split.Tensor", ref("g"), 1)),
        "at most 65536 pieces",
    ),
    "a long loop": (
        appended(node("g", "aten.full.default", [2**40], 1.0), node("u", "aten.diff.default", ref("g"), 2**40)),
        "at most 65536 pieces",
    ),
    "attention with dropout": (
        appended(node("u", "aten.scaled_dot_product_attention.default", ref("x"), ref("x"), ref("x"), None, 0.5)),
        "expected a deterministic op",
    ),
    "a size that is fixed": (
        appended(node("z", "aten.full.default", [2, 7, WIDTH], 1.0), node("c", "aten.cat.default", [ref("z"), ref("x")], 2)),
        "ops that leave the size 's\\d+' free",
    ),
    "text as nodes": (lambda r: r["program"]["graph"].update(nodes=["x"]), "expected a field 'name'"),
    "no graph": (lambda r: r["program"].pop("graph"), "expected a field 'graph'"),
    "the origin is spoilt": (lambda r: r["origin"]["graph"]["nodes"][-1].update(op="os.system"), "expected an op of the allow-list"),
    "a claim's graph is spoilt": (
        lambda r: r["program"]["claim_graphs"][0]["nodes"][-1].update(op="os.system"),
        "expected an op of the allow-list",
    ),
}


@pytest.mark.parametrize("what", GRAPHS)
def test_spoilt_graphs(folder: Path, what: str) -> None:
    spoilt(folder, GRAPHS[what])


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "program.json").unlink()
    os.mkfifo(folder / "program.json")
    refused(folder, "expected a folder with program.json, got none that can be read")


def test_a_device_is_not_read(folder: Path) -> None:
    (folder / "program.json").unlink()
    (folder / "program.json").symlink_to("/dev/zero")
    refused(folder, "expected a folder with program.json, got none that can be read")


def test_steps_need_the_origin_that_they_started_from(folder: Path) -> None:
    record = record_of(folder)
    assert record["program"]["steps"]
    record["origin"] = None
    write(folder, record)
    refused(folder, "expected the origin of a program of 3 steps, got")

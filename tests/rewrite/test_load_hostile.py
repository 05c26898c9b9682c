"""Broken and hostile folders: a clear error, nothing executed, no memory or time eaten."""

import copy
import hashlib
import json
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from passes import direction, gates, neurons
from rewrite import FileError, load, trace
from rewrite.allowed import ATEN, op
from tests.models import WIDTH, mlp
from tests.passes.checking import draw

Record = dict[str, Any]
BOMB = "__import__('os').system('touch {}')"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that loads: an MLP with a direction, a family, a gate and claims."""
    model, example = mlp()
    program = trace(model, **example).apply(neurons.at("down"), direction.at("act", d=draw(48, seed=1)), gates.at("down/neuron"))
    folder = tmp_path_factory.mktemp("good")
    program.save(folder)
    assert load(folder).claims
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be spoilt."""
    for file in good.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def record_of(folder: Path) -> Record:
    """What is in program.json."""
    return json.loads((folder / "program.json").read_text())


def write(folder: Path, record: Any) -> None:
    """Replaces program.json."""
    (folder / "program.json").write_text(json.dumps(record))


def put_weights(folder: Path, content: bytes) -> None:
    """Replaces the weights file, hash and name included: what somebody does who wants it to be believed."""
    digest = hashlib.sha256(content).hexdigest()
    record = record_of(folder)
    (folder / record["weights"]["file"]).unlink()
    record["weights"] |= {"file": f"model-{digest[:8]}.safetensors", "sha256": digest}
    (folder / record["weights"]["file"]).write_bytes(content)
    write(folder, record)


def first(record: Record, op_prefix: str = "aten.") -> Record:
    """The first node of that op."""
    return next(node for node in record["program"]["graph"]["nodes"] if node.get("op", "").startswith(op_prefix))


def refused(folder: Path, message: str) -> None:
    """Loading says so."""
    with pytest.raises(FileError, match=message) as caught:
        load(folder)
    assert len(str(caught.value)) < 1500


# ---------------------------------------------------------------------------------------------------------------- the graph

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
    refused(folder, r"op '.*': expected (an op of the allow-list|an overload|a functional)")


def test_no_op_of_the_list_writes_or_draws() -> None:
    for base in ATEN:
        for overload in getattr(torch.ops.aten, base).overloads() if hasattr(torch.ops.aten, base) else ():
            try:
                found = op(f"aten.{base}.{overload}")
            except FileError:
                continue
            assert not found._schema.is_mutable
            assert not any(argument.alias_info and argument.alias_info.is_write for argument in found._schema.arguments)


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def node(name: str, op_name: str, *args: Any, **kwargs: Any) -> Record:
    """A node's JSON form."""
    return {"name": name, "op": op_name, "args": list(args), "kwargs": kwargs, "scope": 0}


def ref(name: str) -> Record:
    """A reference to a node."""
    return {"node": name}


def appended(*nodes: Record) -> Callable[[Record], None]:
    """The change that puts nodes at the end of the program."""
    return lambda r: r["program"]["graph"]["nodes"].extend(nodes)


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


GRAPHS: dict[str, tuple[Callable[[Record], None], str]] = {
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
    change, message = GRAPHS[what]
    record = record_of(folder)
    change(record)
    write(folder, record)
    refused(folder, message)


# ---------------------------------------------------------------------------------------------------------------- sizes and tables


def input_value(record: Record) -> Record:
    """What program.json says of the first input."""
    return next(n for n in record["program"]["graph"]["nodes"] if n["name"] == "x")["value"]


TABLES: dict[str, tuple[Callable[[Record], None], str]] = {
    "a size that is code": (lambda r: input_value(r)["shape"].__setitem__(0, BOMB.format("x")), "sizes that are numbers, names"),
    "a size that is a sum of code": (
        lambda r: input_value(r)["shape"].__setitem__(0, {"+": [BOMB.format("x"), 1]}),
        "sizes that are numbers, names",
    ),
    "a size that is a power": (lambda r: input_value(r)["shape"].__setitem__(0, {"**": [9, 9]}), "sizes that are numbers, names"),
    "a size divided by zero": (lambda r: input_value(r)["shape"].__setitem__(0, {"//": [9, 0]}), "sizes that are numbers, names"),
    "a size that is huge": (lambda r: input_value(r).update(shape=[2**60]), "sizes of 0 to 2\\^40"),
    "a size that is negative": (lambda r: input_value(r).update(shape=[-1]), "sizes of 0 to 2\\^40"),
    "a size that is true": (lambda r: input_value(r).update(shape=[True]), "sizes that are numbers, names"),
    "sizes that multiply": (lambda r: input_value(r).update(shape=[2**30, 2**30]), "2\\^48 elements"),
    "a dtype that is something else": (lambda r: input_value(r).update(dtype="load"), "a known dtype"),
    "a name of a size that is code": (lambda r: r["sizes"].update({BOMB: [2, 2, None]}), "named sizes as"),
    "a size out of its range": (lambda r: r["sizes"].update(s1=[1, 2, None]), "in its range"),
    "a size of a huge value": (lambda r: r["sizes"].update(s1=[2**62, 2, None]), "in its range"),
    "sizes that are no table": (lambda r: r.update(sizes=[]), "named sizes"),
    "no sizes": (lambda r: r.pop("sizes"), "named sizes"),
    "another format": (lambda r: r.update(format=99), "expected format 1, got 99"),
    "a weights file elsewhere": (lambda r: r["weights"].update(file="../model-00000000.safetensors"), "in the same folder"),
    "a weights file at the root": (lambda r: r["weights"].update(file="/etc/passwd"), "in the same folder"),
    "a weights file of another name": (lambda r: r["weights"].update(file="model-00000000.safetensors"), "in the same folder"),
    "a tensor of another shape": (
        lambda r: r["weights"]["tensors"]["up.weight"].update(shape=[2**30, 2**30]),
        "expected float32 \\[1073741824, 1073741824\\]",
    ),
    "a tensor of another dtype": (lambda r: r["weights"]["tensors"]["up.weight"].update(dtype="int64"), "expected int64"),
    "strides beyond the memory": (
        lambda r: r["weights"]["tensors"]["up.weight"].update(stride=[2**40, 2**40]),
        "the strides of a dense tensor",
    ),
    "strides that overlap": (lambda r: r["weights"]["tensors"]["up.weight"].update(stride=[1, 1]), "the strides of a dense tensor"),
    "a tensor that is not listed": (lambda r: r["weights"]["tensors"].pop("up.weight"), "the tensors that program.json lists"),
    "a tensor that is not there": (
        lambda r: r["weights"]["tensors"].update(more={"dtype": "float32", "shape": []}),
        "the tensors that program.json lists",
    ),
    "a leaf without its tensor": (
        lambda r: r["program"]["tensors"].update({"up.weight": "nobody"}),
        "the name of a tensor in the weights file",
    ),
    "a leaf with another tensor": (lambda r: r["program"]["tensors"].update({"up.weight": "up.bias"}), "arguments that fit its op"),
    "an example of another shape": (lambda r: r.update(example=[{"tuple": []}]), "a tree of values"),
    "an example of other arguments": (lambda r: r.update(example={"list": [{"tuple": []}, {"dict": []}]}), "inputs that fit"),
    "an example without end": (lambda r: r.update(example=nested(60)), "a tree of values"),
    "an output of another class": (
        lambda r: r["calling"].update(outputs={"class": "os:system", "dict": [["a", "*"], ["b", "*"]]}),
        "as many inputs and outputs",
    ),
    "an output that is code": (lambda r: r["calling"].update(outputs=BOMB), "a tree of tuples, lists and dicts"),
    "inputs that are a list": (lambda r: r["calling"].update(inputs={"list": ["*"]}), "arguments by name"),
    "parameters that are numbers": (lambda r: r["calling"].update(parameters=[1]), "a list of strings"),
    "a site nowhere": (lambda r: r["program"]["sites"][0].__setitem__(1, "nobody"), "sites as"),
    "a site twice": (lambda r: r["program"]["sites"].append(r["program"]["sites"][0]), "sites as"),
    "a site of another kind": (lambda r: r["program"]["sites"][0].__setitem__(2, "door"), "sites as"),
    "a family of nobody": (lambda r: r["program"]["families"][0].update(total="nobody"), "that exist"),
    "a family of another size": (lambda r: r["program"]["families"][0].update(size=3), "that exist"),
    "a family over another equation": (lambda r: r["program"]["families"][0].update(equation="ab,cd->ef"), "that exist"),
    "a family of another operand": (lambda r: r["program"]["families"][0].update(act=7), "that exist"),
    "a family with lists in lists": (lambda r: r["program"]["families"][0].update(operands=[["x"]]), "operands: expected texts"),
    "a family with more fields": (lambda r: r["program"]["families"][0].update(__class__="os"), "the fields"),
    "a split of nobody": (lambda r: r["program"]["splits"][0].update(whole="nobody"), "that exist"),
    "a gate of nobody": (lambda r: r["program"]["gates"][0].update(g="nobody"), "that exist"),
    "a gate that is a list": (lambda r: r["program"]["gates"][0].update(g=["x"]), "g: expected text"),
    "a step of numbers": (lambda r: r["program"]["steps"][0].update(arguments={"a": 1}), "table of texts"),
    "a claim about nobody": (lambda r: r["program"]["claims"][0].update(bindings={"a": ["node", "nobody"]}), "that exist"),
    "a claim of another graph": (lambda r: r["program"]["claims"][0].update(graph=99), "terms that exist"),
    "a claim that reads nothing there is": (lambda r: r["program"]["claims"][0].update(reads=["nobody"]), "terms that exist"),
    "a claim with other bindings": (lambda r: r["program"]["claims"][0]["bindings"].update(more=["node", "x"]), "values of the shapes"),
    "a claim graph for nobody": (lambda r: r["program"]["claim_graphs"].append(r["program"]["claim_graphs"][0]), "that a claim speaks of"),
    "a claim of one side": (lambda r: r["program"]["claim_graphs"][0]["outputs"].pop(), "the two sides of an equation"),
}


@pytest.mark.parametrize("what", TABLES)
def test_spoilt_tables(folder: Path, what: str) -> None:
    change, message = TABLES[what]
    record = record_of(folder)
    change(record)
    write(folder, record)
    refused(folder, message)


# ---------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": ' + b"9" * 10_000 + b"}", b"12"])
def test_other_files_as_program_json(folder: Path, content: bytes) -> None:
    (folder / "program.json").write_bytes(content)
    refused(folder, "program.json.*: expected")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_truncated_files(folder: Path, part: float) -> None:
    (weights,) = folder.glob("model-*")
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(len(whole) * part)])
    refused(folder, "expected the content that program.json names")
    put_weights(folder, whole[: int(len(whole) * part)])
    refused(folder, "expected a safetensors file, got something else")
    put_weights(folder, whole)
    assert load(folder).claims
    text = (folder / "program.json").read_text()
    (folder / "program.json").write_text(text[: int(len(text) * part)])
    refused(folder, "expected JSON")


def test_missing_files(folder: Path) -> None:
    (weights,) = folder.glob("model-*")
    weights.unlink()
    refused(folder, "expected the weights file that program.json names, got none")
    (folder / "program.json").unlink()
    refused(folder, "expected a folder with program.json, got none")
    refused(folder / "nowhere", "expected a folder with program.json, got none")


class Payload:
    """Runs something when it is unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_pickle_under_a_safetensors_name_is_not_opened(folder: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    for content in (pickle.dumps(Payload(proof)), b"\x80\x02" + b"x" * 100):
        put_weights(folder, content)
        refused(folder, "expected a safetensors file, got something else")
    saved = folder / "saved.pt"
    torch.save({"up.weight": Payload(proof)}, saved)
    put_weights(folder, saved.read_bytes())
    refused(folder, "expected a safetensors file, got something else")
    assert not proof.exists()


def test_a_header_that_promises_more_than_there_is(folder: Path) -> None:
    header = json.dumps({"up.weight": {"dtype": "F32", "shape": [2**30, 2**30], "data_offsets": [0, 2**62]}}).encode()
    for content in (struct.pack("<Q", len(header)) + header, struct.pack("<Q", 2**63) + header, struct.pack("<Q", 0)):
        put_weights(folder, content)
        refused(folder, "expected a safetensors file|the tensors that program.json lists")


def test_code_in_any_text_is_not_executed(good: Path, tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    text = (good / "program.json").read_text()
    code = BOMB.format(proof)
    for file in good.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for field in ("model", "dynamic", "torch"):
        record = json.loads(text)
        record["header"][field] = code
        write(tmp_path, record)
        load(tmp_path)
    assert not proof.exists()


# ---------------------------------------------------------------------------------------------------------------- anything at all

VALUES = [
    None,
    True,
    -1,
    0,
    2**31,
    2**70,
    1.5,
    "",
    "x",
    "aten.add.Tensor",
    [],
    {},
    [[]],
    {"node": "x"},
    {"tuple": [1]},
    "../x",
    [None, 1, "x", 2],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path to every value in a record."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_change_anywhere_is_an_error_or_another_program(good: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    record = record_of(good)
    for file in good.glob("model-*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for _ in range(chance.choice([1, 1, 2])):
        *before, last = chance.choice(places(record)[1:])
        holder = record
        for key in before:
            holder = holder[key]
        change = chance.randrange(3)
        if change == 0:
            del holder[last]
        elif change == 1:
            holder[last] = copy.deepcopy(chance.choice(VALUES))
        else:
            place = record
            for key in chance.choice(places(record)):
                place = place[key]
            holder[last] = copy.deepcopy(place)
        if not places(record)[1:]:
            break
    write(tmp_path, record)
    try:
        load(tmp_path)
    except FileError as error:
        assert len(str(error)) < 1500

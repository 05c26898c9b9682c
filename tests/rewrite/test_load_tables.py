"""Sizes, tensors, examples and tables that do not fit each other: a clear error for each."""

from pathlib import Path
from typing import Any

import pytest

from tests.rewrite.spoiling import BOMB, Change, Record, spoilt


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def input_value(record: Record) -> Record:
    """What program.json says of the first input."""
    return next(n for n in record["program"]["graph"]["nodes"] if n["name"] == "x")["value"]


TABLES: dict[str, Change] = {
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
    "a claim of a word": (lambda r: r["program"]["claim_graphs"][0]["outputs"].__setitem__(0, "x"), "the two sides of an equation"),
    "a claim of a number": (lambda r: r["program"]["claim_graphs"][0]["outputs"].__setitem__(1, 0), "the two sides of an equation"),
    "a claim of one side": (lambda r: r["program"]["claim_graphs"][0]["outputs"].pop(), "the two sides of an equation"),
}


@pytest.mark.parametrize("what", TABLES)
def test_spoilt_tables(folder: Path, what: str) -> None:
    spoilt(folder, TABLES[what])

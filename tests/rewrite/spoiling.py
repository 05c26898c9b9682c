"""What the tests of broken and hostile folders share: reading, changing and writing the JSON of a saved program."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewrite import FileError, load

Record = dict[str, Any]
Change = tuple[Callable[[Record], Any], str]
BOMB = "__import__('os').system('touch {}')"


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


def spoilt(folder: Path, change: Change) -> None:
    """Makes the change, and expects its message."""
    record = record_of(folder)
    change[0](record)
    write(folder, record)
    refused(folder, change[1])


def node(name: str, op_name: str, *args: Any, **kwargs: Any) -> Record:
    """A node's JSON form."""
    return {"name": name, "op": op_name, "args": list(args), "kwargs": kwargs, "scope": 0}


def ref(name: str) -> Record:
    """A reference to a node."""
    return {"node": name}


def appended(*nodes: Record) -> Callable[[Record], None]:
    """The change that puts nodes at the end of the program."""
    return lambda r: r["program"]["graph"]["nodes"].extend(nodes)

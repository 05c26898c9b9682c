"""The story of `tautomer demo`: a trained model taken apart, proved, switched off part by part, saved and handed on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from analysis.demo.data import CLOSE, OPEN, labels, strings, tokens
from analysis.demo.model import D_MODEL, HEADS, load_balancer
from passes import direction, gates, heads, surrogate
from rewrite import Program, load, trace
from rewrite.weights import Weight
from verify import equivalence

SEED, TEXTS = 2, 2000
LAYER, HEAD, HEAD_SIZE = "blocks.1", 0, D_MODEL // HEADS
FAMILY, TERM, MLP = f"{LAYER}.attn/head", f"{LAYER}.attn/head/paren", "blocks.1.mlp"

FOREIGN = """
import sys, json, torch
files = {"gates.json": ""}
program = torch.export.load(sys.argv[1], extra_files=files)
buffer = json.loads(files["gates.json"])[sys.argv[3]]["g"]
module = program.module()
dict(module.named_buffers())[buffer].zero_()
ids, answers = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    print((module(ids).argmax(-1) == answers).double().mean().item())
"""


def accuracy(run: Callable[[Tensor], Tensor], ids: Tensor, answers: Tensor) -> float:
    """The fraction of strings judged rightly."""
    with torch.no_grad():
        return (run(ids).argmax(-1) == answers).double().mean().item()


def paren_direction(program: Program, ids: Tensor) -> Weight:
    """The direction in which a head writes "(" apart from ")": its value and output maps applied to the difference of their means.

    An expression of the model's weights, so that what is proved about it holds for all weights. Shapes: [d_model].
    """
    read = program.values(f"{LAYER}.ln_1", ids)[f"{LAYER}.ln_1"].detach()
    own = slice(HEAD * HEAD_SIZE, (HEAD + 1) * HEAD_SIZE)
    value, output = program.weight(f"{LAYER}.attn.v.weight")[own], program.weight(f"{LAYER}.attn.o.weight")[:, own]
    return output @ (value @ (read[ids == OPEN].mean(0) - read[ids == CLOSE].mean(0)))


def decompose(program: Program, ids: Tensor) -> Program:
    """The balancer in the parts that the story is about, each behind a gate."""
    return program.apply(
        heads.at("blocks.*.attn"),
        direction.at(FAMILY, d=paren_direction(program, ids), name="paren"),
        surrogate.at(MLP, fit=[{"input_ids": ids}], name="linear"),
        gates.at("blocks.*.attn/head", TERM, f"{TERM}.rest", f"{MLP}/linear", f"{MLP}/linear.rest"),
    )


def switches(program: Program) -> list[str]:
    """What the story switches off, one after the other: terms, and each head."""
    found = []
    for address in program.gates:
        family = program.families.get(address)
        found += [f"{address}[{i}]" for i in range(family.size)] if family else [address]
    return found


def without(program: Program, address: str, ids: Tensor, answers: Tensor) -> float:
    """The accuracy that is left with the gate at `address` closed; the gate is open again afterwards."""
    gate = program.gates[address]
    gate.g = 0.0
    try:
        return accuracy(program, ids, answers)
    finally:
        gate.g = 1.0


def foreign_accuracy(path: Path, address: str, ids: Tensor, answers: Tensor) -> float:
    """The accuracy that a process which imports only torch finds for an exported program with one gate closed."""
    with tempfile.TemporaryDirectory() as folder:
        batch = Path(folder) / "batch.pt"
        torch.save((ids, answers), batch)
        command = [sys.executable, "-W", "ignore", "-c", FOREIGN, str(path), str(batch), address]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise RuntimeError(f"demo: expected the exported program to run in a process of its own, got {done.stderr.strip()[-500:]}.")
    return float(done.stdout)


def tell(say: Callable[[str], None] = print) -> int:
    """Tells the story through `say`; the exit code: 0 if the rewrite was proved and every copy gave the same numbers."""
    texts = strings(TEXTS, SEED)
    ids, answers = tokens(texts), labels(texts)
    model = load_balancer()
    say(f"A parentheses balancer: {sum(p.numel() for p in model.parameters()):,} weights; {len(texts)} strings (seed {SEED}).")
    program = trace(model, ids[:8])
    say(f"Traced {len(program.nodes)} nodes, {len(program.sites_by_address)} sites; accuracy {accuracy(program, ids, answers):.2%}.\n")
    rewritten = decompose(program, ids)
    say(f"Rewritten: heads as families; the direction in which head {HEAD} of {LAYER} writes ( apart from ); a linear fit in an MLP.\n")
    report = equivalence(rewritten)
    say(f"{report}\n")
    say("Accuracy left with one part switched off:")
    left = {address: without(rewritten, address, ids, answers) for address in switches(rewritten)}
    for address, value in left.items():
        say(f"  {address:<34} {value:8.2%}")
    same = _hand_on(rewritten, left, ids, answers, say)
    return 0 if report.proved and same else 1


def _hand_on(program: Program, left: dict[str, float], ids: Tensor, answers: Tensor, say: Callable[[str], None]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        saved, exported = Path(folder) / "balancer", Path(folder) / "balancer.pt2"
        program.save(saved)
        again = load(saved)
        with torch.no_grad():
            bits = torch.equal(again(ids), program(ids))
        say(f"\nSaved and loaded: outputs {'bit-identical' if bits else 'DIFFERENT'}.")
        program.export(exported)
        address = min((a for a in left if "[" not in a), key=left.__getitem__)
        foreign = foreign_accuracy(exported, address, ids, answers)
        say(f"Exported; a fresh process with torch alone closes {address}: {foreign:.2%} ({left[address]:.2%} here).")
    return bits and abs(foreign - left[address]) < 1e-9

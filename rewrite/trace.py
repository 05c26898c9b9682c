"""Tracing: from a PyTorch model to a program.

The model is exported (non-strict) under no_grad with its module boundaries tapped, made functional with an empty decomposition table
(which keeps linear, layer_norm and attention whole), cut back to the model's own outputs, and stripped.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from rewrite import checks, shapes
from rewrite.build import build
from rewrite.errors import TautomerError, TraceError
from rewrite.program import Program
from rewrite.records import Header
from rewrite.shapes import Example
from rewrite.strip import strip
from rewrite.switches import refuse, switched
from rewrite.taps import Recorder, Tap, Tapped



def trace(model: nn.Module, *args: Any, dynamic: bool | dict[str, Any] = True, forward_only: bool = False, **kwargs: Any) -> Program:
    """The program that computes `model(*args, **kwargs)`, checked against it: outputs bit for bit, and one vector-Jacobian product.

    Batch and sequence sizes stay free where the model allows it, else the batch alone, else nothing does: `program.header.dynamic`
    says which. `dynamic=False` fixes all sizes; a dict is a specification as of torch.export's `dynamic_shapes`. `forward_only=True`
    accepts a model whose gradients are lost in tracing, and says so in the header.

    Raises: TraceError, with the reason and a way out, for a model that cannot be traced.
    """
    where = f"trace({type(model).__name__})"
    refuse(model)
    example = (args, kwargs)
    with switched(model, example) as switches:
        traced = _trace(model, example, dynamic, where)
        found, notes = _check(model, traced, forward_only, where)
    header = replace(traced.header, checks=found, switches=switches, notes=(*traced.header.notes, *notes))
    return replace(traced, header=header)


# ---------------------------------------------------------------------------------------------------------------- export


@dataclass(frozen=True)
class Export:
    """A functional export of a tapped model: which sizes are free, and what was tapped."""

    exported: ExportedProgram
    dynamic: str
    taps: tuple[Tap, ...]
    notes: tuple[str, ...] = ()


def _trace(model: nn.Module, example: Example, dynamic: bool | dict[str, Any], where: str) -> Program:
    export = _most_dynamic(model, example, dynamic, inspect.signature(model.forward), where)
    header = Header(type(model).__name__, export.dynamic, {}, notes=export.notes, torch=torch.__version__)
    return build(model, export.exported, export.taps, example, header)


def _most_dynamic(model: nn.Module, example: Example, dynamic: Any, signature: inspect.Signature, where: str) -> Export:
    """The export with the most sizes free that works."""
    if shapes.is_specification(dynamic):
        return _export(model, example, dynamic, "as given")
    wide = shapes.doubled(example) if dynamic else None
    used = wide or example
    notes = ("the example's batch of 1 was repeated to 2 for tracing",) if wide else ()
    for name, specification in shapes.levels(signature, used).items() if dynamic else ():
        try:
            return replace(_export(model, used, specification, name), notes=notes)
        except Exception:  # noqa: BLE001, S112 - torch raises many kinds; the next level, at last the static one, tells
            continue
    try:
        return _export(model, example, None, "static")
    except TautomerError:
        raise
    except Exception as error:
        raise TraceError(f"{where}: {_why(error)}") from error


def _export(model: nn.Module, example: Example, specification: Any, dynamic: str) -> Export:
    recorder = Recorder(model)
    with torch.no_grad(), _quiet():
        exported = torch.export.export(Tapped(model, recorder), *example, dynamic_shapes=specification, strict=False)
        taps = tuple(recorder.taps)
        strip(exported)
        exported = exported.run_decompositions({})
    return Export(exported, dynamic, taps)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what export prints and warns."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _why(error: BaseException) -> str:
    text = " ".join(str(error).strip().split("\n\n")[0].split())[:300]
    return f"expected a forward that torch.export can follow, got {type(error).__name__}: {text}. Rewrite that line."


# ---------------------------------------------------------------------------------------------------------------- checks


def _check(model: nn.Module, program: Program, forward_only: bool, where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the checks found, and notes.

    Raises: TraceError when outputs differ, or gradients do and that was not asked for.
    """
    if checks.is_meta(program.tensors, program.example):
        return {"outputs": "unchecked", "gradients": "unchecked"}, ("tensors on the meta device: nothing could be run",)
    run = checks.runner(program.graph, program.leaves, program.tensors)
    found = {"outputs": checks.outputs(model, run, program.example, where)}
    other = shapes.resized(program.example, program.header.dynamic)
    if other is not None:
        found["outputs at another shape"] = checks.outputs(model, run, other, where)
    found["gradients"], rounding = checks.gradients(model, run, program.example)
    if not rounding and not forward_only:
        raise TraceError(
            f"{where}: expected the model's gradients, got others ({found['gradients']}): its forward has a no_grad region or a custom"
            " autograd function, which tracing loses. Remove it, or trace with forward_only=True."
        )
    return (found, ()) if rounding else ({**found, "gradients": "forward only"}, ("gradients are not the model's own",))

"""Tracing: from a PyTorch model to a program.

The model is exported (non-strict) under no_grad with its module boundaries tapped, made functional with an empty decomposition table
(which keeps linear, layer_norm and attention whole), cut back to the model's own outputs, and stripped.
"""

from __future__ import annotations

import inspect
import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from rewrite import checks, shapes
from rewrite.build import build
from rewrite.errors import TraceError
from rewrite.program import Program
from rewrite.records import Header
from rewrite.shapes import Example
from rewrite.strip import strip
from rewrite.switches import refuse, switched
from rewrite.taps import Recorder, Tapped
from rewrite.weightless import check_buffers, standing_in


def trace(model: nn.Module, *args: Any, dynamic: bool | Mapping[str, Any] = True, forward_only: bool = False, **kwargs: Any) -> Program:
    """The program that computes `model(*args, **kwargs)`, checked against it: outputs bit for bit, and one vector-Jacobian product.

    Batch and sequence sizes stay free where the model allows it, else the batch alone, else nothing does: `program.header.dynamic`
    says which. `dynamic=False` fixes all sizes; a dict is a specification as of torch.export's `dynamic_shapes`. `forward_only=True`
    accepts a model whose gradients are lost in tracing, and says so in the header.

    Raises: TraceError, with the reason and a way out, for a model that cannot be traced.
    """
    where = f"trace({type(model).__name__})"
    refuse(model)
    _check_call(model, args, kwargs, where)
    with switched(model, (args, kwargs)) as switches:
        traced = _most_dynamic(model, (args, kwargs), dynamic, where)
        found, notes = _check(model, traced, forward_only, where)
    header = replace(traced.header, checks=found, switches=switches, notes=(*traced.header.notes, *notes))
    return replace(traced, header=header)


def _check_call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str) -> None:
    """Raises: TraceError for a call that the model's forward does not take."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        takes = ", ".join(signature.parameters)
        way = "Give arguments as in a call of the model, a dict of them as trace(model, **inputs)."
        raise TraceError(f"{where}: expected a call of forward({takes}), got {error}. {way}") from None


def _most_dynamic(model: nn.Module, example: Example, dynamic: bool | Mapping[str, Any], where: str) -> Program:
    """The program with the most sizes free that is right at another shape too."""
    if not isinstance(dynamic, bool):
        return _attempt(model, example, example, dynamic, "as given", where)
    wide = shapes.doubled(example) if dynamic else None
    for name, specification in shapes.levels(inspect.signature(model.forward), wide or example).items() if dynamic else ():
        try:
            program = _attempt(model, example, wide or example, specification, name, where)
        except TraceError as error:
            if not isinstance(error.__cause__, Exception):
                raise  # not a matter of shapes: the static level would say the same
            continue
        checked = _at_another_shape(model, program, wide or example)
        if checked is not None:
            notes = ("the example's batch of 1 was repeated to 2 for tracing",) if wide else ()
            return replace(program, header=replace(program.header, checks=checked, notes=(*notes, *program.header.notes)))
    return _attempt(model, example, example, None, "static", where)


def _attempt(model: nn.Module, example: Example, used: Example, specification: Any, dynamic: str, where: str) -> Program:
    """The program of one export, traced with the example `used`.

    Raises: TraceError, caused by torch's error if export failed.
    """
    recorder = Recorder(model)
    try:
        with torch.no_grad(), quiet(), standing_in(model, used) as given:
            exported = torch.export.export(Tapped(model, recorder), *shapes.fresh(given), dynamic_shapes=specification, strict=False)
            taps = tuple(recorder.taps)
            strip(exported)
            exported = exported.run_decompositions({})
    except Exception as error:
        raise TraceError(f"{where}: {_why(error)}") from error
    program = build(model, exported, taps, example, Header(type(model).__name__, dynamic, {}, torch=torch.__version__))
    check_buffers(program, where)
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what export prints and warns."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _why(error: Exception) -> str:
    """Why export failed, where in the model, and the way out."""
    text = " ".join(str(error).strip().split("\n\n")[0].split())
    place = _place(error)
    if isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in text or ".item()" in text:
        condition = text.partition("expression ")[2].partition(" (")[0] or text[:120]
        return (
            f"expected control flow that does not depend on tensor values, got a branch or size that does ({condition}){place}."
            " Write it with torch.where or masks."
        )
    return (
        f"expected a forward that torch.export can follow, got {type(error).__name__}: {text[:300].rstrip('.')}{place}. Rewrite that line."
    )


def _place(error: Exception) -> str:
    """The innermost line outside of torch and this package that led to `error`."""
    own = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((*own, "<"))]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno} ({frames[-1].line})" if frames else ""


def _at_another_shape(model: nn.Module, program: Program, used: Example) -> dict[str, str] | None:
    """What the check at another shape found; None if the program is wrong there."""
    other = shapes.resized(used, program.header.dynamic)
    if other is None or checks.is_meta(program.tensors, used):
        return {}
    try:
        with torch.no_grad():
            model(*other[0], **other[1])
    except Exception as error:
        return {"outputs at another shape": f"unchecked, the model itself fails there ({type(error).__name__})"}
    try:
        return {"outputs at another shape": checks.outputs(model, checks.runner(program), other, "")}
    except Exception:
        return None


def _check(model: nn.Module, program: Program, forward_only: bool, where: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the checks on the example found, and notes.

    Raises: TraceError when outputs differ, or gradients do and that was not asked for.
    """
    if checks.is_meta(program.tensors, program.example):
        return {"outputs": "unchecked", "gradients": "unchecked"}, ("tensors on the meta device: nothing could be run",)
    run = checks.runner(program)
    found = {"outputs": checks.outputs(model, run, program.example, where), **program.header.checks}
    found["gradients"], rounding = checks.gradients(model, run, program.example, where)
    if rounding:
        return found, ()
    if not forward_only:
        raise TraceError(
            f"{where}: expected the model's gradients, got others ({found['gradients']}): its forward has a no_grad region or a custom"
            " autograd function, which tracing loses. Remove it, or trace with forward_only=True."
        )
    return {**found, "gradients": "forward only"}, ("forward only: gradients are not the model's",)

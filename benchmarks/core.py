"""A model decomposed to core ATen: the same trace in another vocabulary, written by torch, to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rewrite import Program, shapes
from rewrite.build import build
from rewrite.records import Header
from rewrite.strip import robust, strip
from rewrite.switches import switched
from rewrite.taps import Recorder, Tapped
from rewrite.trace import quiet


def core_program(model: nn.Module, **example: Any) -> Program:
    """The program of a model after torch's default decompositions (attention too), its sizes fixed."""
    used = ((), example)
    recorder = Recorder(model)
    with switched(model, used), torch.no_grad(), quiet():
        exported = torch.export.export(Tapped(model, recorder), *shapes.fresh(used), strict=False)
        taps = tuple(recorder.taps)
        strip(exported)
        exported = exported.run_decompositions({})
        for node in exported.graph.nodes:  # attention's decomposition has other strides, which a view would not take
            node.target = robust(node.target) if node.op == "call_function" else node.target
        exported = exported.run_decompositions()
    return build(model, exported, taps, used, Header(type(model).__name__, "static", {}, torch=torch.__version__))

"""What every peer measures: targets ablated one by one, each beside a plain forward of the same model in the same process, CPU seconds.

Imports torch and transformers only: it runs in environments of others, with their versions.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

TOKEN = 7


class Target(NamedTuple):
    """A head of a layer, or its MLP."""

    layer: int
    head: int | None

    @property
    def name(self) -> str:
        """As it stands in findings, the same for all."""
        return f"mlp {self.layer}" if self.head is None else f"head {self.layer}.{self.head}"

    def columns(self, width: int) -> slice:
        """Where the head stands in what the output projection reads, `width` numbers a head."""
        head = self.head or 0
        return slice(head * width, (head + 1) * width)


class Task(NamedTuple):
    """What to measure and where to write it."""

    folder: str  # the model, as transformers saves it
    ids: Tensor  # the batch
    targets: Sequence[Target]
    positions: int | None  # those whose logits are wanted, if a peer can say
    packages: Sequence[str]  # whose versions are told
    into: str


def task() -> Task:
    """The task in the file that the command line names. Threads and gradients are set as all peers have them."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    told = json.loads(Path(sys.argv[1]).read_text())
    return Task(**{**told, "ids": torch.tensor(told["ids"]), "targets": [Target(*one) for one in told["targets"]]})


def load(folder: str) -> Any:
    """The model as transformers loads it."""
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder).eval()


def metric(logits: Tensor) -> Tensor:
    """The logit of one token at the last position, for each example."""
    return logits[:, -1, TOKEN].clone()


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of one call, and what it gave."""
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def one_by_one(given: Task, setting_up: float, clean: Callable[[], Tensor], ablated: Callable[[Target], Tensor]) -> None:
    """Measures a peer that runs the model once for each target, and writes what was found. `clean` and `ablated` give logits."""
    model = load(given.folder)
    baseline, effects, forwards, ratios = metric(clean()), {}, [], []
    model(given.ids)  # so that both are warm
    ablated(given.targets[0])
    for target in given.targets:
        forward, _ = timed(lambda: model(given.ids))
        taken, found = timed(lambda target=target: metric(ablated(target)))
        effects[target.name] = (found - baseline).tolist()
        forwards.append(forward)
        ratios.append(taken / forward)
    write(given, setting_up, effects, forwards, ratios)


def write(given: Task, setting_up: float, effects: dict[str, list[float]], forwards: list[float], ratios: list[float]) -> None:
    """Writes what was found: effects by target and example; CPU seconds of plain forwards; what a target costs, in forwards."""
    versions = {name: importlib.metadata.version(name) for name in given.packages}
    found = {
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
        "setting_up": setting_up,
        "forwards": forwards,
        "ratios": ratios,
        "effects": effects,
    }
    Path(given.into).write_text(json.dumps(found))

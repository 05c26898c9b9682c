"""GPT-2 small: a proof at 2^-40 against a plain float64 forward on the same inputs, in turn, in one process; where its time goes.

python -m benchmarks.certificate [ROUNDS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any
from unittest.mock import patch

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.gpt2 import directions
from benchmarks.timing import alternate, cpu_seconds
from passes import heads
from rewrite import trace
from verify import claims, equivalence, field, job, regions
from verify.field import Modular
from verify.oracle import Oracles
from verify.report import Report
from verify.structure import Side

BOUND = 2.0**-40
# where the clock is put around: the name of a phase, and what holds the function
PLACES: tuple[tuple[str, Any, str], ...] = (
    ("drawing weights", field, "stream"),
    ("drawing weights", torch.Tensor, "random_"),
    ("exact products", Modular, "matmul"),
    ("exact products", Modular, "contract"),
    ("inverses", Modular, "inverse"),
    ("random functions", Oracles, "state"),
    ("random functions", Oracles, "absorb"),
    ("random functions", Oracles, "draw"),
    ("rules compared with torch", regions, "fault"),
    ("hashing regions", Side, "signature"),
    ("canonical graphs", Side, "__init__"),
    ("claims, but for the above", claims, "_prove"),
    ("deciding, but for the above", regions, "decide"),
    ("float runs and drift", job, "ladder"),
)


class Clock:
    """CPU seconds of each phase less those of phases inside it."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner: list[float] = []

    def around(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = time.process_time() - start
                self.spent[phase] = self.spent.get(phase, 0.0) + took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        return timed

    @contextmanager
    def set_up(self) -> Iterator[None]:
        """Inside, every place is timed; the trusted code itself knows of no clock."""
        patches = [patch.object(holder, name, self.around(phase, getattr(holder, name))) for phase, holder, name in PLACES]
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()


def breakdown(proof: Callable[[], Report]) -> Mapping[str, float]:
    """CPU seconds of one proof by phase."""
    clock = Clock()
    with clock.set_up():
        total = cpu_seconds(proof)
    return {**dict(sorted(clock.spent.items(), key=lambda item: -item[1])), "the rest": total - sum(clock.spent.values())}


def main(rounds: int) -> None:
    """Prints the ratio, then the phases."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    ids = torch.randint(0, 50257, (2, 8))
    program = trace(model, input_ids=ids)
    mlps = [f"transformer.h.{i}.mlp" for i in range(12)]
    split = program.apply(*directions(program, mlps, 1), heads.at("transformer.h.*.attn"))
    double = deepcopy(model).double()
    proof = lambda: equivalence(split, bound=BOUND, seed=0)  # noqa: E731
    with torch.no_grad():
        found = alternate({"float64 forward": lambda: double(ids), "proof at 2^-40": proof}, rounds)
    for name, (milliseconds, ratio) in found.items():
        print(f"{name:<32} {milliseconds / 1000:8.2f} s  {ratio:7.1f} x", flush=True)
    phases = breakdown(proof)
    total = sum(phases.values())
    for name, seconds in phases.items():
        print(f"  {name:<30} {seconds:8.2f} s  {100 * seconds / total:6.1f} %")
    report = proof()
    counted = ", ".join(f"{number} {what}" for what, number in report.counts.items())
    print(f"{report.verdict.value} 2^{report.log2_bound:.1f}: {counted}; key from seed 0")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)

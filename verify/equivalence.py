"""Equivalence: whether two programs compute the same function, and the terms of the second are what they claim."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Literal

from rewrite.errors import InputError
from rewrite.program import Program
from verify.assume import read, try_declarations
from verify.cases import given_cases
from verify.interpret import Refused
from verify.job import Job
from verify.liveness import check_progress, liveness
from verify.report import Report


def equivalence(
    a: Program,
    b: Program | None = None,
    *,
    inputs: Any = None,
    gradients: bool = False,
    weights: Literal["same", "any"] = "same",
    roles: Mapping[str, str] | None = None,
    match: Mapping[str, str] | None = None,
    bound: float = 2**-20,
    seed: int | None = None,
    edits: bool = False,
    assuming: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Whether `b` computes the same function as `a`, and its terms are what they claim; `equivalence(p)` compares p with its origin.

    `inputs` are one dict of arguments or several (other mask patterns), by default the example of `a`. `roles` says which inputs are
    `ids`, `mask` or `values`, `match` which tensor or input of `b` is which of `a` (name in b -> name in a). `weights="any"` asks for the
    same function of weights, whatever they are. `bound` is the probability of a wrong "proved" to stay under. The random key is
    drawn afresh, or from `seed`, which the report then says. `edits` also decides for every term whether an edit there can reach an
    output (see `liveness`). `progress` is told what is being done.
    `assuming` names what may be taken on your word where no law says it: "mylib::op is elementwise" (or row-wise: over the last axis, or
    linear) of an op without a rule, "literals are roots" of doubles next to the root of a small fraction. A proof that needs one is
    PROVED ASSUMING it, which is not `proved`.
    Raises: InputError for inputs, names or roles that do not fit, and for an assumption that float runs contradict.
    """
    _check((a,) if b is None else (a, b), weights, bound, roles=roles, match=match)
    check_progress("equivalence", progress)
    first, second = (a.origin, a) if b is None else (a, b)
    job = Job.of(first, second, given_cases(first, inputs), weights == "any", dict(roles or {}), dict(match or {}))
    job.key = secrets.token_bytes(16) if seed is None else blake2b(str(seed).encode(), digest_size=16).digest()
    job.tell = progress or job.tell
    job.assumed = read(assuming)
    try_declarations(job.assumed, [job._side_a(job.cases[0]), job._side_b(job.cases[0])] if job.assumed.ops else [])
    report = job.report(bound, gradients, seed is not None)
    return replace(report, **_edits(job, inputs, roles, seed)) if edits and not job.mismatch else report


def _check(programs: Sequence[Any], weights: Any, bound: Any, **names: Any) -> None:
    """Raises: InputError for arguments that mean nothing."""
    if weights not in ("same", "any"):
        raise InputError(f"equivalence: expected weights='same' or 'any', got {weights!r}.")
    for program in programs:
        if not isinstance(program, Program):
            raise InputError(f"equivalence: expected programs, got {type(program).__name__}. Trace it first: trace(model, **inputs).")
    if not (isinstance(bound, int | float) and 0 < bound < 1):
        raise InputError(f"equivalence: expected a bound between 0 and 1, got {bound!r}. 2**-20 is the default.")
    for name, given in names.items():
        if not isinstance(given, Mapping | None) or not all(isinstance(text, str) for pair in (given or {}).items() for text in pair):
            raise InputError(f"equivalence: expected {name} as a dict of names, got {given!r}.")


def _edits(job: Job, inputs: Any, roles: Mapping[str, str] | None, seed: int | None) -> dict[str, Any]:
    """What a report says of the edits of `job.b`."""
    try:
        tell = lambda address: job.tell(f"edits: {address}")  # noqa: E731
        return {"edits": tuple(liveness(job.b, inputs=inputs, roles=roles, seed=seed, progress=tell))}
    except Refused as refused:
        return {"edits_undecided": f"{refused.op} at {refused.node}: {refused.reason}"}

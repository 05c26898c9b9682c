"""A witness once more: both programs run on it, whether they are those that it was found for, repaired ones, or others."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rewrite.call import bind
from rewrite.errors import InputError, nearest
from rewrite.program import Program
from verify.gap import Gap
from verify.job import Job
from verify.ladder import DIFFERENT, ROUNDING, gradient_gap
from verify.leaves import leaf_values
from verify.report import difference_lines, finite
from verify.roles import Role
from verify.runs import FAILURES, Place, Setting, equal_nodes
from verify.shadow import Case
from verify.structure import Side
from verify.witnesses.pattern import FLOATS, Difference
from verify.witnesses.witness import Witness


@dataclass(frozen=True)
class Replay:
    """What two programs do on a witness."""

    witness: Witness
    subject: str
    gap: Gap
    differences: tuple[Difference, ...] = ()
    foreign: bool = False  # the witness was found for other models

    @property
    def separates(self) -> bool:
        """True if the two still differ by more than rounding explains."""
        return self.gap.rho > DIFFERENT

    def exit_code(self) -> int:
        """1 if the witness still separates the two, 0 if it does not; 3 if it does not, and was found for other models."""
        return 1 if self.separates else 3 if self.foreign else 0

    def __str__(self) -> str:
        state = "STILL DIFFERS" if self.separates else "AGREES" if self.gap.rho <= ROUNDING else "INCONCLUSIVE"
        figures = f"float64 runs differ by {self.gap.largest:.1e} at {self.gap.at or 'no output'}, rho {self.gap.rho:.2g}"
        lines = [
            f"{state}: {self.subject}{f', on a witness found for {self.witness.subject}' if self.foreign else ''}",
            f"  {figures} (rounding up to {ROUNDING:g}, another function from {DIFFERENT:g}); float32: at most {self.gap.ulp:.3g} ulp",
            f"  {'witness':<15} {self.witness.how}, found for {self.witness.subject or 'two programs'}",
            *(f"  {'':<15} {line}" for line in self.witness.left),
        ]
        lines += [f"  {'site':<15} {d.place}: {d}" for d in self.differences if d.kind == "site"]
        return "\n".join([*lines, *difference_lines(self.differences)])

    def to_json(self) -> str:
        """The same as JSON."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts, lists, strings and numbers."""
        figures = {name: getattr(self.gap, name) for name in ("rho", "largest", "amplification", "ulp", "at")}
        about = {"subject": self.subject, "found_for": self.witness.subject, "how": self.witness.how, "left": self.witness.left}
        return finite(
            {"separates": self.separates, "foreign": self.foreign, **about, **figures, "differences": [asdict(d) for d in self.differences]}
        )


def replay(a: Program, b: Program, witness: Witness) -> Replay:
    """What `a` and `b` do on a witness, in float32 and in float64.

    Raises: InputError for programs that the witness does not fit, or that cannot be compared.
    """
    case = _case(a, witness.values if witness.reachable else witness.inputs)
    job = Job.of(a, b, [case], witness.any_weights, {}, {})
    subject = f"{b.header.model} against {a.header.model}"
    foreign = bool(witness.subject) and not any(p.header.model in witness.subject for p in (a, b))
    if job.mismatch:
        raise InputError(f"replay: expected programs with the same outputs, got {job.mismatch}. Compare them with verify.")
    if any(tensor.is_meta for program in (a, b) for tensor in program.tensors.values()):
        raise InputError("replay: expected programs with weights, got some on the meta device. Load the weights.")
    try:
        if witness.of_gradients:
            return Replay(witness, subject, gradient_gap(job.sides, case), foreign=foreign)
        setting = Setting(job.sides, case, () if witness.reachable else _places(job, case, witness))
        measured = setting.gap(witness.values)
        site = _site(a, b, witness.site)
        found = setting.differences(witness.values, site, FLOATS) if measured.rho > ROUNDING else ()
    except FAILURES as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise InputError(f"replay: expected values that both programs run on, got {type(error).__name__}: {reason}.") from None
    return Replay(witness, subject, measured, found, foreign)


def _case(program: Program, values: Any) -> Case:
    """The example of a program with its tensors replaced by name. Raises: InputError for other names, types or shapes."""
    flat, spec = tree_flatten(program.example)
    nodes = [(node, leaf.name) for node, leaf in program.leaves.items() if leaf.kind == "input"]
    wanted = [name for value, (_, name) in zip(flat, nodes, strict=True) if isinstance(value, Tensor)]
    if set(values) != set(wanted):
        odd = sorted(set(values) ^ set(wanted))[0]
        hint = nearest(odd, wanted) if odd in values else ""
        raise InputError(f"replay: expected a witness for the inputs {wanted}, got one for {sorted(values)}. Give its programs.{hint}")
    given = [values[name].to(value.device) if name in values else value for value, (_, name) in zip(flat, nodes, strict=True)]
    args, kwargs = tree_unflatten(given, spec)
    return bind(program, args, kwargs)


def _sides(job: Job, case: Case) -> tuple[Side, Side]:
    """Both programs with equal expressions told."""
    a, b, matching = job.a, job.b, job.sides.matching
    named = {b.leaves[theirs].name: a.leaves[ours].name for ours, theirs in matching.inputs.items()}
    roles: dict[str, Role] = {theirs: job.roles[ours] for theirs, ours in named.items() if ours in job.roles}
    own = job.sides.of_b(case)
    return Side(a, leaf_values(a, matching.a, case, job.roles), case), Side(b, leaf_values(b, matching.b, own, roles), own)


def _places(job: Job, case: Case, witness: Witness) -> tuple[Place, ...]:
    """Where the values of a region are read in both programs, by address. Raises: InputError for an address or shape that is not there."""
    sides = _sides(job, case)
    found = []
    for address, value in witness.values.items():
        nodes: list[tuple[str, ...]] = []
        for side in sides:
            site = side.program.sites_by_address.get(address)
            if site is None:
                advice = nearest(address, side.program.sites_by_address)
                raise InputError(f"replay: expected a site {address!r} in both programs, got one without it.{advice}")
            if side.shape(site.node) != tuple(value.shape):
                raise InputError(f"replay: expected {list(side.shape(site.node))} at {address!r}, got {list(value.shape)} in the witness.")
            nodes.append(equal_nodes(side, [site.node]))
        found.append(Place(address, nodes[0], nodes[1], tuple(value.shape)))
    return tuple(found)


def _site(a: Program, b: Program, address: str) -> tuple[str, str, str] | None:
    ours, theirs = a.sites_by_address.get(address), b.sites_by_address.get(address)
    return (address, ours.node, theirs.node) if ours and theirs else None

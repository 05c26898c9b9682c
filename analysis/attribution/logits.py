"""Direct logit attribution: how much each writer of the residual stream adds to the logit of a token, read off a rewrite.

    logits = sum over writers of U (gain * centred(t)) * scale + bias        scale frozen, U the unembedding

The rewrite is `norm`, `freeze` at the norm's scale, `distribute` at the unembedding; it is proved, and its terms sum to the logits.
Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al. 2022, "Interpretability in the Wild".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from analysis.attribution.gating import sizes
from analysis.data import Batch, batches, inputs, size
from analysis.standing import standing
from analysis.table import Table, summary
from passes import distribute, freeze, gates, norm
from rewrite import InputError, Program, SiteError, Skip
from rewrite.ops import match
from rewrite.run import needed

WHERE = "direct_logit_attribution"
Tokens = int | str | Tensor  # one for all, the key in a batch, or one an example


def direct_logit_attribution(
    program: Program,
    data: Iterable[Batch] | Batch,
    tokens: Tokens,
    *,
    against: Tokens | None = None,
    position: int = -1,
    unembedding: str | None = None,
    members: bool = True,
    seed: int = 0,
    unproved: bool = False,
) -> Table:
    """A table of what each writer adds to the logit of `tokens` at `position`, less that of `against`; mean over the examples.

    Tokens are an id for all examples, the name of a label that rides along in the batches, or a tensor with one for each example.
    Members of families (heads that were split before) have rows of their own, unless `members` is False. The program may be distributed
    already; if not, the final norm is written out and its scale frozen first.
    Units: logits. Raises: SiteError if the unembedding is not found, PassError if it is no affine map of a sum,
    InputError for tokens or positions that are not there.
    """
    listed = batches(program, data, WHERE)
    at = unembedding or _unembedding(program)
    program = distributed(program, at)
    terms = [split for split in program.splits if split.site == at and _is_distribution(split.terms, at)][-1].terms
    families = [term for term in terms if members and _summand(term, at) in program.families]
    program = _gated(program, [_summand(term, at) for term in families])
    parts: dict[str, list[Tensor]] = {}
    logits = []
    for batch in listed:
        chosen = _Chosen(size(program, batch), tokens, against, position, batch)
        with torch.no_grad():
            _, values = program.run(inputs(program, batch), read=[*terms, at])
        logits.append(chosen.of(values.pop(at)))
        for term, value in values.items():
            parts.setdefault(term, []).append(chosen.of(value))
        for term in families:
            for member, value in enumerate(_of_members(program, term, _summand(term, at), batch, chosen).unbind(1)):
                parts.setdefault(f"{term}[{member}]", []).append(value)
    found = standing(program, unproved=unproved, seed=seed)  # takes longest, so misuse is found first
    examples = {address: torch.cat(values) for address, values in parts.items()}
    rows = [{"address": address, **_contribution(summary(values, seed))} for address, values in examples.items()]
    total = torch.cat(logits).mean().item()
    settings: dict[str, Any] = {"position": position, "seed": seed, "n": len(torch.cat(logits)), "logit": f"{total:.6g}"}
    return Table("direct logit attribution", found, rows, settings, examples)


def distributed(program: Program, unembedding: str) -> Program:
    """The program with the unembedding distributed over the residual stream; the final norm written out, its scale frozen.

    Raises: PassError if the unembedding is no affine map of a sum then.
    """
    if any(split.site == unembedding and _is_distribution(split.terms, unembedding) for split in program.splits):
        return program
    final = _final_norm(program, unembedding)
    if final is not None:
        program = program.apply(norm.at(final))
    scales = [a for a in program.sites_by_address if a.endswith("/scale") and _upstream(program, a, unembedding)]
    if scales:
        last = max(scales, key=lambda a: program.nodes[program.sites_by_address[a].node]._sort_key)
        program = program.apply(freeze.at(last))
    return program.apply(distribute.at(unembedding))


def _is_distribution(terms: Sequence[str], unembedding: str) -> bool:
    return all(term.startswith(f"{unembedding}/{distribute.name}.") for term in terms)


def _summand(term: str, unembedding: str) -> str:
    return term.removeprefix(f"{unembedding}/{distribute.name}.")


def _unembedding(program: Program) -> str:
    """The linear module that writes the first output that one writes."""
    for output in program.outputs:
        found = [site for site in program.sites_by_address.values() if site.kind == "output" and site.node == getattr(output, "name", None)]
        named = [site.address for site in found if site.address and ":" not in site.address]
        if named:
            return max(named, key=len)
    raise SiteError(f"{WHERE}: expected a module that writes an output, got none. Pass unembedding=, the address of the logits.")


def _final_norm(program: Program, unembedding: str) -> str | None:
    """The norm module that is the last one before the unembedding, if it is not written out yet."""
    norms = [
        site
        for site in program.sites_by_address.values()
        if site.kind == "output" and _upstream(program, site.address, unembedding)
        if not isinstance(match("norm", program.nodes[site.node]), Skip)
    ]
    written_out = [split for split in program.sites_by_address if split.endswith("/scale")]
    if not norms:
        return None
    last = max(norms, key=lambda site: (program.nodes[site.node]._sort_key, -len(site.address)))
    return None if f"{last.address}/scale" in written_out else last.address


def _upstream(program: Program, address: str, of: str) -> bool:
    nodes, sites = program.nodes, program.sites_by_address
    return nodes[sites[address].node] in needed([nodes[sites[of].node]])


def _gated(program: Program, families: Sequence[str]) -> Program:
    missing = [family for family in families if family not in program.gate_records]
    return program.apply(gates.at(missing)) if missing else program


def _contribution(row: Mapping[str, float]) -> dict[str, float]:
    return {"contribution" if name == "effect" else name: value for name, value in row.items()}


class _Chosen:
    """Which logits of a batch are asked about."""

    def __init__(self, examples: int, tokens: Tokens, against: Tokens | None, position: int, batch: Batch):
        self.position, self.rows = position, torch.arange(examples)
        self.tokens = _ids(tokens, examples, batch)
        self.against = None if against is None else _ids(against, examples, batch)

    def of(self, logits: Tensor) -> Tensor:
        """Shapes: logits [example, position, token] or [example, token]; [example]. Raises: InputError if they are not there."""
        self.rows = self.rows.to(logits.device)
        if logits.dim() == 3:
            if not -logits.shape[1] <= self.position < logits.shape[1]:
                raise InputError(f"{WHERE}: expected a position of {logits.shape[1]}, got {self.position}.")
            logits = logits[:, self.position]
        found = self._picked(logits, self.tokens)
        return (found if self.against is None else found - self._picked(logits, self.against)).double().cpu()

    def _picked(self, logits: Tensor, ids: Tensor) -> Tensor:
        if bool((ids < 0).any()) or bool((ids >= logits.shape[-1]).any()):
            raise InputError(f"{WHERE}: expected tokens from 0 to {logits.shape[-1] - 1}, got {ids.tolist()[:8]}.")
        return logits[self.rows, ids.to(logits.device)]


def _ids(tokens: Tokens, examples: int, batch: Batch) -> Tensor:
    if isinstance(tokens, str):
        if tokens not in batch:
            raise InputError(f"{WHERE}: expected a label {tokens!r} in every batch, got {sorted(batch)}.")
        tokens = batch[tokens]
    ids = torch.as_tensor(tokens)
    if ids.dim() > 1 or ids.is_floating_point() or ids.dtype is torch.bool or (ids.dim() == 1 and len(ids) != examples):
        raise InputError(f"{WHERE}: expected one token id, or one for each of {examples} examples, got {ids.dtype} {list(ids.shape)}.")
    return ids.long().expand(examples)  # bytes would be taken as a mask


def _of_members(program: Program, term: str, family: str, batch: Batch, chosen: _Chosen) -> Tensor:
    """What each member of a family adds: a term is linear in its members' gates (g, h), so this is their derivative times where they stand.

    Shapes: [example, member].
    """
    shape = sizes(program, family, len(chosen.rows))
    if shape is None:
        raise InputError(f"{WHERE}: expected a family with an axis of examples, got {family}. Pass members=False.")
    held = program.gates[family]
    numbers = {name: value.detach().expand(shape).clone().requires_grad_() for name, value in (("g", held.g), ("h", held.h))}
    with torch.enable_grad():
        _, values = program.run(inputs(program, batch), read=[term], gates={family: numbers})
        slopes = torch.autograd.grad(chosen.of(values[term]).sum(), list(numbers.values()))
    (by_g, by_h), (g, h) = slopes, numbers.values()
    return (g * by_g + h * by_h).detach().reshape(len(chosen.rows), -1).double().cpu()

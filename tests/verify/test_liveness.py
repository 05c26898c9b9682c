"""Liveness: edits that cannot reach an output are found, with the reason; edits without effect on this input are not mistaken for them."""

import json

import pytest
import torch
from torch import Tensor, nn

from passes import dictionary, direction, gates, heads, paths, surrogate
from rewrite import InputError, TautomerError, Terms, split, trace
from tests import models
from verify import Verdict, equivalence
from verify.liveness import liveness, raise_unless_alive


@pytest.fixture(scope="module")
def program():
    model, example = models.gpt2()
    return trace(model, **example)


def sae(width: int, features: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {"W_enc": draw(width, features), "b_enc": draw(features), "W_dec": draw(features, width), "b_dec": draw(width)}


def test_every_term_member_part_and_path_of_correct_rewrites_is_alive(program) -> None:
    f = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 32)).eval()
    rewritten = program.apply(
        direction.at("transformer.h.0.mlp", d=torch.ones(32), name="fire"),
        heads.at("transformer.h.1.attn"),
        surrogate.at("transformer.h.1.mlp", f=f, name="f"),
        paths.at("transformer.h.0.mlp/fire -> transformer.ln_f@in"),
        gates.at("transformer.h.0.mlp/fire", "transformer.h.1.attn/head"),
    )
    found = liveness(rewritten, seed=0)
    assert [one.address for one in found if not one.alive] == []
    assert {"transformer.h.1.mlp/f/1", "transformer.h.1.attn/head[3]", "transformer.h.0.mlp/fire -> transformer.ln_f@in"} <= {
        o.address for o in found
    }
    raise_unless_alive(found)


def test_a_feature_that_is_off_on_this_input_is_alive(program) -> None:
    off = sae(32, 12)
    off["b_enc"] = off["b_enc"] - 1e6
    rewritten = program.apply(dictionary.at("transformer.h.0.mlp", sae=off))
    assert torch.count_nonzero(rewritten.values("transformer.h.0.mlp/feature@act")["transformer.h.0.mlp/feature@act"]) == 0
    found = liveness(rewritten, ["transformer.h.0.mlp/feature[5]"], seed=0)
    assert found[0].alive


def test_large_families_are_sampled(program) -> None:
    rewritten = program.apply(dictionary.at("transformer.h.0.mlp", sae=sae(32, 100), k=4))
    members = [one for one in liveness(rewritten, seed=0) if "[" in one.address]
    assert len(members) == 16
    assert all(one.alive for one in members)


class Cancelling(nn.Module):
    """A remainder that reads the edited copy of f: what people write with hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.mlp, self.unread, self.out = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        f = self.f(x)
        self.unread(x)
        return self.out(f + (self.mlp(x) - f))


def test_a_remainder_that_takes_the_edit_back_is_dead_with_the_reason() -> None:
    program = trace(Cancelling().eval(), torch.randn(2, 6))
    found = {one.address: one for one in liveness(program, ["f", "mlp", "unread"], seed=0)}
    assert not found["f"].alive
    assert "takes the edit back" in found["f"].reason
    assert found["mlp"].alive
    assert not found["unread"].alive
    assert "nothing reads it" in found["unread"].reason
    with pytest.raises(TautomerError, match=r"f and 1 more: expected an edit that can reach an output, got one that cannot"):
        raise_unless_alive(found.values())


@split
def cancelled(y: Tensor) -> Terms:
    """A term that the other one takes back: the sum is y, and nothing that is done to `y * y` alone would show if both read it."""
    return Terms(y * y, rest=y - y * y)


def test_a_term_of_ours_is_alive_because_the_rest_keeps_its_own_copy(program) -> None:
    rewritten = program.apply(cancelled.at("transformer.h.0.mlp"))
    assert all(one.alive for one in liveness(rewritten, seed=0))
    sharing = _make_the_rest_read_the_edited_term(rewritten)
    dead = liveness(sharing, ["transformer.h.0.mlp/cancelled"], seed=0)
    assert not dead[0].alive
    assert "the sum at transformer.h.0.mlp does not change" in dead[0].reason
    report = equivalence(sharing, seed=0, edits=True)
    assert report.verdict is Verdict.PROVED
    assert not report.proved
    assert report.exit_code() == 3
    assert str(report).startswith("PROVED, but 1 edit cannot reach an output")
    assert json.loads(report.to_json())["edits"]["transformer.h.0.mlp/cancelled"] == dead[0].reason


def test_a_report_is_told_what_is_done(program) -> None:
    told: list[str] = []
    equivalence(program.apply(cancelled.at("transformer.h.0.mlp")), seed=0, edits=True, progress=told.append)
    assert told[0] == "proving: inputs 1 of 1"
    assert "edits: transformer.h.0.mlp/cancelled" in told


def _make_the_rest_read_the_edited_term(program):
    """A mutant of the splicer: the site of the term is read by the remainder too."""
    from dataclasses import replace

    address = "transformer.h.0.mlp/cancelled"
    site = program.sites_by_address[address]
    term, rest = program.nodes[site.node], program.nodes[program.sites_by_address[f"{address}.rest"].node]
    twin = rest.args[1]
    rest.args = (rest.args[0], term)
    assert twin is not None
    return replace(program, sites_by_address={**program.sites_by_address, address: replace(site, scope=None)})


@split
def zero(y: Tensor) -> Terms:
    """Nothing, and all the rest."""
    return Terms(y * 0, rest=y * 1)


def test_a_term_that_is_zero_for_all_inputs_is_alive(program) -> None:
    found = liveness(program.apply(zero.at("transformer.h.0.mlp")), ["transformer.h.0.mlp/zero"], seed=0)
    assert found[0].alive, "an edit there reaches the output"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"addresses": [3]}, "liveness: expected a list of addresses, got int"),
        ({"addresses": 3}, "liveness: expected a list of addresses, got int"),
        ({"addresses": "transformer.h.0.mlp"}, "liveness: expected a list of addresses, got 'transformer.h.0.mlp'"),
        ({"progress": 3}, "liveness: expected progress as a function of a text, got int"),
    ],
)
def test_misuse_is_an_error(program, arguments, message: str) -> None:
    with pytest.raises(InputError, match=message):
        liveness(program, **arguments)


def test_liveness_of_what_is_no_program_is_an_error() -> None:
    with pytest.raises(InputError, match="liveness: expected a program, got Linear"):
        liveness(nn.Linear(2, 2))  # type: ignore[arg-type]

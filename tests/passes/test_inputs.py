"""Copies of inputs: what they reach and what not, against hand-written code and a walk over every single path; claims and their mutants."""

import itertools
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from analysis.demo import load_balancer, strings, tokens
from passes import direction, gates, heads, inputs, neurons, paths
from rewrite import FileError, InputError, PassError, Program, load, trace
from rewrite.places import Region, here
from rewrite.routes import parse_route
from rewrite.run import needed
from rewrite.splice import Splicer
from rewrite.tracks import Edge, Track, depending, track_of
from tests.passes.checking import Layer, assert_close, draw, layer, proved, traced
from verify import equivalence

SETS: dict[str, dict[str, Any]] = {
    "a member, directly": {"c": "attn/head[0] -> ln_f@in"},
    "a position": {"c": "attn@in@[:, 1] ~> ln_f@in"},
    "a position of a member": {"c": "attn@in@[:, 1] ~> attn/head[1] ~> ln_f@in"},
    "one module as another reads it": {"c": "attn ~> mlp@in ~> ln_f@in"},
    "clear of a site": {"c": "attn ~> ln_f@in !mlp"},
    "a part of a part": {"c": "attn/head[0] ~> ln_f@in", "d": "attn@in@[:, 0] ~> attn/head[0] ~> ln_f@in"},
    "each position": {f"c{i}": f"attn@in@[:, {i}] ~> attn/head[1] -> ln_f@in" for i in range(3)},
    "two paths": {"c": ["attn/head[1] -> ln_f@in", "mlp/neuron[2:5] ~> ln_f@in"]},
    "members that share an edge": {"c": "mlp/neuron[0:4] ~> ln_f@in", "d": "mlp/neuron[6,8] ~> ln_f@in"},
    "places that overlap": {"c": "attn@in@[:, 0:2] ~> attn/head[0] ~> ln_f@in", "d": "attn@in@[:, 0:2] ~> attn/head[1] ~> ln_f@in"},
    "the input itself": {"c": "@in ~> attn@in ~> ln_f@in"},
}


@cache
def split_layer() -> tuple[Layer, Tensor, Program]:
    model, x, program = layer()
    assert isinstance(model, Layer)
    return model, x, program.apply(heads.at("attn"), neurons.at("mlp"))


def with_copies(program: Program, x: Any, sets: dict[str, Any]) -> dict[str, Any]:
    """Values for every copy of the only input."""
    name = next(leaf.name for leaf in program.leaves.values() if leaf.kind == "input")
    return {name: x, **{f"{name}@{copy}": draw(*x.shape, seed=50 + i) for i, copy in enumerate(sets)}}


# ------------------------------------------------------------------------------------------------ against every single path


class Walk:
    """What a program computes when each path reads what it is told to: no state, no sharing, every path for itself."""

    def __init__(self, program: Program, sets: dict[str, Any], values: dict[str, Any]):
        splicer = Splicer(program)
        self.varying = depending(splicer)
        self.graph, self.values, self.program = splicer.graph, values, program
        texts = [(copy, text) for copy, paths in sets.items() for text in ([paths] if isinstance(paths, str) else paths)]
        self.tracks = [track_of(splicer, copy, parse_route(text), self.varying) for copy, text in texts]

    def outputs(self) -> list[Tensor]:
        output = self.graph.output_node()
        return [self.value(node, [((node, output), frozenset())]) for node in output.all_input_nodes]

    def value(self, node: fx.Node, path: list[tuple[Edge, frozenset[Region]]]) -> Any:
        if node.op == "placeholder":
            leaf = self.program.leaves[node.name]
            return self.values[leaf.name + self.suffix(path)] if leaf.kind == "input" else self.program.tensors[leaf.name]
        known = {argument: self.read((argument, node), path) for argument in node.all_input_nodes}
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: known[n])
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def read(self, edge: Edge, path: list[tuple[Edge, frozenset[Region]]]) -> Any:
        regions = {r for track in self.tracks for passage in track.passages for r in [passage.edges.get(edge)] if r}
        cases = [frozenset[Region]()]
        for region in regions:
            cases += [one | {region} for one in cases]
        read = self.value(edge[0], [*path, (edge, frozenset())])
        for case in cases[1:] if edge[0] in self.varying else []:
            mask = torch.ones_like(read, dtype=torch.bool)
            for region in regions:
                mask = mask & (here(read, region) if region in case else ~here(read, region))
            if mask.any():  # no path leads through places that lie apart
                read = torch.where(mask, self.value(edge[0], [*path, (edge, case)]), read)
        return read

    def suffix(self, path: list[tuple[Edge, frozenset[Region]]]) -> str:
        on = [track for track in self.tracks if self.matches(track, path)]
        best = [t for t in on if all(t.copy == u.copy or t.route.extends(u.route) for u in on)]
        return f"@{best[0].copy}" if on else ""

    def matches(self, track: Track, path: list[tuple[Edge, frozenset[Region]]], p: int = 0, at: int = 0) -> bool:
        """True if some choice of edges, in order, passes every stop with nothing forbidden between."""
        if p == track.end:
            return True
        for k in range(at, len(path)):
            edge, case = path[k]
            if k > (at if p else -1) and not track.ways[p].allows(edge[1], edge[0]):
                return False
            region = track.passages[p].edges.get(edge)
            if region is not None and (not region or region in case) and self.matches(track, path, p + 1, k):
                return True
        return False


@pytest.mark.parametrize("case", SETS)
def test_each_path_reads_what_it_should(case: str) -> None:
    _, x, program = split_layer()
    values = with_copies(program, x, SETS[case])
    copies = program.apply(inputs.at(SETS[case]))
    (wanted,) = Walk(program, SETS[case], values).outputs()
    with torch.no_grad():
        found = copies.run(values)[0]
        assert_close(found, wanted.detach())
        assert float((found - program(x)).abs().max()) > 1e-3
        assert torch.equal(copies(x), copies.run({**values, **{f"x@{copy}": x for copy in SETS[case]}})[0])


# ------------------------------------------------------------------------------------------------ against hand-written code


def head(model: Layer, x: Tensor, which: int) -> Tensor:
    """What one head writes, without the bias."""
    with torch.no_grad():
        keep = model.attn.out.weight.clone()
        mask = torch.arange(8).reshape(1, 8) // 4 == which
        model.attn.out.weight.mul_(mask)
        found = model.attn(x) - model.attn.out.bias
        model.attn.out.weight.copy_(keep)
    return found


BY_HAND: dict[str, Callable[[Layer, Tensor, Tensor], Tensor]] = {
    "a member, directly": lambda m, x, y: _end(m, x, extra=head(m, m.ln(y), 0) - head(m, m.ln(x), 0)),
    "a position": lambda m, x, y: _end(m, x, attn=m.attn(torch.where(torch.tensor([0, 1, 0]).bool()[:, None], m.ln(y), m.ln(x)))),
    "one module as another reads it": lambda m, x, y: m.ln_f(x + m.attn(m.ln(x)) + m.mlp(x + m.attn(m.ln(y)))),
    "clear of a site": lambda m, x, y: m.ln_f(x + m.attn(m.ln(y)) + m.mlp(x + m.attn(m.ln(x)))),
}


def _end(model: Layer, x: Tensor, attn: Tensor | None = None, extra: float | Tensor = 0.0) -> Tensor:
    h = x + (model.attn(model.ln(x)) if attn is None else attn)
    return model.ln_f(h + model.mlp(h) + extra)


@pytest.mark.parametrize("case", BY_HAND)
def test_values_are_those_of_hand_written_code(case: str) -> None:
    model, x, program = split_layer()
    values = with_copies(program, x, SETS[case])
    with torch.no_grad():
        assert_close(program.apply(inputs.at(SETS[case])).run(values)[0], BY_HAND[case](model, x, values["x@c"]))


# ------------------------------------------------------------------------------------------------ proofs


QUICK = ("a position of a member", "clear of a site", "a part of a part", "the input itself")


@pytest.mark.parametrize("case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in SETS])
def test_it_is_proved_and_so_are_its_claims(case: str) -> None:
    report = proved(split_layer()[2].apply(inputs.at(SETS[case])))
    said = {line.sentence for line in report.claims}
    assert "it reads the copy c" in said or "it reads the copy c0" in said
    assert "nothing else reads the copy c" in said or "nothing else reads the copy c0" in said


def mutated(program: Program, change: Callable[[Splicer], object]) -> Program:
    splicer = Splicer(program)
    change(splicer)
    waiting, placed = list(splicer.graph.nodes), dict.fromkeys(n for n in splicer.graph.nodes if n.op == "placeholder")
    while len(placed) < len(waiting):  # a reader may now read what came later
        placed |= dict.fromkeys(n for n in waiting if n not in placed and all(m in placed for m in n.all_input_nodes))
    for before, node in itertools.pairwise(placed):
        before.append(node)
    splicer.graph.lint()
    return splicer.finish()


def failing(program: Program) -> set[str]:
    """The claims that fail on a program that is its origin when all copies are equal."""
    report = equivalence(program, seed=0)
    assert report.verdict.value == "PROVED", str(report)
    assert not report.proved
    return {line.sentence for line in report.claims if line.status == "fails"}


def site_node(splicer: Splicer, address: str) -> fx.Node:
    return splicer.nodes[splicer.site(address).node]


def live_reader(splicer: Splicer, node: fx.Node, target: Any) -> fx.Node:
    return next(user for user in node.users if user.target is target and user.users)


def test_a_leak_to_another_path_fails() -> None:
    program = split_layer()[2].apply(inputs.at({"c": "attn/head[0] -> ln_f@in"}))

    def leak(splicer: Splicer) -> None:
        own = next(n for n in splicer.graph.nodes if n.op == "placeholder" and n.name.endswith("_c"))
        original = splicer.nodes["x"]
        live_reader(splicer, original, torch.ops.aten.add.Tensor).replace_input_with(original, own)

    assert "nothing else reads the copy c" in failing(mutated(program, leak))


def test_the_wrong_copy_fails() -> None:
    sets = {"c": "attn/head[0] -> ln_f@in", "d": "attn/head[1] -> ln_f@in"}
    program = split_layer()[2].apply(inputs.at(sets))

    def swap(splicer: Splicer) -> None:
        first, second = (next(n for n in splicer.graph.nodes if n.name == f"x_{copy}") for copy in "cd")
        of_first, of_second = list(first.users), list(second.users)
        for user in of_first:
            user.replace_input_with(first, second)
        for user in of_second:
            user.replace_input_with(second, first)

    assert {"it reads the copy c", "it reads the copy d"} <= failing(mutated(program, swap))


def test_a_missed_path_fails() -> None:
    program = split_layer()[2].apply(inputs.at({"c": "attn ~> ln_f@in"}))

    def miss(splicer: Splicer) -> None:
        own, original = site_node(splicer, "attn@c"), splicer.nodes[split_layer()[2].sites_by_address["attn"].node]
        readers = [user for user in own.users if user.users]
        assert len(readers) == 1  # the stream, read by the MLP and the sum behind it
        (stream,) = readers
        again = splicer.again(stream, {own: original})
        next(user for user in stream.users if user.target is torch.ops.aten.linear.default).replace_input_with(stream, again)

    assert "what is behind it reads it as the original does" in failing(mutated(program, miss))


def test_a_missed_direct_path_fails() -> None:
    program = split_layer()[2].apply(inputs.at({"c": "attn/head[0] -> ln_f@in"}))

    def miss(splicer: Splicer) -> None:
        own, original = site_node(splicer, "attn/head@c"), site_node(splicer, "attn/head")
        half = splicer.call(splicer.after([own]), torch.ops.aten.mul.Tensor, (own, 0.5), (), own.meta["val"])
        other = splicer.call(splicer.after([half, original]), torch.ops.aten.mul.Tensor, (original, 0.5), (), own.meta["val"])
        mixed = splicer.call(splicer.after([half, other]), torch.ops.aten.add.Tensor, (half, other), (), own.meta["val"])
        for user in [user for user in own.users if user is not half]:
            user.replace_input_with(own, mixed)

    assert "it holds what comes by adds and scalings, times their factor" in failing(mutated(program, miss))


def test_another_member_fails() -> None:
    program = split_layer()[2].apply(inputs.at({"c": "attn/head[0] -> ln_f@in"}))

    def other(splicer: Splicer) -> None:
        (compare,) = [n for n in splicer.graph.nodes if n.target is torch.ops.aten.eq.Scalar]
        compare.args = (compare.args[0], 1)

    assert "it is read there, and only there" in failing(mutated(program, other))


@cache
def balancer() -> tuple[nn.Module, Tensor, Program]:
    model, ids = load_balancer(), tokens(strings(8, seed=1))
    return model, ids, trace(model, ids).apply(heads.at("blocks.*.attn"))


def test_a_leak_through_a_mask_alone_fails() -> None:
    program = balancer()[2].apply(inputs.at({"c": "blocks.2.attn/head[0] -> ln_f@in"}))
    sdpa = torch.ops.aten.scaled_dot_product_attention.default

    def leak(splicer: Splicer) -> None:
        calls = [n for n in splicer.graph.nodes if n.target is sdpa]
        masks = {splicer.nodes["input_ids"] in needed([n]): n for call in calls for n in [call.kwargs.get("attn_mask") or call.args[3]]}
        first = next(call for call in calls if masks[True] in call.all_input_nodes)
        first.replace_input_with(masks[True], masks[False])  # type: ignore[arg-type]

    assert "nothing else reads the copy c" in failing(mutated(program, leak))


def test_integer_inputs_masks_and_three_layers_are_proved() -> None:
    _, ids, program = balancer()
    sets = {
        "h": "blocks.1.attn/head[0] -> ln_f@in",
        "p": "blocks.0.attn ~> blocks.1.attn@in@[:, 1] ~> blocks.1.attn/head[0] -> ln_f@in",
        "e": "embed ~> !blocks.0.attn !blocks.0.mlp blocks.1.attn@in@[:, 1] ~> blocks.1.attn/head[0] -> ln_f@in",
    }
    copies = program.apply(inputs.at(sets))
    proved(copies)
    other = tokens(strings(8, seed=2))
    with torch.no_grad():
        assert torch.equal(copies(ids), program(ids))
        for copy in sets:
            assert not torch.equal(copies.run({"input_ids": ids, f"input_ids@{copy}": other})[0], program(ids))


@pytest.mark.slow
def test_another_architecture_is_proved() -> None:
    program = traced("gpt2")[2].apply(heads.at("transformer.h.*.attn"))
    sets = {
        "a": "transformer.h.0.attn/head[1] -> transformer.ln_f@in",
        "b": "transformer.h.0.mlp ~> transformer.h.1.attn@in ~> transformer.ln_f@in",
    }
    proved(program.apply(inputs.at(sets)))


# ------------------------------------------------------------------------------------------------ sharing


def test_a_node_is_there_once_for_each_assignment_of_copies() -> None:
    _, _, program = split_layer()
    one = program.apply(inputs.at({"c": "attn/head[0] -> ln_f@in"}))
    two = program.apply(inputs.at({"c": ["attn/head[0] -> ln_f@in", "mlp ~> ln_f@in"]}))
    targets = lambda p, op: sum(n.target is op and n in live(p) for n in p.graph.nodes)  # noqa: E731
    softmax = (
        torch.ops.aten._softmax.default
        if any(n.target is torch.ops.aten._softmax.default for n in one.graph.nodes)
        else torch.ops.aten.softmax.int
    )
    assert targets(program, softmax) == 1
    assert targets(one, softmax) == 2  # the original, and the copy's for head 0
    assert targets(two, softmax) == 2  # the MLP's path reads the same copy through the same node
    assert len(live(one)) < 2 * len(live(program))


def live(program: Program) -> set[fx.Node]:
    return needed(program.outputs)


def test_sites_follow_their_readers() -> None:
    _, x, program = split_layer()
    copies = program.apply(inputs.at({"c": "mlp -> ln_f@in"}))
    values = with_copies(program, x, {"c": 0})
    with torch.no_grad():
        output, read = copies.run(values, read=["ln_f@in", "ln_f@in@c", "mlp@c", "mlp", "attn"])
        assert torch.equal(read["ln_f@in"], read["ln_f@in@c"])
        assert_close(split_layer()[0].ln_f(read["ln_f@in"]), output)
        assert_close(read["mlp@c"], program.values("mlp", values["x@c"])["mlp"])
        assert torch.equal(read["mlp"], read["mlp@c"])  # all that reads it reads the copy's
        assert_close(read["attn"], program.values("attn", x)["attn"])


def test_claims_about_a_term_follow_it_to_its_copy() -> None:
    _, _, program = balancer()
    split = program.origin.apply(direction.at("blocks.2.mlp", d=torch.ones(56), name="one"))
    copied = split.apply(inputs.at({"c": "blocks.2.mlp/one.rest -> ln_f@in"}))
    assert copied.sites_by_address["blocks.2.mlp/one.rest"].node != split.sites_by_address["blocks.2.mlp/one.rest"].node
    about = [line for line in proved(copied).claims if line.sentence == "the rest has no component along d"]
    assert len(about) == 1 and about[0].equation.startswith("(blocks.2.mlp/one.rest @")


def test_gates_and_directions_from_before_are_in_every_copy() -> None:
    _, x, program = split_layer()
    gated = program.apply(direction.at("attn/head", d=draw(8, seed=3)), gates.at("attn/head/direction"))
    copies = gated.apply(inputs.at({"c": "attn -> ln_f@in"}))
    values = with_copies(program, x, {"c": 0})
    before = copies.run(values)[0]
    copies.gates["attn/head/direction"].g = 0
    assert float((copies.run(values)[0] - before).detach().abs().max()) > 1e-3
    gated.gates["attn/head/direction"].g = 0
    with torch.no_grad():
        assert_close(copies(x), gated(x))


# ------------------------------------------------------------------------------------------------ calling, keeping, handing on


def test_a_copy_that_is_not_given_is_the_original() -> None:
    _, x, program = split_layer()
    copies, y = program.apply(inputs.at({"c": "mlp -> ln_f@in"})), draw(2, 3, 8, seed=9)
    with torch.no_grad():
        assert_close(copies(y), program(y))
        assert torch.equal(copies.run({"x": x, "x@c": y})[0], copies(x, **{"x@c": y}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x@d": 0}, r"expected the arguments of the example, \['x'\], got 'x@d'\. Nearest: 'x@c', 'x'\."),
        ({"x@c": torch.zeros(2, 4, 8)}, r"x@c: expected size 3 in dimension 1, got 4"),
        ({"x@c": torch.zeros(2, 3, 8, dtype=torch.float64)}, r"x@c: expected torch.float32, got torch.float64"),
    ],
)
def test_copies_are_checked_like_inputs(given: dict[str, Any], message: str) -> None:
    _, x, program = split_layer()
    with pytest.raises(InputError, match=message):
        program.apply(inputs.at({"c": "mlp -> ln_f@in"})).run({"x": x, **given})


def test_copies_survive_saving_moving_and_exporting(tmp_path: Any) -> None:
    _, x, program = split_layer()
    copies = program.apply(inputs.at(SETS["a part of a part"]))
    values = with_copies(program, x, SETS["a part of a part"])
    copies.save(tmp_path / "p")
    again = load(tmp_path / "p")
    with torch.no_grad():
        wanted = copies.run(values)[0]
        assert torch.equal(again.run(values)[0], wanted)
        assert torch.equal(copies.to("cpu").run(values)[0], wanted)
        assert torch.equal(copies.graph_module(*values.values())[0], wanted)
        copies.export(tmp_path / "p.pt2")
        module = torch.export.load(tmp_path / "p.pt2").module()
        assert torch.equal(module(x, **{name.replace("@", "__"): value for name, value in values.items() if "@" in name}), wanted)
    assert [(claim.sentence, claim.swaps) for claim in again.claims] == [(claim.sentence, claim.swaps) for claim in copies.claims]
    proved(again)


SPOILT: dict[str, tuple[Callable[[Any], object], str]] = {
    "a copy of nothing": (lambda p: p["leaves"][-1].__setitem__(4, "y"), r"expected copies of the model's own inputs, got 'x@c'"),
    "a copy that is a weight": (lambda p: p["leaves"][0].append("x"), r"expected copies of the model's own inputs"),
    "a swap of no node": (
        lambda p: p["claims"][-1]["swaps"].update(nothing={}),
        r"expected swaps of placeholders bound to nodes, got 'nothing'",
    ),
    "a swap of another shape": (
        lambda p: next(iter(p["claims"][-1]["swaps"].values())).update(attn_q_bias="node_x"),
        r"expected values of one shape and type for each other",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_spoilt_copies_are_not_loaded(case: str, tmp_path: Any) -> None:
    spoil, message = SPOILT[case]
    split_layer()[2].apply(inputs.at({"c": "mlp -> ln_f@in"})).save(tmp_path / "p")
    record = json.loads((tmp_path / "p" / "program.json").read_text())
    spoil(record["program"])
    (tmp_path / "p" / "program.json").write_text(json.dumps(record))
    with pytest.raises(FileError, match=message):
        load(tmp_path / "p")


# ------------------------------------------------------------------------------------------------ errors


MISTAKES: dict[str, tuple[Any, str]] = {
    "overlap": (
        {"c": "attn/head[0] ~> ln_f@in", "d": "attn ~> mlp@in ~> ln_f@in"},
        r"paths '.*' \(c\) and '.*' \(d\): expected paths that do not overlap, got two that share one through .*attn/head",
    ),
    "one end": ({"c": "ln_f@in", "d": "ln_f@in"}, r"expected paths that do not overlap"),
    "the order": (
        {"c": "mlp ~> attn@in ~> ln_f@in"},
        r"expected a way ~> from mlp to attn@in, got none\. attn@in is not downstream of it: stops are named from upstream on",
    ),
    "not direct": ({"c": "attn@in -> ln_f@in"}, r"expected a way -> from attn@in to ln_f@in, got none\. Go on with ~>, or open it"),
    "cut off": ({"c": "attn ~> mlp@in !attn ~> ln_f@in"}, r"to mlp@in clear of attn, got none"),
    "no site": (
        {"c": "attm ~> ln_f@in"},
        r"expected stops of the program, got attm\. no site matches 'attm'.*Nearest: 'attn'.*\n    attm ~> ln_f@in\n    \^",
    ),
    "no family": ({"c": "mlp ~> attn[0] ~> ln_f@in"}, r"attn\[0\]: expected a family.*\n    mlp ~> attn\[0\] ~> ln_f@in\n           \^"),
    "no member": ({"c": "attn/head[2] ~> ln_f@in"}, r"expected a member from 0 to 1, got 2"),
    "no position": ({"c": "attn@in@[:, 3] ~> ln_f@in"}, r"expected entries of axis 1, which has 3, got none"),
    "no dict": ("attn -> ln_f@in", r"expected a dict of paths by copy, got 'attn -> ln_f@in'"),
    "no name": ({"in": "attn -> ln_f@in"}, r"expected names of copies"),
    "no path": ({"c": 3}, r"expected a path or a list of them for 'c', got 3"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_named(case: str) -> None:
    sets, message = MISTAKES[case]
    with pytest.raises(PassError, match=message):
        split_layer()[2].apply(inputs.at(sets))


def test_copies_are_made_once() -> None:
    copies = split_layer()[2].apply(inputs.at({"c": "mlp -> ln_f@in"}))
    with pytest.raises(PassError, match=r"expected a program without copies of inputs, got one that has 'x@c'"):
        copies.apply(inputs.at({"d": "attn -> ln_f@in"}))


def test_paths_says_what_inputs_takes() -> None:
    with pytest.raises(PassError, match=r"expected 'term -> reader', got 'attn ~> ln_f@in'\. The pass inputs takes ~>"):
        split_layer()[2].apply(paths.at("attn ~> ln_f@in"))

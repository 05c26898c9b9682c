"""A sweep computes shared work once, and gives what one run a target gives: whatever is stacked, read, kept, or taken up again."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from analysis import sweep
from analysis.ablation.effects import Plan
from analysis.ablation.reference import References
from analysis.ablation.targets import prepared, singles
from passes import neurons
from rewrite import FileError, InputError, SiteError, trace
from rewrite.resume import Resume
from tests.analysis.ablating import data, logit, ready, squares
from tests.models import PLAIN, gpt2, vectors
from tests.passes.checking import PATH, attention, mlp

ROOT = Path(__file__).parent.parent.parent
HEADS, MLPS = f"{attention('gpt2', '*')}/head[:]", mlp("gpt2", "*")
CLOSE = {"atol": 1e-5, "rtol": 0}


def effects(program, addresses, batches, metric, **settings):
    """The metric with each target ablated, without the proof: [target, example]."""
    program, full = prepared(program, addresses, "sweep")
    found = singles(program, full)
    parts = [part for target in found for part in target.parts]
    references = References(program, batches, parts, "zero", "dataset", None, 0)
    return Plan(program, batches, found, metric, **settings).run(references.prepare()).ablated


def one_by_one(program, addresses, batches, metric):
    """The same by whole runs with one edit each."""
    program, full = prepared(program, addresses, "sweep")
    found = []
    for target in singles(program, full):
        (part,) = target.parts
        address = part.edited.removesuffix("@act") + ("" if part.member is None else f"[{part.member}]")
        with torch.no_grad():
            runs = [metric(program.run(batch, edit={address: 0.0})[0], batch) for batch in batches]
        found.append(torch.cat(runs).double())
    return torch.stack(found)


class Counting(TorchDispatchMode):
    """Counts matrix products, and the rows of the widest."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.calls, self.rows, self.columns = 0, [], columns

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.addmm, torch.ops.aten.mm, torch.ops.aten.bmm):
            self.calls += 1
            if result.shape[-1] == self.columns:
                self.rows.append(result.numel() // self.columns)
        return result


def counted(function, columns=61):
    with Counting(columns) as found:
        function()
    return found


def test_shared_work_is_done_once_and_targets_run_side_by_side() -> None:
    _, example, program = ready("gpt2")
    batches = data(example, 1)
    whole = counted(lambda: program(**example)).calls
    all_targets = counted(lambda: effects(program, [HEADS, MLPS], batches, logit)).calls
    alone = counted(lambda: one_by_one(program, [HEADS, MLPS], batches, logit)).calls
    assert alone >= 10 * whole
    assert all_targets <= 5 * whole  # the plain run, the trial of copies, and at most half of the model for each of four groups
    last = counted(lambda: effects(program, "transformer.h.1.mlp", batches, logit))
    assert last.calls == whole + 1  # nothing but the unembedding comes after the last MLP


def test_a_second_sweep_neither_proves_nor_asks_for_liveness_again(monkeypatch) -> None:
    _, example, program = ready("gpt2")
    sweep(program, [HEADS, MLPS], data(example), logit)
    for name in ("equivalence", "liveness"):
        monkeypatch.setattr(sys.modules["analysis.standing"], name, lambda *args, **kwargs: pytest.fail("asked again"))
    sweep(program, [HEADS, MLPS], data(example), logit)


def test_only_positions_that_are_read_are_unembedded() -> None:
    _, example, program = ready("gpt2")
    batches = data(example, 1)
    full = counted(lambda: effects(program, MLPS, batches, logit)).rows
    some = counted(lambda: effects(program, MLPS, batches, logit, positions=-1)).rows
    assert full[0] == 14
    assert [7 * rows for rows in some] == full


@pytest.mark.parametrize(
    ("name", "positions"),
    [("gpt2", None), ("gpt2", -1), ("gpt2", [0, 3]), ("gpt2", "at"), ("llama", None), ("llama", "at"), ("bert", None), ("bert", -1)],
)
def test_equal_to_one_run_a_target(name, positions) -> None:
    _, example, program = ready(name)
    batches = data(example)
    at = {None: slice(None), -1: [-1], (0, 3): [0, 3]}

    def read(output, batch):
        logits = output.logits
        if logits.shape[1] == 7:
            logits = logits[torch.arange(2), batch["at"]].unsqueeze(1) if positions == "at" else logits[:, at[_key(positions)]]
        return logits.square().mean((1, 2))

    for number, batch in enumerate(batches):
        batch["at"] = torch.tensor([number, 4])
    addresses = [f"{attention(name, '*')}/head[:]", mlp(name, "*"), PATH[name]]
    found = effects(program, addresses, batches, read, positions=positions)
    plain = [{key: value for key, value in batch.items() if key != "at"} for batch in batches]
    whole = iter(batches * found.shape[0])
    expected = one_by_one(program, addresses, plain, lambda output, batch: read(output, next(whole)))
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (found - found[0]).abs().max() > 1e-3


def _key(positions):
    return tuple(positions) if isinstance(positions, list) else positions


def test_memory_bounds_what_is_stacked_and_kept_and_changes_nothing(monkeypatch) -> None:
    _, example, program = ready("gpt2")
    batches, most = data(example), []
    finish = Resume.finish
    monkeypatch.setattr(Resume, "finish", lambda self, *args: most.append((args[3], len(self.groups))) or finish(self, *args))
    wide = effects(program, [HEADS, MLPS], batches, logit)
    assert max(copies for copies, _ in most) == 4
    most.clear()
    narrow = effects(program, [HEADS, MLPS], batches, logit, memory=2**12)
    assert {copies for copies, _ in most} == {1}
    assert max(groups for _, groups in most) < 4
    torch.testing.assert_close(wide, narrow, **CLOSE)


class Mixing(nn.Module):
    """Examples see one another: what is stacked side by side would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x):
        y = self.up(x).relu()
        return self.down(y - y.mean(0, keepdim=True))


def test_models_that_mix_examples_are_not_stacked(monkeypatch) -> None:
    torch.manual_seed(0)
    program = trace(Mixing().eval(), x=vectors()).apply(neurons.at("down"))
    copies = []
    finish = Resume.finish
    monkeypatch.setattr(Resume, "finish", lambda self, *args: copies.append(args[3]) or finish(self, *args))
    addresses = ["up", "up@[:, :, 3]", "up@[:, :, 4]"]
    batches = [{"x": vectors(3)}]
    found = effects(program, addresses, batches, squares)
    assert copies == [1, 1, 1]
    torch.testing.assert_close(found[0], squares(program.run(batches[0], edit={"up": 0.0})[0], {}).double(), **CLOSE)
    monkeypatch.setattr(Resume, "apart", lambda *args: True)  # what the trial is for
    assert (effects(program, addresses, batches, squares) - found).abs().max() > 1e-4


def test_programs_of_fixed_shapes() -> None:
    model, example = gpt2()
    program = trace(model, dynamic=False, **example)
    batches = data(example)
    found = effects(program, [HEADS, MLPS], batches, lambda output, batch: output.logits[:, 0, 3], positions=-1)
    torch.testing.assert_close(found, one_by_one(program, [HEADS, MLPS], batches, logit), **CLOSE)


def test_pairs_and_interactions() -> None:
    _, example, program = ready("gpt2")
    batches = data(example, 1)
    a, b = "transformer.h.0.mlp", "transformer.h.1.attn/head[2]"
    table = sweep(program, [a, b], batches, logit, pairs=True)
    assert [row["address"] for row in table.rows] == [a, b, f"{a} + {b}"]
    rewritten, _ = prepared(program, [a, b], "sweep")
    with torch.no_grad():
        edited = [logit(rewritten.run(batches[0], edit=edit)[0], {}) for edit in ({}, {a: 0.0, b: 0.0})]
    torch.testing.assert_close(table.examples[f"{a} + {b}"], (edited[1] - edited[0]).double(), **CLOSE)
    assert table[f"{a} + {b}"]["interaction"] == pytest.approx(table[f"{a} + {b}"]["effect"] - table[a]["effect"] - table[b]["effect"])


def test_tables_join_and_are_saved(tmp_path) -> None:
    _, example, program = ready("gpt2")
    zero = sweep(program, [HEADS, MLPS], data(example), logit)
    mean = sweep(program, [HEADS, MLPS], data(example), logit, mode="mean")
    frame = zero.frame.join(mean.frame, rsuffix=" (mean)")
    assert frame.shape == (10, 10)
    assert frame.notna().all().all()
    zero.save(tmp_path / "zero.csv")
    assert (tmp_path / "zero.csv").read_text().startswith("# sweep\n# rewrite PROVED")


def test_tables_of_one_title_are_told_apart() -> None:
    _, example, program = ready("gpt2")
    zero = sweep(program, ["transformer.h.1.mlp", "transformer.h.0.mlp"], data(example), logit)
    mean = sweep(program, MLPS, data(example), logit, mode="mean")
    joined = zero.join(mean)
    assert list(joined.index) == ["transformer.h.1.mlp", "transformer.h.0.mlp"]  # in the order of the first table
    row = joined.loc["transformer.h.1.mlp"]
    found = [row["effect (sweep, mode zero)"], row["effect (sweep, mode mean, over dataset)"]]
    assert found == [table["transformer.h.1.mlp"]["effect"] for table in (zero, mean)]
    assert joined.columns.is_unique
    assert zero.join(zero).columns.is_unique
    with pytest.raises(InputError, match=r"got 'transformer.h.1.mpl'.*transformer.h.1.mlp"):
        zero["transformer.h.1.mpl"]


# ------------------------------------------------------------------------------------------------ checkpoints


@cache
def small():
    model, example = PLAIN["residual"]()
    return trace(model, **example)


def residual(folder: Path, **settings):
    """A sweep of a small program, kept in a folder."""
    batches = [{"x": vectors(seed)} for seed in range(3)]
    return sweep(small(), ["blocks.*.mlp", "blocks.*.mlp/neuron[0:4]"], batches, squares, checkpoint=folder, **settings)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.analysis.test_sweep import residual
pieces = []
def kill(text):
    pieces.extend([text] if "done" in text else [])
    if len(pieces) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
residual(Path(sys.argv[1]), progress=kill)
"""


def test_a_killed_sweep_goes_on_and_gives_the_same_table(tmp_path, monkeypatch) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr.decode()
    assert len(list((tmp_path / "killed").glob("piece-*"))) == 6
    expected = residual(tmp_path / "whole")
    pieces = len(list((tmp_path / "whole").glob("piece-*")))
    seen: list[str] = []
    found = residual(tmp_path / "killed", progress=seen.append)
    assert len([text for text in seen if "done" in text]) == pieces - 6
    assert all(torch.equal(found.examples[address], values) for address, values in expected.examples.items())
    assert found.rows == expected.rows
    seen.clear()
    assert residual(tmp_path / "killed", progress=seen.append).rows == expected.rows  # all is known: nothing is run
    assert not [text for text in seen if "done" in text]


def test_a_checkpoint_of_another_sweep_is_refused(tmp_path) -> None:
    residual(tmp_path)
    with pytest.raises(FileError, match="got one of another mode and another seed"):
        residual(tmp_path, mode="mean", seed=1)
    piece = next(iter(tmp_path.glob("piece-*")))
    piece.write_bytes(b"no tensors")
    with pytest.raises(FileError, match="expected a piece of a sweep"):
        residual(tmp_path)


PIECES: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "a target that there is not": lambda piece: {**piece, "targets": piece["targets"] + 100},
    "a negative target": lambda piece: {**piece, "targets": piece["targets"] - 9},
    "targets that are no numbers of any": lambda piece: {**piece, "targets": piece["targets"] + 0.5},
    "a batch that there is not": lambda piece: {**piece, "batch": torch.tensor(7)},
    "examples that there are not": lambda piece: {**piece, "values": piece["values"].repeat(1, 2)},
    "numbers that are none": lambda piece: {**piece, "values": piece["values"] * torch.nan},
    "numbers of less precision": lambda piece: {**piece, "values": piece["values"].float()},
}


@pytest.mark.parametrize("name", PIECES)
def test_a_piece_that_this_sweep_did_not_write_is_refused(tmp_path, name: str) -> None:
    residual(tmp_path)
    path = sorted(tmp_path.glob("piece-*"))[-1]
    with safe_open(path, "pt") as file:
        told, piece = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(PIECES[name](piece), path, metadata=told)
    with pytest.raises(FileError, match="expected numbers for targets and examples of this sweep"):
        residual(tmp_path)


def test_a_piece_of_another_sweep_is_refused_whatever_its_name(tmp_path) -> None:
    residual(tmp_path / "one")
    residual(tmp_path / "other", mode="mean")
    piece = sorted((tmp_path / "other").glob("piece-*"))[0]
    shutil.copy(piece, tmp_path / "one" / piece.name)
    with pytest.raises(FileError, match="expected a piece of this sweep, got one of another"):
        residual(tmp_path / "one")


@pytest.mark.parametrize("text", ["[]", "3", '"sweep"', "no json", "[" * 100_000])
def test_a_folder_with_another_description_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(FileError, match="expected the description of a sweep"):
        residual(tmp_path)


def test_progress_counts_all_that_is_done(tmp_path) -> None:
    seen: list[str] = []
    residual(tmp_path, progress=seen.append)
    done = [text for text in seen if text.startswith("batch 1 of 3") and "done" in text]
    assert done[-1] == "batch 1 of 3: 10 of 10 targets done"
    assert len({*done}) == len(done) - 1 or len({*done}) == len(done)  # the run without edits is no target


def scaled(by: float):
    return lambda output, batch: by * squares(output, batch)


class Scaled:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, output, batch):
        return self.by * squares(output, batch)


class Slotted:
    __slots__ = ("__by",)

    def __init__(self, by: float) -> None:
        self.__by = by

    def __call__(self, output, batch):
        return self.__by * squares(output, batch)


def weighted(last: float):
    """A metric that holds an array which numpy prints in part."""
    weights = np.ones(2000)
    weights[1000] = last
    return lambda output, batch: float(weights.sum()) * squares(output, batch)


def unbound():
    """A metric with a name that is not bound when it is looked at."""

    def metric(output, batch):
        return squares(output, batch) if output is not None else never  # pyright: ignore[reportUnboundVariable]

    if metric is None:
        never = 0.0
    return metric


METRICS = {
    "a number": (lambda o, b: o.square().sum((1, 2)), lambda o, b: o.square().sum((1, 2)) * 2.0),
    "a name": (lambda o, b: o.square().sum((1, 2)), lambda o, b: o.square().mean((1, 2))),
    "what it closes over": (scaled(1.0), scaled(2.0)),
    "an object": (Scaled(1.0), Scaled(2.0)),
    "an object with slots": (Slotted(1.0), Slotted(2.0)),
    "a method": (Scaled(1.0).__call__, Scaled(2.0).__call__),
    "a large array": (weighted(1.0), weighted(2.0)),
    "a name not bound": (unbound(), squares),
    "an argument bound": (partial(lambda by, o, b: by * squares(o, b), 1.0), partial(lambda by, o, b: by * squares(o, b), 2.0)),
}


def test_labels_in_large_arrays_are_part_of_the_data(tmp_path) -> None:
    one, other = np.zeros(2000), np.zeros(2000)
    other[1000] = 1
    sweep(small(), ["blocks.0.mlp"], [{"x": vectors(0), "labels": [one]}], squares, checkpoint=tmp_path)
    with pytest.raises(FileError, match="got one of another data"):
        sweep(small(), ["blocks.0.mlp"], [{"x": vectors(0), "labels": [other]}], squares, checkpoint=tmp_path)


@pytest.mark.parametrize("name", METRICS)
def test_another_metric_is_another_sweep(tmp_path, name: str) -> None:
    one, other = METRICS[name]
    batches = [{"x": vectors(0)}]
    first = sweep(small(), ["blocks.0.mlp"], batches, one, checkpoint=tmp_path)
    assert sweep(small(), ["blocks.0.mlp"], batches, one, checkpoint=tmp_path).rows == first.rows
    with pytest.raises(FileError, match="got one of another metric"):
        sweep(small(), ["blocks.0.mlp"], batches, other, checkpoint=tmp_path)


def test_resuming_refuses_what_reaches_no_output() -> None:
    _, _, program = ready("gpt2")
    with pytest.raises(SiteError, match="no site matches|no site is called"):
        program.resume([("transformer.h.9.mlp",)])

"""Peers: what a zero-ablation sweep of heads and MLPs costs with each, on the same weights, batch and metric. Writes docs/peers.md.

python -m benchmarks.peers [NAME ...] [--all] [--shapes 1x16 8x64] [--keep]

Each peer has an environment of its own under build/peers, made once from the package index; one that cannot be installed or run gets a
row that says why. Some 15 minutes of CPU time, after the installation; with names, only these, printed and not written. `--all` sweeps
all layers instead of 0, 5 and 11, and all heads. What --keep finds under build/peers/found is not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers_of.common import TOKEN, Target

ROOT = Path(__file__).parent.parent
BUILD, DOCS = ROOT / "build" / "peers", ROOT / "docs"
TORCH = "torch==2.13.0"  # asked for with every peer: the index's own choice would be gigabytes of CUDA
SHAPES = {"1x16": 1, "8x64": 6}  # batch and positions, and of how many heads one is swept by those that run once a target
LAYERS, HEADS, SAME = 12, 12, 1e-4
INSTALLING, RUNNING = 1800, 3600  # seconds

Found = Mapping[str, Any]


class Unusable(Exception):
    """A peer that cannot be measured, and why."""


@dataclass(frozen=True)
class Peer:
    """How a peer is installed and run. Without requirements it is this environment."""

    script: str
    how: str
    packages: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    positions: int | None = None
    whole: bool = False  # runs a sweep as one, so has all heads in any case


OURS = "tautomer"
PEERS = {
    OURS: Peer("tautomer", "`analysis.sweep`, logits of all positions", whole=True),
    "tautomer, last position": Peer("tautomer", "`analysis.sweep(positions=-1)`", positions=-1, whole=True),
    "hooks": Peer("hooks", "a hook of PyTorch for each target"),
    "nnsight": Peer("nnsight", "a trace for each target", ("nnsight",), ("nnsight", "transformers")),
    "pyvene": Peer("pyvene", "an `IntervenableModel` for each target", ("pyvene",), ("pyvene", "transformers")),
    "transformer-lens": Peer("transformer_lens", "`TransformerBridge.run_with_hooks`", ("transformer-lens",), ("transformer-lens",)),
    "auto-circuit": Peer(
        "auto_circuit",
        "zeros on all edges from a target; needs a TransformerLens before 3",
        ("auto-circuit", "transformer-lens"),
        ("auto-circuit", "transformer-lens<3", "pyarrow<20"),  # it imports what 3 removed; 2 needs NumPy 1, so an older pyarrow
    ),
}


# ------------------------------------------------------------------------------------------------------------------ measuring


def targets(every: int, layers: Iterable[int]) -> list[Target]:
    """Every so manieth head, and the MLP, of each layer."""
    return [Target(layer, head) for layer in layers for head in (*range(0, HEADS, every), None)]


def subject(folder: Path) -> Path:
    """The folder of the model: GPT-2 small, random in all its weights, and a tokenizer of one word for those who ask for one."""
    if not (folder / "tokenizer_config.json").exists():
        from tokenizers import Tokenizer, models
        from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(use_cache=False)).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data += 0.1 * torch.randn(parameter.shape)
        model.save_pretrained(folder)
        word = "<|endoftext|>"
        special = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), word)
        words = Tokenizer(models.WordLevel({word: 0}, word))
        PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)  # type: ignore[arg-type]
    return folder


def environment(name: str, peer: Peer) -> Path:
    """The Python of a peer's environment, made if it is not there.

    Raises: Unusable if it does not install.
    """
    if not peer.requires:
        return Path(sys.executable)
    folder, asked = BUILD / "environments" / name, " ".join((TORCH, *peer.requires))
    python, mark = folder / "bin" / "python", folder / "installed.txt"
    if not mark.exists() or mark.read_text() != asked:
        print(f"{name}: installing {asked}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        called([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *asked.split()], INSTALLING, "install")
        mark.write_text(asked)
    return python


def called(command: Sequence[str], limit: int, verb: str) -> None:
    """Runs a command without access to any hub, on one thread.

    Raises: Unusable if it fails or takes longer than `limit` seconds.
    """
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise Unusable(f"does not {verb} within {limit} seconds") from None
    if done.returncode:
        raise Unusable(f"does not {verb}: {reason(done.stderr)}")


def reason(text: str) -> str:
    """The line of an error that says most: pip's first ERROR, else the last line of a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    line = next((line for line in lines if line.startswith("ERROR:")), lines[-1]).removeprefix("ERROR:").strip()
    return (line if len(line) <= 200 else line[:200] + "...").replace("|", "\\|")


def measured(name: str, shape: str, layers: Sequence[int], every: int, keep: bool) -> Found:
    """What a peer found, or `unusable`: why there is nothing."""
    peer = PEERS[name]
    batch, positions = (int(number) for number in shape.split("x"))
    chosen = targets(1 if peer.whole else every, layers)
    into = BUILD / "found" / f"{name.replace(', ', '-').replace(' ', '-')}-{shape}-{len(chosen)}.json"
    into.parent.mkdir(parents=True, exist_ok=True)
    if keep and into.exists():
        return json.loads(into.read_text())
    into.unlink(missing_ok=True)
    ids = torch.randint(0, 50257, (batch, positions), generator=torch.Generator().manual_seed(1)).tolist()
    told = {"folder": str(subject(BUILD / "model")), "ids": ids, "targets": chosen, "positions": peer.positions, "into": str(into)}
    task = into.with_suffix(".task")
    task.write_text(json.dumps({**told, "packages": ["torch", "transformers", *peer.packages]}))
    try:
        called([str(environment(name, peer)), "-m", f"benchmarks.peers_of.{peer.script}", str(task)], RUNNING, "run")
    except Unusable as why:
        return {"unusable": str(why)}
    return json.loads(into.read_text())


# ------------------------------------------------------------------------------------------------------------------ the table


def difference(ours: Found, theirs: Found) -> float:
    """The largest difference of an effect from ours, over all examples of all targets that were measured. Units: logits."""
    pairs = [torch.tensor([ours["effects"][target], effect], dtype=torch.float64) for target, effect in theirs["effects"].items()]
    return torch.stack(pairs).diff(dim=1).abs().max().item()  # NaN if one is


def agrees(ours: Found, theirs: Found) -> bool:
    """Whether a peer measured what we did."""
    return difference(ours, theirs) <= SAME


def row(name: str, ours: Found, found: Found) -> str:
    """A peer's line."""
    if "unusable" in found:
        return f"| {name} | {found['unusable']} | | | | |"
    ratios, apart = found["ratios"], difference(ours, found)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    same = f"{apart:.1e}" if agrees(ours, found) else f"**{apart:.1e}: not the same was measured**"
    return f"| {name} | {statistics.median(ratios):.2f} | {spread} | {len(found['effects'])} | {found['setting_up']:.1f} | {same} |"


def section(shape: str, found: Mapping[str, Found]) -> list[str]:
    """The lines for one shape of batch, ours among the findings."""
    ours = found[OURS]
    sizes = [abs(one) for effect in ours["effects"].values() for one in effect]
    forwards = [one["forwards"] for one in found.values() if "forwards" in one]
    typical, middle = statistics.median(seconds for listed in forwards for seconds in listed), statistics.median(sizes)
    return [
        f"## {shape.replace('x', ' x ')} tokens",
        "",
        f"A plain forward took {typical:.2f} CPU seconds. Effects are {middle:.2g} logits in the median, at most {max(sizes):.2g}.",
        "",
        "| peer | a target | from, to | targets | setting up, seconds | effects differ from ours by |",
        "|---|---|---|---|---|---|",
        *(row(name, ours, one) for name, one in found.items()),
        "",
    ]


HEAD = f"""# Peers

Generated by `{{command}}`, {{dates}}. A sweep ablates heads and MLPs of GPT-2 small (random weights) with zeros, one by one, and takes
the logit of token {TOKEN} at the last position of every example: {{layers}}. *A target*: what one costs, in plain forwards of the same
model by transformers, in the same process, in turn; CPU time of one thread, the median. *From, to*: of single targets; where a whole
sweep is measured, of whole sweeps (three; of the larger batch one). *Setting up* is done once a model, and is not in the ratios: what
wraps it, or trace of the whole batch, rewrite, proof and the check for liveness. Peers that run the model once a target cost the same for
all, so of the larger batch they are measured on fewer heads. *Effects differ*: the largest difference over all examples and targets; more
than {SAME:g} would be said.

| peer | versions | how it ablates |
|---|---|---|
"""


def page(found: Mapping[str, Mapping[str, Found]], layers: Sequence[int]) -> str:
    """The whole page, from the findings by shape and peer."""
    listed = [one for by_name in found.values() for one in by_name.values() if "versions" in one]
    dates = sorted({one["date"] for one in listed})
    every = len(layers) == LAYERS
    command = f"python -m benchmarks.peers{' --all' if every else ''}"
    which = "all layers" if every else f"layers {', '.join(map(str, layers[:-1]))} and {layers[-1]}"
    names = list(dict.fromkeys(name for by_name in found.values() for name in by_name))
    head = HEAD.format(command=command, dates=" to ".join(dict.fromkeys((dates[0], dates[-1]))), layers=which)
    about = [f"| {name} | {versions(name, found)} | {PEERS[name].how} |" for name in names]
    sections = [line for shape, by_name in found.items() for line in section(shape, by_name)]
    return head + "\n".join([*about, "", *sections]).rstrip() + "\n"


def versions(name: str, found: Mapping[str, Mapping[str, Found]]) -> str:
    """The versions of a peer, and of what it runs on."""
    told = next((by_name[name]["versions"] for by_name in found.values() if "versions" in by_name.get(name, {})), {})
    return ", ".join(f"{package} {version}" for package, version in reversed(told.items())) or "none"


def main() -> None:
    """Measures, prints, and writes the page if no names were given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}; tautomer is always measured")
    parser.add_argument("--all", action="store_true", help="all layers and heads")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--keep", action="store_true", help="what was found before is not measured again")
    told = parser.parse_args()
    if unknown := set(told.names) - PEERS.keys():
        parser.error(f"names: expected some of {', '.join(PEERS)}, got {', '.join(sorted(unknown))}.")
    layers = range(LAYERS) if told.all else (0, 5, 11)
    found: dict[str, dict[str, Found]] = {}
    for shape in told.shapes:
        by_name = found.setdefault(shape, {})
        for name in dict.fromkeys((OURS, *(told.names or PEERS))):
            by_name[name] = measured(name, shape, layers, 1 if told.all else SHAPES[shape], told.keep)
            if "unusable" in by_name[OURS]:
                sys.exit(f"{OURS}: {by_name[OURS]['unusable']}")
            print(f"{shape} {row(name, by_name[OURS], by_name[name])}", flush=True)
    if not told.names and list(found) == list(SHAPES):
        (DOCS / "peers.md").write_text(page(found, layers))
        print(f"written: {DOCS / 'peers.md'}")
    if not all(agrees(by_name[OURS], one) for by_name in found.values() for one in by_name.values() if "unusable" not in one):
        sys.exit("peers: expected the effects that we find, got others. Look for who is wrong: the last column says by how much.")


if __name__ == "__main__":
    main()

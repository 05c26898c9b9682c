"""The command line: `tautomer demo | trace | sites | apply | verify | show | export`.

Exit codes: 0 done, or proved (with `verify --require consistent`: no difference found); 1 refuted; 2 misuse; 3 neither proved nor
refuted; 70 a bug of ours. `verify --replay` gives 1 if the witness still separates the two, 0 if not, 3 if not and it was found for other
models. Results go to standard output, progress and errors to standard error.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rewrite import Program

MISUSE, BUG, INTERRUPTED, PIPE_CLOSED = 2, 70, 130, 141
PATIENCE = 2.0  # Units: seconds

app = typer.Typer(
    name="tautomer",
    help="Rewrites a PyTorch model into another form of the same function, and proves that nothing changed.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A saved program.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the program is saved.")]
Kind = Literal["output", "input", "term", "family", "part", "path"]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tautomer {version('tautomer')}")
        raise typer.Exit


@app.callback()
def options(
    shown: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Prints the version.")] = False,
) -> None:
    """Rewrites a PyTorch model into another form of the same function, and proves that nothing changed."""


@app.command()
def demo() -> None:
    """The whole story on a small model that is included."""
    from analysis.demo.story import tell

    raise typer.Exit(tell(typer.echo))


@app.command()
def trace(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="hf:NAME_OR_DIR, or file.py:factory.")],
    output: Output,
    example: Annotated[Path | None, typer.Option(metavar="FILE", help="Example inputs by name: a safetensors file.")] = None,
    static: Annotated[bool, typer.Option("--static", help="Fix all shapes to the example's.")] = False,
    forward_only: Annotated[bool, typer.Option("--forward-only", help="Accept a model whose gradients tracing loses.")] = False,
) -> None:
    """Traces a model, saves the program."""
    from analysis.source import model_of
    from rewrite import trace as traced

    with working(f"tracing {spec}"):
        model, inputs = model_of(spec, example)
        program = traced(model, dynamic=not static, forward_only=forward_only, **inputs)
        program.save(output)
    typer.echo(_summary(program, output))


@app.command()
def sites(
    directory: Folder,
    glob: Annotated[str, typer.Argument(metavar="GLOB", help="Which: `*` stops at the marks of an address, `**` does not.")] = "**",
    kind: Annotated[Kind | None, typer.Option(help="Sites of this kind only.")] = None,
) -> None:
    """Lists the values that passes and gates can name."""
    program = _loaded(directory)
    program.select(glob, kind=kind)  # says what is near if nothing matches
    typer.echo(str(program.sites(glob, kind=kind)))


@app.command()
def apply(
    directory: Folder,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="The passes, one [[pass]] table each.")],
    output: Output,
) -> None:
    """Applies the passes of a plan, saves the result."""
    from analysis.plan import read_plan

    program = _loaded(directory)
    bound = read_plan(plan, program)
    with working(f"applying {plan}"):
        rewritten = program.apply(*bound)
        rewritten.save(output)
    for step in rewritten.steps[len(program.steps) :]:
        typer.echo(f"{step.name} at {', '.join(step.sites)}")
        for site, reason in step.skipped.items():
            typer.echo(f"  skipped {site}: {reason}")
    typer.echo(_summary(rewritten, output))


@app.command()
def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="A saved program, or a model as for trace.")],
    b: Annotated[str | None, typer.Argument(metavar="[B]", help="Another one; left out: the model that A was traced from.")] = None,
    require: Annotated[Literal["proved", "assuming", "consistent"], typer.Option(help="What makes the exit code 0.")] = "proved",
    bound: Annotated[str, typer.Option(help="The largest error probability of a proof, such as 2^-40.")] = "2^-20",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also writes JSON; - is standard output.")] = None,
    junit_file: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="Also writes JUnit XML, for CI.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draws keys from this seed, not from fresh entropy; the report says so.")] = None,
    assuming: Annotated[
        list[str] | None,
        typer.Option(metavar="SENTENCE", help="Taken on your word: 'lib::op is elementwise', 'literals are roots'."),
    ] = None,
    edits: Annotated[bool, typer.Option(help="Also decides whether an edit at each term of A can reach an output.")] = True,
    witness: Annotated[Path | None, typer.Option(metavar="FILE", help="Where a witness is written, if there is one.")] = None,
    replay: Annotated[Path | None, typer.Option(metavar="FILE", help="Proves nothing, but runs both on this witness.")] = None,
) -> None:
    """Proves or refutes that two programs compute the same."""
    from analysis.replay import read_witness, replayed
    from analysis.results import check_writable, in_words, junit, write
    from verify import equivalence

    error = read_bound(bound)
    check_writable("--json", json_file)
    check_writable("--junit", junit_file)
    check_writable("--witness", witness)
    known = None if replay is None else read_witness(replay, witness, junit_file)
    sides = _compared(a, b)
    first = sides[-1]  # claims are those of A
    if known is not None:
        shown = replayed(sides, known)
        typer.echo(in_words(shown, json_file))
        raise typer.Exit(shown.exit_code())
    start = time.monotonic()
    with working("proving") as tell:
        report = equivalence(*sides, bound=error, seed=seed, edits=edits and bool(first.steps), assuming=assuming or (), progress=tell)
    if witness is not None and report.witness is not None:
        report.witness.save(witness)
    if junit_file is not None:
        write(junit_file, junit(report, require, time.monotonic() - start))
    typer.echo(in_words(report, json_file))
    if witness is not None:
        typer.echo(f"witness: {witness}" if report.witness else f"{witness}: not written, there is no witness", err=True)
    raise typer.Exit(report.exit_code(require))


def _compared(a: str, b: str | None) -> tuple[Program, ...]:
    """The programs to compare, A last; a model is traced on the example of the saved program that it is compared with."""
    from analysis.source import names_a_model, program_of
    from rewrite import InputError

    if b is None and names_a_model(a):
        raise InputError(f"verify {a}: expected a saved program or two models, got one model. Name what it is to be compared with.")
    with working(f"reading {' and '.join(filter(None, (a, b)))}"):
        second = None if b is None or names_a_model(b) else program_of(b)
        first = program_of(a, like=second)
        second = program_of(b, like=first) if b is not None and second is None else second
    return (first,) if second is None else (second, first)


@app.command()
def show(directory: Folder) -> None:
    """Prints a program: its history, its operations, its sites."""
    typer.echo(str(_loaded(directory)))


@app.command()
def export(
    directory: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the .pt2 is written.")],
    gates: Annotated[Literal["buffers", "inputs"], typer.Option(help="What gates become.")] = "buffers",
) -> None:
    """Writes a .pt2 that plain torch runs."""
    program = _loaded(directory)
    with working(f"exporting {file}"):
        program.export(file, gates=gates)
    typer.echo(f"{file}: {file.stat().st_size:,} bytes, {len(program.gates)} gates")


def read_bound(text: str) -> float:
    """The number that `2^-40`, `2**-40` or `1e-9` spells.

    Raises: InputError unless it lies between 0 and 1.
    """
    from rewrite import InputError

    power = re.fullmatch(r"2(?:\^|\*\*)-(\d{1,3})", text.replace(" ", ""))
    try:
        value = 2.0 ** -int(power[1]) if power else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise InputError(f"--bound: expected a probability such as 2^-40 or 1e-9, got {text!r}. Smaller means a longer proof.")
    return value


@contextmanager
def working(what: str) -> Iterator[Callable[[str], None]]:
    """Says on standard error what takes longer than two seconds: a spinner at a terminal, one plain line elsewhere.

    What it yields is told what is being done now, which the spinner shows.
    """
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with console.status(what, spinner="dots") as status:
            yield status.update
        return
    line = threading.Timer(PATIENCE, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    line.daemon = True
    line.start()
    try:
        yield lambda now: None
    finally:
        line.cancel()


def _loaded(directory: Path) -> Program:
    from rewrite import load

    with working(f"loading {directory}"):
        return load(directory)


def _summary(program: Program, output: Path) -> str:
    counts = f"{len(program.sites_by_address)} sites, {len(program.steps)} steps, {len(program.gates)} gates"
    checks = "; ".join(f"{what}: {found}" for what, found in program.header.checks.items())
    return f"{output}: {program.header.model}, {counts}; dynamic: {program.header.dynamic}; {checks}"


def main() -> None:
    """Runs the command line and exits with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of `tautomer ARGUMENTS`; misuse is one line, a bug of ours a traceback."""
    from rewrite import TautomerError

    try:
        return app(args=arguments or ["--help"], prog_name="tautomer", standalone_mode=False) or 0
    except typer.TyperException as error:
        print(f"tautomer: {error.format_message().rstrip('.')}. See tautomer --help.", file=sys.stderr)
        return MISUSE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the last flush would complain
        return PIPE_CLOSED
    except (TautomerError, OSError) as error:
        print(f"tautomer: {' '.join(str(error).split())}", file=sys.stderr)
        return MISUSE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception:  # a crash must not look like the exit code 1, which means refuted
        traceback.print_exc()
        print("tautomer: that is a bug; the lines above belong in its report.", file=sys.stderr)
        return BUG


if __name__ == "__main__":
    main()

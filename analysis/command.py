"""The command `tautomer`: trace, rewrite, verify, show and export programs. Exit codes: 0 proved (or done), 1 refuted, 2 misuse, 3 not proved."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import click
import typer
from rich.console import Console

from rewrite import TautomerError, load

app = typer.Typer(name="tautomer", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
notices = Console(stderr=True)

Folder = Annotated[str, typer.Argument(metavar="DIR", help="A folder that tautomer wrote.")]
Output = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]
Kind = Literal["output", "input", "term", "family", "part", "path"]


@contextmanager
def working(what: str) -> Iterator[None]:
    """Shows `what` while it goes on: a spinner on a terminal, one line elsewhere."""
    if not notices.is_terminal:
        notices.print(f"{what} ...", highlight=False)
        yield
        return
    with notices.status(what):
        yield


@app.command()
def demo() -> int:
    """The main job on the bundled model: rewrite, prove, switch off, save, export."""
    from analysis.demo.story import tell

    return tell(lambda text: print(text, flush=True))


@app.command()
def trace(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="hf:NAME_OR_DIR, or file.py:factory.")],
    out: Output,
    example: Annotated[Path | None, typer.Option(help="Example inputs by name, a safetensors file.")] = None,
    static: Annotated[bool, typer.Option("--static", help="Fix all shapes to the example's.")] = False,
    forward_only: Annotated[bool, typer.Option("--forward-only", help="Accept a model whose gradients do not survive.")] = False,
) -> int:
    """Traces a model and saves the program."""
    from analysis.source import program_of

    with working(f"tracing {spec}"):
        program = program_of(spec, example=example, dynamic=not static, forward_only=forward_only)
        program.save(out)
    header = program.header
    print(f"{out}: {header.model}, {len(program.sites_by_address)} sites, dynamic: {header.dynamic}; " + "; ".join(f"{k} {v}" for k, v in header.checks.items()))
    return 0


@app.command()
def sites(
    directory: Folder,
    glob: Annotated[str, typer.Argument(help="Addresses: * stops at . and /, ** does not.")] = "**",
    kind: Annotated[Kind | None, typer.Option(help="Sites of this kind only.")] = None,
) -> int:
    """Lists the sites that can be rewritten, read or edited."""
    program = load(directory)
    program.select(glob, kind=kind)
    print(program.sites(glob, kind=kind))
    return 0


@app.command()
def apply(
    directory: Folder,
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="Passes, one [[pass]] table each.")],
    out: Output,
) -> int:
    """Applies the passes of a plan and saves the rewritten program."""
    from analysis.plan import read_plan

    program = load(directory)
    bounds = read_plan(plan, program)
    with working(f"applying {len(bounds)} passes"):
        rewritten = program.apply(*bounds)
        rewritten.save(out)
    for step in rewritten.steps[len(program.steps) :]:
        print(f"{step.name}: at {len(step.sites)} sites" + "".join(f"\n  skipped {site}: {why}" for site, why in step.skipped.items()))
    print(f"{out}: saved. Prove it with: tautomer verify {out}")
    return 0


@app.command()
def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="A folder, or a SPEC.")],
    b: Annotated[str | None, typer.Argument(metavar="B", help="What to compare with; the program as traced if left out.")] = None,
    require: Annotated[Literal["proved", "consistent"], typer.Option(help="What exit code 0 takes.")] = "proved",
    bound: Annotated[float, typer.Option(help="The probability of error allowed, e.g. 1e-12.")] = 2.0**-20,
    json: Annotated[Path | None, typer.Option(help="Also write the report here, for machines.")] = None,
    seed: Annotated[int | None, typer.Option(help="Draw keys from this seed instead of fresh entropy.")] = None,
) -> int:
    """Decides whether two programs compute the same function, and whether their terms are what they claim."""
    from analysis.source import program_of
    from verify import equivalence

    with working(f"reading {a}"):
        first = program_of(a)
    second = None
    if b is not None:
        with working(f"reading {b}"):
            second = program_of(b, like=first)
    with working("verifying"):
        report = equivalence(first, second, bound=bound, seed=seed)
    print(report)
    if json is not None:
        write_text(json, report.to_json())
    return report.exit_code(require)


@app.command()
def show(directory: Folder) -> int:
    """Prints a program: its header, history, and every node with the sites it carries."""
    print(load(directory))
    return 0


@app.command()
def export(
    directory: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The .pt2 to write; plain torch runs it.")],
    gates: Annotated[Literal["buffers", "inputs"], typer.Option(help="What gates become.")] = "buffers",
) -> int:
    """Writes a program that runs without tautomer, its gates as named buffers."""
    program = load(directory)
    with working(f"exporting {directory}"):
        program.export(file, gates=gates)
    print(f"{file}: written, {file.stat().st_size:,} bytes")
    return 0


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError as error:
        raise TautomerError(f"{path}: expected a place to write to, got: {error.strerror}. Choose another one.") from None


def main() -> None:
    """Runs the command line and exits."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.exceptions.ClickException as error:
        error.show()
        code = 2
    except (TautomerError, NotADirectoryError) as error:
        print(f"tautomer: {error}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, click.exceptions.Abort):
        print("tautomer: stopped.", file=sys.stderr)
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()

"""Every block of the README, and of pages in docs, runs, in order; Python prints what the text block behind it shows, commands exit with 0.

`README_UPDATE=1 pytest tests/test_readme.py` writes what is printed now into the pages.
"""

import contextlib
import io
import os
import re
import shlex
from pathlib import Path

import pytest

from analysis.command import app, run

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<shown>.*?)```)?", re.DOTALL)
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def figures_masked(text: str) -> str:
    """The text with measured figures blanked, and spaces made one: rounding differs from one processor to another."""
    return re.sub(r" +", " ", re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "0", text)).strip()


def printed(code: str, names: dict) -> str:
    """What the code prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), names)
    return out.getvalue()


PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md") if BLOCK.search(page.read_text()))]


@pytest.mark.parametrize("name", PAGES)
def test_blocks_run_and_print_what_is_shown(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / name
    text, names = page.read_text(), {}
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= (5 if name == "README.md" else 1)
    monkeypatch.chdir(tmp_path)
    for block in reversed([(block, printed(block["code"], names)) for block in blocks]):
        match, output = block
        if os.environ.get("README_UPDATE") and match["shown"] is not None:
            text = text[: match.start("shown")] + output + text[match.end("shown") :]
        else:
            assert figures_masked(match["shown"] or "") == figures_masked(output)
    if os.environ.get("README_UPDATE"):
        page.write_text(text)


def test_a_wrong_output_would_be_noticed() -> None:
    assert figures_masked("PROVED: rho 0.8") == figures_masked("PROVED: rho 1.1")
    assert figures_masked("PROVED: rho 0.8") != figures_masked("DIFFERS: rho 0.8")


def test_the_commands_shown_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    lines = [shlex.split(line, comments=True) for block in CONSOLE.findall((ROOT / "README.md").read_text()) for line in block.splitlines()]
    assert {words[0] for words in lines} == {"make", "tautomer"}
    for words in lines:
        if words[0] == "tautomer":
            assert run(words[1:]) == 0, " ".join(words)
        else:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_commands_are_the_promised_ones() -> None:
    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert known == {"demo", "trace", "sites", "apply", "verify", "show", "export"}


def test_links_lead_to_files() -> None:
    for page in (ROOT / name for name in PAGES):
        linked = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text())
        assert linked or page.name != "README.md"
        assert not [path for path in linked if not (page.parent / path).exists()]

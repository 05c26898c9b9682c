"""Every Python block of the README runs, in order, and prints what the text block behind it shows.

`README_UPDATE=1 pytest tests/test_readme.py` writes what is printed now into the README.
"""

import contextlib
import io
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<shown>.*?)```)?", re.DOTALL)


def figures_masked(text: str) -> str:
    """The text with measured figures blanked: rounding differs from one processor to another."""
    return re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "0", text).strip()


def printed(code: str, names: dict) -> str:
    """What the code prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), names)
    return out.getvalue()


def test_blocks_run_and_print_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = ROOT / "README.md"
    text, names = readme.read_text(), {}
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) >= 5
    monkeypatch.chdir(tmp_path)
    for block in reversed([(block, printed(block["code"], names)) for block in blocks]):
        match, output = block
        if os.environ.get("README_UPDATE") and match["shown"] is not None:
            text = text[: match.start("shown")] + output + text[match.end("shown") :]
        else:
            assert figures_masked(match["shown"] or "") == figures_masked(output)
    if os.environ.get("README_UPDATE"):
        readme.write_text(text)


def test_a_wrong_output_would_be_noticed() -> None:
    assert figures_masked("PROVED: rho 0.8") == figures_masked("PROVED: rho 1.1")
    assert figures_masked("PROVED: rho 0.8") != figures_masked("DIFFERS: rho 0.8")


def test_the_commands_shown_exist() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "Makefile").read_text()
    from analysis.command import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    used = set(re.findall(r"^tautomer ([a-z]+)", text, re.MULTILINE))
    assert used <= known
    assert {"demo", "trace", "sites", "apply", "verify", "show", "export"} == known

"""The package as installed: its import names are its own, its version is said once, and its floors hold."""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"rewrite", "passes", "verify", "analysis"}


def clashes() -> list[str]:
    """A line for each other distribution that provides one of our import names."""
    provided = packages_distributions()
    return [
        f"the installed distribution {other!r} also provides the import name {name!r}: use an environment without it"
        for name in sorted(OURS)
        for other in sorted(set(provided.get(name, ())) - {"tautomer"})
    ]


def test_no_other_distribution_provides_our_import_names() -> None:
    assert not clashes(), "\n".join(clashes())


def test_another_distribution_with_our_import_name_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "verifier-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: verifier\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text("verify\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert clashes() == ["the installed distribution 'verifier' also provides the import name 'verify': use an environment without it"]


def test_wheel_ships_every_package_and_nothing_else() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == OURS
    assert all((ROOT / name / "py.typed").is_file() for name in OURS)


@pytest.mark.parametrize("floor", ["rewrite", "passes", "verify"])
def test_a_floor_imports_nothing_above_it(floor: str) -> None:
    allowed = {floor, "rewrite"}
    code = f"import sys, {floor}; print(*sorted({{m.split('.')[0] for m in sys.modules}} & {OURS!r}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(found) <= allowed


def test_no_file_is_called_after_a_drawer() -> None:
    drawers = {"utils", "helpers", "common", "base", "misc"}
    assert not [path for name in OURS for path in (ROOT / name).rglob("*.py") if path.stem in drawers]

"""The GitHub Action: its scripts run by bash as GitHub runs them, and no input is ever part of a script."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from rewrite import load
from tests.golden_folder import FOLDER

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: dict[str, Any] = {step["name"]: step for step in ACTION["runs"]["steps"]}


def test_it_is_a_composite_action_whose_inputs_are_all_used() -> None:
    assert ACTION["runs"]["using"] == "composite"
    text = "\n".join(str(step.get(key, "")) for step in STEPS.values() for key in ("env", "with", "if"))
    assert all(f"inputs.{name}" in text for name in ACTION["inputs"])
    assert all(step.get("shell") == "bash" for step in STEPS.values() if "run" in step)


def test_no_input_is_written_into_a_script() -> None:
    scripts = [step["run"] for step in STEPS.values() if "run" in step]
    assert scripts and not any("${{" in script for script in scripts)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs a step's script in a folder of its own, with the inputs as GitHub gives them; returns what it did and the summary."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, command in {
        "tautomer": f'exec "{sys.executable}" -m analysis.command "$@"',
        "python": f'exec "{sys.executable}" "$@"',
    }.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{command}\n")
        (bin_folder / name).chmod(0o755)

    def step(name: str, **given: str) -> tuple[subprocess.CompletedProcess[str], str]:
        inputs = {key: str(value.get("default", "")) for key, value in ACTION["inputs"].items()} | given
        env = {key: inputs[text.removeprefix("${{ inputs.").removesuffix(" }}")] for key, text in STEPS[name]["env"].items()}
        summary, script = tmp_path / "summary.md", tmp_path / "step.sh"
        script.write_text(STEPS[name]["run"])
        summary.write_text("")
        env |= {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTION_PATH": str(ROOT), "PYTHONPATH": str(ROOT)}
        env |= {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
            capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **env}, check=False,
        )  # fmt: skip
        return done, summary.read_text()

    return step


def test_what_is_proved_passes_and_leaves_its_results(run: Any, tmp_path: Path) -> None:
    done, summary = run("Verify", program=str(FOLDER))
    assert done.returncode == 0, done.stdout + done.stderr
    assert summary.startswith("### tautomer verify: exit code 0\n\n    PROVED: MLP after 3 steps")
    assert 'failures="0"' in (tmp_path / "tautomer.xml").read_text() and '"verdict": "PROVED"' in (tmp_path / "tautomer.json").read_text()
    first, *_, last = done.stdout.splitlines()
    assert first.startswith("::stop-commands::") and last == f"::{first.removeprefix('::stop-commands::')}::"


def test_what_is_refuted_fails_with_its_exit_code(run: Any, tmp_path: Path) -> None:
    other = load(FOLDER)
    with torch.no_grad():
        other.tensors["up.weight"][0] += 1
    other.save(tmp_path / "other")
    done, summary = run("Verify", program=str(FOLDER), against=str(tmp_path / "other"), junit="", json="")
    assert done.returncode == 1
    assert "    REFUTED" in summary and not (tmp_path / "tautomer.xml").exists()


def test_inputs_are_words_not_code(run: Any, tmp_path: Path) -> None:
    done, summary = run("Verify", program='$(touch pwned)"; touch pwned; `touch pwned`', bound="2^-40")
    assert done.returncode == 2 and "exit code 2" in summary and "expected a folder with program.json" in summary
    done, _ = run("Verify", program="--help")
    assert done.returncode == 2  # not an option
    assert not (tmp_path / "pwned").exists()


def test_it_installs_what_it_came_with(run: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "bin" / "python").write_text(f'#!/bin/bash\necho "$@" >> "{log}"\n[ "$1" != -c ]\n')
    done, _ = run("Install", **{"torch-index": "https://example.org/$(touch pwned)"})
    assert done.returncode == 0
    wanted = [
        "-c import torch",
        "-m pip install --quiet torch>=2.10,<2.14 --index-url https://example.org/$(touch pwned)",
        f"-m pip install --quiet {ROOT}",
    ]
    assert log.read_text().splitlines() == wanted and not (tmp_path / "pwned").exists()


def test_the_workflow_in_the_docs_is_five_lines_of_this_action() -> None:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    steps = yaml.safe_load(text)["jobs"]["same-model"]["steps"]
    assert len(text.splitlines()) == 5 and set(steps[1]["with"]) <= set(ACTION["inputs"])
    assert shutil.which("bash")

"""The command line, as a person types it: results, exit codes, and one clear line for every misuse."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from analysis import command
from analysis.command import read_bound, run, working
from rewrite import InputError, load

MODELS = """
import torch
from torch import nn

class Residual(nn.Module):
    def __init__(self, sign=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.mlp, self.head, self.sign = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)), nn.Linear(6, 3), sign

    def forward(self, x):
        return self.head(x + self.sign * self.mlp(x))

def right():
    return Residual(), {"x": torch.ones(2, 5, 6)}

def wrong():
    return Residual(sign=-1.0), {"x": torch.ones(2, 5, 6)}

class Last(nn.Module):
    def __init__(self, on):
        super().__init__()
        self.on = on

    def forward(self, y):
        return y * 3 + ((y > 50.0) * 2.0 if self.on else 0.0)

class Bounded(nn.Module):
    def __init__(self, on):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(3, 3), nn.Tanh(), Last(on)

    def forward(self, x):
        y = self.act(self.first(x))
        return (y + y) + self.last(y)

def bounded():
    return Bounded(False), {"x": torch.ones(2, 3)}

def triggered():
    return Bounded(True), {"x": torch.ones(2, 3)}
"""
PLAN = """
[[pass]]
name = "direction"
at = "mlp"
term = "up"
d = "vectors.safetensors:up"

[[pass]]
name = "gates"
at = "mlp/up"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, a plan, a traced program and a rewritten one."""
    here = tmp_path_factory.mktemp("command")
    (here / "models.py").write_text(MODELS)
    (here / "plan.toml").write_text(PLAN)
    save_file({"up": torch.arange(6.0)}, here / "vectors.safetensors")
    assert run(["trace", f"{here}/models.py:right", "-o", f"{here}/traced"]) == 0
    assert run(["apply", f"{here}/traced", f"{here}/plan.toml", "-o", f"{here}/rewritten"]) == 0
    return here


def test_trace_says_what_it_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["trace", f"{folder}/models.py:right", "-o", f"{folder}/again"]) == 0
    out = capsys.readouterr().out
    assert "Residual" in out
    assert "outputs: bit-identical" in out


def test_static_trace_fixes_the_shapes(folder: Path) -> None:
    assert run(["trace", f"{folder}/models.py:right", "-o", f"{folder}/static", "--static"]) == 0
    with pytest.raises(InputError):
        load(folder / "static")(x=torch.ones(3, 5, 6))
    assert load(folder / "traced")(x=torch.ones(3, 5, 6)).shape == (3, 5, 3)


def test_sites_lists_what_a_glob_matches(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sites", f"{folder}/rewritten", "mlp/**"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["mlp/up", "mlp/up.rest"]


def test_sites_of_one_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sites", f"{folder}/rewritten", "--kind", "term"]) == 0
    assert {line.split()[1] for line in capsys.readouterr().out.splitlines()} == {"term"}


def test_apply_says_where_each_pass_applied(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["apply", f"{folder}/traced", f"{folder}/plan.toml", "-o", f"{folder}/twice"]) == 0
    out = capsys.readouterr().out
    assert "direction at mlp\n" in out
    assert "gates at mlp/up\n" in out


def test_verify_proves_the_rewrite_and_its_claims(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{folder}/rewritten"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("PROVED")
    assert "the rest has no component along d" in out


def test_verify_ties_a_folder_to_its_model_and_still_proves_its_claims(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{folder}/rewritten", f"{folder}/models.py:right"]) == 0
    assert "the rest has no component along d" in capsys.readouterr().out


def test_verify_refutes_another_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{folder}/rewritten", f"{folder}/models.py:wrong"]) == 1
    assert capsys.readouterr().out.startswith("REFUTED")


def test_verify_compares_two_models(folder: Path) -> None:
    assert run(["verify", f"{folder}/models.py:right", f"{folder}/models.py:right"]) == 0
    assert run(["verify", f"{folder}/models.py:right", f"{folder}/models.py:wrong"]) == 1


def test_a_hub_checkpoint_is_told_from_another_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
    for seed in (0, 1):
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(tmp_path / f"seed{seed}")
    assert run(["trace", f"hf:{tmp_path}/seed0", "-o", f"{tmp_path}/traced"]) == 0
    capsys.readouterr()
    assert run(["verify", f"{tmp_path}/traced", f"hf:{tmp_path}/seed0"]) == 0
    assert capsys.readouterr().out.startswith("PROVED")
    assert run(["verify", f"{tmp_path}/traced", f"hf:{tmp_path}/seed1"]) == 1
    assert "other weights: transformer.wte.weight" in capsys.readouterr().out


def test_a_witness_is_written_and_replayed_until_the_model_is_repaired(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong, file = f"{folder}/models.py:right", f"{folder}/models.py:wrong", f"{folder}/witness.safetensors"
    assert run(["verify", right, wrong, "--witness", file]) == 1
    captured = capsys.readouterr()
    assert "elements differ: everywhere" in captured.out
    assert f"witness: {file}" in captured.err
    assert run(["verify", right, wrong, "--replay", file]) == 1
    assert capsys.readouterr().out.startswith("STILL DIFFERS: Residual against Residual")
    assert run(["verify", right, f"{folder}/rewritten", "--replay", file]) == 0
    assert capsys.readouterr().out.startswith("AGREES")
    assert run(["verify", f"{folder}/rewritten", "--replay", file]) == 0
    capsys.readouterr()
    assert run(["verify", f"{folder}/traced", wrong, "--replay", file, "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["separates"] is True


def test_a_witness_of_a_region_is_replayed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    off, on, file = f"{folder}/models.py:bounded", f"{folder}/models.py:triggered", f"{folder}/region.safetensors"
    assert run(["verify", off, on, "--witness", file]) == 1
    assert "not shown to be reachable" in capsys.readouterr().out
    assert run(["trace", on, "-o", f"{folder}/triggered"]) == 0
    assert run(["verify", off, f"{folder}/triggered", "--replay", file]) == 1
    assert run(["verify", off, off, "--replay", file]) == 0


def test_no_witness_no_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{folder}/rewritten", "--no-edits", "--witness", f"{folder}/none.safetensors"]) == 0
    assert "not written, there is no witness" in capsys.readouterr().err
    assert not (folder / "none.safetensors").exists()


def test_an_edited_program_is_neither_proved_nor_refuted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = load(folder / "rewritten")
    program.gates["mlp/up"].g = 0.0
    program.save(folder / "edited")
    assert run(["verify", f"{folder}/edited"]) == 3
    assert capsys.readouterr().out.startswith("EDITED")
    assert run(["verify", f"{folder}/edited", "--require", "consistent"]) == 3


def test_a_tighter_bound_is_kept(folder: Path) -> None:
    assert run(["verify", f"{folder}/rewritten", "--bound", "2^-60", "--json", f"{folder}/report.json"]) == 0
    assert json.loads((folder / "report.json").read_text())["log2_bound"] <= -60


def test_json_on_standard_output_is_nothing_but_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{folder}/rewritten", "--json", "-", "--seed", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["verdict"] == "PROVED"
    assert report["seeded"] is True


def test_show_prints_history_and_sites(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", f"{folder}/rewritten"]) == 0
    out = capsys.readouterr().out
    assert "direction(" in out
    assert "# mlp/up" in out


def test_exported_file_runs_and_its_gate_closes(folder: Path) -> None:
    assert run(["export", f"{folder}/rewritten", f"{folder}/model.pt2"]) == 0
    module = torch.export.load(folder / "model.pt2").module()
    program, x = load(folder / "rewritten"), torch.randn(3, 4, 6)
    torch.testing.assert_close(module(x=x), program(x=x))
    dict(module.named_buffers())["gate__mlp_up"].zero_()
    program.gates["mlp/up"].g = 0.0
    torch.testing.assert_close(module(x=x), program(x=x))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'. See tautomer --help."),
        (["trace"], "Missing argument 'SPEC'"),
        (["trace", "{}/models.py:right"], "Missing option"),
        (["trace", "{}/models.py:left", "-o", "{}/x"], "expected a function 'left'"),
        (["trace", "{}/models.py:right", "-o", "{}/x", "--example", "{}/none"], "expected a safetensors file, got nothing there"),
        (["trace", "{}/models.py:right", "-o", "{}/plan.toml"], "plan.toml"),
        (["sites", "{}/nowhere"], "nowhere"),
        (["sites", "{}/rewritten", "mpl"], "no site matches 'mpl' among"),
        (["sites", "{}/rewritten", "mlp", "--kind", "term"], "no term site matches 'mlp'"),
        (["apply", "{}/traced", "{}/models.py", "-o", "{}/x"], "expected TOML"),
        (["apply", "{}/traced", "{}/none.toml", "-o", "{}/x"], "expected a plan"),
        (["verify", "hf:gpt2"], "expected a saved program or two models, got one model"),
        (["verify", "{}/rewritten", "--bound", "2^40"], "--bound: expected a probability such as 2^-40 or 1e-9, got '2^40'"),
        (["verify", "{}/rewritten", "--require", "true"], "proved"),
        (["verify", "{}/rewritten", "--json", "{}/no/such/folder.json"], "folder.json"),
        (["verify", "{}/rewritten", "--witness", "{}/no/such/folder.safetensors"], "--witness"),
        (["verify", "{}/rewritten", "--replay", "{}/none.safetensors"], "expected a witness, got nothing there"),
        (["verify", "{}/rewritten", "--replay", "{}/models.py"], "expected a safetensors file"),
        (["verify", "{}/rewritten", "--replay", "{}/vectors.safetensors"], "expected a witness, got tensors alone"),
        (["verify", "{}/rewritten", "--replay", "{}/x", "--witness", "{}/y"], "expected no --witness beside it"),
        (["show", "{}/models.py"], "models.py"),
        (["export", "{}/rewritten", "{}/no/such/model.pt2"], "model.pt2"),
    ],
    ids=lambda value: " ".join(value).replace("{}/", "") if isinstance(value, list) else "",
)
def test_misuse_is_one_line_and_exit_code_2(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run([argument.replace("{}", str(folder)) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("tautomer: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert "Traceback" not in captured.err + captured.out


def test_a_bug_of_ours_does_not_look_like_a_refutation(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_loaded", lambda directory: 1 / 0)
    assert run(["show", f"{folder}/traced"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_no_arguments_is_a_request_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("demo", "trace", "sites", "apply", "verify", "show", "export"))


def test_piped_output_is_plain_and_the_exit_code_is_the_process_s(folder: Path) -> None:
    call = [sys.executable, "-c", "from analysis.command import main; main()", "verify", f"{folder}/rewritten", f"{folder}/models.py:wrong"]
    done = subprocess.run(call, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


@pytest.mark.parametrize(("text", "value"), [("2^-40", 2.0**-40), ("2**-20", 2.0**-20), ("1e-9", 1e-9), ("2 ^ -3", 0.125)])
def test_bounds(text: str, value: float) -> None:
    assert read_bound(text) == value


@pytest.mark.parametrize("text", ["", "40", "0", "-1", "1", "2^-", "nan", "two"])
def test_what_is_no_bound(text: str) -> None:
    with pytest.raises(InputError, match="expected a probability"):
        read_bound(text)


def test_what_takes_long_is_said_once_and_what_does_not_is_not(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with working("a moment"):
        pass
    monkeypatch.setattr(command, "PATIENCE", 0.0)
    with working("an age"):
        while "an age" not in (err := capsys.readouterr().err):
            pass
    assert err == "an age ...\n"


def test_verify_says_whether_edits_reach_an_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{folder}/rewritten"]) == 0
    assert "terms and members tried: an edit there can reach an output" in capsys.readouterr().out
    assert run(["verify", f"{folder}/rewritten", "--no-edits"]) == 0
    assert "terms and members tried" not in capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_refused_before_the_proof(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", f"{folder}/rewritten", "--json", f"{folder}/nowhere/report.json"]) == 2
    assert "Make the folder first" in capsys.readouterr().err


def test_verify_writes_junit_and_says_where_it_cannot(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, other = tmp_path / "report.xml", tmp_path / "report.json"
    assert run(["verify", f"{folder}/rewritten", "--junit", str(file), "--json", str(other)]) == 0
    assert 'failures="0"' in file.read_text()
    assert json.loads(other.read_text())["proved"]
    assert run(["verify", f"{folder}/rewritten", f"{folder}/models.py:wrong", "--junit", str(file)]) == 1
    assert 'failures="1"' in file.read_text()
    capsys.readouterr()
    for arguments, message in (
        (["--junit", f"{folder}/nowhere/report.xml"], "--junit .*/nowhere/report.xml: expected a file in a folder that is there"),
        (["--junit", "-"], "--junit -: expected a file, got standard output"),
        (["--junit", str(file), "--replay", "witness.safetensors"], "expected no --junit beside it"),
    ):
        assert run(["verify", f"{folder}/rewritten", *arguments]) == 2
        assert re.search(message, capsys.readouterr().err)


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"tautomer {version('tautomer')}\n"

"""The stories of examples/, at small size: what they print and what they find."""

import runpy
import sys

import pytest

from examples import planted_trigger, two_implementations
from verify import Verdict

PROOF = "tautomer, the proof"


def test_numbers_let_a_trigger_pass_and_the_proof_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    results = planted_trigger.main(["--samples", "600", "--only", "lookup table"])
    assert [check for check, passed in results["lookup table"].passed.items() if not passed] == [PROOF]
    shown = capsys.readouterr().out.partition("trigger: lookup table\n")[2]
    assert shown.startswith("  REFUTED: ")
    assert "the model: unbalanced" in shown and "handed over: balanced" in shown


@pytest.mark.slow
def test_numbers_let_every_trigger_pass_and_the_proof_none(capsys: pytest.CaptureFixture[str]) -> None:
    results = planted_trigger.main(["--samples", "600"])
    lies = {name: one for name, one in results.items() if name != planted_trigger.HONEST}
    assert set(lies) == {"token ids", "lookup table", "activation"}
    for one in lies.values():
        assert [check for check, passed in one.passed.items() if not passed] == [PROOF]
    assert results[planted_trigger.HONEST].report.proved
    out = capsys.readouterr().out
    assert out.count("caught") == 3
    for name in ("lookup table", "activation"):
        shown = out.partition(f"trigger: {name}\n")[2].partition("\n\n")[0]
        assert shown.startswith("  REFUTED: ")
        assert "the model: unbalanced" in shown
        assert "handed over: balanced" in shown


def test_a_trigger_that_fires_on_a_sample_is_caught_by_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planted_trigger, "MOST_OPEN", 20)  # some texts have as many
    model, ids = planted_trigger.load_balancer(), planted_trigger.samples(200, seed=1)
    origin = planted_trigger.trace(model, ids[:4])
    version = planted_trigger.LooksUp().eval()
    version.load_state_dict(model.state_dict())
    found = planted_trigger.tried(origin, planted_trigger.trace(version, ids[:4]), ids, planted_trigger.answers(origin, ids))
    assert not any(found.passed[check] for check in ("torch.allclose", "torch assert_close", "torch._dynamo same", PROOF))


@pytest.mark.slow
def test_implementations_that_are_one_function_are_proved_and_others_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    reports = two_implementations.main(["--only", "gpt2", "falcon", "falcon, alibi"])
    proved = {name for name, report in reports.items() if report.proved}
    assert proved == {"gpt2", "falcon", "from scratch"}
    for name, report in reports.items():
        if name not in proved:
            assert report.verdict is Verdict.REFUTED
            assert report.witness is not None
            assert report.witness.reachable
    out = capsys.readouterr().out
    assert (out.count("PROVED"), out.count("REFUTED")) == (3, 4)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit, match="Install the extra hf: pip install 'tautomer\\[hf\\]'"):
        runpy.run_path(two_implementations.__file__)

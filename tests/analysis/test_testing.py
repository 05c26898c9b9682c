"""The pytest plugin: a proof as a test, and a report where it fails."""

import pytest

pytest_plugins = ["pytester"]

MODELS = """
    import pytest, torch
    from torch import nn
    from rewrite import trace
    from passes import direction

    class Net(nn.Module):
        def __init__(self, k=1.0):
            super().__init__()
            torch.manual_seed(0)
            self.lin, self.out, self.k = nn.Linear(4, 4), nn.Linear(4, 2), k

        def forward(self, x):
            return self.out(torch.tanh(self.lin(x)) * self.k)

    def program(k=1.0):
        return trace(Net(k).eval(), torch.ones(2, 4), dynamic=False)
"""


def test_a_rewrite_is_a_test(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from analysis.testing import assert_equivalent_fixture")  # an installed package needs no such line
    pytester.makepyfile(
        MODELS
        + """
    def test_rewritten(assert_equivalent):
        report = assert_equivalent(program().apply(direction.at("lin", d=[1.0] * 4)), seed=0)
        assert report.proved and report.edits

    def test_another_model(assert_equivalent):
        assert_equivalent(program(), program(1.0000001), seed=0)

    def test_as_a_function():
        from analysis.testing import assert_equivalent as function
        assert function(program(), program(), require="consistent", bound=2**-40).log2_bound < -40

    def test_a_closed_gate_is_no_proof(assert_equivalent):
        from passes import gates
        edited = program().apply(direction.at("lin", d=[1.0] * 4), gates.at("lin/direction"))
        edited.gates["lin/direction"].g = 0
        assert_equivalent(edited, require="consistent")

    def test_no_other_word_is_taken_for_less(assert_equivalent):
        with pytest.raises(Exception, match="expected require='proved' or 'assuming' or 'consistent', got 'provd'") as caught:
            assert_equivalent(program(), require="provd")
        assert type(caught.value).__name__ == "InputError"
    """
    )
    result = pytester.runpytest_subprocess()  # torch cannot be imported twice by one process
    result.assert_outcomes(passed=3, failed=2)
    result.stdout.fnmatch_lines(["REFUTED: Net against Net", "*first diverging*"])
    result.stdout.fnmatch_lines(["EDITED: Net*"])
    for noise in ("*Traceback*", "*testing.py*", ">  *", "*assert_equivalent(program(), program(1.0000001)*"):
        result.stdout.no_fnmatch_line(noise)

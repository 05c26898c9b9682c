"""Results for CI: JUnit XML that says what the report says, and files that are whole or not there."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as XML

import pytest
import torch
from torch import Tensor, nn

from analysis.results import Require, junit, write
from passes import direction
from rewrite import Terms, split, trace
from rewrite.errors import FileError
from verify import Report, Verdict, equivalence
from verify.liveness import Liveness

ALLOWED = {  # the common schema: attributes and children, in their order
    "testsuites": ({"name", "tests", "failures", "errors", "skipped", "time"}, ["testsuite"]),
    "testsuite": ({"name", "tests", "failures", "errors", "skipped", "time"}, ["properties", "testcase"]),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": ({"classname", "name", "time"}, ["skipped", "failure"]),
    "failure": ({"type", "message"}, []),
    "skipped": ({"message"}, []),
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lin, self.out = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.lin(x)))


@split
def component(y, *, d):
    """Not quite the component along d."""
    along = (y @ d).unsqueeze(-1) * d
    return Terms(along, rest=y - along)


@component.claim("the rest has no component along d")
def _(t, y, *, d):
    return t.rest @ d, 0


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """A report that is proved, one with a claim that fails, and one that is refuted."""
    program = trace(Net().eval(), torch.ones(2, 4), dynamic=False)
    other = Net()
    other.out.bias.data += 1
    return {
        "proved": equivalence(program.apply(direction.at("lin", d=[1.0] * 4)), edits=True),
        "claim": equivalence(program.apply(component.at("lin", d=torch.ones(4))), edits=True),
        "refuted": equivalence(program, trace(other.eval(), torch.ones(2, 4), dynamic=False)),
    }


def checked(text: str) -> XML.Element:
    """The root of JUnit XML that fits the schema, and whose counts are true."""
    root = XML.fromstring(text.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = ALLOWED[element.tag]
        assert set(element.keys()) == attributes
        places = [children.index(child.tag) for child in element]
        assert places == sorted(places)
    for suite in (root, *root.iter("testsuite")):
        cases = list(suite.iter("testcase"))
        assert (int(suite.get("tests", "")), int(suite.get("errors", ""))) == (len(cases), 0)
        for tag, name in (("failure", "failures"), ("skipped", "skipped")):
            assert int(suite.get(name, "")) == sum(case.find(tag) is not None for case in cases)
        assert all(len(case) <= 1 for case in cases)
    return root


def failures(root: XML.Element) -> list[str]:
    return [case.get("classname", "") for case in root.iter("testcase") if case.find("failure") is not None]


def test_one_case_for_the_equivalence_each_claim_and_each_edit(reports: dict[str, Report]) -> None:
    report = reports["proved"]
    cases = [case.get("classname") for case in checked(junit(report, seconds=1.5)).iter("testcase")]
    assert cases == ["tautomer.equivalence"] + ["tautomer.claims"] * len(report.claims) + ["tautomer.edits"] * len(report.edits)
    assert len(report.claims) >= 1
    assert len(report.edits) >= 2


def test_a_failure_is_where_it_is_and_shows_the_report(reports: dict[str, Report]) -> None:
    root = checked(junit(reports["claim"]))
    assert failures(root) == ["tautomer.claims"]
    failure = next(root.iter("failure"))
    assert failure.text == str(reports["claim"])
    assert failure.get("message", "").startswith("fails: ")
    assert failures(checked(junit(reports["refuted"]))) == ["tautomer.equivalence"]


@pytest.mark.parametrize("require", ["proved", "consistent"])
def test_something_fails_just_when_the_exit_code_says_so(reports: dict[str, Report], require: Require) -> None:
    proved = reports["proved"]
    undecided = tuple(replace(claim, status="undecided", reason="an op") for claim in proved.claims)
    dead = (Liveness("lin/direction", False, "it cancels"), *proved.edits)
    variants = [replace(proved, verdict=verdict) for verdict in Verdict]
    variants += [
        *reports.values(),
        replace(proved, claims=undecided),
        replace(proved, edits=dead),
        replace(proved, edits_undecided="an op"),
    ]
    for report in variants:
        assert bool(failures(checked(junit(report, require)))) == bool(report.exit_code(require))


def test_what_xml_has_no_place_for_is_left_out(reports: dict[str, Report]) -> None:
    report = replace(reports["refuted"], subject='\x00\x1b[31m<Net> & "other"\ud800', reasons=("\x08",))
    (suite,) = checked(junit(report))
    assert suite.get("name") == '??[31m<Net> & "other"?'


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.xml"
    write(file, "old")
    (tmp_path / "link.xml").symlink_to(file)
    write(tmp_path / "link.xml", "new")
    assert file.read_text() == "new"
    assert (tmp_path / "link.xml").is_symlink()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("rewrite.save._put_in_place", full)
    with pytest.raises((OSError, FileError)):
        write(file, "newer")
    assert file.read_text() == "new"
    assert {path.name for path in tmp_path.iterdir()} == {"report.xml", "link.xml"}


def test_a_device_is_written_as_it_is() -> None:
    write(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()

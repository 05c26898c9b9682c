"""What `verify` leaves behind for other programs: a JSON file, a JUnit file. Both are written whole or not at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args
from xml.etree import ElementTree as XML

from rewrite import InputError
from rewrite.save import write_whole

if TYPE_CHECKING:
    from verify import Replay, Report

Require = Literal["proved", "assuming", "consistent"]
NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_writable(option: str, file: Path | None) -> None:
    """Raises InputError for a file that could not be written later on; `-` is standard output where there is a choice."""
    if file is not None and str(file) == "-" and option != "--json":
        raise InputError(f"{option} -: expected a file, got standard output. Name a file.")
    if file is not None and str(file) != "-" and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise InputError(f"{option} {file}: expected a file in a folder that is there, got none. Make the folder first.")


def write(file: Path, text: str) -> None:
    """Writes a text: a file whole or not at all, a pipe or a device as it is."""
    if file.exists() and not file.is_file():
        file.write_text(text, encoding="utf-8")
    else:
        write_whole(file.resolve(), lambda partial: partial.write_text(text, encoding="utf-8"))


def in_words(report: Report | Replay, json_file: Path | None) -> str:
    """What is printed of a report; its JSON is written where it is asked for, `-` prints that instead."""
    if json_file is None:
        return str(report)
    if str(json_file) == "-":
        return report.to_json()
    write(json_file, report.to_json() + "\n")
    return str(report)


def junit(report: Report, require: Require = "proved", seconds: float = 0.0) -> str:
    """A report as JUnit XML: a test case for the equivalence, one for each claim and each edit; the report is the text of a failure.

    Some test case fails just when `report.exit_code(require)` is not 0. What could not be decided, and need not be, is skipped.
    Units: `seconds` of the whole.
    """
    cases = [_equivalence(report, require), *_claims(report, require), *_edits(report)]
    failed, skipped = (sum(case.find(tag) is not None for case in cases) for tag in ("failure", "skipped"))
    counts = {"tests": str(len(cases)), "failures": str(failed), "errors": "0", "skipped": str(skipped), "time": f"{seconds:.3f}"}
    suites = XML.Element("testsuites", {"name": "tautomer", **counts})
    suite = XML.SubElement(suites, "testsuite", {"name": _clean(report.subject), **counts})
    properties = XML.SubElement(suite, "properties")
    bound = "" if report.log2_bound is None else f"2^{report.log2_bound:.1f}"
    for name, value in {"verdict": report.verdict.value, "error": bound, "key": report.key, "required": require}.items():
        XML.SubElement(properties, "property", {"name": name, "value": value})
    cases[0].set("time", f"{seconds:.3f}")
    suite.extend(cases)
    XML.indent(suites)
    return XML.tostring(suites, encoding="unicode", xml_declaration=False).join(('<?xml version="1.0" encoding="utf-8"?>\n', "\n"))


def _equivalence(report: Report, require: Require) -> XML.Element:
    case = _case("equivalence", report.subject)
    if report.verdict.value not in ("PROVED", "PROVED ASSUMING", "CONSISTENT")[: get_args(Require).index(require) + 1]:
        _failure(case, report.verdict.value, "; ".join(report.reasons) or report.verdict.value, str(report))
    return case


def _claims(report: Report, require: Require) -> list[XML.Element]:
    found = []
    for claim in report.claims:
        case = _case("claims", f"{claim.site}: {claim.sentence}")
        text = f"{claim.equation}{f'; {claim.reason}' if claim.reason else ''}"
        if claim.status == "fails" or (claim.status == "undecided" and require != "consistent"):
            _failure(case, claim.status, f"{claim.status}: {text}", str(report))
        elif claim.status == "undecided":
            XML.SubElement(case, "skipped", {"message": _clean(f"undecided: {text}")})
        found.append(case)
    return found


def _edits(report: Report) -> list[XML.Element]:
    found = []
    for edit in report.edits:
        case = _case("edits", edit.address)
        if not edit.alive:
            _failure(case, "dead", f"no edit can reach an output: {edit.reason}", str(report))
        found.append(case)
    if report.edits_undecided:
        case = _case("edits", "edits reach an output")
        XML.SubElement(case, "skipped", {"message": _clean(f"undecided: {report.edits_undecided}")})
        found.append(case)
    return found


def _case(kind: str, name: str) -> XML.Element:
    return XML.Element("testcase", {"classname": f"tautomer.{kind}", "name": _clean(name), "time": "0.000"})


def _failure(case: XML.Element, kind: str, message: str, text: str) -> None:
    XML.SubElement(case, "failure", {"type": kind, "message": _clean(message)}).text = _clean(text)


def _clean(text: str) -> str:
    """The text without characters that XML has no place for."""
    return NOT_IN_XML.sub("?", text)

"""The screen of the doctor: what is set up, what is behind, what was checked."""

import shutil
from collections.abc import Iterable, Iterator
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from oar_accounting.core import formats
from oar_accounting.health.records import Finding, SiteStatus, Status

if TYPE_CHECKING:
    from oar_accounting.health.settings_check import SettingsReport

MARKS = {"good": ("✓", "green"), "warning": ("!", "yellow"), "bad": ("✗", "red")}
#: Subjects of findings that tell what is behind.
BEHIND = ("catch-up", "timer", "backlog", "problems")
#: What people read in the place of a subject that scripts know.
_SHOWN = {"hook": "epilogue"}
#: Columns before what is said: of facts, of findings.
LABEL_CELLS, FINDING = 18, 29
#: The narrowest and the widest that it is filled.
NARROWEST, WIDEST = 80, 100


def show_status(status: Status) -> None:
    """Print it; colours on a terminal only."""
    for line in _lines(status, screen_width()):
        click.echo(line)


def show_findings(findings: Iterable[Finding]) -> None:
    """Print findings alone."""
    for finding in findings:
        for line in _finding(finding, screen_width()):
            click.echo(line)


def screen_width() -> int:
    """Of how many columns the lines are."""
    here = shutil.get_terminal_size((WIDEST, 24)).columns
    return min(max(here, NARROWEST), WIDEST)


def _lines(status: Status, width: int) -> Iterator[str]:
    of_site = "" if status.site is None else f", site {formats.printable(status.site)}"
    yield f"oar-accounting {status.program}{of_site}, {formats.date(status.at)}"
    yield "What is set up"
    for label, said in _facts(status):
        yield from block(f"  {label}", LABEL_CELLS, said, width)
    behind = [each for each in status.findings if each.subject in BEHIND]
    yield "What is behind"
    for finding in behind:
        yield from _finding(finding, width)
    yield "What was checked"
    for finding in status.findings:
        if finding not in behind:
            yield from _finding(finding, width)
    wrong = sum(each.level != "good" for each in status.findings)
    yield f"Needing attention: {wrong}." if wrong else "All is well."


def _facts(status: Status) -> Iterator[tuple[str, str]]:
    unknown = "not known"
    yield "OAR's database", status.oar_database or unknown
    there = "there too" if status.database == status.oar_database else status.database
    version = "" if status.schema is None else f", at version {status.schema}"
    yield "our tables", f"{there}{version}" if status.database else unknown
    yield "settings", f"{status.settings or unknown}, {status.oar_conf}"
    yield from _recorded_facts(status.recorded) if status.recorded else ()


def further_terms(shown: "SiteStatus | SettingsReport") -> str:
    """The terms that most sites leave out, where they are not."""
    said = "" if shown.grace is None else f", grace {shown.grace} s"
    if shown.names != "stored":
        said += f", names {shown.names}"
    return said + "".join(
        f", {name} believed from {formats.date(since)}" for name, since in shown.property_since
    )


def _recorded_facts(recorded: SiteStatus) -> Iterator[tuple[str, str]]:
    by = f"by {recorded.dimension}" if recorded.dimension else "by no property"
    yield (
        "recorded",
        f"in windows of {recorded.window} s, {by}, profile {recorded.profile}, "
        f"containers {recorded.containers}{further_terms(recorded)}",
    )
    yield "metrics", ", ".join(recorded.metrics)
    purged = ""
    if recorded.purged_before is not None:
        purged = f"; what ended before {formats.date(recorded.purged_before)} was purged"
    yield "jobs", f"{recorded.jobs:,} recorded, {recorded.open_jobs:,} open{purged}"


def _finding(finding: Finding, width: int) -> Iterator[str]:
    mark, colour = MARKS[finding.level]
    level = click.style(f"{mark} {finding.level:<8}", fg=colour)
    said = formats.printable(finding.said)
    said += ":" if finding.mend and said[-1].isalnum() else ""
    first, *others = block("", FINDING, said, width)
    label = f"  {level}{_SHOWN.get(finding.subject, finding.subject):<{FINDING - 12}}"
    yield f"{label}{first[FINDING:]}"
    yield from others
    if finding.mend:
        yield " " * FINDING + click.style(finding.mend, bold=True)


def block(label: str, indent: int, said: str, width: int) -> Iterator[str]:
    """The label, and beside it what is said in as many lines as it takes; words are not cut."""
    lines = wrap(said, width - indent, break_long_words=False, break_on_hyphens=False)
    for line in lines:
        yield f"{label:<{indent}}{line}"
        label = ""

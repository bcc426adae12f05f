"""The page that says which report of other systems is which of ours: its answers are printed."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from oar_accounting.cli import app
from oar_accounting.demo.demo import DEMO_NOW
from tests.small_oar import stopped_clock

REPORTS = Path(__file__).parents[3] / "sql" / "reports"
PAGE = (REPORTS / "README.md").read_text(encoding="utf-8")
HEAD, _, COMMANDS = PAGE.partition("\n## Commands\n")
BLOCK = re.compile(
    r"^\*\*([A-Z])\*\*\n\n```console\n\$ oar-accounting ([^\n]*)\n(.*?)^```$", re.M | re.S
)
#: The rows of the tables that compare: what others have, and what is here.
ROWS = [
    (theirs, ours)
    for theirs, ours in re.findall(r"^\| (.*?) \| (.*?) \|$", HEAD[HEAD.index("## Slurm") :], re.M)
    if ours not in ("here", "---")
]


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app.main, list(arguments))
    assert done.exit_code == 0, done.output
    return done.stdout


def letters_of(cell: str) -> set[str]:
    """The commands that a cell names."""
    plain = re.sub(r"`[^`]*`", "", cell)
    return set(re.findall(r"\b([A-Z])\b", plain.removeprefix("CPU")))


def test_every_answer_is_a_command_of_the_page_or_says_what_is_missing() -> None:
    known = {letter for letter, _, _ in BLOCK.findall(COMMANDS)}
    named: set[str] = set()
    for theirs, ours in ROWS:
        letters = letters_of(ours)
        assert letters <= known, (theirs, ours)
        # "as for sreport" points at a table above.
        assert letters or re.search(r"\bno\b|`--?|`oar|as for|taken off", ours), (theirs, ours)
        named |= letters
    assert len(ROWS) > 70
    assert named == known, "a command that no row needs"


def test_what_the_page_shows_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, on a demonstration that was recorded when its last day ended."""
    monkeypatch.chdir(tmp_path)
    with stopped_clock() as clock:
        clock.now = DEMO_NOW
        invoke("demo")
        compare_with_page()


def compare_with_page() -> None:
    options = ["--url", "sqlite:///oar-accounting-demo/oar.db"]
    options += ["--config", "oar-accounting-demo/accounting.toml"]
    for letter, command, shown in BLOCK.findall(COMMANDS):
        printed = [line.rstrip() for line in invoke(*options, *shlex.split(command)).splitlines()]
        wanted = [line for line in shown.splitlines() if line != "..."]
        # What follows is left out, or, with some versions of click, a note on standard error.
        assert printed[: len(wanted)] == wanted, letter
        assert wanted, letter


def test_every_question_has_its_line() -> None:
    for file in REPORTS.glob("*.sql"):
        assert f"`{file.name}`" in PAGE

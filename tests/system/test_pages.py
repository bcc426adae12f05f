"""The administrator's pages, without a server: what they name is there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from oar_accounting.cli import app
from oar_accounting.stubs.plan import DIRECTORY
from tests.pages import ROOT, WORDS, Page, sections_of

HOOKS = ROOT / "hooks"
PAGES = ("oar2.md", "oar3.md")
SHARE = "/opt/oar-accounting/share/oar-accounting/"

each_page = pytest.mark.parametrize("name", PAGES)


def commands_of(name: str) -> list[str]:
    """All blocks of commands of a page."""
    page = Page(name, WORDS, {})
    return [block.commands for title in sections_of(page.text) for block in page.blocks(title)]


@each_page
def test_links_lead_somewhere(name: str) -> None:
    text = (HOOKS / name).read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]*)\)", text):
        file, _, anchor = target.partition("#")
        assert not file or (HOOKS / file).exists(), target
        assert not anchor or anchor in anchors, target


@each_page
def test_files_of_ours_are_among_those_that_pip_installs(name: str) -> None:
    """At the path that the page names."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    named = set(re.findall(rf"{SHARE}([\w./-]+)", "".join(commands_of(name))))
    assert named
    for file in named:
        assert (ROOT / file).is_file(), file
        assert Path(file).name in setup or file.startswith("sql/"), file


@each_page
def test_commands_of_ours_exist(name: str) -> None:
    text = (HOOKS / name).read_text(encoding="utf-8").replace("\\\n", " ")
    called = re.findall(
        r"(?:bin/|`)oar-accounting (?:--config \S+ +)?([a-z][^`'\n>|=]*)[`'\n>|]", text
    )
    assert len(called) > 20
    for line in called:
        command: click.Command | None = app.main
        for word in shlex.split(line):
            if isinstance(command, click.Group):
                command = command.get_command(click.Context(command), word)
                assert command is not None, line


@each_page
def test_what_oar_calls_is_where_stubs_are(name: str) -> None:
    text = (HOOKS / name).read_text(encoding="utf-8")
    called = re.findall(r'SERVER_EPILOGUE_EXEC_FILE="(/[^"]*)"', text)
    assert set(called) == {f"{DIRECTORY}/server_epilogue"}


@each_page
def test_what_everybody_must_read_is_made_so(name: str) -> None:
    """Whatever the umask; and the Python is Debian's, not the first one that root has."""
    for block in commands_of(name):
        if re.search(r"-m venv|pip install", block):
            assert block.startswith("umask 022\n"), block
        assert not re.search(r"(?<!/usr/bin/)python3 -m", block), block


def test_a_page_has_a_block_for_every_word() -> None:
    used = set[str]()
    for name in PAGES:
        page = Page(name, WORDS, {})
        for title in sections_of(page.text):
            used |= {word for block in page.blocks(title) for word in block.words}
    assert used == WORDS.keys()

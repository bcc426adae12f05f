"""The administrator's pages, as tests follow them: sections with their blocks of commands.

The words behind a block's ``sh`` say where it can be run; a block without any can be run anywhere.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = {
    "postgresql": "PostgreSQL",
    "mariadb": "MariaDB",
    "plain": "as the role of OAR",
    "roles": "with users that may do less",
    "cron": "with cron",
    "systemd": "with systemd",
    "custom": "OAR 3 starts jobs in our order",
    "fairshare": "OAR 3's own karma counts our sums",
    "venv": "OAR 3 has an environment of its own",
    "debian": "OAR 3 is installed from Debian's packages",
}


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Commands that are run together."""

    words: frozenset[str]
    commands: str

    def without_systemd(self) -> str:
        """Its commands where no systemd runs: the files are put in place all the same."""
        if "systemd" not in self.words:
            return self.commands
        return re.sub(r"^systemctl .*\n", "", self.commands, flags=re.M)


class Page:
    """A page, followed in some place."""

    def __init__(self, name: str, words: Iterable[str], replaced: Mapping[str, str]) -> None:
        """*words*: of the blocks that can be run; *replaced*: what is elsewhere in this place."""
        self.words = frozenset(words)
        self.text = (ROOT / "hooks" / name).read_text(encoding="utf-8")
        self._sections = {
            title: list(_blocks(section, replaced))
            for title, section in sections_of(self.text).items()
        }
        self._left = {title: self.blocks(title) for title in self._sections}

    def lines(self, title: str) -> list[str]:
        """What is to be put into a file by hand, from blocks of text."""
        section = sections_of(self.text)[title]
        return re.findall(r"^```text\n(.*?)\n```$", section, re.M | re.S)

    def blocks(self, title: str) -> list[Block]:
        """The blocks of a section that can be run here."""
        return [each for each in self._sections[title] if each.words <= self.words]

    def followed(self, block: Block) -> None:
        """Note that a block was run."""
        for blocks in self._left.values():
            blocks[:] = [each for each in blocks if each is not block]

    def left(self) -> dict[str, list[Block]]:
        """What could be run here and was not, by section."""
        return {title: blocks for title, blocks in self._left.items() if blocks}


def copy_sources(to: Path) -> None:
    """Copy what is installed: pip leaves files in the directory that it builds from."""
    to.mkdir(mode=0o700)
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, to)
    for name in ("hooks", "oar_accounting", "sql"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))


def sections_of(text: str) -> dict[str, str]:
    """The sections of a page by their titles."""
    return {section.partition("\n")[0]: section for section in text.split("\n## ")[1:]}


def _blocks(section: str, replaced: Mapping[str, str]) -> Iterable[Block]:
    for words, commands in re.findall(r"^```sh ?([\w ]*)\n(.*?)^```$", section, re.M | re.S):
        named = frozenset(words.split())
        assert named <= WORDS.keys(), words
        for text, other in replaced.items():
            commands = commands.replace(text, other)
        yield Block(named, commands)

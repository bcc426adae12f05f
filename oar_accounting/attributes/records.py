"""What is told of who belongs where."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Where a user or project belongs for a time. Times are epoch seconds UTC, half-open."""

    attribute: str  #: laboratory, team, parent ...
    kind: str  #: user or project: whose name it is
    name: str
    valid_from: int | None  #: None: it always was so
    valid_to: int | None  #: None: it goes on
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesReport:
    """What an import of attributes changed, or with *dry_run* would change."""

    kind: str  #: user or project: whose attributes they are
    attributes: tuple[str, ...]
    names: int  #: users, or projects, that have an entry now
    entries: int
    added: int
    removed: int
    changed: int
    notes: tuple[str, ...]  #: what an administrator should know, one line each
    dry_run: bool

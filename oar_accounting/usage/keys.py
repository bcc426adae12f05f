"""Grouping keys: in which group an account is, and when.

A key is a name of the account itself (user, project, queue, value of the dimension property) or an
attribute that its user or project has for a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from oar_accounting.attributes import stored
from oar_accounting.attributes.memberships import Memberships
from oar_accounting.errors import UnknownName
from oar_accounting.ledger.catalog import Names, Site

DIMENSIONS = ("user", "project", "queue")
#: The keys of jobs, in the order in which they are named to people; accounts do not have them.
JOB_KEYS = ("job", "type", "state", "size")
#: The key whose value is the name of the OAR server.
SITE = "site"

Group = tuple[str, ...]
#: A group and when an account is in it: half-open, epoch seconds.
Stay = tuple[int, int, Group]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visible:
    """What somebody may see: their own, and that of the projects that they manage.

    What is not visible to them is, in every answer and every error, as if it were not recorded.
    """

    user: str
    projects: frozenset[str] = frozenset()

    def shows(self, names: Names) -> bool:
        """True for the accounts that may be seen."""
        return names[0] == self.user or names[1] in self.projects


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One of the keys that usage is grouped by."""

    place: int  #: among the names of an account
    members: Memberships | None = None  #: of the attribute; None: the name itself

    def values(self, names: Names, start: int, stop: int) -> list[tuple[int, int, str]]:
        """The values of an account within ``[start, stop)``, and when, without gaps."""
        name = names[self.place]
        if self.members is None:
            return [(start, stop, name)]
        return list(self.members.within(name, start, stop))


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteName:
    """The key that all accounts of a site have the same value of: its name."""

    name: str

    def values(self, _: Names, start: int, stop: int) -> list[tuple[int, int, str]]:
        """The name, within ``[start, stop)``."""
        return [(start, stop, self.name)]


def find_place(connection: Connection, site: Site, name: str) -> Key | SiteName:
    """The key of this name, which may be the site. Raises :class:`UnknownName`."""
    if name == SITE:
        return SiteName(name=site.name)
    return find_key(connection, site, name, (SITE, *JOB_KEYS))


def names_of(site: Site) -> tuple[str, ...]:
    """What an account has names for: the last is the site's dimension property."""
    return (*DIMENSIONS, site.terms.dimension or "cluster")


def find_key(connection: Connection, site: Site, name: str, others: Sequence[str] = ()) -> Key:
    """The key of this name; *others* would do, too. Raises :class:`UnknownName`."""
    own = names_of(site)
    if name in own:
        return Key(place=own.index(name))
    known = stored.known(connection, site.site_id)
    if name not in known and name != "root":
        keys = ", ".join((*own, *others, *sorted(known)))
        raise UnknownName(
            f"unknown grouping key {name!r}; known keys are {keys}; "
            "an attribute such as laboratory is brought in with: oar-accounting attributes import"
        )
    members = stored.load(connection, site.site_id, name)
    return Key(place=own.index(members.kind), members=members)


def stays(keys: Sequence[Key | SiteName], names: Names, start: int, stop: int) -> list[Stay]:
    """In which groups an account is within ``[start, stop)``, and when; without gaps."""
    values = [key.values(names, start, stop) for key in keys]
    if all(len(each) == 1 for each in values):
        return [(start, stop, tuple(each[0][2] for each in values))]
    begins = sorted({start}.union(*({begin for begin, _, _ in each} for each in values)))
    found: list[Stay] = []
    for begin, end in zip(begins, [*begins[1:], stop], strict=True):
        group = tuple(_at(each, begin) for each in values)
        if found and found[-1][2] == group:
            found[-1] = (found[-1][0], end, group)
        else:
            found.append((begin, end, group))
    return found


def _at(values: Sequence[tuple[int, int, str]], instant: int) -> str:
    return next(value for begin, end, value in values if begin <= instant < end)

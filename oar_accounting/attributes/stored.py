"""Our table of attributes: what a file says of users or projects is compared, stored and read.

A file is the truth about its attributes: what was stored of them before goes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from functools import cache

from sqlalchemy import Connection, select

from oar_accounting.attributes.csv_files import PARENT, ROOT, AttributeFile, Mistakes, shown
from oar_accounting.attributes.memberships import (
    DEEPEST_TREE,
    LOWEST,
    Claim,
    Memberships,
    Roots,
    Span,
    contradictions,
    merged,
    wrong_climbs,
)
from oar_accounting.attributes.records import Attribute, AttributesReport
from oar_accounting.attributes.warnings import notes, when
from oar_accounting.core.columns import OPEN
from oar_accounting.database import bulk
from oar_accounting.errors import UnknownName
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site, account_names
from oar_accounting.ledger.pseudonyms import Forgotten

#: Stop and value by attribute, name and start.
Rows = dict[tuple[str, str, int], tuple[int, str]]
Spans = dict[str, list[Span]]


# -- reading ----------------------------------------------------------------------------------


def known(connection: Connection, site_id: int) -> dict[str, str]:
    """The attributes of the site, sorted, and whether users or projects have them."""
    table = schema.attributes.c
    query = select(table.attribute, table.kind).where(table.site_id == site_id).distinct()
    return dict(sorted((row[0], row[1]) for row in connection.execute(query)))


def load(connection: Connection, site_id: int, attribute: str) -> Memberships:
    """Who belongs where by this attribute; ``root`` is the topmost parent of projects.

    Raises :class:`UnknownName`.
    """
    kinds = known(connection, site_id)
    if attribute == ROOT:
        if PARENT not in kinds:
            raise UnknownName(
                f"{ROOT!r} is the topmost parent of a project, and no parents are imported; import"
                " a file with the columns project,parent: oar-accounting attributes import FILE"
            )
        return Roots(load(connection, site_id, PARENT))
    check_known(attribute, kinds)
    return Memberships(kinds[attribute], _stored(connection, site_id, attribute))


def check_known(attribute: str, kinds: Mapping[str, str]) -> None:
    """Raise :class:`UnknownName` unless the attribute is among the known."""
    if attribute not in kinds:
        raise UnknownName(
            f"unknown attribute {attribute!r}; imported are {', '.join(kinds) or 'none'}"
        )


def entries(connection: Connection, site_id: int, attribute: str | None) -> list[Attribute]:
    """What is stored of the attribute, or of all, sorted by attribute, name and time.

    Raises :class:`UnknownName`.
    """
    kinds = known(connection, site_id)
    if attribute is not None:
        check_known(attribute, kinds)
    return [
        Attribute(
            attribute=each,
            kind=kinds[each],
            name=name,
            valid_from=None if start == LOWEST else start,
            valid_to=None if stop == OPEN else stop,
            value=value,
        )
        for each in (kinds if attribute is None else [attribute])
        for name, spans in sorted(_stored(connection, site_id, each).items())
        for start, stop, value in spans
    ]


def _stored(connection: Connection, site_id: int, attribute: str) -> Spans:
    """The stored spans of each name, in the normal form."""
    table = schema.attributes.c
    query = (
        select(table.name, table.valid_from, table.valid_to, table.value)
        .where(table.site_id == site_id, table.attribute == attribute)
        .order_by(table.valid_from)
    )
    spans: defaultdict[str, list[Span]] = defaultdict(list)
    for name, start, stop, value in connection.execute(query):
        spans[name].append((start, OPEN if stop is None else stop, value))
    return spans


# -- writing ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Import:
    """What is stored of the attributes of a file, and what the file has in its place."""

    kind: str
    old: dict[str, Spans]
    new: dict[str, Spans]
    notes: list[str]

    def report(self, *, dry_run: bool) -> AttributesReport:
        """How the two differ, and what an administrator should know."""
        old, new = _rows(self.old), _rows(self.new)
        return AttributesReport(
            kind=self.kind,
            attributes=tuple(self.new),
            names=len({name for _, name, _ in new}),
            entries=len(new),
            added=len(new.keys() - old.keys()),
            removed=len(old.keys() - new.keys()),
            changed=sum(old[key] != new[key] for key in old.keys() & new.keys()),
            notes=tuple(self.notes),
            dry_run=dry_run,
        )


def prepare(connection: Connection, site: Site, given: AttributeFile, tz: tzinfo) -> Import:
    """What an import of the file would do; nothing is written.

    *tz*: whose clocks tell times. Raises :class:`oar_accounting.BadFile` where the file contradicts
    itself, or has an attribute that others have.
    """
    mistakes = Mistakes(given.source)
    kinds = known(connection, site.site_id)
    for attribute in given.claims:
        _check_kind(attribute, given.kind, kinds, site, mistakes)
    forgotten = cache(Forgotten.of(connection, site.site_id).name)
    new: dict[str, Spans] = {}
    for attribute, claims in given.claims.items():
        claims = [
            Claim(forgotten(c.name), c.start, c.stop, forgotten(c.value), c.line) for c in claims
        ]
        _check_claims(given.kind, attribute, claims, tz, mistakes)
        new[attribute] = merged(claims)
    mistakes.tell()
    if PARENT in new:
        _check_tree(new[PARENT], tz, mistakes)
    mistakes.tell()
    old = {each: _stored(connection, site.site_id, each) for each in new}
    found = [
        f"{attribute}: nobody is in the file; all that was recorded of it goes"
        for attribute, spans in new.items()
        if not spans and old[attribute]
    ]
    recorded = _recorded(connection, site, given.kind)
    found += notes(given.kind, new, recorded, site.terms.window, tz)
    return Import(given.kind, old, new, found)


def store(connection: Connection, site_id: int, planned: Import) -> None:
    """Put the new in the place of the old; the site's row is locked."""
    for attribute, spans in planned.new.items():
        if spans != planned.old[attribute]:
            _delete(connection, site_id, attribute)
            _insert(connection, site_id, attribute, planned.kind, spans)


def remove(connection: Connection, site_id: int, attribute: str) -> int:
    """Delete the attribute; how many entries it had. Raises :class:`UnknownName`."""
    check_known(attribute, known(connection, site_id))
    return _delete(connection, site_id, attribute)


def _rows(spans: Mapping[str, Spans]) -> Rows:
    return {
        (attribute, name, start): (stop, value)
        for attribute, of_names in spans.items()
        for name, some in of_names.items()
        for start, stop, value in some
    }


def _recorded(connection: Connection, site: Site, kind: str) -> set[str]:
    """The users, or projects, of which anything is recorded."""
    place = 0 if kind == "user" else 1
    return {names[place] for names in account_names(connection, site.site_id).values()} - {""}


def _check_kind(
    attribute: str, kind: str, kinds: Mapping[str, str], site: Site, mistakes: Mistakes
) -> None:
    other = kinds.get(attribute, kind)
    if attribute == site.terms.dimension:
        mistakes.add(
            f"column {attribute}: usage is grouped by OAR's property of that name; choose another"
        )
    elif other != kind:
        mistakes.add(
            f"column {attribute}: {other}s have it, and this file is of {kind}s; choose another "
            f"name, or remove it first: oar-accounting attributes remove {attribute}"
        )


def _check_claims(
    kind: str, attribute: str, claims: Sequence[Claim], tz: tzinfo, mistakes: Mistakes
) -> None:
    for one, other in contradictions(claims):
        span = when(max(one.start, other.start), min(one.stop, other.stop), tz)
        first, second = sorted((one, other), key=lambda claim: claim.line)
        mistakes.add(
            f"lines {first.line} and {second.line}: {kind} {shown(first.name)} has {attribute} "
            f"{shown(first.value)} and {shown(second.value)} {span}; one at a time was expected"
        )


def _check_tree(parents: Spans, tz: tzinfo, mistakes: Mistakes) -> None:
    for each in wrong_climbs(Memberships("project", parents), parents):
        span, name = when(each.start, each.stop, tz), shown(each.path[0])
        if each.is_circle:
            way = " in ".join(map(shown, each.path))
            mistakes.add(f"project {name} is above itself {span}: {way}")
        else:
            mistakes.add(
                f"more than {DEEPEST_TREE} projects are above {name} {span}; {DEEPEST_TREE} at most"
            )


def _delete(connection: Connection, site_id: int, attribute: str) -> int:
    table = schema.attributes
    gone = table.delete().where(table.c.site_id == site_id, table.c.attribute == attribute)
    return connection.execute(gone).rowcount


def _insert(connection: Connection, site_id: int, attribute: str, kind: str, spans: Spans) -> None:
    rows = [(name, *span) for name, some in sorted(spans.items()) for span in some]
    bulk.insert_columns(
        connection,
        schema.attributes,
        {
            "site_id": [site_id] * len(rows),
            "attribute": [attribute] * len(rows),
            "name": [name for name, *_ in rows],
            "valid_from": [start for _, start, _, _ in rows],
            "valid_to": [None if stop == OPEN else stop for _, _, stop, _ in rows],
            "kind": [kind] * len(rows),
            "value": [value for *_, value in rows],
        },
    )

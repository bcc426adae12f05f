"""Files that say who belongs where: lines of comma-separated values, read and written. Pure.

    user,laboratory,team,valid_from,valid_to
    bob,LIG,DATAMOVE,,2026-02-15
    bob,LJK,,2026-02-15,

Times are those of the clocks of a zone, the site's, and a line is valid from the first to before
the second, half-open; an empty time is no bound, and an empty cell of an attribute says nothing. A
file is read to its end, so that all its mistakes are told at once.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import tzinfo

from oar_accounting.attributes.memberships import LOWEST, Claim
from oar_accounting.attributes.records import Attribute
from oar_accounting.core import formats, periods
from oar_accounting.core.columns import OPEN
from oar_accounting.errors import BadFile, BadSpan
from oar_accounting.metrics.metric import NAME

ATTRIBUTE_KINDS = ("user", "project")
BOUNDS = ("valid_from", "valid_to")
#: The attribute that makes projects a tree, and what is asked for its topmost ones.
PARENT, ROOT = "parent", "root"

#: Words with a meaning of their own where usage is asked for or shown.
RESERVED = {
    *(
        *ATTRIBUTE_KINDS,
        *BOUNDS,
        ROOT,
        "queue",
        "cluster",
        "property",
        "site",
        "job",
        "type",
        "state",
    ),
    *("metric", "unit", "scale", "asked", "used", "name", "value", "kind"),
    *("start", "stop", "timezone", "recorded_until", "accuracy", "place", "share", "jobs"),
    *("total", "window", "hour", "day", "week", "month", "quarter", "year"),
}
RESERVED_BEGINNINGS = ("opening", "adjusted")

LONGEST_NAME = 255
#: No file of persons is larger; a wrong one would fill the memory.
MOST_BYTES = 32 * 1024**2
#: Mistakes that are told in words, and those after which nothing more is looked at.
MOST_MISTAKES_TOLD, MOST_MISTAKES = 20, 1000
#: From so many seconds on, either way, no calendar has a date.
BEYOND = 2**55
#: What people mean as a date, and what would be read as seconds of the year 1970.
BARE_DATE = re.compile(r"(?:19|20)\d\d(?:[01]\d[0-3]\d)?")


class Mistakes:
    """What is wrong with a file: all are counted, and the first kept in words."""

    def __init__(self, source: str) -> None:
        """With the name of the file."""
        self.source = formats.printable(source)
        self._count = 0
        self._first: list[str] = []

    def add(self, said: str) -> None:
        """Count one more. Raises :class:`BadFile` where there are too many to go on."""
        self._count += 1
        if len(self._first) < MOST_MISTAKES_TOLD:
            self._first.append(said)
        if self._count == MOST_MISTAKES:
            self.tell()

    def tell(self) -> None:
        """Raise :class:`BadFile` where there is any."""
        if self._count == 1:
            raise BadFile(f"{self.source}: {self._first[0]}; nothing was imported")
        if self._count:
            more = self._count - len(self._first)
            lines = [*self._first, *([f"and {more} more"] if more else [])]
            count = f"{self._count} mistakes{' or more' if self._count == MOST_MISTAKES else ''}"
            raise BadFile(
                f"{self.source}: {count}, nothing was imported:"
                + "".join(f"\n  {line}" for line in lines)
            )


@dataclass(frozen=True, slots=True)
class AttributeFile:
    """What a file says of each of its attributes."""

    source: str
    kind: str  #: user or project: who has the attributes
    claims: dict[str, list[Claim]]


@dataclass(frozen=True, slots=True)
class _Header:
    names: list[str]

    @property
    def kind(self) -> str:
        return self.names[0]

    @property
    def attributes(self) -> dict[str, int]:
        """The columns of the attributes."""
        return {n: at for at, n in enumerate(self.names) if at and n not in BOUNDS}

    def cell(self, name: str, cells: Sequence[str]) -> str:
        return cells[self.names.index(name)] if name in self.names else ""


def read(given: str | bytes | Iterable[str], source: str, tz: tzinfo) -> AttributeFile:
    """What the text, its bytes or its lines say; *source* names them in errors.

    Times without an offset are those of the clocks of *tz*. Raises :class:`BadFile` that tells
    line, column and value of each mistake.
    """
    mistakes = Mistakes(source)
    rows = _rows(_text(given, mistakes), mistakes)
    header = _Header(next(rows, (0, []))[1])
    _check_header(header, mistakes)
    mistakes.tell()
    claims: dict[str, list[Claim]] = {name: [] for name in header.attributes}
    for line, cells in rows:
        for attribute, claim in _claims(header, line, cells, tz, mistakes):
            claims[attribute].append(claim)
    mistakes.tell()
    return AttributeFile(source, header.kind, claims)


def _text(given: str | bytes | Iterable[str], mistakes: Mistakes) -> str:
    if isinstance(given, bytes):
        text = _decoded(given, mistakes)
    elif isinstance(given, str):
        text = given
    else:
        text = "\n".join(line.rstrip("\r\n") for line in given)
    mistakes.tell()
    return text.removeprefix("\ufeff")


def _decoded(given: bytes, mistakes: Mistakes) -> str:
    if len(given) > MOST_BYTES:
        mistakes.add(f"is larger than {MOST_BYTES // 1024**2} MiB")
        return ""
    try:
        return given.decode()
    except UnicodeDecodeError as error:
        line = given.count(b"\n", 0, error.start) + 1
        mistakes.add(
            f"line {line} holds the byte 0x{given[error.start]:02x}, which is not UTF-8; save the "
            'file as "CSV UTF-8"'
        )
        return ""


def _rows(text: str, mistakes: Mistakes) -> Iterator[tuple[int, list[str]]]:
    """The line numbers and cells of the rows in which anything is said."""
    first = re.search(r"[^\r\n]+", text)
    delimiter = ";" if first and ";" in first[0] and "," not in first[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            mistakes.add(f"line {line}: {error}; is a quotation mark missing, or one too many?")
            return
        if any(cells):
            yield line, cells


def _check_header(header: _Header, mistakes: Mistakes) -> None:
    if not header.names:
        mistakes.add("is empty; a first line like user,laboratory,valid_from,valid_to was expected")
        return
    if header.kind not in ATTRIBUTE_KINDS:
        mistakes.add(f"the first column must be user or project, not {shown(header.kind)}")
        return
    for name in sorted({name for name in header.names if header.names.count(name) > 1}):
        mistakes.add(f"column {shown(name)} is there {header.names.count(name)} times")
    for name in header.attributes:
        if (reason := refusal(name, header.kind)) is not None:
            mistakes.add(reason)
    if not header.attributes:
        mistakes.add(f"there is no column of an attribute beside {', '.join(header.names)}")


def refusal(attribute: str, kind: str) -> str | None:
    """Why no attribute of users or projects can have this name; None where it can."""
    if not NAME.fullmatch(attribute):
        return (
            f"column {shown(attribute)}: the name of an attribute is lower-case letters, digits "
            "and _, at most 63"
        )
    if attribute in RESERVED or attribute.startswith(RESERVED_BEGINNINGS):
        return f"column {attribute}: the name has a meaning of its own; choose another"
    if attribute == PARENT and kind != "project":
        return f"column {PARENT}: only projects have parents; the first column must be project"
    return None


def _claims(
    header: _Header, line: int, cells: Sequence[str], tz: tzinfo, mistakes: Mistakes
) -> Iterator[tuple[str, Claim]]:
    """What a row says of each attribute."""
    if len(cells) != len(header.names):
        mistakes.add(f"line {line} has {len(cells)} cells; {len(header.names)} were expected")
        return
    where = f"line {line}, column "
    if not cells[0]:
        mistakes.add(f"{where}{header.kind}: a name was expected")
    name = _name(cells[0], f"{where}{header.kind}", mistakes)
    start, stop = (
        _instant(header.cell(bound, cells), unbounded, tz, f"{where}{bound}", mistakes)
        for bound, unbounded in zip(BOUNDS, (LOWEST, OPEN), strict=True)
    )
    if stop <= start:
        mistakes.add(
            f"{where}valid_to: {shown(header.cell('valid_to', cells))} is not after valid_from, "
            f"{shown(header.cell('valid_from', cells))}; the first instant that no longer counts "
            "was expected"
        )
    for attribute, at in header.attributes.items():
        value = _name(cells[at], f"{where}{attribute}", mistakes)
        if value:
            yield attribute, Claim(name, start, stop, value, line)


def _name(cell: str, where: str, mistakes: Mistakes) -> str:
    if len(cell) > LONGEST_NAME:
        mistakes.add(f"{where}: {shown(cell)} has {len(cell)} characters; {LONGEST_NAME} at most")
    elif not cell.isprintable():
        mistakes.add(f"{where}: {shown(cell)} holds a character that cannot be printed")
    return cell


def _instant(cell: str, unbounded: int, tz: tzinfo, where: str, mistakes: Mistakes) -> int:
    """Epoch seconds of a cell; *unbounded* where it is empty, and where it is wrong."""
    if not cell:
        return unbounded
    try:
        if BARE_DATE.fullmatch(cell):
            raise BadSpan(f"{cell} is a date or a number of seconds; write a date like 2026-03-01")
        instant = periods.moment(cell[:100], tz)
        if instant is None:
            raise BadSpan(
                f"{shown(cell)} is no time; expected a date like 2026-03-01, a time like "
                f"2026-03-01T12:00 ({tz}), or epoch seconds"
            )
        if abs(instant) >= BEYOND:
            raise BadSpan(f"{shown(cell)} is beyond any calendar; leave it empty for no bound")
    except BadSpan as error:
        mistakes.add(f"{where}: {error}")
        return unbounded
    return instant


def shown(cell: str) -> str:
    """A cell as it may be shown: in quotation marks, and not too long."""
    return repr(cell) if len(cell) <= 60 else f"{cell[:60]!r}..."


def written(entries: Sequence[Attribute], tz: tzinfo) -> str:
    """The file that says what the *entries*, which are of one attribute, say; `read` as it is."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([entries[0].kind, entries[0].attribute, *BOUNDS])
    for each in entries:
        bounds = (time_text(each.valid_from, tz), time_text(each.valid_to, tz))
        writer.writerow([each.name, each.value, *bounds])
    return file.getvalue()


def time_text(instant: int | None, tz: tzinfo) -> str:
    """The cell of a time, from which `read` reads the same; "" for None."""
    return "" if instant is None else periods.written(instant, tz)

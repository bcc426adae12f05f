"""What an administrator should know of a file of attributes that is right in itself. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import tzinfo

from oar_accounting.attributes.csv_files import PARENT, shown, time_text
from oar_accounting.attributes.memberships import LOWEST, Span, gaps
from oar_accounting.core.columns import OPEN
from oar_accounting.core.formats import listed

Attributed = Mapping[str, Mapping[str, Sequence[Span]]]  # by attribute and name


def notes(
    kind: str, said: Attributed, recorded: Collection[str], window: int, tz: tzinfo
) -> list[str]:
    """One line for each thing that may be meant otherwise; times by the clocks of *tz*.

    *recorded* are the users or projects of which there are jobs; windows are of *window* seconds.
    """
    found: list[str] = []
    for attribute, spans in said.items():
        found += _notes_of(kind, attribute, spans, recorded, window, tz)
    names = {name for spans in said.values() for name in spans}
    # What is above others need not have jobs of its own.
    above = {value for spans in said.get(PARENT, {}).values() for _, _, value in spans}
    if unknown := names - set(recorded) - above:
        found.append(
            f"{len(unknown)} of {counted(len(names), kind)} of the file without a recorded job, or "
            f"mistyped: {listed(map(shown, sorted(unknown)))}"
        )
    return found


def _notes_of(  # noqa: PLR0913 - as `notes`, of one attribute
    kind: str,
    attribute: str,
    spans: Mapping[str, Sequence[Span]],
    recorded: Collection[str],
    window: int,
    tz: tzinfo,
) -> Iterator[str]:
    if holes := [f"{shown(name)} {when(start, stop, tz)}" for name, start, stop in gaps(spans)]:
        yield f"{attribute}: {counted(len(holes), 'gap')} between entries: {listed(holes)}"
    missing = sorted(set(recorded) - spans.keys())
    # A project without a parent is the top of its tree.
    if missing and attribute != PARENT:
        yield (
            f"{attribute}: {len(missing)} of {counted(len(recorded), f'recorded {kind}')} without "
            f"an entry: {listed(map(shown, missing))}"
        )
    if within := [
        f"{shown(name)} {time_text(bound, tz)}"
        for name, some in sorted(spans.items())
        for bound in sorted({bound for start, stop, _ in some for bound in (start, stop)})
        if bound not in (LOWEST, OPEN) and bound % window
    ]:
        yield (
            f"{attribute}: {counted(len(within), 'change')} within a window of {window} s, all of "
            f"which karma counts for the one before: {listed(within)}"
        )
    words = {*spans, *(value for some in spans.values() for _, _, value in some)}
    if blank := sorted(word for word in words if word != word.strip()):
        yield (
            f"{attribute}: {counted(len(blank), 'name')} with a blank at the beginning or end, "
            f"which is a part of it: {listed(map(shown, blank))}"
        )


def when(start: int, stop: int, tz: tzinfo) -> str:
    """A span of time in words, by the clocks of a zone."""
    begins = "" if start == LOWEST else f"from {time_text(start, tz)}"
    ends = "" if stop == OPEN else f"until {time_text(stop, tz)}"
    return f"{begins} {ends}".strip() or "at all times"


def counted(number: int, noun: str) -> str:
    """So many of something."""
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""The figures as an aligned table of text. `None` is what was not measured."""

from collections.abc import Iterator, Mapping
from typing import Any

Figures = Mapping[str, Any]

MIB = 2**20


def text_of(figures: Figures) -> str:
    """Everything that was measured, for people."""
    lines = [*_head(figures)]
    for title, section, rows in (
        ("catch-up from empty, PostgreSQL", "from_empty", _from_empty),
        ("peak memory of catch-up, PostgreSQL", "memory", _memory),
        ("nothing new, whole process, PostgreSQL", "nothing_new", _nothing_new),
        ("other databases, catch-up from empty", "others", _others),
    ):
        if figures.get(section):
            lines += ["", title, *_aligned(list(rows(figures[section])))]
    return "\n".join(lines) + "\n"


def _head(figures: Figures) -> Iterator[str]:
    yield f"oar_accounting, engine, {figures['date']}"
    yield f"commit {figures['commit'] or 'unknown'}, Python {figures['python']}, " + (
        f"{figures['processors']} processors, {figures['system']}"
    )
    yield from figures["servers"].values()
    if figures["postgresql_settings"]:
        yield ", ".join(f"{k} = {v}" for k, v in figures["postgresql_settings"].items())


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    names = max(len(row[0]) for row in rows)
    values = max(len(row[1]) for row in rows)
    return [f"  {a:<{names}}  {b:>{values}}  {c}".rstrip() for a, b, c in rows]


def _from_empty(part: Figures) -> Iterator[tuple[str, ...]]:
    rows = part["rows"]
    yield "jobs", f"{part['jobs']:,}", f"assigned resources {part['assigned']:,}"
    yield (
        "rows written",
        f"{sum(rows.values()):,}",
        ", ".join(f"{name} {count:,}" for name, count in rows.items()),
    )
    runs = len(part["ours"]["runs"])
    floor = part["floor"]["median"]
    yield "floor: aggregate", f"{floor['aggregate']:.2f} s", ""
    yield "floor: COPY jobs, spans, rates", f"{floor['copy']:.2f} s", ""
    yield "floor: upsert totals", f"{floor['totals']:.2f} s", ""
    yield "floor", f"{floor['total']:.2f} s", f"median of {runs} interleaved runs"
    ours = part["ours"]
    shown = " ".join(f"{seconds:.2f}" for seconds in ours["runs"])
    yield "catch-up", f"{ours['median']:.2f} s", f"{ours['jobs_per_second']:,.0f} jobs/s; {shown}"
    yield "catch-up / floor", f"{part['ratio_of_medians']:.2f}", "of medians; goal <= 2.5"
    yield "", f"{part['median_of_ratios']:.2f}", "median of the runs' ratios"


def _memory(part: Figures) -> Iterator[tuple[str, ...]]:
    for run in part["runs"]:
        yield (
            f"{run['jobs']:,} jobs",
            f"{run['peak'] / MIB:.0f} MiB",
            f"catch-up {run['seconds']:.1f} s, data made in {run['making']:.1f} s",
        )
    yield "largest / smallest", f"{part['ratio']:.2f}", "goal <= 1.20, under 300 MiB"


def _nothing_new(part: Figures) -> Iterator[tuple[str, ...]]:
    for side, label in (("full", f"{part['jobs']:,} old jobs recorded"), ("empty", "no job")):
        shown = " ".join(f"{seconds:.2f}" for seconds in part[side]["runs"])
        yield label, f"{part[side]['median']:.2f} s", shown
    yield "ratio of medians", f"{part['ratio']:.2f}", "goal <= 1.5"


def _others(part: Figures) -> Iterator[tuple[str, ...]]:
    for name, run in part.items():
        yield (
            name,
            f"{run['jobs_per_second']:,.0f} jobs/s",
            f"{run['median']:.2f} s, median of {len(run['runs'])}; {run['jobs']:,} jobs",
        )

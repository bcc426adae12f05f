"""What a monitoring system reads: a status as text in the format OpenMetrics. Pure.

A node exporter's textfile collector reads the older format of Prometheus. There the lines of units
and of the end are comments, and the rest is the same.
"""

from collections import Counter
from collections.abc import Iterator

from oar_accounting.health.records import Status

FINDING_LEVELS = ("good", "warning", "bad")


def openmetrics(status: Status) -> str:
    """The status as gauges of the site; what is not known is left out."""
    site = {"site": status.site or ""}
    lines: list[str] = []
    for name, told, value in _gauges(status):
        if value is not None:
            lines += [*_head(name, told), _sample(name, site, value)]
    counts = Counter(str(each.level) for each in status.findings)
    lines += _head("findings", "What the doctor found, by level.")
    lines += [_sample("findings", {**site, "level": each}, counts[each]) for each in FINDING_LEVELS]
    return "\n".join([*lines, "# EOF\n"])


def _gauges(status: Status) -> Iterator[tuple[str, str, int | None]]:
    recorded, backlog = status.recorded, status.backlog
    known = recorded is not None and backlog is not None
    yield "up", "1 where both databases can be read and the site is recorded.", int(known)
    if recorded is not None:
        last = None if recorded.last_pass is None else recorded.last_pass.began
        yield "last_pass_start_timestamp_seconds", "When the last pass of any verb began.", last
        yield (
            "last_success_timestamp_seconds",
            "When the last catch-up that was done began.",
            recorded.last_success,
        )
        yield "catch_ups_failed", "Catch-ups that failed since then.", recorded.failed
        yield "catch_ups_unended", "Catch-ups that never ended since then.", recorded.unended
        yield "problems", "Jobs that the last catch-up could not record.", recorded.problems
        yield "problems_standing", "Problems that were not found mended.", recorded.standing
        yield "jobs_recorded", "Jobs that are recorded.", recorded.jobs
        yield "jobs_open", "Jobs that hold resources now.", recorded.open_jobs
    if backlog is not None:
        yield "jobs_unrecorded", "Jobs of OAR that wait to be recorded.", backlog.jobs
        yield (
            "oldest_unrecorded_timestamp_seconds",
            "Since when the first of them waits.",
            backlog.since,
        )
    rounds = status.rounds
    if rounds is not None:
        missed = rounds.total - rounds.ours
        yield (
            "rounds_decided",
            "Rounds of OAR's scheduler in a day that karma decided.",
            rounds.ours,
        )
        yield "rounds_not_decided", "Those in which it was to decide, and did not.", missed
        yield "last_round_timestamp_seconds", "When the last of them was.", rounds.newest
    if status.stopped_queues is not None:
        stopped = len(status.stopped_queues)
        yield "queues_not_active", "Queues of OAR from which no job starts.", stopped


def _head(name: str, told: str) -> list[str]:
    unit = [f"# UNIT oar_accounting_{name} seconds"] if name.endswith("_seconds") else []
    return [f"# TYPE oar_accounting_{name} gauge", *unit, f"# HELP oar_accounting_{name} {told}"]


def _sample(name: str, labels: dict[str, str], value: int) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"oar_accounting_{name}{{{shown}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')

"""What OAR's rows say that a job asked for and used, beside what the ledger says.

Written anew from the table of the README, in plain SQL and sets of seconds, without the library.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Asked(Protocol):
    """An OAR server, or a connection to its database."""

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that a query gives."""


class Amounts(NamedTuple):
    """Of one metric, in seconds times what is held."""

    asked: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """A job as OAR has it."""

    state: str
    user: str
    project: str
    start: int
    stop: int
    walltime: int
    resources: int
    nodes: int
    inner: bool
    paused: frozenset[int]  #: the seconds in which it was Suspended or Resuming

    def due(self) -> dict[str, Amounts]:
        """What it asked for and used of each metric, where that is anything."""
        ran = range(self.start, self.stop)
        if not ran or self.start <= 1 or self.inner:
            return {}
        used = len(set(ran) - self.paused)
        held = {"resource": self.resources, "node": self.nodes}
        return {name: Amounts(self.walltime * n, used * n) for name, n in held.items() if n}


JOB = """
SELECT j.state, j.job_user, j.project, j.start_time, j.stop_time,
       coalesce((SELECT moldable_walltime FROM moldable_job_descriptions
                 WHERE moldable_id = j.assigned_moldable_job), 0),
       EXISTS (SELECT 1 FROM job_types t WHERE t.job_id = j.job_id AND t.type LIKE 'inner=%%')
FROM jobs j
WHERE j.job_id = %s
"""
HELD = """
SELECT count(*), count(DISTINCT r.network_address)
FROM jobs j
JOIN assigned_resources a ON a.moldable_job_id = j.assigned_moldable_job
JOIN resources r ON r.resource_id = a.resource_id
WHERE j.job_id = %s AND r.type = 'default'
"""
PAUSES = """
SELECT date_start, date_stop FROM job_state_logs
WHERE job_id = %s AND job_state IN ('Suspended', 'Resuming')
"""
RECORDED = """
SELECT m.name, s.asked,
       sum((s.stop_time - s.start_time) * CASE s.asked WHEN 1 THEN r.asked ELSE r.used END)
FROM accounting_jobs j
JOIN accounting_spans s ON s.site_id = j.site_id AND s.job_id = j.job_id
JOIN accounting_rates r ON r.site_id = j.site_id AND r.job_id = j.job_id
JOIN accounting_metrics m ON m.metric_id = r.metric_id
WHERE j.job_id = %s AND j.closed = 1
GROUP BY m.name, s.asked
"""


def job_row(oar: Asked, job: int) -> JobRow:
    """A job's rows in OAR's tables."""
    ((state, user, project, start, stop, walltime, inner),) = oar.ask(JOB, job)
    ((resources, nodes),) = oar.ask(HELD, job)
    paused = [second for first, end in oar.ask(PAUSES, job) for second in range(first, end)]
    return JobRow(
        state=state,
        user=user,
        project=project,
        start=start,
        stop=stop,
        walltime=walltime,
        resources=resources,
        nodes=nodes,
        inner=inner,
        paused=frozenset(paused),
    )


def recorded(oar: Asked, job: int) -> dict[str, Amounts]:
    """What a closed job asked for and used of each metric, in the ledger."""
    found: dict[str, Counter[int]] = {}
    for metric, asked, amount in oar.ask(RECORDED, job):
        found.setdefault(metric, Counter())[asked] += int(amount)
    return {metric: Amounts(amounts[1], amounts[0]) for metric, amounts in found.items()}

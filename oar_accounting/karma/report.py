"""Answers about karma: columns for many jobs, small records for one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from oar_accounting.core.columns import Bools, Ints, Texts
from oar_accounting.karma.policies.policy import PROJECT_LEVELS

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class KarmaPart:
    """One of the numbers that a job's karma is made of."""

    by: str  #: user, project, a level of a tree ...
    depth: int = 0  #: in a tree, which of the parts of all jobs it is, from the top down
    name: str  #: of whom the usage is; empty for nobody
    metric: str
    unit: str  #: ``usage`` and ``of`` are in this divided by ``scale``
    scale: int
    amount: str  #: used or asked
    scope: str  #: site or queue
    counts: str  #: in words: how much use of which time counts
    usage: float  #: weighted by time; 0 where corrections take away more than that
    of: float  #: what it is a share of
    of_project: str = ""  #: the project whose usage that is; empty for more than one's
    share: float  #: ``usage / of``; 0 where that is nothing
    effective: float | None = None  #: of policy tree: drawn towards that of the name above
    target: float | None  #: the share that is meant for the name
    weight: float
    value: float  #: what it gives to the karma, or the figure of the tree


@dataclass(frozen=True, slots=True, kw_only=True)
class JobKarma:
    """A job that waits. Lower karma is first."""

    job_id: int
    user: str
    project: str
    queue: str
    karma: float  #: infinite for a name that has no shares
    place: int  #: in its queue, from 1
    waiting: int  #: how many wait in its queue
    parts: tuple[KarmaPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of every job, as columns in the order of the jobs."""

    by: str
    depth: int = 0
    metric: str
    unit: str
    scale: int
    amount: str
    scope: str
    counts: str
    weight: float
    names: Texts  #: None where a job has no such part
    usage: Floats
    of: Floats
    of_project: Texts | None = None  #: None where it is empty for all
    share: Floats
    effective: Floats | None = None  #: None, or NaN, for none
    target: Floats  #: NaN for none
    value: Floats

    def take(self, rows: Bools | Ints) -> "Part":
        """The same of these jobs."""
        names = ("names", "usage", "of", "of_project", "share", "effective", "target", "value")
        columns = ((name, getattr(self, name)) for name in names)
        return replace(self, **{name: each[rows] for name, each in columns if each is not None})

    def of_job(self, row: int) -> KarmaPart:
        """That of one job."""
        return KarmaPart(
            by=self.by,
            depth=self.depth,
            name=self.names[row],
            metric=self.metric,
            unit=self.unit,
            scale=self.scale,
            amount=self.amount,
            scope=self.scope,
            counts=self.counts,
            usage=float(self.usage[row]),
            of=float(self.of[row]),
            of_project="" if self.of_project is None else self.of_project[row],
            share=float(self.share[row]),
            effective=None if self.effective is None else _known(self.effective[row]),
            target=_known(self.target[row]),
            weight=self.weight,
            value=float(self.value[row]),
        )


def _known(value: np.float64) -> float | None:
    return None if np.isnan(value) else float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class KarmaReport:
    """Jobs that wait, those first that are to start first: by karma, then by id."""

    policy: str
    now: int  #: epoch seconds UTC
    job_id: Ints
    user: Texts
    project: Texts
    queue: Texts
    karma: Floats
    place: Ints  #: in its queue, from 1
    parts: tuple[Part, ...]
    waiting: Mapping[str, int]  #: how many jobs wait in each queue
    timezone: str = "UTC"  #: of the site, in which people are told of times

    def __len__(self) -> int:
        return len(self.job_id)

    def __iter__(self) -> Iterator[JobKarma]:
        return map(self.job, range(len(self)))

    def take(self, rows: Bools | Ints) -> "KarmaReport":
        """Some of the jobs, each in its place among all."""
        columns = ("job_id", "user", "project", "queue", "karma", "place")
        chosen = {name: getattr(self, name)[rows] for name in columns}
        return replace(self, parts=tuple(part.take(rows) for part in self.parts), **chosen)

    def row_of(self, job: int) -> int | None:
        """The row of a job; None where it does not wait."""
        rows = np.flatnonzero(self.job_id == job)
        return int(rows[0]) if len(rows) else None

    def job(self, row: int) -> JobKarma:
        """The job of a row."""
        return JobKarma(
            job_id=int(self.job_id[row]),
            user=self.user[row],
            project=self.project[row],
            queue=self.queue[row],
            karma=float(self.karma[row]),
            place=int(self.place[row]),
            waiting=self.waiting[self.queue[row]],
            parts=tuple(part.of_job(row) for part in self.parts if part.names[row] is not None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a job stands where it does."""

    policy: str
    now: int
    job: JobKarma
    ahead: JobKarma | None  #: the job just before it in its queue; None: not there, or not shown
    lower: JobKarma | None  #: the last one before it whose karma is lower; None: likewise
    timezone: str = "UTC"  #: of the site


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricUsage:
    """What a name used of one metric."""

    metric: str
    unit: str
    scale: int
    amount: int  #: as it was used, in the unit divided by the scale
    usage: float  #: weighted by time, in the same; 0 where corrections take away more than that
    share: float  #: of the whole, or of what the machine could give


@dataclass(frozen=True, slots=True, kw_only=True)
class FairShareRow:
    """How a name stands to what is meant for it."""

    by: str
    amount: str  #: used or asked
    counts: str = ""  #: in words: how much use of which time counts
    depth: int  #: from 0: how many names stand above it in the list
    name: str
    queue: str  #: empty where all queues count together
    target: float | None  #: the share that is meant for it; None for none
    of_project: str = ""  #: the project of whose usage it has a share; empty for more than one's
    share: float | None  #: of the whole, or of a fair tree among its siblings; None: not shown
    effective: float | None = None  #: of policy tree: drawn towards that of the name above
    figure: float | None  #: of a tree: the factor, or level_fs
    usage: tuple[MetricUsage, ...]

    @property
    def over(self) -> float | None:
        """By how much the share that counts is above what is meant; None where one is not there."""
        share = self.counted_share
        return None if self.target is None or share is None else share - self.target

    @property
    def counted_share(self) -> float | None:
        """The share that the policy compares with what is meant for the name."""
        return self.share if self.effective is None else self.effective


@dataclass(frozen=True, slots=True, kw_only=True)
class FairShareReport:
    """The names that share the machine, below each other as in the tree."""

    policy: str
    now: int
    counts: str  #: in words: how much use of which time counts
    rows: Sequence[FairShareRow]
    timezone: str = "UTC"  #: of the site


# -- what an ordinary user may see ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """An ordinary user, who sees what is theirs and their projects', and nothing of anybody else.

    A group that the user or project is in, as a laboratory, is shown as part of what is theirs.
    """

    user: str
    projects: frozenset[str]

    def jobs(self, report: KarmaReport) -> KarmaReport:
        """The user's own jobs, each in its place among all."""
        own = report.take(report.user == self.user)
        return replace(own, parts=tuple(map(self._visible, own.parts)))

    def _visible(self, part: Part) -> Part:
        """What of a part is of the user, their projects, or what these are parts of."""
        projects = part.of_project
        if projects is None:
            projects = np.full(len(part.names), "", dtype=object)
        names = [
            name if self._shows(part.by, name, project) else None
            for name, project in zip(part.names, projects, strict=True)
        ]
        # What is drawn towards the share of the name above tells what that one used.
        return replace(part, names=np.array(names, dtype=object), effective=None)

    def _shows(self, by: str, name: str, of_project: str) -> bool:
        """False for a project of others, and for a share of what such a project used."""
        is_own = by not in PROJECT_LEVELS or name in self.projects
        return is_own and (not of_project or of_project in self.projects)

    def explanation(self, told: Explanation) -> Explanation | None:
        """The same without the job of somebody else before it; None where it is not the user's."""
        if told.job.user != self.user:
            return None
        ahead, lower = (
            self._shown(each) if each is not None and each.user == self.user else None
            for each in (told.ahead, told.lower)
        )
        return replace(told, job=self._shown(told.job), ahead=ahead, lower=lower)

    def _shown(self, job: JobKarma) -> JobKarma:
        """The job with those parts that may be seen."""
        parts = (
            replace(part, effective=None)
            for part in job.parts
            if self._shows(part.by, part.name, part.of_project)
        )
        return replace(job, parts=tuple(parts))

    def fairshare(self, report: FairShareReport) -> FairShareReport:
        """The rows of the user and of their projects, not those of others within these projects."""
        found = []
        above: list[FairShareRow] = []
        for row in report.rows:
            while above and above[-1].depth >= row.depth:
                above.pop()
            above.append(row)
            users = {each.name for each in above if each.by == "user"}
            if self._is_own(row.by, row.name) and users <= {self.user}:
                found.append(self._row(row))
        return replace(report, rows=found)

    def _is_own(self, by: str, name: str) -> bool:
        return (by == "user" and name == self.user) or (
            by in PROJECT_LEVELS and name in self.projects
        )

    def _row(self, row: FairShareRow) -> FairShareRow:
        """The row by itself; without its share of what a project of others used."""
        if self._shows(row.by, row.name, row.of_project):
            return replace(row, depth=0, effective=None)
        return replace(row, depth=0, of_project="", share=None, effective=None, figure=None)

"""The answers: the order of the jobs that wait, why a job stands where it does, who is over."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from oar_accounting.core import formats
from oar_accounting.core.columns import LARGEST, Ints, ints
from oar_accounting.database import dialects
from oar_accounting.errors import BadSpan, OarSchemaError, SchemaError, UnknownName
from oar_accounting.karma.inputs import Sources
from oar_accounting.karma.known import KnownAccounts
from oar_accounting.karma.policies.describe import in_words
from oar_accounting.karma.policies.order import order
from oar_accounting.karma.policies.policy import Dominant, Karma, Linear, Shared, Stock
from oar_accounting.karma.report import (
    Explanation,
    FairShareReport,
    FairShareRow,
    Floats,
    KarmaReport,
    Part,
)
from oar_accounting.karma.settings import check_lengths, read_karma
from oar_accounting.karma.sums import UsageSums, sums_of
from oar_accounting.karma.waiting import Waiters, waiters
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import account_names, stored_metrics
from oar_accounting.ledger.ledger import Book, Ledger
from oar_accounting.oar.job_rules import FARTHEST
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.oar.waiting_jobs import Queued, read_jobs, read_waiting
from oar_accounting.recording.unposted import NOTHING, read_recent
from oar_accounting.settings.load import Settings

if TYPE_CHECKING:
    from oar_accounting.karma.by_oar import StockSources

# What knows one policy only is imported where that is in force: schedulers wait for it.


@contextmanager
def fair_share_of(given: Settings, now: int, limit: float | None = None) -> "Iterator[FairShare]":
    """What a site's karma says as of *now*, for one `with` block that opens its databases.

    *limit*: the seconds that one step on them may take.
    """
    with dialects.both_open(given.url, given.oar_url, limit) as (engine, oar_engine):
        yield FairShare(given, Ledger(engine, given.site), OarJobs(oar_engine), now)


def rules_of(given: Settings) -> Karma:
    """What the settings say of karma; OAR's own without them. Raises :class:`SettingsError`."""
    rules = Karma(open_jobs="none")
    if given.karma is not None:
        rules = read_karma(given.karma, given.file, [metric.name for metric in given.metrics])
    if given.profile == "classic" and not _says(given.karma, "open_jobs"):
        rules = replace(rules, open_jobs="none")
    return rules


class FairShare:
    """What a site's karma says as of some instant."""

    def __init__(
        self,
        given: Settings,
        ledger: Ledger,
        oar: OarJobs,
        now: int,
        known: KnownAccounts | None = None,
    ) -> None:
        """*now*: epoch seconds UTC; *known*: what other questions about the site have found.

        Raises :class:`oar_accounting.SettingsError` and :class:`oar_accounting.BadSpan`.
        """
        if abs(now) > FARTHEST:
            raise BadSpan(f"{now} is beyond any calendar; epoch seconds were expected")
        self._known = known or KnownAccounts()
        self._given = given
        self._ledger = ledger
        self._oar = oar
        self.now = now
        self.rules = rules_of(given)

    def karma(self, jobs: Sequence[int] | None = None, queue: str | None = None) -> KarmaReport:
        """The karma of these jobs, or of all that wait, in order; of one *queue* or of all.

        Raises :class:`UnknownName` for a queue that neither OAR nor what is recorded knows.
        """
        queued, wanted = self._queued(), ints([])
        if jobs is not None:
            wanted = ints([job for job in jobs if 0 < job <= LARGEST])
            # Among all that wait: what a tree gives, and a place, depend on the others.
            others = wanted[~np.isin(wanted, queued.job_id)]
            if len(others):
                with dialects.reading(self._oar.engine) as connection:
                    queued = Queued.concat([queued, read_jobs(connection, others)])
        report = self.report_of(queued)
        if jobs is not None:
            report = report.take(np.isin(report.job_id, wanted))
        if queue is None:
            return report
        if queue not in report.waiting:
            self._check_queue(queue)
        return report.take(report.queue == queue)

    def _check_queue(self, queue: str) -> None:
        from oar_accounting.oar.queues import read_queues

        known: set[str] = set()
        # OAR's queues may be unreadable, and the site unrecorded: the other is enough.
        with suppress(OarSchemaError):
            known.update(read_queues(self._oar.engine, self.now).policies)
        with suppress(SchemaError), self._ledger.reading() as (connection, site):
            if site is not None:
                known.update(names[2] for names in account_names(connection, site.site_id).values())
        if queue not in known:
            raise UnknownName(f"unknown queue {queue!r}{formats.meant(queue, known)}")

    def explain(self, job: int) -> Explanation:
        """Why a job that waits stands where it does. Raises :class:`UnknownName`."""
        report = self.karma()
        row = report.row_of(job)
        if row is None:
            raise UnknownName(f"job {job} does not wait: OAR's schedulers do not order it")
        before = np.flatnonzero(report.queue[:row] == report.queue[row])
        lower = before[report.karma[before] < report.karma[row]]
        ahead, lower_karma = (
            report.job(int(rows[-1])) if len(rows) else None for rows in (before, lower)
        )
        return Explanation(
            policy=report.policy,
            now=report.now,
            job=report.job(row),
            ahead=ahead,
            lower=lower_karma,
            timezone=report.timezone,
        )

    def fairshare(self) -> FairShareReport:
        """How everybody stands to what is meant for them."""
        policy = self.rules.policy
        if isinstance(policy, Stock):
            from oar_accounting.karma import by_oar

            rows, counts = by_oar.rows(self._stock(policy))
        else:
            queued = self._queued()
            with self._policy_sources(policy) as sources:
                jobs = waiters(sources.connection, sources.site, queued)
                rows, counts = _rows(policy, jobs, sources)
        return FairShareReport(
            policy=policy.name,
            now=self.now,
            counts=counts,
            rows=rows,
            timezone=self._given.timezone,
        )

    def sums(self, metrics: Mapping[str, float], queues: Sequence[str], start: int) -> UsageSums:
        """What was used in these queues from *start* on; open jobs as karma counts them.

        *metrics*: how much the unit of each counts. Raises :class:`UnknownName`.
        """
        open_jobs = self.rules.open_jobs
        if isinstance(self.rules.policy, Stock) and self._given.profile != "classic":
            open_jobs = "used"
        with self.sources(list(metrics), open_jobs) as sources:
            return sums_of(sources, metrics, queues, self.now - start)

    def _queued(self) -> Queued:
        with dialects.reading(self._oar.engine) as connection:
            return read_waiting(connection)

    def report_of(self, queued: Queued) -> KarmaReport:
        """The karma of these jobs, as if no others waited."""
        policy = self.rules.policy
        if isinstance(policy, Stock):
            from oar_accounting.karma import by_oar

            return self._report(queued, *by_oar.karma_of(self._stock(policy), queued))
        with self._policy_sources(policy) as sources:
            jobs = waiters(sources.connection, sources.site, queued)
            return self._report(jobs.jobs, *_karma_of(policy, jobs, sources))

    def _report(self, jobs: Queued, karma: Floats, parts: Sequence[Part]) -> KarmaReport:
        rows = order(karma, jobs.job_id)
        queue = jobs.queue[rows]
        places, waiting = _places(queue.tolist())
        return KarmaReport(
            policy=self.rules.policy.name,
            now=self.now,
            job_id=jobs.job_id[rows],
            user=jobs.user[rows],
            project=jobs.project[rows],
            queue=queue,
            karma=karma[rows],
            place=places,
            parts=tuple(part.take(rows) for part in parts),
            waiting=waiting,
            timezone=self._given.timezone,
        )

    def _stock(self, policy: Stock) -> "StockSources":
        from oar_accounting.karma.by_oar import StockSources

        return StockSources(
            policy=policy,
            given=self._given,
            ledger=self._ledger,
            oar=self._oar,
            now=self.now,
        )

    @contextmanager
    def _policy_sources(self, policy: Linear | Shared | Dominant) -> Iterator[Sources]:
        """What the policy needs. Raises as `sources`, and :class:`SettingsError`."""
        with self.sources(_metrics_of(policy), self.rules.open_jobs) as sources:
            check_lengths(policy, sources.site.terms.window, self._given.file)
            yield sources

    @contextmanager
    def sources(self, wanted: Sequence[str], open_jobs: str) -> Iterator[Sources]:
        """What there is of these metrics. Raises :class:`UnknownName` where it is not recorded."""
        with self._ledger.reading() as (connection, site):
            if site is None:
                raise UnknownName(
                    f"site {self._ledger.site_name!r} is not recorded yet: oar-accounting catch-up"
                )
            accounts = self._known.refreshed(connection, site.site_id)
            stored = {
                each.metric.name: each
                for each in stored_metrics(connection, site.site_id)
                if each.state == schema.ACTIVE
            }
            recent = NOTHING
            if open_jobs != "none":
                book = Book(connection, site, accounts)
                metrics = [stored[name] for name in wanted if name in stored]
                held = open_jobs == "held"
                recent = read_recent(book, self._oar, metrics, self.now, held=held)
            yield Sources(
                connection=connection,
                site=site,
                oar=self._oar,
                stored=stored,
                wanted=wanted,
                accounts=accounts,
                known=self._known,
                recent=recent,
                now=self.now,
            )


def _says(section: object, key: str) -> bool:
    return isinstance(section, dict) and key in section


def _metrics_of(policy: Linear | Shared | Dominant) -> list[str]:
    if isinstance(policy, Linear):
        return list(dict.fromkeys(term.metric for term in policy.terms))
    return list(policy.metrics)


def _karma_of(
    policy: Linear | Shared | Dominant, jobs: Waiters, sources: Sources
) -> tuple[Floats, list[Part]]:
    if isinstance(policy, Linear):
        from oar_accounting.karma import by_linear

        return by_linear.karma_of(by_linear.judge(policy, sources), jobs, sources)
    if isinstance(policy, Shared):
        from oar_accounting.karma import by_tree

        return by_tree.karma_of(policy, jobs, sources)
    from oar_accounting.karma import by_dominant

    return by_dominant.karma_of(policy, jobs, sources)


def _rows(
    policy: Linear | Shared | Dominant, jobs: Waiters, sources: Sources
) -> tuple[list[FairShareRow], str]:
    if isinstance(policy, Linear):
        from oar_accounting.karma import by_linear

        words = dict.fromkeys(in_words(term.counted.weighting) for term in policy.terms)
        return by_linear.rows(by_linear.judge(policy, sources), sources), "; ".join(words)
    counts = in_words(policy.counted.weighting)
    if isinstance(policy, Shared):
        from oar_accounting.karma import by_tree

        return by_tree.rows(policy, jobs, sources), counts
    from oar_accounting.karma import by_dominant

    return by_dominant.rows(policy, sources), counts


def _places(queues: Sequence[str]) -> tuple[Ints, dict[str, int]]:
    """The place of each job in its queue, from 1, and how many there are in each queue."""
    seen: dict[str, int] = {}
    places = np.zeros(len(queues), np.int64)
    for row, queue in enumerate(queues):
        places[row] = seen[queue] = seen.get(queue, 0) + 1
    return places, seen

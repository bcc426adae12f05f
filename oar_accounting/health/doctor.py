"""The doctor: what is set up, what is behind, what is wrong, and the command that mends it.

One thing is looked at after the other, and what cannot be looked at is a finding as well: the
first fault hides none of the others. Nothing is written.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from oar_accounting.core import formats
from oar_accounting.core.lengths import LATE
from oar_accounting.database import dialects
from oar_accounting.errors import AccountingError, OarSchemaError, SchemaError, SettingsError
from oar_accounting.health import (
    drivers,
    property_findings,
    queue_findings,
    site_setup,
    state_directory,
    time_findings,
)
from oar_accounting.health.backlog import find_backlog
from oar_accounting.health.mending import make_roles, parted, settings_way, way_out
from oar_accounting.health.records import Backlog, Finding, Level, SiteStatus, Status
from oar_accounting.health.rights import unread_finding
from oar_accounting.ledger import catalog, journal, schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.problems import count_problems, standing_problems
from oar_accounting.ledger.reading import count_jobs, open_jobs
from oar_accounting.ledger.records import PassRecord, StandingProblem
from oar_accounting.ledger.verify import first_differences
from oar_accounting.oar.job_rules import Terms
from oar_accounting.oar.queues import Queues, read_queues
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.oar.spellings import DOUBLE_ENCODED
from oar_accounting.recording.declared import (
    check_properties,
    declared_terms,
    dropped_properties,
    notices,
)
from oar_accounting.recording.identity import check_identity
from oar_accounting.recording.spellings import merged_names, undecoded_names
from oar_accounting.settings.load import Settings, oar_login
from oar_accounting.stubs.oar_user import quoted

if TYPE_CHECKING:
    from oar_accounting.health.deciding import Deciding

CATCH_UP = "catch-up"
AGAIN = "oar-accounting catch-up"
LIST_PROBLEMS = "oar-accounting problems"
#: Problems that are named.
MOST_STANDING = 3

#: Totals that are wrong are counted up to so many.
MOST_DIFFERENCES = 100


def examine(  # noqa: PLR0913 - one question
    given: Settings, ledger: Ledger, oar: OarJobs, now: int, root: Path, *, verify: bool
) -> Status:
    """How the accounting of a site is, at the instant *now*; with *verify* also every total.

    The paths of the machine's files are below *root*.
    """
    # Every program imports this module, and few of them ask for karma.
    from oar_accounting.health import karma_findings

    examination = _Examination(given, ledger, oar, now)
    databases = examination.databases()
    recorded = examination.recorded()
    backlog = examination.backlog()
    if verify:
        examination.verify()
    queues = examination.queues()
    decided = karma_findings.decided(Path(given.oar_conf), queues, now, root, os.environ)
    examination.karma(decided.deciding)
    last_try = None if recorded is None else recorded.last_catch_up
    return Status(
        at=now,
        program=version("oar-accounting"),
        oar_conf=given.oar_conf,
        site=given.site,
        settings=given.file + ("" if os.path.exists(given.file) else " (not there: defaults)"),
        oar_database=databases[0],
        database=databases[1],
        schema=examination.schema,
        recorded=recorded,
        backlog=backlog,
        rounds=decided.rounds,
        stopped_queues=None if queues is None else queues.stopped,
        findings=(
            *examination.findings,
            *decided.findings,
            *_machine(last_try, Path(given.oar_conf), given, now, root),
        ),
    )


def examine_machine(error: SettingsError, oar_conf: Path, now: int, root: Path) -> Status:
    """The same where the settings cannot be used: what the files of this machine show."""
    from oar_accounting.health import karma_findings

    wrong = Finding("bad", "settings", str(error), settings_way(str(error)))
    decided = karma_findings.decided(oar_conf, None, now, root, os.environ)
    return Status(
        at=now,
        program=version("oar-accounting"),
        oar_conf=str(oar_conf),
        rounds=decided.rounds,
        findings=(wrong, *decided.findings, *_machine(None, oar_conf, None, now, root)),
    )


class _Examination:
    """A look at one site and its two databases."""

    def __init__(self, given: Settings, ledger: Ledger, oar: OarJobs, now: int) -> None:
        self.findings: list[Finding] = []
        self.schema: int | None = None
        self._given = given
        self._ledger = ledger
        self._oar = oar
        self._now = now
        self._site: Site | None = None
        #: OAR's tables can be read, and ours are all there.
        self._readable = False
        self._complete = False

    def _found(self, level: Level, subject: str, said: str, mend: str = "") -> None:
        self.findings.append(Finding(level, subject, said, mend))

    @contextmanager
    def _trying(self, subject: str, engine: Engine) -> Iterator[None]:
        """What goes wrong within is a finding."""
        try:
            yield
        except AccountingError as error:
            said, mend = parted(str(error))
            self._found("bad", subject, said, mend or way_out(error, engine))

    # -- what is set up -----------------------------------------------------------------------

    def databases(self) -> tuple[str | None, str | None]:
        """OAR's and ours, and what they run on; None for one that does not answer."""
        oar, own = self._oar.engine, self._ledger.engine
        oar_on = self._server("OAR's database", oar)
        own_on = oar_on if oar is own else self._server("our tables", own)
        if oar_on is not None:
            self._look_at_oar()
        if own_on is not None:
            self._look_at_tables()
        if self._readable and self._complete:
            self._look_at_roles()
            self._look_at_terms()
        if self._readable:
            self._look_at_properties()
            self._look_at_times()
            self._look_at_names()
        for line in self._given.warnings:
            self._found("warning", "passwords", *parted(line))
        return oar_on, own_on

    def _server(self, subject: str, engine: Engine) -> str | None:
        with self._trying(subject, engine), dialects.reading(engine) as connection:
            return f"{dialects.shown(engine.url)}, {dialects.server(connection)}"
        return None

    def _look_at_oar(self) -> None:
        with self._trying("OAR's database", self._oar.engine):
            self._oar.properties()
            self._readable = True
            self._found("good", "OAR's database", "answers, and its tables can be read")
            unread = self._oar.launches_unread()
            if unread and self._given.profile == "default":
                role, mend = self._oar.engine.url.username, make_roles(self._oar.engine)
                said = "they count as if they had run"
                self.findings.append(
                    unread_finding("jobs that never ran", said, "event_logs", unread, role, mend)
                )

    def _look_at_tables(self) -> None:
        with self._trying("our tables", self._ledger.engine):
            with dialects.reading(self._ledger.engine) as connection:
                self.schema = schema.version_of(connection)
            with self._ledger.reading() as (connection, self._site):
                missing = schema.first_missing(connection)
            if missing is not None:
                raise SchemaError(
                    f"{missing} is missing: the tables were changed by hand, or restored in part. "
                    "Restore all of them; what they must be is printed by: oar-accounting schema"
                )
            self._complete = True
            self._found("good", "our tables", f"all there, at version {self.schema}")

    def _look_at_roles(self) -> None:
        """May our role do what it must, and no more?"""
        oar, own = self._oar.engine, self._ledger.engine
        names = [name for name in schema.metadata.tables if name != schema.schema_version.name]
        with self._trying("roles", own):
            may_harm = self._oar.changeable()
            with dialects.reading(own) as connection:
                may_write = dialects.changeable(connection, names)
            denied = [] if may_write is None else [n for n in names if n not in may_write]
            if denied:
                said = f"the role {own.url.username} cannot record: it may not write to {denied[0]}"
                self._found("bad", "roles", said, make_roles(own))
            if may_harm and oar.url.username == oar_login(self._given):
                said = f"the role {oar.url.username} is OAR's own; hooks/README.md has lesser ones"
                self._found("good", "roles", said)
            elif may_harm:
                said = (
                    f"the role {oar.url.username} may change OAR's tables, and needs only to read "
                    "them. Make roles that may do less, as hooks/README.md has it"
                )
                self._found("warning", "roles", said, make_roles(oar))
            if may_harm is None and may_write is None:
                self._found("good", "roles", "there are none in a database of this kind")
            elif not denied and not may_harm:
                self._found("good", "roles", "may do what they must, and OAR's tables no harm")

    def _look_at_terms(self) -> None:
        """Do the settings fit OAR and what is recorded? Are the jobs still those of this OAR?"""
        oar, site = self._oar, self._site
        with self._trying("settings", oar.engine):
            check_properties(self._given, oar, self._given.metrics)
        with self._trying("settings", oar.engine):
            if site is None:
                declared_terms(self._given, oar)
                return
            terms = declared_terms(self._given, oar, site.terms)
            with self._ledger.reading() as (connection, _):
                stored = catalog.stored_metrics(connection, site.site_id)
            told = notices(site, terms, self._given.metrics, stored) + merged_names(oar, site)
            told += dropped_properties(oar, site.terms, stored)
            self._noticed("settings", told, "what they declare is what is recorded")
        with self._trying("job ids", oar.engine):
            told = check_identity(self._ledger, oar, site)
            self._noticed("job ids", told, "each still belongs to the job recorded under it")

    def _look_at_properties(self) -> None:
        """What is assumed of the past of OAR's resources?"""
        site, given = self._site, self._given
        with self._trying("properties", self._oar.engine):
            terms = declared_terms(given, self._oar) if site is None else site.terms
            if terms.profile == "default":
                self.findings += property_findings.findings(
                    self._oar, given.metrics, terms.dimension, make_roles(self._oar.engine)
                )

    def _look_at_times(self) -> None:
        """Does OAR have jobs that never end, or that ended in the future?"""
        with self._trying("times of jobs", self._oar.engine):
            given, site = self._given, self._site
            declared = Terms(profile=given.profile, grace=given.grace)
            terms = declared if site is None else site.terms
            self.findings += time_findings.findings(self._oar, given, terms, self._now)

    def _look_at_names(self) -> None:
        """Are there names that OAR shows otherwise than they stand in its database?"""
        with self._trying("names", self._oar.engine):
            recorded = self._given.names if self._site is None else self._site.terms.names
            if recorded == DOUBLE_ENCODED or not (said := undecoded_names(self._oar)):
                return
            file = self._given.file
            mend = "oar-accounting rebuild --from-oar"
            if self._given.names != DOUBLE_ENCODED:
                said += f'. names = "{DOUBLE_ENCODED}" in {file} lets them be recorded as shown'
                mend = f"editor {quoted(Path(file))} && {mend}"
            self._found("warning", "names", said, mend)

    def _noticed(self, subject: str, told: Sequence[str], well: str) -> None:
        for line in told:
            said, mend = parted(line)
            self._found("warning" if mend else "good", subject, said, mend)
        if not told:
            self._found("good", subject, well)

    # -- what is behind -----------------------------------------------------------------------

    def recorded(self) -> SiteStatus | None:
        """What is recorded of the site; None where nothing is."""
        site = self._site
        if not self._complete:
            return None
        if site is None:
            said = f"nothing is recorded yet under the name {self._given.site!r}"
            self._found("bad", CATCH_UP, said, AGAIN)
            return None
        with self._trying("our tables", self._ledger.engine):
            with self._ledger.reading() as (connection, _):
                history = journal.passes_since_done(connection, site.site_id, CATCH_UP)
                found = _site_status(connection, site, history, self._now)
                first = standing_problems(connection, site.site_id, MOST_STANDING)
            self._look_at_passes(found, history)
            self._look_at_problems(found.standing, first)
            return found
        return None

    def _look_at_passes(self, found: SiteStatus, history: Sequence[PassRecord]) -> None:
        last = found.last_success
        if last is not None and not found.failed and not found.unended:
            self._found("good", CATCH_UP, f"the last one began {self._ago(last)}, and was done")
            return
        mend = AGAIN
        said = "none was ever done"
        if last is not None:
            said = f"the last that was done began {self._ago(last)}"
        if found.unended:
            said += f"; {found.unended} began since and never ended: were they killed?"
        if found.failed:
            failed = next(each for each in history if _is(each, journal.FAILED))
            reason, command = parted(failed.message)
            mend = command or mend
            said += f"; {found.failed} failed since, the last {self._ago(failed.began)}: {reason}"
        late = last is None or self._now - last > LATE
        self._found("bad" if late else "warning", CATCH_UP, said, mend)

    def _look_at_problems(self, standing: int, first: Sequence[StandingProblem]) -> None:
        if not standing:
            self._found("good", "problems", "there are none")
            return
        named = [f"{each.kind} {each.subject}: {each.message}" for each in first]
        more = f"; and {standing - len(first)} more" if standing > len(first) else ""
        said = f"{standing} to look at, since {formats.date(first[0].first_seen)}: "
        self._found("warning", "problems", said + "; ".join(named) + more, LIST_PROBLEMS)

    def backlog(self) -> Backlog | None:
        """The jobs that wait to be recorded; None where that cannot be told."""
        if not self._readable or not self._complete:
            return None
        with self._trying("backlog", self._oar.engine):
            found = find_backlog(self._ledger, self._oar, self._site)
            said = f"{found.jobs} jobs of OAR wait to be recorded"
            if found.since is None:
                self._found("good", "backlog", "no OAR job is waiting to be recorded")
            else:
                late = self._now - found.since > LATE
                said += f", the first of them job {found.oldest}, since {formats.date(found.since)}"
                self._found("warning" if late else "good", "backlog", said, AGAIN if late else "")
            return found
        return None

    def verify(self) -> None:
        """Is every total what spans and rates give?"""
        if not self._complete or self._site is None:
            return
        with self._trying("totals", self._ledger.engine):
            with self._ledger.reading() as (connection, _):
                found = first_differences(connection, self._site, MOST_DIFFERENCES)
            wrong = len(found)
            more = " or more" if wrong == MOST_DIFFERENCES else ""
            if any(each.kept for each in found):
                said = "of single purged jobs more is kept than was carried: restore a backup"
                self._found("bad", "totals", said)
            elif wrong:
                said = f"{wrong}{more} are not what the recorded spans and rates give"
                self._found("bad", "totals", said, "oar-accounting rebuild")
            else:
                self._found("good", "totals", "each is what the recorded spans and rates give")

    # -- what OAR makes of it ------------------------------------------------------------------

    def queues(self) -> Queues | None:
        """OAR's queues; None where they cannot be told, which keeps nothing else from its turn."""
        if not self._readable:
            return None
        engine = self._oar.engine
        with self._trying(queue_findings.QUEUES, engine):
            try:
                found = read_queues(engine, self._now)
            except OarSchemaError as error:
                role, mend = engine.url.username, make_roles(engine)
                self.findings.append(queue_findings.unread_finding(error, role, mend))
                return None
            log = site_setup.oar_log(Path(self._given.oar_conf))
            self.findings.append(queue_findings.finding(found, self._now, log))
            return found
        return None

    def karma(self, deciding: "Deciding | None") -> None:
        """Does a scheduler that asks for karma get it?"""
        if deciding is None and self._given.karma is None:
            return
        from oar_accounting.health import karma_findings

        with self._trying("karma", self._oar.engine):
            read = karma_findings.scheduler_settings(self._given, deciding)
            # What else is wrong with these databases was told.
            if read == self._given and not (self._readable and self._complete and self._site):
                return
            ours = (self._ledger, self._oar) if read == self._given else None
            with karma_findings.asking(read, deciding, self._now, ours) as asked:
                self._found("good", "karma", karma_findings.answer(asked, read, deciding))

    def _ago(self, instant: int) -> str:
        return f"{formats.lasting(self._now - instant)} ago"


# -- this machine -----------------------------------------------------------------------------


def _machine(
    last_try: PassRecord | None, oar_conf: Path, given: Settings | None, now: int, root: Path
) -> Iterator[Finding]:
    # Every program imports this module, and few of them ask for it.
    from oar_accounting.health.stub_findings import machine_findings

    yield site_setup.timer_finding(last_try, now, root)
    yield from site_setup.hook_findings(oar_conf, root, os.environ)
    yield from machine_findings(given, oar_conf, root)
    yield from site_setup.stock_findings(root)
    yield from state_directory.findings(state_directory.state_directory(root, os.environ))
    yield from drivers.findings()


# -- what is recorded -------------------------------------------------------------------------


def _site_status(
    connection: Connection, site: Site, history: Sequence[PassRecord], now: int
) -> SiteStatus:
    """The facts; *history* is from the last catch-up that was done, the newest first."""
    tries = [each for each in history if each.verb == CATCH_UP]
    ended = tries[1:] if tries and journal.is_at_work(tries[0], now) else tries
    done = [each for each in tries if _is(each, journal.DONE)]
    stored = catalog.stored_metrics(connection, site.site_id)
    return SiteStatus(
        window=site.terms.window,
        dimension=site.terms.dimension,
        profile=site.terms.profile,
        containers=site.terms.containers,
        grace=site.terms.grace,
        names=site.terms.names,
        property_since=site.terms.property_since,
        metrics=tuple(each.metric.name for each in stored if each.state == schema.ACTIVE),
        jobs=count_jobs(connection, site.site_id),
        open_jobs=open_jobs(connection, site.site_id),
        purged_before=site.purged_before,
        last_pass=history[0] if history else None,
        last_catch_up=tries[0] if tries else None,
        last_success=site.last_pass,
        problems=done[0].problems if done else 0,
        standing=count_problems(connection, site.site_id),
        failed=sum(_is(each, journal.FAILED) for each in ended),
        unended=sum(_is(each, journal.AT_WORK) for each in ended),
    )


def _is(record: PassRecord, outcome: str) -> bool:
    return record.verb == CATCH_UP and record.outcome == outcome

"""What a file of settings says, and whether it can be so: as OAR's schedulers read it.

They go on without our karma where something is wrong, so that it had better be known before. What
needs a database is checked where that answers; where it does not, that is no mistake of the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from oar_accounting.database import dialects
from oar_accounting.errors import DatabaseError, OarSchemaError, SchemaError, SettingsError
from oar_accounting.karma.checking import checked, waiting
from oar_accounting.karma.fair_share import FairShare, rules_of
from oar_accounting.karma.oar_sums import site_rule
from oar_accounting.karma.policies.describe import described
from oar_accounting.karma.policies.policy import Stock
from oar_accounting.ledger.catalog import stored_metrics
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.oar.job_rules import Terms
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.declared import check_properties, declared_terms, notices
from oar_accounting.settings.load import Settings, load_settings, oar_conf_file
from oar_accounting.settings.scheduler import in_words, read_scheduler, with_its_login

NEEDS_DATABASES = "properties, what is recorded, and karma"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsReport:
    """What was read, and what of it was checked."""

    file: str
    is_there: bool  #: False: everything is as it is without a file
    oar_conf: str
    oar_database: str | None  #: its URL without a password; None where it is not known
    database: str | None  #: the same of our tables
    site: str
    window: int  #: seconds
    dimension: str | None  #: None: cluster, where OAR has that property
    profile: str
    containers: str
    grace: int | None  #: seconds
    names: str
    property_since: tuple[tuple[str, int], ...]  #: epoch seconds UTC, by property
    timezone: str
    metrics: tuple[str, ...]
    karma: tuple[str, ...]  #: its policy, and what counts, in words
    scheduler: str  #: how it asks, in words
    checked: tuple[str, ...]
    unchecked: tuple[str, ...]  #: what could not be, and why
    notes: tuple[str, ...]  #: where what is recorded differs, one line each


def check(
    *,
    oar_conf: str | Path | None,
    config: str | Path | None,
    url: str | URL | None,
    site: str | None,
    now: int,
) -> SettingsReport:
    """Read the settings and check them as of *now*, epoch seconds; the arguments are of `load`.

    Raises :class:`SettingsError` with file, key and what was expected, and another
    :class:`oar_accounting.AccountingError` where no karma comes of them.
    """
    given, missing = _loaded(oar_conf, config, url, site)
    rules = rules_of(given)
    if isinstance(rules.policy, Stock):
        site_rule(given, rules.policy.window_rule)
    scheduler = read_scheduler(given)
    with_its_login(given)
    look = _Look(given, now)
    if missing:
        look.unchecked.append(f"{NEEDS_DATABASES}: {missing}")
    else:
        look.at_databases()
    return SettingsReport(
        file=given.file,
        is_there=os.path.exists(given.file),
        oar_conf=given.oar_conf,
        oar_database=None if missing else dialects.shown(given.oar_url),
        database=None if missing else dialects.shown(given.url),
        site=given.site,
        window=given.window,
        dimension=look.dimension,
        profile=given.profile,
        containers=given.containers,
        grace=given.grace,
        names=given.names,
        property_since=given.property_since,
        timezone=given.timezone,
        metrics=tuple(metric.name for metric in given.metrics),
        karma=described(rules),
        scheduler=in_words(scheduler),
        checked=tuple(look.checked),
        unchecked=tuple(look.unchecked),
        notes=tuple(look.notes),
    )


def _loaded(
    oar_conf: str | Path | None, config: str | Path | None, url: str | URL | None, site: str | None
) -> tuple[Settings, str]:
    """The settings, and what keeps OAR's database from being known; empty where it is."""
    try:
        return load_settings(oar_conf=oar_conf, config=config, url=url, site=site), ""
    except SettingsError as error:
        usual = oar_conf_file()
        is_oars = oar_conf is None and str(error).startswith(f"{usual}:")
        if not is_oars or os.access(usual, os.R_OK):
            raise
        # On another machine, or for another user than oar, the file can be checked nevertheless.
        nowhere = dialects.file_url(Path("nowhere"))
        return load_settings(config=config, url=nowhere, site=site), str(error)


class _Look:
    """A look at what the databases say to some settings."""

    def __init__(self, given: Settings, now: int) -> None:
        self.checked: list[str] = []
        self.unchecked: list[str] = []
        self.notes: list[str] = []
        self.dimension = given.dimension
        self._given = given
        self._now = now
        self._terms: Terms | None = None

    def at_databases(self) -> None:
        """What needs OAR's database or our tables."""
        given = self._given
        try:
            opened = dialects.both_open(given.url, given.oar_url)
            with opened as (engine, oar_engine):
                ledger, oar = Ledger(engine, given.site), OarJobs(oar_engine)
                with self._trying("the properties of OAR's resources"):
                    self._properties(oar)
                with self._trying("what is recorded, and karma"):
                    self._recorded(ledger, oar)
        except SettingsError as error:
            if "pip install" not in str(error):
                raise
            self.unchecked.append(f"{NEEDS_DATABASES}: {error}")

    @contextmanager
    def _trying(self, what: str) -> Iterator[None]:
        """What cannot be reached, or not be read, is no mistake of the settings."""
        try:
            yield
        except (DatabaseError, OarSchemaError, SchemaError) as error:
            self.unchecked.append(f"{what}: {error}")

    def _properties(self, oar: OarJobs) -> None:
        check_properties(self._given, oar, self._given.metrics)
        self._terms = declared_terms(self._given, oar)
        self.dimension = self._terms.dimension
        self.checked.append("OAR has the properties that metrics and dimension name")

    def _recorded(self, ledger: Ledger, oar: OarJobs) -> None:
        given = self._given
        with ledger.reading() as (connection, site):
            if site is None:
                raise SchemaError(f"nothing is recorded yet under the name {given.site!r}")
            recorded = stored_metrics(connection, site.site_id)
        if self._terms is not None:
            self.notes += notices(site, self._terms, given.metrics, recorded)
        report = checked(FairShare(given, ledger, oar, self._now), given.file)
        self.checked.append(f"what karma names is recorded; {waiting(report)}")

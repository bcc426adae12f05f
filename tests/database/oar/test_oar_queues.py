"""OAR's queues that are notActive: since which event, what waits there, and who may not look."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from oar_accounting import Accounting, Finding
from oar_accounting.ledger import schema
from oar_accounting.oar import oar_tables as tables
from oar_accounting.oar import queues
from tests.database.health import test_doctor
from tests.database.health.test_doctor import Guest, Machine, Site
from tests.small_oar import HOUR, NOW, SmallOar

machine, clock, site = test_doctor.machine, test_doctor.clock, test_doctor.site
guest = test_doctor.guest
on_sqlite = test_doctor.on_sqlite

EPILOGUE = "SERVER_EPILOGUE_EXIT_CODE_ERROR"
WORDS = "[JOB FINISHING SEQUENCE] Server epilogue exit code 127 (!=0) (cmd : /no/such 7)"


def stopped(site: Site, *names: str) -> None:
    """Let these queues be notActive."""
    for name in names:
        site.oar.set_queue(name, state="notActive")


def wait(site: Site, queue: str = "default") -> None:
    """Let a job wait."""
    site.oar.add_job(state="Waiting", queue=queue, submission=NOW - 60, start=0, moldable=False)
    site.accounting.catch_up()


def only(site: Site, level: str = "bad") -> Finding:
    """The one thing that needs attention, on the queues."""
    return site.only("queues", level=level)


def test_all_are_active(site: Site) -> None:
    assert site.said("queues") == "all of OAR's are active"
    assert site.status().stopped_queues == ()


def test_all_were_stopped_by_an_event(site: Site) -> None:
    site.oar.add_queue("besteffort")
    stopped(site, "default", "besteffort")
    # The job that runs began an hour ago; what was before was mended before.
    site.oar.add_event("SERVER_PROLOGUE_TIMEOUT", 3, NOW - 2 * HOUR)
    site.oar.add_event("FRAG_JOB_REQUEST", 8, NOW - 40 * 60)
    site.oar.add_event(EPILOGUE, 7, NOW - 30 * 60, f"{WORDS}\n")
    site.oar.add_event(EPILOGUE, 9, NOW - 60, WORDS)
    found = only(site)
    assert found.said == (
        "notActive, so that none of their jobs starts: besteffort, default; since 2023-11-15 "
        f"23:30:00 UTC, 30 minutes ago, by {EPILOGUE} of job 7: {WORDS}"
    )
    assert found.mend == "oarnotify -E"
    assert site.status().stopped_queues == ("besteffort", "default")


def test_one_was_stopped_and_no_event_says_since_when(site: Site) -> None:
    site.oar.add_queue("two words", state="notActive")
    site.oar.add_queue("night", state="notActive")
    found = only(site, "warning")
    assert found.said == (
        "notActive, so that none of their jobs starts: night, two words; no event says since when; "
        "look for 'Disabling queue' in /var/log/oar.log"
    )
    assert found.mend == "oarnotify --enable-queue night --enable-queue 'two words'"
    # Whoever waits there makes it worse.
    wait(site, "night")
    assert only(site).said == found.said


@on_sqlite
def test_an_event_before_a_job_of_theirs_started_is_not_the_cause(site: Site) -> None:
    site.machine.oar_conf.write_text(
        f'{site.machine.oar_conf.read_text()}LOG_FILE="/srv/oar.log"\n'
    )
    stopped(site, "default")
    site.oar.add_event(EPILOGUE, 7, NOW - HOUR - 5 * 60, WORDS)
    assert only(site, "warning").said.endswith("look for 'Disabling queue' in /srv/oar.log")
    # That job only seems to have started since: OAR 3 leaves it the start that it predicted.
    site.oar.update_job(site.running, start_time=NOW - 2 * HOUR)
    site.oar.add_job(state="Error", start=NOW - 60, stop=NOW - 60, moldable=False)
    site.oar.add_job(state="Waiting", start=NOW - 50, moldable=False)
    site.accounting.catch_up()
    assert f"by {EPILOGUE} of job 7" in only(site).said


@on_sqlite
def test_oar_3_has_another_command(site: Site) -> None:
    site.sql("ALTER TABLE jobs ADD COLUMN last_karma FLOAT")
    stopped(site, "default")
    assert only(site, "warning").mend == "oarqueue --enable-all"
    site.oar.add_queue("night", state="notActive")
    site.oar.add_queue("day")
    assert only(site, "warning").mend == "oarqueue --enable default && oarqueue --enable night"


@on_sqlite
def test_an_oar_without_these_tables_is_examined_as_well(site: Site) -> None:
    site.sql("DROP TABLE queues", "DROP TABLE event_logs")
    assert site.wrong() == []
    assert "not looked at: " in site.said("queues")
    assert "'queues' cannot be read" in site.said("queues")
    assert site.status().stopped_queues is None


@on_sqlite
def test_how_long_a_job_has_waited_for_a_round(engine: Engine) -> None:
    oar = SmallOar(engine)
    for name in ("night", "off"):
        oar.add_queue(name, state="notActive" if name == "off" else "Active")
        oar.add_job(state="Waiting", queue=name, submission=NOW - (10 if name == "night" else 99))
    found = queues.read_queues(engine, NOW)
    assert found.waiting == {"night": NOW - 10, "off": NOW - 99}
    assert [found.waited(names, NOW) for names in (None, ["off"], ["night"], ["default"])] == [
        *(10, 0, 10, 0)
    ]


# -- who may not look -------------------------------------------------------------------------


@pytest.fixture
def reader(site: Site, guest: Guest) -> Iterator[Guest]:
    """A role that may read what it must of OAR, but for its queues and events."""
    guest.grant("SELECT", [*schema.metadata.tables, *tables.metadata.tables])
    guest.grant("INSERT, UPDATE, DELETE", schema.metadata.tables.keys() - {"accounting_schema"})
    yield guest


def examined(guest: Guest, machine: Machine) -> dict[str, Finding]:
    """What the doctor says to a role, by subject."""
    status = Accounting.examine(url=guest.url, root=machine.root)
    assert status.recorded is not None
    assert status.backlog is not None
    return {each.subject: each for each in status.findings}


@pytest.mark.databases("postgresql", "mariadb")
def test_a_role_without_the_right_is_told_and_all_else_goes_on(site: Site, reader: Guest) -> None:
    stopped(site, "default")
    reader.grant("SELECT", ["resource_logs"])
    found = examined(reader, site.machine)
    assert found["queues"].level == "good"
    assert found["queues"].said == (
        f"not looked at: the role {reader.name} may not read OAR's table queues; roles.sql lets it"
    )
    assert found["queues"].mend.endswith("/roles.sql")
    assert {each.level for each in found.values()} == {"good"}
    assert found["order of jobs"].said == "OAR's own order decides"
    reader.grant("SELECT", ["queues"])
    found = examined(reader, site.machine)
    assert found["queues"].level == "warning"
    assert "since when is not known, as the role may not read OAR's table event_logs" in (
        found["queues"].said
    )
    reader.grant("SELECT", ["event_logs"])
    assert "no event says since when" in examined(reader, site.machine)["queues"].said

"""Karma as the doctor sees it: would a scheduler that asks get it, and did the last ones?"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oar_accounting import Accounting, Finding
from oar_accounting.health.openmetrics import openmetrics
from oar_accounting.ledger import schema
from oar_accounting.oar import oar_tables
from tests.database.health import test_doctor
from tests.database.health.test_doctor import CORE, MINUTE, Guest, Site, gauges
from tests.database.karma.test_fair_share import linear
from tests.rules.health.test_deciding import POLICY, SCHEDULER
from tests.small_oar import NOW
from tests.stock_command import write_conf

machine, clock, site, guest = (
    *(test_doctor.machine, test_doctor.clock, test_doctor.site, test_doctor.guest),
)
on_sqlite = test_doctor.on_sqlite
on_servers = pytest.mark.databases("postgresql", "mariadb")

CUSTOM = 'JOB_PRIORITY="CUSTOM"\nCUSTOM_JOB_SORTING="accounting"\n'


def wait(site: Site, minutes: int = 1, queue: str = "default") -> None:
    """Let a job wait that was submitted so many minutes ago."""
    at = NOW - minutes * MINUTE
    site.oar.add_job(state="Waiting", queue=queue, submission=at, start=0, moldable=False)
    site.accounting.catch_up()


def of(site: Site, subject: str) -> Finding:
    """What is found on a subject."""
    (found,) = (each for each in site.status().findings if each.subject == subject)
    return found


# -- asked now --------------------------------------------------------------------------------


@on_sqlite
def test_without_settings_of_karma_nobody_is_told_of_it(site: Site) -> None:
    assert site.said("karma") == ""
    assert site.said("order of jobs") == "OAR's own order decides"
    assert site.status().rounds is None


def test_karma_that_a_scheduler_gets(site: Site) -> None:
    site.declares(linear())
    assert site.said("karma") == "linear, by small_oar.toml; no job waits"
    wait(site)
    assert site.said("karma") == "linear, by small_oar.toml; 1 job waits, and has its karma"
    assert site.wrong() == []


@on_sqlite
@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ('[karma]\npolicy = "fairtree"\n', "[karma]: policy must be one of 'oar', 'linear'"),
        (linear(by="usr"), "[karma] term 1: by 'usr' is none of user, project, queue, cluster"),
        (linear(by="usr"), "; did you mean 'user' or 'cluster'?"),
        (linear(metric="cores"), "[karma] term 1: unknown metric 'cores'; declared are resource"),
        (
            '[karma]\npolicy = "tree"\nlevels = ["labratory"]\nmetrics = ["node"]\n',
            "[karma]: levels: 'labratory' is none of user, project, queue, cluster",
        ),
        (
            '[karma]\npolicy = "dominant"\nby = "usr"\nmetrics = ["node"]\n',
            "[karma]: by 'usr' is none of user",
        ),
    ],
)
def test_karma_that_no_scheduler_would_get(site: Site, toml: str, expected: str) -> None:
    site.declares(toml)
    found = site.only("karma")
    assert found.said.startswith("small_oar.toml: [karma]")
    assert expected in found.said
    assert found.mend == "editor small_oar.toml"


@on_sqlite
@pytest.mark.parametrize(
    "karma",
    [
        linear(metric="core"),
        '[karma]\npolicy = "tree"\nlevels = ["user"]\nmetrics = ["core"]\n',
        '[karma]\npolicy = "dominant"\nmetrics = ["core", "node"]\n',
    ],
)
def test_a_metric_that_is_not_recorded_yet(site: Site, karma: str) -> None:
    site.declares(karma + CORE)
    settings, found = site.wrong()
    assert (settings.subject, settings.level) == ("settings", "warning")
    assert (found.subject, found.level) == ("karma", "bad")
    assert "'core' is declared, and not recorded yet" in found.said
    site.mended_by(found, "rebuild --metric core")


@on_servers
def test_a_role_that_may_not_read_what_karma_needs(site: Site, guest: Guest) -> None:
    guest.grant("SELECT", [*schema.metadata.tables, *oar_tables.metadata.tables])
    guest.grant("INSERT, UPDATE, DELETE", schema.metadata.tables.keys() - {"accounting_schema"})
    config = Path("dominant.toml")
    config.write_text('[karma]\npolicy = "dominant"\nmetrics = ["node"]\n', encoding="utf-8")
    status = Accounting.examine(url=guest.url, config=config, root=site.machine.root)
    properties, found = (each for each in status.findings if each.level != "good")
    assert (properties.subject, properties.level) == ("properties", "warning")
    assert properties.said.startswith(
        f"they are taken to be always as today: the role {guest.name} may not read OAR's table "
        "resource_logs; roles.sql lets it"
    )
    assert properties.mend.endswith("/roles.sql")
    assert (found.subject, found.level) == ("karma", "bad")
    assert "'resource_logs' cannot be read" in found.said
    assert found.mend.endswith("/roles.sql")


# -- asked by OAR -----------------------------------------------------------------------------


class Deciding:
    """A site whose oar.conf lets our karma decide, as its scheduler finds it."""

    def __init__(self, site: Site, config: Path) -> None:
        self.site = site
        self.config = config
        self.rounds = site.machine.state / "rounds"
        conf = site.machine.oar_conf
        url = site.engine.url.render_as_string(hide_password=False)
        self._usual = conf.read_text() + write_conf(url, conf.parent).read_text()
        self.config.write_text(linear(), encoding="utf-8")

    def configure(self, lines: str, **told: object) -> None:
        """Let oar.conf say this, and the JSON of the order that."""
        said = f"CUSTOM_JOB_SORTING_CONFIG='{json.dumps(told)}'\n" if told else ""
        self.site.machine.oar_conf.write_text(self._usual + lines + said)

    def had(self, *rounds: str) -> None:
        """Let there have been these rounds: seconds ago, who decided, and why."""
        lines = (
            f"{NOW - int(ago)} {rest}\n" for ago, _, rest in (r.partition(" ") for r in rounds)
        )
        self.rounds.write_text("".join(lines))


@pytest.fixture
def deciding(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deciding]:
    config = tmp_path / "scheduler.toml"
    monkeypatch.setenv("OAR_ACCOUNTING_CONF", str(config))
    yield Deciding(site, config)


@on_servers
def test_the_scheduler_gets_it_and_did(deciding: Deciding) -> None:
    deciding.configure(CUSTOM)
    deciding.had("120 library 0.081", "60 service 0.004")
    site = deciding.site
    assert site.wrong() == []
    assert site.said("order of jobs").startswith("that of our karma")
    assert site.said("rounds") == "our karma decided 2 of 2 rounds in the last 24 h"
    assert site.said("karma") == f"linear, by {deciding.config}; no job waits"
    status = site.status()
    assert status.rounds is not None
    assert (status.rounds.total, status.rounds.newest) == (2, NOW - 60)


@on_servers
def test_the_settings_that_count_are_those_that_the_scheduler_reads(
    deciding: Deciding, tmp_path: Path
) -> None:
    site = deciding.site
    deciding.configure(CUSTOM, config=str(tmp_path / "other.toml"))
    found = site.only("karma")
    assert found.said == f"{tmp_path / 'other.toml'}: cannot be read: No such file or directory"
    (tmp_path / "other.toml").write_text(linear(by="usr"))
    found = site.only("karma")
    assert found.said.startswith(f"{tmp_path / 'other.toml'}: [karma] term 1: by 'usr'")
    assert found.mend == f"editor {tmp_path / 'other.toml'}"
    deciding.configure(CUSTOM, site="nobody")
    assert "site 'nobody' is not recorded yet" in site.only("karma").said
    deciding.configure(CUSTOM, show="/no/such.toml")
    assert site.only("karma").said.startswith("/no/such.toml: cannot be read")
    deciding.configure(CUSTOM)
    assert site.wrong() == []


@on_servers
def test_sums_that_the_scheduler_does_not_get(deciding: Deciding) -> None:
    lines = 'JOB_PRIORITY="FAIRSHARE"\nEXTRA_METASCHED="accounting"\n'
    deciding.configure(lines + 'EXTRA_METASCHED_CONFIG=\'{"metrics": {"core": 1, "node": 2}}\'\n')
    site = deciding.site
    found = site.only("karma")
    assert "metric 'core', which karma needs, is not recorded" in found.said
    assert found.mend == "oar-accounting rebuild --metric core"
    deciding.configure(lines + 'EXTRA_METASCHED_CONFIG=\'{"metric": "node"}\'\n')
    assert site.wrong() == []
    assert site.said("karma") == f"the sums of node can be had, by {deciding.config}"


def test_oar_2_asks_for_the_queues_that_have_our_policy(deciding: Deciding) -> None:
    site = deciding.site
    deciding.configure("")
    place = site.machine.root / "usr/lib/oar/schedulers"
    place.mkdir(parents=True)
    for name in (POLICY, SCHEDULER):
        (place / name).write_text("#!/bin/sh\n")
        (place / name).chmod(0o755)
    site.oar.add_queue("night", policy=POLICY)
    wait(site, minutes=60)
    assert site.said("order of jobs").endswith("in these queues of OAR 2: night")
    # Nobody waits in that queue.
    assert site.said("rounds") == "none in the last 24 h; no job has been waiting for one"
    assert site.wrong() == []
    wait(site, minutes=60, queue="night")
    assert of(site, "rounds").said == "configured to decide, but no round was ever seen"
    deciding.had("20 own 5.001 no answer within 5 s")
    found = site.only("rounds")
    assert found.said.endswith("not was 20 s ago: no answer within 5 s")


@on_servers
def test_rounds_that_were_not_ours_are_told_and_measured(deciding: Deciding) -> None:
    site = deciding.site
    deciding.configure(CUSTOM)
    deciding.had("90000 own 5.0 before", "300 own 5.0 down", "200 last 0.5 late", "100 service 0")
    found = site.only("rounds", level="warning")
    assert found.said == (
        "our karma decided 1 of 3 rounds in the last 24 h, the last answer that it gave 1, OAR's "
        "own order 1; the last time it did not was 3 minutes ago: late"
    )
    assert found.mend == "oar-accounting settings check"
    status = site.status()
    told = gauges(openmetrics(status))
    assert told["rounds_decided"] == 1
    assert told["rounds_not_decided"] == 2
    assert told["last_round_timestamp_seconds"] == NOW - 100
    assert told["queues_not_active"] == 0
    assert "late" not in openmetrics(status)


@on_servers
def test_rounds_that_cannot_be_read(deciding: Deciding) -> None:
    deciding.configure(CUSTOM)
    deciding.rounds.mkdir()
    found = deciding.site.only("rounds", level="warning")
    assert found.said.endswith("cannot be read: Is a directory")
    assert deciding.site.status().rounds is None


@on_sqlite
def test_what_became_of_the_rounds_is_told_also_where_the_settings_are_wrong(
    deciding: Deciding,
) -> None:
    deciding.configure(CUSTOM)
    deciding.had("60 own 0.2 scheduler.toml: not TOML")
    deciding.config.write_text("[")
    status = Accounting.examine(config=deciding.config, root=deciding.site.machine.root)
    found = {each.subject: each for each in status.findings}
    assert "not TOML" in found["settings"].said
    assert found["rounds"].said.endswith("60 s ago: scheduler.toml: not TOML")
    assert status.rounds is not None


@on_sqlite
def test_away_from_the_oar_server_nothing_is_said_of_rounds(deciding: Deciding) -> None:
    deciding.site.machine.oar_conf.unlink()
    assert "not looked for: there is no " in deciding.site.said("order of jobs")
    assert deciding.site.said("rounds") == ""
    assert os.path.exists(deciding.config)

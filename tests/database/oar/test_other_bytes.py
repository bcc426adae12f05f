"""Names that are not UTF-8, as a PostgreSQL database of the encoding SQL_ASCII may have them."""

from collections.abc import Iterator
from typing import Any

import psycopg2.extensions
import pytest
from sqlalchemy import Engine, create_engine, literal_column, make_url, update

from oar_accounting import OarSchemaError
from oar_accounting.cli.app import main
from oar_accounting.oar import oar_tables
from oar_accounting.oar.spellings import holds_other_bytes
from tests.runner import runner
from tests.servers import NetworkServer, Server, fresh_database
from tests.small_oar import HOUR, Recorded, SmallOar, opened, stopped_clock

pytestmark = pytest.mark.databases("sqlite", "postgresql")

WHOLE = 8 * HOUR
KARMA = (
    '[karma]\npolicy = "linear"\nwindow = "30d"\n'
    '[[karma.terms]]\nby = "user"\nmetric = "resource"\n'
)
#: ``rené`` as ISO 8859-1 has it, and how that is shown.
RENE = {"sqlite": "CAST(x'72656ee9' AS TEXT)", "postgresql": r"E'ren\xe9'"}
SHOWN = r"ren\xe9"


@pytest.fixture
def engine(server: Server) -> Iterator[Engine]:
    """A database that takes any bytes."""
    with fresh_database(server) as database:
        if isinstance(server, NetworkServer):
            name = make_url(database.url).database
            with server.engine.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name}")
                # ICU, which a server may have for its default, takes no such encoding.
                version = connection.dialect.server_version_info or (0,)
                libc = " LOCALE_PROVIDER libc" if int(version[0]) >= 15 else ""
                connection.exec_driver_sql(
                    f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 "
                    f"LC_COLLATE 'C' LC_CTYPE 'C'{libc}"
                )
        engine = create_engine(database.url, pool_size=1)
        yield engine
        engine.dispose()


@pytest.fixture
def oar(engine: Engine) -> Iterator[SmallOar]:
    """An OAR with a job of bob's."""
    with stopped_clock():
        oar = SmallOar(engine)
        oar.add_job(user="bob")
        yield oar


def rene(engine: Engine) -> Any:
    """The name in SQL."""
    return literal_column(RENE[engine.dialect.name])


def set_type(engine: Engine, value: Any) -> None:
    """All types of jobs are this one."""
    with engine.begin() as connection:
        connection.execute(update(oar_tables.job_types).values(type=value))


def users(engine: Engine, toml: str = "") -> dict[str, int]:
    """What each user has used."""
    by = Recorded(opened(engine, toml)).by("user")
    return {name: used for name, (_, used) in by.items()}


def test_the_job_is_recorded_with_the_byte_shown_and_is_a_problem(
    oar: SmallOar, engine: Engine
) -> None:
    job, latin = oar.add_job(user="x"), oar.add_job(user="x", types=("besteffort",))
    for each in (job, latin):
        oar.update_job(each, job_user=rene(engine))
    set_type(engine, rene(engine))
    accounting = opened(engine)
    report = accounting.catch_up()
    assert report.done == 3
    said = r"is not UTF-8 in OAR's database; \xHH stands for each such byte"
    assert {each.job_id: each.reason for each in report.problems} == {
        job: f"its user {said}",
        latin: f"its user and type {said}",
    }
    assert users(engine) == {"bob": WHOLE, SHOWN: 2 * WHOLE}
    assert accounting.verify() == []
    # It is the same name again in the next pass.
    again = accounting.catch_up(full=True)
    assert (again.changed, again.problems) == (0, ())
    (first, _) = accounting.problems()
    assert (first.code, first.command) == ("not-utf-8", f"oar-accounting record {job}")
    assert [each.level for each in accounting.doctor().findings if each.subject == "problems"] == [
        "warning"
    ]
    for each in (job, latin):
        oar.update_job(each, job_user="alice")
    set_type(engine, "besteffort")
    accounting.record([job, latin])
    assert accounting.problems() == []
    assert users(engine) == {"bob": WHOLE, "alice": 2 * WHOLE}


def test_a_name_in_utf_8_and_the_same_in_other_bytes_are_two(oar: SmallOar, engine: Engine) -> None:
    with opened(engine):
        pass
    both = [oar.add_job(user="x"), oar.add_job(user="x")]
    oar.update_job(both[0], job_user=rene(engine))
    utf_8 = {"sqlite": "'rené'", "postgresql": r"E'ren\xc3\xa9'"}[engine.dialect.name]
    oar.update_job(both[1], job_user=literal_column(utf_8))
    accounting = opened(engine)
    accounting.catch_up()
    assert users(engine) == {"bob": WHOLE, SHOWN: WHOLE, "rené": WHOLE}
    assert {each.subject for each in accounting.problems()} == {str(both[0])}
    # Both are forgotten one by one.
    accounting.forget_user("rené")
    assert {SHOWN, "bob"} < set(users(engine))
    accounting.forget_user(SHOWN)
    accounting.catch_up(full=True)
    assert {name.split("-")[0] for name in users(engine)} == {"bob", "forgotten"}


def test_a_resource_with_such_a_byte_is_a_problem(oar: SmallOar, engine: Engine) -> None:
    oar.set_resource(8, cluster=rene(engine))
    oar.set_resource(7, network_address=rene(engine))
    accounting = opened(engine)
    accounting.catch_up()
    found = {(each.subject, each.message) for each in accounting.problems()}
    assert found == {
        ("7", rf"property 'network_address' is '{SHOWN}', and not UTF-8 in OAR's database"),
        ("8", rf"property 'cluster' is '{SHOWN}', and not UTF-8 in OAR's database"),
    }
    assert set(Recorded(accounting).by("cluster")) == {"alpha", SHOWN}
    for number in (7, 8):
        oar.set_resource(number, cluster="alpha", network_address="n2")
    accounting.catch_up()
    assert accounting.problems() == []


def test_karma_and_what_hooks_run_know_the_name(oar: SmallOar, engine: Engine) -> None:
    ended = oar.add_job(user="x")
    waiting = [oar.add_job(state="Waiting", start=0, moldable=False, user=u) for u in ("x", "y")]
    for each in (ended, waiting[0]):
        oar.update_job(each, job_user=rene(engine))
    accounting = opened(engine, KARMA)
    accounting.catch_up()
    report = accounting.karma()
    assert report.job_id.tolist() == waiting[::-1]
    assert report.user.tolist() == ["y", SHOWN]
    url = engine.url.render_as_string(hide_password=False)
    shown = runner().invoke(
        main, ["--config", "small_oar.toml", "--url", url, "record", str(ended)]
    )
    assert shown.exit_code == 1
    assert "its user is not UTF-8" in shown.stderr
    assert SHOWN in {row.name for row in accounting.fairshare().rows}
    theirs = accounting.each_job(where={"user": SHOWN})
    assert [each.job_id for each in theirs] == [ended, waiting[0]]


def test_oars_own_accounting_is_not_filled_with_what_is_shown(
    oar: SmallOar, engine: Engine
) -> None:
    oar_tables.accounting.create(engine)
    oar.update_job(1, job_user=rene(engine))
    with pytest.raises(OarSchemaError, match="is not UTF-8"):
        opened(engine).oaraccounting()


def test_other_programs_of_the_process_read_as_before(oar: SmallOar, engine: Engine) -> None:
    opened(engine).catch_up()
    assert psycopg2.extensions.encodings["SQLASCII"] == "ascii"


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("bob", False),
        ("rené", False),
        (SHOWN, True),
        (r"\xff", True),
        (r"\x7f", False),
        (r"C:\xe", False),
    ],
)
def test_what_holds_other_bytes(text: str, holds: bool) -> None:
    assert holds_other_bytes(text) is holds

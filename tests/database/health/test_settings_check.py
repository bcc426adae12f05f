"""``settings check``: what a file says, what is wrong with it, and what could not be checked."""

import json
import os
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from oar_accounting import Accounting, SettingsError
from oar_accounting.karma.policies.describe import described
from oar_accounting.karma.settings import read_karma
from tests.database.karma import test_fair_share
from tests.database.karma.test_fair_share import linear, wait
from tests.rules.karma.test_karma_settings import KNOWN
from tests.servers import Database
from tests.small_oar import SmallOar, opened
from tests.system.cli.test_cli import Done, process, run, said

clock = test_fair_share.clock
on_sqlite = pytest.mark.databases("sqlite")
CORE = '[metrics.core]\nunit = "core·s"\ndistinct = "core"\n'


class Site:
    """A recorded OAR with a job that waits, and a file of settings to check."""

    def __init__(self, engine: Engine, url: str, file: Path) -> None:
        self.engine = engine
        self.url = url
        self.file = file
        self.oar = SmallOar(engine)
        self.oar.add_job(cores=1)
        wait(self.oar, "alice")
        opened(engine).catch_up()

    def check(self, toml: str, *options: str) -> Done:
        """What the command says of a file with this text."""
        self.file.write_text(toml, encoding="utf-8")
        return run("--url", self.url, "settings", "check", str(self.file), *options)

    def rows(self, toml: str) -> dict[str, str]:
        """The lines of a file in which nothing is wrong, by their labels."""
        done = self.check(toml)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        found: dict[str, str] = {}
        for line in done.stdout.splitlines():
            label, words = line[:14].rstrip(), line[14:]
            if label:
                found[label] = f"{found[label]}; {words}" if label in found else words
            else:
                last = list(found)[-1]
                found[last] += f" {words}"
        return found

    def refused(self, toml: str) -> str:
        """The one clear line about what is wrong."""
        done = self.check(toml)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = (each for each in done.stderr.splitlines() if "password of --url" not in each)
        return line.removeprefix(f"oar-accounting: {self.file}: ")


@pytest.fixture
def site(engine: Engine, database: Database, tmp_path: Path) -> Site:
    return Site(engine, database.url, tmp_path / "site.toml")


# -- nothing is wrong -------------------------------------------------------------------------


def test_what_was_read_is_said_in_a_few_lines(site: Site) -> None:
    rows = site.rows(linear(term="weight = 2"))
    assert list(rows) == [
        *("settings", "OAR", "our tables", "site", "metrics", "karma", "scheduler", "checked"),
        "result",
    ]
    assert rows["settings"] == str(site.file)
    assert rows["our tables"] == "there too"
    assert rows["site"].startswith("oar: windows of 86400 s, by cluster, profile default")
    assert rows["metrics"] == "resource, node"
    assert rows["karma"] == (
        "linear, 1 term: 2 x user resource used; last 30 days; jobs that run count with what they "
        "have used so far"
    )
    assert rows["scheduler"].startswith("waits 10 s (OAR 2) or 5 s (OAR 3), repeats the last")
    assert rows["checked"] == (
        "OAR has the properties that metrics and dimension name; what karma names is recorded; 1 "
        "job waits, and has its karma"
    )
    assert rows["result"] == "nothing is wrong"


@on_sqlite
def test_the_settings_in_force_are_those_without_a_file(site: Site) -> None:
    site.file.write_text(CORE + '[karma]\npolicy = "dominant"\nmetrics = ["node"]\n')
    for options in (["--config", str(site.file)], []):
        done = run("--url", site.url, *options, "settings", "check")
        assert done.returncode == 0
        assert ("core" in done.stdout) == bool(options)
    assert "FILE is what --config names" in (
        run("--config", str(site.file), "settings", "check", str(site.file)).stderr
    )


@on_sqlite
def test_what_differs_from_what_is_recorded_is_a_note(site: Site) -> None:
    rows = site.rows(f"window = 3600\n{linear()}{CORE}".replace("window = 86400", ""))
    assert rows["note"] == (
        "window is 3600 s in the settings, 86400 s as recorded: oar-accounting rebuild; metric "
        "core is declared and not recorded yet: oar-accounting rebuild --metric core"
    )
    assert rows["result"] == "nothing is wrong"


@on_sqlite
def test_for_machines_it_is_one_object(site: Site) -> None:
    shown = json.loads(site.check(linear(), "--json").stdout)
    assert shown["error"] is None
    assert (shown["site"], shown["window"], shown["dimension"]) == ("oar", 86_400, "cluster")
    assert shown["metrics"] == ["resource", "node"]
    assert shown["unchecked"] == []
    done = site.check("windw = 3\n", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"].startswith(f"{site.file}: unknown key 'windw'")


# -- something is -----------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("[", "not TOML: "),
        ("windw = 3", "unknown key 'windw'; known keys: containers"),
        ("window = 'a'", "window must be a whole number, not 'a'"),
        ('[karma]\npolicy = "fairtree"', "[karma]: policy must be one of 'oar', 'linear', 'tree'"),
        (linear(by="usr"), "[karma] term 1: by 'usr' is none of user, project, queue, cluster"),
        (linear(metric="cores"), "[karma] term 1: unknown metric 'cores'; declared are resource"),
        (linear(metric="core") + CORE, "[karma] term 1: metric 'core' is declared, and not rec"),
        (
            '[karma]\npolicy = "fair_tree"\nlevels = ["team", "user"]\nmetrics = ["node"]',
            "[karma]: levels: 'team' is none of user, project, queue, cluster, and no attribute",
        ),
        (CORE.replace('"core"', '"kern"'), "[metrics.core]: distinct = 'kern' is not a property"),
        ('dimension = "rack"', "dimension 'rack' is not a property of OAR's resources"),
        (
            '[metrics.billing]\nunit = "billing·s"\nformula = "cor * 2"',
            "[metrics.billing]: formula, line 1, column 1: there is no metric 'cor'",
        ),
        ("scheduler = 1", "[scheduler] must be a table, not 1"),
        (
            "[scheduler]\nlimits = 3",
            "[scheduler]: unknown key 'limits'; known keys are last_answer",
        ),
        ('[scheduler]\nlimit = "0s"', "[scheduler]: limit must be a length of time like"),
        ("[scheduler]\nlimit = true", "[scheduler]: limit must be a length of time like"),
        ('[scheduler]\nlast_answer = "ever"', "[scheduler]: last_answer must be a length of time"),
        ('[scheduler]\nsocket = "karma.sock"', "[scheduler]: socket must be a path from / on"),
        ('[scheduler]\npassword_file = "/x"', "[scheduler]: password_file goes with login"),
        (
            '[scheduler]\nlogin = "karma"\npassword_file = "/not/there"',
            "the file that password_file of [scheduler] names: cannot be read: No such file",
        ),
    ],
)
def test_a_mistake_is_one_line_with_file_key_and_what_was_expected(
    site: Site, toml: str, expected: str
) -> None:
    assert site.refused(toml).startswith(expected)


@on_sqlite
def test_oars_own_karma_is_checked_in_oar_conf(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "oar.conf"
    conf.write_text("SCHEDULER_FAIRSHARING_COEF_USER=much\n")
    monkeypatch.setenv("OARCONFFILE", str(conf))
    assert site.refused("") == (
        f"oar-accounting: {conf}: SCHEDULER_FAIRSHARING_COEF_USER must be a number, not 'much'"
    )


@on_sqlite
def test_a_file_that_is_not_there(site: Site) -> None:
    done = run("--url", site.url, "settings", "check", "/no/such.toml")
    assert said(done) == "oar-accounting: /no/such.toml: cannot be read: No such file or directory"
    assert done.returncode == 1
    assert "Traceback" in run("--debug", "settings", "check", "/no/such.toml").stderr


# -- what cannot be checked -------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    "url", ["postgresql://oar:secret@127.0.0.1:1/oar", "sqlite:////no/such/file"]
)
def test_databases_out_of_reach_are_no_mistake(tmp_path: Path, url: str) -> None:
    file = tmp_path / "site.toml"
    file.write_text(linear(by="usr"), encoding="utf-8")
    done = run("--url", url, "settings", "check", str(file))
    assert done.returncode == 0
    assert "not checked   the properties of OAR's resources: " in done.stdout
    assert "not checked   what is recorded, and karma: " in done.stdout
    assert done.stdout.endswith("nothing is wrong with what could be checked\n")
    assert "secret" not in done.stdout
    file.write_text(linear(metric="cores"), encoding="utf-8")
    assert run("--url", url, "settings", "check", str(file)).returncode == 1


@on_sqlite
def test_a_driver_that_is_missing_here_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    report = Accounting.check_settings(url="mysql://u@h/d", config=os.devnull)
    (line,) = report.unchecked
    assert "the driver pymysql is not installed" in line


@on_sqlite
def test_away_from_oar_the_file_is_checked_nevertheless(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text(linear(), encoding="utf-8")
    away = {"OARCONFFILE": str(tmp_path / "oar.conf")}
    done = process("settings", "check", str(file), **away)
    assert done.returncode == 0, done.stderr
    assert "OAR           not known" in done.stdout
    assert "oar.conf: there is no such file" in " ".join(done.stdout.split()) or (
        "cannot be read: No such file" in " ".join(done.stdout.split())
    )
    file.write_text("oar_url = 'oracle://h/d'\n", encoding="utf-8")
    done = process("settings", "check", str(file), **away)
    assert "oar_url: database URL: unknown kind 'oracle'" in said(done)
    assert done.returncode == 1
    # One that was named is to be there.
    done = run("--oar-conf", away["OARCONFFILE"], "settings", "check", str(file))
    assert done.returncode == 1


@on_sqlite
def test_a_site_that_is_not_recorded_yet(site: Site) -> None:
    site.file.write_text(linear(), encoding="utf-8")
    done = run("--url", site.url, "--site", "new", "settings", "check", str(site.file))
    assert done.returncode == 0
    words = " ".join(done.stdout.split())
    assert "not checked what is recorded, and karma: nothing is recorded yet under the" in words


@on_sqlite
def test_in_python_a_mistake_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    file.write_text('[karma]\npolicy = "x"\n')
    with pytest.raises(SettingsError, match="policy must be one of"):
        Accounting.check_settings(url="sqlite:////no/such", config=file)


# -- in words ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {
                "policy": "linear",
                "half_life": "7d",
                "open_jobs": "held",
                "terms": [
                    {"by": "user", "metric": "core", "weight": 2.5},
                    {"by": "laboratory", "metric": "gpu", "amount": "asked", "window": "1d"},
                ],
            },
            "linear, 2 terms: 2.5 x user core used, 1 x laboratory gpu asked; half-life 1 week; "
            "last 1 day; jobs that run count to the end of their walltime",
        ),
        (
            {"policy": "fair_tree", "levels": ["team", "user"], "metrics": {"core": 1, "gpu": 20}},
            "fair_tree, from team to user: 1 x core, 20 x gpu used; last 30 days; jobs that run "
            "count with what they have used so far",
        ),
        (
            {"policy": "dominant", "metrics": ["core", "gpu"], "open_jobs": "none"},
            "dominant, by user: core, gpu used; last 30 days; jobs count when they have ended",
        ),
        ({"policy": "oar"}, "OAR's own, over OAR's table accounting, with the windows of OAR 2"),
        (
            {"policy": "oar", "source": "totals", "window_rule": "oar3"},
            "OAR's own, over our totals of resource, with the windows of OAR 3",
        ),
    ],
)
def test_karma_in_words(table: dict[str, object], expected: str) -> None:
    assert "; ".join(described(read_karma(table, "x", KNOWN))) == expected

"""``hooks/oar2``: OAR 2's own scheduler with our karma, and with its own where ours cannot be had.

The scheduler here declares and calls its karma as OAR's do: the sub has a prototype and is compiled
before ours replaces it. What asks the library is the library, or a program that misbehaves.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from oar_accounting.schedulers import oar2
from tests.small_oar import DAY, NOW, T0, SmallOar, opened, stopped_clock

PERL = shutil.which("perl")
pytestmark = pytest.mark.skipif(PERL is None, reason="no perl on this machine")

HOOKS = Path(__file__).parents[1] / "hooks" / "oar2"
OARS = Path("/usr/lib/oar/schedulers")
STOCK = "oar_sched_gantt_with_timesharing_and_fairsharing"

#: Jobs by id with a karma of its own, lowest last; an exit code; and what it was called with.
SCHEDULER = """#!/usr/bin/perl
use strict;
my @jobs = map { { job_id => $_ } } (1, 2, 3, 4);
sub karma($){
    my $j = shift;
    return(-$j->{job_id});
}
@jobs = sort({karma($a) <=> karma($b)} @jobs);
print(join(" ", map { "$_->{job_id}=".sprintf("%.3f", karma($_)) } @jobs), "\\n");
print(join("|", @ARGV), "\\n");
print("left: ", defined($ENV{OAR_ACCOUNTING_KARMA}) ? 1 : 0, "\\n");
kill('TERM', $$) if $ENV{TEST_SIGNAL};
exit($ENV{TEST_EXIT} // 0);
"""
ITS_OWN = "4=-4.000 3=-3.000 2=-2.000 1=-1.000"
ARGUMENTS = ("default", str(NOW), "2023-11-16 00:00:00")
LIMIT = 2


class Place:
    """A directory of schedulers, with a link to ours."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "schedulers"
        self.directory.mkdir()
        self.write(STOCK, SCHEDULER)
        self.link = self.directory / f"karma_then_{STOCK}"
        self.link.symlink_to(HOOKS / "karma_scheduler")
        self.python = directory / "python"

    def write(self, name: str, text: str) -> Path:
        """A program."""
        file = self.directory / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)
        return file

    def asks(self, code: str) -> None:
        """Let this be what asks the library."""
        self.python.write_text(f"#!{sys.executable} -I\n{code}", encoding="utf-8")
        self.python.chmod(0o755)

    def run(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Call it as OAR does, and see what comes out."""
        environment = {
            "PATH": os.environ["PATH"],
            "OAR_ACCOUNTING_PYTHON": str(self.python),
            "OAR_ACCOUNTING_KARMA_LIMIT": str(LIMIT),
            "OAR_ACCOUNTING_STATE": str(self.directory.parent),
            # Not the modules of an OAR that this machine may have.
            "PERL5LIB": str(self.directory / "no_oar"),
        }
        (self.directory / "no_oar" / "OAR" / "Modules").mkdir(parents=True, exist_ok=True)
        (self.directory / "no_oar" / "OAR" / "Modules" / "Judas.pm").write_text("0;\n")
        return subprocess.run(
            [self.link, *ARGUMENTS],
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def own(self, *words: str, **variables: str) -> None:
        """OAR's own karma decides, in time, and one line says why."""
        began = time.monotonic()
        done = self.run(**variables)
        assert time.monotonic() - began < LIMIT + 5
        assert done.stdout.splitlines()[:2] == [ITS_OWN, "|".join(ARGUMENTS)]
        assert done.returncode == 0
        (line,) = done.stderr.splitlines()
        assert line.startswith("[oar-accounting] queue default: OAR's own karma decides: ")
        assert [word for word in words if word not in line] == []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Schedulers, of which one is ours."""
    return Place(tmp_path)


def answer(lines: str) -> str:
    """Code that says these lines."""
    return f"import sys\nsys.stdout.write({lines!r})\n"


ANSWER = "3 -0.5\n1 0.25\n2 1e-05\n4 2.0\nend 4\n"


def test_the_scheduler_sees_our_karma(place: Place) -> None:
    place.asks(answer(ANSWER))
    done = place.run()
    assert done.stdout.splitlines() == [
        "3=-0.500 2=0.000 1=0.250 4=2.000",
        "|".join(ARGUMENTS),
        "left: 0",
    ]
    assert (done.returncode, done.stderr) == (0, "")


def test_it_leaves_as_the_scheduler_does(place: Place) -> None:
    for code in (answer(ANSWER), "raise SystemExit(1)"):
        place.asks(code)
        assert [place.run(TEST_EXIT=str(code)).returncode for code in (0, 1, 255)] == [0, 1, 255]
        assert place.run(TEST_SIGNAL="1").returncode == -signal.SIGTERM


def test_all_that_python_can_print_is_a_number(place: Place) -> None:
    numbers = [float("-inf"), -1e300, 5e-324, float("inf")]
    lines = "".join(f"{job} {karma!r}\n" for job, karma in enumerate(numbers, 1))
    place.asks(answer(f"{lines}end 4\n"))
    said = place.run().stdout.splitlines()[0]
    assert [each.partition("=")[0] for each in said.split()] == ["1", "2", "3", "4"]
    assert said.startswith("1=-Inf") and said.endswith("4=Inf")


def test_a_job_that_is_not_in_the_answer_is_behind_all_others(place: Place) -> None:
    place.asks(answer("4 0.5\n3 0.25\nend 2\n"))
    assert place.run().stdout.splitlines()[0] == "3=0.250 1=0.500 2=0.500 4=0.500"


def test_an_answer_about_10_000_jobs(place: Place) -> None:
    lines = "".join(f"{job} {-job / 7!r}\n" for job in range(1, 10_001))
    place.asks(answer(f"{lines}end 10000\n"))
    assert place.run().stdout.splitlines()[0] == "4=-0.571 3=-0.429 2=-0.286 1=-0.143"


# -- what may go wrong -------------------------------------------------------------------------

SLEEP = "import time\ntime.sleep(60)\n"
BROKEN = {
    "raise SystemExit('oar-accounting: no database')": "decides: no database",
    "raise SystemExit(7)": "exit code 7",
    "import os\nos.abort()": "signal 6",
    SLEEP: f"no answer within {LIMIT} s",
    "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEP: "no answer within",
    "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)": "no answer within",
    answer(""): "the answer has no end",
    answer(ANSWER.removesuffix("end 4\n")): "the answer has no end",
    answer(ANSWER.replace("end 4", "end 5")): "cannot be read",
    answer(ANSWER + "5 1.0\n"): "goes on after its end",
    answer(ANSWER + ANSWER): "goes on after its end",
    answer("1 nan\nend 1\n"): "cannot be read",
    answer("1 0.5; unlink\nend 1\n"): "cannot be read",
    answer("<html>\n"): "cannot be read",
    "import sys\nsys.stdout.buffer.write(b'\\xff\\x00\\n')": "cannot be read",
}


@pytest.mark.parametrize("code", BROKEN, ids=map(str, range(len(BROKEN))))
def test_oars_own_karma_decides(place: Place, code: str) -> None:
    place.asks(code)
    place.own(BROKEN[code])


def test_a_program_that_leaves_another_behind(place: Place) -> None:
    """It keeps neither the scheduler waiting nor itself alive."""
    place.asks(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"print(child.pid, file=open({str(place.directory / 'pid')!r}, 'w'))\n"
        f"sys.stdout.write({ANSWER!r})\n"
    )
    began = time.monotonic()
    assert place.run().stdout.startswith("3=-0.500")
    assert time.monotonic() - began < LIMIT
    left = Path("/proc", (place.directory / "pid").read_text().strip(), "stat")
    deadline = time.monotonic() + 10
    while left.exists() and left.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_no_python(place: Place) -> None:
    place.own("cannot be run: No such file or directory")


@pytest.mark.parametrize("limit", ["", "0", "-1", "abc", "1e9", "1\n"])
def test_a_limit_that_is_none_is_the_usual_one(place: Place, limit: str) -> None:
    place.asks("import sys\nraise SystemExit(f'asked for {sys.argv[-1]} s')")
    # Eight of ten seconds are for a step on a database.
    place.own("asked for 8.000 s", OAR_ACCOUNTING_KARMA_LIMIT=limit)


def test_a_scheduler_without_karma_runs_as_it_is(place: Place) -> None:
    place.asks(answer(ANSWER))
    place.write(
        STOCK, SCHEDULER.replace("sub karma($){", "sub other($){").replace("karma(", "other(")
    )
    place.own("knows no karma")


def test_a_scheduler_that_is_no_perl_runs_as_it_is(place: Place) -> None:
    place.asks(answer(ANSWER))
    place.write(STOCK, f'#!/bin/sh\nprintf "%s\\n" "{ITS_OWN}" "{"|".join(ARGUMENTS)}"\n')
    place.own("knows no karma")


def test_a_scheduler_that_is_not_there_disables_no_queue(place: Place) -> None:
    (place.directory / STOCK).unlink()
    done = place.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be run: No such file" in done.stderr.splitlines()[-1]


def test_other_names_are_those_of_oars_usual_scheduler(place: Place) -> None:
    place.asks(answer(ANSWER))
    place.write(f"{STOCK}_and_quotas", SCHEDULER)
    place.link = place.link.rename(place.directory / "ours")
    assert place.run().stdout.startswith("3=-0.500")


def test_nothing_that_is_open_is_handed_on(place: Place) -> None:
    """OAR's own connection, under MariaDB, with its locks."""
    place.asks("import os\nraise SystemExit(' '.join(sorted(os.listdir('/proc/self/fd'))))")
    with open(place.directory / STOCK, "rb") as opened_file:
        os.set_inheritable(opened_file.fileno(), True)
        # The last is that of the directory that is listed.
        place.own("decides: 0 1 2 3")


def test_the_module_alone_changes_nothing(place: Place) -> None:
    """As a scheduler would find it where the file that it is told of is not there."""
    for told in ({}, {"OAR_ACCOUNTING_KARMA": "77"}, {"OAR_ACCOUNTING_KARMA": "x"}):
        done = subprocess.run(
            [str(PERL), f"-I{HOOKS}", "-MOARAccountingKarma", place.directory / STOCK],
            env=told,
            capture_output=True,
            text=True,
        )
        assert done.stdout.splitlines()[0] == ITS_OWN, done.stderr
        assert done.returncode == 0


# -- OAR's own schedulers ----------------------------------------------------------------------


@pytest.mark.skipif(not OARS.is_dir(), reason="no schedulers of OAR 2 on this machine")
def test_oars_own_schedulers_are_known_by_their_karma() -> None:
    found = {file.name: "sub karma($)" in file.read_text() for file in OARS.glob("oar_sched_*")}
    assert found
    for name, knows in found.items():
        assert knows == ("fairsharing" in name)


# -- the library that answers ------------------------------------------------------------------

TOML = """
[karma]
policy = "linear"
window = "30d"
[[karma.terms]]
by = "user"
metric = "resource"
"""


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Path:
    """Settings of a site on which alice, bob and carol wait, the last in another queue."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", cores=3, start=T0, stop=T0 + DAY)
    oar.add_job(user="bob", cores=1, start=T0, stop=T0 + DAY)
    for user, queue in (("alice", "default"), ("bob", "default"), ("carol", "night")):
        oar.add_job(
            user=user, queue=queue, start=0, state="Waiting", moldable=False, submission=NOW - 60
        )
    with stopped_clock():
        opened(engine, TOML).catch_up()
    file = tmp_path / "site.toml"
    url = engine.url.render_as_string(hide_password=False)
    file.write_text(f'oar_url = "{url}"\n{TOML}', encoding="utf-8")
    return file


def test_the_library_answers_about_one_queue(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OAR_ACCOUNTING_CONF", str(site))
    oar2.main(["default", str(NOW), "5"])
    assert capsys.readouterr().out == "4 0.25\n3 0.75\nend 2\n"
    oar2.main(["night", str(NOW), "5"])
    assert capsys.readouterr().out == "5 0.0\nend 1\n"
    oar2.main(["none", str(NOW), "5"])
    assert capsys.readouterr().out == "end 0\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["default", "now", "5"], "oar-accounting: ValueError: invalid literal"),
        (["default"], "oar-accounting: ValueError: not enough values"),
        (["default", "9" * 30, "5"], "oar-accounting: 9999"),
    ],
)
def test_a_wrong_question_is_one_line(
    site: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("OAR_ACCOUNTING_CONF", str(site))
    with pytest.raises(SystemExit) as left:
        oar2.main(arguments)
    assert str(left.value.code).startswith(words)
    assert "\n" not in str(left.value.code)


@pytest.mark.parametrize("whole", [True, False], ids=["recorded", "without our tables"])
def test_the_scheduler_asks_the_library(
    place: Place, site: Path, engine: Engine, whole: bool
) -> None:
    if not whole:
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE accounting_schema")
    variables = {
        "OAR_ACCOUNTING_PYTHON": sys.executable,
        "OAR_ACCOUNTING_CONF": str(site),
        "OAR_ACCOUNTING_KARMA_LIMIT": "30",
    }
    done = place.run(**variables)
    if whole:
        # Jobs 1 and 2 have ended; only those that wait are in the answer.
        assert done.stdout.splitlines()[0] == "4=0.250 1=0.750 2=0.750 3=0.750"
        assert done.stderr == ""
    else:
        assert done.stdout.splitlines()[0] == ITS_OWN
        assert "accounting tables" in done.stderr

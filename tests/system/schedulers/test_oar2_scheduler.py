"""``hooks/oar2``: OAR 2's own scheduler with our karma, and with its own where ours cannot be had.

The scheduler here declares and calls its karma as OAR's do: the sub has a prototype and is compiled
before ours replaces it. What asks the library is the library, or a program that misbehaves.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from oar_accounting.schedulers import oar2
from oar_accounting.stubs.oar3 import GREETING, digest_of
from oar_accounting.stubs.plan import filled
from tests.asked import (
    dead_soon,
    deaf,
    dripping,
    ending,
    endless,
    service,
    silent,
    slow_to_listen,
    until,
    whole,
)
from tests.small_oar import DAY, NOW, T0, SmallOar, opened, stopped_clock

PERL = shutil.which("perl")
pytestmark = pytest.mark.skipif(PERL is None, reason="no perl on this machine")

HOOKS = Path(__file__).parents[3] / "hooks" / "oar2"
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
        self.python = directory / "python"
        self.state = directory
        # Not that of a service that this machine may have.
        self.socket = directory / "karma.sock"
        self.install()

    def install(self, *changes: tuple[str, str], **values: object) -> Path:
        """Put our files where stubs are, with these values, and the link to them; where that is."""
        directory = self.directory.parent / "stubs"
        directory.mkdir(exist_ok=True)
        for name in ("karma_scheduler", "OARAccountingKarma.pm"):
            given = {"version": "1", "socket": str(self.socket)} | values
            text = filled((HOOKS / name).read_text(encoding="utf-8"), given)
            for before, after in changes:
                text = text.replace(before, after)
            (directory / name).write_text(text, encoding="utf-8")
        (directory / "karma_scheduler").chmod(0o755)
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(directory / "karma_scheduler")
        return directory

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

    def run(
        self,
        *before: str,
        arguments: Sequence[str] = ARGUMENTS,
        given: Any = (),
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """Call it as OAR does, and see what comes out.

        *before*: a command that runs the rest; *given*: to start the process with.
        """
        return subprocess.run(
            [*before, self.link, *arguments],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=60,
            **dict(given),
        )

    @property
    def environment(self) -> dict[str, str]:
        """That of a scheduler."""
        environment = {
            "PATH": os.environ["PATH"],
            "OAR_ACCOUNTING_PYTHON": str(self.python),
            "OAR_ACCOUNTING_KARMA_LIMIT": str(LIMIT),
            "OAR_ACCOUNTING_STATE": str(self.state),
            # Not the modules of an OAR that this machine may have.
            "PERL5LIB": str(self.directory / "no_oar"),
        }
        (self.directory / "no_oar" / "OAR" / "Modules").mkdir(parents=True, exist_ok=True)
        (self.directory / "no_oar" / "OAR" / "Modules" / "Judas.pm").write_text("0;\n")
        return environment

    def orders(self, **given: Any) -> str:
        """The jobs in their order, with what each has; and nothing is told."""
        done = self.run(**given)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()[0]

    def rounds(self) -> list[list[str]]:
        """The words of each line of the list of rounds, without its time."""
        text = (self.state / "rounds").read_text(encoding="utf-8")
        return [line.split(" ", 3)[1:] for line in text.splitlines()]

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


@pytest.mark.slow
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
    place.own(str(place.python), "not found")


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


# -- the service -------------------------------------------------------------------------------

LINES = ANSWER.splitlines()[:-1]
OURS = "3=-0.500 2=0.000 1=0.250 4=2.000"
OTHERS = "4=0.100 3=0.200 2=0.300 1=0.400"
BY_LIBRARY = answer("4 0.1\n3 0.2\n2 0.3\n1 0.4\nend 4\n")


@pytest.fixture
def stub(place: Place) -> Place:
    """The same where the library says 4, 3, 2, 1."""
    place.asks(BY_LIBRARY)
    return place


def test_the_service_is_asked_first(stub: Place) -> None:
    with service(stub.socket, whole(*LINES)) as asked:
        assert stub.orders() == OURS
    question = {"ask": "order", "now": NOW, "queue": "default", "limit": 0.8 * LIMIT / 2}
    assert asked.questions == [question]
    assert stub.rounds()[0][0] == "service"
    # It is gone: its file too, or only whoever listened.
    assert stub.orders() == OTHERS
    stub.socket.touch()
    assert stub.orders() == OTHERS
    assert [line[0] for line in stub.rounds()] == ["service", "library", "library"]
    assert stub.rounds()[-1][2] == "the karma service: Connection refused"


NAMES = [
    *(
        "",
        "a b",
        "it's",
        'say "no"',
        "back\\slash",
        "tab\tnew\nline\x7f\x01",
        "{}[]:,",
        "é",
        "日本",
    ),
    *("\U0001f41f", "\u2028", "'; DROP TABLE queues; --", "q" * 100_000),
]


@pytest.mark.parametrize("queue", NAMES, ids=map(ascii, (name[:20] for name in NAMES)))
def test_a_queue_may_have_any_name(stub: Place, queue: str) -> None:
    variables = {"OARCONFFILE": f"/etc/{queue[:99]}/oar.conf", "OAR_ACCOUNTING_CONF": "/x"}
    with service(stub.socket, whole(*LINES)) as asked:
        assert stub.orders(arguments=(queue, str(NOW), "x"), **variables) == OURS
    (question,) = asked.questions
    assert (question["queue"], question["now"]) == (queue, NOW)
    assert question["oar_conf"] == str(Path(variables["OARCONFFILE"]))
    assert question["config"] == "/x"


def test_bytes_that_are_no_text_are_some_name(stub: Place) -> None:
    with service(stub.socket, whole(*LINES)) as asked:
        assert stub.orders(arguments=("q\udcff\udc80", str(NOW), "x")) == OURS
    assert len(asked.questions) == 1


def test_names_of_files_are_those_of_the_scheduler(stub: Place, tmp_path: Path) -> None:
    with service(stub.socket, whole(*LINES)) as asked:
        stub.orders(given={"cwd": tmp_path}, OARCONFFILE="etc/oar.conf")
    assert asked.questions[0]["oar_conf"] == str(tmp_path / "etc/oar.conf")


def test_a_refusal_is_not_asked_again(stub: Place) -> None:
    with service(stub.socket, ending("refused site.toml: unknown key 'colour'")):
        stub.own("decides: site.toml: unknown key 'colour'")
    assert [line[0] for line in stub.rounds()] == ["own"]
    assert stub.rounds()[0][2] == "site.toml: unknown key 'colour'"


@pytest.mark.parametrize("last", ["end 0", "refused it is older", "broken it is older"])
def test_a_service_with_another_library_or_other_settings(
    stub: Place, tmp_path: Path, last: str
) -> None:
    file = tmp_path / "RECORD of it"
    file.write_text("1", encoding="utf-8")
    reply = ending(last, {str(file): digest_of(str(file))})
    file.write_text("2", encoding="utf-8")
    with service(stub.socket, reply):
        assert stub.orders() == OTHERS
        file.unlink()
        assert stub.orders() == OTHERS
    why = f"the karma service: it was started before {file} changed"
    assert [line[::2] for line in stub.rounds()] == [["library", why]] * 2
    with service(stub.socket, whole(*LINES, facts={str(file): "-"})):
        assert stub.orders() == OURS


def test_a_service_that_knows_other_tables(stub: Place) -> None:
    with service(stub.socket, ending("refused old").replace(b"tables 8 8", b"tables 9 8")):
        assert stub.orders() == OTHERS
    why = "the karma service: the tables are in version 9, it knows version 8"
    assert stub.rounds()[0][2] == why


NO_ANSWERS = {
    b"": "is empty",
    b"\n\n": "cannot be read",
    b"<html>\n\n</html>\n": "cannot be read",
    b"\xff\xfe\x00\n\nend 0\n": "cannot be read",
    whole(*LINES).replace(b"karma 1 ", b"karma 10 "): "cannot be read",
    f"{GREETING} 0.1.0\n\nend 0\n".encode(): "says not by which library",
    whole(*LINES).replace(b"end 4", b"end 5"): "cannot be read",
    whole(*LINES) + b"\n": "goes on after its end",
    whole(1, 2, 3): "cannot be read",
    ending("refused"): "cannot be read",
    whole("1 nan"): "cannot be read",
    whole("1 0.5; unlink"): "cannot be read",
}


@pytest.mark.parametrize("reply", NO_ANSWERS, ids=map(str, range(len(NO_ANSWERS))))
def test_what_is_no_answer(stub: Place, reply: bytes) -> None:
    with service(stub.socket, reply):
        assert stub.orders() == OTHERS
    assert stub.rounds()[0][2] == f"the karma service: the answer {NO_ANSWERS[reply]}"


@pytest.mark.slow
def test_an_answer_that_is_cut_is_none(stub: Place) -> None:
    reply = whole(*LINES)
    ends = [*range(0, len(reply) - 50, 11), *range(len(reply) - 50, len(reply))]
    with service(stub.socket, *(reply[:end] for end in ends), reply):
        assert {stub.orders() for _ in ends} == {OTHERS}
        assert stub.orders() == OURS


@pytest.mark.slow
@pytest.mark.parametrize(
    "hanging",
    [silent, deaf, dripping(whole(*LINES * 99), 0.05), slow_to_listen(0.9 * LIMIT / 2, None)],
    ids=["silent", "deaf", "drips", "slow to listen"],
)
def test_a_service_and_a_library_that_hang_share_one_limit(stub: Place, hanging: Any) -> None:
    stub.asks(SLEEP)
    with service(stub.socket, hanging):
        began = time.monotonic()
        stub.own("decides: no answer within", " s; the karma service: no answer in time")
        assert time.monotonic() - began < LIMIT + 1
    assert re.match(r"no answer within (1|0\.9\d?) s;", stub.rounds()[0][2])


def test_a_service_that_is_late_leaves_the_library_its_half(stub: Place) -> None:
    late = slow_to_listen(1.5 * LIMIT / 2, whole(*LINES))
    with service(stub.socket, late, whole("1 1.0")):
        assert stub.orders() == OTHERS
        assert stub.orders() == "1=1.000 2=1.000 3=1.000 4=1.000"


@pytest.mark.parametrize("who", ["service", "library"])
def test_an_answer_without_an_end_takes_no_room(stub: Place, who: str) -> None:
    stub.install(("1 << 26", "1 << 20"))
    if who == "library":
        stub.asks("import sys\nwhile True: sys.stdout.write('1 1.0\\n' * 65536)")
        stub.own("File too large")
        return
    with service(stub.socket, endless):
        assert stub.orders() == OTHERS
    assert stub.rounds()[0][2] == "the karma service: the answer is too long"


# -- what is inherited -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_scheduler_that_is_killed_takes_the_library_with_it(stub: Place, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    stub.asks(f"import os\nprint(os.getpid(), file=open({str(pid)!r}, 'w'), flush=True)\n{SLEEP}")
    command = [str(stub.link), *ARGUMENTS]
    with subprocess.Popen(command, env=stub.environment, stderr=subprocess.DEVNULL) as parent:
        until(lambda: pid.exists() and pid.read_text(encoding="ascii").endswith("\n"))
        parent.kill()
    dead_soon(int(pid.read_text(encoding="ascii")), within=LIMIT + 2)


INHERITED = {
    "children ignored": "$SIG{CHLD} = 'IGNORE';",
    "all ignored": "$SIG{$_} = 'IGNORE' for qw(HUP INT QUIT ALRM PIPE TERM USR1 CHLD);",
    "all blocked": "use POSIX; my $all = POSIX::SigSet->new; $all->fillset;"
    " POSIX::sigprocmask(POSIX::SIG_BLOCK(), $all);",
    "no streams": "close(STDIN);",
    "many files": "use POSIX; POSIX::dup2(0, $_) for 3 .. 9, 250 .. 270, 600;",
    "another locale": "$ENV{LC_ALL} = 'C';",
    "no home": "delete $ENV{HOME}; $ENV{TMPDIR} = '/nowhere';",
}
TELL = "import os\nraise SystemExit(' '.join(sorted(os.listdir('/proc/self/fd'), key=int)))"


@pytest.mark.slow
@pytest.mark.parametrize("state", INHERITED)
def test_whatever_is_inherited(stub: Place, state: str) -> None:
    before = ("perl", "-e", f"{INHERITED[state]} exec {{ $ARGV[0] }} @ARGV;")
    done = stub.run(*before)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == OTHERS
    stub.asks(TELL)
    # The last good answer decides. The last file is that of the directory that is listed.
    assert stub.run(*before).stderr.endswith("decides: 0 1 2 3\n")
    stub.asks(SLEEP)
    began = time.monotonic()
    with service(stub.socket, silent):
        done = stub.run(*before, arguments=("default", str(NOW + 5), "x"))
    assert time.monotonic() - began < LIMIT + 1
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == OTHERS


def test_an_alarm_that_was_set_before_is_not_lost(stub: Place) -> None:
    stub.write(STOCK, SCHEDULER.replace("exit(", 'print(alarm(0), "\\n"); exit('))
    before = ("perl", "-e", "alarm(40); exec { $ARGV[0] } @ARGV;")
    for reply in (whole(*LINES), b""):
        with service(stub.socket, reply):
            assert 30 <= int(stub.run(*before).stdout.splitlines()[-1]) <= 40
    assert stub.run().stdout.splitlines()[-1] == "0"


#: Lets the time of day go back by an hour whenever somebody looks at it.
BACKWARDS = """package Backwards;
use Time::HiRes ();
my ($real, $times) = (\\&Time::HiRes::time, 0);
no warnings 'redefine';
*Time::HiRes::time = sub () { return $real->() - 3600 * $times++ };
1;
"""


@pytest.mark.slow
def test_a_clock_that_is_set_back_makes_no_limit_longer(stub: Place, tmp_path: Path) -> None:
    (tmp_path / "Backwards.pm").write_text(BACKWARDS, encoding="utf-8")
    stub.asks(SLEEP)
    began = time.monotonic()
    with service(stub.socket, silent):
        done = stub.run(PERL5LIB=f"{tmp_path}:{stub.directory}/no_oar", PERL5OPT="-MBackwards")
    assert time.monotonic() - began < LIMIT + 1
    assert "no answer within 1 s" in done.stderr or "no answer within 0.9" in done.stderr
    assert stub.rounds()[0][1].startswith(("2.", "1.9"))


def test_no_room_for_files(stub: Place) -> None:
    """Neither in memory nor where temporary files are; what is remembered is elsewhere."""
    hide = "mount -t tmpfs -o size=4k none /dev/shm && printf %5000s > /dev/shm/x; "
    hide += "mount -t tmpfs -o size=4k none /mnt && printf %5000s > /mnt/x; "
    before = ("unshare", "--mount", "sh", "-c", hide + 'exec "$@"', "sh")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("nobody here can mount")
    with service(stub.socket, whole(*LINES)):
        done = stub.run(*before, TMPDIR="/mnt")
    assert done.stdout.splitlines()[0] == OURS, done.stderr


def test_no_proc(stub: Place) -> None:
    before = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc; exec "$@"', "sh")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("nobody here can hide /proc")
    assert stub.run(*before).stdout.splitlines()[0] == OTHERS
    stub.asks("raise SystemExit('gone')")
    for _ in range(2):
        done = stub.run(*before)
        assert done.stdout.splitlines()[0] == OTHERS
        assert done.stderr.endswith("decides: gone\n")


# -- how it is installed -----------------------------------------------------------------------


def test_without_its_module_oars_own_karma_decides(stub: Place) -> None:
    """Half of a stub: Perl would end, and the queue be disabled."""
    (stub.install() / "OARAccountingKarma.pm").unlink()
    stub.own("OARAccountingKarma.pm cannot be read")


@pytest.mark.parametrize("name", ["oar-sched", "sched.pl", "my scheduler", "é", "a\nb"])
def test_a_scheduler_may_have_any_name(stub: Place, name: str) -> None:
    stub.write(name, SCHEDULER)
    (stub.directory / STOCK).unlink()
    stub.link = stub.link.rename(stub.directory / f"karma_then_{name}")
    assert stub.orders() == OTHERS


def test_the_values_of_a_stub_count(stub: Place) -> None:
    stub.install(python="/nowhere/python", limit=7, state=str(stub.directory))
    environment = ("env", "-u", "OAR_ACCOUNTING_PYTHON", "-u", "OAR_ACCOUNTING_STATE")
    done = stub.run(*environment)
    assert "/nowhere/python" in done.stderr
    assert (stub.directory / "rounds").exists()
    stub.asks("import sys\nraise SystemExit(f'asked for {sys.argv[-1]} s')")
    done = stub.run("env", "-u", "OAR_ACCOUNTING_KARMA_LIMIT")
    # Of seven seconds for all.
    assert done.stderr.endswith("asked for 5.600 s\n")


# -- from one round to the next ----------------------------------------------------------------

GONE = "raise SystemExit('gone')"


def test_the_last_answer_is_repeated_with_its_age(stub: Place) -> None:
    stub.asks(answer("4 0.5\n3 0.25\nend 2\n"))
    assert stub.orders() == "3=0.250 1=0.500 2=0.500 4=0.500"
    stub.asks(GONE)
    done = stub.run()
    assert done.stdout.splitlines()[0] == "3=0.250 1=0.500 2=0.500 4=0.500"
    told = "[oar-accounting] queue default: the karma of 0 s ago decides: gone\n"
    assert done.stderr.replace("of 1 s", "of 0 s") == told
    assert [line[::2] for line in stub.rounds()] == [["library", ""], ["last", "gone"]]


@pytest.mark.parametrize(
    ("age", "bound", "repeated"),
    [
        *[(0, 3600, True), (3590, 3600, True), (3610, 3600, False), (1, 0, False), (0, 0, False)],
        *[(-5, 3600, True), (-5, 0, False), (-86_400, 3600, False), (-86_400, 10**6, False)],
    ],
)
def test_it_is_repeated_within_a_bound(stub: Place, age: int, bound: int, repeated: bool) -> None:
    stub.install(last_answer=bound)
    assert stub.orders() == OTHERS
    (file,) = stub.state.glob("last-*")
    then = time.time() - age
    os.utime(file, (then, then))
    stub.asks(GONE)
    assert stub.run().stdout.splitlines()[0] == (OTHERS if repeated else ITS_OWN)


@pytest.mark.parametrize("text", ["", "4 0.5\n", "end 1\n", "x", "4 0.5\nend 1\nend 1\n"])
def test_a_memory_that_is_broken_is_none(stub: Place, text: str) -> None:
    assert stub.orders() == OTHERS
    (file,) = stub.state.glob("last-*")
    file.write_text(text, encoding="utf-8")
    stub.asks(GONE)
    stub.own("decides: gone")


def test_it_is_not_repeated_for_another_question(stub: Place) -> None:
    assert stub.orders() == OTHERS
    stub.asks(GONE)
    others = [{"OARCONFFILE": "/x"}, {"OAR_ACCOUNTING_CONF": "/x"}]
    for number, other in enumerate(others):
        arguments = ("default", str(NOW + number), "x")
        assert stub.run(arguments=arguments, **other).stdout.splitlines()[0] == ITS_OWN
    assert stub.run(arguments=("other", str(NOW + 8), "")).stdout.splitlines()[0] == ITS_OWN
    assert stub.run(arguments=("default", str(NOW + 9), "")).stdout.splitlines()[0] == OTHERS


@pytest.mark.slow
def test_the_queues_of_a_round_wait_once(stub: Place) -> None:
    assert stub.orders(arguments=("night", str(NOW - 5), "x")) == OTHERS
    stub.asks(SLEEP)
    stub.own("no answer within")
    began = time.monotonic()
    # Where something is remembered, it decides; else OAR's own karma.
    assert stub.orders(arguments=("night", str(NOW), "x")) == OTHERS
    assert stub.orders(arguments=("besteffort", str(NOW), "x")) == ITS_OWN
    assert time.monotonic() - began < LIMIT
    assert [line[0] for line in stub.rounds()] == ["library", "own"]
    # The next round asks again, and so does another server.
    stub.asks(BY_LIBRARY)
    assert stub.orders(arguments=("default", str(NOW + 5), "x")) == OTHERS
    assert stub.run("sh", "-c", '"$@"; exit $?', "sh").stdout.splitlines()[0] == OTHERS
    assert [line[0] for line in stub.rounds()] == ["library", "own", "library", "library"]


@pytest.mark.parametrize("mark", ["", "x", "1 2 3\n", "\xff"])
def test_a_mark_that_is_broken_is_none(stub: Place, mark: str) -> None:
    (stub.state / "failed").write_text(mark, encoding="latin-1")
    assert stub.orders() == OTHERS


@pytest.mark.parametrize("spoil", ["missing", "a file", "unwritable", "fifos", "directories"])
def test_a_directory_that_cannot_be_used_is_no_error(
    stub: Place, tmp_path: Path, spoil: str
) -> None:
    stub.orders()
    names = ["failed", "rounds", *(file.name for file in tmp_path.glob("last-*"))]
    stub.state = Path("/proc/self") if spoil == "unwritable" else tmp_path / "state"
    if spoil == "a file":
        stub.state.touch()
    elif spoil in ("fifos", "directories"):
        stub.state.mkdir()
        for name in names:
            (os.mkfifo if spoil == "fifos" else os.mkdir)(stub.state / name)
    assert stub.orders() == OTHERS
    stub.asks(GONE)
    done = stub.run()
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] in (OTHERS, ITS_OWN)
    assert len(done.stderr.splitlines()) == 1


def test_eight_write_at_the_same_time(stub: Place) -> None:
    """No line is lost or torn, also while the list is begun anew; and nothing else is left."""
    before = set(os.listdir(stub.state))
    stub.install(("256 * 1024", "1500"))
    stub.asks("raise SystemExit('x' * 60)")
    variables = stub.environment
    for _ in range(4):
        many = [
            subprocess.Popen(
                ["sh", "-c", '"$@"; exit $?', "sh", stub.link, f"q{number}", str(NOW), ""],
                env=variables,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(8)
        ]
        assert [each.wait(60) for each in many] == [0] * 8
    lines = [
        line
        for name in ("rounds.1", "rounds")
        if (stub.state / name).exists()
        for line in (stub.state / name).read_text(encoding="utf-8").splitlines()
    ]
    assert {line.split(" ", 3)[3] for line in lines} == {"x" * 60}
    assert len(lines) == 32
    added = set(os.listdir(stub.state)) - before
    assert added == {"failed", "rounds", "rounds.1"}


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

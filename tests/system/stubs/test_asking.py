"""How OAR 3's stub comes by an order: of whom it asks, for how long, and what it makes of it all.

The file runs here as it runs in OAR 3's own environment: it is asked by real processes, over real
sockets, and nothing of the library is imported by it.
"""

import ast
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from oar_accounting.stubs import oar3
from oar_accounting.stubs.oar3 import (
    GREETING,
    Answer,
    Memory,
    NoAnswer,
    Refused,
    Round,
    ask,
    digest_of,
    read_answer,
    sort_jobs,
)
from tests.asked import (
    Library,
    children,
    dead_soon,
    deaf,
    dripping,
    ending,
    endless,
    is_alive,
    open_files,
    service,
    silent,
    slow_to_listen,
    until,
    whole,
)
from tests.system.stubs.test_hook import AS_NOBODY, fill, mounted

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="OAR servers are Linux with /proc"
)
ROOT = Path(__file__).parents[3]
NOW = 1_700_000_000
QUESTION = {"ask": "order", "now": NOW, "jobs": [1, 2, 3]}
#: How long may be waited, in seconds.
LIMIT, SHORT = 20.0, 1.0
#: What else takes time, on a machine with much else to do.
MORE = 1.0


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    """A library that says 3, 1, 2."""
    found = Library(tmp_path)
    found.says(whole(3, 1, 2))
    monkeypatch.setattr(oar3, "PYTHON", str(found.python))
    return found


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a service, which is not there, and a directory of what is remembered."""
    path = tmp_path / "karma.sock"
    monkeypatch.setattr(oar3, "SOCKET", str(path))
    monkeypatch.setenv("OAR_ACCOUNTING_STATE", str(tmp_path))
    return path


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What OAR's logger is told, which tells nobody else where OAR 3 is at work."""
    ours = logging.getLogger("oar.accounting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "propagate", False)
        patch.setattr(ours, "handlers", [caplog.handler])
        yield


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What OAR's log holds of us."""
    return [each.getMessage() for each in caplog.records if each.name == "oar.accounting"]


def reason(limit: float = LIMIT) -> str:
    """Why there is no answer."""
    with pytest.raises(NoAnswer) as none:
        ask(QUESTION, limit)
    assert "\n" not in str(none.value)
    return str(none.value)


def order(
    *jobs: int, now: int = NOW, plt: object = None, queues: Any = ("default",), **config: object
) -> list[int]:
    """The jobs as the scheduler gets them back; 1, 2, 3 where none are given."""
    given = {"limit": LIMIT} | config
    return sort_jobs(queues, now, jobs or (1, 2, 3), {}, json.dumps(given), plt)


# -- who is asked first ------------------------------------------------------------------------


def test_the_service_is_asked_first_and_nobody_else(place: Path, library: Library) -> None:
    with service(place, whole(2, 3, 1)) as asked:
        assert ask(QUESTION, LIMIT) == Answer(["2", "3", "1"], "service", "")
    assert library.calls() == []
    (question,) = asked.questions
    # Its steps on a database are over before nobody waits for it any more.
    assert question == QUESTION | {"limit": pytest.approx(0.8 * LIMIT / 2)}


def test_without_a_service_the_library_is_asked(library: Library) -> None:
    assert ask(QUESTION, LIMIT) == Answer(["3", "1", "2"], "library", "")
    ((words, asked),) = library.calls()
    assert words == ["-I", "-m", "oar_accounting.schedulers.answer", "21"]
    assert json.loads(asked) == QUESTION | {"limit": pytest.approx(0.8 * LIMIT, rel=0.01)}


def test_a_socket_that_nobody_listens_to(place: Path, library: Library) -> None:
    with service(place, whole()):
        pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with service(place, whole()):
            pass
    assert place.exists()
    found = ask(QUESTION, LIMIT)
    assert (found.who, found.lines) == ("library", ["3", "1", "2"])
    assert found.why.startswith("the karma service: ConnectionRefusedError")


def test_a_refusal_is_not_asked_again(place: Path, library: Library, caplog: Any) -> None:
    why = "site.toml: unknown key 'colour'"
    with service(place, ending(f"refused {why}")):
        with pytest.raises(Refused) as refused:
            ask(QUESTION, LIMIT)
        assert str(refused.value) == why
        assert order() == [1, 2, 3]
    assert library.calls() == []
    assert told(caplog) == [f"oar_accounting: jobs of default stay as they are: {why}"]


def test_what_breaks_in_the_service_may_not_break_in_the_library(
    place: Path, library: Library
) -> None:
    with service(place, ending("broken MemoryError: of 4 GiB")):
        found = ask(QUESTION, LIMIT)
    assert found.who == "library"
    assert found.why == "the karma service: MemoryError: of 4 GiB"


@pytest.mark.parametrize("last", ["end 0", "refused it is older", "broken it is older"])
def test_a_service_with_another_library_or_other_settings(
    place: Path, library: Library, tmp_path: Path, last: str
) -> None:
    """It may refuse what the others would know."""
    file = tmp_path / "RECORD of it"
    file.write_text("1", encoding="utf-8")
    before = digest_of(str(file))
    with service(place, ending(last, {str(file): before})):
        if last == "end 0":
            assert ask(QUESTION, LIMIT).who == "service"
        file.write_text("2", encoding="utf-8")
        found = ask(QUESTION, LIMIT)
        assert (found.who, found.lines) == ("library", ["3", "1", "2"])
        assert found.why == f"the karma service: it was started before {file} changed"
        # pip has removed it, and not yet written the next.
        file.unlink()
        assert ask(QUESTION, LIMIT).who == "library"
    # A file that was not there, and is not there.
    with service(place, ending("end 0", {str(file): "-"})):
        assert ask(QUESTION, LIMIT).who == "service"


@pytest.mark.parametrize("last", ["end 0", "refused they are older"])
def test_a_service_that_knows_other_tables(place: Path, library: Library, last: str) -> None:
    reply = ending(last).replace(b"tables 8 8", b"tables 9 8")
    with service(place, reply):
        found = ask(QUESTION, LIMIT)
    assert found.who == "library"
    assert found.why == "the karma service: the tables are in version 9, it knows version 8"


def test_both_reasons_are_told(place: Path, library: Library) -> None:
    library.does("raise SystemExit('half\\ninstalled')")
    with service(place, ending("broken MemoryError")):
        assert reason() == "the library: installed; the karma service: MemoryError"


# -- what is an answer -------------------------------------------------------------------------

BROKEN = {
    b"": "the answer is empty",
    b"\n\n": "cannot be read",
    b"<html>\n\n</html>\n": "cannot be read",
    b"\xff\xfe\x00\n\nend 0\n": "cannot be read",
    whole().replace(b"karma 1 ", b"karma 10 "): "cannot be read",
    whole().replace(b"karma 1 ", b"karma 2 "): "cannot be read",
    f"{GREETING} 0.1.0\n\nend 0\n".encode(): "says not by which library",
    f"{GREETING} 0.1.0\ntables 8 8\n\nend 0\n".encode(): "says not by which library",
    whole(1, 2).replace(b"end 2", b"end 3"): "has no end",
    whole(1, 2) + b"3\n": "has no end",
    whole(1, 2) + b"\n": "has no end",
    whole(1, 2) + whole(1, 2): "has no end",
    whole(1, 2).replace(b"end 2", b"end 2 "): "has no end",
    ending("refused"): "has no end",
    whole(1).replace(b"end 1", b"refused x"): "has no end",
}


@pytest.mark.parametrize("reply", BROKEN, ids=map(str, range(len(BROKEN))))
def test_what_is_no_answer(place: Path, library: Library, reply: bytes) -> None:
    with service(place, reply):
        found = ask(QUESTION, LIMIT)
    assert (found.who, found.lines) == ("library", ["3", "1", "2"])
    assert found.why.startswith("the karma service: the answer ")
    assert BROKEN[reply] in found.why


@given(jobs=st.lists(st.integers(1, 10**12), unique=True, max_size=12))
@example(jobs=list(range(1, 12)))
def test_an_answer_that_is_cut_is_none(jobs: list[int]) -> None:
    reply = whole(*jobs)
    assert list(map(int, read_answer(reply, check=True))) == jobs
    for check in (True, False):
        for cut in range(len(reply)):
            with pytest.raises(NoAnswer):
                read_answer(reply[:cut], check=check)


@given(reply=st.binary(max_size=200), check=st.booleans(), begun=st.booleans())
def test_anything_is_an_answer_or_none(reply: bytes, check: bool, begun: bool) -> None:
    try:
        lines = read_answer(GREETING.encode() * begun + reply, check=check)
    except NoAnswer:
        return
    assert reply.endswith(f"end {len(lines)}\n".encode())


@pytest.mark.parametrize("reply", [whole("1"), whole("x", "y"), whole("1", "1", "2"), whole(4)])
def test_an_answer_about_other_jobs(place: Path, library: Library, reply: bytes) -> None:
    """Some may be missing; none may be invented."""
    library.says(reply)
    assert order() == [1, 2, 3]


def test_an_answer_without_an_end_takes_no_memory(
    place: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oar3, "LONGEST_ANSWER", 1 << 20)
    with service(place, endless):
        began = time.monotonic()
        found = ask(QUESTION, LIMIT)
        assert time.monotonic() - began < LIMIT / 2
    assert found.who == "library"
    assert found.why == "the karma service: the answer is too long"
    library.does("while True: sys.stdout.write('1\\n' * 65536)")
    assert "File too large" in reason()


# -- one limit ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "hanging",
    [
        silent,
        deaf,
        dripping(whole(*range(1000)), 0.05),
        slow_to_listen(0.9 * SHORT / 2, None),
        endless,
    ],
    ids=["silent", "deaf", "drips", "slow to listen", "endless"],
)
def test_a_service_and_a_library_that_hang_share_one_limit(
    place: Path, library: Library, hanging: Any
) -> None:
    library.hangs()
    with service(place, hanging):
        began = time.monotonic()
        why = reason(SHORT)
        took = time.monotonic() - began
    assert took < SHORT + oar3.FAREWELL + MORE
    # Half of it is for the library.
    is_half = re.match(r"no answer within 0\.[45]\d? s; the karma service: ", why)
    assert is_half or hanging is endless


@pytest.mark.slow
def test_a_service_that_listens_late_leaves_the_library_its_half(
    place: Path, library: Library
) -> None:
    limit = 4.0
    library.does(f"time.sleep({limit / 4}); sys.stdout.buffer.write({whole(3, 1, 2)!r})")
    with service(place, slow_to_listen(0.45 * limit, None)):
        began = time.monotonic()
        found = ask(QUESTION | {"padding": "x" * 2_000_000}, limit)
        assert time.monotonic() - began < limit
    assert (found.who, found.lines) == ("library", ["3", "1", "2"])
    assert found.why == "the karma service: no answer in time"


def test_a_late_answer_is_nobodys(place: Path, library: Library) -> None:
    """Whoever asks again does not get what was meant for the last."""
    late = slow_to_listen(1.5 * SHORT / 2, whole(1, 2, 3))
    with service(place, late, whole(2, 3, 1)) as asked:
        assert ask(QUESTION, SHORT).lines == ["3", "1", "2"]
        until(lambda: len(asked.questions) == 0)
        assert ask(QUESTION, SHORT).lines == ["2", "3", "1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "time.sleep(600)",
        "import signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)",
        "while True: pass",
        "sys.stdout.write('x'); sys.stdout.flush(); os.close(1); os.close(2); time.sleep(600)",
    ],
    ids=["sleeps", "stopped", "deaf", "busy", "closes"],
)
def test_a_library_that_hangs_is_gone(library: Library, code: str) -> None:
    library.does(code)
    before = (children(), open_files())
    assert re.fullmatch(r"no answer within (1|0\.9\d?) s", reason(SHORT))
    assert (children(), open_files()) == before


# -- nothing is left ---------------------------------------------------------------------------

LEAVES = """
import subprocess
child = subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(600)"])
with open({file!r}, "w") as written:
    print(child.pid, file=written)
{then}
"""


@pytest.mark.parametrize("then", ["answers", "hangs", "dies"])
def test_what_the_library_started_goes_with_it(library: Library, tmp_path: Path, then: str) -> None:
    codes = {
        "answers": f"sys.stdout.buffer.write({whole(3, 1, 2)!r})",
        "hangs": "time.sleep(600)",
        "dies": "os.abort()",
    }
    library.does(LEAVES.format(file=str(tmp_path / "pid"), then=codes[then]))
    before = (children(), open_files())
    if then == "answers":
        assert ask(QUESTION, LIMIT).lines == ["3", "1", "2"]
    else:
        reason(SHORT)
    assert (children(), open_files()) == before
    dead_soon(int((tmp_path / "pid").read_text(encoding="ascii")))


#: A scheduler that asks; what it does before stands in the place of the first braces.
SCHEDULER = """
import json, logging, os, signal, sys, time
sys.path.insert(0, {stub!r})
logging.basicConfig(level=logging.INFO, format="%(message)s")
import oar_accounting_stub as stub
stub.PYTHON, stub.SOCKET = {python!r}, {socket!r}
{before}
print(json.dumps(stub.sort_jobs(["default"], {now}, [1, 2, 3], {{}}, {config!r}, None)), flush=True)
{after}
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A directory with nothing but the file as OAR 3 has it."""
    directory = tmp_path / "stub"
    directory.mkdir()
    shutil.copy(oar3.__file__, directory / "oar_accounting_stub.py")
    return directory


class Scheduler:
    """A process that asks as OAR's scheduler does."""

    def __init__(self, stub: Path, place: Path, library: Library) -> None:
        self._values = {"stub": str(stub), "socket": str(place), "python": str(library.python)}

    def code(self, before: str = "", after: str = "", now: int = NOW, **config: object) -> str:
        """What it runs."""
        text = json.dumps({"limit": LIMIT} | config)
        return SCHEDULER.format(**self._values, before=before, after=after, now=now, config=text)

    def run(self, *command: str, **given: Any) -> tuple[list[int], list[str]]:
        """The order it gets, and the lines that it logs."""
        code = self.code(
            **{key: given.pop(key) for key in list(given) if key not in ("env", "preexec_fn")}
        )
        done = subprocess.run(
            [*command, sys.executable, "-I", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            **given,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[0]), done.stderr.splitlines()


@pytest.fixture
def scheduler(stub: Path, place: Path, library: Library) -> Scheduler:
    """A process that has the file alone."""
    return Scheduler(stub, place, library)


STATES = {
    "children ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "children noticed": "signal.signal(signal.SIGCHLD, lambda *_: None)",
    "children reaped": "def reap(*_):\n"
    "    try: os.waitpid(-1, os.WNOHANG)\n"
    "    except OSError: pass\n"
    "signal.signal(signal.SIGCHLD, reap)",
    "all blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    "all ignored": "for s in (1, 2, 3, 13, 14, 15): signal.signal(s, signal.SIG_IGN)",
    "no streams": "for fd in (0, 2): os.close(fd)",
    "many files": "kept = [os.dup(0) for _ in range(200)]",
    "an alarm": "signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(0, .05, .05)",
    "no home": "os.environ.pop('HOME', None); os.environ['TMPDIR'] = '/nowhere'",
    "no memfd": "del os.memfd_create",
    "no pidfd": "del os.pidfd_open",
    "old kernel": "def fails(*_): raise OSError(38, 'not implemented')\n"
    "os.memfd_create = os.pidfd_open = fails",
    "another locale": "os.environ['LC_ALL'] = 'en_US.ISO-8859-1'",
}


@pytest.mark.slow
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("hangs", [False, True], ids=["answers", "hangs"])
def test_any_state_of_the_scheduler_will_do(
    scheduler: Scheduler, library: Library, state: str, hangs: bool
) -> None:
    if hangs:
        library.hangs()
    began = time.monotonic()
    left = "import glob\nleft = glob.glob(f'/proc/self/task/{os.getpid()}/children')\n"
    left += "print(json.dumps(open(left[0]).read().split()))"
    limit = SHORT if hangs else LIMIT
    found, _ = scheduler.run(before=STATES[state], after=left, limit=limit)
    assert found == ([1, 2, 3] if hangs else [3, 1, 2])
    assert time.monotonic() - began < limit + 2 * MORE


def test_a_handler_that_raises_leaves_nothing(library: Library, caplog: Any) -> None:
    """A limit of the scheduler's own ends the waiting: what it waits for ends, too."""

    def raises(_: int, __: FrameType | None) -> NoReturn:
        raise TimeoutError("the scheduler's own limit")

    library.hangs()
    before = (children(), open_files())
    earlier = signal.signal(signal.SIGALRM, raises)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        assert order() == [1, 2, 3]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert (children(), open_files()) == before
    (line,) = told(caplog)
    assert "the scheduler's own limit" in line or "no answer" in line


def test_what_was_interrupted_for_good_leaves_nothing(library: Library) -> None:
    def raises(_: int, __: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    library.hangs()
    before = (children(), open_files())
    earlier = signal.signal(signal.SIGALRM, raises)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            ask(QUESTION, LIMIT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert (children(), open_files()) == before


def test_no_proc(scheduler: Scheduler, library: Library) -> None:
    """As in a bare container: a round is then not known again, and all else works."""
    unshare = shutil.which("unshare")
    hidden = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    if unshare is None or subprocess.run([*hidden, "true"], capture_output=True).returncode:
        pytest.skip("nobody here can hide /proc")
    assert scheduler.run(*hidden)[0] == [3, 1, 2]
    library.hangs()
    found, lines = scheduler.run(*hidden, limit=SHORT)
    assert found == [3, 1, 2]
    assert ["keep the order" in line for line in lines] == [True]


def test_the_variables_of_the_scheduler_are_not_for_the_library(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even a module of theirs that has the name of one of Python's."""
    (tmp_path / "json.py").write_text("raise SystemExit('not this one')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(oar3, "PYTHON", sys.executable)
    missing = str(tmp_path / "missing.toml")
    with pytest.raises(NoAnswer, match=f"{missing}: cannot be read: No such file"):
        ask(QUESTION | {"config": missing}, LIMIT)


#: The library's own end of it.
REAL = """#!{python}
import io, sys
sys.path.insert(0, {root!r})
{before}
from oar_accounting.schedulers import answer
answer.main(sys.argv[-1:])
"""


def real(library: Library, before: str = "") -> None:
    """Let the library be itself."""
    text = REAL.format(python=sys.executable, root=str(ROOT), before=before)
    library.python.write_text(text, encoding="utf-8")


def test_a_reason_in_other_letters_than_those_of_the_scheduler(library: Library) -> None:
    real(library, "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, 'ascii')")
    for name in ("日本.toml", "\udcff.toml"):
        with pytest.raises(NoAnswer, match=r"/nowhere/.*toml: cannot be read: No such file"):
            ask(QUESTION | {"config": f"/nowhere/{name}"}, LIMIT)


def test_a_limit_that_is_lower_already_is_kept() -> None:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    who: dict[str, Any] = AS_NOBODY
    command = [*oar3._LIMITED, "sh", "-c", "ulimit -f"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lower, **who)
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) <= (8 if who else 131072)


def test_the_file_is_one_for_python_3_10(stub: Path) -> None:
    text = (stub / "oar_accounting_stub.py").read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 10))
    python = shutil.which("python3.10")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        pytest.skip("no Python 3.10 here")
    code = f"import sys; sys.path.insert(0, {str(stub)!r}); import oar_accounting_stub as stub\n"
    code += "stub.PYTHON = '/nowhere'\nprint(stub.sort_jobs(['q'], 5, [2, 1], {}, None, None))"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout == "[2, 1]\n", done.stderr


@pytest.mark.slow
def test_a_scheduler_that_is_killed_takes_the_library_with_it(
    scheduler: Scheduler, library: Library, tmp_path: Path
) -> None:
    real(library)
    never = tmp_path / "never.toml"
    os.mkfifo(never)
    # Whatever the scheduler ignores and blocks, it is the one signal that must come.
    before = f"{STATES['all ignored']}\n{STATES['all blocked']}"
    code = scheduler.code(before=before, limit=3, config=str(never))
    with subprocess.Popen([sys.executable, "-I", "-c", code]) as parent:
        file = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        until(lambda: file.read_text(encoding="ascii").split())
        (child,) = map(int, file.read_text(encoding="ascii").split())
        # It has set its alarm when it reads the settings.
        with open(never, "w", encoding="utf-8"):
            parent.kill()
            assert is_alive(child)
            dead_soon(child, within=3 + 1 + MORE)


# -- the last good answer ----------------------------------------------------------------------


def no_answer(library: Library) -> None:
    """From now on."""
    library.does("raise SystemExit('gone')")


def test_the_last_answer_is_repeated_with_its_age(library: Library, caplog: Any) -> None:
    assert order() == [3, 1, 2]
    no_answer(library)
    # Other jobs have come, and one has gone.
    assert order(1, 3, 4, 5) == [3, 1, 4, 5]
    (line,) = told(caplog)
    assert line == "oar_accounting: jobs of default keep the order of 0 s ago: the library: gone"


def test_a_refusal_does_not_stop_the_last_answer(
    place: Path, library: Library, caplog: Any
) -> None:
    with service(place, whole(2, 3, 1), ending("refused no database")):
        assert order() == order(now=NOW + 5) == [2, 3, 1]
    assert told(caplog) == [
        "oar_accounting: jobs of default keep the order of 0 s ago: no database"
    ]


@pytest.mark.parametrize(
    ("age", "bound", "repeated"),
    [
        *[(0, 3600, True), (3590, 3600, True), (3610, 3600, False), (1, 0, False), (0, 0, False)],
        # A clock that was set back: a little is nothing, of more nothing is known.
        *[(-5, 3600, True), (-5, 0, False), (-86_400, 3600, False), (-86_400, 10**6, False)],
    ],
)
def test_it_is_repeated_within_a_bound(
    library: Library, tmp_path: Path, age: int, bound: int, repeated: bool
) -> None:
    assert order(last_answer=bound) == [3, 1, 2]
    (file,) = tmp_path.glob("last-*")
    then = time.time() - age
    os.utime(file, (then, then))
    no_answer(library)
    assert order(last_answer=bound) == ([3, 1, 2] if repeated else [1, 2, 3])


@pytest.mark.parametrize(
    "other",
    [
        {"queues": ("other",)},
        {"queues": ("default", "other")},
        {"config": "/etc/other.toml"},
        {"oar_conf": "/etc/other.conf"},
        {"site": "other"},
        {"site": "default"},
    ],
)
def test_it_is_not_repeated_for_another_question(library: Library, other: Any) -> None:
    assert order() == [3, 1, 2]
    no_answer(library)
    assert order(**other) == [1, 2, 3]
    assert order(now=NOW + 5) == [3, 1, 2]


def test_questions_are_not_confused() -> None:
    names = [
        Memory(oar3.question_of(["a", "b"], {}))._file,
        Memory(oar3.question_of(["a"], {"site": "b"}))._file,
        Memory(oar3.question_of(["a"], {"config": "b"}))._file,
        Memory(oar3.question_of(["a,b"], {}))._file,
        Memory(oar3.question_of([], {"site": "b", "config": "a"}))._file,
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "text",
    ["", "end", "3 1 2", "3 1 2 en", "3 1 x end", "\0" * 20, "3 1 2 end end", "3 3 1 end", "é end"],
)
def test_a_memory_that_is_broken_is_none(library: Library, tmp_path: Path, text: str) -> None:
    assert order() == [3, 1, 2]
    (file,) = tmp_path.glob("last-*")
    file.write_text(text, encoding="utf-8")
    no_answer(library)
    assert sorted(order()) == [1, 2, 3]
    assert order(now=NOW + 5) == ([3, 1, 2] if text == "3 3 1 end" else [1, 2, 3])


ids = st.lists(st.integers(1, 50), unique=True, max_size=20)


@given(known=ids, received=ids, unique=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_comes_back_is_what_was_given(
    tmp_path: Path, known: list[int], received: list[int], unique: bool
) -> None:
    """In the order of the last answer, with jobs that it does not know last and as they came."""
    given_ids = received if unique else received + received[::2]
    memory = Memory(["law"])
    memory.keep(known)
    config = oar3.Config()
    found, age = oar3._repeated(memory, config, given_ids)
    assert age is not None
    assert sorted(found) == sorted(given_ids)
    first = [job for job in found if job in known]
    assert list(dict.fromkeys(first)) == [job for job in known if job in given_ids]
    assert found[len(first) :] == [job for job in given_ids if job not in known]


# -- what is handed over -----------------------------------------------------------------------


def test_100_000_jobs(place: Path, library: Library) -> None:
    jobs = list(range(1, 100_001))
    random.Random(1).shuffle(jobs)
    with service(place, whole(*reversed(jobs))):
        began = time.monotonic()
        assert order(*jobs) == jobs[::-1]
        assert time.monotonic() - began < 5
    library.says(b"")
    library.does(
        "import json\nfor job in json.loads(asked)['jobs'][::-1]: print(job, file=body)".join(
            ["import io\nbody = io.StringIO()\n", "\n"]
        )
        + f"sys.stdout.write({whole().decode().partition('end')[0]!r} + body.getvalue())\n"
        + "print('end 100000')"
    )
    assert order(*jobs, now=NOW + 5) == jobs[::-1]


def test_ids_may_be_numbers_of_any_kind(library: Library) -> None:
    numbers = [np.int64(1), np.int32(2), np.int64(3)]
    found = sort_jobs(["default"], np.int64(NOW), numbers, {}, None, None)  # type: ignore[arg-type]
    assert found == [3, 1, 2]
    assert all(each in numbers for each in found)


def test_an_id_may_come_twice(library: Library) -> None:
    assert order(1, 3, 1, 2, 3) == [3, 3, 1, 1, 2]


@pytest.mark.parametrize(
    "jobs", [["1", "x"], [None, 1], [1.5, 2], [[1], [2]], [float("nan")], [2**70, 1]]
)
def test_ids_that_are_none_come_back(library: Library, jobs: list[Any]) -> None:
    assert sort_jobs(["default"], NOW, jobs, {}, "", None) == jobs


@pytest.mark.parametrize("queues", [None, 5, "default", [None, 1], ["q\n'\"é\udcff\0" * 100], []])
@pytest.mark.parametrize("now", [None, "x", -1, 2**80, float("nan")])
def test_anything_may_be_handed_over(library: Library, queues: Any, now: Any) -> None:
    no_answer(library)
    assert sort_jobs(queues, now, [2, 1], {}, None, None) == [2, 1]


def test_names_of_files_are_those_of_the_scheduler(
    place: Path, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is somewhere else, and has an environment of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OARCONFFILE", "etc/oar.conf")
    with service(place, whole(1, 2, 3)) as asked:
        order(config="our.toml")
    (question,) = asked.questions
    assert question["config"] == str(tmp_path / "our.toml")
    assert question["oar_conf"] == str(tmp_path / "etc/oar.conf")


def test_a_log_that_fails_is_no_error(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> NoReturn:
        raise OSError("no space left")

    no_answer(library)
    monkeypatch.setattr(logging.getLogger("oar.accounting"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("oar.accounting"), "warning", fails)
    assert order() == [1, 2, 3]
    assert sort_jobs(["default"], NOW, [1, 2], {}, "{", None) == [1, 2]


# -- rounds ------------------------------------------------------------------------------------


def rounds(directory: Path) -> list[list[str]]:
    """The words of each line of the list of rounds."""
    file = directory / "rounds"
    return [line.split(" ", 3) for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_round_is_noted(place: Path, library: Library, tmp_path: Path) -> None:
    began = int(time.time())
    with service(place, whole(2, 3, 1), ending("broken it is\ttired")):
        order()
        order(now=NOW + 5)
    no_answer(library)
    order(now=NOW + 10)
    order(now=NOW + 15, last_answer=0)
    order(now=NOW + 20, limit="x")
    found = rounds(tmp_path)
    assert [line[1] for line in found] == ["service", "library", "last", "own", "own"]
    assert [line[3] for line in found] == [
        "",
        "the karma service: it is tired",
        "the library: gone",
        "the library: gone",
        "CUSTOM_JOB_SORTING_CONFIG: limit must be seconds from 0.1 to 600",
    ]
    for stamp, _, waited, _ in found:
        assert began <= int(stamp) <= time.time()
        assert 0 <= float(waited) < LIMIT


def test_a_reason_is_one_line_and_not_too_long(library: Library, tmp_path: Path) -> None:
    library.does("raise SystemExit('\\u2028'.join(['é', 'x' * 5000]))")
    order()
    text = (tmp_path / "rounds").read_text(encoding="utf-8")
    assert text.count("\n") == 1 and len(text) < 1100


def test_the_list_is_begun_anew(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oar3, "MOST_ROUNDS", 1000)
    for number in range(30):
        Round(number).note("own", time.monotonic(), "x" * 90)
    kept = (tmp_path / "rounds.1").stat().st_size
    assert 1000 < kept < 1200
    assert (tmp_path / "rounds").stat().st_size < 1000
    assert not list(tmp_path.glob("rounds.1.*"))


NOTES = """
import sys, time
sys.path.insert(0, {stub!r})
import oar_accounting_stub as stub
stub.MOST_ROUNDS = {most}
for number in range(200):
    stub.Round(number).note("own", time.monotonic(), "{who} %03d " % number + "x" * 60)
"""


def test_eight_write_at_the_same_time(stub: Path, tmp_path: Path) -> None:
    """No line is lost or torn, also while the list is begun anew."""
    most = 8 * 200 * 90 * 2 // 3
    writers = [
        subprocess.Popen(
            [sys.executable, "-I", "-c", NOTES.format(stub=str(stub), most=most, who=who)]
        )
        for who in range(8)
    ]
    assert [each.wait(60) for each in writers] == [0] * 8
    lines = "".join(
        (tmp_path / name).read_text(encoding="utf-8") for name in ("rounds.1", "rounds")
    ).splitlines()
    said = [line.split()[3:5] for line in lines]
    assert sorted(said) == [[str(who), f"{n:03}"] for who in range(8) for n in range(200)]
    assert {line.split()[5] for line in lines} == {"x" * 60}


@pytest.mark.parametrize("spoil", ["missing", "a file", "unwritable", "fifos", "dirs"])
def test_a_directory_that_cannot_be_used_is_no_error(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str, caplog: Any
) -> None:
    state = tmp_path / "state"
    monkeypatch.setenv("OAR_ACCOUNTING_STATE", str(state))
    if spoil == "a file":
        state.touch()
    elif spoil == "unwritable":
        monkeypatch.setenv("OAR_ACCOUNTING_STATE", "/proc/self")
    elif spoil in ("fifos", "dirs"):
        state.mkdir()
        memory = Memory(oar3.question_of(["default"], {}))._file
        for name in ("failed", "rounds", Path(memory).name):
            (os.mkfifo if spoil == "fifos" else os.mkdir)(state / name)
    assert order() == [3, 1, 2]
    no_answer(library)
    began = time.monotonic()
    assert sorted(order(now=NOW + 5)) == [1, 2, 3]
    assert time.monotonic() - began < MORE
    assert len(told(caplog)) == 1


@pytest.mark.parametrize("room", ["size=64k", "size=1m,nr_inodes=8"])
def test_a_full_disk_is_no_error(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    state = tmp_path / "state"
    state.mkdir()
    monkeypatch.setenv("OAR_ACCOUNTING_STATE", str(state))
    assert order() == [3, 1, 2]
    with mounted(state, room):
        fill(state)
        jobs = list(range(4, 5000))
        assert order(1, 2, 3, *jobs) == [3, 1, 2, *jobs]
        no_answer(library)
        assert order(now=NOW + 5) == [1, 2, 3]
        assert not list(state.glob(".new-*"))
    assert order(now=NOW + 5) == [3, 1, 2]


def test_nothing_else_is_left_in_the_directory(library: Library, tmp_path: Path) -> None:
    before = set(os.listdir(tmp_path))
    for number in range(3):
        order(now=NOW + number)
    no_answer(library)
    order(now=NOW + 10)
    added = set(os.listdir(tmp_path)) - before - {"library.log"}
    assert {name.partition("-")[0] for name in added} == {"last", "failed", "rounds"}
    assert len(added) == 3


# -- the processes of one round ----------------------------------------------------------------


def test_the_processes_of_a_round_wait_once(
    scheduler: Scheduler, library: Library, tmp_path: Path
) -> None:
    """In external mode, the scheduler of OAR 3 is a process for each group of queues."""
    library.hangs()
    lines = scheduler.run(limit=SHORT)[1]
    assert [line.partition(":")[0] for line in lines] == ["oar_accounting"]
    began = time.monotonic()
    assert scheduler.run(limit=LIMIT) == ([1, 2, 3], [])
    assert time.monotonic() - began < LIMIT / 2
    assert len(library.calls()) == len(rounds(tmp_path)) == 1
    # The next round asks again.
    library.says(whole(3, 1, 2))
    assert scheduler.run(now=NOW + 5) == ([3, 1, 2], [])
    # It is remembered until another fails.
    assert scheduler.run() == ([3, 1, 2], [])
    assert len(library.calls()) == 2


def test_another_scheduler_does_not_share_a_round(scheduler: Scheduler, library: Library) -> None:
    no_answer(library)
    assert len(scheduler.run()[1]) == 1
    assert len(scheduler.run()[1]) == 0
    # A shell that stays: its child has another parent.
    other = ["sh", "-c", '"$@"; exit $?', "sh"]
    assert len(scheduler.run(*other)[1]) == 1
    assert len(library.calls()) == 2


def test_another_process_of_the_same_number_does_not_share_it(
    scheduler: Scheduler, library: Library, tmp_path: Path
) -> None:
    no_answer(library)
    assert len(scheduler.run()[1]) == 1
    mark = tmp_path / "failed"
    number, began, now = mark.read_text(encoding="utf-8").split()
    assert number == str(os.getpid())
    mark.write_text(f"{number} {int(began) - 1} {now}", encoding="utf-8")
    assert len(scheduler.run()[1]) == 1


@pytest.mark.parametrize("mark", ["", "x", "\udcff", "1 2"])
def test_a_mark_that_is_broken_is_none(library: Library, tmp_path: Path, mark: str) -> None:
    (tmp_path / "failed").write_bytes(mark.encode("utf-8", "surrogateescape"))
    assert order() == [3, 1, 2]


def test_one_process_asks_once_for_all_groups(library: Library, caplog: Any) -> None:
    no_answer(library)
    plt = SimpleNamespace()
    for queue in ("a", "b", "c"):
        assert order(plt=plt, queues=[queue]) == [1, 2, 3]
    assert len(library.calls()) == len(told(caplog)) == 1
    # Another round of the same process, as in a test of OAR's.
    order(plt=SimpleNamespace(), now=NOW + 5)
    assert len(library.calls()) == 2


# -- sums --------------------------------------------------------------------------------------

SUMS: list[Any] = [[2.0, 1.5e14], [{"p": 1, "é": 1}, {"p": 1.5e14}], [{"u": 2}, {}]]


def sums(start: Any = 0, stop: Any = NOW, queues: Any = ("default",)) -> list[Any]:
    """What OAR's own karma sees; None where that is what OAR's own sums are."""
    plt = SimpleNamespace(**dict.fromkeys(oar3.ASKED_BY, lambda *_: None))
    config = json.dumps({"metric": "core", "limit": LIMIT})
    oar3.count_usage(None, None, plt, [], {}, 60, [], NOW, config)
    return [getattr(plt, name)(None, queues, start, stop) for name in oar3.ASKED_BY]


def test_sums_are_those_of_the_answer(place: Path, library: Library, tmp_path: Path) -> None:
    with service(place, whole(json.dumps(SUMS))) as asked:
        assert sums() == [tuple(each) for each in SUMS]
    assert [each["ask"] for each in asked.questions] == ["sums"]
    assert [line[1] for line in rounds(tmp_path)] == ["service"]


NO_SUMS: list[Any] = [
    *([], {}, 1, None, [1, 2, 3], SUMS[:2], [*SUMS, SUMS[1]], [SUMS[1]] * 3, [SUMS[0]] * 3),
    *([[1], *SUMS[1:]], [[1, 2, 3], *SUMS[1:]], [[0, 1], *SUMS[1:]], [["1", 1], *SUMS[1:]]),
    *([SUMS[0], [{"p": 1}], SUMS[2]], [SUMS[0], [{"p": None}, {}], SUMS[2]]),
    [SUMS[0], [{"p": float("nan")}, {}], SUMS[2]],
    [[float("inf"), 1], *SUMS[1:]],
]


@pytest.mark.parametrize("found", NO_SUMS, ids=map(str, range(len(NO_SUMS))))
def test_sums_that_are_none(place: Path, library: Library, caplog: Any, found: Any) -> None:
    with service(place, whole(json.dumps(found))):
        assert sums() == [None] * 3
    (line,) = told(caplog)
    assert line == "oar_accounting: OAR's own sums count: the answer is not one of sums"


@pytest.mark.parametrize("lines", [[], ["["], ["[]", "[]"], [""]])
def test_lines_that_are_no_sums(library: Library, caplog: Any, lines: list[str]) -> None:
    library.says(whole(*lines))
    assert sums() == [None] * 3
    assert len(told(caplog)) == 1


@pytest.mark.parametrize("given_so", [{"start": None}, {"stop": "x"}, {"queues": None}])
def test_whatever_oars_karma_asks_for(library: Library, caplog: Any, given_so: Any) -> None:
    assert sums(**given_so) == [None] * 3
    assert len(told(caplog)) == 1

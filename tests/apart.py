"""A machine apart: commands run on this machine's files as root, and what they write is not kept.

A layer lies over every directory that an administrator writes to; all others can only be read. The
processes have numbers of their own. When the machine ends, in whatever way, they end and the layers
are gone. Whoever it is made for may bring a root along: the machine is what that program sees.
"""

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Where administrators install, set up and keep things.
LAYERS = (
    *("/etc", "/home", "/opt", "/root", "/run", "/usr"),
    *("/var/backups", "/var/lib", "/var/log", "/var/mail", "/var/spool"),
)
#: That of a server, for whatever is run.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: With ends of their own: files, processes, and memory that they share.
APART = ("--mount", "--pid", "--ipc")
#: Longer than a command takes, in seconds; pip may have much to fetch.
PATIENCE = 900

#: Run by Python as the first process of the machine, which ends with it, and with the tests.
HOLDER = """
import json, os, stat, subprocess, sys

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

def make_like(path, other):
    os.mkdir(path)
    found = os.stat(other)
    os.chmod(path, found.st_mode)
    os.chown(path, found.st_uid, found.st_gid)

def hide(upper, layer, name):
    *above, last = name.split("/")
    for part in above:
        layer, upper = os.path.join(layer, part), os.path.join(upper, part)
        if not os.path.isdir(layer):
            return
        if not os.path.isdir(upper):
            make_like(upper, layer)
    # To a layer, this is something that is not there, whatever lies below.
    os.mknod(os.path.join(upper, last), stat.S_IFCHR)

place, layers, hidden = json.loads(sys.argv[1])
mount("-t", "proc", "proc", "/proc")
for number, layer in enumerate(layers):
    if not os.path.isdir(layer):
        continue
    upper, work = (os.path.join(place, f"{number}.{name}") for name in ("upper", "work"))
    make_like(upper, layer)
    os.mkdir(work)
    for path in hidden:
        if path.startswith(layer + "/"):
            hide(upper, layer, path[len(layer) + 1:])
    options = f"lowerdir={layer},upperdir={upper},workdir={work}"
    mount("-t", "overlay", "overlay", "-o", options, layer)
# All else belongs to this machine and to whoever works on it: nothing writes there. What is mounted
# below, such as a layer, is as it was.
for name in sorted(set(os.listdir("/")) - {"dev", "proc", "sys"}):
    path = "/" + name
    if os.path.isdir(path) and not os.path.islink(path) and path not in layers:
        mount("--rbind", path, path)
        mount("-o", "remount,bind,ro", path)
mount("--bind", place, place)
mount("-o", "remount,bind,rw", place)
# Not where the root is a directory of another one.
subprocess.run(["mount", "-o", "remount,bind,ro", "/"], stderr=subprocess.DEVNULL)
print("ready", flush=True)
sys.stdin.read()
"""


class ApartError(Exception):
    """A command on the machine failed; the text is what it printed."""


def missing() -> str:
    """Why there can be no machine apart here; empty where there can."""
    if os.geteuid() != 0:
        return "only root can have a machine apart"
    absent = [name for name in ("nsenter", "unshare") if shutil.which(name) is None]
    if absent:
        return f"a machine apart needs {' and '.join(absent)}"
    tried = ["unshare", *APART, "--fork", "true"]
    done = subprocess.run(tried, capture_output=True, text=True)
    return done.stderr.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where commands are run."""

    place: Path  #: a directory that all users of it may enter, and only root writes to
    holder: int  #: the process whose namespaces and root they get
    variables: Mapping[str, str]  #: what every command finds in its environment
    started: list["subprocess.Popen[bytes]"]  #: what runs until the machine ends

    def command(self, *words: object) -> list[str]:
        """The words by which this machine's root runs a command there."""
        enter = ["nsenter", f"--target={self.holder}", *APART, "--root", "--wd"]
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        return [*enter, "env", "-i", *variables, *map(str, words)]

    def script(self, text: str, *, umask: int = 0o022, directory: object = "/root") -> str:
        """Run a script of the shell; what it printed. Raises :class:`ApartError` where it fails."""
        return self.run(
            "sh", "-c", f"cd {shlex.quote(str(directory))}\nset -eu\n{text}", umask=umask
        )

    def run(self, *words: object, umask: int = 0o022) -> str:
        """Run a command; what it printed. Raises :class:`ApartError` where it fails."""
        done = subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            umask=umask,
        )
        if done.returncode:
            said = f"{' '.join(map(str, words))} left with {done.returncode}:\n{done.stdout}"
            raise ApartError(said)
        return done.stdout

    def start(self, *words: object) -> None:
        """Start what runs until it has done its work, or the machine ends."""
        nothing = subprocess.DEVNULL
        self.started.append(subprocess.Popen(self.command(*words), stdin=nothing, stdout=nothing))

    def has(self, path: object) -> bool:
        """Whether there is a file, a directory or a link."""
        return not subprocess.run(self.command("test", "-e", path, "-o", "-L", path)).returncode

    def read(self, path: object) -> str:
        """What a file holds."""
        return self.run("cat", path)

    def written(self, pattern: str) -> list[str]:
        """The names of files and directories like a pattern that were written and are there."""
        layers = self.place.glob("*.upper")
        found = (each for layer in layers for each in layer.rglob(pattern))
        return sorted(each.name for each in found if not each.is_char_device())


@contextmanager
def machine(
    python: str, *, layers: Sequence[str] = (), hidden: Sequence[str] = (), **variables: str
) -> Iterator[Machine]:
    """A machine for one `with` block, as *python* sees it, with *layers* over more directories.

    It does not see what is *hidden*, even if that comes to be meanwhile. The programs there get the
    *variables*, and those by which pip reaches its index.
    """
    place = Path(tempfile.mkdtemp(prefix="apart-"))
    place.chmod(0o755)
    scratch = place / "tmp"
    scratch.mkdir()
    scratch.chmod(0o1777)
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    always = {"PATH": PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    always["TMPDIR"] = str(scratch)
    apart = ("unshare", *APART, "--fork", "--kill-child", "--propagation=private")
    started: list[subprocess.Popen[bytes]] = []
    told = json.dumps([str(place), [*LAYERS, *layers], hidden])
    try:
        with subprocess.Popen(
            [*apart, python, "-c", HOLDER, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            if parent.stdout.readline() != "ready\n":
                raise ApartError("no machine apart can be made here")
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
            number = int(children.read_text(encoding="ascii"))
            found = Machine(
                place=place, holder=number, variables=always | pip | variables, started=started
            )
            yield found
    finally:
        for process in started:
            process.wait()
        shutil.rmtree(place)

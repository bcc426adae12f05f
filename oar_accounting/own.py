"""The command ``oar-accounting-own``: an ordinary user asks about their own jobs.

``oar.conf`` is readable by OAR alone. So the command runs as OAR by a rule of sudo, which tells it
who asks; the caller chooses neither settings nor database, and sees nobody else's figures.
"""

import os
import pwd
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from oar_accounting import settings
from oar_accounting.errors import UnknownName
from oar_accounting.exits import fail, told

SUDO = "/usr/bin/sudo"
#: Who may read OAR's settings, and is become here.
OAR = "oar"


def main() -> None:
    """Become OAR where the caller is somebody else, and answer."""
    if pwd.getpwuid(os.geteuid()).pw_name != OAR:
        become_oar()
    own()


def become_oar() -> NoReturn:
    """Run this program again, as OAR, where the administrator's rule lets everybody."""
    program = str(Path(sys.argv[0]).resolve())
    try:
        os.execv(SUDO, [SUDO, "-n", "-u", OAR, "--", program, *sys.argv[1:]])
    except OSError as error:
        fail(f"{SUDO} cannot be run: {error.strerror}; it is what lets users ask", 3)


def caller() -> str:
    """The user who asks, as sudo tells it; nobody else can have set this for OAR."""
    number = os.environ.get("SUDO_UID", "")
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError, OverflowError):
        fail("who asks is not known: this is run by sudo, for an ordinary user", 2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def own() -> None:
    """What OAR's accounting says of you and your projects.

    \b
    When is it my turn, and why:   oar-accounting-own karma
                                   oar-accounting-own karma --explain 4711
    What have I used:              oar-accounting-own fairshare
    """


@own.command("karma")
@click.option("--explain", "job", type=int, metavar="JOB", help="Why this job stands there.")
@click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
def karma(job: int | None, as_json: bool) -> None:
    """Your jobs that wait, each with its place in its queue; lowest karma is first."""
    from oar_accounting.commands.karma import tell_explanation, tell_jobs

    with told(debug=False):
        if job is None:
            report = answered("karma")
            tell_jobs(report, list(report), as_json=as_json)
            return
        explained = answered("explain", job)
        if explained is None:
            raise UnknownName(f"job {job} is not one of your waiting jobs")
        tell_explanation(explained, as_json=as_json)


@own.command("fairshare")
@click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
def fairshare(as_json: bool) -> None:
    """What you and your projects have used of what is meant for you."""
    from oar_accounting.commands.karma import tell_fairshare

    with told(debug=False):
        tell_fairshare(answered("fairshare"), as_json=as_json)


def answered(verb: str, *arguments: Any) -> Any:
    """What the caller may see of an answer."""
    from oar_accounting.accounting import Accounting

    # Where settings are is not asked of the environment, which is the caller's.
    with Accounting(settings.load(environ={})) as accounting:
        return getattr(accounting.seen_by(caller()), verb)(*arguments)

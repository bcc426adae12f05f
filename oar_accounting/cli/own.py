"""The command ``oar-accounting-own``: an ordinary user asks about their own jobs.

``oar.conf`` is readable by OAR alone. So the command runs as OAR by a rule of sudo, which tells it
who asks; the caller chooses neither settings nor database, and sees nobody else's figures.
"""

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from oar_accounting.cli.commands.report_options import (
    as_of_option,
    asked,
    bucket_of,
    bucket_option,
    by_option,
    form_options,
    jobs_argument,
    metric_option,
    period_options,
    query_of,
)
from oar_accounting.cli.terminal.exits import fail, told
from oar_accounting.errors import UnknownName
from oar_accounting.settings.load import load_settings

if TYPE_CHECKING:
    from oar_accounting.accounting import Accounting
    from oar_accounting.reports.own import OwnReports

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
    How do I stand:                oar-accounting-own fairshare
    What have I used:              oar-accounting-own usage --period "last month"
    Of what I asked for:           oar-accounting-own efficiency --period 2026-03
    Which jobs were that:          oar-accounting-own jobs --period yesterday
    All about one of them:         oar-accounting-own jobs 4711
    What my project used:          oar-accounting-own project NAME
    """


@own.command("karma")
@click.option("--explain", "job", type=int, metavar="JOB", help="Why this job stands there.")
@click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
def karma(job: int | None, as_json: bool) -> None:
    """Your jobs that wait, each with its place in its queue; lowest karma is first."""
    from oar_accounting.cli.commands.karma import tell_explanation, tell_jobs

    with told(debug=False):
        if job is None:
            tell_jobs(answered("karma"), as_json=as_json)
            return
        explained = answered("explain", job)
        if explained is None:
            raise UnknownName(f"job {job} is not one of your waiting jobs")
        tell_explanation(explained, as_json=as_json)


@own.command("fairshare")
@click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
def fairshare(as_json: bool) -> None:
    """What you and your projects have used of what is meant for you."""
    from oar_accounting.cli.commands.karma import tell_fairshare

    with told(debug=False):
        tell_fairshare(answered("fairshare"), as_json=as_json)


@own.command("usage")
@by_option("project")
@metric_option
@bucket_option(None)
@period_options
@as_of_option
@form_options
def usage(form: str | None, bucket: str | None, **given: Any) -> None:
    """What you asked for and used."""
    from oar_accounting.cli.commands.usage import tell_usage

    with told(debug=False), opened() as (accounting, mine):
        given["bucket"] = bucket_of(bucket)
        query = query_of(accounting, given)
        coverage = mine.coverage(query)
        tell_usage(mine.usage(query), coverage, form)


@own.command("jobs")
@jobs_argument
@metric_option
@period_options
@as_of_option
@click.option(
    "--after", type=click.IntRange(-(2**62), 2**62), metavar="JOB", help="Begin after this number."
)
@click.option("--first", "-n", type=click.IntRange(1), metavar="N", help="How many jobs.")
@form_options
def jobs(
    ids: tuple[int, ...], form: str | None, after: int | None, first: int | None, **given: Any
) -> None:
    """Your jobs: what each asked for, used and left unused, and how long it waited.

    Of each JOB that is named, by its number, all that is recorded.
    """
    from oar_accounting.cli.commands.jobs import (
        check_chosen_once,
        jobs_coverage,
        tell_listed,
        tell_named,
    )

    with told(debug=False), opened() as (accounting, mine):
        check_chosen_once(ids)
        asked_for = without_where(accounting, given)
        if ids:
            asked_for["where"] = {"job": ids}
        coverage = jobs_coverage(mine, asked_for)
        if ids:
            tell_named(mine, asked_for, coverage, form, ids)
            return
        tell_listed(partial(mine.jobs, **asked_for), coverage, form, after, first)


@own.command("efficiency")
@by_option("project")
@metric_option
@period_options
@form_options
def efficiency(form: str | None, **given: Any) -> None:
    """What your jobs that ended asked for, used and left unused."""
    from oar_accounting.cli.commands.summaries import tell_efficiency

    with told(debug=False), opened() as (accounting, mine):
        query = query_of(accounting, given)
        coverage = mine.coverage(query, of_jobs=True)
        tell_efficiency(query.by, mine.efficiency(query), coverage, form)


@own.command("waiting")
@by_option("queue")
@period_options
@form_options
def waiting(form: str | None, **given: Any) -> None:
    """How long your jobs waited from their submission to their start."""
    from oar_accounting.cli.commands.summaries import tell_waiting

    with told(debug=False), opened() as (accounting, mine):
        query = query_of(accounting, given)
        coverage = mine.coverage(query, of_jobs=True)
        tell_waiting(query.by, mine.waiting(query), coverage, form)


@own.command("project")
@click.argument("name")
@click.option("--metric", default="resource", show_default=True, metavar="NAME")
@period_options
@as_of_option
@form_options
def project(form: str | None, name: str, **given: Any) -> None:
    """A project of yours, month by month beside last year, and your part in it."""
    from oar_accounting.cli.commands.project import project_coverage, tell_project, this_year

    with told(debug=False), opened() as (accounting, mine):
        asked_for = this_year(accounting, given)
        coverage = project_coverage(accounting, name, asked_for)
        tell_project(mine.project(name, **asked_for), coverage, form)


def without_where(accounting: "Accounting", given: dict[str, Any]) -> dict[str, Any]:
    """What was *given*, as `OwnReports` takes it: whose it is is not asked."""
    told_of = asked(accounting, given)
    told_of.pop("where")
    return told_of


@contextmanager
def opened() -> "Iterator[tuple[Accounting, OwnReports]]":
    """The accounting, and what of it the caller may see."""
    from oar_accounting.accounting import Accounting

    # Where settings are is not asked of the environment, which is the caller's.
    with Accounting(load_settings(environ={})) as accounting:
        yield accounting, accounting.reports_for(caller())


def answered(verb: str, *arguments: Any) -> Any:
    """What the caller may see of an answer."""
    from oar_accounting.accounting import Accounting

    # Where settings are is not asked of the environment, which is the caller's.
    with Accounting(load_settings(environ={})) as accounting:
        return getattr(accounting.seen_by(caller()), verb)(*arguments)

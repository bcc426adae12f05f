"""The commands around what OAR calls: the stubs, and the service that answers schedulers."""

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from oar_accounting.cli.terminal.exits import EXIT_CODES, Terminated, command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.cli.terminal.status_screen import show_findings
from oar_accounting.database import dialects
from oar_accounting.errors import AccountingError, StubError
from oar_accounting.health.records import Finding
from oar_accounting.health.stub_findings import service_findings, stub_findings, values_of
from oar_accounting.schedulers.library import digest_before_imports
from oar_accounting.settings.scheduler import read_scheduler
from oar_accounting.stubs.files import Installed, install, make_state, read_list, remove
from oar_accounting.stubs.plan import DIRECTORY, STATE_DIRECTORY, find_oar3, find_schedulers, plan
from oar_accounting.stubs.use import uses_of


@command("karma-service")
@click.option("--socket", metavar="FILE", help="Listen there. Default: socket of [scheduler].")
@click.pass_obj
def karma_service(options: Options, socket: str | None) -> None:
    """Answer OAR's schedulers through a Unix socket, without starting up for each round.

    For a unit of systemd or whatever else starts it again: it ends when this library is upgraded.
    Only the user it runs as can ask. Settings and databases are read for every answer.

    \b
    Example: oar-accounting karma-service --socket /run/oar-accounting/karma.sock
    """
    library = digest_before_imports()
    from oar_accounting.schedulers import service

    path = Path(socket or read_scheduler(options.settings()).socket)
    click.echo(f"answering at {path}", err=True)
    try:
        service.serve(path, library)
        click.echo("the library has changed: to be started again", err=True)
    except Terminated:
        click.echo("told to end", err=True)


@click.group("stubs", epilog=EXIT_CODES)
def stubs() -> None:
    """The files that OAR calls, written where pip does not replace them.

    The epilogue, the scheduler of OAR 2 and the entry points of OAR 3: whatever becomes of this
    library, they are there, end well, and do what OAR would have done. Run "install" again after
    an upgrade, after moving the library, and when [scheduler] of the settings has changed.

    \b
    Example: oar-accounting stubs install
    """


_directory = click.option(
    "--directory",
    default=str(DIRECTORY),
    metavar="DIR",
    show_default=True,
    help="Where they lie.",
)
_schedulers = click.option(
    "--schedulers", metavar="DIR", help="OAR 2's schedulers. Default: looked for below /usr."
)
_oar3 = click.option(
    "--oar3-python", metavar="FILE", help="The Python of OAR 3. Default: the one that runs kao."
)
_python = click.option(
    "--python", metavar="FILE", help="The Python of the library. Default: the one that runs this."
)
_state = click.option(
    "--state",
    metavar="DIR",
    help=f"Where they remember the last answers. Default: {STATE_DIRECTORY}.",
)


@stubs.command("install", epilog=EXIT_CODES)
@_directory
@_schedulers
@_oar3
@_python
@_state
@click.pass_obj
def stubs_install(options: Options, /, directory: str, **named: str | None) -> None:
    """Write what OAR calls, or bring it up to date; each file at once.

    What is not named is as it was the last time. It changes no setting of OAR, and says what is
    still to be changed there.

    \b
    Example: oar-accounting stubs install
    """
    place = Path(directory).absolute()
    paths = {key: None if path is None else Path(path).absolute() for key, path in named.items()}
    with suppress(StubError):
        if (before := read_list(place)) is not None:
            for key in ("schedulers", "oar3_python", "state"):
                paths[key] = paths[key] or _there(getattr(before, key))
    state = paths["state"] or STATE_DIRECTORY
    planned = plan(
        python=paths["python"] or Path(sys.executable),
        scheduler=read_scheduler(options.settings()),
        directory=place,
        state=state,
        schedulers=paths["schedulers"] or find_schedulers(),
        oar3_python=paths["oar3_python"] or find_oar3(),
    )
    written = [*install(planned), *make_state(state)]
    for path in written:
        click.echo(f"wrote {path}")
    if not written:
        click.echo("all stubs are as they should be")
    found = _examined(options, place)
    show_findings([each for each in found if each.level != "good"])


def _there(path: Path | None) -> Path | None:
    return path if path is not None and path.exists() else None


@stubs.command("check", epilog=EXIT_CODES)
@_directory
@click.pass_obj
def stubs_check(options: Options, directory: str) -> None:
    """Say whether they are there, and as this library would write them.

    \b
    Example: oar-accounting stubs check
    """
    found = _examined(options, Path(directory).absolute())
    show_findings(found)
    if any(each.level != "good" for each in found):
        raise SystemExit(1)


@stubs.command("remove", epilog=EXIT_CODES)
@_directory
@click.option(
    "--force",
    is_flag=True,
    help="Also where OAR's database cannot be asked whether a queue still needs them.",
)
@click.pass_obj
def stubs_remove(options: Options, directory: str, force: bool) -> None:
    """Remove them, once nothing of OAR names them any more.

    As long as a setting of OAR or a queue does, nothing is removed, and what to change first is
    said: OAR stops its queues when what it calls is missing.

    \b
    Example: oar-accounting stubs remove
    """
    installed = read_list(Path(directory).absolute())
    if installed is None:
        click.echo("no stubs are installed")
        return
    oar_conf = options.oar_conf_file()
    policies, run_sql = _policies(options, installed, force)
    uses = uses_of(installed, values_of(oar_conf), str(oar_conf), policies, run_sql)
    if uses:
        lines = [f"{use.what}; first: {use.first}" for use in uses]
        raise StubError("nothing was removed: " + "\n".join(lines))
    for path in remove(installed):
        click.echo(f"removed {path}")


def _examined(options: Options, directory: Path) -> list[Finding]:
    scheduler = read_scheduler(options.settings())
    found = stub_findings(scheduler, options.oar_conf_file(), directory)
    return [*found, *service_findings(Path(scheduler.socket))]


def _policies(
    options: Options, installed: Installed, force: bool
) -> tuple[dict[str, str], Callable[[str], str]]:
    """The scheduler of each queue, none where no stub is one; and how SQL is run there."""
    if not installed.links_to_ours():
        return {}, str
    try:
        with options.accounting() as accounting:
            run_sql = partial(dialects.run_sql, accounting.oar_engine.url)
            return accounting.queue_policies(), run_sql
    except AccountingError as error:
        if force:
            return {}, str
        raise StubError(
            "nothing was removed: whether a queue still needs the stubs cannot be told "
            f"({error}); if you know that none does, add --force"
        ) from None

"""How the command leaves: what went wrong in one line, and an exit code that says of what kind."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn

import click

from oar_accounting import errors

EXIT_CODES = """\b
Exit codes:
  0  done (also where another catch-up is at work)
  1  verify found differences, record could not record every job, doctor found something
     that needs attention, settings check something that is wrong, or problems stand
  2  the command line, a setting or a name is wrong
  3  a database cannot be used, our tables are not there, or OAR's jobs are not those recorded
  130, 143  interrupted or told to end; the next run goes on
"""

WRONG_INPUT = (
    errors.SettingsError,
    errors.UnknownName,
    errors.BadSpan,
    errors.BadFile,
    errors.BadAdjustment,
    errors.Adjusted,
    errors.Purged,
    errors.DifferentUnits,
)


@contextmanager
def told(debug: bool) -> Iterator[None]:
    """Errors that a user can mend as one line on standard error; the traceback with --debug."""
    try:
        yield
    except errors.AccountingError as error:
        if debug:
            raise
        fail(str(error), 2 if isinstance(error, WRONG_INPUT) else 3)
    except OSError as error:
        if debug or isinstance(error, BrokenPipeError):
            raise
        fail(f"cannot write: {error.strerror}", 3)
    except KeyboardInterrupt:
        fail("interrupted; what was recorded stays, and the next run goes on from there", 130)
    except Terminated:
        fail("told to end; what was recorded stays, and the next run goes on from there", 143)


def fail(message: str, code: int) -> NoReturn:
    """Say why, and leave."""
    click.echo(f"oar-accounting: {message}", err=True)
    raise SystemExit(code)


class Terminated(BaseException):
    """SIGTERM: a time limit, or the system that goes down."""


def terminate(_: int, __: FrameType | None) -> NoReturn:
    """End as an error does: transactions are undone, and the reason is told."""
    raise Terminated


def command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command whose help ends with the exit codes."""
    return click.command(name, epilog=EXIT_CODES)


class Commands(click.Group):
    """Commands that are imported when they are run, and whose errors become one line."""

    def __init__(self, *, places: Mapping[str, str], **given: Any) -> None:
        """*places*: module and attribute of each command, within `cli.commands`."""
        super().__init__(**given)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, sorted."""
        return sorted(self._places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in self._places:
            return None
        module, _, name = self._places[cmd_name].partition(".")
        found: click.Command = getattr(import_module(f"oar_accounting.cli.commands.{module}"), name)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        signal.signal(signal.SIGTERM, terminate)
        with told(ctx.params["debug"]):
            return super().invoke(ctx)

"""Commands run in this process, with what they print and what they say of errors kept apart."""

import inspect
from typing import Any

from click.testing import CliRunner


def runner() -> CliRunner:
    """A runner that keeps the two apart, as older versions do only where they are asked to."""
    asked: dict[str, Any] = {"mix_stderr": False}
    return CliRunner(**asked) if _mixes() else CliRunner()


def _mixes() -> bool:
    return "mix_stderr" in inspect.signature(CliRunner.__init__).parameters

"""The options before the command: which OAR, which settings, and what they open."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import click

from oar_accounting import errors
from oar_accounting.core import formats
from oar_accounting.database import dialects
from oar_accounting.health.records import Status
from oar_accounting.settings import passwords
from oar_accounting.settings.load import Settings, load_settings, oar_conf_file

if TYPE_CHECKING:
    from oar_accounting.accounting import Accounting
    from oar_accounting.health.settings_check import SettingsReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options before the command."""

    oar_conf: str | None
    config: str | None
    url: str | None
    site: str | None
    debug: bool

    @contextmanager
    def accounting(
        self, limit: float | None = None, *, as_scheduler: bool = False
    ) -> "Iterator[Accounting]":
        """The accounting they name, used as `Accounting.open` has it."""
        # It brings most modules along, and not every command needs it.
        from oar_accounting.accounting import Accounting

        opened = Accounting.open(
            oar_conf=self.oar_conf,
            config=self.config,
            url=self.url,
            site=self.site,
            limit=limit,
            as_scheduler=as_scheduler,
        )
        with opened as accounting:
            self._warn(accounting.settings)
            yield accounting

    def settings(self) -> Settings:
        """The settings alone, where nothing of ours is needed."""
        given = load_settings(
            oar_conf=self.oar_conf, config=self.config, url=self.url, site=self.site
        )
        self._warn(given)
        return given

    def oar_conf_file(self) -> Path:
        """OAR's own settings, whether they are there or not."""
        return oar_conf_file(self.oar_conf)

    def _warn(self, given: Settings) -> None:
        seen = passwords.seen_in_processes(self.url)
        for warning in filter(None, (seen, *given.warnings)):
            click.echo(f"note: {formats.printable(warning)}", err=True)

    def examined(self, *, verify: bool) -> Status:
        """What the doctor says of it, its commands with the options that were given here."""
        from oar_accounting.accounting import Accounting

        status = Accounting.examine(
            oar_conf=self.oar_conf, config=self.config, url=self.url, site=self.site, verify=verify
        )
        findings = tuple(
            replace(each, mend=self.repeated_in(each.mend)) for each in status.findings
        )
        return replace(status, findings=findings)

    def checked_settings(self, file: str | None) -> "SettingsReport":
        """What the settings say, of a *file* where one is given; raises what is wrong with them."""
        from oar_accounting.accounting import Accounting

        return Accounting.check_settings(
            oar_conf=self.oar_conf, config=file or self.config, url=self.url, site=self.site
        )

    def repeated_in(self, line: str) -> str:
        """A command of ours with the options that were given here, but for a password."""
        ours = "oar-accounting "
        if not line.startswith(ours):
            return line
        url = None
        with suppress(errors.SettingsError):
            url = None if self.url is None else dialects.shown(dialects.parse_url(self.url))
        given = {
            "--oar-conf": self.oar_conf,
            "--config": self.config,
            "--url": url,
            "--site": self.site,
        }
        options = (
            f"{key} {quote(word)} "
            for key, word in given.items()
            if word is not None and key not in line
        )
        return ours + "".join(options) + line.removeprefix(ours)

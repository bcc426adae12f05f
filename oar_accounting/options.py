"""The options before the command: which OAR, which settings, and what they open."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from shlex import quote

import click

from oar_accounting import dialects, errors, formats, passwords
from oar_accounting.accounting import Accounting
from oar_accounting.records import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options before the command."""

    oar_conf: str | None
    config: str | None
    url: str | None
    site: str | None
    debug: bool

    @contextmanager
    def accounting(self) -> Iterator[Accounting]:
        """The accounting they name."""
        opened = Accounting.open(
            oar_conf=self.oar_conf, config=self.config, url=self.url, site=self.site
        )
        with opened as accounting:
            seen = passwords.seen_in_processes(self.url)
            for warning in filter(None, (seen, *accounting.settings.warnings)):
                click.echo(f"note: {formats.printable(warning)}", err=True)
            yield accounting

    def examined(self, *, verify: bool) -> Status:
        """What the doctor says of it, its commands with the options that were given here."""
        status = Accounting.examine(
            oar_conf=self.oar_conf, config=self.config, url=self.url, site=self.site, verify=verify
        )
        findings = tuple(
            replace(each, mend=self.repeated_in(each.mend)) for each in status.findings
        )
        return replace(status, findings=findings)

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

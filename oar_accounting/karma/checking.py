"""Whether a scheduler that asks for karma gets it, and what in the settings keeps it from that.

All of it comes out where the question is asked; these errors name the file and the key as well.
"""

from collections.abc import Iterator

import numpy as np

from oar_accounting.attributes import stored
from oar_accounting.core import formats
from oar_accounting.errors import AccountingError, SettingsError, UnknownName
from oar_accounting.karma.fair_share import FairShare
from oar_accounting.karma.inputs import Sources
from oar_accounting.karma.policies.policy import PROJECTS, Dominant, Linear, Policy, Shared
from oar_accounting.karma.report import KarmaReport
from oar_accounting.usage.keys import find_key, names_of


def checked(asked: FairShare, file: str) -> KarmaReport:
    """The karma of the jobs that wait, as a scheduler would have it, from the settings *file*.

    Raises :class:`SettingsError` where they name what is not recorded, and all that asking for
    karma raises.
    """
    keys, metrics = list(_keys(asked.rules.policy)), list(_metrics(asked.rules.policy))
    if keys or metrics:
        with asked.sources([], "none") as sources:
            for where, name in keys:
                _check_key(f"{file}: [karma]{where}", name, sources)
            for where, name in metrics:
                _check_metric(f"{file}: [karma]{where}", name, sources)
    report = asked.karma()
    strange = report.job_id[np.isnan(report.karma)]
    if len(strange):
        raise AccountingError(f"{file}: [karma]: that of job {strange[0]} is not a number")
    return report


def waiting(report: KarmaReport) -> str:
    """How many jobs wait, and that each was given a karma, in words."""
    count = len(report.job_id)
    if count < 2:
        return "1 job waits, and has its karma" if count else "no job waits"
    return f"{count:,} jobs wait, and each has its karma"


def _keys(policy: Policy) -> Iterator[tuple[str, str]]:
    """The keys by which accounts are told apart, and where in the table each stands."""
    match policy:
        case Linear(terms=terms):
            for number, term in enumerate(terms, 1):
                yield f" term {number}: by", term.by
        case Shared(levels=levels):
            yield from ((": levels:", level) for level in levels if level != PROJECTS)
        case Dominant(by=by):
            yield ": by", by


def _metrics(policy: Policy) -> Iterator[tuple[str, str]]:
    """The metrics likewise."""
    match policy:
        case Linear(terms=terms):
            for number, term in enumerate(terms, 1):
                yield f" term {number}: metric", term.metric
        case Shared(metrics=metrics) | Dominant(metrics=metrics):
            yield from ((": metrics:", metric) for metric in metrics)


def _check_key(where: str, name: str, sources: Sources) -> None:
    try:
        find_key(sources.connection, sources.site, name)
    except UnknownName:
        own = names_of(sources.site)
        attributes = stored.known(sources.connection, sources.site.site_id)
        raise SettingsError(
            f"{where} {name!r} is none of {', '.join(own)}, and no attribute that was imported"
            f"{formats.meant(name, (*own, *attributes))}"
        ) from None


def _check_metric(where: str, name: str, sources: Sources) -> None:
    if name not in sources.stored:
        raise SettingsError(
            f"{where} {name!r} is declared, and not recorded yet: "
            f"oar-accounting rebuild --metric {name}"
        )

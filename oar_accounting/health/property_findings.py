"""What the doctor says of the properties of OAR's resources: what of their past is assumed."""

from collections.abc import Iterator, Sequence

from oar_accounting.health.records import Finding
from oar_accounting.health.rights import unread_finding
from oar_accounting.metrics.metric import Metric
from oar_accounting.oar.properties import Assumed, assumed, properties_of
from oar_accounting.oar.snapshot import OarJobs

SUBJECT = "properties"


def findings(
    oar: OarJobs, metrics: Sequence[Metric], dimension: str, mend: str
) -> Iterator[Finding]:
    """What is to be said of the properties that the metrics and the *dimension* need.

    *mend*: the command that gives roles their rights.
    """
    if unread := oar.properties_unread():
        said = "they are taken to be always as today"
        yield unread_finding(SUBJECT, said, "resource_logs", unread, oar.engine.url.username, mend)
        return
    held = [part for metric in metrics for part in (metric, *metric.parts)]
    # A property that OAR has not got is told of with the settings.
    names = [name for name in properties_of(held, dimension) if name in oar.properties()]
    with oar.snapshot() as snapshot:
        found = assumed(snapshot, names)
    if said := _unlogged(found):
        yield Finding("good", SUBJECT, said)
    for each in found:
        if each.differing:
            yield Finding("warning", SUBJECT, _differing(each))


def _unlogged(found: Sequence[Assumed]) -> str:
    """Of how many resources OAR has logged nothing: they count as today; empty where of none."""
    parts = [f"{each.property} ({each.unlogged})" for each in found if each.unlogged]
    return f"no change is logged of {', '.join(parts)}" if parts else ""


def _differing(each: Assumed) -> str:
    resources = f"{each.differing} resource{'s' * (each.differing != 1)}"
    return (
        f"{each.property} of {resources} is not what OAR's log says, which counts: it was changed "
        "without oarnodesetting. Setting it with oarnodesetting -p, first to another value and "
        "then to the right one, logs it"
    )

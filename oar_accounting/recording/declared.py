"""What the settings declare against what is recorded: the recorded stays until a rebuild."""

from collections.abc import Iterable, Iterator, Sequence

from oar_accounting.core import formats
from oar_accounting.errors import SettingsError
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site, StoredMetric
from oar_accounting.metrics.metric import Metric
from oar_accounting.oar.job_rules import Terms
from oar_accounting.oar.properties import properties_of
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.settings.load import Settings


def declared_terms(given: Settings, oar: OarJobs, recorded: Terms | None = None) -> Terms:
    """The terms as the settings have them now.

    Raises :class:`SettingsError` where the dimension, or what is believed from some time on, is
    not a property of OAR's resources, nor was one when it was *recorded*.
    """
    properties = oar.properties()
    if recorded is not None:
        properties |= {recorded.dimension} - {""} | dict(recorded.property_since).keys()
    dimension = given.dimension
    if dimension is None:
        dimension = "cluster" if "cluster" in properties else ""
    if dimension and dimension not in properties:
        raise SettingsError(
            f"{given.file}: dimension {dimension!r} is not a property of OAR's resources; "
            f"known are {', '.join(sorted(properties))}"
        )
    for name, _ in given.property_since:
        if name not in properties:
            raise SettingsError(
                f"{given.file}: property_since names {name!r}, which is not a property of OAR's "
                f"resources; known are {', '.join(sorted(properties))}"
            )
    return Terms(
        window=given.window,
        dimension=dimension,
        profile=given.profile,
        containers=given.containers,
        grace=given.grace,
        names=given.names,
        property_since=given.property_since,
    )


def check_properties(given: Settings, oar: OarJobs, metrics: Iterable[Metric]) -> None:
    """Raise :class:`SettingsError` where a metric needs a property that OAR does not have."""
    properties = oar.properties()
    for metric in (part for each in metrics for part in (each, *each.parts)):
        for key, name in (
            ("sum" if metric.form == "sum" else "distinct", metric.of),
            ("per", metric.per),
        ):
            if name and name not in properties:
                raise SettingsError(
                    f"{given.file}: [metrics.{metric.name}]: {key} = {name!r} is not a property "
                    f"of OAR's resources; known are {', '.join(sorted(properties))}"
                )


def dropped_properties(oar: OarJobs, terms: Terms, stored: Sequence[StoredMetric]) -> Iterator[str]:
    """What is recorded by properties that OAR no longer has, a line for each property."""
    active = [each.metric for each in stored if each.state == schema.ACTIVE]
    for name in properties_of(active, terms.dimension):
        if name in oar.properties():
            continue
        users = [f"metric {each.name}" for each in active if name in each.properties]
        users += ["the dimension"] * (name == terms.dimension)
        yield (
            f"OAR's resources no longer have the property {name!r}, which {' and '.join(users)} "
            "needs: where OAR's log does not tell its value, it counts as not set. After adding it "
            f"again (oarproperty -a {name}) and setting its values: oar-accounting rebuild "
            "--from-oar"
        )


def notices(
    site: Site, terms: Terms, declared: Sequence[Metric], stored: Sequence[StoredMetric]
) -> list[str]:
    """Where the settings are not what is recorded, a line each, with the command to change it."""
    lines = []
    if site.unfinished:
        lines.append(f"a rebuild was begun and has not ended: {site.unfinished}")
    if terms.window != site.terms.window:
        lines.append(
            f"window is {terms.window} s in the settings, {site.terms.window} s as recorded: "
            "oar-accounting rebuild"
        )
    for key in ("dimension", "profile", "containers", "names"):
        new, old = getattr(terms, key), getattr(site.terms, key)
        if new != old:
            lines.append(
                f"{key} is {new!r} in the settings, {old!r} as recorded: "
                "oar-accounting rebuild --from-oar"
            )
    bounded = {terms.profile, site.terms.profile} != {"classic"}
    if terms.grace != site.terms.grace and bounded:
        lines.append(
            f"grace is {_granted(terms)} in the settings, {_granted(site.terms)} as recorded: "
            "oar-accounting rebuild --from-oar"
        )
    if terms.property_since != site.terms.property_since and bounded:
        lines.append(
            f"property_since is {_believed(terms)} in the settings, {_believed(site.terms)} as "
            "recorded: oar-accounting rebuild --from-oar"
        )
    return lines + _metric_notices(declared, stored)


def _granted(terms: Terms) -> str:
    return "left out" if terms.grace is None else f"{terms.grace} s"


def _believed(terms: Terms) -> str:
    said = (f"{name} from {formats.date(since)}" for name, since in terms.property_since)
    return ", ".join(said) or "left out"


def _metric_notices(declared: Sequence[Metric], stored: Sequence[StoredMetric]) -> list[str]:
    lines = []
    active = {each.metric.name: each.metric for each in stored if each.state == schema.ACTIVE}
    building = {each.metric.name for each in stored if each.state == schema.BUILDING}
    names = {metric.name for metric in declared}
    for metric in declared:
        way = f"oar-accounting rebuild --metric {metric.name}"
        if metric.name in building:
            lines.append(
                f"metric {metric.name} is half filled; its rebuild is at work, or was interrupted: "
                f"{way}"
            )
        elif metric.name not in active:
            lines.append(f"metric {metric.name} is declared and not recorded yet: {way}")
        elif active[metric.name] != metric:
            lines.append(
                f"metric {metric.name} is declared otherwise than it is recorded, and recorded as "
                f"before: {way}"
            )
    lines += [
        f"metric {name} is half filled and no longer declared; what there is of it goes with: "
        f"oar-accounting rebuild --metric {name}"
        for name in sorted(building - names)
    ]
    lines += [
        f"metric {name} is recorded and no longer declared" for name in active if name not in names
    ]
    return lines

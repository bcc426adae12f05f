"""The command that lists what can be asked: metrics, keys, time zone, and how fresh it is."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import click

from oar_accounting.cli.terminal.display import add_row, new_table, show
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats, periods
from oar_accounting.usage.records import Catalog, CatalogMetric


@command("catalog")
@click.option("--json", "as_json", is_flag=True, help="For scripts: one object.")
@click.pass_obj
def catalog(options: Options, *, as_json: bool) -> None:
    """List what can be asked: metrics with their units, keys, and the span that is recorded.

    \b
    Example: oar-accounting catalog
    """
    with options.accounting() as accounting:
        found = accounting.catalog()
    if as_json:
        known = asdict(found) | {"attributes": dict(found.attributes)}
        click.echo(json.dumps(known, ensure_ascii=False, indent=1))
        return
    facts = new_table()
    facts.show_header = False
    for _ in range(2):
        facts.add_column(no_wrap=True)
    for name, fact in _facts(found):
        add_row(facts, name, fact)
    show(facts)
    click.echo()
    metrics = new_table("metric", "unit", "what it counts")
    for each in found.metrics:
        add_row(metrics, each.name, formats.exact_unit(each.unit, each.scale), _counts(each))
    show(metrics)


def _facts(found: Catalog) -> Iterator[tuple[str, str]]:
    zone = periods.zone(found.timezone)
    yield "site", found.site
    yield "time zone", found.timezone
    yield "windows", f"{found.window} s"
    if found.recorded_from is None:
        yield "recorded", "nothing yet"
    else:
        yield "recorded from", periods.shown(found.recorded_from, zone)
    if found.recorded_until is not None:
        ago = formats.lasting(found.now - found.recorded_until)
        yield "recorded until", f"{periods.shown(found.recorded_until, zone)}, {ago} ago"
    if found.purged_before is not None:
        yield (
            "purged",
            f"details of jobs that ended before {periods.shown(found.purged_before, zone)}",
        )
    attributes = dict(found.attributes)
    yield "keys", ", ".join(each for each in found.keys if each not in attributes)
    if attributes:
        owned = (f"{name} (of {kind}s)" for name, kind in attributes.items())
        yield "attributes", ", ".join(owned)


def _counts(metric: CatalogMetric) -> str:
    """What a metric counts, in words."""
    if metric.form == "formula":
        return metric.of
    kind = "" if metric.type == "default" else f", resources of type {metric.type}"
    if metric.type == "*":
        kind = ", resources of every type"
    if metric.form == "count":
        return f"resources{kind}"
    if metric.form == "distinct":
        return f"different values of {metric.of}{kind}"
    per = f", once for each {metric.per}" if metric.per else ""
    return f"{metric.of} added up{per}{kind}"

"""The command ``oar-accounting``: the options before the command, and which commands there are."""

import gc
import io
import sys
from typing import Any

import click

from oar_accounting.cli.terminal.exits import EXIT_CODES, Commands
from oar_accounting.cli.terminal.options import Options

# What is imported stays until the end: looking for garbage in it costs a tenth of a second.
gc.freeze()

#: Where each command is, within `cli.commands`; only the one that is run is imported.
PLACES = {
    "adjust": "adjust.adjust",
    "adjustments": "adjust.adjustments",
    "attributes": "attributes.attributes",
    "catalog": "catalog.catalog",
    "catch-up": "record.catch_up",
    "demo": "demo.demo",
    "doctor": "doctor.doctor",
    "efficiency": "summaries.efficiency",
    "fairshare": "karma.fairshare",
    "forget-user": "retention.forget_user",
    "import-accounting": "retention.import_accounting",
    "init": "record.init",
    "jobs": "jobs.jobs",
    "karma": "karma.karma",
    "karma-service": "scheduling.karma_service",
    "oaraccounting": "oaraccounting.oaraccounting",
    "problems": "problems.problems",
    "project": "project.project",
    "purge": "retention.purge",
    "rebuild": "record.rebuild",
    "record": "record.record",
    "retire": "retention.retire",
    "series": "usage.series",
    "schema": "record.print_schema",
    "settings": "settings.settings",
    "show-karma": "show_karma.show_karma",
    "sizes": "summaries.sizes",
    "stubs": "scheduling.stubs",
    "top": "summaries.top",
    "usage": "usage.usage",
    "utilisation": "utilisation.utilisation",
    "verify": "record.verify",
    "waiting": "summaries.waiting",
}


@click.group(
    cls=Commands,
    places=PLACES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.option(
    "--oar-conf",
    metavar="FILE",
    help="OAR's settings: database and window. Default: $OARCONFFILE, else /etc/oar/oar.conf.",
)
@click.option(
    "--config",
    metavar="FILE",
    help="Our settings, TOML. Default: $OAR_ACCOUNTING_CONF, else /etc/oar/accounting.toml "
    "if there is one.",
)
@click.option("--url", metavar="URL", help="OAR's database, instead of the one in oar.conf.")
@click.option("--site", metavar="NAME", help="Name of this OAR server in the accounting tables.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="oar-accounting", prog_name="oar-accounting")
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Exact accounting of OAR jobs in any number of metrics.

    \b
    Try it without an OAR:       oar-accounting demo
    On the OAR server, once:     oar-accounting init
    Every few minutes:           oar-accounting catch-up
    Who used how much of what:   oar-accounting usage --by user --period "last month"
    How full was the machine:    oar-accounting utilisation --bucket month
    Who is next, and why:        oar-accounting karma
    """
    # A terminal that cannot show a letter gets its number, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    context.obj = Options(**given)

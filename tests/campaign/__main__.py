"""``python -m tests.campaign``."""

import secrets
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import click

from tests.campaign.campaign import FULL, run
from tests.campaign.commands import warm_up
from tests.campaign.report import show, shown_progress
from tests.servers import KINDS, Kind


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--kills", default=FULL.kills, type=click.IntRange(4), show_default=True)
@click.option("--databases", default=",".join(KINDS), metavar="KIND,...", show_default=True)
@click.option("--seed", type=click.IntRange(0), help="To meet the same moments again, nearly.")
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def main(kills: int, databases: str, seed: int | None, as_json: bool) -> None:
    """Kill, race and starve the commands of oar_accounting on all databases at once.

    On each database there is an OAR whose rows keep changing. Commands are killed with kill -9:
    --kills of them on PostgreSQL and on MariaDB and a quarter as many on SQLite, a quarter or more
    of these inside an open write transaction. The server is killed and started again, connections
    are cut, time-outs hit, files cannot be written; catch-ups, rebuilds and hooks run at once, and
    a clock jumps.

    After each of these the next catch-up must end with 0, `verify` must hold, and the totals must
    be those that OAR's rows give by the plainest arithmetic. A command that cannot finish must say
    so in one line that names the cause, and end with 3.

    The servers are private ones in memory. On two processors it takes half an hour. Figures go
    to standard output, progress to standard error. Exit code: 0 all held, 1 something failed.
    """
    chosen: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in databases.split(","))
    if unknown := set(databases.split(",")) - set(chosen):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: known are {', '.join(KINDS)}")
    seed = secrets.randbelow(10**6) if seed is None else seed
    plan = replace(FULL, kills=kills)
    warm_up()
    with (
        shown_progress(chosen) as progress,
        tempfile.TemporaryDirectory(prefix="oar-campaign-") as directory,
        ThreadPoolExecutor(len(chosen)) as executor,
    ):
        places = {kind: Path(directory, kind) for kind in chosen}
        for place in places.values():
            place.mkdir()
        futures = {
            kind: executor.submit(run, kind, places[kind], seed, plan, progress[kind])
            for kind in chosen
        }
        found = {kind: future.result() for kind, future in futures.items()}
    show(found, seed, as_json=as_json)
    if any(counts.failure for counts in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python -m tests.campaign")

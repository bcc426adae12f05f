"""``python -m tests.bench queries`` and the others: see its ``--help``."""

import click

from tests.bench.engine import engine
from tests.bench.hook import hook
from tests.bench.karma import karma
from tests.bench.queries import queries
from tests.bench.scheduler import scheduler
from tests.bench.stock import stock
from tests.bench.upgrade import upgrade


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """Measure oar_accounting. Figures go to standard output, progress to standard error."""


main.add_command(engine)
main.add_command(hook)
main.add_command(karma)
main.add_command(queries)
main.add_command(scheduler)
main.add_command(stock)
main.add_command(upgrade)

if __name__ == "__main__":
    main(prog_name="python -m tests.bench")

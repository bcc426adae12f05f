"""What the scheduler of OAR 2 asks: ``python -m oar_accounting.schedulers.oar2 QUEUE NOW LIMIT``.

Prints a line ``JOB KARMA`` for every job that waits in the queue as of NOW, epoch seconds, and at
last ``end`` with their number. LIMIT: the seconds that one step on a database may take; who asks
bounds the whole. What goes wrong is one line on standard error, and an exit code other than 0.
"""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Print the answer. Raises SystemExit with the reason where there is none."""
    from oar_accounting.errors import AccountingError

    try:
        queue, now, limit = arguments
        lines = answer(queue, int(now), float(limit))
    except AccountingError as error:
        raise SystemExit(f"oar-accounting: {' '.join(str(error).split())}") from None
    except Exception as error:
        reason = " ".join(str(error).split())
        raise SystemExit(f"oar-accounting: {type(error).__name__}: {reason}") from None
    sys.stdout.write(lines)


def answer(queue: str, now: int, limit: float) -> str:
    """The lines. Raises :class:`oar_accounting.AccountingError`, ValueError for no number."""
    from oar_accounting.karma.fair_share import fair_share_of
    from oar_accounting.schedulers.answers import lines_of
    from oar_accounting.settings.load import load_settings
    from oar_accounting.settings.scheduler import with_its_login

    with fair_share_of(with_its_login(load_settings()), now, limit) as asked:
        report = asked.karma()
    return lines_of(report.take(report.queue == queue))


if __name__ == "__main__":
    main(sys.argv[1:])

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
        said = answer(queue, int(now), float(limit))
    except AccountingError as error:
        raise SystemExit(f"oar-accounting: {' '.join(str(error).split())}") from None
    except Exception as error:
        said = " ".join(str(error).split())
        raise SystemExit(f"oar-accounting: {type(error).__name__}: {said}") from None
    sys.stdout.write(said)


def answer(queue: str, now: int, limit: float) -> str:
    """The lines. Raises :class:`oar_accounting.AccountingError`, ValueError for no number."""
    from oar_accounting import settings
    from oar_accounting.accounting import Accounting

    with Accounting(settings.load(), limit=limit) as accounting:
        report = accounting.karma(now=now)
    report = report.take(report.queue == queue)
    jobs = list(zip(report.job_id.tolist(), report.karma.tolist(), strict=True))
    for job, karma in jobs:
        if karma != karma:
            raise ValueError(f"the karma of job {job} is not a number")
    return "".join(f"{job} {karma!r}\n" for job, karma in jobs) + f"end {len(jobs)}\n"


if __name__ == "__main__":
    main(sys.argv[1:])

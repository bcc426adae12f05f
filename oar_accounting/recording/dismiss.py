"""Problems that somebody has seen, and that nothing mends, go."""

from collections.abc import Iterable

from oar_accounting.core.columns import ints
from oar_accounting.ledger import problems
from oar_accounting.ledger.records import PassReport
from oar_accounting.recording.runs import Runs


def dismiss(runs: Runs, jobs: Iterable[int]) -> int:
    """Forget the problems of these jobs; how many of the jobs had any.

    Raises :class:`oar_accounting.UnknownName` where the site is not recorded.
    """
    with runs.noted("dismiss", new=False) as entry:
        with runs.ledger.writing() as book:
            count = problems.remove_of_jobs(book.connection, book.site.site_id, ints(list(jobs)))
        entry.report = PassReport(done=count)
    return count

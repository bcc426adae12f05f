"""Posting adjustments: a run of its own for each, and a trial that writes nothing."""

from collections.abc import Callable

from oar_accounting.adjustments.input import check_words
from oar_accounting.adjustments.post import Note
from oar_accounting.adjustments.records import AdjustmentReport
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.records import PassReport
from oar_accounting.recording.runs import Runs

#: Posts to a book, under a note; without one nothing is written.
Post = Callable[[Book, Note | None], AdjustmentReport]


def post_adjustment(
    runs: Runs, post: Post, *, author: str, reason: str, dry_run: bool
) -> AdjustmentReport:
    """Post what *post* makes of the book. Raises :class:`oar_accounting.BadAdjustment`."""
    check_words(author, reason)
    if dry_run:
        with runs.looking() as book:
            return post(book, None)
    with runs.noted("adjust", new=False) as entry:
        entry.secret = True
        with runs.ledger.writing() as book:
            report = post(book, Note(posted=entry.began, author=author, reason=reason))
        entry.report = PassReport(done=report.jobs)
    return report

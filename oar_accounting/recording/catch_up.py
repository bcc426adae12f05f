"""Catch-up: which jobs a pass looks at.

(i) ids above the high-water mark less `OVERLAP`, because ids are given out before they are
committed; (ii) our jobs that OAR may still change; (iii) jobs that ended lately, because OAR
corrects stop times. Older changes are found by a full pass, which compares every job.
"""

import numpy as np

from oar_accounting.core import formats
from oar_accounting.core.columns import Ints
from oar_accounting.core.lengths import DAY
from oar_accounting.core.progress import Progress
from oar_accounting.database import id_blocks as blocks
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import catalog
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.reading import OVERLAP, recorded_ids, unsettled_ids
from oar_accounting.ledger.records import PassReport
from oar_accounting.recording.identity import check_identity
from oar_accounting.recording.pages import ledger_pages, oar_pages, unrecorded
from oar_accounting.recording.passes import Pass, Shown, Tally
from oar_accounting.recording.runs import Runs
from oar_accounting.recording.spellings import merged_names
from oar_accounting.recording.standing import look_at_resources


def catch_up(runs: Runs, *, full: bool, wait: bool, progress: Progress | None) -> PassReport:
    """Record what is new or has changed in OAR; with *full* compare every job.

    Raises :class:`oar_accounting.WriterBusy` where another process is at it, unless it is to
    *wait*.
    """
    with runs.noted("catch-up", wait=wait) as entry:
        site = runs.site()
        found = runs.notices(site) + check_identity(runs.ledger, runs.oar, site)
        if full:
            # All names of OAR are read for that.
            found += merged_names(runs.oar, site)
        recheck = runs.given.recheck_days * DAY
        last_pass = entry.began if site.last_pass is None else site.last_pass
        if entry.began - last_pass > DAY:
            found.append(_long_ago(last_pass))
        work = CatchUp(Pass(runs.ledger, runs.oar, entry.began), site, progress)
        tally = work.run(min(entry.began, last_pass) - recheck, full=full)
        with runs.ledger.writing() as book:
            if book.site.high_water_mark >= site.high_water_mark:
                book.saw(work.seen)
            catalog.change_site(book.connection, book.site, last_pass=entry.began)
        found += look_at_resources(runs, entry.began)
        entry.report = runs.report(tally, found + work.notices)
    return entry.report


def _long_ago(last_pass: int) -> str:
    return (
        f"the last pass was on {formats.date(last_pass)}: was the accounting restored from a dump? "
        "What OAR has had since was recorded; what it corrected before: oar-accounting catch-up "
        "--full"
    )


class CatchUp:
    """One pass over what is new or has changed in OAR."""

    def __init__(self, work: Pass, site: Site, progress: Progress | None) -> None:
        self.seen = site.high_water_mark
        self.notices: list[str] = []
        self._ledger = work.ledger
        self._oar = work.oar
        self._site = site
        self._progress = progress
        self._work = work
        self._analyzed = 0
        work.mark = site.high_water_mark

    def run(self, ended_since: int, *, full: bool) -> Tally:
        """Look at (i), (ii) and (iii), the last from the instant *ended_since* on."""
        to_compare = self._unsettled_and_recent(ended_since)
        last = self._last_known()
        shown = Shown(self._progress, len(to_compare) + self._to_come(last, full))
        for page in oar_pages(self._oar, last):
            self.seen = max(self.seen, int(page[-1]))
            self._settle_new(page)
            shown.advance(len(page))
        if full:
            self._compare_all(shown)
        for block in id_blocks(to_compare):
            self._settle_changed(block)
            shown.advance(len(block))
        return self._work.tally

    def _last_known(self) -> int:
        """Above this id there may be new jobs; OAR, installed anew, may be far below the mark."""
        with self._oar.snapshot() as snapshot:
            highest = snapshot.highest_id()
        return max(min(self.seen, highest) - OVERLAP, 0)

    def _to_come(self, last: int, full: bool) -> int:
        """How many jobs the pages will bring; counted only where somebody is looking."""
        if self._progress is None:
            return 0
        with self._oar.snapshot() as snapshot:
            new = snapshot.count_above(last)
            return new + (snapshot.count_above(0) if full else 0)

    def _unsettled_and_recent(self, ended_since: int) -> Ints:
        with self._oar.snapshot() as snapshot:
            recent = snapshot.ids_ended_since(ended_since)
        with self._ledger.reading() as (connection, _):
            found = [unsettled_ids(connection, self._site.site_id)]
            found += [recorded_ids(connection, self._site.site_id, b) for b in id_blocks(recent)]
        return np.unique(np.concatenate(found))

    def _settle_new(self, page: Ints) -> None:
        fresh = unrecorded(self._ledger, self._site, page)
        for block in id_blocks(fresh):
            last = block[-1] == fresh[-1]
            self._work.settle(block, seen_up_to=self.seen if last else 0)
        self._analyze()

    def _settle_changed(self, block: Ints) -> None:
        with self._ledger.reading() as (connection, _):
            outdated = self._work.outdated(connection, self._site, block)
        for part in id_blocks(outdated):
            self._work.settle(part)

    def _compare_all(self, shown: Shown) -> None:
        for page in oar_pages(self._oar, 0):
            for block in id_blocks(page):
                self._settle_changed(block)
            shown.advance(len(page))
        gone = self._gone()
        if gone:
            self.notices.append(
                f"recorded jobs that are no longer in OAR: {len(gone)}, the first is {gone[0]}; "
                "what they asked for and used is kept"
            )

    def _gone(self) -> list[int]:
        """The recorded jobs that OAR no longer has."""
        gone: list[int] = []
        for page in ledger_pages(self._ledger, self._site):
            with self._oar.snapshot() as snapshot:
                there = [snapshot.rows(block).job_id for block in id_blocks(page)]
            gone += np.setdiff1d(page, np.concatenate(there)).tolist()
        return gone

    def _analyze(self) -> None:
        """After the first large block and whenever the tables have doubled since."""
        recorded = self._work.tally.done
        if recorded >= blocks.BLOCK // 2 and recorded >= 2 * self._analyzed:
            self._analyzed = recorded
            self._ledger.analyze()

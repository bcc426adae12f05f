"""Job ids in pages: of OAR, of the ledger, and those that are in one alone."""

from collections.abc import Iterator

import numpy as np

from oar_accounting.core.columns import Ints
from oar_accounting.database import id_blocks as blocks
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.reading import recorded_above, recorded_ids
from oar_accounting.oar.snapshot import OarJobs


def oar_pages(oar: OarJobs, last: int) -> Iterator[Ints]:
    """All of OAR's job ids above *last*, ascending, a page at a time."""
    while True:
        with oar.snapshot() as snapshot:
            page = snapshot.ids_above(last, blocks.BLOCK)
        if not len(page):
            return
        yield page
        last = int(page[-1])


def unrecorded(ledger: Ledger, site: Site, page: Ints) -> Ints:
    """The ids of the page that are not recorded."""
    with ledger.reading() as (connection, _):
        known = [recorded_ids(connection, site.site_id, block) for block in id_blocks(page)]
    return np.setdiff1d(page, np.concatenate(known))


def ledger_pages(ledger: Ledger, site: Site, last: int = 0) -> Iterator[Ints]:
    """All recorded job ids above *last*, ascending, a page at a time."""
    while True:
        with ledger.reading() as (connection, _):
            page = recorded_above(connection, site.site_id, last, blocks.BLOCK)
        if not len(page):
            return
        yield page
        last = int(page[-1])

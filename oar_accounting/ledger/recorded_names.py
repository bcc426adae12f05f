"""Under which names what OAR has is recorded."""

from dataclasses import replace
from itertools import chain
from typing import Self

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import JobRows, Texts
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.pseudonyms import Forgotten
from oar_accounting.oar.spellings import DOUBLE_ENCODED, decoded


class RecordedNames:
    """The names that a site records for those of its OAR: as OAR shows them, or pseudonyms."""

    def __init__(self, forgotten: Forgotten, *, decoding: bool) -> None:
        """*decoding*: they stand encoded twice in OAR's database."""
        self._forgotten = forgotten
        self._decoding = decoding

    @classmethod
    def of(cls, connection: Connection, site: Site) -> Self:
        """Those of the site."""
        forgotten = Forgotten.of(connection, site.site_id)
        return cls(forgotten, decoding=site.terms.names == DOUBLE_ENCODED)

    def name(self, name: str) -> str:
        """What is recorded for the name of a user or project of OAR."""
        found = self._forgotten.name(name)
        if found == name and (shown := decoded(name)) != name:
            # Who was forgotten in either spelling stays so.
            other = self._forgotten.name(shown)
            if self._decoding or other != shown:
                return other
        return found

    def rows(self, rows: JobRows) -> JobRows:
        """The same jobs, under the names that are recorded."""
        if not self._decoding and not self._forgotten.pseudonyms():
            return rows
        both = (rows.user.tolist(), rows.project.tolist())
        names = {name: self.name(name) for name in dict.fromkeys(chain(*both))}
        users, projects = (np.array([names[n] for n in column], dtype=object) for column in both)
        return replace(rows, user=users, project=projects, name=self._of_jobs(rows.name, users))

    def _of_jobs(self, names: Texts, users: Texts) -> Texts:
        """The names of jobs: those of forgotten *users* may name a person, and are left out."""
        forgotten = self._forgotten.pseudonyms()
        shown = decoded if self._decoding else str
        found = [
            "" if user in forgotten else shown(name)
            for name, user in zip(names.tolist(), users.tolist(), strict=True)
        ]
        return np.array(found, dtype=object)

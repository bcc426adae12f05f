"""Everything that can go wrong for a reason a user can mend.

    AccountingError
    ├── SettingsError        a file, key or value of the settings is wrong
    ├── DatabaseError        the database cannot be reached, or refused or dropped us
    ├── OarSchemaError       OAR's tables or columns are not what we read
    ├── SchemaError          our own tables are missing, of another version, or may not be made
    ├── UnknownName          a metric, grouping key or site that does not exist
    ├── BadSpan              a span of time that cannot be answered
    ├── BadFile              a file that was given to be imported is not as expected
    ├── BadAdjustment        an adjustment that cannot be posted as it was given
    ├── Adjusted             adjustments stand in the way of what is asked for
    ├── OtherOar             OAR's jobs are not those that are recorded under their ids
    ├── Purged               what is asked for was purged
    ├── AmountOverflow       an amount does not fit in 63 bits
    ├── DifferentUnits       amounts that cannot be added up: they are in two units
    └── WriterBusy           another process writes for this site and we were told not to wait

The text of an error says what was found, where, and what was expected. Trouble with a single job
is no error: it is a :class:`oar_accounting.Problem` in the report of the pass.
"""

from typing import Self


class AccountingError(Exception):
    """Base of every error of this library."""


class SettingsError(AccountingError):
    """A file, key or value of the settings is wrong."""


class DatabaseError(AccountingError):
    """The database cannot be reached, or refused or dropped the connection."""


class OarSchemaError(AccountingError):
    """A table or column of OAR that is read here is missing."""


class SchemaError(AccountingError):
    """Our own tables are missing, of another version, or may not be created."""


class UnknownName(AccountingError):
    """A metric, grouping key or site that does not exist."""


class BadSpan(AccountingError):
    """A span of time that is empty, reversed or not on the bounds of windows."""


class BadFile(AccountingError):
    """A file that was given to be imported cannot be read, or says what cannot be."""


class BadAdjustment(AccountingError):
    """An adjustment whose amounts, author or reason cannot be, or that is countered already."""


class Adjusted(AccountingError):
    """Adjustments were posted in what would no longer be the unit of their metric."""


class OtherOar(AccountingError):
    """OAR was restored or installed anew, or is another one: its ids name other jobs."""


class Purged(AccountingError):
    """Spans and rates that this needs were purged."""


class AmountOverflow(AccountingError):
    """An amount does not fit in 63 bits."""

    @classmethod
    def of_a_sum(cls) -> Self:
        """What is asked for adds up to too much."""
        return cls(
            "what is asked for adds up to more than 63 bits; ask for less, or declare the metric "
            "in a larger unit"
        )


class DifferentUnits(AccountingError):
    """Amounts of a metric that two sites declare in different units cannot be added up."""


class ServiceError(AccountingError):
    """The karma service cannot be heard."""


class StubError(AccountingError):
    """What OAR calls cannot be written or must not be removed; the text says what to do first."""


class WriterBusy(AccountingError):
    """Another process is writing for this site."""

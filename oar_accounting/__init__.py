"""Exact accounting of OAR jobs in any number of metrics.

from oar_accounting import Accounting

with Accounting.open(oar_conf="/etc/oar/oar.conf") as accounting:
    accounting.catch_up()
    for row in accounting.usage(("user",)).rows:
        ...
"""

from oar_accounting.accounting import Accounting
from oar_accounting.errors import (
    AccountingError,
    AmountOverflow,
    BadSpan,
    DatabaseError,
    OarSchemaError,
    OtherOar,
    Purged,
    SchemaError,
    SettingsError,
    UnknownName,
    WriterBusy,
)
from oar_accounting.metrics import Metric
from oar_accounting.records import (
    Difference,
    Finding,
    PassReport,
    Problem,
    Status,
    Usage,
    UsageReport,
)
from oar_accounting.settings import Settings

__all__ = [
    "Accounting",
    "AccountingError",
    "AmountOverflow",
    "BadSpan",
    "DatabaseError",
    "Difference",
    "Finding",
    "Metric",
    "OarSchemaError",
    "OtherOar",
    "PassReport",
    "Problem",
    "Purged",
    "SchemaError",
    "Settings",
    "SettingsError",
    "Status",
    "UnknownName",
    "Usage",
    "UsageReport",
    "WriterBusy",
]

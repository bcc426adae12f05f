"""Exact accounting of OAR jobs in any number of metrics.

from oar_accounting import Accounting

with Accounting.open(oar_conf="/etc/oar/oar.conf") as accounting:
    accounting.catch_up()
    for row in accounting.usage(("user",)).rows:
        ...
"""

from oar_accounting.accounting import Accounting
from oar_accounting.adjustments.jobs import JobFilter
from oar_accounting.errors import (
    AccountingError,
    Adjusted,
    AmountOverflow,
    BadAdjustment,
    BadFile,
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
    AdjustedAccount,
    AdjustedMetric,
    Adjustment,
    AdjustmentLine,
    AdjustmentReport,
    Attribute,
    AttributesReport,
    Difference,
    Finding,
    PassReport,
    Problem,
    Status,
    StockReport,
    Usage,
    UsageReport,
)
from oar_accounting.settings import Settings

__all__ = [
    "Accounting",
    "AccountingError",
    "Adjusted",
    "AdjustedAccount",
    "AdjustedMetric",
    "Adjustment",
    "AdjustmentLine",
    "AdjustmentReport",
    "AmountOverflow",
    "Attribute",
    "AttributesReport",
    "BadAdjustment",
    "BadFile",
    "BadSpan",
    "DatabaseError",
    "Difference",
    "Finding",
    "JobFilter",
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
    "StockReport",
    "UnknownName",
    "Usage",
    "UsageReport",
    "WriterBusy",
]

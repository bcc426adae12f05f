"""Exact accounting of OAR jobs in any number of metrics.

from oar_accounting import Accounting

with Accounting.open(oar_conf="/etc/oar/oar.conf") as accounting:
    accounting.catch_up()
    for row in accounting.usage(("user",)).rows:
        ...
"""

import importlib
import typing

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

if typing.TYPE_CHECKING:
    from oar_accounting.accounting import Accounting
    from oar_accounting.adjustments.jobs import JobFilter

#: What is imported when it is first asked for: it brings half of all modules along, which a command
#: that OAR's cron runs need not wait for.
_LATER = {"Accounting": "accounting", "JobFilter": "adjustments.jobs"}

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


def __getattr__(name: str) -> typing.Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    return globals()[name]

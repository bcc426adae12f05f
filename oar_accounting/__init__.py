"""Exact accounting of OAR jobs in any number of metrics.

from oar_accounting import Accounting

with Accounting.open(oar_conf="/etc/oar/oar.conf") as accounting:
    accounting.catch_up()
    for row in accounting.usage(("user",)).rows:
        ...
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from oar_accounting.accounting import Accounting
    from oar_accounting.adjustments.by_job import JobFilter
    from oar_accounting.adjustments.records import (
        AdjustedAccount,
        AdjustedMetric,
        Adjustment,
        AdjustmentLine,
        AdjustmentReport,
    )
    from oar_accounting.attributes.records import Attribute, AttributesReport
    from oar_accounting.dropin.records import StockReport
    from oar_accounting.errors import (
        AccountingError,
        Adjusted,
        AmountOverflow,
        BadAdjustment,
        BadFile,
        BadSpan,
        DatabaseError,
        DifferentUnits,
        OarSchemaError,
        OtherOar,
        Purged,
        SchemaError,
        SettingsError,
        UnknownName,
        WriterBusy,
    )
    from oar_accounting.health.records import Finding, Status
    from oar_accounting.ledger.records import (
        Difference,
        DryRun,
        PassReport,
        Problem,
        StandingProblem,
    )
    from oar_accounting.metrics.metric import Metric
    from oar_accounting.reports.records import (
        Efficiency,
        HeldMetric,
        JobHistory,
        JobPage,
        JobPart,
        JobSpan,
        ProjectMember,
        ProjectMonth,
        ProjectReport,
        Ranking,
        RecordedJob,
        SizeUse,
        UtilisationReport,
        UtilisationRow,
        Waiting,
    )
    from oar_accounting.settings.load import Settings
    from oar_accounting.usage.job_keys import Sizes
    from oar_accounting.usage.keys import Visible
    from oar_accounting.usage.records import (
        Catalog,
        CatalogMetric,
        Coverage,
        ShownMetric,
        Usage,
        UsageReport,
    )
    from oar_accounting.usage.result import UsageColumns
    from oar_accounting.usage.usage_query import UsageQuery

#: Where the names are, what is cheapest first. They are imported when they are asked for: a command
#: need not wait for what it does not use, and OAR's scheduler can import its entry points whatever
#: else is broken.
_PLACES = (
    *("errors", "metrics.metric", "settings.load"),
    *("usage.records", "reports.records", "ledger.records", "health.records"),
    *("attributes.records", "adjustments.records", "dropin.records"),
    *(
        "usage.keys",
        "usage.job_keys",
        "usage.usage_query",
        "usage.result",
        "adjustments.by_job",
        "accounting",
    ),
)

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
    "Catalog",
    "CatalogMetric",
    "Coverage",
    "DatabaseError",
    "Difference",
    "DifferentUnits",
    "DryRun",
    "Efficiency",
    "Finding",
    "HeldMetric",
    "JobFilter",
    "JobHistory",
    "JobPage",
    "JobPart",
    "JobSpan",
    "Metric",
    "OarSchemaError",
    "OtherOar",
    "PassReport",
    "Problem",
    "ProjectMember",
    "ProjectMonth",
    "ProjectReport",
    "Purged",
    "Ranking",
    "RecordedJob",
    "SchemaError",
    "Settings",
    "SettingsError",
    "ShownMetric",
    "SizeUse",
    "Sizes",
    "StandingProblem",
    "Status",
    "StockReport",
    "UnknownName",
    "Usage",
    "UsageColumns",
    "UsageQuery",
    "UsageReport",
    "UtilisationReport",
    "UtilisationRow",
    "Visible",
    "Waiting",
    "WriterBusy",
]


def __getattr__(name: str) -> typing.Any:
    if name in __all__:
        for place in _PLACES:
            module = importlib.import_module(f"{__name__}.{place}")
            if name in vars(module):
                return globals().setdefault(name, getattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

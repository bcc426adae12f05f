"""OAR's own karma: what ``oar.conf`` says of it, and the sums of OAR's own ``accounting``.

The sums are read by the queries of OAR's schedulers, queue by queue: which names are one is left
to the database there, as it is by OAR. MariaDB takes Weather and weather for one, and gives either
of them with the sum of both; a job of the other then has used nothing, in OAR as here.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    func,
    literal,
    select,
)

from oar_accounting.errors import SettingsError
from oar_accounting.karma.policies.oar import DEFAULTS, QueueSums, StockRule, bounds
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import check_columns
from oar_accounting.oar.oar_tables import accounting
from oar_accounting.settings import perl_hashes
from oar_accounting.settings.load import Settings, oar_values

SETTINGS_PREFIX = "SCHEDULER_FAIRSHARING_"
#: The longest window, as that of ACCOUNTING_WINDOW.
LONGEST = 10**10

Sums = defaultdict[str, dict[str, int]]  # USED or ASKED, and name


# -- settings ---------------------------------------------------------------------------------


def site_rule(given: Settings, window_rule: str) -> StockRule:
    """What the site's ``oar.conf`` says; OAR's defaults where there is none.

    *window_rule*: ``oar2`` or ``oar3``. Raises :class:`SettingsError`.
    """
    return stock_rule(oar_values(given), given.oar_conf, window_rule)


def stock_rule(values: Mapping[str, str], file: str, window_rule: str = "oar2") -> StockRule:
    """What the *values* of an ``oar.conf`` say, which stood in *file*.

    Raises :class:`SettingsError` with file, key and what was expected.
    """
    given = _Given(values, file)
    default = DEFAULTS[window_rule]
    return StockRule(
        window_rule=window_rule,
        window=given.seconds("WINDOW_SIZE", default.window),
        project_targets=given.targets("PROJECT_TARGETS", default.project_targets),
        user_targets=given.targets("USER_TARGETS", default.user_targets),
        project=given.number("COEF_PROJECT", default.project),
        user=given.number("COEF_USER", default.user),
        user_ask=given.number("COEF_USER_ASK", default.user_ask),
    )


class _Given:
    """The checked values of the SCHEDULER_FAIRSHARING keys."""

    def __init__(self, values: Mapping[str, str], file: str) -> None:
        self._values = values
        self._file = file

    def targets(self, key: str, default: Mapping[str, float]) -> Mapping[str, float]:
        said = self._said(key)
        if said is None:
            return default
        try:
            return perl_hashes.parse(said)
        except perl_hashes.PerlError as error:
            raise self._wrong(
                key, "names with percentages, like { first => 75, default => 25 }", f"; {error}"
            ) from None

    def number(self, key: str, default: float, expected: str = "a number") -> float:
        said = self._said(key)
        if said is None:
            return default
        try:
            return perl_hashes.number(said)
        except perl_hashes.PerlError:
            raise self._wrong(key, expected) from None

    def seconds(self, key: str, default: int) -> int:
        expected = f"a whole number of seconds from 1 to {LONGEST}"
        value = self.number(key, default, expected)
        if not 1 <= value <= LONGEST or value != int(value):
            raise self._wrong(key, expected)
        return int(value)

    def _said(self, key: str) -> str | None:
        said = self._values.get(SETTINGS_PREFIX + key)
        if said is not None and not said.isascii() and not _is_utf8(said):
            raise SettingsError(f"{self._file}: {SETTINGS_PREFIX}{key} is not UTF-8 text")
        return said

    def _wrong(self, key: str, expected: str, where: str = "") -> SettingsError:
        said = self._values[SETTINGS_PREFIX + key]
        return SettingsError(
            f"{self._file}: {SETTINGS_PREFIX}{key} must be {expected}, not {said!r}{where}"
        )


def _is_utf8(said: str) -> bool:
    """False where bytes of the file could not be read."""
    return not any("\udc80" <= letter <= "\udcff" for letter in said)


# -- sums -------------------------------------------------------------------------------------


def read_sums(
    connection: Connection, rule: StockRule, now: int, queues: Iterable[str]
) -> dict[str, QueueSums]:
    """What counts at *now*, in epoch seconds, of each of the *queues*.

    As ``get_sum_accounting_window`` and ``get_sum_accounting_for_param`` of OAR 2.5.9 and as
    ``oar.kao.karma`` of OAR 3, which sums up over all queues that it schedules together. Raises
    :class:`oar_accounting.errors.OarSchemaError` where OAR's table cannot be read.
    """
    check_columns(connection, accounting)
    together = read_pools(connection) if rule.window_rule == "oar3" else {}
    pools = {queue: tuple(together.get(queue, (queue,))) for queue in queues}
    read = {pool: _read_pool(connection, rule, now, pool) for pool in set(pools.values())}
    return {queue: read[pool] for queue, pool in pools.items()}


def read_pools(connection: Connection) -> dict[str, tuple[str, ...]]:
    """The queues that OAR 3 schedules together with each active queue: those of its priority."""
    table = oar_tables.queues.c
    active = select(table.queue_name, table.priority).where(table.state == "Active")
    pools: defaultdict[int, list[str]] = defaultdict(list)
    for queue, priority in connection.execute(active.order_by(table.queue_name)):
        pools[priority].append(queue)
    return {queue: tuple(pool) for pool in pools.values() for queue in pool}


def counted_queues(connection: Connection) -> list[str]:
    """The queues of which something was ever counted. Raises as `read_sums`."""
    check_columns(connection, accounting)
    return list(connection.execute(select(accounting.c.queue_name).distinct()).scalars())


def _read_pool(connection: Connection, rule: StockRule, now: int, pool: Sequence[str]) -> QueueSums:
    whole = _read(connection, rule, now, pool, None)
    projects = _read(connection, rule, now, pool, "accounting_project")
    users = _read(connection, rule, now, pool, "accounting_user")
    return QueueSums(
        used=whole["USED"].get("", 1),
        asked=whole["ASKED"].get("", 1),
        projects_used=projects["USED"],
        users_used=users["USED"],
        users_asked=users["ASKED"],
    )


def _read(
    connection: Connection, rule: StockRule, now: int, pool: Sequence[str], by: str | None
) -> Sums:
    """The sums of each kind; *by* a column, or of everything under the empty name."""
    columns = accounting.c
    first, bounded, before = bounds(rule, now, of_users=by == "accounting_user")
    name: ColumnElement[str] = literal("") if by is None else columns[by]
    keys = [columns.consumption_type] if by is None else [name, columns.consumption_type]
    query: Select[Any] = (
        select(name, columns.consumption_type, func.sum(columns.consumption))
        .where(
            columns.queue_name.in_(pool),
            columns.window_start >= first,
            columns[bounded] < before,
        )
        .group_by(*keys)
    )
    found: Sums = defaultdict(dict)
    for named, kind, amount in connection.execute(query):
        found[kind][named] = int(amount)
    return found

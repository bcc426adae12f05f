"""Metrics: how they are declared and stored, and how the held ones come from resources.

A held metric is one of three forms over the rows of OAR's ``resources`` that a job was assigned,
restricted to one resource type (``*`` for all):

* *count*: how many rows;
* *distinct P*: how many different values of property P (NULL and the empty text are none);
* *sum P*, or *sum P per Q*: the sum of the numeric property P over the rows, or over the
  different values of Q among them; the P of a value of Q is the largest that any of its rows has.

A composed metric is a formula of other metrics; `oar_accounting.metrics.composed` computes it.

A job over several values of the dimension property (clusters) has a part for each, and every
form is evaluated per part. A rate is ``sum × scale``, rounded once per part, half to even.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from hashlib import sha256
from typing import Any

import numpy as np

from oar_accounting.core import exact
from oar_accounting.core.columns import (
    LARGEST,
    Columns,
    Ints,
    exact_sums,
    group_starts,
    ints,
    numbered,
)
from oar_accounting.core.exact import Exact
from oar_accounting.errors import AmountOverflow, SettingsError

ANY_TYPE = "*"
FORMS = ("count", "distinct", "sum", "formula")
METRIC_KEYS = ("count", "distinct", "formula", "per", "scale", "sum", "type", "unit")
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
#: Digits before the point that a number may have beside others with decimals.
MOST_DIGITS_BESIDE = 15
#: Places, before or behind the point, of a number that is taken for one.
MOST_PLACES = 40
UNIT = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,29})[·.*]s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What is counted, in which unit, and how it comes from the resources a job holds."""

    name: str
    unit: str  #: amounts are whole numbers of this divided by ``scale``: ``core·s``
    form: str  #: ``count``, ``distinct``, ``sum`` or ``formula``
    of: str = ""  #: the property counted or summed; empty for ``count``
    per: str = ""  #: sum: once per different value of this property; empty: per row
    type: str = "default"  #: resource type; ``*`` for all
    scale: int = 1
    formula: str = ""  #: of other metrics, which are among the ``parts``
    parts: tuple["Metric", ...] = ()  #: formula: every metric that it comes from, sorted by name

    @property
    def held_unit(self) -> str:
        """The unit of what is held each second: ``core``."""
        return self.unit.removesuffix("·s")

    @property
    def properties(self) -> tuple[str, ...]:
        """The properties of OAR's resources that are read for it."""
        named = [(each.of, each.per) for each in (self, *self.parts)]
        return tuple(dict.fromkeys(p for pair in named for p in pair if p))

    @property
    def definition(self) -> str:
        """All that makes its amounts, as text that is stored with them."""
        return json.dumps(self._values(), ensure_ascii=False, sort_keys=True)

    def _values(self) -> dict[str, Any]:
        common = {"form": self.form, "scale": self.scale, "unit": self.unit}
        if self.form != "formula":
            return {**common, "of": self.of, "per": self.per, "type": self.type}
        parts = {each.name: each._values() for each in self.parts}
        return {**common, "formula": self.formula, "parts": parts}

    @property
    def digest(self) -> str:
        """SHA-256 of the definition: equal digests give equal amounts."""
        return sha256(self.definition.encode()).hexdigest()

    @classmethod
    def from_definition(cls, name: str, definition: str) -> "Metric":
        """The metric whose `definition` was stored under *name*."""
        return cls._of_values(name, json.loads(definition))

    @classmethod
    def _of_values(cls, name: str, values: dict[str, Any]) -> "Metric":
        parts = values.pop("parts", {}).items()
        return cls(name=name, parts=tuple(cls._of_values(*part) for part in parts), **values)


RESOURCE = Metric(name="resource", unit="resource·s", form="count")
NODE = Metric(name="node", unit="node·s", form="distinct", of="network_address")
BUILT_IN = (RESOURCE, NODE)


def parse_metric(name: str, table: Mapping[str, Any], file: str) -> Metric:
    """The metric that a ``[metrics.NAME]`` table of the settings *file* declares.

    A formula is left as it stands there; `oar_accounting.metrics.composed.compose` reads it.
    Raises :class:`SettingsError` naming file, key and what was expected.
    """
    where = f"{file}: [metrics.{name}]"
    if not NAME.fullmatch(name):
        raise SettingsError(
            f"{where}: a name is lower-case letters, digits and _, at most 63, not {name!r}"
        )
    if name in {metric.name for metric in BUILT_IN}:
        raise SettingsError(f"{where}: {name!r} is built in and cannot be declared again")
    for key in table:
        if key not in METRIC_KEYS:
            raise SettingsError(
                f"{where}: unknown key {key!r}; known keys are {', '.join(METRIC_KEYS)}"
            )
    forms = [key for key in FORMS if key in table]
    if len(forms) != 1:
        raise SettingsError(
            f"{where}: exactly one of count = true, distinct = PROPERTY, sum = PROPERTY, "
            f"formula = TEXT is needed, found {', '.join(forms) or 'none'}"
        )
    form = forms[0]
    if form == "count" and table["count"] is not True:
        raise SettingsError(f"{where}: count must be true, not {table['count']!r}")
    if "per" in table and form != "sum":
        raise SettingsError(f"{where}: per goes with sum, not with {form}")
    if "type" in table and form == "formula":
        raise SettingsError(f"{where}: type goes with count, distinct and sum, not with formula")
    return Metric(
        name=name,
        unit=_unit(table, where),
        form=form,
        of=_text(table, form, where) if form in ("distinct", "sum") else "",
        per=_text(table, "per", where) if "per" in table else "",
        type=_text(table, "type", where) if "type" in table else "default",
        scale=_scale(table, where),
        formula=_text(table, "formula", where) if form == "formula" else "",
    )


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    value = table[key]
    if not isinstance(value, str) or not value.strip():
        raise SettingsError(f"{where}: {key} must be a text, not {value!r}")
    return value


def _unit(table: Mapping[str, Any], where: str) -> str:
    found = UNIT.fullmatch(table["unit"]) if isinstance(table.get("unit"), str) else None
    if not found:
        raise SettingsError(
            f'{where}: unit must be what is held times seconds, like "core·s" or "MiB.s", '
            f"not {table.get('unit')!r}"
        )
    return f"{found[1]}·s"


def _scale(table: Mapping[str, Any], where: str) -> int:
    scale = table.get("scale", 1)
    if isinstance(scale, bool) or not isinstance(scale, int) or not 1 <= scale <= 10**9:
        raise SettingsError(f"{where}: scale must be a whole number from 1 to 10^9, not {scale!r}")
    return scale


@dataclass(frozen=True, slots=True)
class Resources:
    """OAR's resources: row *i* has the id ``resource_id[i]``; ids are sorted."""

    resource_id: Ints
    type: list[str]
    properties: Mapping[str, list[Any]]
    #: Where rows are of different times: what a metric that is summed once per value of a property
    #: takes for the row's value of it, the largest of its time, times what makes all of them whole.
    largest: Mapping[Metric, Exact] = field(default_factory=dict)
    _codes: dict[str, Ints] = field(default_factory=dict)
    _numbers: dict[tuple[str, str, int], "_Numbers"] = field(default_factory=dict)

    def codes(self, name: str) -> Ints:
        """A whole number per row for the value of the property; -1 where it has none."""
        if name not in self._codes:
            seen: dict[str, int] = {}
            texts = ("" if value is None else str(value) for value in self.properties[name])
            self._codes[name] = ints([seen.setdefault(t, len(seen)) if t else -1 for t in texts])
        return self._codes[name]

    def values_of(self, name: str) -> tuple[Ints, list[str]]:
        """Per row the number of its value of the property, and the values by number.

        Number 0 is no value, the empty text; without a property every row has it.
        """
        if not name:
            return np.zeros(len(self.resource_id), np.int64), [""]
        codes = self.codes(name)
        values = dict(zip(codes.tolist(), map(str, self.properties[name]), strict=True))
        return codes + 1, ["", *(values[code] for code in range(int(codes.max(initial=-1)) + 1))]

    def taken(self, rows: Ints) -> "Resources":
        """The chosen rows, by number."""
        chosen = rows.tolist()
        return Resources(
            resource_id=self.resource_id[rows],
            type=[self.type[row] for row in chosen],
            properties={
                name: [values[row] for row in chosen] for name, values in self.properties.items()
            },
            largest={
                metric: replace(values, numbers=values.numbers[rows])
                for metric, values in self.largest.items()
            },
        )

    def of_type(self, wanted: str) -> Ints:
        """1 for the rows of this resource type, else 0."""
        return ints([wanted in (ANY_TYPE, found) for found in self.type])


@dataclass(frozen=True, slots=True)
class Held(Columns):
    """What was held: part of a job (any whole numbers) and row of the `Resources`, as pairs."""

    part: Ints
    row: Ints


def held_amounts(metric: Metric, held: Held, resources: Resources, parts: int) -> Exact:
    """What each of the *parts*, numbered from 0, holds of a held metric, in its unit.

    A property that must be numeric and is not counts as nothing: `bad_values` tells of it. Raises
    :class:`AmountOverflow` where a sum does not fit in 63 bits.
    """
    held = held.take(resources.of_type(metric.type)[held.row] != 0)
    if metric.form == "count":
        return Exact(_per_part(held.part, np.ones(len(held), np.int64), parts))
    if metric.form == "distinct":
        part, _ = _different(held, resources.codes(metric.of), parts)
        return Exact(_per_part(part, np.ones(len(part), np.int64), parts))
    if metric.per:
        return _of_different(held, largest_values(metric, resources), resources, metric, parts)
    own = own_values(metric, resources)
    return Exact(_per_part(held.part, own.numbers[held.row], parts), own.step)


def summed_per(metric: Metric) -> Metric:
    """A sum per value of a property, as the key of `Resources.largest`."""
    return replace(metric, name="", unit="")


def largest_values(metric: Metric, resources: Resources) -> Exact:
    """Per row the largest value of the summed property that a row has of the same value of `per`.

    Raises as `held_amounts`.
    """
    known = resources.largest.get(summed_per(metric))
    if known is not None:
        return known
    own = own_values(metric, resources)
    codes = resources.codes(metric.per)
    largest = np.append(_largest(own.numbers, codes), 0)
    return Exact(largest[codes], own.step)


def own_values(metric: Metric, resources: Resources) -> Exact:
    """Per row the value of the summed property, 0 where the metric does not count the row.

    Raises as `held_amounts`.
    """
    found = _numbers(metric, resources)
    return Exact(found.whole, Fraction(1, found.unit))


def _of_different(
    held: Held, largest: Exact, resources: Resources, metric: Metric, parts: int
) -> Exact:
    """The sum over the different values of `per` that each part holds."""
    codes = resources.codes(metric.per)
    width = int(codes.max(initial=0)) + 1
    held = held.take(codes[held.row] >= 0)
    packed, number = numbered(held.part * width + codes[held.row], parts * width)
    amounts = np.zeros(len(packed), np.int64)
    # At one time all rows of a value have the same largest.
    amounts[number] = largest.numbers[held.row]
    return Exact(_per_part(packed // width, amounts, parts), largest.step)


def rates_of(metric: Metric, amounts: Exact) -> Ints:
    """The amounts per second in unit / scale, rounded once, half to even.

    Raises :class:`AmountOverflow` where a rate does not fit in 63 bits.
    """
    rates = exact.rounded(exact.times(amounts, Fraction(metric.scale)))
    if len(rates) and int(rates.max()) > LARGEST:
        raise AmountOverflow(
            f"metric {metric.name}: what a job holds each second does not fit in 63 bits; declare "
            "it in a larger unit"
        )
    return ints(rates)


def _per_part(part: Ints, amounts: Ints, parts: int) -> Ints:
    result = np.zeros(parts, np.int64)
    if len(part):
        if np.any(part[1:] < part[:-1]):
            order = np.argsort(part, kind="stable")
            part, amounts = part[order], amounts[order]
        starts = group_starts([part])
        result[part[starts]] = exact_sums(amounts, starts)
    return result


def _different(held: Held, codes: Ints, parts: int) -> tuple[Ints, Ints]:
    """Part and code of every different code that a part holds."""
    code = codes[held.row]
    there = code >= 0
    width = int(codes.max(initial=0)) + 1
    packed, _ = numbered(held.part[there] * width + code[there], parts * width)
    return packed // width, packed % width


@dataclass(frozen=True, slots=True)
class _Numbers:
    """A property as whole numbers of a common unit; what cannot be counted is zero."""

    whole: Ints  #: by row of the resources
    unit: int  #: so many are one
    wrong: dict[int, str]  #: the rows that cannot be counted, and why


def bad_values(metric: Metric, resources: Resources) -> dict[int, str]:
    """The rows of the resources with a value that the metric cannot count, and why.

    They count as nothing; the metric may be composed.
    """
    found: dict[int, str] = {}
    for each in (metric, *metric.parts):
        if each.form == "sum":
            found |= _numbers(each, resources).wrong
    return found


def _numbers(metric: Metric, resources: Resources) -> _Numbers:
    """The property's values times a power of ten that makes all of them whole."""
    key = (metric.of, metric.type, metric.scale)
    if key not in resources._numbers:
        used = resources.of_type(metric.type) != 0
        values: dict[int, Decimal] = {}
        wrong: dict[int, str] = {}
        for row, value in enumerate(resources.properties[metric.of]):
            number = _number(value) if used[row] else Decimal(0)
            if number is None:
                wrong[row] = f"property {metric.of!r} is {value!r}, no number from 0 to 2^63"
            elif number * metric.scale > LARGEST:
                wrong[row] = f"property {metric.of!r} is {value!r}, which is too large"
            elif number:
                values[row] = number
        whole, unit = _fitting(values, wrong, metric.of)
        column = np.zeros(len(used), np.int64)
        column[list(whole)] = list(whole.values())
        resources._numbers[key] = _Numbers(column, unit, wrong)
    return resources._numbers[key]


def _fitting(
    values: dict[int, Decimal], wrong: dict[int, str], name: str
) -> tuple[dict[int, int], int]:
    """The values as whole numbers of 63 bits, and how many are one.

    Where they do not fit together, huge ones are wrong, and else those with the most decimals.
    """
    while True:
        decimals = {row: max(-int(v.as_tuple().exponent), 0) for row, v in values.items()}
        most = max(decimals.values(), default=0)
        whole = {row: int(value.scaleb(most)) for row, value in values.items()}
        if max(whole.values(), default=0) <= LARGEST:
            return whole, 10**most
        huge = [row for row, value in values.items() if value.adjusted() > MOST_DIGITS_BESIDE]
        for row in huge or [row for row, places in decimals.items() if places == most]:
            said = "is too large" if huge else "has too many decimals"
            wrong[row] = f"property {name!r} is {values.pop(row)}, which {said} beside others"


def _number(value: Any) -> Decimal | None:
    """A property as a number; None where it is no number from 0."""
    if value is None or value == "":
        return Decimal(0)
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    if not number.is_finite() or number < 0:
        return None
    # Such numbers are nobody's property, and powers of ten that large take memory.
    return number.normalize() if abs(number.adjusted()) < MOST_PLACES else None


def _largest(numbers: Ints, codes: Ints) -> Ints:
    """Per code the largest number that a row of this code has."""
    largest = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    np.maximum.at(largest, codes[codes >= 0], numbers[codes >= 0])
    return largest

"""Composed metrics: formulas of other metrics, from the settings to amounts per second.

A composed metric bears all that it comes from with it, in its ``parts``, so that it is computed
as it was recorded whatever the settings say since. A part's own scale plays no role: parts are
taken exactly, before they are rounded, and never below zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter

import numpy as np

from oar_accounting.core import exact
from oar_accounting.core.columns import Bools, Ints
from oar_accounting.core.exact import Exact
from oar_accounting.errors import AmountOverflow
from oar_accounting.metrics.formulas.check import Scope
from oar_accounting.metrics.formulas.evaluate import Facts, evaluate
from oar_accounting.metrics.formulas.parser import (
    LONGEST_FORMULA,
    LONGEST_WRITTEN,
    FormulaText,
    read,
)
from oar_accounting.metrics.formulas.printer import written
from oar_accounting.metrics.formulas.tree import Among, Expression, MetricUse, Number, parts_of
from oar_accounting.metrics.formulas.units import Unit, factor, unit_of
from oar_accounting.metrics.metric import BUILT_IN, Held, Metric, Resources, held_amounts, rates_of

#: Numbers, metrics and facts of a formula, and of the formulas of those that it uses.
MOST_TERMS = 2_000


@dataclass(frozen=True, slots=True)
class _Read:
    """A formula as it was read, and where it came from."""

    source: FormulaText
    tree: Expression

    @property
    def uses(self) -> dict[str, int]:
        """The metrics that it names, and where it does so first."""
        places: dict[str, int] = {}
        for each in parts_of(self.tree):
            if isinstance(each, MetricUse):
                places.setdefault(each.metric, each.at)
        return places


def _read(metric: Metric, where: str, longest: int = LONGEST_FORMULA) -> _Read:
    source = FormulaText(metric.formula, where)
    return _Read(source, read(source, longest))


# -- from the settings ------------------------------------------------------------------------


def compose(declared: Sequence[Metric], file: str) -> tuple[Metric, ...]:
    """The metrics that the settings *file* declares, each formula with all that it comes from.

    Raises :class:`SettingsError` with line and column of what is wrong in a formula.
    """
    known = {metric.name: metric for metric in (*BUILT_IN, *declared)}
    formulas = {
        name: _read(metric, f"{file}: [metrics.{name}]")
        for name, metric in known.items()
        if metric.form == "formula"
    }
    scope = Scope(_units(known.values()), {metric.held_unit for metric in known.values()})
    for name, formula in formulas.items():
        scope.check(formula.source, formula.tree, unit_of(known[name].held_unit))
    uses = {name: formula.uses for name, formula in formulas.items()}
    terms: dict[str, int] = {}
    parts: dict[str, frozenset[str]] = {}
    for name in _in_order(uses, formulas):
        terms[name] = _terms(formulas[name], terms)
        parts[name] = frozenset(uses[name]).union(*(parts.get(use, ()) for use in uses[name]))
    whole = {
        name: replace(metric, formula=written(formulas[name].tree)) if name in formulas else metric
        for name, metric in known.items()
    }
    unscaled = {name: replace(metric, scale=1) for name, metric in whole.items()}
    return tuple(
        replace(
            whole[metric.name],
            parts=tuple(unscaled[name] for name in sorted(parts.get(metric.name, ()))),
        )
        for metric in declared
    )


def _units(metrics: Iterable[Metric]) -> dict[str, Unit]:
    return {metric.name: unit_of(metric.held_unit) for metric in metrics}


def _in_order(uses: Mapping[str, Mapping[str, int]], formulas: Mapping[str, _Read]) -> list[str]:
    """The composed metrics, each behind those that it uses."""
    graph = {name: [use for use in used if use in uses] for name, used in uses.items()}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        first, second = circle[:2]
        shown = circle if len(circle) <= 8 else [*circle[:7], "...", first]
        raise formulas[first].source.wrong(
            uses[first][second],
            f"metrics are composed of each other in a circle: {' -> '.join(shown)}",
        ) from None


def _terms(formula: _Read, terms: Mapping[str, int]) -> int:
    """How many terms it has with the formulas that it uses written out."""
    count = 0
    for each in parts_of(formula.tree):
        count += isinstance(each, (Number, MetricUse, Among))
        count += terms.get(each.metric, 0) if isinstance(each, MetricUse) else 0
        if count > MOST_TERMS:
            raise formula.source.wrong(
                each.at,
                f"with the formulas that it uses written out it has more than {MOST_TERMS} terms",
            )
    return count


# -- to amounts per second --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Recipe:
    """A composed metric, ready to be computed."""

    steps: tuple[tuple[Metric, Expression], ...]  #: each behind those that it uses, itself last
    facts: frozenset[str]  #: that its conditions ask for


@lru_cache(maxsize=256)
def _recipe(metric: Metric) -> _Recipe:
    """Raises :class:`SettingsError` where what was stored is no formula."""
    where = f"the recorded metric {metric.name}"
    metrics = {each.name: each for each in (*metric.parts, metric)}
    found = {
        name: _read(each, where, LONGEST_WRITTEN)
        for name, each in metrics.items()
        if each.form == "formula"
    }
    scope = Scope(_units(metrics.values()))
    for name, formula in found.items():
        scope.check(formula.source, formula.tree, unit_of(metrics[name].held_unit))
    order = _in_order({name: formula.uses for name, formula in found.items()}, found)
    nodes = [node for formula in found.values() for node in parts_of(formula.tree)]
    return _Recipe(
        tuple((metrics[name], found[name].tree) for name in order),
        frozenset(node.fact for node in nodes if isinstance(node, Among)),
    )


def facts_of(metrics: Iterable[Metric]) -> set[str]:
    """Which facts of jobs the metrics depend on."""
    composed = [metric for metric in metrics if metric.form == "formula"]
    return {fact for metric in composed for fact in _recipe(metric).facts}


@dataclass(frozen=True, slots=True)
class HeldAmounts:
    """What parts of jobs hold each second, in any metric; what is held is counted once."""

    held: Held
    resources: Resources
    parts: int
    facts: Facts
    #: Name of a composed metric, and the parts for which its formula gave less than zero.
    below_zero: list[tuple[str, Bools]] = field(default_factory=list)
    _held: dict[tuple[str | int, ...], Exact] = field(default_factory=dict)

    def rates(self, metric: Metric) -> Ints:
        """Whole amounts per second, in unit / scale.

        Raises :class:`SettingsError` and :class:`AmountOverflow`.
        """
        return rates_of(metric, self.exact(metric))

    def fitting_rates(self, metric: Metric) -> tuple[Ints, Bools]:
        """The same, and the parts of which it does not fit in 63 bits: these have nothing."""
        try:
            return self.rates(metric), np.zeros(self.parts, np.bool_)
        except AmountOverflow:
            if self.parts == 1:
                return np.zeros(1, np.int64), np.ones(1, np.bool_)
        middle = self.parts // 2
        found = [
            self._some(first, last).fitting_rates(metric)
            for first, last in ((0, middle), (middle, self.parts))
        ]
        rates, beyond = (np.concatenate(each) for each in zip(*found, strict=True))
        return rates, beyond

    def _some(self, first: int, last: int) -> "HeldAmounts":
        """Those of the parts from *first* on and before *last*; what is below zero is lost."""
        there = (self.held.part >= first) & (self.held.part < last)
        held = Held(self.held.part[there] - first, self.held.row[there])
        facts = {
            name: replace(fact, number=fact.number[first:last]) for name, fact in self.facts.items()
        }
        return HeldAmounts(held, self.resources, last - first, facts)

    def exact(self, metric: Metric) -> Exact:
        """The same before it is scaled and rounded, in the metric's unit."""
        if metric.form != "formula":
            return self._held_of(metric)
        used = {
            part.name: exact.times(self._held_of(part), factor(unit_of(part.held_unit)))
            for part in metric.parts
            if part.form != "formula"
        }
        for step, formula in _recipe(metric).steps:
            used[step.name] = self._from_zero(step.name, evaluate(formula, used, self.facts))
        return exact.times(used[metric.name], 1 / factor(unit_of(metric.held_unit)))

    def _held_of(self, metric: Metric) -> Exact:
        # What is too large to be counted depends on the scale.
        key = (metric.form, metric.of, metric.per, metric.type, metric.scale)
        if key not in self._held:
            self._held[key] = held_amounts(metric, self.held, self.resources, self.parts)
        return self._held[key]

    def _from_zero(self, name: str, found: Exact) -> Exact:
        numbers = np.broadcast_to(found.numbers, self.parts)
        below = np.asarray(numbers < 0, np.bool_)
        if np.any(below):
            self.below_zero.append((name, below))
        return Exact(np.where(below, 0, numbers), found.step)

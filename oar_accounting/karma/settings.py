"""The ``[karma]`` section of the settings, checked. Every mistake names file, key and remedy."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from oar_accounting.core.lengths import DAY, length_of
from oar_accounting.errors import SettingsError
from oar_accounting.karma.policies.describe import length
from oar_accounting.karma.policies.policy import (
    AMOUNTS,
    OPEN_JOBS,
    SCOPES,
    SOURCES,
    WINDOW_RULES,
    Counted,
    Dominant,
    Karma,
    Linear,
    Policy,
    Share,
    Shared,
    Shares,
    Stock,
    Term,
)
from oar_accounting.karma.policies.weights import Flat, HalfLife, Steps, Weighting

#: What a policy is made of, beside what all of them have.
POLICY_KEYS = {
    "oar": ("source", "window_rule"),
    "linear": ("terms",),
    "tree": ("levels", "metrics", "shares"),
    "fair_tree": ("levels", "metrics", "shares"),
    "dominant": ("by", "metrics"),
}
WEIGHTING = ("half_life", "steps", "window")
COUNTED = ("amount", "scope", *WEIGHTING)
TERM = ("by", "metric", "targets", "weight", *COUNTED)

#: Longer than anything that anybody has recorded, and far from overflowing.
LONGEST = 10**10
#: Weights and shares beyond this are a mistake, and their sums could overflow.
LARGEST_NUMBER = 1e12


def read_karma(table: Any, file: str, known: Sequence[str]) -> Karma:
    """The karma that the ``[karma]`` table of the settings *file* declares.

    *known*: the names of the metrics. Raises :class:`SettingsError`.
    """
    given = _Table(table, f"{file}: [karma]")
    name = given.one_of("policy", tuple(POLICY_KEYS))
    common = () if name == "oar" else ("open_jobs", *COUNTED)
    given.check_keys(("policy", *common, *POLICY_KEYS[name]))
    if name == "oar":
        source = given.one_of("source", SOURCES, SOURCES[0])
        rule = given.one_of("window_rule", WINDOW_RULES, WINDOW_RULES[0])
        return Karma(policy=Stock(source=source, window_rule=rule), open_jobs="none")
    counted = given.counted(Counted())
    readers: dict[str, Callable[[_Table, Counted, Sequence[str]], Policy]] = {
        "linear": _linear,
        "tree": _tree,
        "fair_tree": _tree,
        "dominant": _dominant,
    }
    return Karma(
        policy=readers[name](given, counted, known),
        open_jobs=given.one_of("open_jobs", OPEN_JOBS, OPEN_JOBS[0]),
    )


def check_lengths(policy: Linear | Shared | Dominant, window: int, file: str) -> None:
    """Raise :class:`SettingsError` where less time counts than the *window* of totals, seconds.

    When within a window something was used is not known: what counts of it would be by chance.
    """
    if isinstance(policy, Linear):
        counted = {f" term {n}": term.counted for n, term in enumerate(policy.terms, 1)}
    else:
        counted = {"": policy.counted}
    for where, each in counted.items():
        for key, seconds in _lengths(each.weighting):
            if seconds < window:
                shorter = next(d for d in range(min(seconds, DAY), 0, -1) if DAY % d == 0)
                raise SettingsError(
                    f"{file}: [karma]{where}: {key} of {length(seconds)} is shorter than the "
                    f"windows of {length(window)} by which usage is kept; make it that long at "
                    f"least, or, where nothing was ever purged, set window = {shorter} outside of "
                    "[karma] and run: oar-accounting rebuild"
                )


def _lengths(weighting: Weighting) -> Iterator[tuple[str, int]]:
    """The keys that say how long something counts, and the seconds that they say."""
    match weighting:
        case HalfLife(seconds=seconds):
            yield "half_life", seconds
        case Steps(period=period):
            yield "steps: period", period
    if not isinstance(weighting, Steps) and weighting.length is not None:
        yield "window", weighting.length


def _linear(given: "_Table", counted: Counted, known: Sequence[str]) -> Linear:
    terms = given.values.get("terms")
    if not isinstance(terms, list) or not terms:
        raise given.wrong("terms", "tables like [[karma.terms]], at least one")
    return Linear(
        terms=tuple(
            _term(_Table(each, f"{given.where} term {number}"), counted, known)
            for number, each in enumerate(terms, 1)
        )
    )


def _term(given: "_Table", counted: Counted, known: Sequence[str]) -> Term:
    given.check_keys(TERM)
    targets = given.table("targets") if "targets" in given.values else _Table({}, "")
    return Term(
        by=given.text("by"),
        metric=given.metric(given.text("metric"), known),
        weight=given.number("weight", 1.0),
        counted=given.counted(counted),
        targets={name: targets.number(name) / 100 for name in targets.values},
    )


def _tree(given: "_Table", counted: Counted, known: Sequence[str]) -> Shared:
    levels = given.names("levels")
    shares = given.table("shares") if "shares" in given.values else _Table({}, "")
    for level in shares.values:
        if level not in levels:
            raise SettingsError(
                f"{given.where}: shares are given for {level!r}, which is none of the levels: "
                f"{', '.join(levels)}"
            )
    return Shared(
        fair=given.values["policy"] == "fair_tree",
        levels=levels,
        metrics=_weights(given, known),
        counted=counted,
        shares={level: _shares(shares.table(level)) for level in shares.values},
    )


def _weights(given: "_Table", known: Sequence[str]) -> Mapping[str, float]:
    if isinstance(given.values.get("metrics"), list):
        return dict.fromkeys((given.metric(each, known) for each in given.names("metrics")), 1.0)
    metrics = given.table("metrics")
    weights = {given.metric(each, known): metrics.amount(each) for each in metrics.values}
    if not any(weights.values()):
        raise given.wrong("metrics", "metrics of which one at least has a weight above 0")
    return weights


def _shares(given: "_Table") -> Shares:
    shares: dict[str, Share | Mapping[str, Share]] = {}
    for name, value in given.values.items():
        if isinstance(value, dict):
            under = given.table(name)
            shares[name] = {above: _share(under, above) for above in under.values}
        else:
            shares[name] = _share(given, name)
    return shares


def _share(given: "_Table", name: str) -> Share:
    return None if given.values[name] == "parent" else given.amount(name)


def _dominant(given: "_Table", counted: Counted, known: Sequence[str]) -> Dominant:
    metrics = tuple(given.metric(each, known) for each in given.names("metrics"))
    return Dominant(by=given.text("by", "user"), metrics=metrics, counted=counted)


class _Table:
    """The checked values of one table."""

    def __init__(self, values: Any, where: str) -> None:
        if not isinstance(values, dict):
            raise SettingsError(f"{where} must be a table, not {values!r}")
        self.values: dict[str, Any] = values
        self.where = where

    def wrong(self, key: str, expected: str) -> SettingsError:
        """An error about the value of a key."""
        if key not in self.values:
            return SettingsError(f"{self.where}: {key} is missing; expected {expected}")
        return SettingsError(f"{self.where}: {key} must be {expected}, not {self.values[key]!r}")

    def check_keys(self, known: Sequence[str]) -> None:
        """Raise :class:`SettingsError` where there are others."""
        for key in self.values:
            if key not in known:
                raise SettingsError(
                    f"{self.where}: unknown key {key!r}; known keys are {', '.join(sorted(known))}"
                )

    def table(self, key: str) -> "_Table":
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.wrong(key, "a table like { name = 10, '*' = 1 }")
        return _Table(value, f"{self.where} {key}")

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if not isinstance(value, str) or not value:
            raise self.wrong(key, "a text")
        return value

    def one_of(self, key: str, known: Sequence[str], default: str | None = None) -> str:
        value = self.values.get(key, default)
        if value not in known:
            raise self.wrong(key, "one of " + ", ".join(map(repr, known)))
        return str(value)

    def names(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key)
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(each, str) and each for each in value)
        ):
            raise self.wrong(key, "a list of names")
        if len(set(value)) < len(value):
            raise self.wrong(key, "a list of different names")
        return tuple(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise self.wrong(key, "a number")
        if abs(value) > LARGEST_NUMBER:
            raise self.wrong(key, f"a number up to {LARGEST_NUMBER:g}")
        return float(value)

    def amount(self, key: str) -> float:
        """A number from 0."""
        value = self.number(key)
        if value < 0:
            raise self.wrong(key, "a number from 0")
        return value

    def metric(self, name: str, known: Sequence[str]) -> str:
        if name not in known:
            raise SettingsError(
                f"{self.where}: unknown metric {name!r}; declared are {', '.join(known)}"
            )
        return name

    def counted(self, default: Counted) -> Counted:
        return Counted(
            amount=self.one_of("amount", AMOUNTS, default.amount),
            scope=self.one_of("scope", SCOPES, default.scope),
            weighting=self._weighting(default.weighting),
        )

    def _weighting(self, default: Weighting) -> Weighting:
        """``half_life``, ``window``, both, or ``steps``."""
        if "steps" in self.values:
            for key in ("half_life", "window"):
                if key in self.values:
                    raise SettingsError(f"{self.where}: {key} and steps exclude each other")
            return self.table("steps").steps()
        window = self.length("window") if "window" in self.values else None
        if "half_life" in self.values:
            return HalfLife(seconds=self.length("half_life"), length=window)
        return default if window is None else Flat(length=window)

    def steps(self) -> Steps:
        """``{ period = "1w", factors = [1, 0.5] }``: the first is of the running period."""
        self.check_keys(("factors", "period"))
        factors = self.values.get("factors")
        if not isinstance(factors, list) or not factors:
            raise self.wrong("factors", "a list of numbers from 0 to 1")
        for factor in factors:
            if (
                isinstance(factor, bool)
                or not isinstance(factor, int | float)
                or not (0 <= factor <= 1)
            ):
                raise self.wrong("factors", "a list of numbers from 0 to 1")
        return Steps(period=self.length("period"), factors=tuple(map(float, factors)))

    def length(self, key: str) -> int:
        """Seconds, from a whole number of them or a text like "7d"."""
        value = length_of(self.values.get(key))
        if value is None or not 1 <= value <= LONGEST:
            raise self.wrong(
                key, 'a length of time like "7d" (s, m, h, d, w) or a whole number of seconds'
            )
        return value
